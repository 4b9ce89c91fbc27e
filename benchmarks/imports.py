"""Import time of the library against that of its foundations, interleaved.

Processor time, because a busy machine delays both by chance. Both have their compiled files, as an
installed package has, whatever the environment says. Subpackages are imported when they are used:
the last rows are what a training and an estimate wait for, and everything.
"""

import os
import statistics
import subprocess
import sys
import tempfile

from benchmarks.reference import table


ROUNDS = 7


def _of_children() -> float:
    """Processor time, in seconds, of the processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    """Print the table."""
    runs = {
        "equinox, diffrax, optax": "import equinox, diffrax, optax",
        "entropix": "import entropix",
        "... with fit and neural_entropy": "import entropix as ex; ex.fit; ex.neural_entropy",
        "... with all names": "from entropix import *",
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with tempfile.TemporaryDirectory() as compiled:
        environment = os.environ | {"PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
        for number in range(ROUNDS + 1):
            for name, code in runs.items():
                start = _of_children()
                subprocess.run([sys.executable, "-c", code], check=True, env=environment)
                if number:  # the first round compiles, and fills the file cache
                    seconds[name].append(_of_children() - start)
    base = seconds["equinox, diffrax, optax"]
    table(
        "Import",
        ["modules", "processor seconds (median)", "ratio"],
        [
            [
                name,
                f"{statistics.median(t):.2f}",
                f"{statistics.median(a / b for a, b in zip(t, base, strict=True)):.2f}",
            ]
            for name, t in seconds.items()
        ],
    )


if __name__ == "__main__":
    main()

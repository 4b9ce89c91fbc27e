"""Import time of the library against that of its foundations, interleaved.

Both have their compiled files, as an installed package has, whatever the environment says.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.reference import table


ROUNDS = 7


def main() -> None:
    """Print the table."""
    runs = {
        "equinox, diffrax, optax": "import equinox, diffrax, optax",
        "entropix": "import entropix",
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with tempfile.TemporaryDirectory() as compiled:
        environment = os.environ | {"PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
        for number in range(ROUNDS + 1):
            for name, code in runs.items():
                start = time.perf_counter()
                subprocess.run([sys.executable, "-c", code], check=True, env=environment)
                if number:  # the first round compiles, and fills the file cache
                    seconds[name].append(time.perf_counter() - start)
    base = seconds["equinox, diffrax, optax"]
    table(
        "Import",
        ["modules", "seconds (median)", "ratio"],
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

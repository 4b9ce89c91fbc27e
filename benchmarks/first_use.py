"""`entropix measure digits` without compiled programs, with an empty cache of them, and again.

Processor time, because a busy machine delays all by chance, and wall-clock time.
"""

import os
import subprocess
import sys
import tempfile
import time

from benchmarks.reference import table


def main() -> None:
    """Print the table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"XDG_CACHE_HOME": folder}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        words = [sys.executable, "-m", "entropix.cli", "measure", "digits", "--quiet"]
        runs = (("--no-cache", ["--no-cache"]), ("first run", []), ("second run", []))
        for name, more in runs:
            before, begin = os.times(), time.perf_counter()
            out = ["--out", os.path.join(folder, "out"), "--overwrite"]
            subprocess.run([*words, *out, *more], check=True, env=environment)
            after = os.times()
            processor = after.children_user - before.children_user
            processor += after.children_system - before.children_system
            rows.append([name, f"{processor:.1f}", f"{time.perf_counter() - begin:.1f}"])
    table("entropix measure digits", ["", "processor seconds", "seconds"], rows)


if __name__ == "__main__":
    main()

"""Calls cases of tests/test_recompilation.py and prints what JAX's persistent cache did, as JSON.

Usage: python tests/cached_programs.py CASE ...
"""

import json
import pathlib
import sys
import tempfile

import conftest  # noqa: F401  (checked functions, as in the first process: programs name them)
import jax
from test_recompilation import CASES, call


def main(names: list[str]) -> None:
    counts = {"cache_hits": 0, "cache_misses": 0}
    missed: list[str] = []

    @jax.monitoring.register_event_listener
    def listen(event: str, **_: str | int) -> None:
        name = event.rpartition("/")[-1]
        if name in counts:
            counts[name] += 1

    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            before = counts["cache_misses"]
            call(name, 1, pathlib.Path(folder))
            if counts["cache_misses"] > before:
                missed.append(name)
    print(json.dumps({**counts, "missed": missed}))


if __name__ == "__main__":
    main(sys.argv[1:] or list(CASES))

"""Samples of the 40 tasks of benchmark-mi (Czyz et al., 2306.11078), and its own estimators.

The package pins versions of JAX and NumPy that entropix does not run with. Run this file in an
environment of its own, which needs nothing of entropix:

    python -m venv mi && mi/bin/python -m pip install benchmark-mi "jax==0.4.33" "jaxlib==0.4.33"
    mi/bin/python benchmarks/benchmark_mi.py tasks --estimators mine infonce

It writes one file a task, with x, y, the true value, and the value and seconds of each estimator;
`python -m benchmarks.information --tasks tasks` reads them.
"""

import argparse
import time
from pathlib import Path

import numpy as np


def main() -> None:
    """Write the samples."""
    from bmi import estimators
    from bmi.benchmark import BENCHMARK_TASKS

    known = {
        "mine": estimators.MINEEstimator,
        "infonce": estimators.InfoNCEEstimator,
        "ksg": estimators.KSGEnsembleFirstEstimator,
        "cca": estimators.CCAMutualInformationEstimator,
    }
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--estimators", nargs="*", choices=list(known), default=[])
    parser.add_argument(
        "--only", nargs="*", default=[""], help="tasks whose name holds one of these"
    )
    args = parser.parse_args()
    args.folder.mkdir(exist_ok=True)
    for name, task in BENCHMARK_TASKS.items():
        if not any(part in name for part in args.only):
            continue
        x, y = (np.asarray(v, float) for v in task.sample(args.samples, seed=args.seed))
        found = {"x": x, "y": y, "truth": float(task.mutual_information)}
        for which in args.estimators:
            start = time.process_time()
            found[which] = float(known[which]().estimate(x, y))
            found[f"{which}_seconds"] = time.process_time() - start
        np.savez(args.folder / f"{name}.npz", **found)
        shown = {k: round(v, 4) for k, v in found.items() if isinstance(v, float)}
        print(name, shown, flush=True)


if __name__ == "__main__":
    main()

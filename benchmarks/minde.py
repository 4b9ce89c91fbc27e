"""MINDE (the package diffusion-mi) on the tasks that `benchmark_mi.py` has written.

It needs PyTorch, and nothing of entropix: run this file in an environment of its own,

    python -m venv minde && minde/bin/python -m pip install diffusion-mi
    minde/bin/python benchmarks/minde.py tasks
"""

import argparse
import time
from pathlib import Path

import numpy as np


def main() -> None:
    """Print the value and the seconds of processor time of each task."""
    import torch
    from estimators.neural.MINDE import MINDEEstimator

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=100)
    args = parser.parse_args()
    for file in sorted(args.folder.glob("*.npz")):
        task = np.load(file)
        torch.manual_seed(0)
        start = time.process_time()
        # The largest number of steps is not passed on by the package: only epochs limit it.
        estimator = MINDEEstimator(
            learning_rate=1e-3,
            batch_size=256,
            max_epochs=args.epochs,
            mi_estimation_interval=10**6,
            type="c",
            test_num=100,
        )
        estimator.fit(task["x"], task["y"])
        value, seconds = (
            float(estimator.estimate(task["x"], task["y"])),
            time.process_time() - start,
        )
        print(
            f"{file.stem}: {value:.4f} of {float(task['truth']):.4f}, {seconds:.0f} s", flush=True
        )


if __name__ == "__main__":
    main()

"""Neural entropy of networks trained on different numbers of handwritten digits.

The storage experiment of the Neural Entropy paper (arXiv 2409.03817) at small size: S_NN on
held-out digits against the logarithm of the number N of training samples. The distance of generated
digits to single training samples (arXiv 2310.02664) is compared with that of held-out digits.
Training stops at the smallest held-out loss: with a fixed number of steps, networks that have
memorised few digits would have the largest fields at all others.

    python examples/storage_digits.py --out storage_digits.png
"""

import argparse
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from entropix.studies import DataOptions, OutputOptions
from entropix.studies.storage import StorageEstimation, StorageOptions, StorageTraining, storage


def main(
    out: Path,
    sizes: tuple[int, ...] = (50, 150, 500, 1500),
    steps: int = 1500,
    patience: int = 300,
    seeds: int = 3,
    samples: int = 300,
    widths: tuple[int, ...] = (256, 256),
) -> tuple[float, float]:
    """Run and plot; returns the slope of S_NN in log N, and its standard error."""
    with tempfile.TemporaryDirectory() as folder:
        record = storage(
            "digits",
            StorageOptions(
                data=DataOptions(held_out=0.15),
                training=StorageTraining(
                    sizes, (steps,), patience=patience, seeds=seeds, widths=widths
                ),
                estimation=StorageEstimation(8192, samples, sampling_steps=50),
                output=OutputOptions(out=folder, plots=False),
            ),
        ).isel(steps=0)
    slope, error = float(record["log_fit_slope"]), float(record["log_fit_slope_stderr"])

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    entropy = record["neural_entropy"]
    left.plot(sizes, entropy.mean("seed"), "o-", label="mean and range of seeds")
    left.fill_between(sizes, entropy.min("seed"), entropy.max("seed"), alpha=0.25)
    fitted = float(record["log_fit_intercept"]) + slope * np.log(sizes)
    left.plot(sizes, fitted, "k:", label=rf"$a + b\,\log N$, $b = {slope:.2f} \pm {error:.2f}$")
    left.set(ylabel="$S_{NN}$ on held-out digits (nats)")
    ratio = record["nearest_ratio"]
    right.plot(sizes, ratio.mean("seed"), "o-", label="generated digits")
    right.fill_between(sizes, ratio.min("seed"), ratio.max("seed"), alpha=0.25)
    right.plot(sizes, record["nearest_ratio_null"].mean("seed"), "k--", label="held-out digits")
    right.set(ylabel="distance to nearest / second nearest")
    for axes in (left, right):
        axes.set(xlabel="training samples $N$", xscale="log")
        axes.set_xticks(sizes, [str(n) for n in sizes])
        axes.minorticks_off()
        axes.legend()
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return slope, error


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("storage_digits.png"))
    main(parser.parse_args().out)

"""Neural entropy against training time for a known density, and its bound.

The transport experiment of the Neural Entropy paper (arXiv 2409.03817) at small size: S_NN rises to
the exact S_tot during training, and every network obeys |sqrt(S_NN) - sqrt(S_tot)| <= sqrt(L),
where L is the path KL to the exact field. `entropix transport` runs the full experiment.

    python examples/transport_study.py --out transport_study.png
"""

import argparse
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from entropix.studies import OutputOptions
from entropix.studies.transport import (
    MixtureOptions,
    TransportEstimation,
    TransportOptions,
    TransportTraining,
    transport,
)


def main(
    out: Path,
    epochs: tuple[int, ...] = (1, 2, 4, 8),
    samples: int = 4096,
    evaluations: int = 16_384,
    widths: tuple[int, ...] = (256, 128),
) -> tuple[float, float]:
    """Run and plot; returns the smallest gap in standard errors, and the last S_NN / S_tot."""
    with tempfile.TemporaryDirectory() as folder:
        record = transport(
            TransportOptions(
                MixtureOptions(dimensions=(3,), num_samples=samples),
                TransportTraining(("vpx",), epochs, widths=widths, learning_rate=3e-3),
                TransportEstimation(evaluations),
                OutputOptions(out=folder, plots=False),
            )
        )
    cell = record.isel(dimension=0, process=0)
    stored, total, kl = (cell[name] for name in ("neural_entropy", "total_entropy", "path_kl"))

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.plot(cell["epochs"], stored.mean("seed"), "o-", label="network, $S_{NN}$")
    left.fill_between(
        cell["epochs"], stored.min("seed"), stored.max("seed"), alpha=0.25, label="range of seeds"
    )
    left.plot(cell["epochs"], total.mean("seed"), "k--", label="exact, $S_{tot}$")
    left.set(xlabel="epochs of training", ylabel="entropy (nats)", xscale="log")
    left.set_xticks(epochs, [str(n) for n in epochs])
    left.minorticks_off()
    left.legend()

    distance = np.abs(np.sqrt(stored) - np.sqrt(total))
    for i, count in enumerate(epochs):
        right.plot(np.sqrt(kl[i]), distance[i], "o", label=f"{count}")
    line = np.array([0.0, 1.05 * float(np.sqrt(kl.max()))])
    right.fill_between(line, line, color="0.9", lw=0, zorder=0)
    right.plot(line, line, "k--", lw=1)
    right.set(xlabel=r"$\sqrt{L}$ (nats$^{1/2}$)")
    right.set(ylabel=r"$|\sqrt{S_{NN}} - \sqrt{S_{tot}}|$ (nats$^{1/2}$)")
    right.legend(title="epochs")
    figure.savefig(out, dpi=150)
    plt.close(figure)
    least = float((cell["gap"] / cell["gap_stderr"]).min())
    return least, float((stored / total)[-1].mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("transport_study.png"))
    main(parser.parse_args().out)

"""The dimension of data, estimated from the divergence of their entropy.

Data on a d-dimensional subspace of R^D have no finite total entropy production: with a cut-off at
noise Sigma it grows like (D - d)(-ln Sigma). The slope is the number of missing dimensions, for the
exact process and for a network trained on samples (Neural Entropy, arXiv 2409.03817; scores on
subspaces, arXiv 2302.07194).

    python examples/subspace_dimension.py --out subspace_dimension.png
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import entropix as ex


def closed_form(process, spread: float, dim: int, ambient: int, cutoff: np.ndarray) -> np.ndarray:
    """S_tot with a cut-off, for N(0, spread^2) in `dim` directions and zero in the others."""

    def divergence(variance):
        return (variance - 1 - np.log(variance)) / 2

    def left(variance, noise):  # KL to the equilibrium N(0, 1) of one direction
        return divergence((1 - noise**2) * variance + noise**2)

    end = float(process.std(process.t1))
    inside, outside = (left(v, cutoff) - left(v, end) for v in (spread**2, 0.0))
    return dim * inside + (ambient - dim) * outside


def main(out: Path, dims=(1, 2, 4, 6), steps: int = 3000, samples: int = 8192) -> dict:
    """Train one network for each d; returns d as estimated by the network, and exactly."""
    ambient = 8
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    cutoffs = np.geomspace(0.02, 0.5, 7)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    result = {}
    for number, dim in enumerate(dims):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), dim), 5)
        basis, _ = jnp.linalg.qr(jax.random.normal(keys[0], (ambient, dim)))
        data = jax.random.normal(keys[1], (samples, dim)) @ basis.T / 2
        scaling = ex.GaussianScaling.from_data(data, process)
        network = ex.FourierMLP(ambient, widths=(256, 256), key=keys[2])
        model = ex.EntropyMatching(network, process, scaling)
        model = ex.fit(model, data, key=keys[3], steps=steps, batch_size=128).model

        found = [ex.neural_entropy(model, data, key=keys[4], cutoff=c) for c in cutoffs]
        exact = closed_form(process, 0.5, dim, ambient, cutoffs)
        # The slope at a noise far below the size of the data, but at which the network is accurate.
        at = ex.neural_entropy(model, data, key=keys[4], cutoff=0.05)
        tangent = 0.05 * np.array([0.99, 1.01])
        values = closed_form(process, 0.5, dim, ambient, tangent)
        slope = (values[0] - values[1]) / np.log(tangent[1] / tangent[0])
        result[dim] = (ambient - float(at.slope), ambient - slope)
        print(
            f"d = {dim}: {result[dim][0]:.2f} by the network, {result[dim][1]:.2f} exactly, at "
            f"noise 0.05;  S_NN {found[0]}, exactly {exact[0]:.2f}"
        )

        colour = f"C{number}"
        left.plot(-np.log(cutoffs), exact, colour, lw=1, label=f"$d = {dim}$")
        values, errors = zip(*((float(e), 2 * float(e.stderr)) for e in found), strict=True)
        left.errorbar(-np.log(cutoffs), values, errors, fmt=".", color=colour)
        slopes = [ambient - float(e.slope) for e in found]
        right.plot(-np.log(cutoffs), slopes, ".-", color=colour, lw=0.8)
        right.axhline(dim, color=colour, ls=":", lw=0.8)
    left.set(xlabel=r"$-\ln\Sigma$ at the cut-off", ylabel="entropy from the cut-off on (nats)")
    left.plot([], [], "k.", label="network")
    left.legend(title="lines: exact", fontsize="small")
    right.set(xlabel=r"$-\ln\Sigma$ at the cut-off", ylabel="$D$ - slope: dimension of the data")
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("subspace_dimension.png"))
    main(parser.parse_args().out)

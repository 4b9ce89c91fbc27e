"""Many seeds in one program: the scatter between networks, and the meaning of standard errors.

`fit_ensemble` trains one network for each seed in one compiled program, and `fits.map` measures
all of them. The standard error of an entropy accounts for the data and the Monte Carlo error. It
does not include the differences between trained networks, which only several seeds show.

    python examples/multi_seed.py --out multi_seed.png
"""

import argparse
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import entropix as ex
from entropix import datasets


def main(
    out: Path, seeds: int = 6, steps: tuple = (100, 300, 1000, 3000), samples: int = 4096
) -> dict:
    """Train ensembles for several lengths; returns (mean, scatter over seeds, mc_stderr)."""
    data_key, seed_key, key = jax.random.split(jax.random.key(0), 3)
    dataset = datasets.load("mixture3", num_samples=samples, key=data_key)
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    scaling = ex.GaussianScaling.from_data(dataset.points, process)
    exact = ex.ExactModel(dataset.distribution, process)
    total = ex.neural_entropy(exact, dataset.points, key=key)
    print(f"exact         S_tot {total} nats")

    def make_model(key):
        network = ex.FourierMLP(dataset.dim, widths=(128, 128), key=key)
        return ex.EntropyMatching(network, process, scaling)

    def measure(model):
        # The same key for every seed, so that only the networks differ.
        entropy = ex.neural_entropy(model, dataset.points, key=key)
        return entropy, ex.path_kl(model, exact, dataset.points, key=key)

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    result = {}
    for length in steps:
        fits = ex.fit_ensemble(
            make_model, dataset.points, keys=jax.random.split(seed_key, seeds), steps=length
        )
        entropy, distance = fits.map(measure)
        scatter = float(np.std(entropy.value, ddof=1))
        mc_stderr = float(np.mean(entropy.mc_stderr))
        result[length] = (float(np.mean(entropy.value)), scatter, mc_stderr)
        print(
            f"{length:5d} steps   S_NN {result[length][0]:.4f}, over seeds ± {scatter:.4f}, Monte "
            f"Carlo ± {mc_stderr:.4f}, with data ± {np.mean(entropy.stderr):.4f};  path KL "
            f"{np.mean(distance.value):.4f} ± {np.std(distance.value, ddof=1) / seeds**0.5:.4f}"
        )
        spread = length * np.linspace(0.93, 1.07, seeds)
        left.errorbar(
            spread, entropy.value, entropy.mc_stderr, fmt=".", color="C0", ms=4, capsize=2
        )
        right.loglog(spread, distance.value, ".", color="C0", ms=4)
        right.loglog(length, np.mean(distance.value), "_", color="C1", ms=18)
    left.errorbar([], [], [], fmt=".", color="C0", capsize=2, label="seeds, with Monte Carlo error")
    left.axhline(total.value, color="k", lw=1, label="$S_{tot}$")
    left.axhspan(total.value - total.stderr, total.value + total.stderr, color="k", alpha=0.1, lw=0)
    left.set(xscale="log", xlabel="training steps", ylabel="$S_{NN}$ (nats)")
    right.set(xlabel="training steps", ylabel="path KL to the exact process (nats)")
    right.plot([], [], "_", color="C1", ms=14, label="mean over seeds")
    left.legend(loc="lower right")
    right.legend()
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("multi_seed.png"))
    main(parser.parse_args().out)

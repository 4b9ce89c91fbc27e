"""Train an entropy-matching model, and measure how much of the entropy it stores.

The data are the five-component mixture of the Neural Entropy paper (arXiv 2409.03817). Its total
entropy production is known, and the figure compares it with the entropy stored in the network.

    python examples/quickstart.py --out quickstart.png
"""

import argparse
from pathlib import Path

import jax
import matplotlib.pyplot as plt

import entropix as ex
from entropix import datasets


def main(out: Path, steps: int = 2500, samples: int = 8192, evaluations: int = 16_384) -> float:
    """Train, measure and plot; returns S_NN / S_tot."""
    data_key, model_key, fit_key, key = jax.random.split(jax.random.key(0), 4)

    # Data, a process that turns them into noise, and a network that learns to reverse it.
    dataset = datasets.load("mixture3", num_samples=samples, key=data_key)
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0), kappa=0.1)
    scaling = ex.GaussianScaling.from_data(dataset.points, process)
    network = ex.FourierMLP(dataset.dim, key=model_key)
    model = ex.EntropyMatching(network, process, scaling)
    model = ex.fit(model, dataset.points, key=fit_key, steps=steps).model

    # Entropy of the exact process, entropy stored in the network, and path KL between the two.
    exact = ex.ExactModel(dataset.distribution, process)
    options = {"key": key, "num_evaluations": evaluations}
    erased = ex.entropy_curve(exact, dataset.points, **options)
    stored = ex.entropy_curve(model, dataset.points, **options)
    distance = ex.path_kl(model, exact, dataset.points, **options)
    print(f"total entropy production  S_tot = {erased.total} nats")
    print(f"neural entropy            S_NN  = {stored.total} nats")
    print(f"path KL                   L     = {distance} nats")

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for curve, label, style in (
        (erased, "exact, $S_{tot}$", "-"),
        (stored, "network, $S_{NN}$", "--"),
    ):
        left.plot(curve.times, curve.cumulative, style, label=label)
        low, high = curve.cumulative - 2 * curve.stderr, curve.cumulative + 2 * curve.stderr
        left.fill_between(curve.times, low, high, alpha=0.2)
    left.set(xlabel="time $s$", ylabel="entropy up to $s$ (nats)")
    left.legend()

    x = ex.sample(model, key=key, num_samples=1000)
    right.scatter(*dataset.points[:1000, :2].T, s=3, label="data")
    right.scatter(*x[:, :2].T, s=3, label="generated")
    right.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    right.legend(markerscale=3)
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return float(stored.total.value / erased.total.value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("quickstart.png"))
    main(parser.parse_args().out)

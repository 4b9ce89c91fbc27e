"""Flows trained on coupled pairs: straight paths, sampled in one step of Euler's method.

Two rectified flows from noise to two moons: one trained on independent pairs of data and noise, the
other on pairs coupled by optimal transport within each batch (arXiv 2304.14772, 2302.00482).

    python examples/straight_flows.py --out straight_flows.png
"""

import argparse
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import entropix as ex
from entropix import datasets


def main(out: Path, steps: int = 1500, samples: int = 4096, number: int = 1000) -> dict:
    """Train, measure and plot; returns (action / W2^2, W2 after one step) by kind of pairs."""
    data_key, test_key, model_key, fit_key, key = jax.random.split(jax.random.key(0), 5)
    data = datasets.load("moons", num_samples=samples, key=data_key).points
    test = jnp.asarray(datasets.load("moons", num_samples=number, key=test_key).points)
    z = jax.random.normal(key, test.shape)
    squared = float(ex.wasserstein(test, z)) ** 2

    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    result, counts = {}, (1, 2, 4, 8, 16, 32)
    for axis, (name, coupling) in zip(
        axes, (("independent", None), ("coupled", ex.transport.MinibatchCoupling())), strict=False
    ):
        network = ex.FourierMLP(2, key=model_key, widths=(128, 128), num_features=16)
        model = ex.FlowMatching(network, ex.RectifiedFlow())
        loss = ex.FlowLoss(coupling, num_draws=1)
        options = {"batch_size": 128, "loss": loss, "learning_rate": 5e-3}
        model = ex.fit(model, data, key=fit_key, steps=steps, **options).model

        cost = ex.transport.flow_action(model, z, direction="reverse")
        distances = []
        for count in counts:
            options = {"num_steps": count, "solver": diffrax.Euler()}
            x = ex.solve_flow(model, z, direction="reverse", **options).final
            distances += [float(ex.wasserstein(x, test))]
        result[name] = (float(cost.action.value) / squared, distances[0])
        print(f"{name} pairs")
        print(f"  action  {cost.action}, W2^2 = {squared:.3f}, bending {cost.bending}")
        print(f"  W2 after {counts} steps: {', '.join(f'{d:.3f}' for d in distances)}")

        paths = ex.solve_flow(model, z[:60], direction="reverse", num_steps=32, save="steps").states
        axis.plot(*jnp.moveaxis(paths, 2, 0), color="0.6", lw=0.5)
        axis.scatter(*z[:60].T, s=6, label="noise")
        axis.scatter(*paths[-1].T, s=6, label="generated")
        axis.set(title=f"{name} pairs", xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
        axes[2].plot(counts, distances, "o-", label=f"{name} pairs")
    axes[0].legend()
    axes[2].set(xlabel="Euler steps", ylabel="$W_2$ to data", xscale="log", ylim=(0, None))
    axes[2].set_xticks(counts, counts)
    axes[2].legend()
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("straight_flows.png"))
    main(parser.parse_args().out)

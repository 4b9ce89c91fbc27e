"""A network as Maxwell's demon: it stores the information that diffusion erases.

Diffusion from data to noise produces entropy. A trained network drives the reverse process with
the field it has learnt, and along the generated paths it spends the entropy that was produced
(Neural Entropy, arXiv 2409.03817).

    python examples/maxwell_demon.py --out maxwell_demon.png
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import entropix as ex
from entropix import datasets


def main(out: Path, steps: int = 2500, samples: int = 4096, num_steps: int = 256) -> float:
    """Train, solve forwards and backwards, plot; returns entropy spent / entropy produced."""
    data_key, model_key, fit_key, prior_key, key = jax.random.split(jax.random.key(0), 5)
    dataset = datasets.load("mixture2", num_samples=samples, key=data_key)
    # Long enough to end in the prior: any signal left at the end would be lost.
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 30.0), kappa=0.1)
    exact = ex.ExactModel(dataset.distribution, process)
    scaling = ex.GaussianScaling.from_data(dataset.points, process)
    network = ex.FourierMLP(dataset.dim, key=model_key)
    model = ex.EntropyMatching(network, process, scaling)
    model = ex.fit(model, dataset.points, key=fit_key, steps=steps).model

    # Forwards: total entropy of every trajectory, the sum of system and medium.
    forward = ex.path_entropy(exact, dataset.points, key=key, save="steps", num_steps=num_steps)
    produced = ex.entropy_curve(exact, dataset.points, key=key)

    # Backwards: the squared field of the network along the trajectories that it generates.
    def spend(s0, s1, y0, y1):
        def rate(s, y):
            return process.sigma_squared(s) / 2 * jnp.sum(model.entropy_field(s, y) ** 2)

        return (rate(s0, y0) + rate(s1, y1)) / 2 * (s0 - s1)

    noise = model.prior.sample(samples, key=prior_key)
    backward = ex.solve_reverse(
        model, noise, key=key, functional=spend, save="steps", num_steps=num_steps
    )
    spent = jnp.mean(backward.functional, axis=1)
    error = jnp.std(backward.functional[-1]) / samples**0.5
    print(f"entropy produced, mean over paths   {forward.mean} nats")
    print(f"entropy produced, from the marginals {produced.total} nats")
    print(f"entropy spent by the network         {spent[-1]:.1f} ± {error:.1f} nats")

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    left.plot(produced.times, produced.cumulative, label="produced on the way to noise")
    left.plot(backward.times, spent[-1] - spent, "--", label="left in the network's memory")
    left.set(xlabel="time $s$ (data at 0, noise at 1)", ylabel="entropy (nats)")
    left.legend()

    for trajectory, colour in ((forward.trajectory, "C0"), (backward, "C1")):
        label = "forward" if colour == "C0" else "backward, generated"
        right.plot(trajectory.times, trajectory.states[:, :12, 0], colour, lw=0.6, alpha=0.7)
        right.plot([], [], colour, label=label)
    right.set(xlabel="time $s$", ylabel="first coordinate $y_1$")
    right.legend()
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return float(spent[-1] / produced.total.value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("maxwell_demon.png"))
    main(parser.parse_args().out)

"""Train an entropy-matching model, and measure how much of the entropy it stores.

Diffusion turns eight Gaussians in a plane into noise. The entropy that it produces is known from
the density of the data, and the figure compares it with the entropy stored in the network
(Neural Entropy, arXiv 2409.03817).

    python examples/quickstart.py --out quickstart.png
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import entropix as ex


def main(out: Path, steps: int = 2500, samples: int = 8192, evaluations: int = 16_384) -> float:
    """Train, measure and plot; returns S_NN / S_tot."""
    data_key, model_key, fit_key, key = jax.random.split(jax.random.key(0), 4)

    # Data, a process that turns them into noise, and a network that learns to reverse it.
    data = ex.datasets.load("eight-gaussians", num_samples=samples, key=data_key)
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    network = ex.FourierMLP(data.dim, key=model_key)
    model = ex.EntropyMatching(network, process, ex.GaussianScaling.from_data(data.points, process))
    model = ex.fit(model, data.points, key=fit_key, steps=steps, batch_size=256).model

    # The entropy that the process produces, what the network stores of it, and their path KL.
    exact = ex.ExactModel(data.distribution, process)
    options = {"key": key, "num_evaluations": evaluations}
    produced = ex.entropy_curve(exact, data.points, **options)
    stored = ex.entropy_curve(model, data.points, **options)
    distance = ex.path_kl(model, exact, data.points, **options)
    print(f"total entropy production  S_tot = {produced.total} nats")
    print(f"neural entropy            S_NN  = {stored.total} nats")
    print(f"path KL                   L     = {distance} nats")

    # Data on their way to noise, and noise that the network turns into new samples.
    places = jnp.linspace(0.0, 1.0, 5)
    times = places**2  # most happens at the start
    noise = model.prior.sample(600, key=data_key)
    forward = ex.solve_forward(process, data.points[:600], key=key, save=times)
    backward = ex.solve_reverse(model, noise, key=key, save=times[::-1])

    # Two rows of panels, and the curves between them: each panel is above or below its time.
    plt.rcParams["font.size"] = 11
    figure = plt.figure(figsize=(5.4, 5.6), layout="constrained")
    above, middle, below = figure.subfigures(3, height_ratios=(1.15, 2.4, 1.15))
    for part, states, colour, words in (
        (above, forward.states, "C0", "diffusion turns data into noise \N{RIGHTWARDS ARROW}"),
        (below, backward.states[::-1], "C1", "\N{LEFTWARDS ARROW} the network gives back data"),
    ):
        part.suptitle(words, color=colour, fontsize=12)
        for panel, points in zip(part.subplots(1, len(times)), states, strict=True):
            panel.scatter(*points.T, s=1.5, color=colour, linewidths=0)
            panel.set(xticks=[], yticks=[], xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), aspect="equal")
    axes = middle.subplots()
    for curve, style, words in (
        (produced, "C0-", f"produced: {produced.total} nats"),
        (stored, "C1--", f"stored by the network: {stored.total} nats"),
    ):
        axes.plot(curve.times**0.5, curve.cumulative, style, lw=2.5, label=words)
    axes.set(xlim=(-0.125, 1.125), ylim=(0, None), xlabel="time $s$", ylabel="entropy (nats)")
    axes.set_xticks(places, [f"{s:.2g}" for s in times])
    axes.legend(loc="lower right")
    figure.savefig(out, dpi=200)
    plt.close(figure)
    return float(stored.total.value / produced.total.value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("quickstart.png"))
    main(parser.parse_args().out)

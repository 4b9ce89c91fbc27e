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
    network = ex.FourierMLP(data.dim, widths=(128, 128, 128), key=model_key)
    model = ex.EntropyMatching(network, process, ex.GaussianScaling.from_data(data.points, process))
    training = {"steps": steps, "batch_size": 256, "learning_rate": 5e-3}
    model = ex.fit(model, data.points, key=fit_key, **training).model

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
    backward = ex.solve_reverse(model, noise, key=key, save=times[::-1]).states[::-1]

    # Two rows of panels, and the curves between them: each panel is above or below its time.
    figure, axes = plt.subplot_mosaic(
        [list("abcde"), ["curves"] * 5, list("vwxyz")],
        height_ratios=(1, 2.4, 1),
        figsize=(4.9, 5.1),
        layout="constrained",
    )
    for names, states, colour in (("abcde", forward.states, "C0"), ("vwxyz", backward, "C1")):
        for name, points in zip(names, states, strict=True):
            axes[name].scatter(*points.T, s=1.5, color=colour, linewidths=0)
            axes[name].set(xticks=[], yticks=[], xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), aspect=1)
    axes["c"].set_title("diffusion turns data into noise \N{RIGHTWARDS ARROW}", color="C0")
    axes["x"].set_title("\N{LEFTWARDS ARROW} the network turns noise into data", color="C1")
    for curve, style, words in ((produced, "C0-", "produced"), (stored, "C1--", "stored")):
        label = f"{words}: {curve.total} nats"
        axes["curves"].plot(curve.times**0.5, curve.cumulative, style, lw=2.5, label=label)
    axes["curves"].set(xlim=(-0.125, 1.125), ylim=(0, None))
    axes["curves"].set(xlabel="time $s$", ylabel="entropy (nats)")
    axes["curves"].set_xticks(places, [f"{s:.2g}" for s in times])
    axes["curves"].legend(loc="lower right")
    figure.savefig(out, dpi=220)
    plt.close(figure)
    return float(stored.total.value / produced.total.value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("quickstart.png"))
    main(parser.parse_args().out)

"""Log densities of one model by every method, with cost and error.

The diffusion of a mixture of two Gaussians in the plane is known exactly, so that every method
should give the same density. Points have no density; the last panel shows that of points with noise
of a stated size.

    python examples/log_densities.py --out log_densities.png
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import entropix as ex


def main(out: Path, samples: int = 300, evaluations: int = 256, pixels: int = 60) -> dict:
    """Compare, print and plot; returns the root mean square error of each method."""
    mixture = ex.GaussianMixture([0.4, 0.6], [[-1.2, 0.3], [0.8, -0.2]], [[0.4, 0.7], [0.6, 0.3]])
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    model = ex.ExactModel(mixture, process)
    data_key, key = jax.random.split(jax.random.key(0))
    x = mixture.sample(samples, key=data_key)
    exact = mixture.log_prob(x)
    methods = {
        "path bound": ex.PathBound(evaluations),
        "denoising error": ex.DenoisingError(evaluations),
        "Jarzynski": ex.density.Jarzynski(num_paths=64, num_steps=64),
        "flow, exact": ex.ProbabilityFlow(),
    }

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.7), layout="constrained")
    errors = {}
    for number, (name, method) in enumerate(methods.items()):
        own_key = jax.random.fold_in(key, number)
        result = ex.log_prob(model, x, key=own_key, method=method)
        errors[name] = float(jnp.sqrt(jnp.mean((result.value - exact) ** 2)))
        cost = result.num_evaluations or "adaptive"
        stated = float(jnp.sqrt(jnp.mean(result.stderr**2)))
        print(f"{name:<17} error {errors[name]:.1e} nats, stated {stated:.1e}")
        print(f"{'':<17} evaluations per sample: {cost}")
        left.semilogy(exact, jnp.abs(result.value - exact), ".", ms=3, label=name)
    left.set(xlabel="exact $\\log p(x)$ (nats)", ylabel="size of the error (nats)", ylim=(1e-7, 30))
    left.legend(fontsize=7, ncols=2, markerscale=2)

    # Densities as images; points have no density without a cut-off.
    line = jnp.linspace(-2.5, 2.5, pixels)
    grid = jnp.stack(jnp.meshgrid(line, line), axis=-1).reshape(-1, 2)
    flow = ex.ProbabilityFlow()
    points = ex.ExactModel(ex.Empirical(x[:20]), process)
    try:
        ex.log_prob(points, x[:20], method=flow)
    except ValueError as error:
        print(f"20 points: {error}")
    cutoff = 0.15
    for axes, log_density, title in (
        (middle, ex.log_prob(model, grid, method=flow), "the mixture, by its flow"),
        (
            right,
            ex.log_prob(points, grid, method=flow, cutoff=cutoff),
            f"20 points, noise std $\\geq$ {cutoff}",
        ),
    ):
        density = jnp.exp(log_density.value)
        mass = float(jnp.sum(density)) * float(line[1] - line[0]) ** 2
        print(f"{title}: integrates to {mass:.3f}")
        axes.contourf(line, line, density.reshape(pixels, pixels), levels=12)
        axes.set(title=title, xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    right.plot(*x[:20].T, ".", color="white", ms=3)
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return errors


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("log_densities.png"))
    main(parser.parse_args().out)

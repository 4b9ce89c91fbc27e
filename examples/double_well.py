"""Entropy production of a relaxation without closed form: a double well at two temperatures.

Samples of a displaced Gaussian relax in the potential (y^2 - 1)^2. The heat of each trajectory is
accumulated during the solve. With a density estimate of the end states it gives the total entropy
production, which approaches the KL divergence of the initial density from equilibrium.

    python examples/double_well.py --out double_well.png
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import gaussian_kde

import entropix as ex


def relative_entropy(start: ex.Gaussian, process: ex.Langevin) -> float:
    """KL divergence of the initial density from equilibrium, by quadrature."""
    grid = jnp.linspace(-4.0, 4.0, 4001)[:, None]
    energy = jax.vmap(lambda y: process.equilibrium_log_prob(0.0, y))(grid)
    log_eq = energy - jnp.log(jnp.trapezoid(jnp.exp(energy), grid[:, 0]))
    log_p = start.log_prob(grid)
    return float(jnp.trapezoid(jnp.exp(log_p) * (log_p - log_eq), grid[:, 0]))


def log_density(states: jax.Array) -> np.ndarray:
    """Log density at each of many states in one dimension, by a kernel density estimate."""
    y = np.asarray(states[:, 0])
    grid = np.linspace(y.min(), y.max(), 400)
    return np.interp(y, grid, gaussian_kde(y, 0.08).logpdf(grid))


def main(out: Path, samples: int = 20_000, num_steps: int = 400) -> dict[float, float]:
    """Relax at two temperatures and plot; returns total entropy divided by its bound at each."""
    start = ex.Gaussian(jnp.array([0.3]), jnp.array([[0.25]]))
    times = jnp.linspace(0.0, 4.0, 13)
    ratios = {}
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for number, temperature in enumerate((0.25, 0.5)):
        colour = f"C{number}"
        process = ex.Langevin(ex.processes.DoubleWell(), temperature, t1=4.0)
        keys = jax.random.split(jax.random.key(number))
        x = start.sample(samples, key=keys[0])
        paths = ex.path_entropy(
            process,
            x,
            key=keys[1],
            log_p0=start.log_prob,
            log_pT=log_density,
            save=times,
            num_steps=num_steps,
        )
        medium = jnp.mean(paths.trajectory.functional[0], axis=1)
        system = np.array([-np.mean(log_density(y)) for y in paths.trajectory.states])
        total = system - system[0] + medium
        bound = relative_entropy(start, process)
        ratios[temperature] = float(paths.mean.value) / bound
        print(f"temperature {temperature}: total {paths.mean} nats, at most {bound:.4f}")

        right.plot(times, total, colour, label=f"total, $T$ = {temperature}")
        right.plot(times, medium, colour, ls="--", lw=1, label="medium (heat / $T$)")
        right.axhline(bound, color=colour, ls=":", lw=1)
        grid = np.linspace(-2, 2, 201)
        weight = np.exp(-((grid**2 - 1) ** 2) / temperature)
        left.plot(
            grid,
            gaussian_kde(np.asarray(paths.end[:, 0]), 0.08)(grid),
            colour,
            label=f"paths at $s$ = 4, $T$ = {temperature}",
        )
        left.plot(grid, weight / np.trapezoid(weight, grid), colour, ls=":", label="equilibrium")
    left.set(xlabel="$y$", ylabel="density", ylim=(0, 1.8))
    left.legend()
    right.set(xlabel="time $s$", ylabel="entropy (nats)")
    right.legend()
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return ratios


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("double_well.png"))
    main(parser.parse_args().out)

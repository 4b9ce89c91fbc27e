"""Memorisation: the exact score of a finite data set, and a last step that avoids it.

The diffusion of points on a circle has an exact score (`Empirical`). Sampling with it to the end
reproduces the points. If sampling stops at a noise larger than their spacing and ends with one step
to the posterior mean, the same score generates new points of the circle: the inertia update of Lyu,
Nguyen, Qian and Tong (arXiv 2505.02508). The slope of the total entropy at the noise where sampling
stops is the number of unresolved dimensions: 2 - 0 for points, 2 - 1 for the circle.

    python examples/memorisation.py --out memorisation.png
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import entropix as ex


def circle(angles: jax.Array) -> jax.Array:
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def nearest(x: jax.Array, data: jax.Array) -> jax.Array:
    return jnp.linalg.norm(x[:, None] - data, axis=-1).min(axis=-1)


def main(out: Path, points: int = 64, samples: int = 1000, stops: int = 7) -> dict:
    """Sample with the empirical score; returns both distances of each method at one noise."""
    data_key, fresh_key, key = jax.random.split(jax.random.key(0), 3)
    data = circle(2 * jnp.pi * jax.random.uniform(data_key, (points,)))
    fresh = circle(2 * jnp.pi * jax.random.uniform(fresh_key, (samples,)))
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    empirical = ex.Empirical(data)
    model = ex.ExactModel(empirical, process)

    def stopped_at(noise):
        """Samples at a given noise, without and with a last step to the posterior mean."""
        stop = process.time_of_log_snr(-2 * jnp.log(noise))
        steps = 1 - jnp.linspace(1.0, 0.0, 129) ** 2  # smaller steps near the data
        times = process.t1 + (stop - process.t1) * steps
        y = ex.sample(model, key=key, num_samples=samples, times=times)
        finished = jax.vmap(lambda state: empirical.denoise(process, stop, state))(y)
        return y / process.scale(stop), finished

    def judge(x):
        """Mean distance to the data and rms distance off the circle, in units of the data."""
        off = jnp.sqrt(jnp.mean((jnp.linalg.norm(x, axis=-1) - 1) ** 2))
        return float(jnp.mean(nearest(x, data))), float(off)

    copies = ex.sample(model, key=key, num_samples=samples)
    noises = np.geomspace(0.01, 0.5, stops)
    ways = [stopped_at(noise) for noise in noises]
    found = {"stopped": [judge(w[0]) for w in ways], "inertia update": [judge(w[1]) for w in ways]}
    slopes = [
        float(ex.neural_entropy(model, data, key=key, cutoff=n / np.sqrt(1 + n**2)).slope)
        for n in noises
    ]
    new = judge(fresh)[0]
    at = int(np.argmin([abs(novelty - new) for novelty, _ in found["inertia update"]]))
    result = {"copies": judge(copies), "fresh": (new, 0.0)}
    result |= {name: values[at] for name, values in found.items()}
    print(f"at noise {noises[at]:.2f}            from the data   off the circle")
    for name, (novelty, off) in result.items():
        print(f"{name:<20}  {novelty:.4f}          {off:.4f}")

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    left.scatter(*ways[at][1].T, s=3, label=f"inertia update at noise {noises[at]:.2f}")
    left.scatter(*copies.T, s=14, marker="x", lw=0.8, label="followed to the end")
    left.scatter(*data.T, s=22, facecolors="none", edgecolors="k", lw=0.6, label="data")
    left.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal", xlim=(-1.9, 1.9), ylim=(-1.3, 2.2))
    left.legend(fontsize="small", loc="upper center")
    for (name, values), style in zip(found.items(), ("s--", "o-"), strict=True):
        middle.loglog(*zip(*values, strict=True), style, ms=4, label=name)
    middle.axvline(new, color="k", lw=0.8, ls=":", label="new points of the circle")
    middle.set(xlabel="mean distance to the data", ylabel="rms distance off the circle")
    middle.legend(fontsize="small")
    right.semilogx(noises, slopes, "o-", ms=4)
    for value, label in ((2, "points: 2 - 0"), (1, "circle: 2 - 1")):
        right.axhline(value, color="k", lw=0.8, ls=":")
        right.text(noises[0], value - 0.09, label, fontsize="small")
    right.set(xlabel="noise at the stop, data units", ylabel=r"$dS_{tot}/d(-\ln\Sigma)$")
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("memorisation.png"))
    main(parser.parse_args().out)

"""Optimise a noise schedule by gradient descent: from a linear rate to constant speed.

The action of the probability flow decreases to the squared length of its path, which does not
depend on the schedule. The optimal schedule also follows from the speed, without a gradient.

    python examples/schedule_optimisation.py --out schedule_optimisation.png
"""

import argparse
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import entropix as ex


def main(out: Path, steps: int = 600, samples: int = 2048, knots: int = 32) -> float:
    """Optimise from three starts and plot; returns best action / squared length."""
    data_key, measure_key, key = jax.random.split(jax.random.key(0), 3)
    mixture = ex.datasets.load("mixture3", key=data_key).distribution
    action = ex.KineticAction(mixture, key=measure_key, num_samples=samples)

    linear = ex.LinearSchedule(0.1, 16.0)
    schedules = {
        "linear 0.1 to 16": ex.MonotoneSchedule.from_schedule(linear, knots),
        "constant": ex.MonotoneSchedule.constant(8.05, knots),
        "falling": ex.MonotoneSchedule(np.linspace(2.0, -2.0, knots), 8.05),
    }
    starts = [ex.VariancePreserving(schedule) for schedule in schedules.values()]
    # All starts in one compiled program, along a leading axis.
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    keys = jax.random.split(key, len(starts))
    found = eqx.filter_vmap(
        lambda p, k: ex.optimise_schedule(p, action, key=k, steps=steps, tolerance=0.0)
    )(stacked, keys)
    squared = float(action.length(starts[0])) ** 2
    geodesic = ex.optimise.constant_speed(starts[0], action)
    print(found)
    print(f"squared length {squared:.5f}, constant speed {float(action(geodesic)):.5f}")

    s = jnp.linspace(0.0, 1.0, 401)
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for number, (name, start) in enumerate(zip(schedules, starts, strict=True)):
        best = jax.tree.map(lambda x, i=number: x[i], found.process)
        colour = f"C{number}"
        axes[0].plot(s, start.schedule.rate(s), colour, ls=":", lw=1)
        axes[0].plot(s, best.schedule.rate(s), colour, label=name)
        inner = s[1:-1]
        axes[1].plot(inner, action.rate(start, inner), colour, ls=":", lw=1)
        axes[1].plot(inner, action.rate(best, inner), colour)
        axes[2].plot(found.history[number] / squared - 1, colour)
    pace = -2 * geodesic.scale_rate(s) / geodesic.scale(s)
    axes[0].plot(s, pace, "k", ls="--", lw=1, label="constant speed, closed form")
    axes[0].set(xlabel="time $s$", ylabel=r"rate $\beta$", yscale="log", ylim=(1e-2, 1e3))
    axes[0].legend(title="before (dotted) and after")
    axes[1].axhline(squared**0.5, color="k", ls="--", lw=1)
    axes[1].set(xlabel="time $s$", ylabel=r"speed $\sqrt{E\|v\|^2}$", yscale="log", ylim=(0.1, 50))
    axes[2].set(xlabel="step", ylabel="action over squared length, less one")
    axes[2].set(yscale="log", ylim=(1e-4, None))  # below is the error of quadrature
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return float(jnp.min(found.value)) / squared


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("schedule_optimisation.png"))
    main(parser.parse_args().out)

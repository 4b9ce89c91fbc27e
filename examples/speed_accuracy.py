"""The speed-accuracy relation for four forward processes.

Generation from a perturbed prior ends in perturbed data. The change of the error in W1 is bounded
by the dissipation of the forward process. For one-dimensional Gaussian data the change is the same
for every process, and only optimal transport attains the bound (Ikeda, Uda, Okanohara and Ito,
arXiv 2407.04495).

    python examples/speed_accuracy.py --out speed_accuracy.png
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import entropix as ex


NAMES = "Gaussian OT", "cosine", "rectified flow", "VP"


def main(
    out: Path,
    samples: int = 2000,
    num_steps: int = 128,
    shifts: int = 16,
    names: tuple[str, ...] = NAMES,
) -> dict:
    """Both sides of the relation for each process; returns their ratios at the smallest shift."""
    variance = 0.1
    processes = {
        "Gaussian OT": ex.GaussianPath(
            lambda s: 1 - s, lambda s: jnp.sqrt(s**2 + 2 * s * (1 - s) * variance**0.5)
        ),
        "cosine": ex.CosinePath(),
        "rectified flow": ex.RectifiedFlow(),
        "VP": ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0)),
    }
    gaussian = ex.Gaussian([0.0], [[variance]])
    mixture = ex.GaussianMixture([0.5, 0.5], [[-0.3], [0.3]], [[0.1], [0.1]])
    deltas = jnp.geomspace(0.1, 2.0, shifts)
    data_key, key = jax.random.split(jax.random.key(0))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    ratios = {}
    for number, name in enumerate(names):
        colour = f"C{number}"

        def both_sides(distribution, delta, process=processes[name]):
            return ex.transport.speed_accuracy(
                ex.ExactModel(distribution, process),
                distribution.sample(samples, key=data_key),
                shift=delta,
                key=key,
                num_samples=samples // 4,
                num_steps=num_steps,
            )

        both_sides = jax.jit(jax.vmap(both_sides, in_axes=(None, 0)))
        result = both_sides(gaussian, deltas)
        ratios[name] = result.ratio.value[0]
        left.plot(deltas, result.accuracy.value, colour, marker=".", lw=0.8)
        left.axhline(result.speed.value[0], color=colour, ls="--", label=name)

        result = both_sides(mixture, deltas[:1])
        for sign, side in ((-1, result.accuracy), (1, result.speed)):
            error = side.stderr[0]
            hatch = "//" if sign < 0 else None
            place = number + 0.2 * sign
            right.bar(place, side.value[0], 0.38, yerr=error, color=colour, hatch=hatch, alpha=0.8)
        print(
            f"{name:<18} ratio {ratios[name]:.3f} (Gaussian), {result.ratio.value[0]:.3f} (mixture)"
        )
        assert bool(jnp.all(result.holds))

    left.set(
        xscale="log",
        xlabel=r"shift $\delta$ of the prior",
        ylabel="data units squared",
        title=r"Gaussian data: $(\Delta W_1)^2/(T D_0)$ below $\int E|v|^2 ds$ (dashed)",
    )
    left.legend(loc="lower left")
    right.set(
        ylabel="data units squared",
        title=rf"two modes, $\delta$ = {deltas[0]:.1f}: left side hatched, right side plain",
    )
    right.set_xticks(range(len(names)), names)
    for axis in (left, right):
        axis.title.set_fontsize(9)
        axis.set_ylim(0)
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return ratios


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("speed_accuracy.png"))
    main(parser.parse_args().out)

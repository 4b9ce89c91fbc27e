"""A Schrödinger bridge between two data sets, compared with entropic optimal transport.

The bridge is the diffusion from two moons to eight Gaussians that is closest to Brownian motion.
The smaller the variance epsilon of this motion, the straighter the paths. The pairs of points that
the bridge connects are those of entropic optimal transport, which is solved independently.

    python examples/schroedinger_bridge.py --out schroedinger_bridge.png
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import entropix as ex
from entropix import datasets


def main(out: Path, steps: int = 1000, samples: int = 4096, iterations: int = 4) -> dict:
    """Learn two bridges, compare and plot; returns (bridge, entropic) displacement by epsilon."""
    keys = jax.random.split(jax.random.key(0), 4)
    moons = datasets.load("moons", num_samples=samples, key=keys[0])
    ring = datasets.load("eight-gaussians", num_samples=samples, key=keys[1])
    x, y = jnp.asarray(moons.points), jnp.asarray(ring.points)
    few = min(samples, 1500)

    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    result = {}
    for axis, epsilon in zip(axes[:2], (0.5, 0.1), strict=True):
        bridge = ex.transport.schroedinger_bridge(
            x,
            y,
            key=keys[2],
            epsilon=epsilon,
            num_iterations=iterations,
            steps=steps,
            learning_rate=4e-3,
            coupling=ex.transport.MinibatchCoupling(epsilon=epsilon),
        )
        before, after = bridge.sample_pairs(x, key=keys[3])
        displacement = float(jnp.mean(jnp.sum((after - before) ** 2, axis=-1)) / 2)
        static = ex.transport.static_bridge(x[:few], y[:few], epsilon=epsilon)
        exact = static.path_kl(-jnp.mean(ring.distribution.log_prob(y)))
        result[epsilon] = (displacement, float(static.displacement))
        print(f"epsilon {epsilon}")
        print(f"  E|x1 - x0|^2 / 2    bridge {displacement:.3f}, entropic {result[epsilon][1]:.3f}")
        print(f"  path KL             bridge {bridge.cost}, entropic {exact} nats")
        print(f"  entropy production  {bridge.entropy_production} nats")

        paths = bridge.trajectory(x[:48], key=keys[3], save="steps").states
        axis.plot(*jnp.moveaxis(paths, 2, 0), color="0.6", lw=0.5)
        axis.scatter(*x[:1000].T, s=2, label="$p_0$")
        axis.scatter(*after[:1000].T, s=2, label="$p_1$, reached from $p_0$")
        axis.set(title=f"$\\epsilon = {epsilon}$", xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    axes[0].legend(loc="upper right", markerscale=3, fontsize="small")

    where = range(len(result))
    for shift, label, values in zip(
        (-0.2, 0.2),
        ("bridge", "entropic transport"),
        zip(*result.values(), strict=True),
        strict=True,
    ):
        axes[2].bar([w + shift for w in where], values, width=0.4, label=label)
    axes[2].set_xticks(where, [f"$\\epsilon = {e}$" for e in result])
    axes[2].set_ylabel(r"$E|x_1 - x_0|^2/2$")
    axes[2].legend(loc="upper right")
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("schroedinger_bridge.png"))
    main(parser.parse_args().out)

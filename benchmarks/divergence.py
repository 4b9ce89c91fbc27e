"""The divergence that a network offers, against D products with its Jacobian.

Processor times, interleaved.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import entropix as ex
from benchmarks.reference import table
from entropix.dynamics import Divergence


class Opaque(eqx.Module):
    """A network that does not say what its divergence is."""

    network: Callable
    dim: int = eqx.field(static=True)

    def __call__(self, log_snr: Any, y: Any, condition: Any = None) -> Any:
        return self.network(log_snr, y, condition)


def filled(network: Any) -> Any:
    """As after some training: an output layer that is not zero."""
    shape = network.head.weight.shape
    weight = jax.random.normal(jax.random.key(1), shape) / shape[1] ** 0.5
    return eqx.tree_at(lambda n: n.head.weight, network, weight)


def networks(dim: int) -> dict[str, Any]:
    """Perceptrons of one to four hidden layers, and a residual network."""
    key = jax.random.key(0)
    layers = {
        "512": (512,),
        "512, 256": (512, 256),
        "256, 256, 256": (256,) * 3,
        "256 x 4": (256,) * 4,
    }
    made: dict[str, Any] = {
        f"FourierMLP {k}": ex.FourierMLP(dim, key=key, widths=w) for k, w in layers.items()
    }
    made["ResidualMLP 64 x 3"] = ex.networks.ResidualMLP(dim, key=key)
    return {name: filled(network) for name, network in made.items()}


@eqx.filter_jit
def divergences(model: ex.EntropyMatching, y: jax.Array, chunk: int) -> jax.Array:
    """Of the entropy field, at many states."""

    def one(y: jax.Array) -> jax.Array:
        return Divergence.along(lambda model, y: model.entropy_field(0.3, y), model, y)[1][0]

    return jax.lax.map(one, y, batch_size=chunk)


@eqx.filter_jit
def fields(model: ex.EntropyMatching, y: jax.Array) -> jax.Array:
    """The field alone."""
    return jax.vmap(lambda y: model.entropy_field(0.3, y))(y)


def seconds(call: Callable[[], jax.Array]) -> float:
    start = time.process_time()
    jax.block_until_ready(call())
    return time.process_time() - start


def main(dims: tuple[int, ...] = (3, 20, 64, 784), rounds: int = 5) -> None:
    """Print the table."""
    rows = []
    for dim in dims:
        for name, network in networks(dim).items():
            process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
            ours = ex.EntropyMatching(network, process)
            theirs = ex.EntropyMatching(Opaque(network, dim), process)
            few = max(16, 2048 // dim)
            y = jax.random.normal(jax.random.key(2), (8 * few, dim))
            held = [Divergence().num_held(model, dim) for model in (ours, theirs)]
            calls = [
                lambda m=ours, h=held[0], y=y: divergences(m, y, max(1, 4096 // h)),
                lambda m=theirs, h=held[1], y=y: divergences(m, y, max(1, 4096 // h)),
                lambda m=ours, y=y: fields(m, y),
            ]
            one, two = calls[0](), calls[1]()
            calls[2]()
            apart = float(jnp.max(jnp.abs(one - two)) / jnp.sqrt(jnp.mean(two**2)))
            times = [[seconds(call) for call in calls] for _ in range(rounds)]
            a, b, c = (min(column) for column in zip(*times, strict=True))
            rows.append(
                [str(dim), name, f"{a / c:.1f}", f"{b / c:.1f}", f"{b / a:.1f}x", f"{apart:.0e}"]
            )
    header = ["D", "network", "offered", "D products", "gain", "apart"]
    table("Cost of an exact divergence and the field, in evaluations of the field", header, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dims", type=int, nargs="+", default=(3, 20, 64, 784))
    main(tuple(parser.parse_args().dims))

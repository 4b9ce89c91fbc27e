"""The scheme described in Neural Entropy (arXiv 2409.03817), and the data it is run on."""

import time
from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import entropix as ex
from entropix.datasets import load
from entropix.networks import trainable


def mixture(dim: int = 3) -> ex.GaussianMixture:
    """The five-component mixture of the paper."""
    return load(f"mixture{dim}", num_samples=2, key=jax.random.key(0)).distribution


def processes() -> dict[str, ex.VariancePreserving]:
    """VP and VPx, beta from 0.1 to 16."""
    schedule = ex.LinearSchedule(0.1, 16.0)
    return {
        "VP": ex.VariancePreserving(schedule),
        "VPx": ex.VariancePreserving(schedule, kappa=0.1),
    }


def batch_loss(model: ex.EntropyMatching, x: jax.Array, key: jax.Array, draws: int) -> jax.Array:
    """The denoising loss at uniform times, `draws` of them for each example."""
    process = model.process

    def one(x: jax.Array, key: jax.Array) -> jax.Array:
        time_key, noise_key = jax.random.split(key)
        s = jax.random.uniform(time_key, minval=1e-5)
        z = jax.random.normal(noise_key, x.shape)
        return jnp.sum((process.std(s) * model.score(s, process.perturb(s, x, z)) + z) ** 2)

    keys = jax.random.split(key, (x.shape[0], draws))
    return jnp.mean(jax.vmap(lambda x, k: jax.vmap(lambda key: one(x, key))(k))(x, keys))


def train(
    model: ex.EntropyMatching, data: jax.Array, *, key: jax.Array, batch: int = 32, draws: int = 10
) -> Iterator[tuple[float, ex.EntropyMatching]]:
    """Yield (seconds spent, model) after each epoch; compilation is not counted."""
    optimiser = optax.adam(1e-4)
    frozen = jax.tree.map(lambda _: False, model)
    trained = eqx.tree_at(lambda m: m.network, frozen, trainable(model.network))
    params, static = eqx.partition(model, trained)
    state = optimiser.init(params)

    @jax.jit
    def step(params, state, x, key):
        def loss(params):
            return batch_loss(eqx.combine(params, static), x, key, draws)

        updates, state = optimiser.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    jax.block_until_ready(step(params, state, data[:batch], key))
    seconds, epoch = 0.0, 0
    while True:
        order_key, noise_key = jax.random.split(jax.random.fold_in(key, epoch))
        start = time.perf_counter()
        order = jax.random.permutation(order_key, data.shape[0])
        for i in range(data.shape[0] // batch):
            x = data[order[i * batch : (i + 1) * batch]]
            params, state = step(params, state, x, jax.random.fold_in(noise_key, i))
        jax.block_until_ready(params)
        seconds += time.perf_counter() - start
        epoch += 1
        yield seconds, eqx.combine(params, static)


@eqx.filter_jit
def trapezoid_entropy(
    model: ex.EntropyMatching | ex.ExactModel, data: jax.Array, key: jax.Array, times: int = 100
) -> jax.Array:
    """Entropy by a trapezoid over uniform times from 1e-3, the same samples at each."""
    process = model.process
    grid = jnp.linspace(1e-3, 1.0, times)

    def rate(s: jax.Array) -> jax.Array:
        z = jax.random.normal(jax.random.fold_in(key, jnp.int32(1e6 * s)), data.shape)
        field = jax.vmap(lambda x, z: model.entropy_field(s, process.perturb(s, x, z)))(data, z)
        return process.sigma_squared(s) / 2 * jnp.mean(jnp.sum(field**2, axis=-1))

    return jnp.trapezoid(jax.lax.map(rate, grid), grid)


def table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print one table."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    print(title)
    for row in [header, ["-" * w for w in widths], *rows]:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())

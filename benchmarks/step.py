"""Time of a training step, interleaved: `ex.fit`, a plain compiled loop, and four seeds at once.

The last row is the products of matrices that a step cannot do without: of the layers forward, and
of the gradients by weights and by inputs backward.
"""

import statistics
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import entropix as ex
from benchmarks.yardstick import batch_loss, mixture, processes, table
from entropix.networks import trainable


STEPS, ROUNDS, BATCH, DRAWS = 200, 7, 32, 10


def plain_loop(model: ex.EntropyMatching, data: jax.Array) -> Callable[[], object]:
    """Adam in a `fori_loop`, uniform times, nothing else."""
    optimiser = optax.adam(1e-3)
    params, static = eqx.partition(model.network, trainable(model.network))

    @jax.jit
    def run(params, data, key):
        def body(i, carry):
            params, state = carry
            index_key, noise_key = jax.random.split(jax.random.fold_in(key, i))
            x = data[jax.random.randint(index_key, (BATCH,), 0, data.shape[0])]

            def loss(params):
                network = eqx.combine(params, static)
                return batch_loss(
                    eqx.tree_at(lambda m: m.network, model, network), x, noise_key, DRAWS
                )

            updates, state = optimiser.update(jax.grad(loss)(params), state)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, STEPS, body, (params, optimiser.init(params)))

    return lambda: jax.block_until_ready(run(params, data, jax.random.key(0)))


def products(network: ex.FourierMLP) -> Callable[[], object]:
    """The products of as many steps, each waiting for the one before."""
    first, *others = network.layers
    # Nothing needs the gradient by the network's input, nor by the embedding of time.
    layers = [(first, False), *((e, False) for e in network.embeddings)]
    layers += [(layer, True) for layer in (*others, network.head)]
    rows = BATCH * DRAWS
    arrays = [
        (jnp.ones((rows, w.shape[1])), w.T, jnp.ones((rows, w.shape[0])))
        for w in (layer.weight for layer, _ in layers)
    ]

    @jax.jit
    def run(arrays):
        def step(shift):
            return [
                ((x + shift) @ w, (x + shift).T @ g, (g + shift) @ w.T if inner else ())
                for (x, w, g), (_, inner) in zip(arrays, layers, strict=True)
            ]

        # What one step returns shifts the next: the compiler has to do all of them.
        def body(_, out):
            return step(1e-30 * out[0][0][0, 0])

        return jax.lax.fori_loop(0, STEPS - 1, body, step(jnp.zeros(())))

    return lambda: jax.block_until_ready(run(arrays))


def main() -> None:
    """Print the table."""
    process = processes()["VPx"]
    data = mixture(3).sample(8192, key=jax.random.key(0))
    scaling = ex.GaussianScaling.from_data(data, process)

    def make(key: jax.Array) -> ex.EntropyMatching:
        return ex.EntropyMatching(ex.FourierMLP(3, key=key), process, scaling)

    keys = jax.random.split(jax.random.key(1), 4)
    once = ex.training.Callback(lambda *_: None, every=STEPS)  # all steps as one chunk
    options = {"steps": STEPS, "callback": once}
    runs = {
        "plain compiled loop": plain_loop(make(keys[0]), data),
        "ex.fit": lambda: ex.fit(make(keys[0]), data, key=keys[0], **options),
        "ex.fit_ensemble, 4 seeds": lambda: ex.fit_ensemble(make, data, keys=keys, **options),
        "its matrix products alone": products(make(keys[0]).network),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(ROUNDS + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:  # the first round compiles
                times[name].append(time.perf_counter() - start)
    base = times["plain compiled loop"]
    one = times["ex.fit"]

    def ratio(name: str, to: list[float]) -> str:
        return f"{statistics.median(a / b for a, b in zip(times[name], to, strict=True)):.2f}"

    table(
        f"Training step: batch {BATCH}, {DRAWS} draws, widths (512, 256), D = 3 on "
        f"{jax.devices()[0]}",
        ["run", "ms a step (median)", "ratio to the plain loop", "ratio to one seed"],
        [
            [name, f"{1e3 * statistics.median(t) / STEPS:.2f}", ratio(name, base), ratio(name, one)]
            for name, t in times.items()
        ],
    )


if __name__ == "__main__":
    main()

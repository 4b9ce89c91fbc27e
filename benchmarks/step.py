"""Time of a training step, interleaved: `ex.fit`, a plain compiled loop, four seeds, PyTorch.

The row of products is what a step cannot do without: of the layers forward, and of the gradients by
weights and by inputs backward, for every draw, as JAX writes them. Its share of `ex.fit` is that of
the table; times are those of the processor, which other programs disturb least. PyTorch takes the
same batches, network, loss and optimiser step by step, if it is installed.
"""

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import entropix as ex
from benchmarks.reference import batch_loss, mixture, processes, table
from entropix.networks import trainable


BATCH, DRAWS, DIM = 32, 10, 3
# Widths, and how many steps a timing takes.
SHAPES = {(512, 256): 200, (1024,) * 4: 20}


def plain_loop(model: ex.EntropyMatching, data: jax.Array, steps: int) -> Callable[[], object]:
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

        return jax.lax.fori_loop(0, steps, body, (params, optimiser.init(params)))

    return lambda: jax.block_until_ready(run(params, data, jax.random.key(0)))


def products(network: ex.FourierMLP, steps: int) -> Callable[[], object]:
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

        return jax.lax.fori_loop(0, steps - 1, body, step(jnp.zeros(())))

    return lambda: jax.block_until_ready(run(arrays))


def in_pytorch(widths: Sequence[int], steps: int, *, compiled: bool) -> Callable[[], object] | None:
    """The same network, loss and optimiser in PyTorch; None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    nn, features = torch.nn, 64

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            pairs = list(zip((DIM, *widths), widths, strict=False))
            self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairs)
            self.embeddings = nn.ModuleList(nn.Linear(features, w, bias=False) for w in widths)
            self.norms = nn.ModuleList(nn.LayerNorm(w) for w in widths)
            self.head = nn.Linear(widths[-1], DIM)
            self.register_buffer("frequencies", 2 * torch.randn(features // 2))

        def forward(self, log_snr: Any, y: Any) -> Any:
            level = 2 / math.pi * torch.atan(log_snr / 4)
            angles = math.pi * level[:, None] * self.frequencies
            embedded = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
            for layer, of_level, norm in zip(self.layers, self.embeddings, self.norms, strict=True):
                y = nn.functional.silu(norm(layer(y) + of_level(embedded)))
            return self.head(y)

    network = Network()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
    data = torch.randn(8192, DIM)

    def loss(x: Any, s: Any, z: Any) -> Any:
        scale = torch.exp(-(0.05 * s + 3.975 * s**2))  # VP, beta from 0.1 to 16
        std = torch.sqrt(1 - scale**2)
        y = scale[:, None] * x + std[:, None] * z
        field = network(2 * torch.log(scale / std), y)
        return torch.mean(torch.sum((std[:, None] * field + z) ** 2, dim=1))

    evaluated = torch.compile(loss) if compiled else loss

    def run() -> None:
        for _ in range(steps):
            x = data[torch.randint(len(data), (BATCH,))].repeat_interleave(DRAWS, 0)
            s = 1e-5 + (1 - 1e-5) * torch.rand(BATCH * DRAWS)
            optimiser.zero_grad()
            evaluated(x, s, torch.randn_like(x)).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1e3)
            optimiser.step()

    return run


def main() -> None:
    """Print one table for each shape of the network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--widths", type=int, nargs="*", help="of one network; all if not given")
    parser.add_argument("--quick", action="store_true", help="without four seeds")
    options = parser.parse_args()
    process = processes()["VPx"]
    data = mixture(DIM).sample(8192, key=jax.random.key(0))
    scaling = ex.GaussianScaling.from_data(data, process)
    given_widths = options.widths and tuple(options.widths)
    for widths, steps in SHAPES.items():
        if given_widths not in (None, widths):
            continue

        def make(key: jax.Array, widths: tuple[int, ...] = widths) -> ex.EntropyMatching:
            return ex.EntropyMatching(ex.FourierMLP(DIM, key=key, widths=widths), process, scaling)

        keys = jax.random.split(jax.random.key(1), 4)
        model = make(keys[0])
        once = ex.training.Callback(lambda *_: None, every=steps)  # all steps as one chunk
        given: dict[str, Any] = {"steps": steps, "callback": once}
        runs: dict[str, Callable[[], object] | None] = {
            "ex.fit": lambda m=model, g=given: ex.fit(m, data, key=jax.random.key(1), **g),
            "plain compiled loop": plain_loop(model, data, steps),
            "ex.fit_ensemble, 4 seeds": None
            if options.quick
            else lambda k=keys, g=given, make=make: ex.fit_ensemble(make, data, keys=k, **g),
            "its matrix products alone": products(model.network, steps),
            "PyTorch, eager": in_pytorch(widths, steps, compiled=False),
            "PyTorch, torch.compile": in_pytorch(widths, steps, compiled=True),
        }
        times: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(options.rounds + 1):
            for name, run in list(runs.items()):
                if run is None:
                    continue
                start = time.process_time()
                try:
                    run()
                except Exception as error:  # such as a C++ compiler that torch.compile lacks
                    if not name.startswith("PyTorch"):
                        raise
                    print(f"{name}: {type(error).__name__}")
                    runs[name] = None
                    continue
                if number:  # the first round compiles
                    times[name].append(time.process_time() - start)
        one = times["ex.fit"]
        found = {name: t for name, t in times.items() if t and runs[name] is not None}
        table(
            f"Training step: batch {BATCH}, {DRAWS} draws, widths {widths}, D = {DIM}, on "
            f"{jax.devices()[0].device_kind}, {len(os.sched_getaffinity(0))} cores",
            ["run", "processor ms a step", "relative to ex.fit"],
            [
                [
                    name,
                    f"{1e3 * statistics.median(t) / steps:.2f}",
                    f"{statistics.median(a / b for a, b in zip(t, one, strict=True)):.2f}",
                ]
                for name, t in found.items()
            ],
        )
        print()


if __name__ == "__main__":
    main()

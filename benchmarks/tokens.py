"""Models of tokens: speed against matrix products, and trained networks against known laws.

The first table takes a transformer for 32 of 27 tokens, interleaved: a training step beside its
matrix products, as JAX writes them, forward and backward; and the entropy beside the network alone,
for the same number of sequences. The second trains networks on samples of an Ising ring and of
a Markov chain, whose entropies and likelihoods are known.
"""

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import entropix as ex
from benchmarks.reference import table
from entropix.networks import trainable


LENGTH, TOKENS, BATCH, DRAWS, STEPS, SEQUENCES = 32, 27, 16, 2, 20, 2048


# ------------------------------------------------------------------ speed


def products_of(jaxpr: Any) -> Iterator[Any]:
    """The products of matrices in a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products_of(inner)


def alone(found: list[Any], repeats: int) -> Callable[[], object]:
    """These products, each time waiting for the ones before."""
    operands = [[jnp.ones(v.aval.shape, v.aval.dtype) for v in e.invars] for e in found]

    @jax.jit
    def run(operands: Any) -> Any:
        def once(shift: Any) -> list[Any]:
            return [
                e.primitive.bind(a + shift, b, **e.params)
                for e, (a, b) in zip(found, operands, strict=True)
            ]

        # What one round returns shifts the next: the compiler has to do all of them.
        def body(_: Any, out: Any) -> Any:
            return once(1e-30 * out[0].ravel()[0])

        return jax.lax.fori_loop(0, repeats - 1, body, once(jnp.zeros(())))

    return lambda: jax.block_until_ready(run(operands))


def speed(rounds: int, width: int, depth: int) -> None:
    """Print the first table."""
    process = ex.Masking(TOKENS, ex.LinearSchedule())
    key, states = jax.random.key(0), process.num_states
    network = ex.TokenTransformer(
        (LENGTH,), states, width=width, depth=depth, time_dependent=False, key=key
    )
    model = ex.MaskedDenoiser(network, process, shape=(LENGTH,))
    data = jax.random.randint(key, (SEQUENCES, LENGTH), 0, TOKENS).astype(float)
    params, static = eqx.partition(network, trainable(network))

    def loss(params: Any, rows: jax.Array) -> jax.Array:
        return jnp.sum(jax.vmap(lambda r: eqx.combine(params, static)(0.0, r))(rows) ** 2)

    rows = jnp.ones((BATCH * DRAWS, *network.shape))
    found = list(products_of(jax.make_jaxpr(jax.grad(loss))(params, rows).jaxpr))
    once = ex.training.Callback(lambda *_: None, every=STEPS)  # all steps as one chunk
    given: dict[str, Any] = {"steps": STEPS, "batch_size": BATCH, "callback": once}
    given["loss"] = ex.training.TokenDenoising(num_draws=DRAWS)
    entropy = {"key": key, "num_evaluations": SEQUENCES}
    count = ex.neural_entropy(model, data, **entropy).num_evaluations
    given_rows = jax.nn.one_hot(data[:count].astype(int), states)

    @eqx.filter_jit
    def forward(network: Any, rows: jax.Array) -> jax.Array:
        return jax.lax.map(lambda r: network(0.0, r), rows, batch_size=2048 // LENGTH)

    runs = {
        "training step": lambda: ex.fit(model, data, key=key, **given),
        "its matrix products": alone(found, STEPS),
        "neural entropy": lambda: ex.neural_entropy(model, data, **entropy),
        "the network alone": lambda: jax.block_until_ready(forward(network, given_rows)),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if number:  # the first round compiles
                times[name].append(time.process_time() - start)
    lines = []
    for name, against, per in (
        ("training step", "its matrix products", STEPS),
        ("neural entropy", "the network alone", count),
    ):
        share = statistics.median(b / a for a, b in zip(times[name], times[against], strict=True))
        taken = 1e3 * statistics.median(times[name]) / per
        lines.append([name, f"{taken:.3g}", against, f"{share:.0%}"])
    table(
        f"Transformer of width {width} and depth {depth}, {BATCH} x {DRAWS} sequences of {LENGTH} "
        f"a step, on {jax.devices()[0].device_kind}, {len(os.sched_getaffinity(0))} cores",
        ["run", "processor ms, a step or evaluation", "against", "its share of the time"],
        lines,
    )


# ------------------------------------------------------------------ trained networks


Law = tuple[np.ndarray, np.ndarray, float]


def ising_ring(length: int, number: int, rng: np.random.Generator) -> Law:
    """Samples, their log-probabilities, and ln K^D - H, for J = 0.5."""
    spins = np.stack(np.meshgrid(*[[-1, 1]] * length, indexing="ij"), axis=-1).reshape(-1, length)
    logs = 0.5 * np.sum(spins * np.roll(spins, 1, axis=1), axis=1)
    logs -= np.log(np.sum(np.exp(logs)))
    index = rng.choice(len(spins), number, p=np.exp(logs))
    stored = length * math.log(2) + float(np.sum(np.exp(logs) * logs))
    return (spins[index] + 1) // 2, logs[index], stored


def markov_chain(
    tokens: int, length: int, number: int, rng: np.random.Generator
) -> tuple[Any, ...]:
    """The same of a stationary chain with random transitions."""
    matrix = rng.dirichlet(np.full(tokens, 0.5), tokens)
    start = np.linalg.matrix_power(matrix, 10_000)[0]
    x = np.empty((number, length), int)
    x[:, 0] = rng.choice(tokens, number, p=start / start.sum())
    for i in range(1, length):
        below = np.cumsum(matrix, axis=1)[x[:, i - 1], :-1]
        x[:, i] = np.sum(rng.random((number, 1)) > below, axis=1)
    logs = np.log(start)[x[:, 0]] + np.sum(np.log(matrix)[x[:, :-1], x[:, 1:]], axis=1)
    rate = -float(np.sum(start[:, None] * matrix * np.log(matrix)))
    entropy = -float(np.sum(start * np.log(start))) + (length - 1) * rate
    return x, logs, length * math.log(tokens) - entropy


def trained(name: str, law: Law, tokens: int, steps: int, width: int) -> list[str]:
    """One line of the second table."""
    x, logs, stored = law
    process = ex.Masking(tokens, ex.LinearSchedule())
    keys = jax.random.split(jax.random.key(0), 4)
    held = 2000
    network = ex.TokenTransformer(
        x.shape[1:], process.num_states, width=width, depth=2, time_dependent=False, key=keys[0]
    )
    model = ex.MaskedDenoiser(network, process, shape=x.shape[1:])
    start = time.process_time()
    model = ex.fit(
        model,
        x[held:],
        key=keys[1],
        steps=steps,
        batch_size=64,
        learning_rate=optax.cosine_decay_schedule(2e-3, steps),
        loss=ex.training.TokenDenoising(num_draws=2),
    ).model
    taken = time.process_time() - start
    entropy = ex.neural_entropy(model, x[:held], key=keys[2])
    bound = ex.log_prob(model, x[:held], key=keys[3], method=ex.PathBound(64))
    # The mean over sequences is the path KL, without what their likelihoods differ by.
    gap = logs[:held] - np.asarray(bound.value)
    error = np.std(gap) / math.sqrt(held)
    return [
        name,
        f"{taken:.0f}",
        f"{stored:.3f}",
        f"{entropy}",
        f"{float(entropy.value) / stored - 1:+.1%}",
        f"{np.mean(gap):.4f} ± {error:.4f}",
        f"{np.mean(gap) * 16 / x.shape[1]:.4f}",
    ]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3000, help="of the trainings; 0 for none")
    options = parser.parse_args()
    speed(options.rounds, options.width, options.depth)
    if not options.steps:
        return
    print()
    rng = np.random.default_rng(0)
    laws = {
        "Ising ring of 16 spins": (ising_ring(16, 42_000, rng), 2),
        "Markov chain, 5 states, length 16": (markov_chain(5, 16, 42_000, rng), 5),
    }
    table(
        f"Trained for {options.steps} steps on 40,000 samples, in nats",
        [
            "law",
            "processor s",
            "D ln K - H",
            "neural entropy",
            "difference",
            "gap of the bound (path KL)",
            "of 16 tokens",
        ],
        [trained(name, law, k, options.steps, 64) for name, (law, k) in laws.items()],
    )


if __name__ == "__main__":
    main()

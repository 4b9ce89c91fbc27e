"""Models of tokens: speed against matrix products, and trained networks against known laws.

The first table takes a transformer for 32 of 27 tokens, interleaved: a training step beside its
matrix products, as JAX writes them, forward and backward; and the entropy beside the network alone,
for the same number of sequences. The second trains networks on samples of an Ising ring and of
a Markov chain, whose entropies and likelihoods are known. The third estimates the mutual
information of two sequences from samples, a task like those of INFO-SEDD (2502.19183): the pairs of
tokens at the same site are independent of each other, and their mutual information is given.
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
import scipy.optimize
import scipy.stats

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


def laws() -> dict[str, ex.models.ExactChain]:
    """An Ising ring, J = 0.5, and a stationary Markov chain with random transitions."""
    couplings = 0.5 * np.array([[1.0, -1.0], [-1.0, 1.0]])
    schedule, length, states = ex.LinearSchedule(), 16, 5
    ring = ex.models.ExactChain(
        np.zeros((length, 2)), couplings, ex.Masking(2, schedule), periodic=True
    )
    transition = np.random.default_rng(0).dirichlet(np.full(states, 0.5), states)
    initial = np.linalg.matrix_power(transition, 1000)[0]
    chain = ex.models.ExactChain.markov(
        initial, transition, ex.Masking(states, schedule), length=length
    )
    return {"Ising ring, 16 spins": ring, f"Markov chain, {length} of {states} states": chain}


def fitted(
    shape: tuple[int, ...], process: Any, data: Any, keys: tuple[Any, Any], steps: int
) -> tuple[Any, float]:
    """A small transformer after its training, and the processor time that this took."""
    network = ex.TokenTransformer(
        shape, process.num_states, width=64, depth=2, time_dependent=False, key=keys[0]
    )
    start = time.process_time()
    model = ex.fit(
        ex.MaskedDenoiser(network, process, shape=shape),
        data,
        key=keys[1],
        steps=steps,
        batch_size=64,
        learning_rate=optax.cosine_decay_schedule(2e-3, steps),
        loss=ex.training.TokenDenoising(num_draws=2),
    ).model
    return model, time.process_time() - start


def trained(name: str, exact: ex.models.ExactChain, steps: int) -> list[str]:
    """One line of the second table."""
    process, number = exact.process, 40_000
    keys = jax.random.split(jax.random.key(0), 7)
    data, held_out = (exact.sample(number, key=key) for key in keys[:2])
    model, taken = fitted(exact.shape, process, data, (keys[2], keys[3]), steps)
    produced = math.prod(exact.shape) * math.log(process.num_tokens) - float(exact.entropy())
    stored = ex.neural_entropy(model, held_out, key=keys[4])
    distance = ex.path_kl(model, exact, held_out, key=keys[4], num_evaluations=4096)
    few = held_out[:500]
    bound = ex.log_prob(model, few, key=keys[5], method=ex.PathBound(128))
    gap = np.asarray(exact.log_prob(few) - bound.value)
    drawn = ex.sample(model, key=keys[6], num_samples=2000, solver=ex.dynamics.FirstHitting())
    # Energies are likelihoods under the exact law; equal ones are rounded alike.
    energies = [np.round(-np.asarray(exact.log_prob(x)), 3) for x in (drawn, held_out)]
    agreement: Any = scipy.stats.ks_2samp(energies[0], energies[1])
    return [
        name,
        f"{taken:.0f}",
        f"{produced:.3f}",
        f"{stored}",
        f"{float(stored.value) / produced - 1:+.1%}",
        f"{distance}",
        f"{np.mean(gap):.3f} ± {np.std(gap) / math.sqrt(len(gap)):.3f}",
        f"{agreement.pvalue:.2f}",
    ]


# ------------------------------------------------------------------ mutual information


# K, length of each sequence, mutual information of the two sequences in nats.
PAIRS = ((4, 5, 1.0), (4, 5, 4.0), (16, 5, 4.0), (4, 10, 4.0), (4, 10, 10.0))


def joint(tokens: int, nats: float) -> np.ndarray:
    """The law of two tokens, equal with some probability or else uniform, that share `nats`."""

    def table_of(equal: float) -> np.ndarray:
        return equal * np.eye(tokens) / tokens + (1 - equal) / tokens**2

    def shared(equal: float) -> float:
        p = table_of(equal)
        return float(np.sum(p * np.log(p * tokens**2)))

    found: Any = scipy.optimize.brentq(lambda equal: shared(equal) - nats, 0.0, 1 - 1e-12)
    return table_of(found)


def shared_by_pairs(tokens: int, pairs: int, nats: float, steps: int) -> list[str]:
    """One line of the third table."""
    law, rng, number = joint(tokens, nats / pairs), np.random.default_rng(0), 20_000
    cells = rng.choice(tokens**2, p=law.ravel(), size=(2 * number, pairs))
    rows = np.concatenate([cells // tokens, cells % tokens], axis=1).astype(np.float32)
    process = ex.Masking(tokens, ex.LinearSchedule())
    keys = jax.random.split(jax.random.key(1), 3)
    model, taken = fitted((2 * pairs,), process, rows[:number], (keys[0], keys[1]), steps)
    first = ex.models.TokenBlock(model, range(pairs))
    x, y = rows[number:, :pairs], rows[number:, pairs:]
    found = ex.mutual_information(first, x, y, key=keys[2])
    cells = np.log(law * tokens**2)[x.astype(int), y.astype(int)]
    of_samples = cells.sum(axis=1)
    return [
        f"{tokens}",
        f"{pairs}",
        f"{nats:g}",
        f"{np.mean(of_samples):.3f} ± {np.std(of_samples) / math.sqrt(number):.3f}",
        f"{found}",
        f"{float(found.mc_stderr):.3f}",
        f"{taken:.0f}",
    ]


def main() -> None:
    """Print the tables."""
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
    table(
        f"Transformers of width 64 and depth 2, trained for {options.steps} steps; in nats",
        [
            "law",
            "processor s",
            "D ln K - H",
            "neural entropy",
            "difference",
            "path KL",
            "gap of the likelihood bound",
            "p-value of energies (Kolmogorov-Smirnov)",
        ],
        [trained(name, exact, options.steps) for name, exact in laws().items()],
    )
    print()
    table(
        f"Mutual information of two sequences, in nats: one network, {options.steps} steps",
        [
            "tokens",
            "length of each",
            "truth",
            "exact, for these samples",
            "estimate",
            "its Monte Carlo error",
            "processor s",
        ],
        [shared_by_pairs(*pair, options.steps) for pair in PAIRS],
    )


if __name__ == "__main__":
    main()

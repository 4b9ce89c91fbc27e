"""How costs grow: with evaluations, samples, dimension, width, batch and seeds.

The first table takes a neural entropy apart. The second varies one size of each function at a time,
and fits an exponent to the processor times of calls that compile nothing. With arguments, such as
`sample log_prob:D`, only the rows of the second table for these functions, or for these sizes of
them, are printed.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

import entropix as ex
from benchmarks.reference import table


ROUNDS, WIDTHS = 3, (512, 256)
# What is varied, one at a time, around the first of each.
SIZES = {
    "evaluations": (16_384, 4096, 65_536),
    "N": (8192, 512, 131_072),
    "D": (8, 64, 784),
    "seeds": (1, 2, 4),
}


def product_rate(dim: int, rows: int = 4096) -> float:
    """Operations a second of the network's own matrix products, and nothing else."""
    sizes = (dim, *WIDTHS, dim)
    shapes = list(itertools.pairwise(sizes))
    key = jax.random.key(0)
    x = jax.random.normal(key, (rows, dim))
    weights = [jax.random.normal(key, shape) / shape[0] ** 0.5 for shape in shapes]

    @jax.jit
    def run(x: jax.Array, weights: list[jax.Array]) -> jax.Array:
        for weight in weights:
            x = x @ weight
        return x

    jax.block_until_ready(run(x, weights))
    taken = []
    for _ in range(9):
        start = time.perf_counter()
        jax.block_until_ready(run(x, weights))
        taken.append(time.perf_counter() - start)
    return 2 * rows * sum(a * b for a, b in shapes) / statistics.median(taken)


def problem(size: dict[str, int]) -> tuple[Callable, Any, jax.Array]:
    """A compiled entropy of untrained networks, one for each seed, and its arguments."""
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    data = 0.5 * jax.random.normal(jax.random.key(0), (size["N"], size["D"]))
    scaling = ex.GaussianScaling.from_data(data, process)

    def make(key: jax.Array) -> ex.EntropyMatching:
        network = ex.FourierMLP(size["D"], widths=WIDTHS, key=key)
        # The last layer starts at zero, which a control variate would find too easy.
        head = jax.random.normal(key, network.head.weight.shape) / WIDTHS[-1] ** 0.5
        network = eqx.tree_at(lambda n: n.head.weight, network, head)
        return ex.EntropyMatching(network, process, scaling)

    keys = jax.random.split(jax.random.key(1), size["seeds"])
    # Training for one step is the public way to stack networks.
    fits = ex.fit_ensemble(make, data[:32], keys=keys, steps=1, learning_rate=1e-6)
    arrays, static = eqx.partition(fits, eqx.is_array)

    @jax.jit
    def run(arrays: Any, data: jax.Array, key: jax.Array) -> jax.Array:
        def entropy(model: Any) -> jax.Array:
            count = size["evaluations"]
            return ex.neural_entropy(model, data, key=key, num_evaluations=count).value

        return eqx.combine(arrays, static).map(entropy)

    return run, arrays, data


def measure(size: dict[str, int]) -> list[str]:
    """One row: times, compilation, memory, and the share of the matrix-product rate."""
    run, arrays, data = problem(size)
    begin = time.perf_counter()
    compiled = run.lower(arrays, data, jax.random.key(2)).compile()
    compilation = time.perf_counter() - begin
    taken, rates = [], []
    for number in range(ROUNDS + 1):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(arrays, data, jax.random.key(number)))
        if number:
            taken.append(time.perf_counter() - begin)
            rates.append(product_rate(size["D"]))
    network = ex.FourierMLP(size["D"], widths=WIDTHS, key=jax.random.key(0))
    operations = ex.networks.network_size(network).flops
    operations *= size["evaluations"] * size["seeds"]
    share = statistics.median(operations / t / r for t, r in zip(taken, rates, strict=True))
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return [
        f"{statistics.median(taken):.2f}",
        f"{compilation:.1f}",
        f"{memory:.0f}",
        f"{share:.0%}",
    ]


# ------------------------------------------------------------------ exponents

# The sizes around which one is varied. Training takes `STEPS` steps in all.
USUAL = {"D": 8, "N": 8192, "width": 256, "batch": 128, "seeds": 1, "evaluations": 16_384}
USUAL |= {"samples": 1024, "points": 1024}
STEPS = 100
VARIED: dict[str, dict[str, tuple[int, ...]]] = {
    "neural_entropy": {
        "evaluations": (4096, 16_384, 65_536, 262_144),
        "D": (2, 8, 64, 784, 3072),
        "N": (1000, 10_000, 100_000, 1_000_000),
        "width": (64, 128, 256, 512, 1024),
    },
    "fit": {
        "batch": (32, 128, 512, 2048),
        "D": (2, 8, 64, 784, 3072),
        "N": (1000, 10_000, 100_000, 1_000_000),
        "width": (64, 128, 256, 512, 1024),
        "seeds": (1, 2, 4, 8, 16),
    },
    "log_prob": {"points": (256, 1024, 4096), "D": (2, 8, 64, 784, 3072)},
    "sample": {"samples": (256, 1024, 4096, 16_384), "D": (2, 8, 64, 784, 3072)},
    "wasserstein, exact": {"points": (500, 1000, 2000, 4000), "D": (2, 8, 64, 784)},
    "wasserstein, quantised": {"points": (10_000, 100_000, 1_000_000)},
}


def call(name: str, size: dict[str, int]) -> Callable[[jax.Array], Any]:
    """A function of a key that takes what is to be timed."""
    dim, count = size["D"], size["points"] if "wasserstein" in name else size["N"]
    rng = np.random.default_rng(0)
    data = rng.normal(size=(count, dim)).astype(np.float32)
    if "wasserstein" in name:
        other = rng.normal(size=(count, dim)).astype(np.float32)
        method = "assignment" if "exact" in name else "quantised"
        return lambda key: ex.wasserstein(data, other, method=method).value
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    scaling = ex.GaussianScaling.from_data(data[:4096], process)

    def make(key: jax.Array) -> ex.EntropyMatching:
        network = ex.FourierMLP(dim, widths=(size["width"],) * 2, key=key)
        return ex.EntropyMatching(network, process, scaling)

    if name == "fit":
        options = {"steps": STEPS, "batch_size": size["batch"], "progress": False}
        return lambda key: (
            ex.fit_ensemble(
                make, data, keys=jax.random.split(key, size["seeds"]), **options
            ).history.loss
        )
    model, few = make(jax.random.key(0)), data[: size["points"]]
    if name == "neural_entropy":
        count = size["evaluations"]
        return lambda key: ex.neural_entropy(model, data, key=key, num_evaluations=count).value
    if name == "log_prob":
        method = ex.PathBound(16)
        return lambda key: ex.log_prob(model, few, key=key, method=method).value
    return lambda key: ex.sample(model, key=key, num_samples=size["samples"])


def processor_time(run: Callable[[jax.Array], Any]) -> float:
    """Seconds of a call, the least of three after the first."""
    taken = []
    for number in range(4):
        begin = time.process_time()
        jax.block_until_ready(run(jax.random.key(number)))
        taken.append(time.process_time() - begin)
    return min(taken[1:])


def exponents(chosen: list[str]) -> None:
    """Print the second table, or some of its rows."""
    rows = []
    for name, sizes in VARIED.items():
        for axis, values in sizes.items():
            if chosen and not {name, f"{name}:{axis}"} & set(chosen):
                continue
            taken = [processor_time(call(name, USUAL | {axis: value})) for value in values]
            both = np.log(values), np.log(taken)
            whole = np.polyfit(*both, 1)[0]
            last = np.diff(both[1])[-1] / np.diff(both[0])[-1]
            listed = ", ".join(f"{t:.3g}" for t in taken)
            shown = ", ".join(map(str, values))
            rows.append([name, axis, shown, listed, f"{whole:.2f}", f"{last:.2f}"])
            print(*rows[-1], sep=" | ", flush=True)
    header = [
        "function",
        "size",
        "values",
        "seconds of processor time",
        "exponent",
        "of the last two",
    ]
    table("Cost against one size at a time", header, rows)


def main() -> None:
    """Print both tables, or the chosen rows of the second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chosen", nargs="*", help="rows of the second table; all if not given")
    chosen = parser.parse_args().chosen
    if chosen:
        exponents(chosen)
        return
    base = {name: values[0] for name, values in SIZES.items()}
    cases = [base] + [
        base | {name: value} for name, values in SIZES.items() for value in values[1:]
    ]
    table(
        f"Neural entropy of FourierMLP, widths {WIDTHS}",
        [*SIZES, "seconds", "to compile (s)", "memory (MiB)", "of the matrix-product rate"],
        [[*map(str, case.values()), *measure(case)] for case in cases],
    )
    exponents(chosen)


if __name__ == "__main__":
    main()

"""How the cost of a neural entropy grows: with evaluations, samples, dimension and seeds."""

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

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


def main() -> None:
    """Print the table."""
    base = {name: values[0] for name, values in SIZES.items()}
    cases = [base] + [
        base | {name: value} for name, values in SIZES.items() for value in values[1:]
    ]
    table(
        f"Neural entropy of FourierMLP, widths {WIDTHS}",
        [*SIZES, "seconds", "to compile (s)", "memory (MiB)", "of the matrix-product rate"],
        [[*map(str, case.values()), *measure(case)] for case in cases],
    )


if __name__ == "__main__":
    main()

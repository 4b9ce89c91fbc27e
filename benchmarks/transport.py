"""Time, sampling bias and error of each distance between samples, against their number.

Two Gaussians in D dimensions with a known W2: what the distance of n samples is above it, what a
null of the same size is, how much the value scatters over new samples, and what it says of that.
Times are of the CPU, without compilation,
per call.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import entropix as ex
from benchmarks.reference import table


def samples(key: jax.Array, n: int, dim: int) -> tuple[jax.Array, jax.Array]:
    """N(0, 1) and N(m, 1/4), with |m| = 1."""
    z = jax.random.normal(key, (2, n, dim))
    return z[0], dim**-0.5 + z[1] / 2


def main(repeats: int = 20, sizes: tuple[int, ...] = (250, 1000), large: int = 2000) -> None:
    """Print the table."""
    rows = []

    def add(name: str, n: int, dim: int, exact: float, distance: Callable, count: int) -> None:
        keys = jax.random.split(jax.random.key(len(rows)), count + 1)
        runs, seconds = [], []
        for i, key in enumerate(keys):
            x, y = samples(key, n, dim)
            start = time.process_time()
            run = distance(x, y, key)
            jax.block_until_ready(run.value)
            if i > 0:  # the first compiles
                seconds.append(time.process_time() - start)
                runs.append(run)
        values = jnp.stack([run.value for run in runs])
        fresh = jax.random.split(jax.random.key(1000 + len(rows)), len(keys))
        nulls = [
            distance(samples(a, n, dim)[0], samples(b, n, dim)[0], a).value
            for a, b in zip(keys[1:3], fresh[1:3], strict=True)
        ]
        rows.append(
            [
                name,
                str(dim),
                str(n),
                f"{min(seconds):.3f}",
                f"{exact:.3f}",
                f"{float(jnp.mean(values)) - exact:+.3f}",
                f"{float(jnp.mean(jnp.stack(nulls))):.3f}",
                f"{float(jnp.std(values, ddof=1)):.3f}",
                f"{float(jnp.sqrt(jnp.mean(jnp.stack([r.stderr for r in runs]) ** 2))):.3f}",
            ]
        )

    def exactly(x: jax.Array, y: jax.Array, key: jax.Array) -> ex.transport.Wasserstein:
        return ex.wasserstein(x, y)

    def regularised(x: jax.Array, y: jax.Array, key: jax.Array) -> ex.transport.Wasserstein:
        return ex.wasserstein(x, y, method="sinkhorn")

    def in_slices(x: jax.Array, y: jax.Array, key: jax.Array) -> ex.Estimate:
        return ex.transport.sliced_wasserstein(x, y, key=key)

    for dim in (1, 2, 10):
        w2, sliced = (1 + dim / 4) ** 0.5, (1 / dim + 1 / 4) ** 0.5
        for n in sizes:
            name = "sorted" if dim == 1 else "assignment"
            add(name, n, dim, w2, exactly, repeats)
            if dim > 1:
                add("sliced", n, dim, sliced, in_slices, repeats)
    for dim in (2, 10):
        w2 = (1 + dim / 4) ** 0.5
        add("sinkhorn", large, dim, w2, regularised, 3)
    header = ["distance", "D", "n", "CPU s", "exact", "bias", "null", "scatter", "stderr"]
    table("W2 between N(0, 1) and N(m, 1/4), |m| = 1 (data units)", header, rows)


def against_pot(sizes: tuple[int, ...] = (1000, 2000), rounds: int = 3) -> None:
    """Exact and quantised W2 against POT alone, interleaved."""
    import ot
    from scipy.spatial.distance import cdist

    def alone(x: np.ndarray, y: np.ndarray) -> Any:
        mass = np.full(len(x), 1 / len(x))
        cost: Any = ot.emd2(mass, mass, cdist(x, y, "sqeuclidean"), numItermax=10**9)
        return cost**0.5

    def exact(x: np.ndarray, y: np.ndarray) -> Any:
        return ex.wasserstein(x, y, method="assignment")

    def in_cells(x: np.ndarray, y: np.ndarray) -> Any:
        return ex.wasserstein(x, y, method="quantised", max_exact=len(x) // 4)

    rows = []
    for dim in (2, 10):
        for n in sizes:
            x, y = (np.asarray(v, np.float64) for v in samples(jax.random.key(n), n, dim))
            times, results = [], []
            for i in range(rounds + 1):
                took = []
                for call in (alone, exact, in_cells):
                    start = time.process_time()
                    results.append(call(x, y))
                    float(results[-1])
                    took.append(time.process_time() - start)
                times += [took] if i > 0 else []  # the first compiles
            pot, ours, coarse = (min(column) for column in zip(*times, strict=True))
            value, same, other = results[-3:]
            low, high = (float(bound) / value - 1 for bound in (other.lower, other.upper))
            rows.append(
                [
                    str(dim),
                    str(n),
                    f"{pot:.2f}",
                    f"{ours / pot:.2f}",
                    f"{abs(float(same) / value - 1):.0e}",
                    f"{coarse / pot:.2f}",
                    f"{float(other) / value - 1:+.4f}",
                    f"[{low:+.3f}, {high:+.3f}]",
                ]
            )
    header = ["D", "n", "POT, CPU s", "exact", "apart", "n/4 cells", "off by", "bounds"]
    table("\nExact and quantised W2, in times of cdist and ot.emd2", header, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--large", type=int, default=2000)
    parser.add_argument("--exact", type=int, nargs="*", default=(1000, 2000))
    args = parser.parse_args()
    if args.repeats:
        main(args.repeats, large=args.large)
    against_pot(tuple(args.exact))

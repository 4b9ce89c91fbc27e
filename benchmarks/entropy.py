"""Error of the neural entropy against the number of field evaluations."""

import jax
import jax.numpy as jnp

import entropix as ex
from benchmarks.reference import mixture, processes, table, trapezoid_entropy


REPEATS, SAMPLES, POPULATION = 20, 10_000, 1_000_000


def main(dims: tuple[int, ...] = (2, 3)) -> None:
    """Print the table."""
    rows, narrow = [], ex.Gaussian([0.0], [[1e-4]])
    vp, vpx = processes().values()
    # Name, distribution, process, number of points; of a population, the trapezoid takes a part.
    cases = [(f"VP, D = {dim}", mixture(dim), vp, SAMPLES) for dim in dims]
    cases += [(f"VP, D = {dim}, population", mixture(dim), vp, POPULATION) for dim in dims]
    cases += [("VPx, D = 3", mixture(3), vpx, SAMPLES), ("VP, N(0, 1e-4)", narrow, vp, SAMPLES)]
    for name, distribution, process, size in cases:
        model = ex.ExactModel(distribution, process)
        points = distribution.sample(size, key=jax.random.key(0))
        best = ex.neural_entropy(model, points, key=jax.random.key(2), num_evaluations=2_000_000)

        def rms(values: list[jax.Array], target: jax.Array = best.value) -> float:
            return float(jnp.sqrt(jnp.mean((jnp.stack(values) - target) ** 2)))

        keys = jax.random.split(jax.random.key(3), REPEATS)
        first = jax.random.permutation(jax.random.key(4), size)[: REPEATS * SAMPLES]
        parts = jnp.resize(first, (REPEATS, SAMPLES))  # the same points again if there are no more
        theirs = rms(
            [trapezoid_entropy(model, points[i], key) for i, key in zip(parts, keys, strict=True)]
        )
        rows.append([name, "trapezoid, 100 x 10,000", "1000000", f"{theirs:.4f}", ""])
        for count in (2_048, 10_000, 50_000):
            runs = [ex.neural_entropy(model, points, key=k, num_evaluations=count) for k in keys]
            error = rms([run.value for run in runs])
            # Evaluations the trapezoid's error would cost here: error^2 falls like 1 / count.
            ratio = 1e6 / (count * (error / theirs) ** 2)
            rows.append([name, "entropix", str(count), f"{error:.4f}", f"{ratio:.0f}x"])
    table(
        f"Root mean square error of the entropy of {SAMPLES} given points, or {POPULATION} (nats)",
        ["case", "scheme", "evaluations", "error", "fewer evaluations at equal error"],
        rows,
    )


if __name__ == "__main__":
    main()

"""Error of the neural entropy against the number of field evaluations."""

import jax
import jax.numpy as jnp

import entropix as ex
from benchmarks.reference import mixture, processes, table, trapezoid_entropy


REPEATS, SAMPLES = 20, 10_000


def main() -> None:
    """Print the table."""
    truth, rows = mixture(3), []
    data = truth.sample(SAMPLES, key=jax.random.key(0))
    narrow = ex.Gaussian([0.0], [[1e-4]])
    cases = [(name, truth, process, data) for name, process in processes().items()]
    cases.append(
        (
            "VP, N(0, 1e-4)",
            narrow,
            processes()["VP"],
            narrow.sample(SAMPLES, key=jax.random.key(1)),
        )
    )
    for name, distribution, process, points in cases:
        model = ex.ExactModel(distribution, process)
        best = ex.neural_entropy(model, points, key=jax.random.key(2), num_evaluations=2_000_000)

        def rms(values: list[jax.Array], target: jax.Array = best.value) -> float:
            return float(jnp.sqrt(jnp.mean((jnp.stack(values) - target) ** 2)))

        keys = jax.random.split(jax.random.key(3), REPEATS)
        theirs = rms([trapezoid_entropy(model, points, key) for key in keys])
        rows.append([name, "trapezoid, 100 x 10,000", "1000000", f"{theirs:.4f}", ""])
        for count in (2_048, 10_000, 40_000):
            runs = [ex.neural_entropy(model, points, key=k, num_evaluations=count) for k in keys]
            error = rms([run.value for run in runs])
            # Evaluations the trapezoid's error would cost here: error^2 falls like 1 / count.
            ratio = 1e6 / (count * (error / theirs) ** 2)
            rows.append([name, "entropix", str(count), f"{error:.4f}", f"{ratio:.0f}x"])
    table(
        f"Root mean square error of the entropy of {SAMPLES} given points (nats)",
        ["case", "scheme", "evaluations", "error", "fewer evaluations at equal error"],
        rows,
    )


if __name__ == "__main__":
    main()

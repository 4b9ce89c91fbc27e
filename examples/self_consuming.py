"""Models trained on their own samples over several generations, and the entropy they lose.

Each generation is trained on the samples of the previous one. If samples replace the data, the
entropy decreases; for Gaussian data and a perfect learner the closed form is E[ln det C] of a
sample covariance C. If samples are added to all earlier data, it hardly decreases (arXiv
2402.11778, 2404.02325; accumulation: 2404.01413). Networks are compared with the perfect learner.

    python examples/self_consuming.py --out self_consuming.png
"""

import argparse
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.scipy.special import digamma

import entropix as ex


DIM, SPREAD = 2, 0.5
PROCESS = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))


def entropy(data: jax.Array) -> jax.Array:
    """Differential entropy of the Gaussian with the moments of the data, in nats."""
    return jnp.linalg.slogdet(2 * jnp.pi * jnp.e * jnp.cov(data.T, bias=True))[1] / 2


@eqx.filter_jit
def perfect(pool: jax.Array, n: int, key: jax.Array) -> jax.Array:
    """Sample with the exact score of a Gaussian with the moments of the pool."""
    fitted = ex.Gaussian(jnp.mean(pool, axis=0), jnp.cov(pool.T, bias=True))
    return ex.sample(ex.ExactModel(fitted, PROCESS), key=key, num_samples=n, num_steps=16)


def network(pool: jax.Array, n: int, key: jax.Array, steps: int) -> tuple[jax.Array, jax.Array]:
    model_key, fit_key, entropy_key, key = jax.random.split(key, 4)
    scaling = ex.GaussianScaling.from_data(pool, PROCESS)
    model = ex.EntropyMatching(ex.FourierMLP(DIM, widths=(64, 64), key=model_key), PROCESS, scaling)
    model = ex.fit(model, pool, key=fit_key, steps=steps).model
    stored = ex.neural_entropy(model, pool, key=entropy_key, num_evaluations=2048, cutoff=0.02)
    return ex.sample(model, key=key, num_samples=n), stored.value


def generations(key, n: int, count: int, steps: int | None, accumulate: bool) -> np.ndarray:
    """(entropy of the samples, S_NN of the model) of each generation; steps=None: perfect."""
    pool = SPREAD * jax.random.normal(key, (n, DIM))
    course = [(float(entropy(pool)), np.nan)]
    for generation in range(1, count + 1):
        step_key = jax.random.fold_in(key, generation)
        if steps is None:
            samples, stored = perfect(pool, n, step_key), np.nan
        else:
            samples, stored = network(pool, n, step_key, steps)
        course.append((float(entropy(samples)), float(stored)))
        pool = jnp.concatenate([pool, samples]) if accumulate else samples
    return np.array(course)


def main(
    out: Path, n: int = 64, count: int = 8, seeds: tuple = (100, 10), steps: int = 500
) -> dict:
    """Replace or accumulate, with both learners; returns each change of entropy and its error."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    order = (n - 1 - jnp.arange(DIM)) / 2  # of the chi-squared factors of det C
    per_generation = float(jnp.sum(digamma(order) - jnp.log(n / 2)) / 2)
    ages = np.arange(count + 1)
    left.plot(ages, per_generation * ages, "k:", label="perfect, replaced: exact")
    result = {"exact": count * per_generation}
    for learner, number, length in (("perfect", seeds[0], None), ("network", seeds[1], steps)):
        for way, accumulate in (("replaced", False), ("accumulated", True)):
            keys = jax.random.split(jax.random.key(0), number)
            runs = np.stack([generations(k, n, count, length, accumulate) for k in keys])
            runs[..., 0] -= runs[:, :1, 0]  # relative to the data of the same seed
            mean, error = runs.mean(axis=0), runs.std(axis=0, ddof=1) / np.sqrt(number)
            result[learner, way] = (mean[-1, 0], error[-1, 0])
            print(f"{learner}, {way:<12} entropy {mean[-1, 0]:+.3f} ± {error[-1, 0]:.3f} nats")
            style = {"fmt": "o-" if length else "--", "ms": 3, "color": f"C{int(accumulate)}"}
            left.errorbar(ages, mean[:, 0], error[:, 0], label=f"{learner}, {way}", **style)
            if length:
                right.errorbar(ages[1:], mean[1:, 1], error[1:, 1], label=way, **style)
    print(f"closed form           entropy {result['exact']:+.3f} nats")
    left.set(xlabel="generation", ylabel="entropy of its samples, less the data's (nats)")
    right.set(xlabel="generation", ylabel=r"$S_{NN}$ from noise 0.02 on (nats)")
    left.legend(fontsize="small")
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("self_consuming.png"))
    main(parser.parse_args().out)

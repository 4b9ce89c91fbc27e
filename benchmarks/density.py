"""Variance of per-sample log densities, per evaluation of the field."""

import equinox as eqx
import jax
import jax.numpy as jnp

import entropix as ex
from benchmarks.yardstick import mixture, processes, table


@eqx.filter_jit
def plain_variance(model: ex.ExactModel, x: jax.Array, key: jax.Array) -> jax.Array:
    """Variance of one draw of the path bound at a uniform time, averaged over samples."""
    process = model.process

    def one(x: jax.Array, key: jax.Array) -> jax.Array:
        time_key, noise_key = jax.random.split(key)
        s = jax.random.uniform(time_key, minval=1e-5)
        z = jax.random.normal(noise_key, x.shape)
        y = process.perturb(s, x, z)
        score = model.score(s, y)
        drift = process.drift(s, y) - process.sigma_squared(s) * score
        return process.sigma_squared(s) / 2 * jnp.sum(score**2) - drift @ z / process.std(s)

    keys = jax.random.split(key, (x.shape[0], 4096))
    draws = jax.lax.map(lambda a: jnp.var(jax.vmap(lambda k: one(a[0], k))(a[1])), (x, keys))
    return jnp.mean(draws)


def main() -> None:
    """Print the table."""
    rows = []
    for dim in (2, 3):
        truth = mixture(dim)
        x = truth.sample(500, key=jax.random.key(0))
        for name, process in processes().items():
            model = ex.ExactModel(truth, process)
            result = ex.log_prob(model, x, key=jax.random.key(1), method=ex.PathBound(128))
            ours = float(jnp.mean(result.stderr**2)) * result.num_evaluations
            theirs = float(plain_variance(model, x, jax.random.key(2)))
            error = float(jnp.sqrt(jnp.mean((result.value - truth.log_prob(x)) ** 2)))
            rows.append(
                [
                    str(dim),
                    name,
                    f"{theirs:.3g}",
                    f"{ours:.3g}",
                    f"{theirs / ours:.0f}x",
                    f"{error:.3f}",
                    f"{float(jnp.mean(result.stderr)):.3f}",
                ]
            )
    table(
        "Variance per evaluation of a sample's log density (nats^2), exact model",
        [
            "D",
            "process",
            "plain uniform times",
            "PathBound",
            "gain",
            "rms error at 128",
            "mean standard error",
        ],
        rows,
    )


if __name__ == "__main__":
    main()

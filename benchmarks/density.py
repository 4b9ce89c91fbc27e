"""Variance, cost and error of per-sample log densities."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import entropix as ex
from benchmarks.reference import mixture, processes, table


METHODS = {
    "PathBound(128)": ex.PathBound(128),
    "PathBound(1024)": ex.PathBound(1024),
    "DenoisingError(128)": ex.DenoisingError(128),
    "ProbabilityFlow()": ex.ProbabilityFlow(),
    "ProbabilityFlow('hutchinson')": ex.ProbabilityFlow("hutchinson"),
    "Jarzynski(64, 64)": ex.density.Jarzynski(num_paths=64, num_steps=64),
}


def groups(dim: int) -> ex.GaussianMixture:
    """The mixture of the paper where it has one, else five unequal groups."""
    if dim <= 3:
        return mixture(dim)
    rng = np.random.default_rng(0)
    stds = rng.uniform(0.3, 0.9, (5, 1)) * np.ones(dim)
    return ex.GaussianMixture(rng.uniform(0.5, 1.5, 5), rng.normal(size=(5, dim)), stds)


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


_CALLS: list[int] = []


class Counted(eqx.Module):
    """The exact velocity, which counts its evaluations."""

    model: ex.ExactModel

    def __call__(self, log_snr: jax.Array, y: jax.Array, condition: None = None) -> jax.Array:
        jax.debug.callback(lambda: _CALLS.append(1))
        return self.model.velocity(self.model.process.time_of_log_snr(log_snr), y)


def evaluations(
    truth: ex.ExactModel, x: jax.Array, method: ex.ProbabilityFlow
) -> tuple[float, int]:
    """Evaluations of the field per sample by adaptive steps, and Jacobian products in each."""
    _CALLS.clear()
    model = ex.VelocityPrediction(Counted(truth), truth.process, shape=x.shape[1:])
    options = {"method": method, "key": jax.random.key(0), "chunk_size": 1}
    jax.block_until_ready(ex.log_prob(model, x, **options).value)
    jax.effects_barrier()
    products = method.num_directions(x.shape[1])
    return len(_CALLS) / x.shape[0], products


def variances() -> None:
    """Print the variance of the path bound against that of plain Monte Carlo."""
    rows = []
    for dim in (2, 3, 20):
        truth = groups(dim)
        x = truth.sample(500, key=jax.random.key(0))
        for name, process in processes().items():
            model = ex.ExactModel(truth, process)
            theirs = float(plain_variance(model, x, jax.random.key(2)))
            for method in (ex.PathBound(128), ex.DenoisingError(128)):
                result = ex.log_prob(model, x, key=jax.random.key(1), method=method)
                ours = float(jnp.mean(result.stderr**2)) * result.num_evaluations
                error = float(jnp.sqrt(jnp.mean((result.value - truth.log_prob(x)) ** 2)))
                rows.append(
                    [
                        str(dim),
                        name,
                        type(method).__name__,
                        f"{theirs:.3g}",
                        f"{ours:.3g}",
                        f"{theirs / ours:.3g}x",
                        f"{error:.3f}",
                        f"{float(jnp.mean(result.stderr)):.3f}",
                    ]
                )
    table(
        "Variance per evaluation of a sample's log density (nats^2), exact model",
        [
            "D",
            "process",
            "method",
            "plain uniform times",
            "here",
            "gain",
            "rms error at 128",
            "mean standard error",
        ],
        rows,
    )


def methods() -> None:
    """Print what every method costs and how far it is from the exact log density."""
    rows = []
    for dim in (2, 20):
        truth = groups(dim)
        x = truth.sample(200, key=jax.random.key(0))
        model = ex.ExactModel(truth, processes()["VP"])
        for name, method in METHODS.items():
            result = ex.log_prob(model, x, key=jax.random.key(1), method=method)
            cost = float(result.num_evaluations)
            if isinstance(method, ex.ProbabilityFlow):
                count, products = evaluations(model, x[:10], method)
                cost = count * (1 + products)
            elif isinstance(method, ex.density.Jarzynski):
                cost *= dim + 4  # the divergence, and three nodes of Simpson's rule
            error = result.value - truth.log_prob(x)
            rows.append(
                [
                    str(dim),
                    name,
                    f"{cost:.0f}",
                    f"{float(jnp.sqrt(jnp.mean(error**2))):.2g}",
                    f"{float(jnp.mean(error)):.1g}",
                    f"{float(jnp.sqrt(jnp.mean(result.stderr**2))):.2g}",
                ]
            )
    table(
        "\nLog densities of 200 samples by every method, VP, exact model (nats)",
        ["D", "method", "evaluations", "rms error", "mean error", "stated error"],
        rows,
    )


def main() -> None:
    """Print both tables."""
    variances()
    methods()


if __name__ == "__main__":
    main()

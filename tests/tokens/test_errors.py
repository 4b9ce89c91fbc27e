"""Standard errors of models of tokens are honest, and parts add up to the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import quick_jit
from tests.tokens.systems import exact, negentropy


K, D = 3, 3


def estimates(process, table, key):
    """S_tot, path KL, total correlation and log p of a law, and of one that is close to it."""
    keys = jax.random.split(key, 5)
    model, other = exact(table, process), exact(0.5 * table, process)
    p = jnp.exp(model.log_weights)
    marginals = [jnp.log(jnp.sum(p, [j for j in range(D) if j != i])) for i in range(D)]
    data = model.sample(1000, key=keys[0])
    few = {"num_evaluations": 4096}
    singles = [exact(marginal, process) for marginal in marginals]
    found = [
        ex.neural_entropy(model, data, key=keys[1], **few),
        ex.path_kl(other, model, data, key=keys[2], **few),
        ex.total_correlation(model, singles, data, key=keys[3], **few),
    ]
    entropies = [exact(marginal, process).entropy() for marginal in marginals]
    equilibrium = sum(
        process.log_equilibrium.reshape([-1 if j == i else 1 for j in range(D)]) for i in range(D)
    )
    gap = jnp.sum(p * (model.log_weights - other.log_weights))
    truths = [
        jnp.sum(p * (model.log_weights - equilibrium)),
        gap,
        sum(entropies) - model.entropy(),
    ]
    few_data = data[:16]
    density = ex.log_prob(model, few_data, key=keys[4], method=ex.PathBound(64))
    errors = jnp.stack([density.value - model.log_prob(few_data), density.stderr])
    standard = [(e.value - t) / e.stderr for e, t in zip(found, truths, strict=True)]
    return jnp.stack(standard), errors


@pytest.mark.slow(reason="repeats of all integrals, each with data of its own")
@pytest.mark.parametrize("kind", ["masking", "jumps"])
def test_errors_are_honest(kind):
    """Root mean squares of (value - truth)/error over drawn laws and rates, all near one."""
    program, rng = quick_jit(estimates), np.random.default_rng(0)
    found = []
    for key in jax.random.split(jax.random.key(0), 60):
        table = np.log(rng.dirichlet(np.full(K**D, rng.uniform(0.5, 3)))).reshape((K,) * D)
        process = ex.Masking(K, ex.LinearSchedule())
        if kind == "jumps":
            law = rng.dirichlet(np.full(K, 5.0))
            rates = rng.uniform(0.2, 1, (K, K))
            rates = (rates + rates.T) * law
            process = ex.processes.TokenJumps(rates, ex.processes.CosineSchedule())
        found.append(program(process, jnp.asarray(table, float), key))
    standard, errors = (np.stack(part) for part in zip(*found, strict=True))
    rms = np.sqrt(np.mean(standard**2, axis=0))
    assert np.all((rms > 0.7) & (rms < 1.35))  # 60 repeats know each to 9%
    assert 0.8 < np.sqrt(np.mean(standard**2)) < 1.25
    assert np.all(np.abs(np.mean(standard, axis=0)) < 4 / np.sqrt(60))
    # Of single sequences with few evaluations, whose stated errors scatter as well.
    scatter, stated = np.sqrt(np.mean(errors**2, axis=(0, 2)))
    assert 0.8 < scatter / stated < 1.25


@pytest.mark.slow(reason="an integral for each sample")
def test_parts_add_up():
    """Over sites and samples the sums are the total of the same evaluations, which is right."""
    rng = np.random.default_rng(1)
    table = np.log(rng.dirichlet(np.ones(K**D)).reshape((K,) * D))
    model = exact(table, ex.Masking(K, ex.LinearSchedule()))
    data, options = model.sample(64, key=jax.random.key(0)), {"num_evaluations": 2048}
    key = jax.random.key(1)
    parts = ex.entropy_curve(
        model, data, key=key, per_coordinate=True, per_sample=True, num_times=5, **options
    )
    assert parts.value.shape == (64, D)
    assert np.allclose(jnp.mean(jnp.sum(parts.value, axis=1)), parts.total.value, rtol=1e-5)
    assert abs(float(parts.total.sigmas_from(negentropy(table)))) < 4

"""Diffused densities solve the Fokker-Planck equation of every process, in float64.

With the current velocity v the equation reads d log p / ds = -div v - v . grad log p. Nothing in
the test knows how a density was diffused: it differentiates `log_prob` in time and space.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import (
    DISTRIBUTIONS,
    FEW,
    KINDS,
    PROCESSES,
    finite_difference,
    numbers,
    quick_jit,
    quick_rows,
    small_gaussian,
)


POINTS = [[0.5, -0.3], [-1.0, 0.2], [0.1, 0.9], [1.3, 0.4]]
# The densities meet a process only through its coefficients: one of them goes through a few
# processes (with the slow tests, through all), all of them through processes with static and moving
# equilibrium.
PAIRS = quick_rows(
    [
        *((p, "mixture") for p in FEW),
        *((p, d) for p in ("vpx", "subvp") for d in ("gaussian", "empirical")),
    ],
    [(p, "mixture") for p in PROCESSES if p not in FEW],
)
BUILD = DISTRIBUTIONS | {"empirical": lambda: ex.Empirical(POINTS)}


@quick_jit
def fields_at(distribution, process, s, z):
    model = ex.ExactModel(distribution, process)

    def log_prob(s, y):
        return distribution.diffused(process, s).log_prob(y)

    @jax.vmap
    def fields(s, z):
        # Where the density is: data plus noise.
        y = process.scale(s) * z[:2] + process.std(s) * z[2:]
        rate = jax.jvp(lambda s: log_prob(s, y), (s,), (jnp.ones_like(s),))[1]
        return {
            "y": y,
            "rate": rate,
            "gradient": jax.grad(log_prob, 1)(s, y),
            "score": model.score(s, y),
            "velocity": model.velocity(s, y),
            "divergence": jnp.trace(jax.jacfwd(model.velocity, 1)(s, y)),
            "entropy field": model.entropy_field(s, y),
            "denoised": distribution.denoise(process, s, y),
            "equilibrium score": process.equilibrium_score(s, y),
            "drift": process.drift(s, y),
            "mu": process.scale(s)[None],
            "var": process.var(s)[None],
            "sigma2": process.sigma_squared(s)[None],
        }

    return fields(s, z)


@pytest.mark.parametrize(("process", "distribution"), PAIRS)
def test_fokker_planck(process, distribution, x64, getkey):
    process, distribution = PROCESSES[process](), BUILD[distribution]()
    s = jnp.linspace(0.05, 0.95, 7)
    f = fields_at(distribution, process, s, jax.random.normal(getkey(), (7, 4)))
    score, velocity, y = f["score"], f["velocity"], f["y"]
    # Differences of large terms in the definitions below set the scale of their rounding.
    size = float(jnp.max(jnp.abs(score)) + jnp.max(jnp.abs(velocity)))

    def close(a, b, rtol=1e-9):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12 * (1 + size))

    close(score, f["gradient"])
    transport = -f["divergence"] - jnp.sum(velocity * score, -1)
    np.testing.assert_allclose(f["rate"], transport, rtol=1e-8, atol=1e-12 * (1 + size) ** 2)
    close(f["entropy field"], score - f["equilibrium score"])
    close(f["denoised"], (y + f["var"] * score) / f["mu"])
    close(velocity, f["drift"] - f["sigma2"] / 2 * score)
    close(velocity, -f["sigma2"] / 2 * f["entropy field"])


@pytest.mark.parametrize(
    ("process", "distribution"),
    quick_rows(
        [*((p, "mixture") for p in FEW), ("vpx", "empirical")],
        [(p, "mixture") for p in (*KINDS, "vp-cosine") if p not in FEW],
    ),
)
def test_gradient_in_every_number(process, distribution, x64, getkey):
    """Process, density, time and state together: automatic against finite differences."""
    process_numbers, build_process = numbers(PROCESSES[process]())
    density_numbers, build_density = numbers(BUILD[distribution]())
    split = np.cumsum([process_numbers.size, density_numbers.size])
    weight = jax.random.normal(getkey(), (3, 2))

    def everything(v):
        a, b, rest = jnp.split(v, split)
        model = ex.ExactModel(build_density(b), build_process(a))
        s, y = rest[0], rest[1:]
        fields = (model.score(s, y), model.entropy_field(s, y), model.velocity(s, y))
        density = model.distribution.diffused(model.process, s).log_prob(y)
        return density + jnp.sum(weight * jnp.stack(fields))

    value_and_grad = quick_jit(jax.vmap(jax.value_and_grad(everything)))
    v = jnp.concatenate([process_numbers, density_numbers, jnp.asarray([0.37, 0.4, -0.6])])
    gradient = value_and_grad(jnp.tile(v, (4 * v.size, 1)))[1][0]
    expected = finite_difference(value_and_grad, v)[0]
    size = np.max(np.abs(expected))
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8 * size)


def test_gradient_in_a_covariance(x64, getkey):
    """Of density and field under diffusion, to second order: the spectrum is only a cache."""
    rows, columns = np.tril_indices(2)
    gaussian = small_gaussian()
    weight = jax.random.normal(getkey(), (2,))
    y = jnp.asarray([0.4, -0.6])

    def everything(v):
        lower = jnp.zeros((2, 2)).at[rows, columns].set(v)
        density = ex.Gaussian(gaussian.mean, lower + jnp.tril(lower, -1).T)
        process = ex.RectifiedFlow()
        field = density.entropy_field(process, 0.4, y)
        return density.diffused(process, 0.4).log_prob(y) + field @ weight

    @quick_jit
    @jax.vmap
    def derivatives(v):
        gradient = jax.grad(everything)
        return everything(v), gradient(v), jax.jacrev(gradient)(v)

    v = np.asarray(gaussian.covariance)[rows, columns]
    _, gradient, hessian = (d[0] for d in derivatives(np.tile(v, (4 * v.size, 1))))
    by_value, by_gradient, _ = finite_difference(derivatives, v)
    np.testing.assert_allclose(gradient, by_value, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(hessian, by_gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [*DISTRIBUTIONS, "empirical"])
def test_diffusing_twice_is_diffusing_once(name, x64):
    """A density remembers nothing: the diffused density is again one, with the same fields."""
    distribution = BUILD[name]()
    vp = PROCESSES["vp"]()
    # Stop at s, and go on for the rest of B as another VP process would.
    s, rest = 0.3, ex.VariancePreserving(ex.LinearSchedule(2.0, 2.0))
    later = vp.schedule.inverse(vp.schedule.integral(s) + rest.schedule.integral(0.4))
    y = jnp.asarray([0.4, -0.9])

    @quick_jit
    def compare(y):
        twice = distribution.diffused(vp, s).diffused(rest, 0.4)
        once = distribution.diffused(vp, later)
        middle = distribution.diffused(vp, s)
        return (
            (twice.log_prob(y), once.log_prob(y)),
            (twice.score(y), once.score(y)),
            (middle.entropy_field(rest, 0.4, y), distribution.entropy_field(vp, later, y)),
        )

    for one, other in compare(y):
        np.testing.assert_allclose(one, other, rtol=1e-11)

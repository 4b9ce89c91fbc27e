"""A Gaussian path from functions is the process those functions describe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import all_finite, cosine_scale, exponential_scale, quick_jit, sine_std


def straight(s):
    return 1 - s


def identity(s):
    return s


def constant(s):
    return 1.0


def geometric(s):
    return 0.01 * jnp.sqrt(jnp.expm1(2 * jnp.log(2000.0) * s))


@pytest.mark.parametrize(
    ("path", "process"),
    [
        (lambda: ex.GaussianPath(cosine_scale, sine_std), lambda: ex.CosinePath()),
        (lambda: ex.GaussianPath(straight, identity), lambda: ex.RectifiedFlow()),
        (lambda: ex.GaussianPath(constant, geometric), lambda: ex.VarianceExploding(0.01, 20.0)),
    ],
    ids=["cosine", "rectified flow", "variance exploding"],
)
def test_is_the_named_process(path, process, x64):
    path, process = path(), process()

    @quick_jit
    def coefficients(p, s):
        return (
            p.scale(s),
            p.std(s),
            p.scale_rate(s),
            p.var_rate(s),
            p.log_snr(s),
            p.equilibrium_precision(s),
            p.equilibrium_gain(s),
            p.scaled_sigma_squared(s),
            p.time_of_log_snr(np.linspace(-8.0, 30.0, s.size)),
            p.noise_budget(),
        )

    s = np.linspace(0.01, 0.99, 31)
    for ours, theirs in zip(coefficients(path, s), coefficients(process, s), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-13)


def test_derivatives_at_the_data_end_are_limits(x32):
    """sqrt has an infinite slope at zero; the variance it makes has slope one."""
    path = ex.GaussianPath(exponential_scale, jnp.sqrt)

    @quick_jit
    def at_start(s):
        values = (path.var, path.var_rate, jax.grad(path.var), path.scale_rate)
        ratios = (path.equilibrium_precision, path.equilibrium_gain)
        return [f(s) for f in values + ratios], jax.grad(path.std)(s)

    values, slope = at_start(0.0)
    np.testing.assert_allclose(values, [0.0, 1.0, 1.0, -1.0, 2.0, 1.0], rtol=1e-6)
    assert all_finite(slope)


def test_slope_of_a_scale_that_ends_at_zero(x32):
    """The clip that removes rounding below zero does not halve or hide the slope."""
    for scale in (straight, cosine_scale):
        path = ex.GaussianPath(scale, identity)
        assert path.scale(1.0) == 0
        np.testing.assert_allclose(path.scale_rate(1.0), jax.grad(scale)(1.0), rtol=1e-6)
        np.testing.assert_allclose(jax.grad(path.scale)(1.0), jax.grad(scale)(1.0), rtol=1e-6)


@pytest.mark.slow  # estimates of its own
def test_same_functions_make_equal_trees():
    """Named functions do; two lambdas are two functions, and would compile twice."""
    one, two = (ex.GaussianPath(cosine_scale, sine_std) for _ in range(2))
    assert jax.tree.structure(one) == jax.tree.structure(two)
    other = ex.GaussianPath(lambda s: cosine_scale(s), sine_std)
    assert jax.tree.structure(one) != jax.tree.structure(other)

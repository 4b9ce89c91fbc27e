"""What no distribution can be made of, or evaluated at: a ValueError that names the argument."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.distributions import IsotropicGaussian
from tests.helpers import as_shipped, small_gaussian, small_mixture


NAN, INF = float("nan"), float("inf")
EYE = np.eye(2)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: ex.Gaussian(0.0, 1.0), "mean"),
        (lambda: ex.Gaussian([], np.zeros((0, 0))), "mean"),
        (lambda: ex.Gaussian([0.0, NAN], EYE), "mean"),
        (lambda: ex.Gaussian(["a", "b"], EYE), "mean"),
        (lambda: ex.Gaussian([0.0, 1.0], np.eye(3)), "covariance"),
        (lambda: ex.Gaussian([0.0, 1.0], [1.0, 1.0]), "covariance"),
        (lambda: ex.Gaussian([0.0, 1.0], [[1.0, INF], [INF, 1.0]]), "covariance"),
        (lambda: ex.Gaussian([0.0, 1.0], [[1.0, 0.3], [0.2, 1.0]]), "covariance.*symmetric"),
        (lambda: ex.Gaussian([0.0, 1.0], [[1.0, 2.0], [2.0, 1.0]]), "covariance.*definite"),
        (lambda: ex.Gaussian([0.0, 1.0], np.zeros((2, 2))), "covariance.*definite"),
        (lambda: ex.GaussianMixture(1.0, [[0.0]], [[1.0]]), "weights"),
        (lambda: ex.GaussianMixture([], np.zeros((0, 2)), np.ones((0, 2))), "weights"),
        (lambda: ex.GaussianMixture([0.5, -0.5], [[0.0], [1.0]], [[1.0], [1.0]]), "weights"),
        (lambda: ex.GaussianMixture([1.0, 0.0], [[0.0], [1.0]], [[1.0], [1.0]]), "weights"),
        (lambda: ex.GaussianMixture([1.0, NAN], [[0.0], [1.0]], [[1.0], [1.0]]), "weights"),
        (lambda: ex.GaussianMixture([0.5, 0.5], [[0.0]], [[1.0]]), "means"),
        (lambda: ex.GaussianMixture([0.5, 0.5], [0.0, 1.0], [1.0, 1.0]), "means"),
        (lambda: ex.GaussianMixture([1.0], np.zeros((1, 0)), np.ones((1, 0))), "means"),
        (lambda: ex.GaussianMixture([1.0], [[INF]], [[1.0]]), "means"),
        (lambda: ex.GaussianMixture([1.0], [[0.0, 1.0]], [[1.0]]), "stds"),
        (lambda: ex.GaussianMixture([1.0], [[0.0]], [[0.0]]), "stds"),
        (lambda: ex.GaussianMixture([1.0], [[0.0]], [[-1.0]]), "stds"),
        (lambda: ex.GaussianMixture([1.0], [[0.0]], [[NAN]]), "stds"),
        (lambda: ex.Empirical([0.0, 1.0]), "points"),
        (lambda: ex.Empirical(np.zeros((0, 2))), "points"),
        (lambda: ex.Empirical(np.zeros((3, 0))), "points"),
        (lambda: ex.Empirical(np.zeros((2, 3, 4))), "points"),
        (lambda: ex.Empirical([[0.0, NAN]]), "points"),
        (lambda: ex.Empirical([[0.0, 1.0]]).log_prob(jnp.zeros(2)), "diffused"),
        (lambda: ex.Empirical([[0.0, 1.0]]).score(jnp.zeros(2)), "diffused"),
        (lambda: IsotropicGaussian((2,), 0.0), "std"),
        (lambda: IsotropicGaussian((2,), [1.0, 2.0]), "std"),
        (lambda: IsotropicGaussian((2,), 1.0).log_prob(jnp.zeros((4, 3))), "`y`"),
        (lambda: IsotropicGaussian((2, 3), 1.0).log_prob(jnp.zeros(3)), "`y`"),
    ],
)
def test_static_mistakes(make, name):
    with as_shipped(), pytest.raises(ValueError, match=name):
        make()


@pytest.mark.parametrize("make", [small_gaussian, small_mixture, lambda: ex.Empirical(EYE)])
def test_states_of_another_dimension(make):
    """Shapes that would broadcast to a wrong answer in silence: (..., 1) for D = 2, and batches."""
    distribution, vp = make(), ex.CosinePath()
    marginal = distribution.diffused(vp, 0.5)
    key = jax.random.key(0)
    with as_shipped():
        for x in (jnp.zeros(1), jnp.zeros((2, 1)), jnp.zeros(3), jnp.zeros(())):
            for method in (marginal.log_prob, marginal.score):
                with pytest.raises(ValueError, match="`x`"):
                    method(x)
        for y in (jnp.zeros(1), jnp.zeros((2, 2)), jnp.zeros((3, 2)), jnp.zeros(())):
            for d in (distribution, marginal):
                with pytest.raises(ValueError, match="`y`"):
                    d.denoise(vp, 0.5, y)
                with pytest.raises(ValueError, match="`y`"):
                    d.entropy_field(vp, 0.5, y)
        for n in (0, -1, 2.0, "3", True):
            for d in (distribution, marginal):
                with pytest.raises(ValueError, match="`n`"):
                    d.sample(n, key=key)


@pytest.mark.parametrize(
    ("make", "good", "bad", "name"),
    [
        (lambda v: ex.Gaussian([0.0, 0.0], EYE + v * EYE[::-1]), 0.5, 1.5, "covariance"),
        (lambda v: ex.Gaussian([v, 0.0], EYE), 0.5, NAN, "mean"),
        (lambda v: ex.GaussianMixture([1.0], [[0.0, 0.0]], [[1.0, v]]), 0.5, -1.0, "stds"),
        (lambda v: ex.GaussianMixture([1.0], [[v, 0.0]], [[1.0, 1.0]]), 0.5, INF, "means"),
        (lambda v: ex.GaussianMixture([1.0, v], EYE, EYE + 1), 0.5, 0.0, "weights"),
        (lambda v: ex.Empirical(v * EYE).diffused(ex.CosinePath(), 0.5), 0.5, NAN, "points"),
    ],
)
def test_mistakes_known_only_under_jit(make, good, bad, name):
    @eqx.filter_jit
    def log_prob(value):
        return make(value).log_prob(jnp.zeros(2))

    assert jnp.isfinite(log_prob(jnp.asarray(good)))
    with pytest.raises(RuntimeError, match=name):
        jax.block_until_ready(log_prob(jnp.asarray(bad)))

"""The log density of a flow without a score: that of what it samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import quick_jit
from tests.models.flows import Straight, straight_flow


def exact(x, m=0.7, v=0.4):
    return -jnp.sum((x - m) ** 2, axis=-1) / (2 * v) - x.shape[-1] / 2 * jnp.log(2 * jnp.pi * v)


@pytest.mark.slow
def test_log_prob_of_the_map():
    x = 0.7 + 0.6 * jax.random.normal(jax.random.key(0), (32, 2))
    found = ex.log_prob(straight_flow(dim=2), x, method=ex.ProbabilityFlow())
    np.testing.assert_allclose(found.value, exact(x), atol=2e-4)
    assert not np.any(found.stderr)
    # The divergence is isotropic: probes of +-1 have no variance.
    method = ex.ProbabilityFlow("hutchinson", num_probes=4)
    probed = ex.log_prob(straight_flow(dim=2), x, key=jax.random.key(1), method=method)
    np.testing.assert_allclose(probed.value, exact(x), atol=2e-4)


@pytest.mark.slow
def test_gradient():
    x = jnp.asarray([[0.3], [1.4]])

    def mean(numbers):
        flow = ex.FlowMatching(Straight(*numbers), ex.RectifiedFlow(), shape=(1,))
        return jnp.mean(ex.log_prob(flow, x, method=ex.ProbabilityFlow()).value)

    at = jnp.asarray([0.7, 0.4])
    expected = quick_jit(jax.grad(lambda n: jnp.mean(exact(x, *n))))(at)
    assert quick_jit(jax.grad(mean))(at) == pytest.approx(np.asarray(expected), rel=2e-3)

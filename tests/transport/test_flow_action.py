"""Action, length and bending of flows, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import quick_jit
from tests.models.flows import Straight, straight_flow


@pytest.mark.slow  # a flow of its own
def test_of_the_optimal_map():
    x = 0.7 + 0.4**0.5 * jax.random.normal(jax.random.key(0), (500, 1))
    found = ex.transport.flow_action(straight_flow(), x, num_steps=5)
    moved = (x - 0.7) / 0.4**0.5 - x
    expected = float(jnp.mean(moved**2))
    assert float(found.action.value) == pytest.approx(expected, rel=1e-4)
    assert float(found.displacement.value) == pytest.approx(expected, rel=1e-4)
    assert float(found.length.value) == pytest.approx(expected**0.5, rel=1e-4)
    assert float(found.bending.value) == pytest.approx(0.0, abs=1e-5)
    back = ex.transport.flow_action(straight_flow(), x, direction="reverse", num_steps=5)
    assert float(back.displacement.value) != pytest.approx(expected, rel=1e-2)  # from noise


@pytest.mark.slow(reason="a solve")
def test_of_independent_pairs():
    """Conditional optimal transport of N(m, v): action m^2 + 1 + v - (pi / 2) sqrt(v)."""
    m, v = 0.7, 0.4
    model = ex.ExactModel(ex.Gaussian([m], [[v]]), ex.RectifiedFlow())
    # Equal parts of the distribution instead of draws.
    x = m + v**0.5 * jax.scipy.stats.norm.ppf((jnp.arange(4000) + 0.5) / 4000)[:, None]
    found = ex.transport.flow_action(model, x, num_steps=128)
    expected = m**2 + 1 + v - np.pi / 2 * v**0.5
    assert float(found.action.value) == pytest.approx(expected, rel=2e-3)
    assert float(found.displacement.value) == pytest.approx(m**2 + (1 - v**0.5) ** 2, rel=2e-3)
    bending = found.action.value - found.displacement.value
    assert float(found.bending.value) == pytest.approx(float(bending), rel=1e-4)
    assert float(found.length.value) ** 2 < float(found.action.value)


@pytest.mark.slow
def test_gradient_and_errors():
    x = jax.random.normal(jax.random.key(0), (40, 1))

    def action(numbers, x=x):
        flow = ex.FlowMatching(Straight(*numbers), ex.RectifiedFlow(), shape=(1,))
        return ex.transport.flow_action(flow, x, num_steps=3)

    def exact(numbers):
        return jnp.mean(((x - numbers[0]) / jnp.sqrt(numbers[1]) - x) ** 2)

    at = jnp.asarray([0.7, 0.4])
    expected = quick_jit(jax.grad(exact))(at)
    assert quick_jit(jax.grad(lambda n: action(n).action.value))(at) == pytest.approx(
        np.asarray(expected), rel=1e-3
    )
    draws = 0.7 + 0.4**0.5 * jax.random.normal(jax.random.key(1), (300, 100, 1))
    found = jax.jit(jax.vmap(lambda x: action(at, x)))(draws)
    for estimate in (found.action, found.length, found.displacement):
        ratio = jnp.std(estimate.value, ddof=1) / jnp.mean(estimate.stderr)
        assert 0.8 < float(ratio) < 1.25
        assert np.all(estimate.mc_stderr < 1e-5)  # the polygon of a straight path is exact


def test_errors_that_one_path_or_one_step_leaves_unknown_are_infinite():
    x = jnp.array([[0.2], [1.3]])
    for points, steps in ((x[:1], 2), (x, 1)):
        found = ex.transport.flow_action(straight_flow(), points, num_steps=steps)
        for name in ("action", "length", "bending"):
            assert np.isfinite(getattr(found, name).value), name
            assert np.isinf(getattr(found, name).stderr), name
            assert np.isinf(getattr(found, name).mc_stderr) == (steps == 1), name
        assert np.isinf(found.displacement.stderr) == (len(points) == 1)


@pytest.mark.slow(reason="several step sizes")
@pytest.mark.parametrize("variance", [0.4, 1e-4])
def test_the_error_of_the_steps_is_stated(variance):
    """Of too few steps, against many: within the error, which is not much larger."""
    model = ex.ExactModel(ex.Gaussian([0.7], [[variance]]), ex.RectifiedFlow())
    x = 0.7 + variance**0.5 * jax.scipy.stats.norm.ppf((jnp.arange(200) + 0.5) / 200)[:, None]
    few, many = (ex.transport.flow_action(model, x, num_steps=n) for n in (12, 192))
    for name in ("action", "length", "bending"):
        one, other = getattr(few, name), getattr(many, name)
        off = abs(float(one.value - other.value))
        assert off < 2 * float(one.mc_stderr), name
        assert float(other.mc_stderr) < float(one.mc_stderr) < 30 * off + 1e-3, name

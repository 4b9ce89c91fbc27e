"""Solving a flow that has no score: exact for straight paths, in one step of Euler's method."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.models.flows import Straight, straight_flow


def test_one_step_is_exact(getkey):
    model = straight_flow()
    x = jax.random.normal(getkey(), (50, 1))
    z = (x - 0.7) / 0.4**0.5
    forth = ex.solve_flow(model, x, num_steps=1, solver=diffrax.Euler())
    np.testing.assert_allclose(forth.final, z, rtol=1e-5, atol=1e-5)
    back = ex.solve_flow(model, z, direction="reverse", num_steps=1, solver=diffrax.Euler())
    np.testing.assert_allclose(back.final, x, rtol=1e-5, atol=1e-5)
    assert float(back.times[-1]) == 0.0
    halfway = ex.solve_flow(model, x, num_steps=4, save=jnp.asarray([0.3, 1.0]))
    np.testing.assert_allclose(halfway.states[0], 0.7 * x + 0.3 * z, rtol=1e-5, atol=1e-5)
    adaptive = ex.solve_flow(
        model,
        x,
        solver=diffrax.Tsit5(),
        stepsize_controller=diffrax.PIDController(rtol=1e-4, atol=1e-4),
    )
    np.testing.assert_allclose(adaptive.final, z, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_samples_are_those_of_the_map():
    model = straight_flow()
    options = {"key": jax.random.key(0), "num_samples": 64, "method": "ode"}
    few = ex.sample(model, num_steps=1, solver=diffrax.Euler(), **options)
    many = ex.sample(model, num_steps=16, chunk_size=24, **options)
    np.testing.assert_allclose(few, many, rtol=1e-4, atol=1e-5)
    times = ex.sample(model, times=jnp.asarray([1.0, 0.6, 0.0]), **options)
    np.testing.assert_allclose(times, many, rtol=1e-4, atol=1e-5)

    def mean(m):
        flow = ex.FlowMatching(Straight(m, 0.4), ex.RectifiedFlow(), shape=(1,))
        return jnp.mean(ex.sample(flow, num_steps=4, **options))

    assert float(jax.grad(mean)(jnp.asarray(0.7))) == pytest.approx(1.0, rel=1e-4)

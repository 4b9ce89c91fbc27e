"""Gradients of entropy: at fixed places of the evaluations, and through a deterministic solve.

The solve is the flow of Gauss-Hermite points.

The flow of Gaussian data is affine, so that a quadrature rule of the data stays one at every time,
and entropy production needs no sampling.
"""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import Bell, Ramp, as_shipped, numbers, paper_mixture, quick_jit, small_gaussian


MEAN, VARIANCE = 0.7, 0.4
PROCESSES = {
    "vp": lambda: ex.VariancePreserving(ex.LinearSchedule(0.1, 2.0), kappa=0.9),
    "learnable path": lambda: ex.GaussianPath(Bell(jnp.asarray(1.2)), Ramp(jnp.asarray(0.8))),
}


def through_the_flow(process, adjoint, start):
    """Entropy production between `start` and t1, by the midpoint rule along 400 steps."""
    model = ex.ExactModel(ex.Gaussian([MEAN], [[VARIANCE]]), process)
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    times = start + (1 - start) * jnp.linspace(0.0, 1.0, 401)
    at_start = model.distribution.diffused(process, start)
    y = at_start.mean + jnp.sqrt(at_start.covariance[0]) * jnp.asarray(nodes)[:, None]

    def produced(s0, s1, y0, y1):
        s, y = (s0 + s1) / 2, (y0 + y1) / 2
        rate = process.sigma_squared(s) / 2 * jnp.sum(model.entropy_field(s, y) ** 2)
        return rate * (s1 - s0)

    run = ex.solve_flow(model, y, times=times, functional=produced, adjoint=adjoint)
    return jnp.sum(jnp.asarray(weights / weights.sum()) * run.functional[-1])


def closed_form(process, start):
    """The same by Gauss-Legendre quadrature of the Gaussian's rate."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    s = start + (1 - start) * jnp.asarray((nodes + 1) / 2)
    scale, precision = process.scale(s), process.equilibrium_precision(s)
    total = scale**2 * VARIANCE + process.var(s)
    rate = (precision - 1 / total) ** 2 * total + (precision * scale * MEAN) ** 2
    return (1 - start) * jnp.sum(jnp.asarray(weights / 2) * process.sigma_squared(s) / 2 * rate)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "adjoint"),
    [
        ("vp", diffrax.DirectAdjoint()),
        ("learnable path", diffrax.RecursiveCheckpointAdjoint()),
    ],
    ids=["vp", "learnable path"],
)
def test_entropy_through_the_flow(x64, name, adjoint):
    # The equilibrium of the path collapses at the data end.
    start = 0.0 if name == "vp" else 0.1
    flat, rebuild = numbers(PROCESSES[name]())
    value, gradient = jax.jit(
        jax.value_and_grad(lambda v: through_the_flow(rebuild(v), adjoint, start))
    )(flat)
    expected = quick_jit(jax.value_and_grad(lambda v: closed_form(rebuild(v), start)))(flat)
    np.testing.assert_allclose(value, expected[0], rtol=1e-4)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-4)


@pytest.mark.slow(reason="gradients of two estimators")
@pytest.mark.parametrize("functional", ["entropy", "path KL"])
def test_a_fixed_proposal_makes_the_estimate_a_function_of_the_model(x64, functional):
    """Its gradient is then the finite difference with the same key; with a new pilot it is not."""
    data = paper_mixture(2).sample(100, key=jax.random.key(0))

    def model(shift):
        process = ex.VariancePreserving(ex.LinearSchedule(0.1, 12.0), kappa=0.6 + shift)
        return ex.ExactModel(small_gaussian(), process)

    proposal = ex.entropy_curve(model(0.0), data, key=jax.random.key(1), num_times=2).proposal

    def value(shift, proposal=proposal):
        options = {"key": jax.random.key(2), "num_evaluations": 256, "proposal": proposal}
        if functional == "entropy":
            return ex.neural_entropy(model(shift), data, **options).value
        other = ex.ExactModel(
            ex.Gaussian([0.4, -0.8], [[0.7, 0.2], [0.2, 0.8]]), model(shift).process
        )
        return ex.path_kl(model(shift), other, data, **options).value

    gradient = jax.grad(value)(0.0)
    step = 1e-5
    np.testing.assert_allclose((value(step) - value(-step)) / (2 * step), gradient, rtol=1e-6)


def test_what_is_no_proposal():
    model = ex.ExactModel(small_gaussian(), ex.CosinePath())
    with as_shipped(), pytest.raises(ValueError, match="`proposal` must be"):
        ex.neural_entropy(model, jnp.ones((4, 2)), key=jax.random.key(0), proposal="uniform")


@pytest.mark.slow(reason="gradients of two curves")
def test_gradient_of_a_curve_at_fixed_times(x64):
    """The schedule moves the times along the axis. The control variate knows the answer.

    The ends of the axis do not move. Data may be less precise than the numbers of a process.
    """
    data = ex.Gaussian([MEAN], [[VARIANCE]]).sample(500, key=jax.random.key(0))
    data = data.astype(jnp.float32)
    times = jnp.asarray([0.0, 0.1, 0.25, 0.5, 1.0])

    def entropies(where, control_variate):
        beta, times = where
        process = ex.VariancePreserving(ex.LinearSchedule(0.1, beta), kappa=0.9)
        model = ex.ExactModel(ex.Gaussian([MEAN], [[VARIANCE]]), process)
        options = {"num_evaluations": 16_384, "control_variate": control_variate}
        curve = ex.entropy_curve(model, data, key=jax.random.key(1), times=times, **options)
        return curve.cumulative

    (known, known_at), (found, found_at) = (
        quick_jit(jax.jacfwd(lambda where, use=use: entropies(where, use)))(
            (jnp.asarray(8.0), times)
        )
        for use in (True, False)
    )
    assert np.allclose(found, known, atol=0.02 * np.max(np.abs(known)))
    assert np.allclose(found_at, known_at, atol=0.03 * np.max(np.abs(known_at)))
    assert np.count_nonzero(np.abs(known_at) > 0.05 * np.max(known_at)) == 3  # none at t1


@pytest.mark.slow(reason="a gradient of each estimator")
def test_gradient_in_the_data_goes_through_the_control_variate():
    """Its known integral moves with the moments of the data; the reference itself is a constant."""
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    model = ex.ExactModel(ex.Gaussian([0.0, 0.0], 9 * np.eye(2)), process)
    data = model.distribution.sample(256, key=jax.random.key(0))

    @jax.jit
    def entropy_and_slope(stretch):
        def entropy(stretch):
            options = {"key": jax.random.key(1), "num_evaluations": 4096}
            return ex.neural_entropy(model, stretch * data, **options).value

        return jax.value_and_grad(entropy)(stretch)

    (low, _), (_, slope), (high, _) = map(entropy_and_slope, jnp.asarray([0.9, 1.0, 1.1]))
    assert float(slope) == pytest.approx(float(high - low) / 0.2, rel=0.05)

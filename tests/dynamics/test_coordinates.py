"""The change of coordinates is the chain rule, for every process, and nothing in it overflows."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.dynamics import ReverseCoordinates
from entropix.models import reference_variance
from tests.helpers import (
    DISTINCT,
    ENDS_IN_NOISE,
    FEW,
    PROCESSES,
    all_finite,
    double,
    inner_times,
    paper_mixture,
    quick,
    quick_jit,
    small_gaussian,
    small_mixture,
)
from tests.models.flows import Straight, straight_flow


VARIANCE = 0.8


@pytest.mark.parametrize("name", quick(FEW))
def test_they_are_the_reverse_equation(x64, name, getkey):
    """dX = F da (+ dB_a) is the reverse SDE (the flow), transformed by X = a y/(mu sqrt c)."""
    process = PROCESSES[name]()
    model = ex.ExactModel(small_mixture(), process)

    def gaps_of(flow, s, y):
        coordinates = ReverseCoordinates(process, jnp.asarray(VARIANCE), flow=flow)

        def gain(s):  # X / y, and a
            share = VARIANCE * process.scale(s) ** 2
            share = share / (share + process.var(s))
            a = jnp.sqrt(share) if flow else share
            return a / (process.scale(s) * jnp.sqrt(VARIANCE)), a

        (g, a), (g_rate, a_rate) = jax.jvp(gain, (s,), (jnp.ones_like(s),))
        t = coordinates.solver_time(s)
        drift = model.velocity(s, y)  # of y, in ds
        if not flow:
            drift = process.drift(s, y) - process.sigma_squared(s) * model.score(s, y)
        field = coordinates.field(t, (g * y)[None], (model, None))[0]
        return (
            t - (a - 1),
            jnp.max(jnp.abs(field * a_rate - (g_rate * y + g * drift))) / jnp.abs(a_rate),
            0.0 if flow else g**2 * process.sigma_squared(s) / -a_rate - 1,
            jnp.max(jnp.abs(coordinates.enter(s, t, y) - g * y)),
            jnp.max(jnp.abs(coordinates.leave(s, t, g * y) - y)),
        )

    y = jax.random.normal(getkey(), (9, 2))
    # Without jit: operations are compiled once for all processes.
    gaps = jax.vmap(lambda s, y: (gaps_of(False, s, y), gaps_of(True, s, y)))
    for gap in jax.tree.leaves(gaps(inner_times(process), y)):
        np.testing.assert_allclose(gap, 0.0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTINCT)
def test_knots_and_field_in_float32(x32, name, getkey):
    """Knots rise strictly from noise to data, and no model is NaN where a solver evaluates it."""
    process = PROCESSES[name]()
    network = ex.FourierMLP(2, widths=(8,), key=getkey())
    network = eqx.tree_at(lambda n: n.head.weight, network, jnp.ones((2, 8)))
    one = jnp.ones(())
    models = (
        ex.ExactModel(paper_mixture(2), process),
        ex.EntropyMatching(network, process, ex.GaussianScaling(one, one, one, (2,))),
        ex.NoisePrediction(network, process),
        ex.VelocityPrediction(network, process),
    )
    x = jax.random.normal(getkey(), (3, 2))

    def evaluate(models):
        knots, fields = [], []
        for flow in (False, True):
            coordinates = ReverseCoordinates(process, one, flow=flow)
            knots.append((coordinates.steps(128)[1], coordinates.steps(1000)[1]))
            # Where the default solvers evaluate it: the start, half and three quarters of a step.
            few = coordinates.steps(16)[1]
            places = (few[:-1] + jnp.asarray([[0.0], [0.5], [0.75]]) * jnp.diff(few)).ravel()
            for model in models[2 * flow : 2 * flow + 2]:
                fields.append(
                    jax.vmap(lambda t, c=coordinates, m=model: c.field(t, x, (m, None)))(places)
                )
        return knots, fields

    knots, fields = evaluate(models)
    assert all_finite(fields)
    for k in jax.tree.leaves(knots):
        assert k.dtype == jnp.float32
        assert np.all(np.diff(k) > 0)
        assert k[-1] == 0
        assert (k[0] == -1) == (name in ENDS_IN_NOISE)


@pytest.mark.parametrize("name", quick(["rf"], ["vpx", "rf", "ve"]))
def test_the_field_is_constant_on_the_reference(x64, name, getkey):
    mean = jnp.asarray([0.4, -2.0])
    model = ex.ExactModel(ex.Gaussian(mean, VARIANCE * jnp.eye(2)), PROCESSES[name]())
    coordinates = ReverseCoordinates(model.process, reference_variance(model), flow=False)
    assert coordinates.variance == pytest.approx(VARIANCE)
    x = jax.random.normal(getkey(), (3, 2))
    fields = quick_jit(jax.vmap(lambda t: coordinates.field(t, x, (model, None))))(
        coordinates.steps(16)[1][1:-1]
    )
    expected = jnp.broadcast_to(mean / jnp.sqrt(VARIANCE), fields.shape)
    np.testing.assert_allclose(fields, expected, rtol=1e-6)


@pytest.mark.parametrize("name", quick(["vpx", "rf"], ["vpx", "sl", "rf", "subvp"]))
def test_single_precision_resolves_both_ends(name):
    """What a step adds, relative to its noise, is the same in float32 and in float64."""

    def steps():
        process = PROCESSES[name]()
        model = ex.ExactModel(small_mixture(), process)
        x = jnp.asarray([[0.3, -1.1], [1.0, 0.2]])

        @quick_jit
        def run():
            results = []
            for flow in (False, True):
                coordinates = ReverseCoordinates(process, reference_variance(model), flow=flow)
                knots = coordinates.steps(128)[1][1:-1]
                states = x * (1 + knots[:, None, None]) ** (0.0 if flow else 0.5)
                fields = jax.vmap(lambda t, x, b=coordinates: b.field(t, x, (model, None)))(
                    knots, states
                )
                weight = jnp.diff(knots, append=0.0)[:, None, None]
                results.append(fields * (weight if flow else jnp.sqrt(weight)))
            return results

        return jax.tree.map(np.asarray, run())

    with jax.enable_x64(False):
        single = steps()
    with double():
        exact = steps()
    for a, b in zip(single, exact, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)


@pytest.mark.parametrize("name", quick(["rf"], ["cosine", "sl"]))
def test_the_flow_is_smooth_up_to_the_noise(name):
    """Adaptive steps see no rounding of s where mu vanishes, nor an edge where the signal does."""

    def fields():
        process = PROCESSES[name]()
        model = ex.ExactModel(small_mixture(), process)
        coordinates = ReverseCoordinates(process, reference_variance(model), flow=True)
        x = jnp.asarray([[0.3, -1.1], [1.0, 0.2]])
        a = jnp.linspace(0.0, 0.05, 201)
        return np.asarray(
            quick_jit(jax.vmap(lambda t: coordinates.field(t, x, (model, None))))(a - 1)
        )

    with jax.enable_x64(False):
        single = fields()
    with double():
        exact = fields()
    np.testing.assert_allclose(single, exact, atol=3e-4)


@pytest.mark.slow(reason="a program for each model")
def test_reference_variance_of_each_model(getkey):
    vp = PROCESSES["vpx"]()
    network = ex.FourierMLP(2, widths=(8,), key=getkey())
    data = small_gaussian().sample(50, key=getkey())
    scaling = ex.GaussianScaling.from_data(data, vp)
    known = {
        "exact": (ex.ExactModel(small_gaussian(), vp), 0.75),
        "points": (ex.ExactModel(ex.Empirical(data), vp), float(scaling.variance)),
        "one point": (ex.ExactModel(ex.Empirical(data[:1]), vp), 1.0),
        "scaling": (ex.EntropyMatching(network, vp, scaling), float(scaling.variance)),
        "static": (ex.ScoreMatching(network, vp), 0.01),
        "neither": (ex.ScoreMatching(network, PROCESSES["rf"]()), 1.0),
    }
    for model, expected in known.values():
        assert float(reference_variance(model)) == pytest.approx(expected, rel=1e-5)
    assert float(reference_variance(known["exact"][0], 0.3)) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="`variance` must be positive"):
        reference_variance(known["exact"][0], -1.0)


# ---------------------------------------------------------------------------- flows without a score


@pytest.mark.slow(reason="a program for each process")
def test_one_step_of_a_straight_flow_is_exact(getkey):
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
def test_samples_of_a_straight_flow_are_those_of_the_map():
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

    assert float(quick_jit(jax.grad(mean))(jnp.asarray(0.7))) == pytest.approx(1.0, rel=1e-4)

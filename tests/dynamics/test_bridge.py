"""The change of coordinates is the chain rule, for every process, and nothing in it overflows."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.dynamics.bridge import Bridge, reference_variance
from tests.helpers import (
    DISTINCT,
    ENDS_IN_NOISE,
    KINDS,
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


VARIANCE = 0.8


@pytest.mark.parametrize("name", quick(KINDS))
def test_bridge_is_the_reverse_equation(x64, name, getkey):
    """dX = F da (+ dB_a) is the reverse SDE (the flow), transformed by X = a y/(mu sqrt c)."""
    process = PROCESSES[name]()
    model = ex.ExactModel(small_mixture(), process)

    def gaps_of(flow, s, y):
        bridge = Bridge(process, jnp.asarray(VARIANCE), flow)

        def gain(s):  # X / y, and a
            share = VARIANCE * process.scale(s) ** 2
            share = share / (share + process.var(s))
            a = jnp.sqrt(share) if flow else share
            return a / (process.scale(s) * jnp.sqrt(VARIANCE)), a

        (g, a), (g_rate, a_rate) = jax.jvp(gain, (s,), (jnp.ones_like(s),))
        t = bridge.knots_at(s[None])[0]
        drift = model.velocity(s, y)  # of y, in ds
        if not flow:
            drift = process.drift(s, y) - process.sigma_squared(s) * model.score(s, y)
        field = bridge.field(model, t, (g * y)[None])[0]
        return (
            t - (a - 1),
            jnp.max(jnp.abs(field * a_rate - (g_rate * y + g * drift))) / jnp.abs(a_rate),
            0.0 if flow else g**2 * process.sigma_squared(s) / -a_rate - 1,
            jnp.max(jnp.abs(bridge.enter(s, t, y) - g * y)),
            jnp.max(jnp.abs(bridge.leave(s, t, g * y) - y)),
        )

    y = jax.random.normal(getkey(), (9, 2))
    # Without jit: operations are compiled once for all processes.
    gaps = jax.vmap(lambda s, y: (gaps_of(False, s, y), gaps_of(True, s, y)))
    for gap in jax.tree.leaves(gaps(inner_times(process), y)):
        np.testing.assert_allclose(gap, 0.0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTINCT)
def test_knots_and_field_in_float32(x32, name, getkey):
    """Knots rise strictly from noise to data, and no model has a NaN where a solver looks."""
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

    def look(models):
        knots, fields = [], []
        for flow in (False, True):
            bridge = Bridge(process, one, flow)
            knots.append((bridge.knots(128), bridge.knots(1000)))
            # Where the default solvers look: the start, half and three quarters of a step.
            few = bridge.knots(16)
            looked = (few[:-1] + jnp.asarray([[0.0], [0.5], [0.75]]) * jnp.diff(few)).ravel()
            for model in models[2 * flow : 2 * flow + 2]:
                fields.append(jax.vmap(lambda t, b=bridge, m=model: b.field(m, t, x))(looked))
        return knots, fields

    knots, fields = look(models)
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
    bridge = Bridge(model.process, reference_variance(model), False)
    assert bridge.variance == pytest.approx(VARIANCE)
    x = jax.random.normal(getkey(), (3, 2))
    fields = quick_jit(jax.vmap(lambda t: bridge.field(model, t, x)))(bridge.knots(16)[1:-1])
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
                bridge = Bridge(process, reference_variance(model), flow)
                knots = bridge.knots(128)[1:-1]
                states = x * (1 + knots[:, None, None]) ** (0.0 if flow else 0.5)
                fields = jax.vmap(lambda t, x, b=bridge: b.field(model, t, x))(knots, states)
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


@pytest.mark.parametrize("name", ["rf", "cosine", "sl"])
def test_the_flow_is_smooth_up_to_the_noise(name):
    """Adaptive steps see no rounding of s where mu vanishes, nor an edge where the signal does."""

    def fields():
        process = PROCESSES[name]()
        model = ex.ExactModel(small_mixture(), process)
        bridge = Bridge(process, reference_variance(model), True)
        x = jnp.asarray([[0.3, -1.1], [1.0, 0.2]])
        a = jnp.linspace(0.0, 0.05, 201)
        return np.asarray(quick_jit(jax.vmap(lambda t: bridge.field(model, t, x)))(a - 1))

    with jax.enable_x64(False):
        single = fields()
    with double():
        exact = fields()
    np.testing.assert_allclose(single, exact, atol=3e-4)


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

"""Optimal schedules: known optima are reached, by gradient and in closed form."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import entropix as ex
from tests.helpers import (
    LOG_RATES,
    PROCESSES,
    all_finite,
    as_shipped,
    paper_mixture,
    quick_jit,
    small_gaussian,
)


def starts(num_knots=32):
    """Three schedules with B(1) = 8.05: the paper's, a constant one, and a bad one."""
    linear = ex.MonotoneSchedule.from_schedule(ex.LinearSchedule(0.1, 16.0), num_knots)
    constant = ex.MonotoneSchedule.constant(8.05, num_knots)
    bad = ex.MonotoneSchedule(np.linspace(2.0, -2.0, num_knots), 8.05)
    return [ex.VariancePreserving(s) for s in (linear, constant, bad)]


@pytest.mark.slow  # three searches of hundreds of steps
def test_action_of_the_papers_mixture(x64):
    """From three starts at once, vmapped; the optimum is that of the closed form."""
    processes = starts(16)
    action = ex.KineticAction(paper_mixture(2), key=jax.random.key(0), num_times=128)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *processes)
    keys = jax.random.split(jax.random.key(1), 3)
    run = eqx.filter_vmap(lambda p, k: ex.optimise_schedule(p, action, key=k, steps=300))
    found = run(stacked, keys)
    squared = float(action.length(processes[0])) ** 2
    # The length is that of the speed limit, an estimate from other points.
    data = paper_mixture(2).sample(4096, key=jax.random.key(2))
    model = ex.ExactModel(paper_mixture(2), processes[0])
    few = {"max_exact": 100, "num_evaluations": 256}  # its entropy is not used
    limit = ex.speed_limit(model, data, key=jax.random.key(3), **few)
    spread = 2 * squared**0.5 * float(limit.length.stderr) * 2**0.5
    assert abs(float(limit.length) ** 2 - squared) < 4 * spread
    assert np.all(np.asarray(found.history[:, 0]) > 1.05 * squared)
    np.testing.assert_array_equal(found.value, jnp.min(found.history, axis=1))
    assert "3 starts, best" in str(found)
    assert np.all(np.asarray(found.value) < 1.005 * squared)
    assert np.all(np.asarray(found.value) > (1 - 5e-4) * squared)  # quadrature
    s = np.linspace(0.0, 1.0, 41)
    geodesic = -2 * ex.optimise.constant_speed(processes[0], action).log_scale(s)
    integrals = eqx.filter_vmap(lambda p: p.schedule.integral(jnp.asarray(s)))(found.process)
    np.testing.assert_allclose(integrals, np.stack([geodesic] * 3), atol=0.04 * 8.05)
    np.testing.assert_allclose(integrals[:, -1], 8.05, rtol=1e-12)


@pytest.mark.slow
def test_euler_steps_for_a_gaussian(x64):
    """Sabour et al., 2404.14507: t = c tan(theta), theta linear; c = .5, from 80 to .002."""
    exploding = ex.VarianceExploding(0.002, np.sqrt(6400 + 4e-6))
    objective = ex.optimise.EulerKL(0.5, 8, 0.002)
    found = ex.optimise_schedule(
        ex.TimeChanged(exploding, ex.processes.MonotoneWarp(16)),
        objective,
        key=jax.random.key(0),
        steps=300,
    )
    assert float(found.value) == pytest.approx(0.021241250228597, rel=1e-4)
    knots = objective.ratios(found.process)
    angles = np.linspace(np.arctan(160), np.arctan(0.004), 9)
    np.testing.assert_allclose(knots, 0.5 * np.tan(angles), rtol=0.01)
    assert float(knots[1]) == pytest.approx(2.4499860703145, rel=0.01)


@pytest.mark.slow
def test_steps_of_a_sampler_for_a_gaussian(x64):
    """The best grid is uniform in log(1 + v exp(log-SNR)); found by L-BFGS."""
    v, n = 0.4, 6
    bound = ex.optimise.SamplerError(ex.Gaussian([0.3], [[v]]), n, 0.05)
    process = starts(16)[0]
    found = ex.optimise_schedule(process, bound, key=jax.random.key(0), optimiser=optax.lbfgs())
    ends = np.log1p(v * np.exp([float(process.log_snr(1.0)), -2 * np.log(0.05)]))
    step = (ends[1] - ends[0]) / n
    # The cut-off is one of the noise, not of its ratio to the signal: the scale there is .999.
    assert float(found.value) == pytest.approx(n * (np.expm1(step) - step) / 2, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("mean", "variance"), [(0.0, 3.0), (0.7, 0.4)])
def test_learned_path_becomes_optimal_transport(x64, mean, variance):
    """Isotropic Gaussian data: the action comes down to the squared Wasserstein distance.

    Where the geodesic is one of the paths: a mean must fall linearly, and the noise rise all the
    way, as it does not beside a mean if the data vary much more than the noise.
    """
    scale, std = 0.1, 1.0
    action = ex.KineticAction(ex.Gaussian([mean], [[variance]]))
    path = ex.processes.LearnablePath(scale, std)
    found = ex.optimise_schedule(path, action, key=jax.random.key(0))
    end = (scale**2 * variance + std**2) ** 0.5
    distance = (mean * (1 - scale)) ** 2 + (variance**0.5 - end) ** 2
    assert float(action(path)) > 1.005 * distance
    finer = ex.KineticAction(ex.Gaussian([mean], [[variance]]), num_times=1000)
    assert (1 - 1e-4) * distance < float(finer(found.process)) < (1 + 1e-3) * distance


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sl", "rf"])
def test_constant_speed(x64, name):
    """Any clock comes down to the squared length, from an objective, a function or a table."""
    process = PROCESSES[name]()
    action = ex.KineticAction(small_gaussian())
    squared = float(action.length(process)) ** 2
    times = jnp.linspace(0.0, 1.0, 400)
    table = (times[1:-1], action.rate(process, times[1:-1]))
    for rate in (action, lambda s: action.rate(process, s), table):
        changed = ex.optimise.constant_speed(process, rate)
        assert float(action(changed)) == pytest.approx(squared, rel=2e-3)
        assert float(action.length(changed)) == pytest.approx(squared**0.5, rel=1e-4)
    entropic = ex.optimise.EntropicTime(small_gaussian(), cutoff=0.05)
    even = ex.optimise.constant_speed(process, entropic)
    assert float(entropic(even)) == pytest.approx(float(entropic.length(process)) ** 2, rel=2e-2)


@pytest.mark.slow
def test_a_clock_without_resolution_at_its_end(x32):
    """Where the speed vanishes the warp is infinitely steep: nodes there round to t1, not NaN."""
    action = ex.KineticAction(ex.Gaussian([0.0], [[0.4]]), num_times=32)
    changed = ex.optimise.constant_speed(PROCESSES["sl"](), action)
    value, gradient = quick_jit(jax.value_and_grad(lambda p: action(p)))(changed)
    assert float(value) == pytest.approx(float(action.length(changed)) ** 2, rel=0.02)
    assert all_finite(gradient.warp)


# ---------------------------------------------------------------------------- the loop


def quadratic(process):
    return jnp.sum((process.warp.curve.log_rates - jnp.arange(4.0)) ** 2)


def warped():
    return ex.TimeChanged(ex.StraightLine(0.1), ex.processes.MonotoneWarp(4))


def test_converges_and_keeps_the_best():
    found = ex.optimise_schedule(
        warped(), lambda p: 1 + quadratic(p), key=jax.random.key(0), patience=20, steps=1000
    )
    assert bool(found.converged)
    assert found.reason == "converged"
    assert "->" in str(found)
    assert int(found.num_steps) < 1000
    assert found.history.shape == found.gradient_norms.shape == (1000,)
    np.testing.assert_allclose(found.process.warp.curve.log_rates, np.arange(4.0), atol=0.01)
    # Far too large a step overshoots: the best is not the last.
    wild = ex.optimise_schedule(
        warped(), quadratic, key=jax.random.key(0), optimiser=optax.sgd(1.5), steps=10
    )
    assert float(wild.value) == float(wild.history[0]) < float(wild.history[-1])
    assert not bool(wild.converged)
    assert wild.reason == "ran all its steps"


def test_stops_where_it_is_not_finite():
    def fragile(process):
        value = quadratic(process)
        return jnp.where(value > 8, value, jnp.nan)

    found = ex.optimise_schedule(warped(), fragile, key=jax.random.key(0), steps=100)
    assert "not finite" in found.reason
    assert np.isfinite(found.history).all()
    assert 8 < float(found.value) < 14
    with pytest.raises(Exception, match="`objective` must be finite"):
        ex.optimise_schedule(warped(), lambda p: jnp.nan * quadratic(p), key=jax.random.key(0))


def test_noisy_objectives_and_one_compilation():
    @chex.assert_max_traces(n=3)  # its shape, its value and gradient; once for both calls
    def noisy(process, *, key):
        return quadratic(process) + jax.random.normal(key)

    one, two = (
        ex.optimise_schedule(warped(), noisy, key=jax.random.key(seed), steps=5) for seed in (0, 1)
    )
    assert not np.array_equal(one.history, two.history)


def test_what_is_trained():
    process = PROCESSES["vp"]()

    def objective(p):
        return (p.kappa - 2.0) ** 2 + p.schedule.beta_min

    found = ex.optimise_schedule(
        process, objective, key=jax.random.key(0), trainable=lambda p: p.kappa
    )
    assert float(found.process.kappa) == pytest.approx(2.0, abs=0.01)
    assert eqx.tree_equal(found.process.schedule, process.schedule)
    free = ex.MonotoneSchedule(LOG_RATES, 2.0, learn_total=True)
    found = ex.optimise_schedule(
        ex.VariancePreserving(free),
        lambda p: (p.schedule.total - 3.0) ** 2 + 1,
        key=jax.random.key(0),
    )
    assert float(found.process.schedule.total) == pytest.approx(3.0, rel=0.01)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda k: ex.optimise_schedule("vp", quadratic, key=k), "`process` must be a process"),
        (lambda k: ex.optimise_schedule(warped(), 3.0, key=k), "`objective` must be a function"),
        (
            lambda k: ex.optimise_schedule(PROCESSES["vp"](), quadratic, key=k),
            "`process` must have a learnable part",
        ),
        (
            lambda k: ex.optimise_schedule(warped(), quadratic, key=k, trainable=lambda p: ()),
            "`trainable` must pick floating arrays",
        ),
        (
            lambda k: ex.optimise_schedule(warped(), lambda p: jnp.ones(2), key=k),
            "`objective` must return a scalar",
        ),
        (lambda k: ex.optimise_schedule(warped(), quadratic, key=k, steps=0), "`steps` must be"),
        (lambda k: ex.optimise.constant_speed(warped(), 3.0), "`rate` must be an objective"),
        (
            lambda k: ex.optimise.constant_speed(warped(), lambda s: -s),
            "`rate` must be finite and not",
        ),
        (
            lambda k: ex.optimise.constant_speed(warped(), (jnp.ones(3), jnp.ones(4))),
            "pair of arrays",
        ),
        *(
            (
                lambda k, times=times: ex.optimise.constant_speed(warped(), (times, jnp.ones(3))),
                "`rate` must be a table of increasing times within",
            )
            for times in ([0.9, 0.5, 0.1], [0.0, 0.5, 1000.0])
        ),
        (lambda k: ex.MonotoneSchedule([0.0], 1.0), "`log_rates` must have shape"),
        (lambda k: ex.MonotoneSchedule([0.0, 1.0], -1.0), "`total` must be positive"),
        (
            lambda k: ex.MonotoneSchedule.from_schedule(ex.processes.CosineSchedule()),
            "`total` must be given",
        ),
        (lambda k: ex.processes.MonotoneWarp([0.0, np.nan]), "`log_rates` must be finite"),
        (lambda k: ex.TimeChanged("vp"), "`process` must be a process"),
        (lambda k: ex.TimeChanged(PROCESSES["vp"](), jnp.sqrt), "`warp` must be a warp"),
        (lambda k: ex.processes.LearnablePath(1.0), "`final_scale` must be from 0 to below 1"),
        (
            lambda k: ex.processes.LearnablePath.from_process("vp"),
            "`process` must be a Gaussian process",
        ),
    ],
)
def test_mistakes(run, message):
    with as_shipped(), pytest.raises(ValueError, match=message):
        run(jax.random.key(0))

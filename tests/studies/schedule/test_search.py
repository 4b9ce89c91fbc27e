"""Few-step samplers, the levels of schedules, and the search for the best schedule."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.optimise import FewStepError, FewStepSampler, uniform_levels
from entropix.studies.options import SearchOptions
from entropix.studies.schedule.candidates import RHO, hand_designed
from entropix.studies.schedule.search import learnable, search
from tests.helpers import paper_mixture


@pytest.fixture
def exact():
    return ex.ExactModel(paper_mixture(2), ex.VariancePreserving(ex.LinearSchedule()))


@pytest.mark.slow(reason="a sampler for each schedule")
@pytest.mark.parametrize("name", ["ddim", "dpm"])
def test_all_schedules_are_sampled_through_one_process(x64, exact, name):
    """A sampler sees levels only: the same samples as under the process of the schedule."""
    process = ex.CosinePath()
    sampler = FewStepSampler(exact, name)
    key = jax.random.key(0)
    made = sampler(uniform_levels(process, 4), key, 16)
    own = ex.sample(
        exact.with_process(process),
        key=key,
        num_samples=16,
        times=jnp.linspace(1.0, 0.0, 5),
        solver=ex.dynamics.DDIM() if name == "ddim" else ex.dynamics.DPMSolver(),
        prior=sampler.model.prior,
    )
    np.testing.assert_allclose(made, own, rtol=1e-6, atol=1e-6)


def test_another_sampler_is_refused(exact):
    with pytest.raises(ValueError, match="`name` must be"):
        FewStepSampler(exact, "dpm++")


@pytest.mark.slow
def test_the_error_of_a_sampler_of_first_order_halves_with_the_step(x64):
    model = ex.ExactModel(ex.Gaussian(jnp.zeros(2), jnp.eye(2)), ex.CosinePath())
    few = FewStepError(FewStepSampler(model, "ddim"), 4, 8, key=jax.random.key(0))
    many = FewStepError(FewStepSampler(model, "ddim"), 8, 8, key=jax.random.key(0))
    few_error, many_error = (float(e(ex.CosinePath())) for e in (few, many))
    np.testing.assert_allclose(few_error - many_error, np.log(2), atol=0.15)


@pytest.mark.slow
def test_the_error_of_few_steps_has_the_gradient_of_its_differences(x64, exact):
    start = learnable(exact.process, 4, reach=True)
    goal = FewStepError(FewStepSampler(exact, "ddim"), 3, 16, key=jax.random.key(0))
    value, gradient = eqx.filter_jit(eqx.filter_value_and_grad(lambda p: goal(p)))(start)

    def moved(h):
        where = lambda p: p.schedule.curve.log_rates  # noqa: E731
        rates = where(start)
        return float(goal(eqx.tree_at(where, start, rates.at[1].add(h))))

    slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
    np.testing.assert_allclose(gradient.schedule.curve.log_rates[1], slope, rtol=1e-5)
    assert np.isfinite(value)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_a_schedule_made_for_the_sampler_is_nearer_to_many_steps(exact, sampler):
    """The mixture in two dimensions, ten steps, noise that the search has not seen."""
    found = search(
        "sampler",
        exact,
        exact.process,
        np.asarray(exact.distribution.sample(1024, key=jax.random.key(1))),
        SearchOptions(iterations=200),
        sampler=sampler,
        key=jax.random.key(2),
    )
    error = FewStepError(FewStepSampler(exact, sampler), 10, 1024, key=jax.random.key(3))
    by_hand = (
        exact.process,
        ex.CosinePath(),
        ex.StraightLine(1.0),
        ex.RectifiedFlow(),
    )
    best = min(float(error(process)) for process in by_hand)
    gain = best - float(error(found.process))
    assert gain > (0.01 if sampler == "ddim" else 0.3)


def test_levels_are_those_of_karras_or_uniform_in_time(x64):
    candidates = {c.name: c for c in hand_designed(ex.LinearSchedule(), 1.0)}
    levels = np.asarray(candidates["edm"].levels(6))
    noise = np.exp(-levels / 2)
    np.testing.assert_allclose(noise[[0, -2, -1]], [80.0, 0.002, 0.0], rtol=1e-12)
    np.testing.assert_allclose(np.diff(noise[:-1] ** (1 / RHO), 2), 0, atol=1e-12)
    for name in ("linear", "cosine", "straight-line", "rectified-flow"):
        process = candidates[name].process
        levels = candidates[name].levels(4)
        assert levels[-1] == jnp.inf
        times = process.time_of_log_snr(levels)
        np.testing.assert_allclose(times, [1, 0.75, 0.5, 0.25, 0], atol=1e-9)

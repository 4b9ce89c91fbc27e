"""S_tot, its curve, its error and its gradient in the schedule, of laws that are enumerated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import as_shipped, quick_jit
from tests.tokens.systems import exact, left_over, negentropy, random_joint, ring, single


def stored(table, process, data, key, **options):
    return ex.neural_entropy(exact(table, process), data, key=key, **options)


@pytest.mark.slow(reason="data and a gradient of its own")
def test_uniform_jumps_until_a_time():
    r"""$KL(p_d\|U) - KL(p_T\|U)$ at B = 1 and 3, and its gradient in B, from one program."""
    uniform = ex.processes.UniformJumps(4, ex.LinearSchedule(1.0, 1.0))
    data = exact(single(), uniform).sample(8000, key=jax.random.key(0))

    def value(rate, key):
        process = ex.processes.UniformJumps(4, ex.LinearSchedule(rate, rate))
        found = stored(jnp.asarray(single(), float), process, data, key)
        return found.value, found.stderr

    both = quick_jit(jax.value_and_grad(value, has_aux=True))
    for rate, truth in ((1.0, 0.446638319), (3.0, 0.515784019)):
        assert abs(negentropy(single()) - left_over(single(), np.exp(-rate)) - truth) < 1e-8
        keys = jax.random.split(jax.random.key(1), 12)
        found = np.array([jax.tree.leaves(both(rate, key)) for key in keys])
        assert np.abs(found[0, 0] - truth) < 4 * found[0, 1]
        assert found[0, 1] < 0.02 * truth
        assert np.abs(found[:, 0].mean() - truth) < 0.01 * truth + found[0, 1]
        ends = [left_over(single(), np.exp(-rate + sign * 1e-4)) for sign in (1, -1)]
        slope, error = (ends[0] - ends[1]) / 2e-4, found[:, 2].std(ddof=1) / 12**0.5
        assert abs(found[:, 2].mean() - slope) < 4 * error
        assert error < 0.002


@pytest.mark.slow(reason="repeats, each with data of its own")
@pytest.mark.parametrize("kind", ["masking", "uniform"])
def test_total_entropy_of_a_ring(kind):
    r"""$D\ln K - H$ = 0.899603331 for every schedule; errors are honest; the curve adds up."""
    table = ring()
    assert abs(negentropy(table) - 0.899603331) < 1e-9
    schedule = ex.MonotoneSchedule([0.0, 1.0, -1.0], 9.0)
    if kind == "masking":
        process = ex.Masking(2, schedule)
    else:
        process = ex.processes.UniformJumps(2, ex.processes.CosineSchedule())
    model = exact(table, process)
    repeats = []
    for key in jax.random.split(jax.random.key(0), 24):
        data_key, key = jax.random.split(key)
        data = model.sample(4000, key=data_key)
        curve = ex.entropy_curve(model, data, key=key, num_evaluations=4096, num_times=9)
        repeats.append((curve.total.value, curve.total.stderr))
    values, errors = np.array(repeats).T
    assert np.all(np.abs(values - 0.899603331) < 4 * errors)
    scatter = np.std(values, ddof=1) / np.sqrt(np.mean(errors**2))
    assert 0.65 < scatter < 1.35  # 24 repeats know it to 15%
    assert abs(values.mean() - 0.899603331) < 4 * errors.mean() / 24**0.5
    assert np.all(np.diff(curve.cumulative) >= 0)


@pytest.mark.slow(reason="a derivative through the schedule")
def test_masking_does_not_depend_on_the_schedule():
    """The gradient in the rates and in the total of a learnable schedule is zero, for any law."""
    table = random_joint()
    data = exact(table, ex.Masking(3, ex.LinearSchedule())).sample(4000, key=jax.random.key(0))

    def value(schedule):
        estimate = stored(table, ex.Masking(3, schedule), data, jax.random.key(1))
        return estimate.value, estimate.stderr

    schedule = ex.MonotoneSchedule([0.3, -0.8, 0.5], 5.0)
    (found, error), slopes = quick_jit(jax.value_and_grad(value, has_aux=True))(schedule)
    assert abs(found - negentropy(table)) < 4 * error < 0.1
    assert max(abs(leaf).max() for leaf in jax.tree.leaves(slopes)) < 1e-5


def test_what_is_refused():
    process = ex.Masking(2, ex.LinearSchedule())
    model, key = exact(ring(), process), jax.random.key(0)
    with as_shipped():
        with pytest.raises(ValueError, match="`data` must hold tokens, integers from 0 to 1"):
            ex.neural_entropy(model, np.full((4, 8), 2), key=key)
        with pytest.raises(ValueError, match="`log_weights` must have as many entries"):
            exact(np.zeros((2, 3)), process)
        with pytest.raises(ValueError, match="`log_weights` must be finite"):
            exact(np.full((2, 2), -np.inf), process)
        with pytest.raises(ValueError, match="`process` must be a process of tokens"):
            exact(ring(), ex.StraightLine())
        with pytest.raises(ValueError, match="`model` must be one of a Gaussian process"):
            ex.solve_flow(model, np.zeros((4, 8)))
        with pytest.raises(ValueError, match="`num_tokens` must be an integer of at least 2"):
            ex.Masking(1, ex.LinearSchedule())
        with pytest.raises(ValueError, match="`cutoff` must be None"):
            ex.neural_entropy(model, np.zeros((4, 8)), key=key, cutoff=0.1)

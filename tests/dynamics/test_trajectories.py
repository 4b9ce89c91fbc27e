"""What a solve returns and refuses: saving, interpolation, chunks, adaptive steps, functionals."""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.dynamics import sample, solve_flow, solve_forward, solve_reverse
from tests.dynamics.paths import Impulses, linear_law
from tests.helpers import PROCESSES, as_shipped, small_gaussian, small_mixture


KEY = jax.random.key(0)
TIMES = (0.0, 0.2, 0.5, 0.6, 1.0)


def increment(s0, s1, y0, y1):
    return {"moved": jnp.sum(y1 - y0), "time": s1 - s0}


def forward(**options):
    process = PROCESSES["vp"]()
    return solve_forward(process, states(), key=KEY, **options)


def reverse(**options):
    return solve_reverse(ex.ExactModel(small_gaussian(), PROCESSES["vp"]()), states(), **options)


def flow(**options):
    return solve_flow(ex.ExactModel(small_gaussian(), PROCESSES["vp"]()), states(), **options)


def states():
    return jax.random.normal(jax.random.key(9), (7, 2))


# call, its options, the sign of its direction
SOLVES: dict[str, tuple[Callable, dict, int]] = {
    "forward": (forward, {}, 1),
    "sra1": (forward, {"solver": diffrax.SRA1()}, 1),
    "reverse": (reverse, {"key": KEY}, -1),
    "flow": (flow, {}, 1),
    "flow-back": (flow, {"direction": "reverse"}, -1),
}
ALL = [
    n if n in ("forward", "reverse") else pytest.param(n, marks=pytest.mark.slow) for n in SOLVES
]


def check_functional(run):
    """Increments add up to the difference of the ends."""
    moved = jnp.sum(run.states - states(), axis=-1)
    np.testing.assert_allclose(run.functional["moved"], moved, atol=1e-4)
    passed = jnp.broadcast_to(run.times[:, None], moved.shape)
    start = TIMES[0] if run.times[-1] >= run.times[0] and run.times[-1] == 1.0 else TIMES[-1]
    np.testing.assert_allclose(run.functional["time"], passed - start, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sra1", "reverse", "flow-back"])
def test_saving_chunks_and_interpolation(name):
    solve, options, direction = SOLVES[name]
    times = jnp.asarray(TIMES[::direction])
    all_steps = solve(times=times, save="steps", functional=increment, dense=True, **options)
    np.testing.assert_array_equal(all_steps.times, times)
    np.testing.assert_array_equal(all_steps.states[0], states())
    np.testing.assert_array_equal(all_steps.final, all_steps.states[-1])
    check_functional(all_steps)
    # Interpolation meets the steps.
    for k in (1, 2, 4):
        at = all_steps.evaluate(times[k])
        np.testing.assert_allclose(at, all_steps.states[k], atol=1e-5)
    # Chunks, the last one not full, do not change the samples; nor do times saved at.
    picked = times[jnp.asarray([1, 3, 4])]
    chunked = solve(
        times=times[jnp.asarray([0, 2, 4])],
        save=picked,
        functional=increment,
        chunk_size=3,
        **options,
    )
    np.testing.assert_array_equal(chunked.times, picked)
    np.testing.assert_allclose(chunked.states, all_steps.states[jnp.asarray([1, 3, 4])], atol=1e-5)
    check_functional(chunked)
    with pytest.raises(ValueError, match="`dense` must be True"):
        chunked.evaluate(0.5)


def test_the_key_decides():
    runs = [solve_forward(PROCESSES["vp"](), states(), key=jax.random.key(k)) for k in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0].final, runs[1].final)
    assert runs[0].states.shape == (1, 7, 2)
    assert len(np.unique(np.asarray(jnp.stack([runs[0].final, runs[2].final])))) == 28


@pytest.mark.slow
def test_adaptive_flow(x64):
    """To the tolerance, at saved times too, which are steps: lines in between are of order one."""
    gaussian, process = small_gaussian(), PROCESSES["vp"]()
    x = jnp.asarray([[0.4, 0.1], [-1.0, 2.0]])
    run = solve_flow(
        ex.ExactModel(gaussian, process),
        x,
        solver=diffrax.Tsit5(),
        stepsize_controller=diffrax.PIDController(rtol=1e-8, atol=1e-8),
        save=[0.13, 0.4, 1.0],
        functional=increment,
    )
    values, vectors = jnp.linalg.eigh(gaussian.covariance)
    for s, y, moved in zip(run.times, run.states, run.functional["moved"], strict=True):
        gain = jnp.sqrt((process.scale(s) ** 2 * values + process.var(s)) / values)
        exact = ((x - gaussian.mean) @ vectors * gain) @ vectors.T
        np.testing.assert_allclose(y, process.scale(s) * gaussian.mean + exact, atol=1e-6)
        np.testing.assert_allclose(moved, jnp.sum(y - x, axis=-1), atol=1e-6)


@pytest.mark.slow
def test_adaptive_steps_follow_a_given_path(x64):
    """Almost free Brownian motion: saved states are the path itself, however long the steps."""
    process = ex.Langevin(ex.processes.Harmonic(1e-6), 0.5)
    path = diffrax.VirtualBrownianTree(
        0.0, 1.0, 2.0**-10, (3, 2), KEY, levy_area=diffrax.SpaceTimeLevyArea
    )
    save = jnp.asarray([0.25, 0.3, 0.7, 1.0])
    run = solve_forward(
        process,
        jnp.zeros((3, 2)),
        key=KEY,
        path=path,
        save=save,
        functional=increment,
        stepsize_controller=diffrax.PIDController(rtol=10.0, atol=10.0),
    )
    exact = jnp.stack([path.evaluate(0.0, s) for s in save])
    np.testing.assert_allclose(run.states, exact, atol=1e-5)
    np.testing.assert_allclose(run.functional["moved"], jnp.sum(exact, axis=-1), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("save", "chunk_size"), [(None, None), ([0.3, 0.9], 3), ([0.3, 1.0], 3)])
def test_adaptive_steps_into_infinite_noise(save, chunk_size):
    run = solve_forward(
        PROCESSES["sl"](),
        states(),
        key=KEY,
        save=save,
        functional=increment,
        chunk_size=chunk_size,
        stepsize_controller=diffrax.PIDController(rtol=0.05, atol=0.05, dtmin=1e-4),
    )
    np.testing.assert_allclose(run.times, [1.0] if save is None else save)
    moved = jnp.sum(run.states - states(), axis=-1)
    np.testing.assert_allclose(run.functional["moved"], moved, atol=1e-4)


@pytest.mark.slow
def test_reverse_states_before_pure_noise_are_forgotten():
    """A limitation: where mu(t1) = 0, interpolation does not know the start."""
    model = ex.ExactModel(small_gaussian(), PROCESSES["rf"]())
    run = solve_reverse(model, states(), key=KEY, num_steps=3, dense=True, save="steps")
    np.testing.assert_array_equal(run.states[0], states())
    np.testing.assert_array_equal(run.evaluate(1.0), 0.0)
    np.testing.assert_allclose(run.evaluate(run.times[1]), run.states[1], atol=1e-5)


# ---------------------------------------------------------------------------- models, processes


class Pull(eqx.Module):
    """The score of N(c, 1) under a process with P = 1: the condition is the centre."""

    dim: int = eqx.field(static=True, default=2)

    def __call__(self, log_snr, y, condition=None):
        return jnp.sqrt(jax.nn.sigmoid(log_snr)) * condition - y


def test_conditions_reach_the_network():
    """The flow of N(c, 1) moves x to mu c + x - c, in one step; each sample has its own c."""
    process = PROCESSES["vp"]()
    model = ex.ScoreMatching(Pull(), process)
    centre = 3 * jax.random.normal(jax.random.key(1), (7, 2))
    run = solve_flow(
        model, states(), condition=centre, num_steps=2, chunk_size=4, save=None, variance=1.0
    )
    end = states() - (1 - process.scale(process.t1)) * centre
    np.testing.assert_allclose(run.final, end, atol=1e-4)


def test_langevin_keeps_its_equilibrium(x64):
    """Variance T/k, to the square of the step, with the default solver (SRA1); no Monte Carlo."""
    stiffness, temperature = 2.0, 0.7
    process = ex.Langevin(ex.processes.Harmonic(stiffness), temperature, t1=6.0)
    times = jnp.linspace(0.0, 6.0, 101)
    run = solve_forward(process, jnp.zeros((201, 1)), key=KEY, times=times, path=Impulses(times))
    mean, variance = linear_law(run.states)
    assert mean[0] == 0
    expected = temperature / stiffness * (1 - np.exp(-2 * stiffness * 6.0))
    np.testing.assert_allclose(variance[0, 0], expected, rtol=3e-3)


@pytest.mark.slow
def test_vmap_over_processes():
    x = states()

    @jax.jit
    def at(kappa):
        process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0), kappa=kappa)
        run = solve_forward(process, x, key=KEY, num_steps=3, functional=increment)
        return run.final, run.functional

    kappas = jnp.asarray([1.0, 0.4])
    together = jax.jit(jax.vmap(at))(kappas)
    for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(at(kappas[1])), strict=True):
        np.testing.assert_allclose(one[1], other, atol=2e-4)


# ---------------------------------------------------------------------------- refusals


def test_refusals():
    x = states()
    pid = diffrax.PIDController(rtol=0.1, atol=0.1)
    tree = diffrax.VirtualBrownianTree(0.0, 1.0, 1e-3, (7, 2), KEY)
    common = [
        ({"times": [0.5]}, "`times` must have shape"),
        ({"times": [[0.0, 1.0]]}, "`times` must have shape"),
        ({"times": [0.2, 0.8, 0.8]}, "`times` must be (in|de)creasing"),
        ({"times": [0.8, 0.2, 0.5]}, "`times` must be (in|de)creasing"),
        ({"times": [0.0, 0.5, 1.5][::1]}, r"`times` must be .* within \[0, 1\]"),
        ({"times": [-0.5, 1.0]}, r"`times` must be .* within \[0, 1\]"),
        ({"times": [0.0, float("nan")]}, "`times` must be (in|de)creasing"),
        ({"num_steps": 0}, "`num_steps` must be an integer"),
        ({"max_steps": 0}, "`max_steps` must be an integer"),
        ({"chunk_size": 0}, "`chunk_size` must be an integer"),
        ({"chunk_size": 2, "dense": True}, "`chunk_size` must be None where `dense`"),
        ({"save": "all"}, "`save` must be None, 'steps' or an array"),
        ({"save": []}, "`save` must have shape"),
        ({"save": [0.5, 0.5]}, "`save` must be (in|de)creasing"),
        ({"save": [1.5]}, "`save` must lie within the times"),
        ({"save": [float("nan")]}, "`save` must lie within the times"),
        ({"functional": 3.0}, "`functional` must be a function"),
        ({"adjoint": diffrax.ImplicitAdjoint()}, "`adjoint` must be one for trajectories"),
        (
            {"stepsize_controller": pid, "solver": diffrax.Heun(), "save": "steps"},
            "`save` must name times",
        ),
    ]
    for solve, options, direction in SOLVES.values():
        for extra, message in common:
            with as_shipped(), pytest.raises(ValueError, match=message):
                solve(**{**options, **extra})
        with pytest.raises(ValueError, match=r"`times` must be (in|de)creasing"):
            solve(times=[0.0, 1.0][::-direction], **options)
        with pytest.raises(ValueError, match=r"`save` must be (in|de)creasing"):
            solve(save=[0.2, 0.7][::-direction], **options)
    for solve, options in ((forward, {}), (reverse, {"key": KEY})):
        cases = [
            ({"path": 3.0}, "`path` must be a Diffrax Brownian path"),
            ({"path": tree, "chunk_size": 2}, "`chunk_size` must be None where `path`"),
            (
                {"path": diffrax.VirtualBrownianTree(-1.0, 1.0, 1e-3, (2,), KEY)},
                r"`path` must have the shape of the states, \(7, 2\)",
            ),
        ]
        for extra, message in cases:
            with as_shipped(), pytest.raises(ValueError, match=message):
                solve(**{**options, "solver": diffrax.Euler(), **extra})
    with pytest.raises(ValueError, match="`direction` must be one of"):
        flow(direction="up")
    with pytest.raises(ValueError, match="`solver` must be given"):
        flow(stepsize_controller=pid)
    singular = PROCESSES["sl"]()
    with pytest.raises(ValueError, match="`times` must end before t1"):
        solve_forward(singular, x, key=KEY, solver=diffrax.SRA1(), path=tree)
    for times in (None, [1.0, 0.5]):
        with pytest.raises(ValueError, match="`functional` needs `times` that start before t1"):
            solve_reverse(
                ex.ExactModel(small_gaussian(), singular),
                x,
                key=KEY,
                times=times,
                functional=increment,
            )


def test_refusals_of_models_and_states():
    x = states()
    model = ex.ExactModel(small_mixture(), PROCESSES["vp"]())
    langevin = ex.Langevin(ex.processes.Harmonic(), 0.5)
    of_langevin = ex.EntropyMatching(Pull(), langevin)
    calls = {
        "y": lambda m, y, **more: solve_reverse(m, y, key=KEY, **more),
        "x": solve_flow,
    }
    for name, call in calls.items():
        cases = [
            (of_langevin, x, {}, "`model` must be one of a Gaussian process, got Langevin"),
            (model, x[:, :1], {}, rf"`{name}` must have shape \(n, 2\)"),
            (model, x[0], {}, f"`{name}` must have shape"),
            (model, x[:0], {}, f"`{name}` must hold at least 1"),
            (model, x.at[0, 0].set(jnp.nan), {}, f"`{name}` must be finite, got 1 entries"),
            (model, x, {"condition": x[:3]}, "`condition` must have a leading axis of 7"),
            (model, x, {"variance": 0.0}, "`variance` must be positive"),
            (3.0, x, {}, "`model` must be a model, got float"),
        ]
        for given, y, more, message in cases:
            with as_shipped(), pytest.raises(ValueError, match=message):
                call(given, y, **more)
    with pytest.raises(ValueError, match="`model` must be one of a Gaussian process, got Langevin"):
        sample(of_langevin, key=KEY, num_samples=3)
    for y, message in ((x[0], "must have shape"), (x.at[0, 0].set(jnp.inf), "must be finite")):
        with pytest.raises(ValueError, match=f"`x` {message}"):
            solve_forward(langevin, y, key=KEY)
    with as_shipped(), pytest.raises(ValueError, match="`process` must be a process, got float"):
        solve_forward(1.0, x, key=KEY)


def test_states_that_are_not_finite_are_raised():
    process = ex.Langevin(lambda y: -jnp.sum(y**4), 1.0)  # nothing holds the state
    with pytest.raises(eqx.EquinoxRuntimeError, match="a sample is not finite"):
        solve_forward(process, 3 + states(), key=KEY, num_steps=32)


def test_interpolation_stays_within_the_solve():
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    run = solve_forward(
        process, jnp.ones((2, 1)), key=jax.random.key(0), times=[0.0, 0.2, 0.5], dense=True
    )
    with pytest.raises(ValueError, match="`s` must be a time within the solve"):
        run.evaluate(0.7)
    with pytest.raises(ValueError, match="`s` must be one time"):
        run.evaluate(jnp.array([0.1, 0.2]))


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ({"key": None}, "`key` must be one PRNG key"),
        ({"stepsize_controller": 3}, "`stepsize_controller` must be one of Diffrax's"),
        ({"adjoint": 3}, "`adjoint` must be one of Diffrax's"),
        ({"adjoint": diffrax.BacksolveAdjoint()}, "`adjoint` must be another"),
        ({"solver": 3}, "`solver` must be a Diffrax solver"),
        ({"functional": lambda s0, s1, y0, y1: y1}, "`functional` must return scalars"),
    ],
)
def test_what_a_solve_is_made_of(argument, says):
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    options = {"key": jax.random.key(0), "num_steps": 2} | argument
    with as_shipped(), pytest.raises(ValueError, match=says):
        solve_forward(process, jnp.ones((2, 2)), **options)

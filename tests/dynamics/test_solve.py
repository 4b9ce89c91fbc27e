"""Forward, reverse and flow solves: orders of convergence, exact laws, round trips, gradients."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.dynamics import ReverseCoordinates, solve_flow, solve_forward, solve_reverse
from tests.dynamics.paths import Impulses, Refined, linear_law
from tests.helpers import (
    DISTINCT,
    FEW,
    PROCESSES,
    all_finite,
    finite_difference,
    numbers,
    quick,
    quick_jit,
    quick_rows,
    small_gaussian,
    small_mixture,
)


SRA1 = diffrax.SRA1()


def slope(coarse, fine):
    """The order of convergence, from errors of one step size and of half of it."""
    return float(np.log2(coarse / fine))


def brownian(t0, t1, shape, tol=2.0**-12):
    key = jax.random.key(7)
    return diffrax.VirtualBrownianTree(t0, t1, tol, shape, key, diffrax.SpaceTimeLevyArea)


def moments_off(y, mean, covariance):
    """How many standard errors sample mean and covariance are off, at worst."""
    centred = np.asarray(y) - np.asarray(mean)
    outer = centred[:, :, None] * centred[:, None, :]
    root = len(centred) ** 0.5
    return max(
        np.max(np.abs(np.mean(v, 0) - target) / (np.std(v, 0) / root))
        for v, target in ((centred, 0.0), (outer, np.asarray(covariance)))
    )


def carried(gaussian, process, x, s):
    """The probability flow of a Gaussian from `t0` to `s`: its covariances commute."""
    values, vectors = jnp.linalg.eigh(gaussian.covariance)
    scale = process.scale(s)
    gain = jnp.sqrt((scale**2 * values + process.var(s)) / values)
    return scale * gaussian.mean + ((x - gaussian.mean) @ vectors * gain) @ vectors.T


# ---------------------------------------------------------------------------- orders


def rms(gap):
    return float(np.sqrt(np.mean(np.asarray(gap) ** 2)))


@pytest.mark.slow
@pytest.mark.parametrize("tree", [False, True])
def test_strong_orders_of_the_forward_sde(x64, tree):
    """The Ornstein-Uhlenbeck process on one path. Euler 1; SRA1 2, for want of a nonlinear drift.

    Against steps of an eighth of the size, where SRA1 makes an error of 1/64.
    """
    process = PROCESSES["vp-constant"]()
    x = jnp.linspace(-1.0, 1.0, 100).reshape(-1, 1)
    path = brownian(0.0, 1.0, x.shape) if tree else Refined(jnp.linspace(0.0, 1.0, 1025), x.shape)

    def solve(solver, n):
        key, times = jax.random.key(0), jnp.linspace(0.0, 1.0, n + 1)
        return solve_forward(process, x, key=key, times=times, solver=solver, path=path).final

    exact = solve(SRA1, 512)
    euler, sra = ([rms(solve(s, n) - exact) for n in (32, 64)] for s in (diffrax.Euler(), SRA1))
    assert 0.85 < slope(*euler) < 1.15
    assert 1.8 < slope(*sra) < 2.2
    assert sra[1] < 0.1 * euler[1]


@pytest.mark.slow
def test_strong_order_with_a_nonlinear_drift(x64):
    """SRA1 is of order 1.5 in a double well."""
    process = ex.Langevin(ex.processes.DoubleWell(), 1.0)
    x = jnp.linspace(-1.5, 1.5, 400).reshape(-1, 1)
    path = Refined(jnp.linspace(0.0, 1.0, 1025), x.shape)

    def solve(n):
        key, times = jax.random.key(0), jnp.linspace(0.0, 1.0, n + 1)
        return solve_forward(process, x, key=key, times=times, path=path).final

    exact = solve(1024)
    assert 1.3 < slope(rms(solve(64) - exact), rms(solve(128) - exact)) < 1.7


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "order"), [(SRA1, 2), (diffrax.Euler(), 1)])
def test_strong_orders_of_the_reverse_sde(x64, solver, order):
    """Data of another variance than the reference, in the reverse coordinates."""
    process = PROCESSES["vp"]()
    model = ex.ExactModel(ex.Gaussian([0.4], [[0.3]]), process)
    y = jnp.linspace(-1.0, 1.0, 100).reshape(-1, 1)
    knots = ReverseCoordinates(process, jnp.asarray(1.0), flow=False).steps(1024)[1]
    path = Refined(knots, y.shape)

    def solve(solver, n):
        key = jax.random.key(0)
        return solve_reverse(
            model, y, key=key, num_steps=n, solver=solver, path=path, variance=1.0
        ).final

    exact = solve(SRA1, 1024)
    coarse, fine = (rms(solve(solver, n) - exact) for n in (32, 64))
    assert order - 0.25 < slope(coarse, fine) < order + 0.25


WEAK = [(diffrax.Euler(), 1), (SRA1, 2)]


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "order"), WEAK)
def test_weak_orders_of_the_forward_sde(x64, solver, order):
    """No Monte Carlo: the mean and variance that the scheme has, against those of the process."""
    process = PROCESSES["vp-constant"]()

    def errors(n):
        times = jnp.linspace(0.0, 1.0, n + 1)
        x = jnp.full((2 * n + 1, 1), 1.5)
        run = solve_forward(
            process,
            x,
            key=jax.random.key(0),
            times=times,
            solver=solver,
            path=Impulses(times),
        )
        mean, variance = linear_law(run.states)
        return (
            abs(float(mean[0] - process.scale(1.0) * 1.5)),
            abs(float(variance[0, 0] - process.var(1.0))),
        )

    for coarse, fine in zip(errors(32), errors(64), strict=True):
        assert order - 0.25 < slope(coarse, fine) < order + 0.25


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "order"), [*WEAK, (diffrax.ShARK(), 2)])
def test_weak_orders_of_the_reverse_sde(x64, solver, order):
    """From one point at the noise end to the posterior of the data: its variance is known."""
    process = PROCESSES["vp"]()
    model = ex.ExactModel(ex.Gaussian([0.4], [[0.3]]), process)
    coordinates = ReverseCoordinates(process, jnp.asarray(1.0), flow=False)
    noise = process.var(1.0)
    target = 0.3 * noise / (noise + 0.3 * process.scale(1.0) ** 2)

    def error(n):
        run = solve_reverse(
            model,
            jnp.full((2 * n + 1, 1), 0.7),
            key=jax.random.key(0),
            num_steps=n,
            solver=solver,
            path=Impulses(coordinates.steps(n)[1]),
            variance=1.0,
        )
        return abs(float(linear_law(run.states)[1][0, 0] - target))

    assert order - 0.3 < slope(error(16), error(32)) < order + 0.4


@pytest.mark.parametrize("direction", quick(["forward"], ["forward", "reverse"]))
def test_order_of_the_flow(x64, direction):
    """Two, against the closed form of the flow of a Gaussian."""
    gaussian, process = small_gaussian(), PROCESSES["vp"]()
    model = ex.ExactModel(gaussian, process)
    x = jnp.asarray([[1.0, 0.3], [-2.0, 1.0], [0.5, -3.0]])
    y = carried(gaussian, process, x, process.t1)
    start, target = (x, y) if direction == "forward" else (y, x)

    def error(n):
        end = solve_flow(model, start, direction=direction, num_steps=n).final
        return float(jnp.max(jnp.abs(end - target)))

    coarse, fine = error(24), error(48)
    assert 1.8 < slope(coarse, fine) < 2.3
    assert fine < 3e-3


# ---------------------------------------------------------------------------- laws


@pytest.mark.parametrize(
    ("name", "precision"),
    quick_rows(
        [(name, "x64") for name in FEW],
        [(name, "x64") for name in DISTINCT if name not in FEW]
        + [(name, "x32") for name in ("vpx", "sl", "ve", "rf")],
    ),
)
def test_exact_law_at_all_times(request, name, precision):
    """Without a solver, three steps have the joint law of the process at all their times.

    Cov(Y_s, Y_t) = mu_t/mu_s (mu_s^2 v + Sigma_s^2) for s < t; here of one starting point, v = 0.
    """
    request.getfixturevalue(precision)
    process = PROCESSES[name]()
    times = jnp.asarray([process.t0, 0.3 * process.t1, 0.8 * process.t1, process.t1])
    run = solve_forward(
        process,
        jnp.full((7, 1), -1.5),
        key=jax.random.key(0),
        times=times,
        save="steps",
        path=Impulses(times),
    )
    mean, covariance = linear_law(run.states)
    scale, var = process.scale(times), process.var(times)
    start = run.times[0]  # not exactly noiseless for every process
    extra = process.var(start)
    rtol = 1e-10 if precision == "x64" else 1e-4
    atol = rtol * float(jnp.max(var))
    np.testing.assert_allclose(mean, -1.5 * scale / scale[0], rtol=rtol, atol=rtol)
    first = jnp.minimum(jnp.arange(4)[:, None], jnp.arange(4))
    last = jnp.maximum(jnp.arange(4)[:, None], jnp.arange(4))
    gain = scale[last] / jnp.where(scale[first] > 0, scale[first], 1.0)
    gain = jnp.where(first == last, 1.0, gain)
    given = var - (scale / scale[0]) ** 2 * extra
    np.testing.assert_allclose(covariance, gain * given[first], rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", quick(["rf"], ["vpx", "ve", "path-module"]))
def test_samples_have_the_law(x32, name):
    """The path that a key makes: independent over steps and samples, in single precision."""
    gaussian, process = small_gaussian(), PROCESSES[name]()
    key, data_key = jax.random.split(jax.random.key(1))
    x = gaussian.sample(20_000, key=data_key)
    run = solve_forward(process, x, key=key, num_steps=3, save="steps")
    assert run.states.dtype == jnp.float32
    assert all_finite(run.states)
    for s, y in zip(run.times, run.states, strict=True):
        target = gaussian.diffused(process, s)
        assert moments_off(y, target.mean, target.covariance) < 4.5
    # E[Y_t | Y_s] = gain Y_s: what is left is uncorrelated with the past.
    gain = float(process.scale(run.times[2]) / process.scale(run.times[1]))
    early, late = np.asarray(run.states[1]), np.asarray(run.states[2])
    product = (late - gain * early)[:, :, None] * early[:, None, :]
    off = np.abs(np.mean(product, 0)) / (np.std(product, 0) / 20_000**0.5)
    assert np.max(off) < 4.5


@pytest.mark.slow(reason="a program of its own for each")
@pytest.mark.parametrize("name", ["sl", "rf", "vp-cosine"])
def test_a_solver_reaches_infinite_noise(x32, name):
    """The last step is the exact transition: nothing is cut off, and nothing is infinite."""
    gaussian, process = small_gaussian(), PROCESSES[name]()
    x = gaussian.sample(10_000, key=jax.random.key(2))
    save = jnp.asarray([0.4, 1.0])
    run = solve_forward(
        process,
        x,
        key=jax.random.key(3),
        num_steps=48,
        solver=SRA1,
        save=save,
        functional=lambda s0, s1, y0, y1: jnp.sum(y1 - y0),
    )
    assert all_finite(run)
    for s, y in zip(save, run.states, strict=True):
        target = gaussian.diffused(process, s)
        assert moments_off(y, target.mean, target.covariance) < 4.5
    moved = jnp.sum(run.states - x, axis=-1)
    np.testing.assert_allclose(run.functional, moved, atol=1e-3)


@pytest.mark.slow
def test_adaptive_steps_have_the_law():
    """At saved times too, which the steps meet: straight lines in between have too little noise."""
    gaussian, process = small_gaussian(), PROCESSES["vp"]()
    x = gaussian.sample(4000, key=jax.random.key(2))
    save = jnp.asarray([0.21, 0.43, 1.0])
    run = solve_forward(
        process,
        x,
        key=jax.random.key(3),
        save=save,
        stepsize_controller=diffrax.PIDController(rtol=0.02, atol=0.02, dtmin=1e-4),
        chunk_size=1000,
    )
    for s, y in zip(save, run.states, strict=True):
        target = gaussian.diffused(process, s)
        assert moments_off(y, target.mean, target.covariance) < 4.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vpx", "sl", "ve"])
def test_round_trip_of_the_flow(x64, name):
    """To noise and back; on the way the density is that of the process at the same times."""
    mixture, process = small_mixture(), PROCESSES[name]()
    model = ex.ExactModel(mixture, process)
    x = mixture.sample(2000, key=jax.random.key(4))
    there = solve_flow(model, x, num_steps=48, save="steps")
    back = solve_flow(model, there.final, direction="reverse", num_steps=48, save="steps")
    np.testing.assert_allclose(back.times, there.times[::-1], atol=1e-12)
    gap = jnp.abs(back.final - x)
    assert float(jnp.quantile(gap, 0.99)) < 0.01  # the noise end of some is known less well
    target = mixture.diffused(process, there.times[24])
    assert moments_off(there.states[24], target.mean, target.covariance) < 4.5


# ---------------------------------------------------------------------------- gradients


def increment(s0, s1, y0, y1):
    return jnp.sum(jnp.sin((y0 + y1) / 2)) * (s1 - s0)


ADJOINTS = {
    "recursive": diffrax.RecursiveCheckpointAdjoint,
    "direct": diffrax.DirectAdjoint,
    "forward": diffrax.ForwardMode,
}


def gradient(f, at, adjoint):
    """All derivatives by the mode that an adjoint has."""
    of = lambda v: f(v, ADJOINTS[adjoint]())  # noqa: E731
    return jax.jit((jax.jacfwd if adjoint == "forward" else jax.grad)(of))(at)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "adjoint"),
    [
        ("exact", "recursive"),
        ("sra1", "forward"),
        ("sra1", "recursive"),
    ],
)
def test_gradients_of_a_forward_functional(x64, solver, adjoint):
    """In every number of the process, on the same Brownian path, default times included."""
    flat, rebuild = numbers(PROCESSES["vpx"]())
    x = jax.random.normal(jax.random.key(5), (4, 2))

    def value(v, adjoint=None):
        run = solve_forward(
            rebuild(v),
            x,
            key=jax.random.key(6),
            num_steps=6,
            functional=increment,
            solver=SRA1 if solver == "sra1" else None,
            adjoint=adjoint,
        )
        return jnp.mean(run.functional) + jnp.mean(run.final**2)

    expected = finite_difference(jax.jit(lambda batch: jax.lax.map(value, batch)), flat)
    assert np.all(np.abs(expected) > 1e-6)
    np.testing.assert_allclose(gradient(value, flat, adjoint), expected, rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_gradients_along_a_given_path(x64):
    flat, rebuild = numbers(PROCESSES["vp-constant"]())
    x = jax.random.normal(jax.random.key(5), (4, 2))
    path, times = brownian(0.0, 1.0, (4, 2)), jnp.linspace(0.0, 1.0, 7)

    def value(v, adjoint=None):
        run = solve_forward(
            rebuild(v), x, key=path.key, times=times, solver=SRA1, path=path, adjoint=adjoint
        )
        return jnp.mean(jnp.sin(run.final))

    expected = finite_difference(jax.jit(lambda batch: jax.lax.map(value, batch)), flat)
    found = gradient(value, flat, "recursive")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_gradients_through_adaptive_steps(x64):
    """Steps that adapt to a path end at rough times: compare with fine fixed steps along it."""
    flat, rebuild = numbers(PROCESSES["vp-constant"]())
    x = jax.random.normal(jax.random.key(5), (4, 2))
    path = brownian(0.0, 1.0, (4, 2), 2.0**-16)
    adaptive = {
        "stepsize_controller": diffrax.PIDController(rtol=1e-4, atol=1e-4, dtmin=1e-4),
        "save": jnp.asarray([0.3, 1.0]),
    }

    def value(v, **options):
        options = {"times": np.linspace(0.0, 1.0, 2001), **options}
        if "stepsize_controller" in options:
            options["times"] = [0.0, 1.0]
        run = solve_forward(
            rebuild(v), x, key=path.key, path=path, solver=SRA1, functional=increment, **options
        )
        return jnp.mean(run.functional[-1]) + jnp.mean(run.final**2)

    found = jax.jit(jax.grad(lambda v: value(v, **adaptive)))(flat)
    expected = jax.jit(jax.jacfwd(lambda v: value(v, adjoint=diffrax.ForwardMode())))(flat)
    np.testing.assert_allclose(found, expected, rtol=1e-2)


@pytest.mark.slow
def test_gradients_through_default_adaptive_steps(x64):
    """The default times depend on the process, and the ends of a Brownian tree may not."""
    x = jax.random.normal(jax.random.key(5), (4, 2))

    def value(process):
        run = solve_forward(
            process,
            x,
            key=jax.random.key(6),
            stepsize_controller=diffrax.PIDController(rtol=0.1, atol=0.1, dtmin=1e-3),
        )
        return jnp.mean(run.final**2)

    gradients = eqx.filter_jit(eqx.filter_grad(value))(PROCESSES["sl"]())
    assert all_finite(gradients)


ADAPTIVE = {
    "solver": diffrax.Tsit5(),
    "stepsize_controller": diffrax.PIDController(rtol=1e-8, atol=1e-8),
    "max_steps": 400,
}


@pytest.mark.slow(reason="a gradient through adaptive steps")
@pytest.mark.parametrize(
    ("adjoint", "steps"),
    [
        ("forward", "adaptive"),
        pytest.param("recursive", "adaptive", marks=pytest.mark.slow),
        pytest.param("direct", "fixed", marks=pytest.mark.slow),
    ],
)
def test_gradients_of_the_flow(x64, adjoint, steps):
    """Against the derivative of its closed form, in the numbers of the process and the data."""
    flat, rebuild = numbers(PROCESSES["vpx"]())
    at = jnp.concatenate([flat, jnp.asarray([0.5, -1.0])])
    x = jnp.asarray([[1.0, 0.3], [-2.0, 1.0]])

    def parts(v):
        return rebuild(v[:-2]), eqx.tree_at(lambda g: g.mean, small_gaussian(), v[-2:])

    def value(v, adjoint):
        process, gaussian = parts(v)
        options = ADAPTIVE if steps == "adaptive" else {"num_steps": 200}
        model = ex.ExactModel(gaussian, process)
        return jnp.sum(jnp.sin(solve_flow(model, x, adjoint=adjoint, **options).final))

    def closed(v):
        process, gaussian = parts(v)
        return jnp.sum(jnp.sin(carried(gaussian, process, x, process.t1)))

    expected = quick_jit(jax.grad(closed))(at)
    rtol = 1e-4 if steps == "adaptive" else 5e-3
    found = gradient(value, at, adjoint)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * 1e-2)


@pytest.mark.slow
def test_backsolve_adjoint(x64):
    """It differentiates the field and the states, of one ODE with adaptive steps."""
    gaussian, process = small_gaussian(), PROCESSES["vp"]()
    x = jnp.asarray([[1.0, 0.3], [-2.0, 1.0]])

    def value(mean, x, process=process):
        of = eqx.tree_at(lambda g: g.mean, gaussian, mean)
        model = ex.ExactModel(of, process)
        adjoint = diffrax.BacksolveAdjoint()
        run = solve_flow(model, x, adjoint=adjoint, variance=0.8, **ADAPTIVE)
        return jnp.sum(jnp.sin(run.final))

    def closed(mean, x):
        of = eqx.tree_at(lambda g: g.mean, gaussian, mean)
        return jnp.sum(jnp.sin(carried(of, process, x, process.t1)))

    found = jax.jit(jax.grad(value, argnums=(0, 1)))(gaussian.mean, x)
    expected = quick_jit(jax.grad(closed, argnums=(0, 1)))(gaussian.mean, x)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)
    # The solver's end times depend on the process, and these it cannot differentiate.
    with pytest.raises(RuntimeError, match="cannot be autodifferentiated"):
        eqx.filter_grad(lambda p: value(gaussian.mean, x, p))(process)

"""Entropy of single trajectories: end-point formulas, means, gradients, housekeeping."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import entropix as ex
from entropix.entropy.path_entropy import Heat, mean_of_paths
from tests.helpers import as_shipped, finite_difference, quick, quick_jit
from tests.mixtures import TOTAL_ENTROPY, mixture


# What the mixtures keep to reach equilibrium from p_T under VP: S_tot of a process that does.
END = {2: 2.039e-4, 3: 2.952e-4}


def zeros(states):
    return jnp.zeros(states.shape[0], states.dtype)


def vp(kappa=1.0, beta_min=0.1, beta_max=16.0):
    return ex.VariancePreserving(ex.LinearSchedule(beta_min, beta_max), kappa)


def line(sigma0=1.0):
    return ex.StraightLine(sigma0)


def within(estimate, expected, allowance=0.0, errors=4.0):
    return abs(float(estimate.value) - expected) < errors * float(estimate.stderr) + allowance


# ---------------------------------------------------------------------------- single trajectories


def test_one_trajectory(x64):
    """From 1 to -0.3 under VP, data N(0, 1.5): the entropies of section 3 of Seifert, by hand."""
    path = vp()
    start, end = jnp.asarray([1.0]), jnp.asarray([-0.3])
    heat, housekeeping = Heat(path)(path.t0, path.t1, start, end)
    assert float(heat) == pytest.approx(0.455, rel=1e-14)
    assert float(housekeeping) == 0.0
    data = ex.Gaussian([0.0], [[1.5]])
    system = data.log_prob(start) - data.diffused(path, path.t1).log_prob(end)
    assert float(system + heat) == pytest.approx(-0.035993296918141, rel=1e-12)


def _slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


MAKERS = {
    "VP": vp,
    "SL": lambda: line(0.5),
    "Harmonic": lambda: ex.Langevin(ex.processes.Harmonic(1.5), 0.6),
}


@pytest.mark.parametrize(
    ("name", "steps"),
    [("VP", 1), ("SL", 50), ("Harmonic", 3), _slow("VP", 50), _slow("Harmonic", 1)],
)
def test_medium_entropy_is_that_of_the_end_points(name, steps, x64, getkey):
    """A quadratic equilibrium: to rounding, at any number of steps."""
    path = MAKERS[name]()
    x = 2 * jax.random.normal(getkey(), (5, 2, 3))
    result = ex.path_entropy(path, x, key=getkey(), log_p0=zeros, log_pT=zeros, num_steps=steps)
    log_eq = jax.vmap(path.equilibrium_log_prob, in_axes=(None, 0))
    expected = log_eq(path.t1, result.end) - log_eq(path.t1, x)
    np.testing.assert_allclose(result.medium, expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(result.total, result.medium + result.system)
    np.testing.assert_allclose(result.housekeeping, 0.0, atol=1e-12)


def ripples(y):
    """A potential that is no polynomial, and confines."""
    return jnp.sum(y**2 / 2 + jnp.cos(3 * y))


@pytest.mark.parametrize("num_steps", [4, 40])
def test_medium_entropy_of_the_double_well_is_exact(x64, num_steps):
    """Of a quartic potential, whose force is cubic, at any step."""
    well = ex.Langevin(ex.processes.DoubleWell(), 0.5, t1=0.1)
    x = 0.3 + 0.5 * jax.random.normal(jax.random.key(0), (50, 1))
    result = ex.path_entropy(
        well, x, key=jax.random.key(1), log_p0=zeros, log_pT=zeros, num_steps=num_steps
    )
    log_eq = jax.vmap(lambda y: well.equilibrium_log_prob(0.0, y))
    np.testing.assert_allclose(result.medium, log_eq(result.end) - log_eq(x), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_medium_entropy_converges_to_that_of_the_end_points(x64):
    """Any other potential: root mean square error of order 1 at least, on nested grids."""
    well = ex.Langevin(ripples, 0.5)
    x = 0.3 + 0.5 * jax.random.normal(jax.random.key(0), (400, 1))
    result = ex.path_entropy(
        well, x, key=jax.random.key(1), log_p0=zeros, log_pT=zeros, num_steps=512, save="steps"
    )
    times, states = result.trajectory.times, result.trajectory.states
    log_eq = jax.vmap(lambda y: well.equilibrium_log_prob(0.0, y))
    exact = log_eq(result.end) - log_eq(x)

    def heat(stride):
        s, y = times[::stride], states[::stride]
        paths = jax.vmap(Heat(well), in_axes=(None, None, 0, 0))
        medium, _ = jax.vmap(paths)(s[:-1], s[1:], y[:-1], y[1:])
        return jnp.sum(medium, axis=0)

    strides = np.asarray([1, 2, 4, 8])
    heats = np.asarray(quick_jit(lambda: jnp.stack([heat(int(k)) for k in strides]))())
    np.testing.assert_allclose(heats[0], result.medium, rtol=1e-9, atol=1e-9)
    errors = np.sqrt(np.mean((heats - np.asarray(exact)) ** 2, axis=1))
    slope = np.polyfit(np.log(strides), np.log(errors), 1)[0]
    assert slope > 1, slope
    assert errors[0] < 0.02


# ---------------------------------------------------------------------------- means


@pytest.mark.parametrize(("dim", "name"), [(2, "VP"), _slow(3, "SL")])
def test_the_mean_is_the_total_entropy(dim, name):
    """The straight line with sigma0 = 1 reaches the equilibrium that VP only comes close to."""
    model = ex.ExactModel(mixture(dim), vp() if name == "VP" else line())
    x = mixture(dim).sample(40_000, key=jax.random.key(dim))
    result = ex.path_entropy(model, x, key=jax.random.key(1), num_steps=4)
    expected = TOTAL_ENTROPY[dim, "VP"] + (0.0 if name == "VP" else END[dim])
    assert within(result.mean, expected)
    assert float(result.mean.stderr) < 0.01


def divergence_to(kappa, mean, variance):
    """KL(N(m, v) || N(0, kappa^2))."""
    ratio = variance / kappa**2
    return (ratio + mean**2 / kappa**2 - 1 - jnp.log(ratio)) / 2


@pytest.mark.slow
def test_gradients_of_the_mean(x64):
    """With respect to kappa and beta_min: finite differences on the same paths, and the truth."""
    data = ex.Gaussian([0.7], [[0.4]])
    x = data.sample(4000, key=jax.random.key(0))
    parameters = jnp.asarray([0.8, 0.3])

    def make(p):
        return vp(p[0], p[1], 3.0)

    def totals(p, **options):
        model = ex.ExactModel(data, make(p))
        return ex.path_entropy(model, x, key=jax.random.key(1), num_steps=3, **options).total

    def mean(p):
        return jnp.mean(totals(p))

    both = quick_jit(jax.value_and_grad(mean))
    gradient = both(parameters)[1]
    expected = finite_difference(lambda ps: jnp.stack([both(p)[0] for p in ps]), parameters)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)

    # Forward mode through another adjoint gives the gradient of each trajectory.
    each = quick_jit(jax.jacfwd(lambda p: totals(p, adjoint=diffrax.ForwardMode())))(parameters)
    np.testing.assert_allclose(jnp.mean(each, axis=0), gradient, rtol=1e-9)

    def exact(p):
        path = make(p)
        scale, var = path.scale(path.t1), path.var(path.t1)
        end = divergence_to(p[0], scale * 0.7, scale**2 * 0.4 + var)
        return divergence_to(p[0], 0.7, 0.4) - end

    error = jnp.std(each, axis=0, ddof=1) / each.shape[0] ** 0.5
    truth = quick_jit(jax.grad(exact))(parameters)
    assert bool(jnp.all(jnp.abs(gradient - truth) < 4 * error))
    assert bool(jnp.all(error < jnp.asarray([0.1, 0.01])))


@pytest.mark.slow
def test_the_standard_error_is_honest():
    """Over fresh data and paths the mean scatters by what it reports."""
    model = ex.ExactModel(ex.Gaussian([0.7], [[0.4]]), vp())

    @jax.jit
    def run(key):
        data_key, path_key = jax.random.split(key)
        x = model.distribution.sample(500, key=data_key)
        return ex.path_entropy(model, x, key=path_key, num_steps=2).mean

    estimates = jax.vmap(run)(jax.random.split(jax.random.key(3), 200))
    ratio = float(jnp.std(estimates.value) / jnp.mean(estimates.stderr))
    assert 0.8 < ratio < 1.25


# ---------------------------------------------------------------------------- arguments


@pytest.mark.slow
def test_densities_chunks_and_transformations(x64):
    """Functions or values, in chunks, under jit and vmap: the same trajectories."""
    model = ex.ExactModel(ex.Gaussian([0.7], [[0.4]]), vp())
    x = model.distribution.sample(50, key=jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 2)
    log_p0 = model.distribution.log_prob
    log_pT = model.distribution.diffused(model.process, 1.0).log_prob
    one = ex.path_entropy(model, x, key=keys[0], num_steps=5)
    functions = ex.path_entropy(
        model.process, x, key=keys[0], log_p0=log_p0, log_pT=log_pT, num_steps=5
    )
    np.testing.assert_allclose(functions.total, one.total, rtol=1e-12)
    values = ex.path_entropy(
        model.process,
        x,
        key=keys[0],
        log_p0=log_p0(x),
        log_pT=log_pT(one.end),
        num_steps=5,
        chunk_size=16,
    )
    np.testing.assert_allclose(values.total, one.total, rtol=1e-10)
    batch = jax.jit(jax.vmap(lambda k: ex.path_entropy(model, x, key=k, num_steps=5).total))(keys)
    assert batch.shape == (2, 50)
    np.testing.assert_allclose(batch[0], one.total, rtol=1e-10)


def test_a_collapsing_equilibrium_needs_times(x64):
    """Rectified flow from s = 0.2: E[Sigma] is the integral of section 2 of its Gaussian."""
    mean, variance, start = 0.5, 1.0, 0.2
    path = ex.RectifiedFlow()
    model = ex.ExactModel(ex.Gaussian([mean], [[variance]]), path)
    x = model.distribution.sample(4000, key=jax.random.key(0))
    with pytest.raises(ValueError, match="`times` must be given and start above t0"):
        ex.path_entropy(model, x, key=jax.random.key(1))
    times = jnp.linspace(start, 0.95, 101)
    y = model.distribution.diffused(path, start).sample(4000, key=jax.random.key(2))
    result = ex.path_entropy(model, y, key=jax.random.key(1), times=times)
    assert bool(jnp.all(jnp.isfinite(result.total)))

    def primitive(a):
        return (1 + mean**2) * jnp.log(a) - (2 + mean**2) * a + jnp.log(1 - 2 * a + 2 * a**2) / 2

    expected = float(primitive(0.95) - primitive(start))
    assert within(result.mean, expected)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"model": "VP"}, "`model` must be a model or a process"),
        ({"log_pT": zeros}, "`log_p0` must be given"),
        ({"log_p0": zeros}, "`log_pT` must be given"),
        ({"log_p0": jnp.zeros(3), "log_pT": zeros}, "`log_p0` must be or return one value"),
        ({"log_p0": zeros, "log_pT": lambda y: y}, "`log_pT` must be or return one value"),
        ({"x": jnp.ones(4)}, "`x` must have shape"),
        ({"num_steps": 0}, "`num_steps` must be"),
        ({"chunk_size": 0, "log_p0": zeros, "log_pT": zeros}, "`chunk_size` must be"),
    ],
)
def test_bad_arguments(arguments, match):
    arguments = {"model": ex.Langevin(ex.processes.Harmonic()), "x": jnp.ones((4, 1)), **arguments}
    with as_shipped(), pytest.raises(ValueError, match=match):
        ex.path_entropy(key=jax.random.key(0), **arguments)


@pytest.mark.slow  # programs of its own
def test_densities_that_are_not_finite_are_refused():
    with pytest.raises(Exception, match="must be finite on the paths"):
        ex.path_entropy(
            vp(),
            jnp.ones((4, 1)),
            key=jax.random.key(0),
            num_steps=2,
            log_p0=zeros,
            log_pT=lambda y: zeros(y) - jnp.inf,
        )


# ---------------------------------------------------------------------------- housekeeping


@pytest.mark.slow
def test_housekeeping_of_a_rotation():
    """beta = 2, G = 1.7, N(0, I/2) in three dimensions: both parts are known."""
    path = ex.Langevin(ex.processes.Harmonic(1.0), 1.0, ex.processes.RotatingForce(1.7))
    variance = 1 - 0.5 * np.exp(-2)
    start = ex.Gaussian(jnp.zeros(3), 0.5 * jnp.eye(3))
    end = ex.Gaussian(jnp.zeros(3), variance * jnp.eye(3))
    x = start.sample(6000, key=jax.random.key(0))
    result = ex.path_entropy(
        path, x, key=jax.random.key(1), log_p0=start.log_prob, log_pT=end.log_prob, num_steps=256
    )
    np.testing.assert_array_equal(result.excess, result.total - result.housekeeping)
    housekeeping = mean_of_paths(result.housekeeping)
    assert within(housekeeping, 4.5305594842769)
    assert within(result.mean, 4.8166828373039)
    # The excess is the relaxation, KL(p_0 || p_eq) - KL(p_T || p_eq), with far less noise.
    relaxation = mean_of_paths(result.excess)
    assert within(relaxation, 4.8166828373039 - 4.5305594842769)
    assert float(relaxation.stderr) < 0.3 * float(result.mean.stderr)

    along = ex.entropy.path_functional(
        ex.entropy.HousekeepingEntropy(path),
        x,
        key=jax.random.key(2),
        along="sde",
        num_evaluations=6000 * 32,
        num_steps=32,
    )
    assert within(along, 4.5305594842769)
    assert float(along.stderr) < 0.1


# ---------------------------------------------------------------------------- the double well


def relax(potential, temperature, density, times, points=1201):
    """The Fokker-Planck equation on a grid: grid, p_0, p_t for each time, p_eq.

    Jumps between neighbours in detailed balance with the Boltzmann weights: probability is
    conserved and the equilibrium exact; the error is of the order of the step squared.
    """
    grid = np.linspace(-4.0, 4.0, points)
    step = grid[1] - grid[0]
    energy = potential(grid) / temperature
    right = temperature / step**2 * np.exp(-np.diff(energy) / 2)
    left = temperature / step**2 * np.exp(np.diff(energy) / 2)

    def rate(_, p):
        flow = left * p[1:] - right * p[:-1]
        return np.concatenate([flow, [0.0]]) - np.concatenate([[0.0], flow])

    start, equilibrium = density(grid), np.exp(-energy)
    start, equilibrium = (p / np.sum(p) / step for p in (start, equilibrium))
    solution = solve_ivp(
        rate,
        (0.0, times[-1]),
        start,
        method="LSODA",
        t_eval=times,
        lband=1,
        uband=1,
        rtol=1e-7,
        atol=1e-12,
    )
    return grid, start, np.maximum(solution.y.T, 1e-15), equilibrium


def divergence_on(grid, p, q):
    step = grid[1] - grid[0]
    inside = p > 1e-14
    return float(np.sum(p[inside] * np.log(p[inside] / q[inside])) * step)


@pytest.mark.slow(reason="long paths")
@pytest.mark.parametrize("temperature", quick([0.5], [0.5, 1.0]))
def test_relaxation_in_a_double_well(temperature):
    """S_tot(t) = KL(p_0 || p_eq) - KL(p_t || p_eq), with p_t from the Fokker-Planck equation."""
    saved = [0.05, 0.2, 0.6, 1.0]
    data = ex.Gaussian([0.3], [[0.25]])
    grid, start, later, equilibrium = relax(
        lambda y: (y**2 - 1) ** 2,
        temperature,
        lambda y: np.exp(-((y - 0.3) ** 2) / 0.5),
        saved,
    )
    total = divergence_on(grid, start, equilibrium)
    if temperature == 0.5:
        assert total == pytest.approx(0.91964686708488, rel=1e-6)
    x = data.sample(10_000, key=jax.random.key(0))
    logs = np.log(later)
    result = ex.path_entropy(
        ex.Langevin(ex.processes.DoubleWell(), temperature),
        x,
        key=jax.random.key(1),
        log_p0=data.log_prob,
        log_pT=lambda y: jnp.interp(y[:, 0], jnp.asarray(grid), jnp.asarray(logs[-1])),
        num_steps=160,
        save=saved,
    )
    medium, housekeeping = result.trajectory.functional
    np.testing.assert_allclose(housekeeping, 0.0, atol=1e-3)
    for k, density in enumerate(later):
        states = np.asarray(result.trajectory.states[k, :, 0])
        system = np.asarray(data.log_prob(x)) - np.interp(states, grid, logs[k])
        entropy = mean_of_paths(jnp.asarray(system) + medium[k])
        expected = total - divergence_on(grid, density, equilibrium)
        assert within(entropy, expected, allowance=2e-3)  # 160 steps
        assert float(entropy.stderr) < 0.02
    assert within(result.mean, total - divergence_on(grid, later[-1], equilibrium), 2e-3)


# ---------------------------------------------------------------------------- what is saved


@pytest.mark.slow
def test_what_is_saved_does_not_change_what_is_measured(x64):
    """The last time is saved besides those asked for: entropies are of whole paths."""
    model = ex.ExactModel(ex.Gaussian([0.7], [[0.4]]), ex.StraightLine(1.0))
    x = model.distribution.sample(20, key=jax.random.key(0))
    options = {"key": jax.random.key(1), "times": jnp.linspace(0.0, 1.0, 9)}
    whole = ex.path_entropy(model, x, **options)
    part = ex.path_entropy(model, x, save=[0.25, 0.5], **options)
    np.testing.assert_allclose(part.total, whole.total, rtol=1e-12)
    np.testing.assert_allclose(part.end, whole.end, rtol=1e-12)
    np.testing.assert_allclose(part.trajectory.times, [0.25, 0.5, 1.0])
    with pytest.raises(ValueError, match="`functional` must be left out"):
        ex.path_entropy(model, x, functional=abs, **options)
    one = ex.path_entropy(model, x[:1], **options)
    assert float(one.mean.stderr) == np.inf

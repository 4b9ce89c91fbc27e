"""Samplers made for diffusion models: every process, orders, exactness, gradients, refusals."""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.dynamics import ReverseCoordinates, sample
from entropix.dynamics.coordinates import NEGLIGIBLE_SIGNAL
from tests.helpers import (
    DISTINCT,
    ENDS_IN_NOISE,
    KINDS,
    PROCESSES,
    as_shipped,
    double,
    finite_difference,
    numbers,
    quick,
    quick_jit,
    quick_rows,
    small_gaussian,
    small_mixture,
)


DETERMINISTIC: dict[str, Callable] = {
    "ddim": lambda: ex.dynamics.DDIM(),
    "dpm": lambda: ex.dynamics.DPMSolver(),
    "heun": lambda: ex.dynamics.EDMHeun(),
}
STOCHASTIC: dict[str, Callable] = {
    "ancestral": lambda: ex.dynamics.DDIM(eta=1.0),
    "churn": lambda: ex.dynamics.EDMHeun(churn=20.0),
    "corrector": lambda: ex.dynamics.PredictorCorrector(),
}
SAMPLERS = DETERMINISTIC | STOCHASTIC
CLASSES = ("ancestral", "dpm", "heun", "corrector")  # one of each class
ORDER = {"ddim": 1, "dpm": 2, "heun": 2}
SLOW = pytest.mark.slow
# Enough for the bias of moments to be well below the errors of so many samples.
ENOUGH = {
    "ddim": (2000, 256),
    "dpm": (10_000, 64),
    "heun": (10_000, 64),
    "ancestral": (2000, 256),
    "churn": (5000, 128),
    "corrector": (2000, 256),
}


class Points(eqx.Module):
    """A prior of given states."""

    states: jax.Array

    def sample(self, n: int, *, key):
        return self.states


class Scripted(eqx.Module):
    """A network that is a given function."""

    fn: Callable
    dim: int = eqx.field(static=True, default=2)

    def __call__(self, log_snr, y, condition=None):
        return self.fn(log_snr, y, condition)


def draw(model, sampler, num_samples, **kwargs):
    """Samples by a program that is compiled to run once."""
    key = kwargs.pop("key", jax.random.key(0))
    dynamic, static = eqx.partition((model, sampler, kwargs), eqx.is_array)

    def run(dynamic, key):
        model, sampler, rest = eqx.combine(dynamic, static)
        return sample(model, key=key, num_samples=num_samples, solver=sampler, **rest)

    return quick_jit(run)(dynamic, key)


def flow_map(gaussian, process, s, r, y):
    """The probability flow of diagonal Gaussian data from time s to time r."""
    before, after = gaussian.diffused(process, s), gaussian.diffused(process, r)
    gain = jnp.sqrt(jnp.diagonal(after.covariance) / jnp.diagonal(before.covariance))
    return after.mean + gain * (y - before.mean)


def standard_errors(y, mean, covariance):
    """How many standard errors the sample mean and covariance are off, at worst."""
    n = y.shape[0]
    centred = y - jnp.mean(y, axis=0)
    outer = centred[:, :, None] * centred[:, None, :]
    gap = jnp.mean(outer, axis=0) - covariance
    return max(
        float(jnp.max(jnp.abs(centred[0] - y[0] + mean) / jnp.std(y, axis=0))) * n**0.5,
        float(jnp.max(jnp.abs(gap) / jnp.std(outer, axis=0))) * n**0.5,
    )


# ---------------------------------------------------------------------------- values


def grid():
    """Every kind of process with a deterministic and a stochastic sampler, in turn; others one.

    The default run takes one of each kind.
    """
    cases, names = [], list(SAMPLERS)
    for i, process in enumerate(DISTINCT):
        marks = () if process in KINDS[:-1] else SLOW  # a general path is slow to compile
        cases.append(pytest.param(process, names[i % 6], marks=marks))
        if process in KINDS:
            cases.append(pytest.param(process, names[(i + 3) % 6], marks=SLOW))
    return cases


def in_turn(name):
    """One process with all deterministic samplers, and each other kind with one of them: slow."""
    names = list(DETERMINISTIC)
    others = [(kind, names[i % 3]) for i, kind in enumerate(KINDS) if kind != name]
    return quick_rows([(name, sampler) for sampler in names], others)


@pytest.mark.parametrize(("name", "sampler"), grid())
def test_gaussian_data(x32, name, sampler):
    """Mean and covariance of small_gaussian in float32, from the exact prior."""
    model = ex.ExactModel(small_gaussian(), PROCESSES[name]())
    num_samples, num_steps = ENOUGH[sampler]
    y = draw(model, SAMPLERS[sampler](), num_samples, num_steps=num_steps)
    assert y.dtype == jnp.float32
    mean, covariance = model.distribution.mean, model.distribution.covariance
    assert standard_errors(y, mean, covariance) < 4


@pytest.mark.parametrize("sampler", quick(["ancestral", "corrector"], ["dpm", "churn"]))
def test_mixture(sampler):
    mixture = small_mixture()
    model = ex.ExactModel(mixture, PROCESSES["vpx"]())
    num_samples, num_steps = ENOUGH[sampler]
    y = draw(model, SAMPLERS[sampler](), num_samples, num_steps=num_steps)
    assert standard_errors(y, mixture.mean, mixture.covariance) < 4


@pytest.mark.parametrize(("name", "sampler"), in_turn("rf"))
def test_order(x64, name, sampler):
    """Errors of states carried by the flow of N(m, diag(v)), whose map is known."""
    process = PROCESSES[name]()
    gaussian = ex.Gaussian([0.7, -0.2], [[0.4, 0.0], [0.0, 1.1]])
    model = ex.ExactModel(gaussian, process)
    start = jnp.asarray([[-1.5, 0.3], [0.4, 1.2]]) * process.std(process.t1)
    exact = flow_map(gaussian, process, process.t1, process.t0, start)

    def error(n):
        y = draw(model, SAMPLERS[sampler](), 2, num_steps=n, prior=Points(start))
        return float(jnp.max(jnp.abs(y - exact)))

    coarse, fine = error(32), error(64)
    order = ORDER[sampler]
    assert order - 0.2 < np.log2(coarse / fine) < order + 0.3
    assert fine < (0.05 if order == 1 else 0.004)


@pytest.mark.parametrize("sampler", quick(["dpm"], DETERMINISTIC))
def test_order_between_two_times(x64, sampler):
    """Where the last step ends at a finite log-SNR it is of the sampler's own order."""
    process = PROCESSES["vp"]()
    gaussian = ex.Gaussian([0.7], [[0.4]])
    model = ex.ExactModel(gaussian, process)
    start = jnp.asarray([[-1.5], [0.4]])
    exact = flow_map(gaussian, process, 0.6, 0.2, start)

    def error(n):
        times = jnp.linspace(0.6, 0.2, n + 1)
        y = draw(model, SAMPLERS[sampler](), 2, times=times, prior=Points(start))
        return float(jnp.max(jnp.abs(y - exact)))

    slope = np.log2(error(16) / error(32))
    assert abs(slope - ORDER[sampler]) < 0.2


@pytest.mark.parametrize(("name", "sampler"), in_turn("cosine"))
def test_point_data_are_exact(x64, name, sampler):
    """In any number of steps: y = mu x + (Sigma_r/Sigma_s)(y_s - mu_s x)."""
    process = PROCESSES[name]()
    point = jnp.asarray([[1.3, -0.6]])
    model = ex.ExactModel(ex.Empirical(point), process)
    start = jnp.asarray([[0.1, 2.0], [-1.0, 0.4], [0.0, 0.0]])
    times = jnp.asarray([0.9, 0.35, 0.2])
    y = draw(model, SAMPLERS[sampler](), 3, times=times, prior=Points(start))
    s, r = times[0], times[-1]
    noise = (start - process.scale(s) * point) / process.std(s)
    np.testing.assert_allclose(y, process.scale(r) * point + process.std(r) * noise, atol=1e-9)


@pytest.mark.parametrize("sampler", quick(["corrector"], STOCHASTIC))
def test_noise_of_point_data_is_exact(sampler):
    """Two steps part of the way have the law of Y_r, corrections and churn included."""
    process = PROCESSES["vpx"]()
    point = jnp.asarray([1.3, -0.6])
    model = ex.ExactModel(ex.Empirical(point[None]), process)
    z = jax.random.normal(jax.random.key(5), (20_000, 2))
    start = Points(process.scale(0.9) * point + process.std(0.9) * z)
    y = draw(model, SAMPLERS[sampler](), 20_000, times=jnp.asarray([0.9, 0.5, 0.2]), prior=start)
    mean, var = process.scale(0.2) * point, process.var(0.2)
    assert standard_errors(y, mean, var * jnp.eye(2)) < 4
    correlation = jnp.corrcoef(y[:, 0], start.states[:, 0])[0, 1]
    assert correlation < 0.99


@pytest.mark.parametrize("sampler", quick(["dpm"], CLASSES))
def test_finite_data_are_found_again(sampler):
    points = jnp.asarray([[0.0, 0.0], [3.0, 1.0], [-1.0, 2.0]])
    model = ex.ExactModel(ex.Empirical(points), PROCESSES["cosine"]())
    y = draw(model, SAMPLERS[sampler](), 3000, num_steps=64)
    distance = jnp.linalg.norm(y[:, None] - points, axis=-1)
    assert jnp.quantile(jnp.min(distance, axis=1), 0.99) < 0.05
    share = jnp.bincount(jnp.argmin(distance, axis=1), length=3) / 3000
    np.testing.assert_allclose(share, 1 / 3, atol=4 * (2 / 9 / 3000) ** 0.5)


def test_the_steps_of_karras(x64):
    """Times at which Sigma/mu takes the values of the rho grid, ending at zero noise."""
    process = PROCESSES["ve"]()
    gaussian = ex.Gaussian([0.7], [[0.4]])
    levels = jnp.linspace(20.0 ** (1 / 7), 0.002 ** (1 / 7), 64) ** 7
    times = process.time_of_log_snr(-2 * jnp.log(jnp.append(levels, 0.0)))
    np.testing.assert_allclose(process.std(times[1:-1]), levels[1:], rtol=1e-8)
    start = jnp.asarray([[-20.0], [11.0]])
    y = draw(
        ex.ExactModel(gaussian, process), ex.dynamics.EDMHeun(), 2, times=times, prior=Points(start)
    )
    exact = flow_map(gaussian, process, process.t1, process.t0, start)
    np.testing.assert_allclose(y, exact, atol=2e-3)


@pytest.mark.parametrize(
    ("special", "other"),
    [
        (lambda: ex.dynamics.DPMSolver(order=1), lambda: ex.dynamics.DDIM()),
        pytest.param(
            lambda: ex.dynamics.EDMHeun(churn=3.0, churn_min=100.0),
            lambda: ex.dynamics.EDMHeun(),
            marks=SLOW,
        ),
        pytest.param(
            lambda: ex.dynamics.PredictorCorrector(snr=1e-6, num_corrections=3),
            lambda: ex.dynamics.DDIM(eta=1.0),
            marks=SLOW,
        ),
    ],
)
def test_one_special_case_is_the_other(special, other):
    """Order one, no churn, no correction to speak of: the same samples."""
    model = ex.ExactModel(small_mixture(), PROCESSES["vp"]())
    y, expected = (draw(model, sampler(), 5, num_steps=6) for sampler in (special, other))
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_conditions_belong_to_samples():
    """The condition moves the mean of the data: s = -(y - mu c)/P with P = mu^2 + Sigma^2 = 1."""

    def network(log_snr, y, condition):
        return jnp.sqrt(jax.nn.sigmoid(log_snr)) * condition - y

    model = ex.ScoreMatching(Scripted(network), PROCESSES["cosine"]())
    centres = jnp.repeat(jnp.asarray([[2.0, 0.0], [-1.0, 5.0]]), 4000, axis=0)
    y = draw(model, ex.dynamics.DPMSolver(), 8000, num_steps=64, condition=centres, chunk_size=3000)
    assert standard_errors(y - centres, jnp.zeros(2), jnp.eye(2)) < 4
    with pytest.raises(ValueError, match="`condition` must have a leading axis of 10"):
        sample(
            model,
            num_samples=10,
            key=jax.random.key(0),
            condition=centres,
            solver=ex.dynamics.DPMSolver(),
        )


# ---------------------------------------------------------------------------- the two ends


@pytest.mark.parametrize("name", quick(["rf"], KINDS))
def test_times_and_levels(x64, name):
    """Default times are those of the knots; a model is evaluated where the signal matters."""
    process = PROCESSES[name]()
    coordinates = ReverseCoordinates(process, jnp.asarray(0.3), flow=True)
    times, knots = coordinates.steps(20)
    assert times[0] == process.t1
    assert times[-1] == process.t0
    assert np.all(np.diff(times) < 0)
    np.testing.assert_allclose(coordinates.solver_time(times), knots, atol=1e-7)
    assert coordinates.steps(1)[0].shape == (2,)
    seen = coordinates.evaluation_time(times)
    signal = 0.3 * process.scale(seen) ** 2 / (0.3 * process.scale(seen) ** 2 + process.var(seen))
    assert np.all(signal > 0.99 * NEGLIGIBLE_SIGNAL)
    np.testing.assert_array_equal(seen[1:], times[1:])
    assert (seen[0] < times[0]) == (name in ENDS_IN_NOISE)


@pytest.mark.parametrize("sampler", quick(["heun"], CLASSES))
def test_no_evaluation_at_infinite_log_snr(sampler):
    """Of a network that is NaN there, under vmap too, where both branches of a choice are taken."""

    def network(log_snr, y, condition):
        return jnp.where(jnp.isfinite(log_snr), jnp.tanh(y), jnp.nan)

    sampler = SAMPLERS[sampler]()
    template = ex.NoisePrediction(Scripted(network), PROCESSES["vp-cosine"]())

    @quick_jit
    def run(kappa):
        model = eqx.tree_at(lambda m: m.process.kappa, template, kappa)
        return sample(model, key=jax.random.key(0), num_samples=4, num_steps=3, solver=sampler)

    kappas = jnp.asarray([0.5, 1.0])
    together = jax.vmap(run)(kappas)
    assert np.all(np.isfinite(together))
    np.testing.assert_allclose(together[1], run(kappas[1]), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "sampler"),
    quick_rows([("rf", "heun")], [("rf", "ddim"), ("vpx", "dpm"), ("subvp", "heun")]),
)
def test_single_precision_is_enough(name, sampler):
    """Points carried in float32 and float64 end within rounding of each other."""
    start = np.asarray([[-1.0, 0.3], [0.2, 1.4], [0.9, -0.6]])

    def run():
        model = ex.ExactModel(small_mixture(), PROCESSES[name]())
        prior = Points(jnp.asarray(start, float) * model.process.std(1.0))
        return np.asarray(draw(model, SAMPLERS[sampler](), 3, prior=prior))

    with jax.enable_x64(False):
        single = run()
    with double():
        exact = run()
    assert (single.dtype, exact.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(single, exact, atol=1e-4)


# ---------------------------------------------------------------------------- reproducibility


@pytest.mark.parametrize("sampler", quick(["corrector"], STOCHASTIC))
def test_the_key_decides_and_chunks_do_not(sampler):
    model = ex.ExactModel(small_mixture(), PROCESSES["vp"]())
    sampler = SAMPLERS[sampler]()

    def run(chunk_size=None):
        return quick_jit(
            lambda key: sample(
                model, key=key, num_samples=50, num_steps=5, solver=sampler, chunk_size=chunk_size
            )
        )

    whole, key = run(), jax.random.key(3)
    one = whole(key)
    np.testing.assert_array_equal(one, whole(key))
    assert not np.allclose(one, whole(jax.random.key(4)))
    np.testing.assert_allclose(one, run(16)(key), atol=1e-5)
    assert len(np.unique(np.asarray(one)[:, 0])) == 50


def test_one_compilation_per_shape():
    traces = []

    def network(log_snr, y, condition):
        traces.append(None)
        return -y

    network = Scripted(network)
    counts = []
    for kappa in (1.0, 0.5, 0.2):
        process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0), kappa=kappa)
        model = ex.ScoreMatching(network, process)
        sample(
            model,
            key=jax.random.key(int(10 * kappa)),
            num_samples=7,
            num_steps=30,
            solver=ex.dynamics.DDIM(eta=kappa),
        )
        counts.append(len(traces))
    assert counts[0] == counts[2] <= 3  # whatever the number of steps


# ---------------------------------------------------------------------------- differentiation


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sampler", "chunk_size"),
    [
        ("vpx", "dpm", None),
        ("sl", "churn", 2),
        ("vpx", "corrector", 2),
        ("path-module", "ancestral", None),
    ],
)
def test_gradients(x64, name, sampler, chunk_size):
    """Of a sample statistic, in every number of process and sampler and a layer of the network."""
    network = ex.FourierMLP(2, widths=(8,), num_features=4, key=jax.random.key(5))
    weight = 0.5 * jax.random.normal(jax.random.key(6), network.head.weight.shape)
    network = eqx.tree_at(lambda n: n.head.weight, network, weight)
    one = jnp.ones(())
    scaling = ex.GaussianScaling(one / 4, one, one / 2, (2,))
    template = ex.EntropyMatching(network, PROCESSES[name](), scaling)
    flat, rebuild = numbers(template.process)
    solver = SAMPLERS[sampler]()
    if sampler == "ancestral":
        solver = ex.dynamics.DDIM(eta=0.7)  # at the bound, finite differences leave what is allowed
    at = jnp.concatenate([flat, network.head.bias + 0.1])
    knob = {"ancestral": "eta", "corrector": "snr", "churn": "churn_noise"}.get(sampler)
    if knob is not None:
        at = jnp.append(at, getattr(solver, knob))

    @quick_jit
    @jax.value_and_grad
    def statistic(v):
        parts = (rebuild(v[: flat.size]), v[flat.size : flat.size + 2])
        model = eqx.tree_at(lambda m: (m.process, m.network.head.bias), template, parts)
        moved = solver
        if knob is not None:
            moved = eqx.tree_at(lambda s: getattr(s, knob), solver, v[-1])
        y = sample(
            model,
            key=jax.random.key(0),
            num_samples=5,
            num_steps=4,
            solver=moved,
            chunk_size=chunk_size,
        )
        return jnp.mean(jnp.sin(y))

    expected = finite_difference(lambda batch: jnp.stack([statistic(v)[0] for v in batch]), at)
    assert np.all(np.abs(expected) > 1e-7)
    np.testing.assert_allclose(statistic(at)[1], expected, rtol=1e-5, atol=1e-8)


# ---------------------------------------------------------------------------- refusals


def test_refusals():
    model = ex.ExactModel(small_mixture(), PROCESSES["vp"]())
    cases = (
        {"method": "ode"},
        {"stepsize_controller": diffrax.PIDController(rtol=1e-3, atol=1e-3)},
        {"adjoint": diffrax.DirectAdjoint()},
    )
    for kwargs in cases:
        with pytest.raises(ValueError, match="must be left out where `solver` is a sampler"):
            sample(model, key=jax.random.key(0), num_samples=4, solver=ex.dynamics.DDIM(), **kwargs)
    for times in ([0.0, 1.0], [1.5, 0.0]):
        with pytest.raises(ValueError, match="`times` must"):
            sample(
                model, key=jax.random.key(0), num_samples=4, solver=ex.dynamics.DDIM(), times=times
            )
    arguments = (
        (lambda: ex.dynamics.DDIM(eta=1.5), "eta"),
        (lambda: ex.dynamics.DDIM(eta=float("nan")), "eta"),
        (lambda: ex.dynamics.DPMSolver(order=3), "order"),
        (lambda: ex.dynamics.EDMHeun(churn=-1.0), "churn"),
        (lambda: ex.dynamics.EDMHeun(churn_min=-1.0), "churn_min"),
        (lambda: ex.dynamics.EDMHeun(churn_max=float("nan")), "churn_max"),
        (lambda: ex.dynamics.EDMHeun(churn_noise=float("inf")), "churn_noise"),
        (lambda: ex.dynamics.PredictorCorrector(snr=0.0), "snr"),
        (lambda: ex.dynamics.PredictorCorrector(num_corrections=0), "num_corrections"),
    )
    with as_shipped():
        for build, name in arguments:
            with pytest.raises(ValueError, match=f"`{name}` must be"):
                build()


@pytest.mark.slow  # a program for each sampler
def test_a_failing_model_is_reported():
    def network(log_snr, y, condition):
        return y / 0.0

    model = ex.ScoreMatching(Scripted(network), PROCESSES["vp"]())
    with pytest.raises(eqx.EquinoxRuntimeError, match="a sample is not finite"):
        sample(model, key=jax.random.key(0), num_samples=4, num_steps=2, solver=ex.dynamics.DDIM())

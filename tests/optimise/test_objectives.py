"""Objectives of a schedule: closed forms, gradients, and one curve for every process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.estimators import log_snr_of_std
from tests.helpers import (
    KINDS,
    LOG_RATES,
    PROCESSES,
    as_shipped,
    finite_difference,
    numbers,
    quick,
    quick_jit,
    small_gaussian,
    small_mixture,
)


def gaussian():
    return ex.Gaussian([0.7], [[0.4]])


def test_actions_of_a_gaussian(x64):
    """THEORY's closed forms, and the length of the VP path."""
    action = ex.KineticAction(gaussian())
    vp, cosine, flow = (PROCESSES[name]() for name in ("vp", "cosine", "rf"))
    m, v = 0.7, 0.4
    bures = m**2 + (v**0.5 - 1) ** 2
    values = quick_jit(lambda *p: [action(q) for q in p])(vp, cosine, flow)
    assert float(values[0]) == pytest.approx(0.85957046880902, rel=1e-10)
    assert float(values[1]) == pytest.approx(np.pi**2 / 8 * bures, rel=1e-10)
    assert float(values[2]) == pytest.approx(m**2 + 1 + v - np.pi / 2 * v**0.5, rel=1e-10)
    assert float(action.length(vp)) == pytest.approx(0.80792529493179, rel=1e-10)


@pytest.mark.parametrize("name", quick(["rf"], ["vpx", "rf", "ve", "path-learned", "sl"]))
def test_one_curve_serves_every_process(x64, name):
    """The action from posterior moments is the action of the velocity, at the same points."""
    data = small_mixture().sample(40, key=jax.random.key(0))
    key = jax.random.key(1)
    process = PROCESSES[name]()
    curve = ex.optimise.posterior_curve(small_mixture(), data, key=key, num_log_snr=400)
    model = ex.ExactModel(small_mixture(), PROCESSES["vp"]())
    # Of a model under another process as well: it is the curve of its denoiser.
    own = ex.optimise.posterior_curve(model, data, key=key)
    direct = ex.KineticAction(model, data, key=key, num_times=48)

    @quick_jit
    def actions(process):
        return [direct(process)] + [
            ex.KineticAction(c, num_times=48)(process) for c in (curve, own)
        ]

    by_velocity, by_curve, by_own = actions(process)
    np.testing.assert_allclose(by_curve, by_velocity, rtol=1e-4)
    np.testing.assert_allclose(by_own, by_velocity, rtol=1e-3)


@pytest.mark.parametrize("name", quick(["vpx"], ["vpx", "sl-warped", "path-learned-noise"]))
def test_the_curve_of_a_model_does_not_depend_on_its_process(x64, name):
    """In the derivative, too, although the log-SNR is infinite at an end."""
    data = small_mixture().sample(8, key=jax.random.key(0))
    flat, build = numbers(PROCESSES[name]())

    def moments(flat):
        model = ex.ExactModel(small_mixture(), build(flat))
        curve = ex.optimise.posterior_curve(model, data, key=jax.random.key(1), num_log_snr=65)
        return jnp.stack(jax.tree.leaves(curve.moments(jnp.asarray(0.5))))

    found = quick_jit(jax.jacrev(moments))(flat)
    np.testing.assert_allclose(found, jnp.zeros_like(found), atol=1e-10)


@pytest.mark.slow(reason="a program of its own")
def test_entropic_time(x64):
    """Its rate is that of THEORY; two points hold log 2 nats."""
    process, data, cutoff = PROCESSES["vpx"](), small_gaussian(), 0.03
    entropic = ex.optimise.EntropicTime(data, cutoff=cutoff)
    s = jnp.asarray([0.001, 0.1, 0.4, 0.9])

    @quick_jit
    def rates(s):
        var = process.var(s)
        total = process.scale(s)[:, None] ** 2 * data.eigenvalues + var[:, None]
        forgets = process.sigma_squared(s) / 2 * jnp.sum(1 / var[:, None] - 1 / total, axis=-1)
        return entropic.rate(process, s), forgets * var / (var + cutoff**2)

    np.testing.assert_allclose(*rates(s), rtol=1e-10)
    two = ex.Empirical([[-1.0], [1.0]])
    points = ex.optimise.EntropicTime(two, key=jax.random.key(0), num_samples=32_768)
    for name in ("vp", "ve"):
        length = float(quick_jit(lambda p: points.length(p))(PROCESSES[name]()))
        assert length == pytest.approx(np.log(2), rel=0.02)  # three standard errors
    with pytest.raises(ValueError, match="`cutoff` must be given"):
        ex.optimise.EntropicTime(small_gaussian())


def test_score_length_of_a_gaussian(x64):
    """Closed form: score -(y - mu m)/P, whose derivative in s is affine in y."""
    process, data = PROCESSES["vp"](), small_gaussian()
    s = jnp.asarray([0.01, 0.3, 0.8])
    total = process.scale(s)[:, None] ** 2 * data.eigenvalues + process.var(s)[:, None]
    rate = 2 * (process.scale_rate(s) * process.scale(s))[:, None] * data.eigenvalues
    rate = rate + process.var_rate(s)[:, None]
    mean = data.eigenvectors.T @ data.mean
    moved = (process.scale_rate(s)[:, None] * mean / total) ** 2
    objective = ex.optimise.ScoreOptimalLength(data)
    expected = process.var(s) * jnp.sum(moved + rate**2 / total**3, axis=-1)
    found = quick_jit(lambda p, s: objective.squared_rate(p, s))(process, s)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.slow
def test_estimator_variance(x64):
    """The variance of draws: of the bound, and of a path KL."""
    process, data, cutoff = PROCESSES["vp-learned"](), gaussian(), 0.1
    model = ex.ExactModel(data, process)
    other = ex.ExactModel(ex.Gaussian([0.2], [[0.7]]), process)
    bound = ex.optimise.EstimatorVariance(data, cutoff=cutoff)
    divergence = ex.optimise.EstimatorVariance(
        model,
        data.sample(4000, key=jax.random.key(3)),
        reference_model=other,
        cutoff=cutoff,
        key=jax.random.key(4),
    )
    start = process.time_of_log_snr(log_snr_of_std(process, jnp.asarray(cutoff)))

    @quick_jit
    def draws(key):
        keys = jax.random.split(key, 3)
        n = 100_000
        s = start + (1 - start) * jax.random.uniform(keys[0], (n,))
        x = data.sample(n, key=keys[1])
        z = jax.random.normal(keys[2], (n, 1))

        def one(s, x, z):
            y = process.perturb(s, x, z)
            e = model.entropy_field(s, y)
            miss = process.std(s) * (e + process.equilibrium_score(s, y)) + z
            sigma_squared = process.sigma_squared(s)
            likelihood = sigma_squared / process.var(s) / 2 * jnp.sum(miss**2)
            kl = sigma_squared / 2 * jnp.sum((e - other.entropy_field(s, y)) ** 2)
            return (1 - start) * jnp.stack([likelihood, kl])

        return jax.vmap(one)(s, x, z)

    values = np.asarray(draws(jax.random.key(0)))
    deviations = (values - values.mean(0)) ** 2
    error = deviations.std(0) / np.sqrt(len(values))
    expected = quick_jit(lambda p: jnp.stack([bound(p), divergence(p)]))(process)
    assert abs(deviations[:, 0].mean() - float(expected[0])) < 4 * error[0]
    # The path KL is an average over 8,000 points, whose own error is about five times larger.
    assert abs(deviations[:, 1].mean() - float(expected[1])) < 20 * error[1]


def test_sampler_errors(x64):
    """Closed form for isotropic Gaussian data, and the Euler steps themselves."""
    process, v, n = PROCESSES["ve"](), 0.4, 6
    bound = ex.optimise.SamplerError(ex.Gaussian([0.3, -0.2], v * np.eye(2)), n, 0.05)
    euler = ex.optimise.EulerKL(v**0.5, n, 0.05)
    t = np.asarray(euler.ratios(process))
    assert t[-1] == pytest.approx(0.05, rel=1e-12)
    u = 1 / t**2
    saved = np.diff(u) * v / (1 + v * u[:-1]) - np.diff(np.log1p(v * u))
    assert float(bound(process)) == pytest.approx(float(saved.sum()), rel=1e-8)
    size = np.sqrt(v + t[0] ** 2)
    for i in range(n):
        size += (t[i + 1] - t[i]) * size * t[i] / (v + t[i] ** 2)
    ratio = size**2 / (v + t[-1] ** 2)
    assert float(euler(process)) == pytest.approx((ratio - 1 - np.log(ratio)) / 2, rel=1e-9)
    with pytest.raises(ValueError, match="`process` must keep some of the signal"):
        euler(PROCESSES["sl"]())
    assert np.isfinite(float(bound(PROCESSES["sl"]())))


OBJECTIVES = {
    "action": lambda p: ex.KineticAction(small_gaussian(), num_times=32),
    "action-measured": lambda p: ex.KineticAction(
        small_mixture(), key=jax.random.key(0), num_samples=20, num_times=24
    ),
    "action-model": lambda p: ex.KineticAction(
        ex.ExactModel(small_mixture(), p),
        small_mixture().means,
        key=jax.random.key(0),
        num_times=12,
    ),
    "score": lambda p: ex.optimise.ScoreOptimalLength(small_gaussian(), num_times=12),
    "entropic": lambda p: ex.optimise.EntropicTime(small_gaussian(), cutoff=0.05, num_times=32),
    "variance": lambda p: ex.optimise.EstimatorVariance(
        small_gaussian(), cutoff=0.05, num_times=32
    ),
    "sampler": lambda p: ex.optimise.SamplerError(small_gaussian(), 5, 0.05),
    "euler": lambda p: ex.optimise.EulerKL(0.6, 5, 0.05),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "vp-learned") for name in OBJECTIVES), ("action", "path-learned")],
)
def test_gradients(x64, name, kind):
    flat, rebuild = numbers(PROCESSES[kind]())
    objective = OBJECTIVES[name](PROCESSES[kind]())
    both = jax.jit(jax.vmap(jax.value_and_grad(lambda v: objective(rebuild(v)))))
    batch = flat + jnp.zeros((4 * flat.size, 1))
    gradient = both(batch)[1][0]
    # A measured curve is smooth to second order only. Where nodes of the quadrature are placed is
    # no smooth function of the process; what they leave out is far larger than what that changes.
    tolerance = {"action-measured": 1e-4, "variance": 2e-5}.get(name, 1e-6)
    expected = finite_difference(lambda b: both(b)[0], flat, 1e-4)
    size = float(jnp.max(jnp.abs(expected)))
    np.testing.assert_allclose(gradient, expected, rtol=tolerance, atol=tolerance * size)


@pytest.mark.slow
def test_total_entropy_is_no_objective(x64):
    """It does not depend on a schedule beyond the end, as the action does."""
    schedule = ex.MonotoneSchedule(LOG_RATES, 2.0, learn_total=True)
    data = gaussian()
    action = ex.KineticAction(data, num_times=64)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    knots = np.asarray(schedule.knots)
    widths = np.diff(knots)[:, None]  # the rate is smooth between knots
    s = jnp.asarray((knots[:-1, None] + widths * (nodes + 1) / 2).ravel())

    def total_entropy(schedule):
        process = ex.VariancePreserving(schedule)
        rate = 2 / process.sigma_squared(s) * action.squared_rate(process, s)
        return (widths * weights / 2).ravel() @ rate

    def kinetic(schedule):
        return action(ex.VariancePreserving(schedule))

    @quick_jit
    def gradients(schedule):
        return [jax.value_and_grad(f)(schedule) for f in (total_entropy, kinetic)]

    (value, flat), (_, steep) = gradients(schedule)
    end = np.exp(-2.0)
    v, m = end * 0.4 + 1 - end, end**0.5 * 0.7
    kl = lambda m, v: (v + m**2 - 1 - np.log(v)) / 2  # noqa: E731
    assert float(value) == pytest.approx(kl(0.7, 0.4) - kl(m, v), rel=1e-10)
    # (1/2) E|e*|^2 at the end, times B(1) since the logarithm of B(1) is the parameter.
    known = ((1 / v - 1) ** 2 * v + m**2) / 2 * 2.0
    assert float(flat.log_total) == pytest.approx(known, rel=1e-9)
    assert float(jnp.max(jnp.abs(flat.curve.log_rates))) < 1e-10 * float(value)
    assert float(jnp.max(jnp.abs(steep.curve.log_rates))) > 0.01


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ex.KineticAction("digits"), "`source` must be a model or a distribution"),
        (lambda: ex.KineticAction(small_mixture()), "`key` must be given"),
        (
            lambda: ex.KineticAction(
                ex.ExactModel(small_mixture(), PROCESSES["vp"]()), key=jax.random.key(0)
            ),
            "`data` must be given for a model",
        ),
        (lambda: ex.KineticAction(small_gaussian(), num_times=1), "`num_times` must be an integer"),
        (
            lambda: ex.KineticAction(small_gaussian())(ex.Langevin(ex.processes.Harmonic())),
            "`process` must be a Gaussian process, got Langevin",
        ),
        (lambda: ex.optimise.EstimatorVariance(small_gaussian()), "`cutoff` must be given"),
        (
            lambda: ex.optimise.EstimatorVariance(
                small_gaussian(), reference_model=small_gaussian()
            ),
            "`source` must be a model for a path KL",
        ),
        (
            lambda: ex.optimise.SamplerError(small_gaussian(), 0, 0.1),
            "`num_steps` must be an integer",
        ),
        (lambda: ex.optimise.EulerKL(-1.0, 5, 0.1), "`std` must be positive"),
    ],
)
def test_mistakes(make, message):
    with as_shipped(), pytest.raises(ValueError, match=message):
        make()


def test_noise_that_underflows(x32):
    """A high power of time, that of Karras et al.; the action by the midpoint rule, in NumPy."""
    karras = ex.GaussianPath(jnp.ones_like, lambda s: 80 * s**7)
    action = ex.KineticAction(ex.Gaussian([0.0], [[1.0]]))
    assert float(quick_jit(lambda: action(karras))()) == pytest.approx(24079.6668, rel=1e-4)


@pytest.mark.parametrize("name", quick(["rf"], ("vp", *KINDS)))
def test_action_at_every_scale(x64, name):
    """Of a Gaussian far from the scale of the process, against four times as many nodes."""
    process = PROCESSES[name]()

    @quick_jit
    def actions(variances):
        gaussian = ex.Gaussian(jnp.zeros(2), jnp.diag(variances))
        few, many = (ex.KineticAction(gaussian, num_times=n) for n in (256, 1024))
        return few(process), many(process), few.length(process), many.length(process)

    for size, ratio in ((1e-8, 1.0), (1e8, 1.0), (1.0, 1e-8), (1e4, 1e-4)):
        found = np.asarray(actions(jnp.asarray([size, size * ratio])))
        np.testing.assert_allclose(found[::2], found[1::2], rtol=1e-5)

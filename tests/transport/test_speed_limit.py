"""Speed limits: closed forms without sampling, honest errors, inequalities, gradients."""

import contextlib
import functools

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.estimators import GaussianReference
from entropix.transport import bures_wasserstein, speed_limit
from entropix.transport.speed import errors_of, measure_speeds, reference_of, speed_profile
from entropix.transport.speed_limit import squared_lower_bound
from tests.helpers import (
    COLLAPSING,
    KINDS,
    PROCESSES,
    double,
    finite_difference,
    numbers,
    quick,
    quick_jit,
    small_gaussian,
    small_mixture,
)


def gaussian():
    return ex.Gaussian([0.7], [[0.4]])


def design(distribution):
    """Equal weights on points with exactly the moments of a Gaussian."""
    dim = distribution.dim
    root = jnp.sqrt(dim) * jnp.linalg.cholesky(distribution.covariance).T
    return distribution.mean + jnp.concatenate([root, -root])


def exact_profile(process, distribution, num_times=48):
    """Of a Gaussian model and data with its moments: all that is sampled is zero."""
    model, x = ex.ExactModel(distribution, process), design(distribution)
    z = jax.random.normal(jax.random.key(0), (x.shape[0], 2, distribution.dim))
    reference = GaussianReference.from_data(x)
    return speed_profile(model, x, z, None, reference, num_times, 1000)


def test_no_entropy_leaves_the_inequalities_their_errors():
    """Of data that are in equilibrium already, whose samples are a distance apart by chance."""

    def estimate(value, error):
        return ex.Estimate(*map(jnp.asarray, (value, error, error)))

    zero, apart, times = estimate(0.0, 0.0), estimate(0.1, 0.05), jnp.array([0.0, 1.0])
    sizes = {"num_samples": 100, "dim": 1, "times": times, "quadrature": jnp.zeros(2)}
    limit = ex.transport.SpeedLimit(
        apart, apart, estimate(0.0, 0.04), zero, zero, jnp.asarray(4.0), zero, speed=times, **sizes
    )
    assert float(limit.slack["W2^2 <= S_tot * budget"]) == pytest.approx(-1.0)
    assert all(bool(holds) for holds in limit.inequalities.values())
    assert "VIOLATED" not in str(limit)


def geodesic(variance):
    """The straight path from N(m, v) to N(0, 1): the standard deviation is linear in time."""

    def std(s):
        return jnp.sqrt(s**2 + 2 * s * (1 - s) * variance**0.5)

    return ex.GaussianPath(lambda s: 1 - s, std)


@pytest.mark.slow(reason="five large programs in one")
def test_closed_forms(x64):
    """N(.7, .4) to N(0, 1): the velocity is linear, so the design is exact; quadrature is all."""

    # Between N(m, 1) and N(0, 1) the cosine path is straight: a sine for its speed.
    around = ex.Gaussian([0.3], [[1.0]])
    straight_path = geodesic(0.4)

    @quick_jit
    def run(vp, cosine, flow):
        profiles = [exact_profile(p, gaussian()) for p in (vp, cosine, flow)]
        profiles.append(exact_profile(cosine, around))
        profiles.append(exact_profile(straight_path, gaussian()))
        values = [(p.length().value, p.action(1.0).value, p.entropy().value, p) for p in profiles]
        return values

    vp, cosine, flow, straight, shortest = run(*(PROCESSES[n]() for n in ("vp", "cosine", "rf")))
    assert float(vp[0]) == pytest.approx(0.80792529493179, rel=1e-10)
    assert float(vp[2]) == pytest.approx(0.40306717680056, rel=1e-10)
    assert float(cosine[1]) == pytest.approx(0.77117256414414, rel=1e-10)
    assert float(flow[1]) == pytest.approx(0.89654117342039, rel=1e-10)
    m, v = 0.7, 0.4
    assert float(flow[1]) == pytest.approx(m**2 + 1 + v - np.pi / 2 * v**0.5, rel=1e-10)
    assert float(straight[0]) == pytest.approx(0.3, rel=1e-9)
    assert float(straight[1]) == pytest.approx(np.pi**2 / 8 * 0.3**2, rel=1e-9)
    speed = 0.3 * np.pi / 2 * np.sin(np.pi / 2 * np.asarray(straight[3].times))
    np.testing.assert_allclose(straight[3].speed, speed, rtol=1e-9)
    # The geodesic at constant speed: length^2 = action = W2^2.
    squared = m**2 + (v**0.5 - 1) ** 2
    assert float(shortest[0]) ** 2 == pytest.approx(squared, rel=1e-9)
    assert float(shortest[1]) == pytest.approx(squared, rel=1e-9)


@functools.cache
def fine_rule(name):
    """Coefficients of a process at many times, and weights: Gauss-Legendre panels of log(s/(1-s)).

    The knots of the learned processes are ends of panels. Where a speed may turn around, and its
    norm has nearly a kink, panels are narrow.
    """
    knots = np.sin(np.pi / 2 * np.linspace(0, 1, 6)[1:-1]) ** 2
    panels = [np.linspace(-90, -20, 200), np.linspace(-20, 20, 3000)[1:-1], np.linspace(20, 34, 50)]
    edges = np.sort(np.concatenate([*panels, np.log(knots / (1 - knots))]))
    nodes, weights = np.polynomial.legendre.leggauss(8)
    x = (edges[:-1, None] + np.diff(edges)[:, None] * (nodes + 1) / 2).ravel()
    weights = (np.diff(edges)[:, None] * weights / 2).ravel()
    with double():
        process = PROCESSES[name]()

        def coefficients(s):
            p = process
            return p.scale(s), p.var(s), p.scale_rate(s), p.var_rate(s)

        s = jnp.asarray(1 / (1 + np.exp(-x)))
        parts = tuple(np.asarray(part) for part in quick_jit(coefficients)(s))
    return parts, weights / (1 + np.exp(-x)) / (1 + np.exp(x))


def exact_length_and_action(name, mean, variances):
    """Of a Gaussian under a process on [0, 1]."""
    (scale, var, rate, var_rate), weights = fine_rule(name)
    squared = rate**2 * np.sum(mean**2)
    for v in variances:
        squared = squared + (scale * rate * v + var_rate / 2) ** 2 / (scale**2 * v + var)
    squared = np.where(np.isfinite(squared), squared, 0.0)
    return weights @ np.sqrt(squared), weights @ squared, np.sqrt(np.max(var))


@functools.cache
def speeds_of(name, dtype):
    """The integrals of an exact Gaussian model, one program for each process and precision."""
    process = PROCESSES[name]()

    @quick_jit
    def run(mean, covariance, x, z):
        model = ex.ExactModel(ex.Gaussian(mean, covariance), process)
        profile = speed_profile(model, x, z, None, reference_of(x), 64, 64)
        integrals = profile.length(), profile.action(process.t1 - process.t0)
        return [i.estimate(x.shape[0], 1) for i in integrals]

    return run


@pytest.mark.slow(reason="a quadrature for each process")
@pytest.mark.parametrize("name", quick(["vp"]))
def test_every_scale(name):
    """Gaussians of any variance, mean and condition number, in both precisions.

    The points have the moments of the Gaussian, so that the quadrature and rounding are all.
    """

    def check(precise, log_variance, log_mean, log_condition, angle):
        dtype = np.float64 if precise else np.float32
        variances = 10.0**log_variance * np.asarray([1.0, 10.0**-log_condition])
        size = 0.0 if log_mean < -3 else 10.0**log_mean
        if log_condition > 5 and not precise:
            angle = 0.0  # single precision holds no such covariance but a diagonal one
        turn = np.asarray([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        mean = size * turn[0]
        root = turn * np.sqrt(2 * variances)
        x = (mean + np.concatenate([root.T, -root.T])).astype(dtype)
        covariance = (turn * variances) @ turn.T
        z = np.random.default_rng(0).normal(size=(4, 4, 2)).astype(dtype)
        with double() if precise else contextlib.nullcontext():
            found = speeds_of(name, dtype)(mean.astype(dtype), covariance.astype(dtype), x, z)
        moments = np.mean(x, 0, np.float64), np.cov(x.T, bias=True, dtype=np.float64)
        known = moments[0], np.maximum(np.linalg.eigvalsh(moments[1]), 0.0)
        *exact, noise = exact_length_and_action(name, *known)
        largest = size + np.sqrt(variances[0]) + noise
        for power, (estimate, truth) in enumerate(zip(found, exact, strict=True), 1):
            value, error = float(estimate.value), float(estimate.mc_stderr)
            assert abs(value - truth) <= 4 * error, (value, truth, error)
            # Rounding of the sample covariance hides the narrow direction.
            if precise or log_condition < 3:
                enough = 1e-3 if precise else 2e-2
                assert error <= enough * max(truth, (1e-3 * largest) ** power)

    drawn = hypothesis.given(
        precise=st.booleans(),
        log_variance=st.floats(-8, 8),
        log_mean=st.floats(-4, 4),
        log_condition=st.sampled_from((0.0, 0.0, 2.0, 4.0, 8.0)),
        angle=st.floats(0, 3),
    )
    hypothesis.settings(max_examples=40)(drawn(check))()


@pytest.mark.parametrize("name", quick([], ["vp", "rf", "ve"]))
@pytest.mark.parametrize(("apart", "variance"), [(1e3, 1.0), (1.0, 1e-6), (30.0, 1.0)])
def test_components_far_apart(x64, name, apart, variance):
    """More than one scale in the data: 64 nodes against 1024, within the quadrature's error."""
    std = [[variance**0.5] * 2] * 2
    mixture = ex.GaussianMixture([0.3, 0.7], [[0.0, 0.0], [apart, apart / 2]], std)
    data = mixture.sample(200, key=jax.random.key(0))
    model = ex.ExactModel(mixture, PROCESSES[name]())
    options = {"key": jax.random.key(1), "num_samples": 200, "chunk": 200}
    few, many = (measure_speeds(model, data, None, num_times=n, **options)[2] for n in (64, 1024))
    for one, other in ((few.length, many.length), (few.action, many.action)):
        assert abs(float(one.value - other.value)) <= 2 * float(one.quadrature)
        assert float(one.quadrature) <= 1e-2 * float(other.value)
        assert float(other.quadrature) <= 1e-4 * float(other.value)


@pytest.mark.slow  # three programs
def test_nodes_are_added_where_they_are_too_few(x64):
    """Eight nodes are refined outside of transformations, and stated to be too few inside."""
    mixture = wide()
    model = ex.ExactModel(mixture, PROCESSES["vp"]())
    data = mixture.sample(500, key=jax.random.key(0))
    options = {"key": jax.random.key(1), "num_samples": 1000, "chunk": 1000}

    def run(data, count):
        speeds = measure_speeds(model, data, None, num_times=count, **options)[2]
        return speeds.length, speeds.action, speeds.evaluations

    many, few = run(data, 96), run(data, 8)
    stated = quick_jit(lambda x: run(x, 8))(data)
    assert few[2] > 8 * 1000
    for exact, refined, fixed in zip(many[:2], few[:2], stated[:2], strict=True):
        assert float(refined.quadrature) < 0.5 * float(fixed.quadrature)
        for found in (refined, fixed):
            assert abs(float(found.value - exact.value)) < 2 * float(found.quadrature)


@pytest.mark.slow(reason="a program of its own")
def test_an_action_that_diverges():
    """Of finite data under a process whose noise grows like the square root of time."""
    points = jnp.asarray([[0.0, 0.0], [1.0, 2.0], [3.0, 1.0]])
    model = ex.ExactModel(ex.Empirical(points), PROCESSES["vp"]())
    options = {"key": jax.random.key(1), "num_samples": 60, "chunk": 60, "num_times": 64}
    speeds = measure_speeds(model, points, None, **options)[2]
    action, length = (i.estimate(3, 1) for i in (speeds.action, speeds.length))
    assert np.isinf(float(action.mc_stderr))
    assert np.isfinite(float(length.mc_stderr))


@pytest.mark.slow  # a program of its own
def test_few_samples_do_not_beat_the_limit(x64):
    """Data far wider than the noise: W2 of samples is all bias, and its error says so."""
    data = ex.Gaussian([0.0], [[1e8]])
    model = ex.ExactModel(data, PROCESSES["ve"]())
    counts = {"num_times": 16, "num_samples": 1000, "num_evaluations": 1024}
    x = data.sample(500, key=jax.random.key(0))
    result = speed_limit(model, x, key=jax.random.key(1), **counts)
    assert float(result.efficiency) > 100
    assert float(result.efficiency) - 1 < 4 * float(result.efficiency.stderr)
    assert all(bool(holds) for holds in result.inequalities.values())


@pytest.mark.slow
def test_a_gaussian_model_has_no_noise(x64):
    """Given data with its moments, `speed_limit` returns closed forms whatever the key."""
    model = ex.ExactModel(gaussian(), PROCESSES["vp"]())
    counts = {"num_times": 48, "num_samples": 8, "num_evaluations": 256}
    result = quick_jit(lambda x, k: speed_limit(model, x, key=k, **counts))(
        design(gaussian()), jax.random.key(3)
    )
    exact = {
        "w2_lower": 0.60766877551322**0.5,
        "length": 0.80792529493179,
        "action": 0.85957046880902,
        "total_entropy": 0.40306717680056,
    }
    for name, value in exact.items():
        assert float(getattr(result, name)) == pytest.approx(value, rel=1e-8)
        assert float(getattr(result, name).mc_stderr) < 1e-8
    assert float(result.efficiency_lower) == pytest.approx(0.37456190310893, rel=1e-8)


@pytest.mark.slow
def test_the_geodesic_of_isotropic_gaussians(x64):
    """length^2 / W2^2 and action / W2^2 are one within the error, from samples."""
    v, dim = 0.3, 3
    data = ex.Gaussian([0.5, -0.2, 0.1], v * jnp.eye(dim))
    x = data.sample(2000, key=jax.random.key(0))
    result = speed_limit(
        ex.ExactModel(data, geodesic(v)), x, key=jax.random.key(1), num_samples=400, max_exact=200
    )
    w2 = (0.3 + dim * (v**0.5 - 1) ** 2) ** 0.5
    for estimate, exact in ((result.length, w2), (result.action, w2**2), (result.w2_lower, w2)):
        assert abs(float(estimate) - exact) < 4 * float(estimate.stderr)
    lower = result.w2_lower
    for estimate, bound in (
        (result.length, lower.value),
        (result.action, lower.value**2),
    ):
        relative = jnp.hypot(estimate.stderr / estimate.value, 2 * lower.stderr / lower.value)
        assert abs(float(estimate.value / bound) - 1) < 4 * float(relative)
        assert float(relative) < 0.05
    assert all(bool(holds) for holds in result.inequalities.values())


@pytest.mark.parametrize(("count", "dim"), [(9, 2), (4, 6)])
def test_lower_bound_is_bures(x64, getkey, count, dim):
    """The distance of the Gaussians, and its derivative; also with fewer points than numbers."""
    process = PROCESSES["vp"]()
    scale, var = process.scale(process.t1), process.var(process.t1)
    x = 0.3 + jax.random.normal(getkey(), (count, dim)) * jnp.linspace(0.3, 1.5, dim)

    @quick_jit
    def squared(weights):
        mean = weights @ x
        C = (weights[:, None] * (x - mean)).T @ (x - mean)
        end = (scale * mean, scale**2 * C + var * jnp.eye(dim))
        return bures_wasserstein(mean, C, *end) ** 2

    even = jnp.full(count, 1 / count)
    bound, influence, _ = quick_jit(squared_lower_bound)(process, x)
    assert float(bound) == pytest.approx(float(squared(even)), rel=1e-6)
    assert abs(float(jnp.mean(influence))) < 1e-10
    if count > dim:  # more weight on one point, less on all
        more = (even.at[2].add(1e-5)) / (1 + 1e-5)
        rise = float(squared(more) - squared(even)) / 1e-5
        assert rise == pytest.approx(float(influence[2]), rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("name", quick(["ve", "sl"]))
def test_inequalities_without_sampling(x64, name):
    """W2 <= length <= sqrt(action), W2^2 <= S_tot budget, for a Gaussian in two dimensions."""
    process, data = PROCESSES[name](), small_gaussian()

    @quick_jit
    def run(process):
        profile = exact_profile(process, data, 32)
        total = process.scale(process.t1)
        identity = process.var(process.t1) * jnp.eye(2)
        w2 = bures_wasserstein(
            data.mean, data.covariance, total * data.mean, total**2 * data.covariance + identity
        )
        return w2, profile.length().value, profile.action(1.0).value, profile.entropy().value

    w2, length, action, entropy = run(process)
    budget = float(process.noise_budget())
    assert w2 <= length * (1 + 1e-6)
    assert length**2 <= action * (1 + 1e-6)
    assert np.isinf(budget) == (process.scale(process.t1) < 1e-9)
    assert w2**2 <= entropy * budget * (1 + 1e-6)
    if name == "ve":  # everything is spread: a geodesic but for the correlation of the data
        assert length < 1.001 * w2


def test_speed_limit_of_a_gaussian(x64):
    data = gaussian().sample(4000, key=jax.random.key(0))
    model = ex.ExactModel(gaussian(), PROCESSES["vp"]())
    counts = {"num_times": 24, "num_samples": 8000, "num_evaluations": 4096}
    result = quick_jit(lambda x: speed_limit(model, x, key=jax.random.key(1), **counts))(data)
    exact = {
        "w2": 0.60766877551322**0.5,
        "w2_lower": 0.60766877551322**0.5,
        "length": 0.80792529493179,
        "action": 0.85957046880902,
        "total_entropy": 0.40306717680056,
        "efficiency": 0.37456190310893,
    }
    for name, value in exact.items():
        estimate = getattr(result, name)
        assert abs(float(estimate) - value) < 4 * float(estimate.stderr), name
        assert float(estimate.stderr) < 0.08 * value
    assert float(result.budget) == pytest.approx(4.025)
    assert all(bool(holds) for holds in result.inequalities.values())
    assert (result.num_samples, result.times.shape) == (4000, (24,))
    assert float(result.efficiency_lower) == pytest.approx(float(result.efficiency), rel=0.2)
    text = str(result)
    assert "W2 (n = 4000)" in text
    assert text.count("holds, by") == 3
    assert float(result.slack["W2^2 <= S_tot * budget"]) > 10


@pytest.mark.slow
def test_honest_errors(x64):
    """Over new data estimates scatter by `stderr`; over new noise alone, by `mc_stderr`."""
    model = ex.ExactModel(gaussian(), PROCESSES["vp"]())
    names = ("w2", "w2_lower", "length", "action", "efficiency")

    def run(data, key):
        kwargs = {"num_times": 48, "num_samples": 300, "num_evaluations": 2048}
        result = speed_limit(model, data, key=key, **kwargs)
        return {n: (e.value, e.stderr, e.mc_stderr) for n in names if (e := getattr(result, n))}

    keys = jax.random.split(jax.random.key(0), 200)
    fresh = jax.vmap(lambda k: gaussian().sample(300, key=k))(keys)
    again = quick_jit(jax.vmap(run))
    for given, which in ((fresh, 1), (jnp.broadcast_to(fresh[:1], fresh.shape), 2)):
        for name, parts in again(
            given, jax.vmap(jax.random.fold_in)(keys, jnp.arange(200))
        ).items():
            scatter = float(jnp.std(parts[0]))
            claimed = float(jnp.sqrt(jnp.mean(parts[which] ** 2)))
            if (name, which) == ("w2_lower", 2):  # takes all data, and no noise
                assert claimed == 0
                assert scatter < 1e-10
                continue
            assert 0.7 < claimed / scatter < 1.4, (name, which, claimed, scatter)


def test_errors_of_a_part_of_the_data():
    """All points taken: only noise is left. No noise: the part left out decides."""
    data = jax.random.normal(jax.random.key(0), (50, 1))
    noise = jax.random.normal(jax.random.key(1), (50, 4))
    full = errors_of(data + noise, 50)
    assert float(full[1]) == pytest.approx(1 / 200**0.5, rel=0.15)
    part = errors_of(data + 0 * noise, 200)
    assert float(part[1] / part[0]) == pytest.approx(0.75**0.5, rel=1e-3)


def wide():
    """Two far, narrow components and one broad one."""
    return ex.GaussianMixture(
        [0.3, 0.3, 0.4],
        [[-3.0, 2.0], [3.0, 1.0], [0.0, -1.0]],
        [[0.1, 0.1], [0.1, 0.05], [2.0, 1.0]],
    )


def flat():
    """Three components along a line, nearly without width across it."""
    return ex.GaussianMixture(
        [0.5, 0.25, 0.25],
        [[-1.0, 0.0], [0.5, 0.0], [1.5, 0.0]],
        [[0.3, 0.01], [0.2, 0.01], [0.3, 0.01]],
    )


@pytest.mark.parametrize("name", quick([], [*KINDS, "path-learned", "subvp-warped"]))
def test_inequalities_on_a_grid(name):
    """Processes of each kind with three mixtures, one compiled program for each process."""
    counts = {"num_times": 24, "num_samples": 1000, "max_exact": 300, "num_evaluations": 4096}
    run = quick_jit(lambda model, x, key: speed_limit(model, x, key=key, **counts))
    for case, mixture in enumerate((small_mixture(), wide(), flat())):
        process = PROCESSES[name]()
        key, data_key = jax.random.split(jax.random.key(case))
        data = mixture.sample(1500, key=data_key)
        result = run(ex.ExactModel(mixture, process), data, key)
        assert all(bool(holds) for holds in result.inequalities.values()), str(result)
        assert result.num_samples == 300
        error = float(jnp.hypot(result.w2.stderr, result.w2_lower.stderr))
        assert float(result.w2) > float(result.w2_lower) - 3 * error
        entropy, budget = float(result.total_entropy), float(result.budget)
        if np.isfinite(entropy) and np.isfinite(budget):
            assert 0 < float(result.efficiency_lower) < 1
            assert float(result.efficiency) > 0
        else:  # the limit says nothing, and the result says so
            assert float(result.efficiency) == float(result.efficiency.stderr) == 0
            cause = "budget" if np.isinf(budget) else "total entropy"
            assert f"says nothing: the {cause} is infinite" in str(result)
        assert np.isinf(entropy) == (name in COLLAPSING)


@pytest.mark.slow
def test_cutoff():
    model = ex.ExactModel(gaussian(), PROCESSES["rf"]())
    data = gaussian().sample(1000, key=jax.random.key(0))
    result = speed_limit(model, data, key=jax.random.key(1), cutoff=0.01, num_samples=500)
    # E|x|^2 ln(1/s) and a constant: the closed form from s = .01 on, of this Gaussian.
    assert np.isfinite(float(result.total_entropy))
    assert float(result.total_entropy.cutoff) == pytest.approx(0.01)
    assert float(result.efficiency) == 0  # the budget is infinite


@pytest.mark.slow(reason="a large program")
def test_a_network_and_its_gradient(x64):
    """Of length and W2 in the process and the network, against finite differences."""
    network = ex.FourierMLP(2, widths=(8,), num_features=4, key=jax.random.key(5))
    network = eqx.tree_at(lambda n: n.head.bias, network, jnp.asarray([0.3, -0.2]))
    one = jnp.ones(())
    scaling = ex.GaussianScaling(one / 4, one, one / 2, (2,))
    template = ex.EntropyMatching(network, PROCESSES["vpx"](), scaling)
    data = small_mixture().sample(12, key=jax.random.key(0))
    flat, rebuild = numbers(template.process)
    at = jnp.concatenate([flat, network.head.bias])

    @quick_jit
    @jax.value_and_grad
    def objective(v):
        parts = (rebuild(v[: flat.size]), v[flat.size :])
        model = eqx.tree_at(lambda m: (m.process, m.network.head.bias), template, parts)
        kwargs = {"num_times": 8, "num_samples": 24, "num_evaluations": 256}
        result = speed_limit(model, data, key=jax.random.key(0), **kwargs)
        parts = (result.w2, result.w2_lower, result.length, result.action)
        return sum(part.value for part in parts)

    expected = finite_difference(
        lambda batch: jnp.stack([objective(v)[0] for v in batch]), at, 1e-4
    )
    assert np.all(np.abs(expected) > 1e-6)
    np.testing.assert_allclose(objective(at)[1], expected, rtol=1e-5)


def test_refusals():
    model = ex.ExactModel(gaussian(), PROCESSES["vp"]())
    data = jnp.ones((10, 1))
    for name, value in (("num_times", 1), ("num_samples", 2), ("max_exact", 1), ("chunk_size", 0)):
        with pytest.raises(ValueError, match=f"`{name}` must be an integer"):
            speed_limit(model, data, key=jax.random.key(0), **{name: value})
    with pytest.raises(ValueError, match="`data` must have shape"):
        speed_limit(model, jnp.ones(10), key=jax.random.key(0))

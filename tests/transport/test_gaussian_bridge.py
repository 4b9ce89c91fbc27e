"""The closed form of the bridge between Gaussians against grids, identities and samples."""

import decimal
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import logsumexp

import entropix as ex
from tests.helpers import finite_difference, quick_jit


def pair(dim=2):
    if dim == 1:
        return ex.Gaussian([-1.0], [[0.5]]), ex.Gaussian([1.0], [[1.5]])
    return (
        ex.Gaussian([-1.0, 0.5], [[1.0, 0.5], [0.5, 0.6]]),
        ex.Gaussian([1.0, 0.0], [[0.8, -0.4], [-0.4, 1.2]]),
    )


def entropy(gaussian):
    return float(jnp.linalg.slogdet(2 * jnp.pi * jnp.e * gaussian.covariance)[1] / 2)


def grid_plan(start, end, epsilon):
    """Sinkhorn on a fine grid of the line, in NumPy: the plan of E|x - y|^2/2 + epsilon KL."""
    t = np.linspace(-8, 8, 257)
    log_p, log_q = (np.asarray(g.log_prob(jnp.asarray(t)[:, None])) for g in (start, end))
    log_p, log_q = log_p - logsumexp(log_p), log_q - logsumexp(log_q)
    kernel = -((t[:, None] - t) ** 2) / (2 * epsilon)
    g = np.zeros_like(t)
    for _ in range(60):
        f = -logsumexp(kernel + g + log_q, axis=1)
        g = -logsumexp(kernel + f[:, None] + log_p[:, None], axis=0)
    plan = np.exp(kernel + f[:, None] + g + log_p[:, None] + log_q)
    return t, plan, np.sum(plan * (f[:, None] + g))  # the last is OT / epsilon


def test_plan_and_path_kl_against_a_grid(x64):
    start, end = pair(1)
    bridge = ex.transport.GaussianBridge(start, end, epsilon=0.5)
    t, plan, value = grid_plan(start, end, 0.5)
    cross = t @ plan @ t - (plan.sum(1) @ t) * (plan.sum(0) @ t)
    assert float(bridge.cross[0, 0]) == pytest.approx(cross, rel=1e-6)
    path_kl = value - entropy(end) + np.log(2 * np.pi * 0.5) / 2
    assert float(bridge.path_kl) == pytest.approx(path_kl, rel=1e-6)


def exact_path_kl(a, b, epsilon):
    """Of N(0, a) and N(0, b), with fifty digits."""
    with decimal.localcontext(prec=50):
        a, b, epsilon = (decimal.Decimal(float(number)) for number in (a, b, epsilon))
        root = (4 * a * b + epsilon**2).sqrt()
        moved = (a + b + epsilon - root) / (2 * epsilon)
        return float(moved + ((root + epsilon) / (2 * b)).ln() / 2 - decimal.Decimal(1) / 2)


@pytest.mark.parametrize("apart", [0.0, 1e-3, 1.0])
def test_path_kl_keeps_its_digits(apart):
    """In float32, for every ratio of epsilon to the covariances."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    a = np.array([0.05, 1.0, 3.0])
    b = a * np.exp(apart * rng.normal(size=3))
    A, B = (jnp.asarray(axes * values @ axes.T, jnp.float32) for values in (a, b))

    @jax.jit
    def path_kl(A, B, epsilon):
        start, end = (ex.Gaussian(jnp.zeros(3), (C + C.T) / 2) for C in (A, B))
        return ex.transport.GaussianBridge(start, end, epsilon=epsilon).path_kl

    for epsilon in np.float32([1e-6, 1e-4, 1e-2, 1.0, 1e3, 1e6]):
        expected = sum(exact_path_kl(*pair, epsilon) for pair in zip(a, b, strict=True))
        assert float(path_kl(A, B, epsilon)) == pytest.approx(expected, rel=1e-3, abs=2e-7)


def test_second_derivatives_of_the_path_kl_at_equal_ends(x64):
    """All eigenvalues are equal there, and the distance of the ends is zero."""

    def path_kl(v):
        start, end = jnp.array([[v[0], v[1]], [v[1], 1.0]]), v[2] * jnp.eye(2)
        ends = (ex.Gaussian(jnp.zeros(2), C) for C in (start, end))
        return ex.transport.GaussianBridge(*ends, epsilon=v[3]).path_kl

    at = jnp.asarray([1.0, 0.0, 1.0, 0.4])
    slope = quick_jit(jax.grad(path_kl))
    numeric = finite_difference(jax.vmap(slope), at)
    np.testing.assert_allclose(quick_jit(jax.hessian(path_kl))(at), numeric, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_path_kl_is_the_energy_of_the_drift(x64):
    start, end = pair(2)
    bridge = ex.transport.GaussianBridge(start, end, epsilon=0.7)
    nodes, weights = np.polynomial.legendre.leggauss(32)

    def second_moment(field, s):
        """E|field|^2 at s of an affine field: from its value at the mean and its slope."""
        marginal = bridge.marginal(s)
        slope = jax.jacfwd(lambda x: field(s, x))(marginal.mean)
        return jnp.sum(field(s, marginal.mean) ** 2) + jnp.trace(
            slope @ marginal.covariance @ slope.T
        )

    def integral(field):
        values = jax.vmap(lambda s: second_moment(field, s))(jnp.asarray((nodes + 1) / 2))
        return float(jnp.sum(jnp.asarray(weights / 2) * values))

    assert integral(bridge.drift) / 1.4 == pytest.approx(float(bridge.path_kl), rel=1e-8)
    assert integral(bridge.velocity) * 2 / 0.7 == pytest.approx(
        float(bridge.entropy_production), rel=1e-8
    )
    # The other direction of time is the bridge with its ends exchanged.
    back = ex.transport.GaussianBridge(end, start, epsilon=0.7)
    x = jnp.asarray([0.3, -0.8])
    score = (bridge.drift(0.3, x) + back.drift(0.7, x)) / 0.7
    np.testing.assert_allclose(score, bridge.marginal(0.3).score(x), rtol=1e-9)
    velocity = (bridge.drift(0.3, x) - back.drift(0.7, x)) / 2
    np.testing.assert_allclose(velocity, bridge.velocity(0.3, x), rtol=1e-9)
    # Half the sum of both path KLs is S/4 + eps/8 of the Fisher information.
    fisher = integral(lambda s, x: bridge.marginal(s).score(x))
    both = float(bridge.path_kl + back.path_kl) / 2
    assert both == pytest.approx(float(bridge.entropy_production) / 4 + 0.7 / 8 * fisher, rel=1e-8)


@pytest.mark.parametrize(("a", "b", "epsilon"), [(0.01, 2.0, 1e3), (1.0, 2.0, 1e-3)])
def test_entropy_production_resolves_both_ends(a, b, epsilon):
    """The rate changes within a/epsilon and b/epsilon of the ends: against adaptive quadrature."""
    start, end = ex.Gaussian([0.0], [[a]]), ex.Gaussian([0.3], [[b]])
    found = jax.jit(
        lambda e: ex.transport.GaussianBridge(start, end, epsilon=e).entropy_production
    )(epsilon)
    c = 2 * a * b / (np.sqrt(4 * a * b + epsilon**2) + epsilon)

    def rate(s):
        variance = (1 - s) ** 2 * a + s**2 * b + s * (1 - s) * (2 * c + epsilon)
        slope = (1 - s) * (c - a) + s * (b - c) + epsilon * (0.5 - s)
        return 2 / epsilon * (0.3**2 + slope**2 / variance)

    inner = [0.5, *(k * a / epsilon for k in (1, 10, 100)), *(1 - k * b / epsilon for k in (1, 10))]
    edges = [0.0, *sorted(s for s in inner if 0 < s < 1), 1.0]
    exact = sum(quad(rate, *e, epsrel=1e-9, limit=200)[0] for e in itertools.pairwise(edges))
    assert float(found) == pytest.approx(exact, rel=1e-5)


@pytest.mark.slow
def test_limits_and_gradients(x64):
    start, end = pair(2)
    still = ex.transport.GaussianBridge(start, end, epsilon=1e-6)
    squared = still.path_kl * 2e-6
    w2 = ex.bures_wasserstein(start.mean, start.covariance, end.mean, end.covariance)
    assert float(squared) == pytest.approx(float(w2) ** 2, rel=1e-4)
    assert (
        float(jnp.max(jnp.abs(ex.transport.GaussianBridge(start, end, epsilon=1e6).cross))) < 1e-5
    )

    def costs(v):
        bridge = ex.transport.GaussianBridge(
            ex.Gaussian(v[:2], start.covariance * v[2]), end, epsilon=v[3]
        )
        return jnp.stack([bridge.path_kl, bridge.entropy_production])

    at = jnp.asarray([-1.0, 0.5, 1.0, 0.4])
    numeric = finite_difference(quick_jit(jax.vmap(costs)), at)
    np.testing.assert_allclose(quick_jit(jax.jacrev(costs))(at), numeric, rtol=1e-6)


def test_pairs_have_the_moments_of_the_plan():
    bridge = ex.transport.GaussianBridge(*pair(2), epsilon=0.5)
    x, y = bridge.sample_pairs(20_000, key=jax.random.key(0))
    joint = np.cov(np.concatenate([x, y], axis=1).T)
    np.testing.assert_allclose(joint[:2, 2:], bridge.cross, atol=5 / 20_000**0.5)
    np.testing.assert_allclose(joint[:2, :2], bridge.start.covariance, atol=6 / 20_000**0.5)


@pytest.mark.slow  # transport of many points
def test_the_static_problem_of_samples(x64):
    """OTT's value and its error, against the closed form; scatter over keys."""
    start, end = pair(1)
    exact = ex.transport.GaussianBridge(start, end, epsilon=1.0)

    width = entropy(end)

    def once(key):
        one, other = jax.random.split(key)
        x, y = start.sample(300, key=one), end.sample(300, key=other)
        found = ex.transport.static_bridge(x, y, epsilon=1.0)
        return found.path_kl(width), found.value, found.displacement, found.information

    keys = jax.random.split(jax.random.key(0), 64)
    path_kl, value, displacement, information = jax.jit(jax.vmap(once))(keys)
    scatter = float(jnp.std(path_kl.value, ddof=1))
    bias = float(jnp.mean(path_kl.value)) - float(exact.path_kl)
    assert abs(bias) < 4 * scatter / 8 + 1 / 300
    assert 0.8 < scatter / float(jnp.mean(path_kl.stderr)) < 1.25
    expected = -np.log(1 - float(exact.cross[0, 0]) ** 2 / 0.75) / 2
    assert float(jnp.mean(information)) == pytest.approx(expected, rel=0.05)
    np.testing.assert_allclose(value.value, displacement + information, rtol=1e-9)


def test_mistakes():
    start, end = pair(2)
    with pytest.raises(ValueError, match="epsilon"):
        ex.transport.GaussianBridge(start, end, epsilon=0.0)
    with pytest.raises(ValueError, match="end"):
        ex.transport.GaussianBridge(start, pair(1)[1], epsilon=1.0)
    with pytest.raises(ValueError, match="epsilon"):
        ex.transport.static_bridge(jnp.zeros((4, 2)), jnp.ones((4, 2)), epsilon=-1.0)
    with pytest.raises(ValueError, match="y"):
        ex.transport.static_bridge(jnp.zeros((4, 2)), jnp.ones((4, 3)), epsilon=1.0)


def test_entropy_production_of_narrow_ends(x64):
    """Of ends far narrower than the reference spreads, against a rational integrand's integral."""
    epsilon = 1.0

    @quick_jit
    def found(a, b):
        ends = (ex.Gaussian(jnp.zeros(1), v[None, None]) for v in (a, b))
        bridge = ex.transport.GaussianBridge(*ends, epsilon=epsilon)
        return bridge.entropy_production, bridge.cross[0, 0]

    for a, b in ((1e-8, 1e-4), (1e-6, 1e6), (1e8, 1e-8), (0.3, 2.0)):
        value, c = (float(v) for v in found(jnp.asarray(a), jnp.asarray(b)))

        # v = C'/(2C) x, so that E v^2 = C'^2/(4C), with C a quadratic in s.
        def integrand(x, a=a, b=b, c=c):
            s, r = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(x))
            variance = r**2 * a + s**2 * b + s * r * (2 * c + epsilon)
            slope = -2 * r * a + 2 * s * b + (r - s) * (2 * c + epsilon)
            return s * r * slope**2 / (4 * variance)

        edges = np.linspace(-60, 60, 241)
        nodes, weights = np.polynomial.legendre.leggauss(12)
        x = edges[:-1, None] + (nodes + 1) / 4
        exact = 2 / epsilon * float(np.sum(integrand(x) * weights / 4))
        assert value == pytest.approx(exact, rel=1e-6), (a, b)

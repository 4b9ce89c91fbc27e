"""Distances between samples: against SciPy and brute force, with gradients."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from entropix.transport import sinkhorn_divergence, wasserstein
from entropix.transport.couplings import assignment, costs_of, sorted_coupling
from tests.helpers import finite_difference, quick_jit


def clouds(key, n, m, dim):
    a, b = jax.random.split(key)
    return jax.random.normal(a, (n, dim)), 0.6 * jax.random.normal(b, (m, dim)) + 0.5


def test_one_dimension_against_scipy(x64, getkey):
    for n, m in ((7, 7), (4, 6)):
        x, y = clouds(getkey(), n, m, 1)
        distance = wasserstein(x, y, p=1)
        expected = scipy.stats.wasserstein_distance(np.ravel(x), np.ravel(y))
        assert float(distance) == pytest.approx(expected, rel=1e-12)
        assert (distance.method, distance.num_samples) == ("sorted", (n, m))
        # The second order, by repeating points until the sizes agree.
        total = np.lcm(n, m)
        same = [np.sort(np.repeat(np.ravel(v), total // len(v))) for v in (x, y)]
        for p in (2, 3.5):
            power = np.mean(np.abs(same[0] - same[1]) ** p)
            assert float(wasserstein(x[:, 0], y[:, 0], p)) == pytest.approx(power ** (1 / p))


@pytest.mark.parametrize("p", [1, 2, 3])
def test_assignment_against_brute_force(x64, getkey, p):
    x, y = clouds(getkey(), 6, 6, 3)
    cost = np.linalg.norm(np.asarray(x)[:, None] - np.asarray(y)[None], axis=-1) ** p
    best = min(
        np.mean(cost[np.arange(6), list(order)]) for order in itertools.permutations(range(6))
    )
    distance = wasserstein(x.reshape(6, 3, 1), y.reshape(6, 3, 1), p)
    assert distance.method == "assignment"
    assert float(distance) == pytest.approx(best ** (1 / p), rel=1e-10)
    line = wasserstein(x[:, :1], y[:, :1], p, method="assignment")
    assert float(line) == pytest.approx(float(wasserstein(x[:, 0], y[:, 0], p)), rel=1e-10)


def test_a_distance(x64, getkey):
    x, y = clouds(getkey(), 9, 9, 2)
    z = jax.random.normal(getkey(), (9, 2))
    shift = jnp.asarray([3.0, -4.0])
    assert float(wasserstein(x, x[::-1])) == 0
    assert float(wasserstein(x, x + shift)) == pytest.approx(5)
    assert float(wasserstein(x, y)) == pytest.approx(float(wasserstein(y, x)))
    assert float(wasserstein(x, z)) <= float(wasserstein(x, y)) + float(wasserstein(y, z)) + 1e-12
    assert float(wasserstein(x, y, 1)) <= float(wasserstein(x, y, 2)) <= float(wasserstein(x, y, 4))


@pytest.mark.parametrize("dim", [1, 2])
def test_potentials_prove_optimality(x64, getkey, dim):
    """A feasible dual of the same value: what makes the standard error of W2 one."""
    x, y = clouds(getkey(), 40, 40, dim)
    coupling = sorted_coupling(x, y) if dim == 1 else assignment(x, y, 2.0)
    cost = jnp.sum((x[:, None] - y[None]) ** 2, axis=-1)
    assert jnp.max(coupling.u[:, None] + coupling.v[None] - cost) < 1e-5
    matched = costs_of(x, y[coupling.partner], 2.0)
    np.testing.assert_allclose(coupling.u + coupling.v[coupling.partner], matched, atol=1e-5)
    assert sorted(np.asarray(coupling.partner)) == list(range(40))


@pytest.mark.parametrize(("dim", "p"), [(1, 2), (1, 1), (2, 2), (2, 1.5)])
def test_gradients(x64, getkey, dim, p):
    """Under jit, where the assignment calls back to the host."""
    x, y = clouds(getkey(), 5, 5, dim)
    flat = jnp.concatenate([x.ravel(), y.ravel()])

    @quick_jit
    @jax.value_and_grad
    def distance(v):
        return wasserstein(v[: 5 * dim].reshape(5, dim), v[5 * dim :].reshape(5, dim), p).value

    def values(batch):
        return jnp.stack([distance(v)[0] for v in batch])

    expected = finite_difference(values, flat, 1e-5)
    np.testing.assert_allclose(distance(flat)[1], expected, rtol=1e-5, atol=1e-8)


def test_gradient_at_zero_distance_is_zero():
    x = jnp.arange(6.0).reshape(3, 2)
    for p in (1, 2, 3):
        gradient = jax.grad(lambda y, p=p: wasserstein(x, y, p).value)(x)
        np.testing.assert_array_equal(gradient, 0.0)


def test_vmap():
    x, y = clouds(jax.random.key(0), 8, 8, 2)
    scales = jnp.asarray([1.0, 1.5])
    together = quick_jit(jax.vmap(lambda s: wasserstein(s * x, y).value))(scales)
    np.testing.assert_allclose(together[1], wasserstein(1.5 * x, y).value, rtol=1e-6)


@pytest.mark.slow
def test_sinkhorn_near_the_exact_cost():
    x, y = clouds(jax.random.key(0), 80, 80, 2)
    exact = wasserstein(x, y)
    regularised = wasserstein(x, y, max_exact=50)
    assert float(regularised.lower) < float(exact) < float(regularised.upper)
    assert "exact in [" in str(regularised)
    assert (exact.method, regularised.method) == ("assignment", "sinkhorn")
    assert float(regularised) == pytest.approx(float(exact), rel=0.01)


@pytest.mark.parametrize("p", [2, 3])
def test_quantised_encloses_the_exact_distance(p):
    x, y = clouds(jax.random.key(0), 300, 200, 2)
    exact, found = wasserstein(x, y, p), wasserstein(x, y, p, method="quantised", max_exact=64)
    assert float(found.lower) < float(exact) < float(found.upper)
    assert float(found) == pytest.approx(float(exact), rel=0.05)
    assert float(found.stderr) == pytest.approx(float(exact.stderr), rel=0.2)
    assert "(quantised, n = 300, 200; exact in [" in str(found)
    # As many cells as points: the exact plan.
    whole = wasserstein(x, y, p, method="quantised", max_exact=300)
    assert float(whole) == pytest.approx(float(exact), rel=1e-5)
    assert float(whole.upper - whole.lower) < 1e-5


def test_quantised_gradient_and_extreme_scales():
    """Under jit and vmap, far from the origin, and of a shift, of which the cells know all."""
    x = jax.random.normal(jax.random.key(0), (60, 2))

    def distance(shift):
        return wasserstein(x, x + shift, method="quantised", max_exact=8).value

    shift = jnp.asarray([3.0, -4.0])
    value, gradient = quick_jit(jax.vmap(jax.value_and_grad(distance)))(shift[None])
    np.testing.assert_allclose(value, [5.0], rtol=1e-6)
    np.testing.assert_allclose(gradient, shift[None] / 5, atol=1e-5)
    large = wasserstein(1e18 * x, 1e18 * (x + shift), method="quantised", max_exact=8)
    assert float(large.lower) < float(large) <= float(large.upper)
    assert float(large) == pytest.approx(5e18, rel=1e-5)


@pytest.mark.slow
def test_sinkhorn_of_a_shift():
    x = jax.random.normal(jax.random.key(0), (300, 2))
    shift = jnp.asarray([0.6, -0.8])
    assert float(sinkhorn_divergence(x, x)) == pytest.approx(0.0, abs=1e-4)
    assert float(sinkhorn_divergence(x, x + shift)) == pytest.approx(1.0, rel=0.01)
    assert float(sinkhorn_divergence(x[:100], x + shift)) > 0.8  # sizes may differ


@pytest.mark.slow
@pytest.mark.parametrize("p", [1, 2, 3])
def test_sinkhorn_orders_and_gradient(x64, p):
    x, y = clouds(jax.random.key(1), 60, 60, 2)
    exact, regularised = wasserstein(x, y, p), wasserstein(x, y, p, method="sinkhorn")
    assert float(regularised) == pytest.approx(float(exact), rel=0.05)

    def divergence(scale):
        return sinkhorn_divergence(scale * x, y, p=p, epsilon=0.1)

    slope = (divergence(1.001) - divergence(0.999)) / 0.002
    assert float(jax.grad(divergence)(1.0)) == pytest.approx(float(slope), rel=0.02)


def test_refusals():
    x, y = clouds(jax.random.key(0), 5, 6, 2)
    with pytest.raises(ValueError, match="`geometry` and `solver` must be None"):
        wasserstein(x, x, method="assignment", geometry={"scale_cost": 2.0})
    with pytest.raises(ValueError, match="`method` must be 'assignment' or 'sinkhorn'"):
        wasserstein(x, x, method="sorted")
    with pytest.raises(ValueError, match="`method` must be one of"):
        wasserstein(x, x, method="exact")
    for p in (0.5, float("inf"), True, float("nan")):
        with pytest.raises(ValueError, match="`p` must be a finite number"):
            wasserstein(x, x, p)
    with pytest.raises(ValueError, match="`y` must have samples of the same size"):
        wasserstein(x, jnp.ones((5, 3)))
    with pytest.raises(ValueError, match="`y` must be finite"):
        wasserstein(x, x.at[0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="`max_exact`"):
        wasserstein(x, x, max_exact=0)
    with pytest.raises(ValueError, match="`epsilon` must be positive"):
        sinkhorn_divergence(x, y, epsilon=-1.0)


@pytest.mark.slow
def test_sinkhorn_that_does_not_converge_raises():
    x, y = clouds(jax.random.key(0), 20, 20, 2)
    with pytest.raises(eqx.EquinoxRuntimeError, match="must converge"):
        sinkhorn_divergence(x, y, epsilon=1e-3, max_iterations=10)


def test_print():
    x, y = clouds(jax.random.key(0), 5, 6, 1)
    assert str(wasserstein(x, x + 1)) == "W2 = 1.00 ± 0.55 (sorted, n = 5)"
    assert str(wasserstein(x, y, 1)).endswith("(sorted, n = 5, 6)")
    assert "inf" in str(wasserstein(x[:1], y))  # one point does not know how it varies


def test_a_thousand_points_against_a_known_map(x64, getkey):
    """y = gradient of a convex function of x: by Brenier's theorem the pairs are optimal."""
    x = jax.random.normal(getkey(), (1000, 3))
    root = jax.random.normal(getkey(), (3, 3))
    y = x @ (root @ root.T) + jnp.tanh(2 * x) + jnp.asarray([1.0, -2.0, 0.5])
    exact = float(jnp.sqrt(jnp.mean(jnp.sum((x - y) ** 2, axis=1))))
    distance = wasserstein(x, jax.random.permutation(getkey(), y))
    assert distance.method == "assignment"
    assert float(distance) == pytest.approx(exact, rel=1e-10)
    assert float(distance.lower) == float(distance.upper) == float(distance)


def test_unequal_sizes_against_linear_programming(x64, getkey):
    n, m, p = 6, 9, 1
    x, y = clouds(getkey(), n, m, 2)
    cost = np.linalg.norm(np.asarray(x)[:, None] - np.asarray(y)[None], axis=-1) ** p
    marginals = np.concatenate([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    masses = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    best = scipy.optimize.linprog(cost.ravel(), A_eq=marginals, b_eq=masses).fun
    distance = wasserstein(x, y, p)
    assert (distance.method, distance.num_samples) == ("assignment", (6, 9))
    assert float(distance) == pytest.approx(best ** (1 / p), rel=1e-7)


@pytest.mark.parametrize(
    ("dim", "p", "sizes"),
    [
        pytest.param(*case, marks=[] if case == (2, 2, (80, 80)) else pytest.mark.slow)
        for case in [
            (1, 1, (100, 150)),
            (1, 2, (100, 150)),
            (2, 2, (80, 80)),
            (2, 1, (100, 100)),
            (2, 3, (40, 60)),
            (10, 2, (100, 100)),
        ]
    ],
)
def test_honest_errors(x64, dim, p, sizes):
    """Over new samples of two different populations."""

    def run(key):
        x, y = clouds(key, *sizes, dim)
        distance = wasserstein(1.5 * x, y + 0.5, p)
        return distance.value, distance.stderr

    values, errors = quick_jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 250))
    ratio = float(jnp.sqrt(jnp.mean(errors**2)) / jnp.std(values))
    assert 0.8 < ratio < 1.25


@pytest.mark.slow
def test_honest_error_of_sinkhorn(x64):
    def run(key):
        x, y = clouds(key, 60, 50, 2)
        distance = wasserstein(1.5 * x, y + 0.5, method="sinkhorn", epsilon=0.1)
        return distance.value, distance.stderr

    values, errors = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 250))
    assert 0.8 < float(jnp.sqrt(jnp.mean(errors**2)) / jnp.std(values)) < 1.25


@pytest.mark.slow
def test_regularised_distances_enclose_the_exact_one(x64):
    """Their plan and their potential do; the divergence itself need not lie in between."""
    x, y = clouds(jax.random.key(0), 70, 70, 2)
    exact = float(wasserstein(x, y))
    for epsilon in (None, 0.05):
        found = wasserstein(x, y, method="sinkhorn", epsilon=epsilon)
        assert float(found.lower) < exact < float(found.upper)
        assert float(found.upper - found.lower) < 0.1 * exact
    assert float(found.epsilon) == 0.05
    assert "exact in [" in str(found)


@pytest.mark.slow
def test_options_of_ott(x64):
    from ott.geometry import costs

    x, y = clouds(jax.random.key(0), 60, 40, 2)
    plain = wasserstein(x, y, max_exact=50, epsilon=0.1)
    assert plain.method == "sinkhorn"
    blocks = {"batch_size": 16, "epsilon": 0.1}
    assert float(wasserstein(x, y, geometry=blocks)) == pytest.approx(float(plain), rel=1e-6)
    # One scale for all three problems: the value does not depend on it but through epsilon.
    scale = float(jnp.max(jnp.sum((x[:, None] - y[None]) ** 2, axis=-1)))
    named = wasserstein(x, y, geometry={"scale_cost": "max_cost", "epsilon": 0.1 / scale})
    assert float(named) == pytest.approx(float(plain), rel=1e-4)
    assert float(named.epsilon) == pytest.approx(0.1)
    cost = {"cost_fn": costs.SqEuclidean(), "epsilon": 0.1}
    precise = wasserstein(x, y, geometry=cost, solver={"threshold": 1e-6})
    assert float(precise) == pytest.approx(float(plain), rel=1e-3)
    with pytest.raises(eqx.EquinoxRuntimeError, match="must converge"):
        wasserstein(x, y, epsilon=1e-3, solver={"max_iterations": 10})

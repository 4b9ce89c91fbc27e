"""Where samples lie and in what units they are given changes no distance but by its unit."""

import contextlib

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

import entropix as ex
from entropix.transport import displacement_interpolation
from entropix.transport.speed_limit import squared_lower_bound
from tests.helpers import as_shipped, double


def exact(x, y, p=2.0):
    """The optimal assignment in float64, of the points moved and rescaled."""
    x, y = (np.asarray(v, np.float64) for v in (x, y))
    scale = np.max(np.abs(x - x[0])) + np.max(np.abs(y - x[0])) or 1.0
    cost = cdist((x - x[0]) / scale, (y - x[0]) / scale)
    best = np.max(cost)
    rows, columns = linear_sum_assignment((cost / best) ** p)
    return scale * best * np.mean((cost / best)[rows, columns] ** p) ** (1 / p)


def clouds(seed, dtype, *, offset=0.0, scale=1.0, gap=0.5, spread=1.0, n=24, dim=3):
    """The second cloud lies `gap` from the first, `spread` wide, in units of `scale`."""
    one, other = np.random.default_rng(seed).normal(size=(2, n, dim))
    x, y = one + offset, spread * other + gap + offset
    return jnp.asarray(scale * x, dtype), jnp.asarray(scale * y, dtype)


DRAWN = {
    "seed": st.integers(0, 10**6),
    "offset": st.sampled_from([0.0, 300.0, 1e3, 3e4]),
    "exponent": st.integers(-60, 60),
    "gap": st.sampled_from([0.0, 0.5, 30.0, 1e3]),
    "spread": st.sampled_from([0.0, 0.1, 1.0]),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@hypothesis.given(**DRAWN)
def test_exact_methods(dtype, seed, offset, exponent, gap, spread):
    with double() if dtype == "float64" else contextlib.nullcontext():
        x, y = clouds(seed, dtype, offset=offset, gap=gap, spread=spread)
        tolerance = 1e-5 if dtype == "float32" else 1e-9
        scale = 2.0**exponent
        for method, a, b in (("assignment", x, y), ("sorted", x[:, :1], y[:, :1])):
            found, other = ex.wasserstein(a, b), ex.wasserstein(b, a)
            assert float(found) == pytest.approx(exact(a, b), rel=tolerance)
            assert float(other) == pytest.approx(float(found), rel=tolerance)
            assert 0 < float(found.stderr) < np.inf
            rescaled = ex.wasserstein(scale * a, scale * b)
            assert rescaled.method == method
            assert float(rescaled) == pytest.approx(scale * float(found), rel=tolerance)
            error = scale * float(found.stderr)
            assert float(rescaled.stderr) == pytest.approx(error, rel=1e-2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@hypothesis.given(**DRAWN, p=st.just(2.0))
def test_enclosure(dtype, seed, offset, exponent, gap, spread, p):
    """It holds the exact distance every time, and the value is near it."""
    check_enclosure(dtype, seed, offset, exponent, gap, spread, p)


def check_enclosure(dtype, seed, offset, exponent, gap, spread, p):
    with double() if dtype == "float64" else contextlib.nullcontext():
        x, y = clouds(seed, dtype, offset=offset, gap=gap, spread=spread)
        x, y = 2.0**exponent * x, 2.0**exponent * y
        found = ex.wasserstein(x, y, p, method="sinkhorn")
        best = exact(x, y, p)
        assert float(found.lower) <= best <= float(found.upper)
        assert float(found.upper - found.lower) < 0.05 * best
        assert float(found) == pytest.approx(best, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@hypothesis.settings(max_examples=60)
@hypothesis.given(**DRAWN)
def test_enclosure_of_every_order(dtype, p, seed, offset, exponent, gap, spread):
    """60 drawn pairs of samples for each order and precision."""
    check_enclosure(dtype, seed, offset, exponent, gap, spread, p)


def test_enclosure_of_an_unfinished_iteration():
    """It needs neither a converged plan nor a small regularisation."""
    for seed in range(20):
        x, y = clouds(seed, "float32")
        solver = {"threshold": 0.5 + seed / 100}
        found = ex.wasserstein(x, y, method="sinkhorn", epsilon=10.0 ** -(seed % 3), solver=solver)
        assert float(found.lower) <= exact(x, y) <= float(found.upper)


def test_a_common_offset():
    """Points at 1000, where single-precision squares have lost every digit of a distance."""
    x, y = clouds(0, "float32")
    far = [v + jnp.float32(1000) for v in (x, y)]
    plain, moved = ex.wasserstein(x, y, method="sinkhorn"), ex.wasserstein(*far, method="sinkhorn")
    assert float(moved) == pytest.approx(float(plain), rel=1e-4)
    assert float(moved.stderr) == pytest.approx(float(plain.stderr), rel=1e-3)
    assert float(moved.lower) <= exact(*far) <= float(moved.upper)
    divergence = ex.sinkhorn_divergence(*far)
    assert float(divergence) == pytest.approx(float(plain) ** 2, rel=2e-4)
    mapped = displacement_interpolation(*far, 1.0, method="sinkhorn")
    expected = displacement_interpolation(x, y, 1.0, method="sinkhorn")
    np.testing.assert_allclose(mapped - 1000, expected, atol=2e-3)


def test_sliced(x32):
    key = jax.random.key(0)
    for p in (1, 2):
        x, y = clouds(1, "float32")
        plain = ex.transport.sliced_wasserstein(x, y, p, key=key, num_projections=16)
        for scale, offset in ((1.0, 2048.0), (2.0**80, 0.0), (2.0**-80, 0.0)):
            moved = (scale * (v + jnp.float32(offset)) for v in (x, y))
            found = ex.transport.sliced_wasserstein(*moved, p, key=key, num_projections=16)
            for one, other in zip(found.__dict__.values(), plain.__dict__.values(), strict=True):
                if isinstance(one, jax.Array):
                    assert float(one) == pytest.approx(scale * float(other), rel=2e-3)


def test_static_bridge(x32):
    x, y = clouds(2, "float32")
    plain = ex.transport.static_bridge(x, y, epsilon=0.5)
    moved = ex.transport.static_bridge(x + 2048, y + 2048, epsilon=0.5)
    for name in ("value", "displacement", "information"):
        one, other = float(getattr(moved, name)), float(getattr(plain, name))
        assert one == pytest.approx(other, rel=2e-3)
    assert float(moved.value.stderr) == pytest.approx(float(plain.value.stderr), rel=2e-3)
    # A shift of one sample alone costs |shift|^2/2 + shift . (difference of means), and no more.
    far = ex.transport.static_bridge(x, y + 2048, epsilon=0.5)
    assert float(far.information) == pytest.approx(float(plain.information), rel=2e-3)
    shift = 2048 * np.ones(3)
    known = shift @ shift / 2 + shift @ np.asarray(jnp.mean(y - x, axis=0), np.float64)
    assert float(far.value) == pytest.approx(known + float(plain.value), rel=1e-6)
    one = ex.transport.static_bridge(x[:1], y[:1], epsilon=0.5)
    assert float(one.value) == pytest.approx(float(jnp.sum((x[0] - y[0]) ** 2)) / 2)
    assert np.isinf(one.value.stderr)
    for scale in (2.0**-55, 2.0**55):
        scaled = ex.transport.static_bridge(scale * x, scale * y, epsilon=0.5 * scale**2)
        assert float(scaled.information) == pytest.approx(float(plain.information), rel=1e-4)
        assert float(scaled.value) == pytest.approx(float(plain.value) * scale**2, rel=1e-4)
    with pytest.raises(ValueError, match="`x` must be of a scale"):
        ex.transport.static_bridge(3e19 * x, 3e19 * y, epsilon=3e38)


def test_minibatch_couplings(x32):
    x, z = clouds(3, "float32", n=16)
    for moved in ((x, z), (x + 2048, z + 2048), (x, z + 2048), (1e20 * x, 1e20 * z)):
        a, b = (np.asarray(v, np.float64) for v in moved)
        _, columns = linear_sum_assignment(cdist(a, b, "sqeuclidean"))
        coupled = ex.transport.MinibatchCoupling()(*moved, key=jax.random.key(0))
        np.testing.assert_array_equal(coupled, moved[1][columns])
    couple = ex.transport.MinibatchCoupling(epsilon=0.1)
    plain = couple(x, z, key=jax.random.key(0))
    far = couple(x + 2048, z + 2048, key=jax.random.key(0))
    assert np.mean(np.abs(far - 2048 - plain) < 1e-3) > 0.9  # the same draws but for rounding


def test_numbers_beyond_the_precision(x32):
    """NumPy's float64 is moved to the origin before it is rounded to float32."""
    x, y = (np.asarray(v, np.float64) for v in clouds(4, "float32"))
    for offset in (1e6, 1e9):
        for method in ("assignment", "sinkhorn"):
            found = ex.wasserstein(x + offset, y + offset, method=method)
            assert float(found) == pytest.approx(
                float(ex.wasserstein(x, y, method=method)), rel=1e-4
            )


@pytest.mark.slow(reason="a program for each order")
def test_large_orders_and_coordinates(x32):
    """Powers that no float32 holds: the distance is finite, and so is its error."""
    x, y = clouds(5, "float32")
    for a, b in ((x, y), (x[:, :1], y[:, :1])):
        for p, scale in ((2, 1e20), (2, 1e-30), (20, 100.0), (20, 1e-25), (3, 1e37)):
            found = ex.wasserstein(scale * a, scale * b, p)
            assert float(found) / scale == pytest.approx(exact(a, b, p), rel=1e-5)
            plain = ex.wasserstein(a, b, p)
            assert 0 < float(found.stderr) < np.inf
            assert float(found.stderr) / scale == pytest.approx(float(plain.stderr), rel=1e-2)
    for p in (2, 20):
        gradient = jax.grad(lambda v, p=p: ex.wasserstein(1e20 * v, 1e20 * y, p).value)(x)
        expected = jax.grad(lambda v, p=p: ex.wasserstein(v, y, p).value)(x)
        np.testing.assert_allclose(gradient / 1e20, expected, rtol=1e-3, atol=1e-6)


def test_what_cannot_be_represented_is_refused(x32):
    x, y = clouds(6, "float32")
    for refuse in (
        lambda: ex.wasserstein(3e38 * jnp.sign(x), -3e38 * jnp.sign(x[:, :1]) + 0 * y),
        lambda: ex.wasserstein(3e38 * jnp.ones((4, 1)), -3e38 * jnp.ones((4, 1))),
        lambda: ex.sinkhorn_divergence(1e30 * x, 1e30 * y),
        lambda: ex.sinkhorn_divergence(1e-30 * x, 1e-30 * y),
        lambda: ex.bures_wasserstein([3e38], [[1.0]], [-3e38], [[1.0]]),
    ):
        with as_shipped(), pytest.raises(ValueError, match=r"`(x|m1)` must be"):
            refuse()


@pytest.mark.parametrize(
    ("n", "m"), [(24, 24), *(pytest.param(1, m, marks=pytest.mark.slow) for m in (1, 24))]
)  # the others compile for shapes of their own
def test_points_that_coincide(x32, n, m):
    point = jnp.asarray([[1.0, 2.0, 3.0]])
    x, y = jnp.tile(point, (n, 1)), jnp.tile(point, (m, 1))
    for shift, distance in ((0, 0.0), (2, 12**0.5)):
        for method in ("assignment", "sinkhorn"):
            found = ex.wasserstein(x, y + shift, method=method)
            assert float(found) == pytest.approx(distance, rel=1e-6)
            assert float(found.lower) <= distance * (1 + 1e-6) <= float(found.upper) * (1 + 2e-6)
            assert not np.isnan(found.stderr)
        divergence = ex.sinkhorn_divergence(x, y + shift)
        assert float(divergence) == pytest.approx(distance**2, rel=1e-6)
        sliced = ex.transport.sliced_wasserstein(
            x, y + shift, key=jax.random.key(0), num_projections=16
        )
        assert float(sliced) == pytest.approx(distance / 3**0.5, rel=1e-5)


def test_gaussians(x32):
    one = {"m1": np.asarray([1.0, 2.0]), "C1": np.diag([1.0, 4.0])}
    two = {"m2": np.asarray([0.0, 0.0]), "C2": np.asarray([[2.0, 1.0], [1.0, 1.0]])}
    plain = float(ex.bures_wasserstein(**one, **two))
    for scale in (1e-18, 1e18):
        given = {k: v * (scale if k[0] == "m" else scale**2) for k, v in (one | two).items()}
        assert float(ex.bures_wasserstein(**given)) / scale == pytest.approx(plain, rel=1e-5)
    far = ex.bures_wasserstein([1e25], [[1.0]], [0.0], [[1.0]])
    assert float(far) == pytest.approx(1e25)


@pytest.mark.slow  # distances of many points
def test_lower_bound_of_wide_data(x32):
    """Noise that is small against the data: the difference of the deviations does not cancel."""
    x = 1e5 * jax.random.normal(jax.random.key(0), (50, 2))
    process = ex.VarianceExploding(0.01, 10.0)
    found = squared_lower_bound(process, x)[0]
    var = float(process.var(process.t1))
    widths = np.linalg.eigvalsh(np.cov(np.asarray(x, np.float64).T, bias=True))
    expected = np.sum((np.sqrt(widths + var) - np.sqrt(widths)) ** 2)
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("p", [1, 2, 3])
def test_gradient_in_the_frame(x64, p):
    """At an offset of 1000 and in large units, against finite differences and a common shift."""
    x, y = clouds(7, "float64", offset=1e3, scale=50.0, n=12, dim=2)
    solver = {"threshold": 1e-8, "max_iterations": 100_000}

    def divergence(x, y):
        return ex.sinkhorn_divergence(x, y, p=p, epsilon=0.5 * 50.0**p, solver=solver)

    of_x, of_y = jax.grad(divergence, (0, 1))(x, y)
    np.testing.assert_allclose(jnp.sum(of_x, 0), -jnp.sum(of_y, 0), rtol=1e-6)
    direction = jax.random.normal(jax.random.key(0), x.shape)
    slope = (divergence(x + 1e-3 * direction, y) - divergence(x - 1e-3 * direction, y)) / 2e-3
    assert float(jnp.sum(direction * of_x)) == pytest.approx(float(slope), rel=1e-5)
    options = {"method": "sinkhorn", "epsilon": 0.5 * 50.0**p, "solver": solver}
    value, root = jax.value_and_grad(lambda x: ex.wasserstein(x, y, p, **options).value)(x)
    np.testing.assert_allclose(root, of_x * value ** (1 - p) / p, rtol=1e-6)


COMPILES = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compilations():
    """Counts programs that are compiled."""
    counted = []

    def listen(event, duration, **_):
        if event == COMPILES:
            counted.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield counted
    jax.monitoring.unregister_event_duration_listener(listen)


def calls(seed):
    """What tests/test_recompilation.py leaves out; new data, keys and numbers for each seed."""
    x, y = clouds(seed, "float32", n=12)
    key, change = jax.random.key(seed), 1 + seed / 10
    sinkhorn = {"method": "sinkhorn", "epsilon": 0.3 * change}
    return {
        "unequal": lambda: ex.wasserstein(x[:9], y),
        "options": lambda: ex.sinkhorn_divergence(
            x, y, solver={"threshold": 1e-3 * change}, geometry={"scale_cost": change}
        ),
        "null": lambda: ex.transport.wasserstein_null(x, key=key, num_splits=2, **sinkhorn),
        "exact batch": lambda: ex.transport.MinibatchCoupling()(x, y, key=key),
        "entropic batch": lambda: ex.transport.MinibatchCoupling(epsilon=change)(x, y, key=key),
        "gradient": lambda: jax.grad(lambda v: ex.wasserstein(v, y).value)(x),
        "gradient of sinkhorn": lambda: jax.grad(
            lambda v: ex.sinkhorn_divergence(v, y, epsilon=0.3 * change)
        )(x),
    }


@pytest.mark.slow(reason="each compiles its own programs")
@pytest.mark.parametrize("name", list(calls(0)))
def test_a_second_call_compiles_nothing(x32, compilations, name):
    calls(0)[name]()
    second = calls(1)[name]
    compilations.clear()
    second()
    assert not compilations

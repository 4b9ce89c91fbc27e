"""Integrals by part, by sample and by interval: closed forms, exact sums, gradients, errors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.estimators import (
    CosineTransform,
    FourierTransform,
    HaarTransform,
    Partition,
    integrate_parts,
)
from tests.helpers import as_shipped, quick
from tests.mixtures import mixture


VARIANCES = np.array([0.5, 0.2, 2.0, 0.05], np.float32)
MEANS = np.array([0.3, 0.0, -1.0, 0.5], np.float32)
TRANSFORMS = (CosineTransform, FourierTransform, HaarTransform)


def process():
    return ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))


def gaussian(variances=VARIANCES, means=MEANS):
    return ex.ExactModel(ex.Gaussian(means, jnp.diag(jnp.asarray(variances))), process())


def divergence(mean, variance):
    return (variance + mean**2 - 1 - np.log(variance)) / 2


def per_coordinate_entropy(path, mean, variance):
    """S_tot of each coordinate."""
    scale, var = float(path.scale(path.t1)), float(path.var(path.t1))
    left = divergence(scale * mean, scale**2 * variance + var)
    return divergence(mean, variance) - left


@pytest.fixture(scope="module")
def data():
    return gaussian().distribution.sample(1000, key=jax.random.key(0))


@pytest.fixture(scope="module")
def curve(data):
    return ex.entropy_curve(
        gaussian(), data, key=jax.random.key(1), per_coordinate=True, num_times=5
    )


def test_coordinates_of_a_gaussian(curve):
    expected = per_coordinate_entropy(process(), MEANS, VARIANCES)
    assert np.all(np.abs(curve.value - expected) < 4 * curve.stderr)
    assert np.all(curve.mc_stderr < curve.stderr)
    assert np.all(curve.stderr < 0.06 * expected)


@pytest.mark.slow(reason="many evaluations")
def test_as_many_evaluations_as_are_wanted(data):
    """The square of their number is larger than an integer of 32 bits holds."""
    options = {"key": jax.random.key(1), "per_coordinate": True, "num_times": 5}
    curve = ex.entropy_curve(gaussian(), data, num_evaluations=131_072, **options)
    expected = per_coordinate_entropy(process(), MEANS, VARIANCES)
    assert np.all(np.abs(curve.value - expected) < 4 * curve.stderr)
    assert np.all(curve.mc_stderr > 0)


def test_sums_are_exact(curve):
    np.testing.assert_allclose(curve.value.sum(), curve.total.value, rtol=1e-6)
    np.testing.assert_allclose(curve.intervals.sum(0), curve.value, rtol=1e-5)
    assert curve.intervals.shape == (4, 4)
    assert curve.log_snr.shape == curve.times.shape == (5,)
    # Parts that are independent here: the variance of the sum is near the sum of variances.
    errors = float(jnp.sqrt(jnp.sum(curve.stderr**2)))
    assert 0.7 * errors < float(curve.total.stderr) < 1.4 * errors


def test_intervals_are_those_of_the_scalar_curve(curve, data):
    scalar = ex.entropy_curve(gaussian(), data, key=jax.random.key(2), times=curve.times)
    intervals, error = curve.intervals.sum(1), jnp.sqrt(jnp.sum(curve.intervals_stderr**2, 1))
    assert np.all(np.abs(jnp.diff(scalar.cumulative) - intervals) < 4 * error + 1e-6)
    assert abs(scalar.total.value - curve.total.value) < 4 * curve.total.mc_stderr


@pytest.mark.parametrize("transform", quick(TRANSFORMS[:1], TRANSFORMS))
def test_sums_are_invariant_under_transforms(transform, curve, data):
    """The same evaluations, whatever the basis: the sums agree to rounding."""
    turned = ex.entropy_curve(
        gaussian(), data, key=jax.random.key(1), per_coordinate=transform(bands=True), num_times=5
    )
    assert turned.value.shape == (3,)
    np.testing.assert_allclose(turned.total.value, curve.total.value, rtol=1e-5)
    np.testing.assert_allclose(turned.total.stderr, curve.total.stderr, rtol=1e-3)
    np.testing.assert_allclose(turned.intervals.sum(1), curve.intervals.sum(1), rtol=1e-4)


@pytest.mark.slow(reason="derivatives of quadratures")
def test_coefficients_in_the_eigenbasis(x64):
    """A rotated Gaussian has the entropies of its eigenvalues, in its own basis."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    distribution = ex.Gaussian(basis @ MEANS, basis @ np.diag(VARIANCES) @ basis.T)
    model = ex.ExactModel(distribution, process())
    data = distribution.sample(1000, key=jax.random.key(0))
    curve = ex.entropy_curve(
        model, data, key=jax.random.key(1), per_coordinate=lambda x: x @ basis, num_times=2
    )
    expected = per_coordinate_entropy(process(), MEANS, VARIANCES)
    assert np.all(np.abs(curve.value - expected) < 4 * curve.stderr)


@pytest.mark.slow(reason="one integral for each sample")
def test_samples(data):
    """Each sample's own integral, known for a Gaussian: the mean is the total."""
    few = data[:64]
    curve = ex.entropy_curve(
        gaussian(),
        few,
        key=jax.random.key(1),
        per_coordinate=True,
        per_sample=True,
        num_evaluations=16_384,
        num_times=3,
    )
    assert curve.value.shape == (64, 4)
    assert curve.intervals.shape == (2, 64, 4)
    np.testing.assert_allclose(curve.value.mean(0).sum(), curve.total.value, rtol=1e-5)
    np.testing.assert_allclose(curve.intervals.sum(0), curve.value, rtol=1e-4)
    expected = _own_entropy(np.asarray(few, float))
    z = (np.asarray(curve.value) - expected) / np.asarray(curve.stderr)
    assert 0.8 < np.sqrt(np.mean(z**2)) < 1.25
    assert abs(expected.mean(0).sum() - curve.total.value) < 4 * curve.total.mc_stderr


def _own_entropy(x):
    r"""$\int\frac{\Sigma^2}{2}E_z e_i^2(-d\lambda)$ of each sample and coordinate."""
    # VP: e = mu P^-1 [m - mu (1 - C) y] with P = mu^2 C + 1 - mu^2, down to mu = exp(-B/2).
    last = np.exp(-8.05)
    edges = np.linspace(-np.log(1 / last - 1), 40, 4001)
    log_snr = (edges[1:] + edges[:-1]) / 2
    square = (1 / (1 + np.exp(-log_snr)))[:, None, None]
    scale, var = np.sqrt(square), 1 - square
    total = square * VARIANCES + var
    mean = scale / total * (MEANS - scale * (1 - VARIANCES) * scale * x)
    spread = (scale / total * scale * (1 - VARIANCES)) ** 2 * var
    rate = var / 2 * (mean**2 + spread)
    return np.sum(rate * np.diff(edges)[:, None, None], axis=0)


@pytest.mark.slow(reason="two derivatives")
def test_gradients_are_those_of_each_part(data):
    """d value_i / d variance_j: the coordinates of a diagonal Gaussian do not mix."""

    options = {"key": jax.random.key(1), "num_evaluations": 512, "num_times": 2}
    proposal = ex.entropy_curve(gaussian(), data, per_coordinate=True, **options).proposal

    @jax.jit
    def values(variances):
        return ex.entropy_curve(
            gaussian(variances), data, per_coordinate=True, proposal=proposal, **options
        ).value

    jacobian = jax.jit(jax.jacfwd(values))(jnp.asarray(VARIANCES))
    off = jacobian - jnp.diag(jnp.diag(jacobian))
    assert np.all(np.abs(off) < 1e-3 * np.abs(jnp.diag(jacobian)))
    # Of S_NN: the model changes, the data and the places do not.
    step = 0.01 * VARIANCES
    expected = (values(VARIANCES + step) - values(VARIANCES - step)) / (2 * step)
    np.testing.assert_allclose(jnp.diag(jacobian), expected, rtol=0.01)
    reverse = jax.jit(jax.grad(lambda v: values(v)[1]))(jnp.asarray(VARIANCES))
    np.testing.assert_allclose(reverse, jacobian[1], rtol=1e-4, atol=1e-6)


def test_the_control_variate_leaves_less_to_chance(curve, data):
    """It is the entropy of a Gaussian itself, up to the moments of the samples."""
    options = {"key": jax.random.key(1), "num_times": 5}
    plain = integrate_parts(
        ex.entropy.EntropyProduction(gaussian(), Partition.of(True, data[0])), data, **options
    )
    assert np.all(curve.mc_stderr < 0.3 * plain.mc_stderr)
    assert curve.total.mc_stderr < 0.2 * plain.total.mc_stderr
    gap = np.abs(curve.value - plain.value)
    assert np.all(gap < 4 * np.hypot(curve.mc_stderr, plain.mc_stderr))


@pytest.mark.slow(reason="two hundred estimates")
@pytest.mark.parametrize("fresh", [False, True], ids=["given points", "population"])
def test_errors_are_honest(fresh):
    model = ex.ExactModel(mixture(2), process())
    points = model.distribution.sample(200, key=jax.random.key(7))

    @jax.jit
    @jax.vmap
    def repeated(key):
        drawn = model.distribution.sample(200, key=jax.random.fold_in(key, 1))
        curve = ex.entropy_curve(
            model,
            drawn if fresh else points,
            key=key,
            per_coordinate=True,
            num_evaluations=1024,
            num_times=4,
        )
        if fresh:
            return curve.value, curve.stderr, curve.intervals, curve.intervals_stderr
        return curve.value, curve.mc_stderr, curve.intervals, curve.intervals_mc_stderr

    value, error, part, part_error = repeated(jax.random.split(jax.random.key(0), 300))
    for found, stated in ((value, error), (part, part_error)):
        ratio = found.std(0) / jnp.sqrt(jnp.mean(stated**2, 0))
        assert np.all((ratio > 0.8) & (ratio < 1.25)), ratio


@pytest.mark.slow(reason="several programs")
def test_chunks_do_not_change_the_result(data):
    def curve(chunk_size, per_sample):
        return ex.entropy_curve(
            gaussian(),
            data[:20],
            key=jax.random.key(1),
            per_coordinate=True,
            per_sample=per_sample,
            num_evaluations=512,
            chunk_size=chunk_size,
            num_times=2,
        )

    for per_sample in (False, True):
        one, other = curve(4096, per_sample), curve(30, per_sample)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5)


class Broken(eqx.Module):
    def __call__(self, x):
        return 2 * x


def test_bad_input(data):
    def curve(**options):
        with as_shipped():
            return ex.entropy_curve(gaussian(), data, key=jax.random.key(1), **options)

    for transform, message in (
        (Broken(), "orthogonal"),
        (lambda x: x[:2], "as many coefficients"),
        (lambda x: x + 1, "linear"),
        (3, "must be True, False or"),
    ):
        with pytest.raises(ValueError, match=f"`per_coordinate` .*{message}"):
            curve(per_coordinate=transform)
    with pytest.raises(ValueError, match="`num_evaluations` must be at least 16 for each"):
        curve(per_sample=True, num_evaluations=1024)


@pytest.mark.parametrize("shape", quick([(8,), (7, 6)], [(1,), (5,), (4, 4, 3)]))
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_are_orthogonal(transform, shape, x64):
    x = jax.random.normal(jax.random.key(0), shape)
    y = jax.random.normal(jax.random.key(1), shape)
    for bands in (False, True):
        partition = Partition.of(transform(bands=bands), x)  # raises otherwise
        np.testing.assert_allclose(partition.inner(x, y).sum(), jnp.vdot(x, y), rtol=1e-10)
    constant = jax.tree.leaves(transform(bands=True)(jnp.ones(shape)))
    if transform is not HaarTransform or shape in ((1,), (8,)):  # it keeps odd entries as sums
        np.testing.assert_allclose(constant[0] ** 2, x.size, rtol=1e-10)


@pytest.mark.parametrize("axes", [(1, 2), (-3,), (0, -2), (0, 0), 0])
def test_axes_are_different_ones_of_an_example(axes):
    """Not of an array of samples, whose axes are one more: none is taken for another."""
    message = "`axes` must be None or a tuple of different axes"
    for transform in TRANSFORMS:
        with as_shipped(), pytest.raises(ValueError, match=message):
            transform(axes=axes)(jnp.ones((4, 4)))
    with pytest.raises(ValueError, match="`levels` must be an integer of at least 1"):
        HaarTransform(levels=-1)


@pytest.mark.slow(reason="a program for each transform")
def test_axes_and_levels(x64):
    x = jax.random.normal(jax.random.key(0), (8, 8, 3))
    bands = HaarTransform(axes=(0, 1), levels=2, bands=True)(x)
    assert [band.size for band in bands] == [12, 36, 144]
    for transform in TRANSFORMS:
        channels = transform(axes=(0, 1))(x)
        np.testing.assert_allclose(channels[..., 1], transform()(x[..., 1]), atol=1e-12)


@pytest.mark.slow(reason="a program of its own")
def test_parts_of_a_functional_of_ones_own(data):
    """Any functional whose rate returns an array."""

    class Squares(ex.interfaces.AbstractFunctional):
        process: ex.VariancePreserving  # pyright: ignore[reportIncompatibleMethodOverride]
        uses_noise = False
        control = None

        def rate(self, s, y, z, condition):
            return jnp.stack([y**2, jnp.ones_like(y)])

    curve = integrate_parts(
        Squares(process()), data, key=jax.random.key(0), num_evaluations=4096, cutoff=0.1
    )
    assert curve.value.shape == (2, 4)
    assert curve.total.cutoff is not None
    assert float(curve.total.cutoff) == pytest.approx(0.1)
    # int (sigma^2 / 2) ds = (B(t1) - B(cut-off)) / 2.
    expected = (8.05 * 2 / 2 + np.log(0.99)) / 2
    assert np.all(np.abs(curve.value[1] - expected) < 4 * curve.mc_stderr[1])


class Many(ex.interfaces.AbstractFunctional):
    """More parts than the data have coordinates."""

    process: ex.VariancePreserving  # pyright: ignore[reportIncompatibleMethodOverride]
    uses_noise = False
    control = None

    def rate(self, s, y, z, condition):
        return jnp.sum(y**2) * jnp.arange(2000.0)


@pytest.mark.slow(reason="four programs to compile")
@pytest.mark.parametrize("per_sample", [False, True])
def test_memory_does_not_grow_with_evaluations(data, per_sample):
    def memory(count):
        def value(key):
            return integrate_parts(
                Many(process()),
                data[:16],
                key=key,
                num_evaluations=count,
                per_sample=per_sample,
                chunk_size=64,
                cutoff=0.1,
            ).value

        compiled = jax.jit(value).lower(jax.random.key(0)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = memory(1024), memory(8192)
    one = 4 * 2000  # bytes of the parts of an evaluation
    assert many - few < 0.05 * (8192 - 1024) * one

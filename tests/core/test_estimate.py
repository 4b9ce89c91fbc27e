"""An estimate as text and as a pytree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix._core.formatting import format_with_error
from entropix.interfaces import SampleEstimates
from tests.helpers import as_shipped


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (259.884147, 0.1234, "259.88 ± 0.12"),
        (1.145549, 0.0996, "1.15 ± 0.10"),
        (1.145549, 0.00951, "1.1455 ± 0.0095"),
        (-0.0123456, 1.26e-5, "-0.012346 ± 0.000013"),
        (12345.6, 1.0, "12345.6 ± 1.0"),
        (12345.6, 21.7, "12346 ± 22"),
        (12345.6, 4321.0, "12346 ± 4321"),
        (1.5, 0.0, "1.5 ± 0"),
        (1.5, 3e-20, "1.5 ± 3e-20"),
        (1.5, float("nan"), "1.5 ± nan"),
        (1.5, float("inf"), "1.5 ± inf"),
        (float("inf"), 1.0, "inf ± 1"),
    ],
)
def test_two_digits_of_the_error(value, error, text):
    assert format_with_error(value, error) == text


def estimate(**options):
    numbers = {"value": 259.884147, "stderr": 0.1234, "mc_stderr": 0.05} | options
    return ex.Estimate(**{k: jnp.asarray(v, float) for k, v in numbers.items()}, num_evaluations=7)


def test_prints():
    assert str(estimate()) == "259.88 ± 0.12"
    assert repr(estimate()) == "Estimate(259.88 ± 0.12)"
    assert f"{estimate()}" == "259.88 ± 0.12"
    assert float(estimate()) == pytest.approx(259.884147)
    assert "noise std >= 0.01" in str(estimate(cutoff=0.01))
    assert "slope 2 per" in str(estimate(cutoff=0.01, slope=2.0))
    assert str(estimate(bias=-0.1)) == "259.88 ± 0.12"
    assert str(estimate(bias=-0.2)) == "259.88 ± 0.12 (bias -0.2)"
    assert str(estimate(cutoff=0.01, bias=0.2)) == "259.88 ± 0.12 (noise std >= 0.01, bias 0.2)"
    assert "±" in str(estimate(value=[1.0, 2.0], stderr=[0.1, 0.2]))
    texts = []

    def traced(e):
        texts.extend([str(e), repr(e)])
        return e

    back = jax.jit(traced)(estimate())
    assert len(texts) == 2
    assert str(back) == str(estimate())
    assert back.num_evaluations == 7
    assert back.cutoff is None


def test_format_and_html():
    assert f"{estimate():.3f}" == "259.884 ± 0.123"
    assert format(estimate(), ".1e") == "2.6e+02 ± 1.2e-01"
    batch = estimate(value=[1.0, 2.0], stderr=[0.1, 0.2], mc_stderr=[0.1, 0.2])
    assert f"{batch:.2f}" == "[1.00 2.00] ± [0.10 0.20]"
    assert "259.88 ± 0.12" in estimate()._repr_html_()
    assert "&gt;= 0.01" in estimate(cutoff=0.01)._repr_html_()
    assert "[1. 2.]" in batch._repr_html_()


def test_numbers_shift_and_scale():
    given = estimate(value=5.0, stderr=0.3, slope=2.0, bias=-1.0, cutoff=0.1, largest_noise=50.0)
    for other in (
        given * -2,
        -2 * given,
        given / -0.5,
        jnp.asarray(-2.0) * given,
        np.float64(-2.0) * given,
        jax.jit(lambda e: -2 * e)(given),
    ):
        found = [other.value, other.stderr, other.mc_stderr, other.slope, other.bias, other.cutoff]
        np.testing.assert_allclose(found, [-10.0, 0.6, 0.1, -4.0, 2.0, 0.1], rtol=1e-6)
        assert other.num_evaluations == 7
        assert other.largest_noise == 50.0
    assert float(given - np.uint8(3)) == float((given - np.array(3, np.uint32)).value) == 2.0
    for other in (given + 1, 1 + given, given - (-1), -(-1 - given)):
        found = [other.value, other.stderr, other.slope, other.bias]
        np.testing.assert_allclose(found, [6.0, 0.3, 2.0, -1.0], rtol=1e-6)
    three = given + np.arange(3.0)
    assert three.value.shape == three.stderr.shape == three.cutoff.shape == (3,)
    batch = jax.vmap(lambda e, c: c * e - c)(three, jnp.arange(3.0))
    np.testing.assert_allclose(batch.value, [0.0, 5.0, 12.0], rtol=1e-6)
    np.testing.assert_allclose(batch.stderr, [0.0, 0.3, 0.6], rtol=1e-6)
    for wrong in (True, None, np.array([True])):
        with as_shipped(), pytest.raises(TypeError, match="operand"):
            given * wrong


def test_two_estimates():
    a, b = estimate(value=5.0, stderr=0.3), estimate(value=3.0, stderr=0.4, bias=0.1)
    difference = a.minus(b, independent=True)
    assert str(difference) == "2.00 ± 0.50"
    assert difference.num_evaluations == 14
    assert float(difference.bias) == pytest.approx(-0.1)
    assert str(a.plus(b, independent=False)) == "8.00 ± 0.70"
    batch = jax.vmap(lambda c: (c * a).minus(b, independent=True))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(batch.stderr, [0.5, np.hypot(0.6, 0.4)], rtol=1e-6)
    for mistake, message in (
        (lambda: a - b, r"`a - b` of two estimates must say .* `a.minus\(b, independent=True"),
        (lambda: a + b, r"`a \+ b` of two estimates must say .* `a.plus\(b, independent=True"),
        (lambda: a * b, "must have a number as `b`, got two estimates"),
        (lambda: a / b, "must have a number as `b`, got two estimates"),
        (lambda: a.minus(1.0, independent=True), "`other` must be an Estimate, got float"),
    ):
        with as_shipped(), pytest.raises(ValueError, match=message):
            mistake()
    cut = estimate(cutoff=0.1)
    assert float(cut.minus(cut, independent=False).cutoff) == pytest.approx(0.1)
    assert float(cut.minus(a, independent=True).cutoff) == pytest.approx(0.1)
    known = [
        estimate(largest_noise=50.0).plus(e, independent=True)
        for e in (a, estimate(largest_noise=10.0))
    ]
    assert [float(e.largest_noise) for e in known] == [50.0, 10.0]
    with pytest.raises(ValueError, match="`cutoff` must be the same in both"):
        cut.minus(estimate(cutoff=0.2), independent=True)


def test_standard_errors_from_a_value():
    assert float(estimate(value=5.0, stderr=0.5).sigmas_from(4.0)) == 2.0
    batch = estimate(value=[1.0, 2.0, 3.0], stderr=[0.0, 0.0, 0.5], mc_stderr=[0.0, 0.0, 0.0])
    assert batch.sigmas_from(2.0).tolist() == [-jnp.inf, 0.0, 2.0]
    gradient = jax.grad(lambda t: jnp.sum(estimate(value=5.0, stderr=0.5).sigmas_from(t)))(4.0)
    assert float(gradient) == -2.0
    message = "`truth` must be a number, got an Estimate: use"
    with as_shipped(), pytest.raises(ValueError, match=message):
        batch.sigmas_from(batch)


def test_errors_of_differences_are_honest():
    """Scatter against stated errors: of separate samples, of shared ones, and in pairs."""
    count = 50

    def run(key):
        x, y, of_x, of_y = jax.random.normal(key, (4, count))
        one = SampleEstimates(x + 0.3 * of_x, jnp.full(count, 0.3), 1)
        other = SampleEstimates(1.2 * x + 0.3 * of_y, jnp.full(count, 0.3), 1)
        apart = SampleEstimates(1.2 * y + 0.3 * of_y, jnp.full(count, 0.3), 1)
        return (
            one.mean.minus(apart.mean, independent=True),
            one.mean.minus(other.mean, independent=False),
            one.minus(other, independent=True).mean,
        )

    found = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 1000))
    for result, low, high in zip(found, (0.9, 0.0, 0.9), (1.1, 1.0, 1.1), strict=True):
        scatter = float(jnp.std(result.value) / jnp.mean(result.stderr))
        assert low < scatter < high
    # In pairs the samples cancel: the error is an eighth of that of separate samples.
    assert float(jnp.mean(found[2].stderr)) < 0.35 * float(jnp.mean(found[0].stderr))
    three, two = (SampleEstimates(jnp.ones(n), jnp.ones(n), 1) for n in (3, 2))
    with pytest.raises(ValueError, match="`other` must have values of the same samples"):
        three.minus(two, independent=True)

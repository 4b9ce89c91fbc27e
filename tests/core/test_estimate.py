"""An estimate as text and as a pytree."""

import jax
import jax.numpy as jnp
import pytest

import entropix as ex
from entropix._core.formatting import format_with_error


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

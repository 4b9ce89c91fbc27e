"""`EntropyCurve`: rates per unit of another coordinate, and what is refused as one."""

import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.estimators import EntropyCurve, Proposal


TIMES = np.array([0.0, 0.25, 0.5, 1.0], np.float32)


def curve(times=TIMES):
    """One whose rate per unit of time is 2, with an error of a tenth."""
    zeros = jnp.zeros_like(jnp.asarray(times))
    total = ex.Estimate(*(jnp.asarray(number) for number in (2.0, 0.1, 0.1)))
    of_rate = 2 + zeros, 0.1 + zeros
    spread = Proposal(jnp.full(64, 1 / 64), jnp.zeros(64))
    log_snr = jnp.log(1 - jnp.asarray(times)) - jnp.log(jnp.asarray(times))
    cumulative = 2 * jnp.asarray(times)
    return EntropyCurve(
        jnp.asarray(times), log_snr, *of_rate, cumulative, zeros, zeros, total, spread
    )


def test_rates_are_per_unit_of_a_coordinate():
    rate, error = curve().rates_along(4 * TIMES)
    np.testing.assert_allclose(rate, 0.5)
    np.testing.assert_allclose(error, 0.1 / 4)
    assert np.isfinite(curve().rates_along(-curve().log_snr)[0]).all()


def test_a_coordinate_that_decreases_is_refused():
    """Rates along it would be zero."""
    with pytest.raises(ValueError, match="`coordinate` must increase along the curve"):
        curve().rates_along(curve().log_snr)


@pytest.mark.parametrize("batched", [False, True])
def test_a_coordinate_belongs_to_one_curve(batched):
    times = np.stack([TIMES] * 3) if batched else TIMES
    with pytest.raises(ValueError, match=r"`coordinate` must have the shape \(K,\) of the times"):
        curve(times).rates_along(times if batched else TIMES[1:])

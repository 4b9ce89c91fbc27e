"""What no process can be made of: a ValueError that names the argument, traced or not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import Bell, Ramp, as_shipped, cosine_scale, sine_std


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: ex.LinearSchedule(-0.1, 16.0), "beta_min"),
        (lambda: ex.LinearSchedule(0.0, 16.0), "beta_min"),
        (lambda: ex.LinearSchedule(NAN, 16.0), "beta_min"),
        (lambda: ex.LinearSchedule(2.0, 1.0), "beta_max"),
        (lambda: ex.LinearSchedule(2.0, INF), "beta_max"),
        (lambda: ex.LinearSchedule(2.0, NAN), "beta_max"),
        (lambda: ex.LinearSchedule([1.0, 2.0], 3.0), "beta_min"),
        (lambda: ex.VariancePreserving(ex.LinearSchedule(), kappa=0.0), "kappa"),
        (lambda: ex.VariancePreserving(ex.LinearSchedule(), kappa=-1.0), "kappa"),
        (lambda: ex.VariancePreserving(ex.LinearSchedule(), kappa=NAN), "kappa"),
        (lambda: ex.VariancePreserving(ex.LinearSchedule(), kappa=np.ones(2)), "kappa"),
        (lambda: ex.VariancePreserving(ex.LinearSchedule(), kappa="one"), "kappa"),
        (lambda: ex.VariancePreserving(ex.LinearSchedule(), kappa=None), "kappa"),
        (lambda: ex.VariancePreserving(0.1), "schedule"),
        (lambda: ex.SubVariancePreserving(lambda s: s), "schedule"),
        (lambda: ex.SubVariancePreserving(ex.LinearSchedule), "schedule"),
        (lambda: ex.StraightLine(-0.1), "sigma0"),
        (lambda: ex.StraightLine(INF), "sigma0"),
        (lambda: ex.StraightLine([0.1]), "sigma0"),
        (lambda: ex.VarianceExploding(-1.0, 5.0), "sigma_min"),
        (lambda: ex.VarianceExploding(0.0, 5.0), "sigma_min"),
        (lambda: ex.VarianceExploding(5.0, 5.0), "sigma_max"),
        (lambda: ex.VarianceExploding(5.0, 1.0), "sigma_max"),
        (lambda: ex.VarianceExploding(5.0, NAN), "sigma_max"),
        (lambda: ex.GaussianPath(1.0, sine_std), "scale_fn"),
        (lambda: ex.GaussianPath(cosine_scale, None), "std_fn"),
        (lambda: ex.GaussianPath(lambda s: 1 + s, sine_std), "scale_fn"),
        (lambda: ex.GaussianPath(lambda s: 0.5 * cosine_scale(s), sine_std), "scale_fn"),
        (lambda: ex.GaussianPath(lambda s: jnp.cos(jnp.pi * s), sine_std), "scale_fn"),
        (lambda: ex.GaussianPath(lambda s: jnp.log(s - 0.5), sine_std), "scale_fn"),
        (lambda: ex.GaussianPath(lambda s: np.ones(3), sine_std), "scale_fn"),
        (lambda: ex.GaussianPath(cosine_scale, lambda s: -s), "std_fn"),
        (lambda: ex.GaussianPath(cosine_scale, lambda s: s / (s - 0.5)), "std_fn"),
        (lambda: ex.GaussianPath(cosine_scale, lambda s: float(s)), "std_fn"),
        (lambda: ex.GaussianPath(lambda s: 1 - s / 2, lambda s: 0.3 * (1 - s)), "ratio"),
        (lambda: ex.GaussianPath(lambda s: 1.0, lambda s: 0.3), "ratio"),
        (lambda: ex.GaussianPath(lambda s: 1 - s / 2, lambda s: s * (1.2 - s)), "ratio"),
    ],
)
def test_static_mistakes(make, name):
    with as_shipped(), pytest.raises(ValueError, match=name):
        make()


@pytest.mark.parametrize(
    ("make", "good", "bad", "name"),
    [
        (lambda k: ex.VariancePreserving(ex.LinearSchedule(), k), 1.0, -1.0, "kappa"),
        (lambda b: ex.VariancePreserving(ex.LinearSchedule(b, 2.0)), 1.0, 3.0, "beta_max"),
        (lambda b: ex.VariancePreserving(ex.LinearSchedule(1.0, b)), 2.0, 0.5, "beta_max"),
        (lambda b: ex.VariancePreserving(ex.LinearSchedule(1.0, b)), 2.0, NAN, "beta_max"),
        (lambda k: ex.StraightLine(k), 0.1, 0.0, "sigma0"),
        (lambda k: ex.VarianceExploding(k, 2.0), 0.1, 3.0, "sigma_max"),
        (lambda k: ex.VarianceExploding(0.1, k), 0.2, 0.1, "sigma_max"),
        (lambda k: ex.GaussianPath(Bell(k), Ramp(jnp.ones(()))), 1.0, -1.0, "scale_fn"),
        (lambda k: ex.GaussianPath(Bell(jnp.ones(())), Ramp(k)), 1.0, -1.0, "std_fn"),
        (lambda k: ex.GaussianPath(Bell(jnp.ones(())), Ramp(k)), 1.0, NAN, "std_fn"),
    ],
)
def test_mistakes_known_only_under_jit(make, good, bad, name):
    @eqx.filter_jit
    def log_snr(value):
        process = make(value)
        return process.log_snr((process.t0 + process.t1) / 2)

    assert jnp.isfinite(log_snr(jnp.asarray(good)))
    with pytest.raises(RuntimeError, match=name):
        jax.block_until_ready(log_snr(jnp.asarray(bad)))

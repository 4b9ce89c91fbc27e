"""The estimator on interfaces alone: another process, and a functional with its own control."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

import entropix as ex
from entropix.estimators import all_exact
from tests.helpers import as_shipped
from tests.models.conditional import AbstractConditional


SPREAD = np.array([0.5, 2.0], np.float32)  # noise of either coordinate


class Anisotropic(ex.interfaces.AbstractKernelProcess):
    r"""$Y_s = x/(1 + s) + \sqrt{s}\,L\,z$, z uniform on $[-\sqrt 3, \sqrt 3]$ and s on [0, 1].

    A kernel that is neither isotropic nor Gaussian. Its measure is that of $\sigma^2 = 1$.
    """

    t0: Float[Array, ""]
    t1: Float[Array, ""]
    ends_in_noise = False

    def __init__(self):
        self.t0, self.t1 = jnp.zeros(()), jnp.ones(())

    def drift(self, s, y):
        raise NotImplementedError

    def sigma_squared(self, s):
        return jnp.ones_like(s)

    def equilibrium_score(self, s, y):
        raise NotImplementedError

    def draw_noise(self, x, *, key):
        return {"z": jax.random.uniform(key, x.shape, x.dtype, -(3**0.5), 3**0.5)}

    def reflect_noise(self, z):
        return {"z": -z["z"]}

    def perturb(self, s, x, z):
        return x / (1 + s) + jnp.sqrt(s) * SPREAD * z["z"]

    def log_snr(self, s):
        return -jnp.log(s)

    def time_of_log_snr(self, value):
        return jnp.clip(jnp.exp(-value), 0.0, 1.0)

    def measure(self, s):
        return s / 2  # ds / 2 per unit of -d lambda = ds / s


class Product(ex.interfaces.AbstractFunctional):
    """The square of a coordinate, the noise times the state, and the condition."""

    process: Anisotropic
    uses_noise = True
    control = None

    def rate(self, s, y, z, condition):
        return y[0] ** 2 + y[1] * z["z"][1] + condition


def test_any_process_with_a_kernel():
    r"""$\frac12\int[E x^2/(1+s)^2 + s/4 + 2\sqrt s + 1]ds$, by hand."""
    x = jax.random.normal(jax.random.key(0), (400, 2))
    curve = ex.estimators.integrate(
        Product(Anisotropic()),
        x,
        key=jax.random.key(1),
        condition=jnp.ones(400),
        num_evaluations=16_384,
    )
    truth = (jnp.mean(x[:, 0] ** 2) / 2 + 1 / 8 + 4 / 3 + 1) / 2
    assert abs(float(curve.total.value - truth)) < 4 * float(curve.total.mc_stderr)
    assert float(curve.total.mc_stderr) < 0.02
    with as_shipped(), pytest.raises(ValueError, match="`cutoff` must be None where"):
        ex.estimators.integrate(Product(Anisotropic()), x, key=jax.random.key(1), cutoff=0.1)


class Pull(ex.interfaces.AbstractControlVariate):
    r"""$\|\mu\,w\,(y - \mu m)\|^2$ with a number $w$ of its own."""

    weight: Float[Array, ""]

    def coefficients(self, process, s, mean, variance):
        gain = self.weight * process.scale(s) * jnp.ones_like(mean)
        return jnp.zeros_like(mean), gain, jnp.zeros_like(mean)


class Quartic(ex.interfaces.AbstractFunctional):
    r"""$\mu^2\|y - \mu m\|^2$ and a little more, with and without a control variate."""

    process: ex.VariancePreserving
    centre: Float[Array, "2"]
    uses_noise = False
    control = Pull(jnp.ones(()))

    def rate(self, s, y, z, condition):
        scale = self.process.scale(s)
        away = y - scale * self.centre
        return scale**2 * (jnp.sum(away**2) + 0.01 * jnp.sin(away[0]))


@pytest.mark.parametrize("control_variate", [True, False])
def test_a_control_variate_of_ones_own(control_variate):
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    x = jax.random.normal(jax.random.key(0), (400, 2)) * jnp.array([1.0, 0.3]) + 1.0
    estimate = ex.estimators.integrate(
        Quartic(process, jnp.mean(x, axis=0)),
        x,
        key=jax.random.key(1),
        num_evaluations=4096,
        control_variate=control_variate,
    ).total
    # (sigma^2/2) mu^2 ds = -d(mu^2)/2, over which E|y - mu m|^2 is linear; the sine is odd.
    kept = float(process.scale(process.t1)) ** 2
    spread = float(jnp.sum(jnp.var(x, axis=0)))
    truth = (spread - 2) * (1 - kept**2) / 4 + 2 * (1 - kept) / 2
    assert abs(float(estimate.value) - truth) < 4 * float(estimate.mc_stderr) + 1e-3
    assert (float(estimate.mc_stderr) < 1e-3) == control_variate


def test_interfaces_are_abstract():
    for name in ("AbstractFunctional", "AbstractControlVariate", "AbstractKernelProcess"):
        with pytest.raises(TypeError, match="abstract"):
            getattr(ex.interfaces, name)()
    assert issubclass(ex.interfaces.AbstractGaussianProcess, ex.interfaces.AbstractKernelProcess)
    assert not jax.tree.leaves(eqx.filter(ex.estimators.EntropyControl(), eqx.is_array))


class OwnModel(AbstractConditional):
    """A model of a known Gaussian that says for which noise it is defined, if so asked."""

    process: ex.VariancePreserving
    log_snr_range: tuple[float, float]
    shape = (2,)
    divergence = None
    is_exact = True

    def inner(self, condition):
        return ex.ExactModel(ex.Gaussian(jnp.zeros(2), jnp.diag(SPREAD)), self.process)

    @property
    def prior(self):
        return self.inner(None).prior

    def with_process(self, process):
        return OwnModel(process, self.log_snr_range)


def test_a_model_says_whether_it_is_exact(getkey):
    process = ex.VariancePreserving(ex.LinearSchedule())
    own = OwnModel(process, (-jnp.inf, 1.0))
    network = ex.EntropyMatching(ex.FourierMLP(2, widths=(8,), key=getkey()), process)
    tokens = ex.models.ExactDiscrete(jnp.zeros((2, 2)), ex.Masking(2, ex.LinearSchedule()))
    block = ex.models.TokenBlock(tokens, [0])
    assert all(map(all_exact, (own, own.inner(None), tokens, block, (own, block), 1.0)))
    assert not any(map(all_exact, (network, (own, network), ex.models.Guided(own, 1.0))))


def test_a_model_says_for_which_noise_it_is_defined():
    own = OwnModel(ex.VariancePreserving(ex.LinearSchedule()), (-jnp.inf, 1.0))
    data = own.inner(None).distribution.sample(512, key=jax.random.key(0))
    found = ex.neural_entropy(own, data, key=jax.random.key(1), num_evaluations=4096)
    noise = float(own.process.std(own.process.time_of_log_snr(1.0)))
    assert float(found.cutoff) == pytest.approx(noise, rel=1e-5)
    usual = ex.neural_entropy(
        own.inner(None), data, key=jax.random.key(1), num_evaluations=4096, cutoff=noise
    )
    assert float(found.value) == pytest.approx(float(usual.value), rel=1e-4)

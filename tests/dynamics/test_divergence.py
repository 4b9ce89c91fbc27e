"""Divergences of models whose networks offer theirs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.dynamics import Divergence
from entropix.models import EDMPrediction, GaussianPart, Guided, Tempered, isotropic
from tests.helpers import quick_jit


class Opaque(eqx.Module):
    """A network that does not offer its divergence."""

    network: ex.FourierMLP
    dim: int = eqx.field(static=True)

    def __call__(self, log_snr, y, condition=None):
        return self.network(log_snr, y, condition)


def perceptron(dim=3, seed=0):
    network = eqx.filter_jit(ex.FourierMLP)(
        dim, key=jax.random.key(seed), widths=(8, 6), num_features=4
    )
    weight = jax.random.normal(jax.random.key(seed + 1), network.head.weight.shape) / 3
    return eqx.tree_at(lambda n: n.head.weight, network, weight)


def vp():
    return ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))


def models():
    network, process = perceptron(), vp()
    data = jax.random.normal(jax.random.key(7), (20, 3)) * jnp.asarray([2.0, 1.0, 0.3])
    scaling = ex.GaussianScaling.from_data(data, process)
    entropy = ex.EntropyMatching(network, process, scaling, gaussian=GaussianPart.from_data(data))
    edm = EDMPrediction(perceptron(seed=2), process, 0.7)
    return {
        "entropy": entropy,
        "score": ex.ScoreMatching(network, process),
        "noise": ex.NoisePrediction(network, process),
        "velocity": ex.VelocityPrediction(network, process),
        "edm": edm,
        "moved": entropy.with_process(ex.CosinePath()),
        "moved-edm": edm.with_process(ex.RectifiedFlow()),
        "guided": Guided(entropy, 1.5, edm),
        "tempered": Tempered(entropy, 0.7),
    }


# The others follow from one of these by adding a multiple of the state.
FIELDS = {"entropy": ("entropy_field", "velocity"), "moved": ("score", "velocity")}


@pytest.mark.slow(reason="both divergences of every model")
def test_every_model(x64):
    """At both sides of a log-SNR of zero, where some fields change their form."""
    y = jnp.asarray([0.3, -1.0, 2.0])

    @quick_jit
    def both(models):
        def of(model, s, name):
            def field(model, y):
                return getattr(model, name)(s, y)

            value, trace = Divergence.along(field, model, y)
            jacobian = jax.jacfwd(lambda y: field(model, y))(y)
            return value, trace[0], field(model, y), jnp.trace(jacobian)

        return {
            (kind, name): jax.vmap(lambda s, m=m, name=name: of(m, s, name))(
                jnp.asarray([0.1, 0.8])
            )
            for kind, m in models.items()
            for name in FIELDS.get(kind, ("velocity",))
        }

    for (kind, name), (value, trace, field, expected) in both(models()).items():
        np.testing.assert_allclose(value, field, rtol=1e-12, err_msg=f"{kind} {name}")
        np.testing.assert_allclose(trace, expected, rtol=1e-9, err_msg=f"{kind} {name}")


def test_others_are_summed_over_the_axes():
    network = perceptron()
    known = ex.EntropyMatching(network, vp())
    assert isotropic(known) is not None
    opaque = ex.EntropyMatching(Opaque(network, 3), vp())
    langevin = ex.EntropyMatching(network, ex.Langevin(ex.processes.DoubleWell(), 0.5))
    exact = ex.ExactModel(ex.Gaussian(np.zeros(3), np.eye(3)), vp())
    for model in (opaque, langevin, exact, Tempered(opaque, 0.5, 1.0), Guided(known, 1.0, opaque)):
        assert isotropic(model) is None
    many = Divergence()
    assert many.num_held(known, 100) < many.num_held(opaque, 100) == 100


@pytest.mark.slow(reason="compiles three solves with their derivatives, twice")
def test_log_densities_and_samples(x64):
    """The same values and gradients as by products with the Jacobian."""
    network = perceptron(2)
    x = jnp.asarray([[0.3, -1.0], [1.0, 0.2]])
    options = {"key": jax.random.key(0), "num_samples": 2, "num_steps": 4}

    @eqx.filter_jit
    def values(network, x):
        def density(x):
            model = ex.EntropyMatching(network, vp())
            method = ex.ProbabilityFlow(rtol=1e-3, atol=1e-3)
            return jnp.sum(ex.log_prob(model, x, method=method).value)

        model = ex.EntropyMatching(network, vp())
        _, sampled = ex.sample(model, method="ode", log_prob=True, **options)
        paths = {"num_paths": 2, "num_steps": 4}
        weights = ex.entropy.path_log_ratio(model, x, key=jax.random.key(0), **paths)
        return *jax.value_and_grad(density)(x), sampled.value, weights

    for one, two in zip(values(network, x), values(Opaque(network, 2), x), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-7)

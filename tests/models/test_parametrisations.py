"""One exact field in every parametrisation: score, entropy field and velocity are the same."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.networks import trainable
from tests.helpers import (
    COLLAPSING,
    FEW,
    PROCESSES,
    STATIC,
    all_finite,
    as_shipped,
    inner_times,
    quick,
    quick_jit,
    small_mixture,
)


class ExactNetwork(eqx.Module):
    """`network(log_snr, y)` that returns a field of an exact model at the time of that log-SNR."""

    model: ex.ExactModel
    kind: str = eqx.field(static=True)
    scaling: ex.GaussianScaling | None = None

    @property
    def dim(self):
        return self.model.distribution.dim

    def __call__(self, log_snr, y, condition=None):
        process = self.model.process
        s = process.time_of_log_snr(log_snr)
        if self.kind == "noise":
            return -process.std(s) * self.model.score(s, y)
        if self.scaling is not None:
            y = y * self.scaling.input_std(process, s)
            return self.model.entropy_field(s, y) / self.scaling(process, s)
        return getattr(self.model, self.kind)(s, y)


MODELS = {
    "entropy_field": ex.EntropyMatching,
    "score": ex.ScoreMatching,
    "noise": ex.NoisePrediction,
    "velocity": ex.VelocityPrediction,
}


def exact_models(process):
    """The exact model, and all parametrisations of it."""
    exact = ex.ExactModel(small_mixture(), process)
    models = {kind: make(ExactNetwork(exact, kind), process) for kind, make in MODELS.items()}
    data = jnp.asarray([[0.3, 1.0], [-0.5, 0.2], [1.4, -0.3]], float)
    scaling = ex.GaussianScaling.from_data(data, process)
    network = ExactNetwork(exact, "entropy_field", scaling)
    models["scaled"] = ex.EntropyMatching(network, process, scaling)
    return exact, models


@pytest.mark.parametrize("name", quick(FEW, ["sl", "cosine", "subvp"]))
def test_same_field_in_every_parametrisation(name, x64, getkey):
    process = PROCESSES[name]()
    exact, models = exact_models(process)

    @quick_jit
    def fields(models, s, z):
        def at(model, s, z):
            y = process.perturb(s, z[:2], z[2:])
            return model.score(s, y), model.entropy_field(s, y), model.velocity(s, y)

        return [jax.vmap(lambda s, z, m=m: at(m, s, z))(s, z) for m in models]

    s = inner_times(process, 6)
    z = jax.random.normal(getkey(), (6, 4))
    expected, *others = fields([exact, *models.values()], s, z)
    for kind, got in zip(models, others, strict=True):
        for one, other in zip(got, expected, strict=True):
            size = float(jnp.max(jnp.abs(other)))
            np.testing.assert_allclose(
                one, other, rtol=1e-9, atol=1e-11 * size, err_msg=f"{kind}, of {name}"
            )


# ---------------------------------------------------------------------------- networks


class Dropout(eqx.Module):
    """A network that needs a key."""

    dim: int = eqx.field(static=True)
    dropout: eqx.nn.Dropout

    def __call__(self, log_snr, y, condition=None, key=None):
        return self.dropout(jnp.ones_like(y), key=key)


class Conditional(eqx.Module):
    """A network that returns its condition, any pytree."""

    def __call__(self, log_snr, y, condition=None):
        return condition["shift"] * jnp.ones_like(y)


class WithBatchNorm(eqx.Module):
    norm: eqx.nn.BatchNorm

    def __call__(self, log_snr, y, condition=None):
        return y


def wrong_shape(log_snr, y, condition=None):
    return jnp.concatenate([y, y])


def scalar(log_snr, y, condition=None):
    return jnp.sum(y)


def doubled(log_snr, y, condition=None):
    return 2 * y


def methods(model):
    return model.score, model.entropy_field, model.velocity


@pytest.mark.parametrize("make", MODELS.values())
def test_key_goes_to_networks_that_accept_one(make):
    process = ex.CosinePath()
    s, y = jnp.asarray(0.5), jnp.ones(200)
    model = make(Dropout(200, eqx.nn.Dropout(0.5)), process)
    for method in methods(model):
        one, same, other = (method(s, y, key=jax.random.key(k)) for k in (0, 0, 1))
        np.testing.assert_array_equal(one, same)
        assert jnp.any(one != other)
        with pytest.raises(RuntimeError, match="key"):
            method(s, y)
    plain = make(doubled, process)
    for method in methods(plain):
        np.testing.assert_array_equal(method(s, y, key=jax.random.key(0)), method(s, y))


@pytest.mark.parametrize("make", MODELS.values())
def test_condition_reaches_the_network(make):
    model = make(Conditional(), ex.CosinePath())
    s, y = jnp.asarray(0.5), jnp.ones(2)
    call = quick_jit(lambda c: [method(s, y, {"shift": c}) for method in methods(model)])
    for values in zip(*(call(c) for c in (0.0, 1.0, 2.0)), strict=True):
        np.testing.assert_allclose(values[2] - values[1], values[1] - values[0], rtol=1e-5)
        assert jnp.all(values[1] != values[0])


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 2, 2)])
def test_examples_of_any_shape(shape):
    y = jnp.ones(shape)
    for make in MODELS.values():
        model = make(doubled, ex.CosinePath(), shape=shape)
        outputs = eqx.filter_eval_shape(lambda m: [f(0.4, y) for f in methods(m)], model)
        assert all(out.shape == shape for out in outputs)
        sample, log_prob = eqx.filter_eval_shape(
            lambda m: (m.prior.sample(4, key=jax.random.key(0)), m.prior.log_prob(y)), model
        )
        assert sample.shape == (4, *shape)
        assert log_prob.shape == ()


@pytest.mark.parametrize("name", PROCESSES)
def test_prior_matches_the_process(name):
    """The equilibrium of a static process, otherwise the noise at t1."""
    process = PROCESSES[name]()
    prior = ex.ScoreMatching(doubled, process, shape=(2,)).prior
    kappa = {
        "vp": 1.0,
        "vpx": 0.1,
        "vp-constant": 1.3,
        "vp-cosine": 0.7,
        "sl": 0.1,
        "cosine": 1.0,
        "vp-learned": 0.3,
        "sl-warped": 0.1,
    }
    std = kappa[name] if name in STATIC else process.std(process.t1)
    np.testing.assert_allclose(prior.std, std, rtol=1e-6)
    # Close to the end of the process: twice the data variance hardly changes it.
    spread = jnp.sqrt(process.scale(1.0) ** 2 + process.var(1.0))
    if name not in ("path-sqrt", "path-module"):  # these end far from noise
        np.testing.assert_allclose(prior.std, spread, rtol=0.02)


def test_shape_comes_from_the_network_or_the_scaling():
    process = ex.CosinePath()
    network = eqx.filter_eval_shape(ex.FourierMLP, 3, key=jax.random.key(0), widths=(4,))
    scaling = ex.GaussianScaling.from_data(np.eye(5), process)
    for make in MODELS.values():
        assert make(network, process).shape == (3,)
        assert make(doubled, process, shape=(4, 1)).shape == (4, 1)
        assert make(doubled, process).shape is None
        with pytest.raises(ValueError, match="shape"):
            make(doubled, process).prior  # noqa: B018
    assert ex.EntropyMatching(doubled, process, scaling).shape == (5,)


CALL = r"`network` must be callable as network\(log_snr, y, condition.*"


def exchanged(y, log_snr, condition):
    return y[0] * log_snr


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda m, p: m(3.0, p), "network"),
        (lambda m, p: m(None, p), "network"),
        (lambda m, p: m(doubled, 0.1), "process"),
        (lambda m, p: m(doubled, ex.LinearSchedule()), "process"),
        (lambda m, p: m(doubled, p).with_process("cosine"), "process"),
        (
            lambda m, p: m(WithBatchNorm(eqx.nn.BatchNorm(2, "batch", mode="ema")), p),
            "network.*stateless",
        ),
        (lambda m, p: m(wrong_shape, p).score(0.5, jnp.ones(2)), "network.*shape"),
        (lambda m, p: m(wrong_shape, p).entropy_field(0.5, jnp.ones(2)), "network.*shape"),
        (lambda m, p: m(scalar, p).velocity(0.5, jnp.ones(2)), "network.*shape"),
        (lambda m, p: m(lambda log_snr, y: y, p), CALL + "got <lambda>, called as"),
        (
            lambda m, p: m(eqx.nn.Linear(2, 2, key=jax.random.key(0)), p),
            CALL + "got Linear, called as",
        ),
        (lambda m, p: m(exchanged, p).score(0.5, jnp.ones(2)), CALL + "-> array of y's shape, got"),
        (lambda m, p: m(lambda t, y, c: y + c["a"], p).score(0.5, jnp.ones(2)), CALL),
        (lambda m, p: m(lambda t, y, c: y[c.a], p).score(0.5, jnp.ones(2)), CALL),
        (lambda m, p: m(lambda t, y, c: (y, y), p).score(0.5, jnp.ones(2)), "network.*(f32|f64)"),
    ],
)
@pytest.mark.parametrize("model", MODELS.values())
def test_static_mistakes(make, name, model):
    with as_shipped(), pytest.raises(ValueError, match=name):
        make(model, ex.CosinePath())


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda p: ex.EntropyMatching(doubled, p, 2.0), "scaling"),
        (lambda p: ex.EntropyMatching(doubled, p, scaling_of_five(p), shape=(3,)), "shape"),
        (lambda p: ex.ExactModel(doubled, p), "distribution"),
        (lambda p: ex.ExactModel(small_mixture(), "vp"), "process"),
        (lambda p: ex.ExactModel(small_mixture(), p).with_process(1.0), "process"),
        (lambda p: ex.ExactModel(small_mixture(), p).score(0.5, jnp.ones(2), 1.0), "condition"),
        (lambda p: ex.ExactModel(small_mixture(), p).velocity(0.5, jnp.ones(2), 1.0), "condition"),
        (
            lambda p: ex.ExactModel(small_mixture(), p).entropy_field(0.5, jnp.ones(2), 1.0),
            "condition",
        ),
        (lambda p: ex.ExactModel(small_mixture(), p).entropy_field(0.5, jnp.ones((4, 2))), "`y`"),
        (lambda p: ex.ExactModel(small_mixture(), p).velocity(0.5, jnp.ones((2, 2))), "`y`"),
    ],
)
def test_more_static_mistakes(make, name):
    with as_shipped(), pytest.raises(ValueError, match=name):
        make(ex.CosinePath())


def scaling_of_five(process: Any):
    return ex.GaussianScaling.from_data(np.eye(5), process)


# ---------------------------------------------------------------------------- modules


def test_divergence_is_known():
    """The reason for an infinite entropy at the data end, if it is known in advance."""
    for name, build in PROCESSES.items():
        process = build()
        for make in MODELS.values():
            divergence = make(doubled, process).divergence
            assert (divergence is not None) == (name in COLLAPSING)
        assert (ex.ExactModel(small_mixture(), process).divergence is None) == process.is_finite
    points = ex.ExactModel(ex.Empirical(np.eye(2)), ex.CosinePath())
    assert "points" in points.divergence


@pytest.mark.parametrize("make", MODELS.values())
def test_is_a_pytree(make):
    network = eqx.filter_jit(ex.FourierMLP)(2, key=jax.random.key(0), widths=(4,))
    process = PROCESSES["vp"]()
    model = make(network, process)
    assert eqx.tree_equal(model, jax.tree.map(lambda x: x, model))
    assert eqx.tree_equal(model, eqx.filter_jit(lambda m: m)(model))
    marks = trainable(model)
    assert not any(jax.tree.leaves(marks.network.frequencies))
    score = eqx.filter_jit(eqx.filter_grad(lambda m: jnp.sum(m.score(0.3, jnp.ones(2)))))
    gradient = score(model)
    assert all_finite(gradient)
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), eqx.filter(model, eqx.is_array))
    stacked = eqx.combine(stacked, eqx.filter(model, eqx.is_array, inverse=True))
    scores = eqx.filter_eval_shape(eqx.filter_vmap(lambda m: m.score(0.3, jnp.ones(2))), stacked)
    assert scores.shape == (2, 2)

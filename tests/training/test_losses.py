"""The denoising loss against its definition and against closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.training import denoising_loss, relative_denoising_loss
from tests.helpers import DISTINCT, FEW, PROCESSES, quick, quick_jit
from tests.mixtures import mixture
from tests.training.common import MODELS, Linear


@eqx.filter_jit
def _losses(model, s, x, z):
    """Both losses and their definitions, for several draws."""
    process = model.process

    def one(s, x, z):
        y = process.scale(s) * x + process.std(s) * z
        if process.is_finite:
            reference = process.equilibrium_score(s, y)
        else:
            reference = -y / (process.scale(s) ** 2 + process.var(s))
        expected = jnp.sum((process.std(s) * model.score(s, y) + z) ** 2)
        offset = jnp.sum((process.std(s) * reference + z) ** 2)
        losses = denoising_loss(model, s, x, z), relative_denoising_loss(model, s, x, z)
        return jnp.stack(losses), jnp.stack([expected, expected - offset])

    return jax.vmap(one)(s, x, z)


@pytest.mark.parametrize("name", quick(FEW, ("vp", *DISTINCT)))
def test_equals_its_definition(name, getkey, x64):
    process = PROCESSES[name]()
    s = jnp.array([0.01, 0.37, 0.93])
    x, z = jax.random.normal(getkey(), (2, 3, 3))
    for kind in MODELS.values():
        losses, expected = _losses(kind(Linear(-0.7), process), s, x, z)
        assert jnp.allclose(losses, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", quick(FEW, ("vp", *DISTINCT)))
def test_relative_loss_has_the_same_gradient(name, getkey, x64):
    x, z = jax.random.normal(getkey(), (2, 3))

    @jax.jit
    def slopes(a):
        def of(a):
            model = ex.EntropyMatching(Linear(a), PROCESSES[name]())
            args = (model, 0.3, x, z)
            return jnp.stack([denoising_loss(*args), relative_denoising_loss(*args)])

        return jax.jacfwd(of)(a)

    one, other = slopes(jnp.asarray(-0.3))
    assert jnp.allclose(one, other, rtol=1e-9)


def test_a_network_that_stores_nothing_has_relative_loss_zero(getkey):
    x, z = jax.random.normal(getkey(), (2, 3))
    model = ex.EntropyMatching(Linear(0.0), PROCESSES["vpx"]())
    assert relative_denoising_loss(model, 0.2, x, z) == 0


@pytest.mark.parametrize("name", ["sl", "cosine", "vpx"])
def test_float32_keeps_its_digits_at_the_noise_end(name):
    """The loss is of order mu^2 there; subtracting numbers of order one would leave noise."""
    x, z = np.array([0.3, -1.1, 0.7]), np.array([0.5, 0.2, -1.4])
    s = 1 - 2.0**-18
    process = PROCESSES[name]()
    loss = denoising_loss(
        ex.EntropyMatching(Linear(0.0), process),
        jnp.float32(s),
        jnp.asarray(x, jnp.float32),
        jnp.asarray(z, jnp.float32),
    )
    if name == "vpx":
        mu = np.exp(-(0.1 * s + 15.9 * s**2 / 2) / 2)
    else:
        mu = 1 - s if name == "sl" else np.sin(np.pi / 2 * (1 - s))
    kappa = 1.0 if name == "cosine" else 0.1
    expected = mu**2 * np.sum((mu * z - np.sqrt(1 - mu**2) / kappa * x) ** 2)
    assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", quick(FEW, ["vp", "subvp"]))
def test_closed_form_of_a_linear_field(name, x64):
    """Data N(0, v), field a y: E loss = D [(a - pi)^2 Sigma^2 P + 2 (a - pi) Sigma^2 + 1]."""
    process, v, s, n = PROCESSES[name](), 0.7, 0.4, 20_000
    var, precision = process.var(s), process.equilibrium_precision(s)
    total = process.scale(s) ** 2 * v + var
    x, z = jax.random.normal(jax.random.key(0), (2, n, 3))
    x = jnp.sqrt(v) * x

    def losses(a):
        model = ex.EntropyMatching(Linear(a), process)
        return jax.vmap(lambda x, z: denoising_loss(model, s, x, z))(x, z)

    def closed(a):
        return 3 * ((a - precision) ** 2 * var * total + 2 * (a - precision) * var + 1)

    exact = precision - 1 / total  # the field of the Gaussian
    both = quick_jit(lambda a: (losses(a), jax.jacfwd(losses)(a), closed(a), jax.grad(closed)(a)))
    for a in (jnp.asarray(-0.4), exact):
        value, slopes, expected, slope = both(a)
        error = jnp.std(value) / jnp.sqrt(n)
        assert abs(jnp.mean(value) - expected) < 4 * error
        error = jnp.std(slopes) / jnp.sqrt(n)
        assert abs(jnp.mean(slopes) - slope) < 4 * error
    assert abs(slope) < 1e-9  # at the exact field


@pytest.mark.parametrize("name", ["vp", "vpx", "sl", "rf"])
def test_exact_field_is_stationary(name, x64):
    """Along any direction g, d/dh E loss(e* + h g) = 2 E[Sigma g . (Sigma score* + z)] = 0."""
    process, exact, n = PROCESSES[name](), mixture(3), 20_000
    model = ex.ExactModel(exact, process)
    x = exact.sample(n, key=jax.random.key(0))
    z = jax.random.normal(jax.random.key(1), x.shape)

    @jax.jit
    def draws(s, x, z):
        y = process.perturb(s, x, z)
        score = model.score(s, y)
        residual = process.std(s) * score + z
        directions = jnp.stack([y, jnp.tanh(2 * y), jnp.roll(y, 1), jnp.ones_like(y)])
        floor = 3 - process.var(s) * jnp.sum(score**2)
        gap = denoising_loss(model, s, x, z) - floor
        return process.std(s) * directions @ residual, gap

    for s in (0.05, 0.5):
        for values in jax.vmap(draws, in_axes=(None, 0, 0))(s, x, z):
            error = jnp.std(values, axis=0) / jnp.sqrt(n)
            assert jnp.all(jnp.abs(jnp.mean(values, axis=0)) < 4 * error)

"""Langevin processes, their potentials and forces: definitions, known values, gradients, errors."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import all_finite, as_shipped, finite_difference, quick_jit


def tilted(y):
    """A plain function of a state of any shape."""
    return jnp.sum(y**4) / 4 + 0.3 * jnp.sum(jnp.sin(y))


# Shape of one state, and a potential for it.
POTENTIALS = {
    "harmonic": ((2, 3), lambda: ex.processes.Harmonic(1.7)),
    "double-well": ((3,), lambda: ex.processes.DoubleWell(1.3, 0.8)),
    "mueller-brown": ((2,), lambda: ex.processes.MuellerBrown(0.05)),
    "lattice-1": ((5,), lambda: ex.processes.QuarticLattice(-0.7, 1.2)),
    "lattice-2": ((3, 4), lambda: ex.processes.QuarticLattice(0.4, 0.5)),
    "function": ((2,), lambda: tilted),
}
every_potential = pytest.mark.parametrize("name", POTENTIALS)


@every_potential
def test_drift_is_minus_the_gradient(name, x64):
    shape, make = POTENTIALS[name]
    process = ex.Langevin(make(), 0.5, t1=2.0)
    y = 0.7 * jax.random.normal(jax.random.key(1), shape)

    @quick_jit
    @jax.vmap
    def evaluate(flat):
        y = flat.reshape(shape)
        density, slope = jax.value_and_grad(process.equilibrium_log_prob, 1)(0.3, y)
        noise = process.sigma_squared(0.3)
        fields = process.drift(0.3, y), process.equilibrium_score(0.3, y), slope
        return process.potential(y), density, noise, *fields

    gradient = finite_difference(lambda v: evaluate(v)[0], y.ravel()).reshape(shape)
    found = evaluate(np.tile(y.ravel(), (4 * y.size, 1)))
    energy, density, noise, drift, score, slope = (v[0] for v in found)
    np.testing.assert_allclose(drift, -gradient, rtol=1e-7, atol=1e-8)
    # Without a force: 2 b / sigma^2, the gradient of the log density.
    np.testing.assert_allclose(score, 2 * drift / noise, rtol=1e-13)
    np.testing.assert_allclose(density, -energy / 0.5, rtol=1e-14)
    np.testing.assert_allclose(slope, score, rtol=1e-13)
    assert drift.dtype == noise.dtype == jnp.float64


def test_coefficients():
    process = ex.Langevin(ex.processes.Harmonic(), temperature=0.7, t1=3)
    assert process.is_static
    assert (float(process.t0), float(process.t1)) == (0.0, 3.0)
    np.testing.assert_allclose(process.sigma_squared(0.2), 1.4, rtol=1e-6)
    assert process.sigma_squared(jnp.zeros((2, 3))).shape == (2, 3)
    np.testing.assert_allclose(process.diffusion(jnp.zeros(2)), np.sqrt(1.4), rtol=1e-6)
    np.testing.assert_allclose(
        process.equilibrium_log_prob(0.0, jnp.ones(2)), -1 / 0.7, rtol=1e-6
    )  # -|y|^2 / (2 T)


def test_harmonic_is_ornstein_uhlenbeck():
    """dY = -k Y ds + sqrt(2 T) dB: variance preserving with beta = 2 k and kappa^2 = T/k."""
    stiffness, temperature = 1.5, 0.6
    langevin = ex.Langevin(ex.processes.Harmonic(stiffness), temperature)
    schedule = ex.LinearSchedule(2 * stiffness, 2 * stiffness)
    gaussian = ex.VariancePreserving(schedule, np.sqrt(temperature / stiffness))
    y = jnp.array([0.3, -1.2])
    for method in ("drift", "equilibrium_score"):
        np.testing.assert_allclose(
            getattr(langevin, method)(0.4, y), getattr(gaussian, method)(0.4, y), rtol=1e-5
        )
    np.testing.assert_allclose(langevin.sigma_squared(0.4), gaussian.sigma_squared(0.4), rtol=1e-5)


# ---------------------------------------------------------------------------- known values


def test_double_well(x64):
    potential = ex.processes.DoubleWell(height=1.3, position=0.8)
    slope, curvature = (quick_jit(f(potential)) for f in (jax.grad, jax.hessian))
    for y in (-0.8, 0.8):
        np.testing.assert_allclose(potential(jnp.array([y])), 0.0, atol=1e-15)
        np.testing.assert_allclose(slope(jnp.array([y])), 0.0, atol=1e-14)
        np.testing.assert_allclose(curvature(jnp.array([y])), 8 * 1.3 / 0.8**2, rtol=1e-12)
    np.testing.assert_allclose(potential(jnp.zeros(3)), 3 * 1.3, rtol=1e-14)
    assert curvature(jnp.zeros(1)) < 0


@quick_jit
def mueller_brown(y):
    potential = ex.processes.MuellerBrown()
    tenth = ex.processes.MuellerBrown(0.1)(y)
    return potential(y), jax.grad(potential)(y), jax.hessian(potential)(y), tenth


@pytest.mark.parametrize(
    ("point", "energy", "unstable"),
    [
        ((-0.558224, 1.441726), -146.699517, 0),
        ((0.623499, 0.028038), -108.166724, 0),
        ((-0.050011, 0.466694), -80.767818, 0),
        ((-0.822002, 0.624313), -40.664844, 1),
        ((0.212487, 0.292988), -72.248940, 1),
    ],
)
def test_mueller_brown(point, energy, unstable, x64):
    """Stationary points as tabulated in the literature, to the digits given there."""
    value, gradient, hessian, tenth = mueller_brown(jnp.array(point))
    np.testing.assert_allclose(value, energy, atol=1e-5)
    np.testing.assert_allclose(gradient, 0.0, atol=2e-2)
    assert np.sum(np.linalg.eigvalsh(hessian) < 0) == unstable
    np.testing.assert_allclose(tenth, 0.1 * value, rtol=1e-14)


def test_lattice_is_translation_invariant(getkey, x64):
    potential = ex.processes.QuarticLattice(-0.4, 0.9)
    field = jax.random.normal(getkey(), (3, 4, 5))
    for axis in range(3):
        np.testing.assert_allclose(
            potential(jnp.roll(field, 2, axis)), potential(field), rtol=1e-12
        )
    np.testing.assert_allclose(potential(-field), potential(field), rtol=1e-14)


def test_lattice_values(x64):
    """Free: (1/2) sum_k (m^2 + sum_mu (2 - 2 cos k_mu)) |phi_k|^2 / V; constant: local terms."""
    field = jax.random.normal(jax.random.key(0), (4, 6))
    modes = np.abs(np.fft.fft2(field)) ** 2 / field.size
    k1, k2 = np.meshgrid(np.arange(4) / 4, np.arange(6) / 6, indexing="ij")
    spectrum = 0.3 + 4 - 2 * np.cos(2 * np.pi * k1) - 2 * np.cos(2 * np.pi * k2)
    expected = np.sum(spectrum * modes) / 2
    np.testing.assert_allclose(ex.processes.QuarticLattice(0.3, 0.0)(field), expected, rtol=1e-12)
    constant = jnp.full((4, 6), 0.5)
    expected = 24 * (0.3 / 2 * 0.5**2 + 2.0 / 4 * 0.5**4)
    np.testing.assert_allclose(
        ex.processes.QuarticLattice(0.3, 2.0)(constant), expected, rtol=1e-12
    )


# ---------------------------------------------------------------------------- forces


@pytest.mark.parametrize("plane", [(0, 1), (2, 0)])
def test_rotating_force(plane, x64):
    force = ex.processes.RotatingForce(1.7, plane)
    y = jnp.array([0.3, -1.2, 0.8])
    np.testing.assert_allclose(jnp.vdot(force(y), y), 0.0, atol=1e-15)
    jacobian = jax.jacobian(force)(y)
    np.testing.assert_allclose(jnp.trace(jacobian), 0.0, atol=1e-15)
    np.testing.assert_allclose(jacobian, -jacobian.T, atol=1e-15)
    i, j = plane
    np.testing.assert_allclose(force(jnp.eye(3)[i]), 1.7 * jnp.eye(3)[j])


def test_force_is_added_and_leaves_the_reference(x64):
    y = jnp.array([0.3, -1.2])
    force = ex.processes.RotatingForce(0.9)
    plain, driven = ex.Langevin(tilted, 0.5), ex.Langevin(tilted, 0.5, force)
    np.testing.assert_allclose(driven.drift(0.0, y) - plain.drift(0.0, y), force(y), rtol=1e-13)
    assert jnp.array_equal(driven.equilibrium_score(0.0, y), plain.equilibrium_score(0.0, y))
    function = ex.Langevin(tilted, 0.5, lambda y: -2 * y)
    np.testing.assert_allclose(
        function.drift(0.0, y), plain.drift(0.0, y) - 2 * y, rtol=1e-13
    )  # any function is a force


# ---------------------------------------------------------------------------- transformations


@every_potential
def test_gradients_reach_every_number(name):
    shape, make = POTENTIALS[name]
    y = jax.random.normal(jax.random.key(2), shape)
    force = ex.processes.RotatingForce(0.3) if len(shape) == 1 else None

    def square(process):
        b = process.drift(0.1, y) + jnp.sqrt(process.sigma_squared(0.1))
        return jnp.sum(b**2) + process.t1**2

    found = quick_jit(lambda process: eqx.filter_grad(square)(process))(
        ex.Langevin(make(), 0.5, force)
    )
    assert all_finite(found)
    assert found.t1 == 2.0
    for leaf in jax.tree.leaves((found.potential, found.temperature, found.force)):
        assert leaf != 0.0


def test_vmap_and_no_retrace():
    traces = chex.assert_max_traces(lambda p, y: jax.vmap(lambda y: p.drift(0.0, y))(y), n=1)
    drift = jax.jit(traces)
    y = jax.random.normal(jax.random.key(0), (7, 2))
    first = drift(ex.Langevin(tilted, 0.5, ex.processes.RotatingForce(0.3)), y)
    again = drift(ex.Langevin(tilted, 0.7, ex.processes.RotatingForce(0.9)), y)
    assert first.shape == again.shape == (7, 2)
    process = ex.Langevin(tilted, 0.5, ex.processes.RotatingForce(0.3))
    np.testing.assert_allclose(first[3], process.drift(0.0, y[3]), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------- mistakes


def state(n=2):
    return jnp.ones(n)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ex.Langevin(tilted, temperature=0.0), "`temperature` must be positive"),
        (lambda: ex.Langevin(tilted, temperature=float("nan")), "`temperature` must be positive"),
        (lambda: ex.Langevin(tilted, temperature=np.ones(2)), "`temperature` must have shape"),
        (lambda: ex.Langevin(tilted, t1=-1.0), "`t1` must be positive"),
        (lambda: ex.Langevin(3.0), "`potential` must be a function of the state"),
        (lambda: ex.Langevin(tilted, 1.0, "push"), "`force` must be a function of the state"),
        (
            lambda: ex.Langevin(lambda y: y**2).drift(0.0, state()),
            r"`potential` must return a scalar for one state, got shape \(2,\)",
        ),
        (
            lambda: ex.Langevin(lambda y: y**2).equilibrium_log_prob(0.0, state()),
            "`potential` must return a scalar",
        ),
        (
            lambda: ex.Langevin(tilted, 1.0, lambda y: y[:1]).drift(0.0, state()),
            r"`force` must return an array of the state's shape \(2,\), got \(1,\)",
        ),
        (lambda: ex.processes.Harmonic(0.0), "`stiffness` must be positive"),
        (lambda: ex.processes.DoubleWell(-1.0), "`height` must be positive"),
        (lambda: ex.processes.DoubleWell(1.0, 0.0), "`position` must be positive"),
        (lambda: ex.processes.MuellerBrown(float("inf")), "`scale` must be positive"),
        (lambda: ex.processes.MuellerBrown()(state(3)), r"`y` must have the shape \(2,\)"),
        (lambda: ex.processes.QuarticLattice(float("nan"), 1.0), "`mass_squared` must be finite"),
        (lambda: ex.processes.QuarticLattice(1.0, -1.0), "`coupling` must be zero or positive"),
        (lambda: ex.processes.RotatingForce("fast"), "`strength` must hold real numbers"),
        (lambda: ex.processes.RotatingForce(1.0, (1, 1)), "`plane` must be two different axes"),
        (lambda: ex.processes.RotatingForce(1.0, (0, 1, 2)), "`plane` must be two different axes"),
        (lambda: ex.processes.RotatingForce(1.0, 3), "`plane` must be two different axes"),
        (
            lambda: ex.processes.RotatingForce(1.0, (0, 2))(state()),
            r"`y` must be a vector with the axes",
        ),
    ],
)
def test_mistakes(make, message):
    with as_shipped(), pytest.raises(ValueError, match=message):
        make()


def test_mistakes_known_only_under_jit():
    @eqx.filter_jit
    def noise(temperature):
        return ex.Langevin(tilted, temperature).sigma_squared(0.0)

    assert noise(jnp.asarray(0.5)) == 1.0
    with pytest.raises(RuntimeError, match="`temperature` must be positive"):
        jax.block_until_ready(noise(jnp.asarray(-0.5)))

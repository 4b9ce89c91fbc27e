r"""Two-dimensional toys, most of them with an exact density before and after diffusion.

Moons, circles and the spiral are curves blurred by Gaussian noise of standard deviation s. Their
densities are mixtures of equal Gaussians placed along the curve at distances h of about s, and that
mixture is the definition here, not an approximation: samples, `log_prob` and entropies are exact.
Away from the ends of a curve it differs from noise around the curve itself by a ripple of relative
size $2 e^{-2\pi^2 s^2/h^2}$, 6e-9 at h = s.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import Key
from entropix.distributions import Gaussian, GaussianMixture


def gaussian() -> Gaussian:
    """A correlated Gaussian of mean (0.5, -1)."""
    return Gaussian([0.5, -1.0], [[0.6, 0.35], [0.35, 0.9]])


def eight_gaussians() -> GaussianMixture:
    """Eight equal Gaussians of standard deviation 0.2 on a circle of radius 2."""
    return _blurred([_circle(8, radius=2.0)], std=0.2)


def moons() -> GaussianMixture:
    """Two interleaved half circles of radius 1, noise 0.1."""
    angle = np.pi * (np.arange(32) + 0.5) / 32
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return _blurred([upper, [1.0, 0.5] - upper], std=0.1)


def circles() -> GaussianMixture:
    """Two concentric circles of radius 1 and 0.5 and equal weight, noise 0.08."""
    return _blurred([_circle(80, radius=1.0), _circle(40, radius=0.5)], std=0.08)


def spiral() -> GaussianMixture:
    """Two turns of an Archimedean spiral out to radius 2, uniform in arc length, noise 0.1."""
    angle = np.linspace(0.0, 4 * np.pi, 4001)
    radius = angle / (2 * np.pi)
    curve = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    steps = np.linalg.norm(np.diff(curve, axis=0), axis=-1)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    at = length[-1] * (np.arange(128) + 0.5) / 128
    points = np.stack([np.interp(at, length, curve[:, i]) for i in range(2)], axis=-1)
    return _blurred([points], std=0.1)


@functools.partial(jax.jit, static_argnames="n")
def checkerboard(n: int, *, key: Key) -> Float[Array, "n 2"]:
    """Uniform on the eight squares of side 1 in [-2, 2]^2 whose lower corners have an even sum.

    The entropy is log 8; the density is discontinuous, so its relative Fisher information, and
    with it the entropy rate at the data end, is infinite.
    """
    square_key, place_key = jax.random.split(key)
    square = jax.random.randint(square_key, (n,), 0, 8)
    row = square // 2
    column = 2 * (square % 2) + row % 2
    corner = jnp.stack([column, row], axis=-1) - 2
    return corner + jax.random.uniform(place_key, (n, 2))


@functools.partial(jax.jit, static_argnames="n")
def pinwheel(n: int, *, key: Key) -> Float[Array, "n 2"]:
    r"""Five Gaussian arms, bent into a pinwheel by a rotation that depends on the radius.

    In the frame of its arm a sample is $u \sim N((1, 0), \mathrm{diag}(0.3^2, 0.1^2))$; it becomes
    $x = 2 R(2\pi k/5 + e^{|u|}/2)\,u$, k the number of the arm. A rotation by an angle that depends
    on the radius alone preserves areas, so $p(x) = \frac{1}{4}\, p(u)$ summed over the arms.

    References:
        Johnson et al., *Composing graphical models with neural networks*, arXiv 1603.06277.
    """
    arm_key, noise_key = jax.random.split(key)
    arm = jax.random.randint(arm_key, (n,), 0, 5)
    noise = jax.random.normal(noise_key, (n, 2))
    u = jnp.array([1.0, 0.0]) + jnp.array([0.3, 0.1]) * noise
    angle = 2 * jnp.pi * arm / 5 + jnp.exp(jnp.linalg.norm(u, axis=-1)) / 2
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return 2 * jnp.stack([cos * u[:, 0] - sin * u[:, 1], sin * u[:, 0] + cos * u[:, 1]], axis=-1)


def _circle(count: int, *, radius: float) -> np.ndarray:
    angle = 2 * np.pi * np.arange(count) / count
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _blurred(curves: list[np.ndarray], *, std: float) -> GaussianMixture:
    """Gaussian noise around points along curves; every curve has the same weight."""
    weights = np.concatenate([np.full(len(curve), 1.0 / len(curve)) for curve in curves])
    means = np.concatenate(curves)
    return GaussianMixture(
        (weights / len(curves)).tolist(), means.tolist(), np.full_like(means, std).tolist()
    )

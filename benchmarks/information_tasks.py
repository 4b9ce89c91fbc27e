r"""Pairs of variables whose mutual information is known, after Czyz et al. (2306.11078).

A pair is Gaussian or Student, with correlation rho between each $x_i$ and $y_i$; then x, or x and
y, go through an invertible map, which leaves $I(X; Y)$ as it is.

$$I = -\frac d2\log(1 - \rho^2) \quad\text{(Gaussian)}, \qquad
I = h_d + h_d - h_{2d} - \frac d2\log(1 - \rho^2) \quad\text{(Student)},$$

with $h_d = \log\frac{\Gamma(\nu/2)(\nu\pi)^{d/2}}{\Gamma((\nu+d)/2)} + \frac{\nu+d}{2}
\left[\psi(\frac{\nu+d}{2}) - \psi(\frac\nu2)\right]$ the entropy of a standard Student in d
dimensions with $\nu$ degrees of freedom.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def identity(x: jax.Array) -> jax.Array:
    """Nothing."""
    return x


def half_cube(x: jax.Array) -> jax.Array:
    r"""$\mathrm{sign}(x)|x|^{3/2}$: the density grows like $|x|^{-1/3}$ at zero."""
    return x * jnp.sqrt(jnp.abs(x))


def spiral(x: jax.Array, speed: float = 1 / 3) -> jax.Array:
    r"""Rotation of the first two coordinates by the angle $v\|x\|^2$: it keeps volumes."""
    angle = speed * jnp.sum(x**2, axis=-1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = x[..., 0], x[..., 1]
    turned = jnp.stack([cos * first - sin * second, sin * first + cos * second], axis=-1)
    return jnp.concatenate([turned, x[..., 2:]], axis=-1)


@dataclasses.dataclass(frozen=True)
class Task:
    """A pair (X, Y) of `dim` dimensions each.

    Attributes:
        name: for tables.
        dim: dimensions of X, and of Y.
        rho: correlation of each pair of coordinates.
        freedom: degrees of freedom of a Student pair; None for a Gaussian one.
        warp_x: invertible map of X.
        warp_y: invertible map of Y.
    """

    name: str
    dim: int
    rho: float
    freedom: float | None = None
    warp_x: Callable = identity
    warp_y: Callable = identity

    def sample(self, n: int, *, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`n` pairs, each of shape (n, dim)."""
        x_key, y_key, scale_key = jax.random.split(key, 3)
        y = jax.random.normal(y_key, (n, self.dim))
        noise = jax.random.normal(x_key, (n, self.dim))
        x = self.rho * y + np.sqrt(1 - self.rho**2) * noise
        if self.freedom is not None:
            chi_square = 2 * jax.random.gamma(scale_key, self.freedom / 2, (n, 1))
            scale = jnp.sqrt(self.freedom / chi_square)
            x, y = scale * x, scale * y
        return self.warp_x(x), self.warp_y(y)

    @property
    def information(self) -> float:
        """$I(X; Y)$ in nats."""
        gaussian = self.dim / 2 * -np.log(1 - self.rho**2) + 0.0  # never minus zero
        if self.freedom is None:
            return float(gaussian)
        d = self.dim
        extra = 2 * student_entropy(self.freedom, d) - student_entropy(self.freedom, 2 * d)
        return float(gaussian + extra)


def student_entropy(freedom: float, dim: int) -> float:
    """Differential entropy of a standard Student in `dim` dimensions, in nats."""
    from scipy.special import digamma, gammaln

    half = (freedom + dim) / 2
    normaliser = gammaln(freedom / 2) - gammaln(half) + dim / 2 * np.log(freedom * np.pi)
    return float(normaliser + half * (digamma(half) - digamma(freedom / 2)))


TASKS = (
    Task("independent, 5-D", 5, 0.0),
    Task("Gaussian, 2-D, rho 0.8", 2, 0.8),
    Task("Gaussian, 10-D, rho 0.5", 10, 0.5),
    Task("Gaussian, 50-D, rho 0.5", 50, 0.5),
    Task("half-cube, 2-D, rho 0.8", 2, 0.8, None, half_cube, half_cube),
    Task("asinh, 2-D, rho 0.8", 2, 0.8, None, jnp.arcsinh, jnp.arcsinh),
    Task("Student, 3 degrees, 2-D, rho 0.8", 2, 0.8, 3.0),
    Task("asinh of the same Student", 2, 0.8, 3.0, jnp.arcsinh, jnp.arcsinh),
    Task("spiral of x, 2-D, rho 0.8", 2, 0.8, None, spiral),
)

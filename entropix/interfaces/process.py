"""Noise schedules, warps of time, and forward processes.

Time `s` runs from the data (`t0`) to noise (`t1`).
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key, RealLike, RealScalarLike
from entropix._core.formatting import short_repr


class AbstractSchedule(eqx.Module):
    r"""A noise schedule: rate $\beta(s) \ge 0$, integral $B(s) = \int_0^s \beta$, inverse.

    `decay` is $e^{-B/2}$ and `decay_rate` its derivative, kept separate because they stay finite
    where the rate does not.
    """

    __repr__ = short_repr

    @property
    @abc.abstractmethod
    def diverges(self) -> bool:
        r"""Whether $B(1)$ is infinite."""

    @abc.abstractmethod
    def rate(self, s: RealLike) -> Array:
        r"""$\beta(s)$."""

    @abc.abstractmethod
    def integral(self, s: RealLike) -> Array:
        r"""$B(s) = \int_0^s \beta(r)\,dr$."""

    @abc.abstractmethod
    def inverse(self, value: RealLike) -> Array:
        r"""The time at which $B(s)$ equals `value`."""

    @abc.abstractmethod
    def decay(self, s: RealLike) -> Array:
        r"""$e^{-B(s)/2}$."""

    @abc.abstractmethod
    def decay_rate(self, s: RealLike) -> Array:
        r"""$\frac{d}{ds} e^{-B(s)/2}$."""

    @abc.abstractmethod
    def absorbed(self, s: RealLike) -> Array:
        r"""$1 - e^{-B(s)}$, without cancellation near zero."""


class AbstractWarp(eqx.Module):
    """An increasing map of the unit interval onto itself: fractions of the time axis."""

    @abc.abstractmethod
    def __call__(self, u: RealLike) -> Array:
        r"""$w(u)$; 0 at 0 and 1 at 1, exactly."""

    @abc.abstractmethod
    def rate(self, u: RealLike) -> Array:
        r"""$w'(u) > 0$."""

    @abc.abstractmethod
    def inverse(self, value: RealLike) -> Array:
        r"""The u at which $w(u)$ equals `value`."""


class AbstractLearnable(eqx.Module):
    """A part of a process that is made to be trained: a schedule, a warp, or a whole path."""

    @abc.abstractmethod
    def learnable(self) -> tuple[Any, ...]:
        """The arrays among its own that an optimiser moves: free of constraints."""


class AbstractProcess(eqx.Module):
    r"""A forward process $dY_s = b(Y_s, s)\,ds + \sigma(s)\,dB_s$ (Itô) on `[t0, t1]`.

    Shapes: one example; `s` is a scalar, `y` has any shape, and callers vmap.
    """

    t0: AbstractVar[Array]
    t1: AbstractVar[Array]

    __repr__ = short_repr

    @abc.abstractmethod
    def drift(self, s: RealScalarLike, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        r"""$b(y, s)$."""

    @abc.abstractmethod
    def sigma_squared(self, s: RealLike) -> Array:
        r"""$\sigma(s)^2$."""

    @abc.abstractmethod
    def equilibrium_score(
        self, s: RealScalarLike, y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        r"""$\nabla \log p_{eq}^{(s)}(y)$: $2 b / \sigma^2$ where the drift is conservative.

        A part of the drift that does no work against $p_{eq}$ (free of divergence and tangent to
        the level sets) does not enter.
        """

    def diffusion(self, s: RealLike) -> Array:
        r"""$\sigma(s)$."""
        return jnp.sqrt(self.sigma_squared(s))


class AbstractKernel(eqx.Module):
    r"""A process whose state given the data is drawn without simulation, on `[t0, t1]`.

    The perturbation kernel $p(y_s|x)$ is a map from noise: $Y_s$ = `perturb(s, x, z)`, with the
    same `z` for all times. This, and an axis of noise levels, is all that estimators of integrals
    over the marginals ask of a process, diffusion or jump process. A cut-off and a control variate
    need a Gaussian process.
    """

    t0: AbstractVar[Array]
    t1: AbstractVar[Array]

    @property
    @abc.abstractmethod
    def ends_in_noise(self) -> bool:
        r"""Whether the log-SNR is minus infinity at `t1`; for Gaussian processes $\mu(t_1) = 0$."""

    @abc.abstractmethod
    def draw_noise(self, x: Float[Array, "*shape"], *, key: Key) -> PyTree:
        """The noise `z` that `perturb` takes for one example."""

    @abc.abstractmethod
    def reflect_noise(self, z: PyTree) -> PyTree:
        """Noise of the same distribution, antithetic to `z`; applied twice it is `z` again."""

    @abc.abstractmethod
    def perturb(
        self, s: RealScalarLike, x: Float[Array, "*shape"], z: PyTree
    ) -> Float[Array, "*shape"]:
        """The state at time `s` of a path that starts at `x`."""

    @abc.abstractmethod
    def weight(self, s: RealScalarLike, x: Float[Array, "*shape"], z: PyTree) -> Float[Array, ""]:
        r"""$p(y_s|x)$ over the density with which `perturb` draws it; one where it draws from it.

        Its derivative is that of $\log p(y_s|x)$ in what does not move the state, such as the
        schedule of a jump process.
        """

    @abc.abstractmethod
    def log_snr(self, s: RealLike) -> Array:
        r"""The level $\lambda(s)$ of the noise, strictly decreasing; infinite at exact ends.

        For a Gaussian process it is $\log(\mu^2/\Sigma^2)$.
        """

    @abc.abstractmethod
    def time_of_log_snr(self, value: RealLike) -> Array:
        r"""The time at which the log-SNR equals `value`; the nearer end outside its range."""

    @abc.abstractmethod
    def measure(self, s: RealLike) -> Array:
        r"""What a functional is integrated with, per unit of $-d\lambda$.

        For a diffusion $\frac{\sigma^2}{2}ds$, for a Gaussian process $\Sigma^2/2$.
        """

    @abc.abstractmethod
    def field_divergence(
        self, s: RealScalarLike, y: Float[Array, "*shape"], field: Any, other: Any = None
    ) -> Float[Array, "*shape"]:
        r"""The integrand of a path divergence between two models, one term per component.

        For a diffusion $(e_i - e'_i)^2$; for tokens the terms of $d(f, f')$ at each site. It is
        integrated with `measure`.

        Args:
            s: time.
            y: the state.
            field: the entropy field of the model whose law the state has.
            other: the entropy field of the other model; None for zero, the equilibrium.
        """


class AbstractKernelProcess(AbstractKernel, AbstractProcess):
    """A diffusion whose state given the data is drawn without simulation."""

    def weight(self, s: RealScalarLike, x: Float[Array, "*shape"], z: PyTree) -> Float[Array, ""]:
        """One."""
        return jnp.ones_like(self.t1)

    def field_divergence(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        field: Float[Array, "*shape"],
        other: Float[Array, "*shape"] | None = None,
    ) -> Float[Array, "*shape"]:
        return (field if other is None else field - other) ** 2


class AbstractGaussianProcess(AbstractKernelProcess):
    r"""A linear process: $Y_s = \mu(s)\,x + \Sigma(s)\,z$ with $z \sim N(0, I)$.

    The drift is $b = (\mu'/\mu)\,y$ and $\sigma^2 = (\Sigma^2)' - 2(\mu'/\mu)\Sigma^2$, so that
    the quasi-invariant density is $N(0, 1/\pi(s))$ with precision $\pi = -2\mu'/(\sigma^2\mu)$.

    Three coefficients are stated in closed form by every process, because the formulas that
    define them are 0/0 or $0\cdot\infty$ at an end of the time axis: the precision $\pi$, the
    equilibrium gain $r = (1 - \pi\Sigma^2)/\mu = (\Sigma^2)'/(\sigma^2\mu)$, the factor by which
    $p_{eq}$ predicts the data, $E_{eq}[x|y] = r y$; and the product $\sigma^2 \mu$.

    Attributes:
        is_static: whether the equilibrium does not move with time.
        is_finite: whether the total entropy production of smooth data is finite.
    """

    is_static: AbstractVar[bool]
    is_finite: AbstractVar[bool]

    @abc.abstractmethod
    def scale(self, s: RealLike) -> Array:
        r"""$\mu(s)$, falling from 1."""

    @abc.abstractmethod
    def log_scale(self, s: RealLike) -> Array:
        r"""$\log\mu(s)$."""

    @abc.abstractmethod
    def scale_rate(self, s: RealLike) -> Array:
        r"""$\mu'(s)$."""

    @abc.abstractmethod
    def std(self, s: RealLike) -> Array:
        r"""$\Sigma(s)$."""

    @abc.abstractmethod
    def var(self, s: RealLike) -> Array:
        r"""$\Sigma(s)^2$."""

    @abc.abstractmethod
    def var_rate(self, s: RealLike) -> Array:
        r"""$(\Sigma^2)'(s)$."""

    @abc.abstractmethod
    def equilibrium_precision(self, s: RealLike) -> Array:
        r"""$\pi(s)$, the inverse variance of $p_{eq}^{(s)}$; zero where $p_{eq}$ is flat."""

    @abc.abstractmethod
    def equilibrium_gain(self, s: RealLike) -> Array:
        r"""$r(s) = (1 - \pi\Sigma^2)/\mu$."""

    @abc.abstractmethod
    def scaled_sigma_squared(self, s: RealLike) -> Array:
        r"""$\sigma^2\mu = (\Sigma^2)'\mu - 2\mu'\Sigma^2$, finite at both ends."""

    @abc.abstractmethod
    def noise_budget(self) -> Array:
        r"""$\int_{t_0}^{t_1} \frac{\sigma^2}{2}\,ds$; infinite where $\mu(t_1) = 0$."""

    def drift(self, s: RealScalarLike, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        r"""$b(y, s) = (\mu'/\mu)\,y$."""
        return self.scale_rate(s) / self.scale(s) * y

    def sigma_squared(self, s: RealLike) -> Array:
        r"""$\sigma(s)^2$."""
        return self.scaled_sigma_squared(s) / self.scale(s)

    def equilibrium_score(
        self, s: RealScalarLike, y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        r"""$-\pi(s)\,y$."""
        return -self.equilibrium_precision(s) * y

    def equilibrium_log_prob(
        self, s: RealScalarLike, y: Float[Array, "*shape"]
    ) -> Float[Array, ""]:
        r"""$\log p_{eq}^{(s)}(y)$ in nats; zero (Lebesgue measure) where $p_{eq}$ is flat."""
        precision = self.equilibrium_precision(s)
        flat = precision == 0
        log_precision = jnp.log(jnp.where(flat, 2 * jnp.pi, precision))
        normaliser = y.size / 2 * (log_precision - jnp.log(2 * jnp.pi))
        return normaliser - precision / 2 * jnp.sum(y * y)

    def time_per_log_snr(self, s: RealLike) -> Array:
        r"""$ds/d(-\lambda) = \Sigma^2/\sigma^2$; zero at an exact end."""
        # Where the noise grows in proportion to time, sigma vanishes with it at the data end.
        var = self.var(s)
        return var * self.scale(s) / jnp.where(var > 0, self.scaled_sigma_squared(s), 1.0)

    def measure(self, s: RealLike) -> Array:
        r"""$\Sigma^2/2$."""
        return self.var(s) / 2

    def draw_noise(self, x: Float[Array, "*shape"], *, key: Key) -> Float[Array, "*shape"]:
        """Standard normal noise."""
        return jax.random.normal(key, x.shape, x.dtype)

    def reflect_noise(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """$-z$."""
        return -z

    def perturb(
        self, s: RealScalarLike, x: Float[Array, "*shape"], z: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        r"""$\mu(s)\,x + \Sigma(s)\,z$."""
        return self.scale(s) * x + self.std(s) * z

"""The abstract interfaces that rooms use to speak of one another.

Every class here is an interface: abstract methods state what differs, concrete methods state what
follows from them and are never overridden. Time `s` runs from the data (`t0`) to noise (`t1`).
"""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array, Float

from entropix._core.arrays import Key, RealLike, RealScalarLike


class AbstractSchedule(eqx.Module):
    r"""A noise schedule: rate $\beta(s) \ge 0$, integral $B(s) = \int_0^s \beta$, inverse.

    `decay` is $e^{-B/2}$ and `decay_rate` its derivative, kept separate because they stay finite
    where the rate does not.
    """

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


class AbstractProcess(eqx.Module):
    r"""A forward process $dY_s = b(Y_s, s)\,ds + \sigma(s)\,dB_s$ (Ito) on `[t0, t1]`.

    Shapes: one example; `s` is a scalar, `y` has any shape, and callers vmap.
    """

    t0: AbstractVar[Array]
    t1: AbstractVar[Array]

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

        Of a drift with a part that does no work against $p_{eq}$ (it is free of divergence and
        tangent to the level sets), only the rest enters.
        """

    def diffusion(self, s: RealLike) -> Array:
        r"""$\sigma(s)$."""
        return jnp.sqrt(self.sigma_squared(s))


class AbstractGaussianProcess(AbstractProcess):
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
        ends_in_noise: whether $\mu(t_1) = 0$, where $b$ and $\sigma$ are infinite.
    """

    is_static: AbstractVar[bool]
    is_finite: AbstractVar[bool]
    ends_in_noise: AbstractVar[bool]

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
    def log_snr(self, s: RealLike) -> Array:
        r"""$\lambda(s) = \log(\mu^2/\Sigma^2)$, strictly decreasing; infinite at exact ends."""

    @abc.abstractmethod
    def time_of_log_snr(self, value: RealLike) -> Array:
        r"""The time at which the log-SNR equals `value`; the nearer end outside its range."""

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

    def perturb(
        self, s: RealScalarLike, x: Float[Array, "*shape"], z: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        r"""$\mu(s)\,x + \Sigma(s)\,z$."""
        return self.scale(s) * x + self.std(s) * z


class AbstractDistribution(eqx.Module):
    r"""A density on $R^D$ whose diffusion by any Gaussian process is known exactly.

    `sample`, `log_prob` and `score` take any leading axes; the fields under diffusion
    (`denoise`, `entropy_field`) are written for one example, as models are.
    """

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """The dimension D."""

    @abc.abstractmethod
    def sample(self, n: int, *, key: Key) -> Float[Array, "n dim"]:
        """Draw `n` independent samples."""

    @abc.abstractmethod
    def log_prob(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch"]:
        r"""$\log p(x)$ in nats."""

    @abc.abstractmethod
    def score(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        r"""$\nabla_x \log p(x)$."""

    @abc.abstractmethod
    def diffused(
        self, process: AbstractGaussianProcess, s: RealScalarLike
    ) -> "AbstractDistribution":
        r"""The density of $Y_s = \mu(s)\,x + \Sigma(s)\,z$."""

    @abc.abstractmethod
    def denoise(
        self, process: AbstractGaussianProcess, s: RealScalarLike, y: Float[Array, " dim"]
    ) -> Float[Array, " dim"]:
        r"""The posterior mean $E[x\,|\,Y_s = y]$."""

    @abc.abstractmethod
    def entropy_field(
        self, process: AbstractGaussianProcess, s: RealScalarLike, y: Float[Array, " dim"]
    ) -> Float[Array, " dim"]:
        r"""$e^*(y, s) = \nabla\log p_s(y) - \nabla\log p_{eq}^{(s)}(y)$, free of cancellation."""


class AbstractPrior(eqx.Module):
    """What a generative model draws its noise from."""

    @abc.abstractmethod
    def sample(self, n: int, *, key: Key) -> Array:
        """Draw `n` samples, shape (n, *shape)."""

    @abc.abstractmethod
    def log_prob(self, y: Array) -> Array:
        """Log density in nats of `y` with shape (*batch, *shape)."""


class AbstractModel(eqx.Module):
    r"""A reverse-time generative model: one protocol, whatever the parametrisation.

    The three fields are linked by
    $e = \nabla\log p - \nabla\log p_{eq}$ and $v = b - \frac{\sigma^2}{2}\nabla\log p =
    -\frac{\sigma^2}{2} e$, the last where $b$ is conservative. Methods take one example: `s`
    scalar, `y` of shape `shape`, `condition` whatever the network takes; callers vmap.
    """

    # Gaussian, but in parametrisations that need no log-SNR; what needs one checks for itself.
    process: AbstractVar[Any]
    shape: AbstractVar[tuple[int, ...] | None]  # of one example; None where nothing fixes it

    @property
    @abc.abstractmethod
    def prior(self) -> Any:
        """The density generation starts from: has `sample(n, key=key)` and `log_prob(y)`."""

    @property
    @abc.abstractmethod
    def divergence(self) -> str | None:
        """Why the entropy is known to be infinite at the data end, or None if it is not."""

    @abc.abstractmethod
    def with_process(self, process: AbstractGaussianProcess) -> "AbstractModel":
        r"""The same denoiser under another process.

        $E[x\,|\,y]$ as a function of $y/\mu$ and the log-SNR belongs to the data, whichever
        Gaussian process carries them: with $\lambda_{old}(s_{old}) = \lambda_{new}(s)$ and
        $y_{old} = (\mu_{old}/\mu_{new})\,y$,

        $$\nabla\log p_{new}(y, s) =
          \frac{\mu_{old}}{\mu_{new}}\,\nabla\log p_{old}(y_{old}, s_{old}).$$

        A field that is exact stays exact. Differentiable in the new process; under its own process
        a model is itself, and only the last of several moves counts. At log-SNRs below those of the
        old process the posterior mean is taken to be linear in the state, above them the score of
        the data is held (`entropix.models.moved`).

        Args:
            process: a Gaussian process.

        Raises:
            ValueError: if it is not, or the model is a velocity field alone (`FlowMatching`).
        """

    @abc.abstractmethod
    def score(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        r"""$\nabla\log p_s(y)$ as the model has it."""

    @abc.abstractmethod
    def entropy_field(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        r"""$e(y, s)$."""

    @abc.abstractmethod
    def velocity(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        r"""The probability-flow velocity $v(y, s)$."""

r"""Samplers made for diffusion models: exponential integrators, Heun's method, predictor-corrector.

A model enters through its denoiser and the noise that belongs to it,

$$D(y, s) = \frac{y + \Sigma^2\,\nabla\log p_s(y)}{\mu}, \qquad
  \epsilon(y, s) = -\Sigma\,\nabla\log p_s(y), \qquad y = \mu D + \Sigma\,\epsilon,$$

so that one formula serves every Gaussian process. With $D$ frozen, the probability flow from time
$s$ to $r < s$ is exactly

$$y_r = \mu_r D + \Sigma_r\,\epsilon = \frac{\Sigma_r}{\Sigma_s}\,y_s
  + \left(\mu_r - \mu_s\frac{\Sigma_r}{\Sigma_s}\right) D,$$

which is Euler's method in the variable $\Sigma/\mu$ and exact where the data are one point. All
samplers here are built upon this step.

Nothing is cut off. The last step ends at $\Sigma = 0$, where $y = D$: the model is not evaluated at
infinite log-SNR. Where a process begins in pure noise, $D = 0/0$; there the model is evaluated at a
negligible signal instead (see `ReverseCoordinates`), and the step is of first order.

The interface is a step and what it carries to the next, not a `diffrax.AbstractSolver`: these
methods need both ends of a step as noise levels, with their limits, rather than a vector field
between them. Methods have the annotations of `AbstractSampler`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from entropix._core.arrays import Key, RealLike, RealScalarLike, as_float, safe_sqrt
from entropix._core.checks import checked, finite, positive, positive_integer
from entropix._core.chunks import in_chunks, unchunk
from entropix._core.compiled import compiled, error_if
from entropix.dynamics.coordinates import ReverseCoordinates
from entropix.dynamics.solvers import keys_of_samples
from entropix.interfaces import (
    AbstractDenoiser,
    AbstractGaussianProcess,
    AbstractModel,
    AbstractSampler,
    NoiseLevel,
)


class Denoiser(AbstractDenoiser):
    """The denoiser of a model for a batch of states, each with its own condition.

    Attributes:
        model: any model.
        coordinates: of its process; their reference variance says which signal is negligible.
        condition: None, or arrays with a leading axis of the batch.
    """

    model: AbstractModel
    coordinates: ReverseCoordinates
    condition: PyTree = None

    @property
    def process(self) -> AbstractGaussianProcess:
        return self.coordinates.process

    def steps(self, num_steps: int) -> Float[Array, " knots"]:
        return self.coordinates.steps(num_steps)[0]

    def level(self, s: RealLike) -> NoiseLevel:
        process = self.process
        s = as_float(s)
        # What is infinite at the data is computed elsewhere, so that no gradient is a NaN.
        is_data = jax.lax.stop_gradient(process.log_snr(s)) == jnp.inf
        inside = jnp.where(is_data, (process.t0 + process.t1) / 2, s)
        at = self.coordinates.evaluation_time(inside)
        is_noise = at < inside
        log_snr = jnp.where(is_noise, -jnp.inf, process.log_snr(at))
        scale, at_scale = process.scale(s), process.scale(at)
        at_var = process.var(at)
        var = jnp.where(is_noise, process.var(inside), at_var)
        weight = self.coordinates.variance
        total = var + weight * process.scale(inside) ** 2
        return NoiseLevel(
            s=s,
            scale=scale,
            std=jnp.where(is_data, 0.0, process.std(inside)),
            log_snr=jnp.where(is_data, jnp.inf, log_snr),
            at=at,
            at_scale=at_scale,
            at_var=at_var,
            gain=jnp.sqrt((at_var + weight * at_scale**2) / total),
        )

    def __call__(self, level: NoiseLevel, y: Float[Array, "n *shape"]) -> Float[Array, "n *shape"]:
        y = level.gain * y
        score = jax.vmap(self.model.score, in_axes=(None, 0, 0))(level.at, y, self.condition)
        return (y + level.at_var * score) / level.at_scale


class DDIM(AbstractSampler):
    r"""Denoising diffusion implicit models (Song et al., 2010.02502).

    With $q = e^{\lambda_s - \lambda_r}$, the ratio of signal-to-noise ratios at the two ends,

    $$y_r = \mu_r D + \Sigma_r\left(\sqrt{1 - \eta^2(1 - q)}\;\epsilon
      + \eta\sqrt{1 - q}\;z\right), \qquad z \sim N(0, I).$$

    For $\eta = 0$ it is deterministic: the first-order exponential integrator of the probability
    flow, exact where the data are one point. For $\eta = 1$ it is ancestral sampling (Ho et al.,
    2006.11239), which draws from the posterior of $Y_r$ given $Y_s$ and $x = D$; it loses the
    variance of $x$ given $Y_s$, so that the variance of samples is too small, to first order in the
    step: for Gaussian data and $N$ of the default steps, by a share of about $7/N$. One evaluation
    a step.

    Args:
        eta: how much of the noise is drawn anew, between 0 and 1.

    Raises:
        ValueError: if `eta` is not between 0 and 1.
    """

    eta: Float[Array, ""]

    def __init__(self, eta: RealScalarLike = 0.0):
        self.eta = checked(
            finite(eta, "eta", shape=()), "eta", lambda v: (v >= 0) & (v <= 1), "between 0 and 1"
        )

    def init(self, y, num_steps):
        return None

    def step(self, denoiser, now, then, y, carry, keys):
        return ddim_step(denoiser(now, y), self.eta, now, then, y, keys), carry


class DPMSolver(AbstractSampler):
    r"""DPM-Solver++ in the data prediction, multistep (Lu et al., 2211.01095).

    The denoiser of the exponential step is extrapolated from the last two evaluations: with
    $h_i = (\lambda_{i+1} - \lambda_i)/2$,

    $$\tilde D_i = D_i + \frac{h_i}{2 h_{i-1}}\,(D_i - D_{i-1}), \qquad
      y_{i+1} = \mu_{i+1}\tilde D_i + \frac{\Sigma_{i+1}}{\Sigma_i}\,(y_i - \mu_i\tilde D_i).$$

    Deterministic, of second order, one evaluation a step. The first step is of first order, and so
    is every step for which $h_i$ or $h_{i-1}$ is infinite: the last one to $\Sigma = 0$, and the
    second from pure noise.

    Args:
        order: 2, or 1 for `DDIM()`.

    Raises:
        ValueError: if `order` is neither 1 nor 2.
    """

    order: int = eqx.field(static=True)

    def __init__(self, order: int = 2):
        if order not in (1, 2) or isinstance(order, bool):
            raise ValueError(f"`order` must be 1 or 2, got {order!r}.")
        self.order = int(order)

    def init(self, y, num_steps):
        return jnp.zeros_like(y), jnp.asarray(jnp.inf, y.dtype)

    def step(self, denoiser, now, then, y, carry, keys):
        denoised = denoiser(now, y)
        length = (then.log_snr - now.log_snr) / 2
        guess = denoised
        if self.order == 2:
            before, length_before = carry
            weight = jnp.where(jnp.isfinite(length), length, 0.0) / (2 * length_before)
            guess = denoised + weight * (denoised - before)
        return _exponential(guess, now, then, y), (denoised, length.astype(y.dtype))


class EDMHeun(AbstractSampler):
    r"""Heun's method in the noise $\varsigma = \Sigma/\mu$ (Karras et al., 2206.00364).

    In the variable $u = y/\mu$ the probability flow is $du/d\varsigma = \epsilon$, and Heun's
    method averages the slopes at both ends of a step,

    $$\hat y_r = \mu_r D + \Sigma_r\,\epsilon, \qquad
      y_r = \hat y_r + \frac{\mu_r}{2}(\varsigma_r - \varsigma_s)
      \left(\epsilon(\hat y_r, r) - \epsilon(y_s, s)\right).$$

    Of second order without churn, two evaluations a step; the second is skipped in the step that
    ends at $\varsigma = 0$ and in the one that begins in pure noise.

    With churn, each step of $N$ first runs the process forward, from $\varsigma$ to
    $(1 + \gamma)\varsigma$ with $\gamma = \min(\mathrm{churn}/N, \sqrt2 - 1)$, but never beyond
    `t1`, so that fresh noise corrects errors made before.

    The steps of Karras et al. are those of the times at which $\varsigma$ takes given values:

        grid = jnp.linspace(sigma_max ** (1 / 7), sigma_min ** (1 / 7), num_steps) ** 7
        times = process.time_of_log_snr(-2 * jnp.log(jnp.append(grid, 0.0)))

    Args:
        churn: how much noise is added over all steps, at least 0; 0 for a deterministic sampler.
        churn_min: least noise $\varsigma$ at which noise is added, in units of the data.
        churn_max: largest such noise; infinite for no bound.
        churn_noise: standard deviation of what is added, relative to that of the process.

    Raises:
        ValueError: if an argument is negative or NaN, or `churn` or `churn_noise` is infinite.
    """

    churn: Float[Array, ""]
    churn_min: Float[Array, ""]
    churn_max: Float[Array, ""]
    churn_noise: Float[Array, ""]

    def __init__(
        self,
        churn: RealScalarLike = 0.0,
        churn_min: RealScalarLike = 0.0,
        churn_max: RealScalarLike = float("inf"),
        churn_noise: RealScalarLike = 1.0,
    ):
        self.churn = _not_negative(finite(churn, "churn", shape=()), "churn")
        self.churn_min = _not_negative(finite(churn_min, "churn_min", shape=()), "churn_min")
        self.churn_max = _not_negative(as_float(churn_max, "churn_max"), "churn_max")
        self.churn_noise = _not_negative(
            finite(churn_noise, "churn_noise", shape=()), "churn_noise"
        )

    def init(self, y, num_steps):
        return jnp.minimum(self.churn / num_steps, 2**0.5 - 1)

    def step(self, denoiser, now, then, y, carry, keys):
        now, y = self._stir(denoiser, now, y, carry, keys)
        denoised = denoiser(now, y)
        euler = _exponential(denoised, now, then, y)
        skipped = then.is_data | now.is_noise
        # Both branches are finite whichever is taken: under vmap, both are.
        end = jax.tree.map(lambda a, b: jnp.where(then.is_data, a, b), now, then)
        scale = jnp.where(now.is_noise, 1.0, now.scale)

        def correct() -> Array:
            slope = (y - now.scale * denoised) / now.std
            slope_end = (euler - end.scale * denoiser(end, euler)) / end.std
            length = end.std - end.scale * now.std / scale
            return euler + length / 2 * (slope_end - slope)

        return jax.lax.cond(skipped, lambda: euler, correct), carry

    def _stir(
        self, denoiser: AbstractDenoiser, now: NoiseLevel, y: Array, gamma: Array, keys: Key
    ) -> tuple[NoiseLevel, Array]:
        process = denoiser.process
        log_snr = jnp.where(now.is_noise, 0.0, now.log_snr)
        noise = jnp.exp(-log_snr / 2)
        stirred = (noise >= self.churn_min) & (noise <= self.churn_max) & ~now.is_noise
        stirred = stirred & (gamma > 0)
        back = process.time_of_log_snr(log_snr - 2 * jnp.log1p(gamma))
        level = denoiser.level(jnp.where(stirred, jnp.maximum(back, now.s), now.s))
        ratio = jnp.where(stirred, level.scale / jnp.where(stirred, now.scale, 1.0), 1.0)
        added = safe_sqrt(jnp.where(stirred, level.std**2 - (ratio * now.std) ** 2, 0.0))
        return level, ratio * y + self.churn_noise * added * _normal(keys, y)


class PredictorCorrector(AbstractSampler):
    r"""Ancestral steps, each followed by Langevin corrections (Song et al., 2011.13456).

    The predictor is `DDIM(eta=1)`. A correction follows Langevin dynamics
    $dY = \nabla\log p_r(Y)\,d\epsilon + \sqrt2\,dB_\epsilon$ at the level that was reached, for the
    time $\epsilon = 2\,(\mathrm{snr}\,\Sigma_r)^2$ and with the denoiser frozen:

    $$y \leftarrow \mu_r D + \alpha\,(y - \mu_r D) + \Sigma_r\sqrt{1 - \alpha^2}\;z, \qquad
      \alpha = e^{-2\,\mathrm{snr}^2},$$

    which agrees with the step of Euler and Maruyama to first order in $\epsilon$, and is stable and
    exact where the data are one point. In the step size, the norm of the score is replaced by
    $\sqrt{\dim}/\Sigma$, its value for a point and elsewhere a bound on its root mean square, so
    that samples do not depend on those drawn with them. There is no correction at $\Sigma = 0$.

    `1 + num_corrections` evaluations a step.

    Args:
        snr: the ratio of signal to noise of a correction, positive.
        num_corrections: how many corrections follow each step.

    Raises:
        ValueError: if `snr` is not positive, or `num_corrections` is not an integer of at least 1.
    """

    snr: Float[Array, ""]
    num_corrections: int = eqx.field(static=True)

    def __init__(self, snr: RealScalarLike = 0.16, num_corrections: int = 1):
        self.snr = positive(snr, "snr", shape=())
        self.num_corrections = positive_integer(num_corrections, "num_corrections")

    def init(self, y, num_steps):
        return None

    def step(self, denoiser, now, then, y, carry, keys):
        y = ddim_step(denoiser(now, y), jnp.ones_like(self.snr), now, then, y, keys)
        end = jax.tree.map(lambda a, b: jnp.where(then.is_data, a, b), now, then)

        def correct(k: Array | int, y: Array) -> Array:
            mean = end.scale * denoiser(end, y)
            fresh = jnp.sqrt(-jnp.expm1(-4 * self.snr**2))
            z = _normal(jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, k), y)
            return mean + jnp.exp(-2 * self.snr**2) * (y - mean) + fresh * end.std * z

        def corrected(y: Array) -> Array:
            numbers = jnp.arange(1, self.num_corrections + 1)
            return jax.lax.scan(lambda y, k: (correct(k, y), None), y, numbers)[0]

        return jax.lax.cond(then.is_data, lambda y: y, corrected, y), carry


def _not_negative(value: Array, name: str) -> Array:
    return checked(value, name, lambda v: v >= 0, "at least 0")


def _normal(keys: Key, y: Array) -> Array:
    """Standard normal variables of the shape of `y`, each sample's from its own key."""
    return jax.vmap(lambda k: jax.random.normal(k, y.shape[1:], y.dtype))(keys)


def _exponential(denoised: Array, now: NoiseLevel, then: NoiseLevel, y: Array) -> Array:
    """The module's exact step for a frozen denoiser."""
    return then.scale * denoised + then.std / now.std * (y - now.scale * denoised)


def ddim_step(
    denoised: Array, eta: Array, now: NoiseLevel, then: NoiseLevel, y: Array, keys: Key
) -> Array:
    """The step of `DDIM`."""
    ratio = (now.scale * then.std / (then.scale * now.std)) ** 2
    kept = safe_sqrt(1 - eta**2 * (1 - ratio))
    fresh = eta * safe_sqrt(1 - ratio)
    noise = (y - now.scale * denoised) / now.std
    return then.scale * denoised + then.std * (kept * noise + fresh * _normal(keys, y))


@compiled
def run_sampler(
    sampler: AbstractSampler,
    denoiser: AbstractDenoiser,
    key: Key,
    prior: PyTree,
    condition: PyTree,
    times: Float[Array, " knots"] | None,
    num_samples: int,
    chunk: int,
    num_steps: int,
) -> Float[Array, "num_samples ..."]:
    """What `sample` does with a sampler; its arguments have been checked there."""
    prior_key, path_key = jax.random.split(key)
    times = denoiser.steps(num_steps) if times is None else times
    levels = denoiser.level(times)
    num_steps = times.shape[0] - 1
    start = prior.sample(num_samples, key=prior_key)
    start = start.astype(jnp.result_type(start, times))

    def solve(args: tuple[Int[Array, " n"], Array, PyTree], _: Array | None = None) -> Array:
        indices, y, condition = args
        conditional = eqx.tree_at(
            lambda d: d.condition, denoiser, condition, is_leaf=lambda leaf: leaf is None
        )

        # Reverse mode recomputes a step from its state, and keeps no network activations.
        @jax.checkpoint
        def step(state: PyTree, knot: PyTree) -> PyTree:
            y, carry = state
            now, then, number = knot
            keys = keys_of_samples(path_key, number, indices)
            new, carry = sampler.step(conditional, now, then, y, carry, keys)
            return (new.astype(y.dtype), carry), None

        now = jax.tree.map(lambda x: x[:-1], levels)
        then = jax.tree.map(lambda x: x[1:], levels)
        knots = (now, then, jnp.arange(num_steps))
        return jax.lax.scan(step, (y, sampler.init(y, num_steps)), knots)[0][0]

    args = (jnp.arange(num_samples), start, condition)
    if chunk == num_samples:
        y = solve(args)
    else:
        y = unchunk(in_chunks(solve, args, num_samples, chunk), num_samples)
    return error_if(
        y,
        ~jnp.all(jnp.isfinite(y)),
        "a sample is not finite: the model's score must be finite at every finite log-SNR",
    )

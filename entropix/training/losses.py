r"""The denoising loss of one example, and what it weighs.

With $y = \mu x + \Sigma z$ and $z \sim N(0, I)$, the entropy-matching loss (Neural Entropy,
2409.03817; for a score it is the denoising score-matching loss of Vincent, 2011) is

$$\ell(s, x, z) = \|(\nabla\log p_{eq}^{(s)}(y) + e_\theta(y, s))\,\Sigma + z\|^2
  = \|\Sigma\,s_\theta(y, s) + z\|^2 = \|\Sigma\,e_\theta + \mu(r z - \Sigma\pi x)\|^2,$$

with the precision $\pi$ and gain $r$ of the equilibrium. The last form is the one computed: its
second term is the part of $z$ that $y$ does not determine, and in float32 it keeps its digits at
the noise end, where the first two subtract numbers of order one to leave one of order $\mu$.

A weighting turns it into the objective $\int w(s)\,E[\ell]\,ds$. In log-SNR, $ds =
\frac{\Sigma^2}{\sigma^2}\,d(-\lambda)$, so

| weighting | $w(s)\,ds$ | per $d(-\lambda)$ |
|---|---|---|
| `"uniform"`, the paper's | $ds/(t_1 - t_0)$ | $\frac{\Sigma^2}{\sigma^2 (t_1 - t_0)}$ |
| `"likelihood"` | $\frac{\sigma^2}{2\Sigma^2} ds$ | $\frac12$ |

The second is maximum likelihood (Song et al., 2101.09258; Kingma et al., 2107.00630): up to a
constant it is the path KL. That constant, $\frac12\int E\|E[z|y] - z\|^2 d(-\lambda)$, is infinite
at the data end, so the reported loss is taken relative to a reference score $s_r$,

$$\ell_r = \ell(s_\theta) - \ell(s_r) = \Sigma^2\|d\|^2 + 2\Sigma\,d\cdot(\Sigma s_r + z),
  \qquad d = s_\theta - s_r,$$

which has the same gradient and costs no evaluation. The reference is $p_{eq}$, so that the loss is
$L - S_{tot}$ in nats: zero for a network that has stored nothing, $-S_{tot}$ for a perfect one.
Where the equilibrium collapses at the data end (rectified flow, sub-VP) and $S_{tot}$ is infinite,
it is the diffused standard normal, $N(0, \mu^2 + \Sigma^2)$.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key, RealLike, RealScalarLike, as_float, inner, squared_norm
from entropix._core.checks import choice
from entropix.interfaces import AbstractGaussianProcess, AbstractModel


WEIGHTINGS = ("likelihood", "uniform")


def denoising_loss(
    model: AbstractModel,
    s: RealScalarLike,
    x: Float[Array, "*shape"],
    z: Float[Array, "*shape"],
    condition: Any = None,
    *,
    key: Key | None = None,
) -> Float[Array, ""]:
    r"""$\|\Sigma\,s_\theta(\mu x + \Sigma z, s) + z\|^2$, summed over all axes of the example.

    Its mean over z is least, and its mean gradient zero, where $s_\theta$ is the score of $p_s$.

    Args:
        model: any model; entropy matching and score matching give the same number.
        s: time, between `process.t0` (excluded: there is nothing to denoise) and `process.t1`.
        x: one example of the data.
        z: standard normal noise of its shape.
        condition: what the network takes besides.
        key: for networks with dropout.

    Returns:
        A scalar, dimensionless.

    References:
        Neural Entropy, arXiv 2409.03817.
    """
    x, z = as_float(x, "x"), as_float(z, "z")
    std, field, rest = _parts(model, s, x, z, condition, key)
    return squared_norm(std * field + rest)


def relative_denoising_loss(
    model: AbstractModel,
    s: RealScalarLike,
    x: Float[Array, "*shape"],
    z: Float[Array, "*shape"],
    condition: Any = None,
    *,
    key: Key | None = None,
) -> Float[Array, ""]:
    r"""`denoising_loss` of the model minus that of the reference score, without cancellation.

    With the weight $\frac12 d(-\lambda)$ its mean is $L - S_{tot}$ in nats; see the module.

    Args: as `denoising_loss`.
    """
    x, z = as_float(x, "x"), as_float(z, "z")
    std, difference, rest = _parts(model, s, x, z, condition, key)
    process = model.process
    if not process.is_finite:
        scale, var = process.scale(s), process.var(s)
        total = scale**2 + var
        excess = process.equilibrium_precision(s) - 1 / total
        difference = difference - excess * (scale * x + std * z)
        rest = scale * (scale * z - std * x) / total
    return squared_norm(std * difference) + 2 * std * inner(difference, rest)


def _parts(
    model: AbstractModel,
    s: RealScalarLike,
    x: Float[Array, "*shape"],
    z: Float[Array, "*shape"],
    condition: Any,
    key: Key | None,
) -> tuple[Float[Array, ""], Float[Array, "*shape"], Float[Array, "*shape"]]:
    r"""$\Sigma$, $e_\theta(y, s)$ and $\mu(r z - \Sigma\pi x) = \Sigma\nabla\log p_{eq} + z$."""
    process = model.process
    scale, std = process.scale(s), process.std(s)
    field = model.entropy_field(s, scale * x + std * z, condition, key=key)
    pull = std * process.equilibrium_precision(s)
    return std, field, scale * (process.equilibrium_gain(s) * z - pull * x)


def time_per_log_snr(process: AbstractGaussianProcess, s: RealLike) -> Array:
    r"""$ds/d(-\lambda) = \Sigma^2/\sigma^2$; positive, where that falls to zero at an exact end."""
    ratio = process.var(s) * process.scale(s) / process.scaled_sigma_squared(s)
    # Weights and densities divide one another. The floor is met only where Sigma^2 underflows.
    return jnp.maximum(ratio, jnp.sqrt(jnp.finfo(ratio.dtype).tiny))


def check_weighting(weighting: Any) -> str | Callable:
    """Return `weighting` if it names a weighting or is a function of (process, s)."""
    if callable(weighting):
        return weighting
    if not isinstance(weighting, str):
        raise ValueError(
            f"`weighting` must be 'likelihood', 'uniform' or a function weight(process, s), "
            f"got {type(weighting).__name__}."
        )
    return choice(weighting, "weighting", WEIGHTINGS)


def weight_per_log_snr(
    weighting: str | Callable, process: AbstractGaussianProcess, s: RealScalarLike
) -> Float[Array, ""]:
    r"""The weight at `s` per unit of $-\lambda$: the table of the module.

    Args:
        weighting: `"likelihood"`, `"uniform"`, or a function `weight(process, s)` that gives the
            weight per unit of time.
        process: the process.
        s: time.
    """
    if weighting == "likelihood":
        return jnp.full_like(process.t1, 0.5)
    if weighting == "uniform":
        return time_per_log_snr(process, s) / (process.t1 - process.t0)
    assert callable(weighting)
    return weighting(process, s) * time_per_log_snr(process, s)

r"""The path bound: a simulation-free lower bound on log densities, with a Gaussian reference.

For the density $p_\theta$ of the reverse SDE started from `prior` (Song et al., 2101.09258; Huang
et al., 2106.02808; Premkumar, Diffusion Density Estimators, 2410.06986),

$$\log p_\theta(x) \ge E[\log prior(Y_T)] - \int E\left[\tfrac{\sigma^2}{2}\|s_\theta\|^2 +
(b - \sigma^2 s_\theta)\cdot\nabla\log p(Y_s|x)\right]ds,$$

with equality for the exact score and `prior` $= p_T$. The same identity holds with equality for a
Gaussian reference r with its own score. Subtracting it leaves

$$\log p_\theta(x) \ge \log r(x) + E\left[\log\frac{prior(Y_T)}{r_T(Y_T)}\right] -
\int\frac{\Sigma^2}{2}E\left[(s_\theta - s_r)\cdot\left(s_\theta + s_r +
\tfrac{2z}{\Sigma}\right)\right](-d\lambda),$$

where only what is not Gaussian is left to Monte Carlo. Antithetic pairs (z, -z) cancel the
$1/\Sigma$ term; log-SNR is stratified under a proposal set by a pilot.

Per unit log-SNR the integrand decays like $e^{-\lambda}$ at the data end where the model has a
density. Where it has none, as on a manifold, it stays at minus half the codimension and the bound
is infinite: the pilot looks, and asks for a cut-off.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key
from entropix._core.checks import positive_integer, samples
from entropix._core.chunks import in_chunks, unchunk
from entropix._core.interfaces import AbstractModel
from entropix.density.integrand import BoundIntegrand
from entropix.density.method import AbstractDensityMethod
from entropix.density.result import LogDensity
from entropix.distributions import Gaussian
from entropix.entropy.axis import LogSNRAxis
from entropix.entropy.functional import check_data_end
from entropix.entropy.integrate import (
    BINS,
    PILOT_SHARE,
    Proposal,
    mean_rate,
    proposal_of,
    tail_window,
)
from entropix.entropy.reference import GaussianReference, reference_of


# Pairs that look at the data end, whatever the pilot: it has few there when samples are few.
_TAIL_PAIRS = 32


class PathBound(AbstractDensityMethod):
    """Lower bound on the log density of the reverse SDE, without simulating it.

    Args:
        num_evaluations: evaluations of the model's field per sample, even, at least 16.
        reference: a `Gaussian`, or samples, shape (M, *shape), whose moments make one; None takes
            the moments of the evaluated samples themselves. Any choice is unbiased; the closer to
            the data, the smaller the variance. A `Gaussian` for examples of several axes is one
            of the flattened examples.

    Raises:
        ValueError: if `num_evaluations` is not an even integer of at least 16, or `reference` is
            neither.
    """

    num_evaluations: int = eqx.field(static=True)
    reference: GaussianReference | None

    def __init__(self, num_evaluations: int = 128, reference: Any = None):
        self.num_evaluations = positive_integer(num_evaluations, "num_evaluations", 16)
        if self.num_evaluations % 2:
            raise ValueError(
                f"`num_evaluations` must be even (antithetic pairs), got {num_evaluations}."
            )
        if reference is None or isinstance(reference, GaussianReference):
            self.reference = reference
        elif isinstance(reference, Gaussian):
            self.reference = GaussianReference.from_gaussian(reference)
        else:
            self.reference = reference_of(samples(reference, "reference"))

    def evaluate(
        self,
        model: AbstractModel,
        x: Float[Array, "n *shape"],
        *,
        prior: Any,
        condition: Any,
        cutoff: Array | None,
        key: Key | None,
        chunk_size: int,
    ) -> LogDensity:
        if key is None:
            raise ValueError("`key` must be given for PathBound, got None.")
        reference = reference_of(x) if self.reference is None else self.reference
        if reference.mean.size != x[0].size:
            raise ValueError(
                f"`reference` must have the dimension {x[0].size} of the samples, "
                f"got {reference.mean.size}."
            )
        axis = LogSNRAxis.of(model.process, reference.mean_variance, cutoff)
        integrand = BoundIntegrand(model, reference, axis)
        pilot_key, main_key = jax.random.split(key)
        # The pilot is shared by all samples: its share of their evaluations, up to a few thousand.
        pilot_pairs = min(round(PILOT_SHARE * self.num_evaluations * x.shape[0] / 2), 2048)
        pilot_pairs = max(pilot_pairs, BINS)
        proposal, tail, peak = _pilot(
            integrand, x, condition, key=pilot_key, pairs=pilot_pairs, chunk=chunk_size
        )
        proposal = check_data_end(proposal, tail, peak, cutoff)
        value, stderr = _bound(
            integrand,
            proposal,
            x,
            condition,
            prior,
            key=main_key,
            strata=self.num_evaluations // 2,
            chunk=max(chunk_size // 2, 1),
        )
        shared = 2 * (pilot_pairs + (_TAIL_PAIRS if cutoff is None else 0))
        spent = self.num_evaluations + -(-shared // x.shape[0])
        return LogDensity(value, stderr, spent, cutoff)


@eqx.filter_jit
def _pilot(
    integrand: BoundIntegrand, x: Array, condition: Any, *, key: Key, pairs: int, chunk: int
) -> tuple[Proposal, tuple[Array, Array], Array]:
    """A proposal, the mean rate of the log density at the data end, and its largest anywhere."""
    axis = integrand.axis
    jitter_key, index_key, noise_key = jax.random.split(key, 3)
    jitter = jax.random.uniform(jitter_key, (pairs,), x.dtype, minval=1e-6)
    fraction = (jnp.arange(pairs) + jitter) / pairs
    count = pairs
    low, high = tail_window(x)
    if not axis.has_cutoff:
        count = pairs + _TAIL_PAIRS
        far = low + (high - low) * (jnp.arange(_TAIL_PAIRS, dtype=x.dtype) + 0.5) / _TAIL_PAIRS
        fraction = jnp.concatenate([fraction, axis.fraction(far)])
    index = jax.random.randint(index_key, (count,), 0, x.shape[0])

    def values(args: Any, _: Array) -> Array:
        def one(f: Array, i: Array, n: Array) -> Array:
            z = jax.random.normal(jax.random.fold_in(noise_key, n), x.shape[1:], x.dtype)
            return integrand.pair(f, x[i], jax.tree.map(lambda c: c[i], condition), z)

        return jax.vmap(one)(*args)

    out = in_chunks(values, (fraction, index, jnp.arange(count)), count, max(chunk // 2, 1))
    out = jax.lax.stop_gradient(unchunk(out, count))
    rate = -out / axis.jacobian(fraction)
    # A process that starts short of the window has no rate there.
    tail = mean_rate(rate[pairs:], (axis.log_snr(fraction) < axis.log_snr(0.0))[pairs:])
    size = jnp.abs(rate[:pairs])
    bins = jnp.clip((fraction[:pairs] * BINS).astype(int), 0, BINS - 1)
    filled = jnp.maximum(jax.ops.segment_sum(jnp.ones_like(size), bins, BINS), 1.0)
    peak = jnp.max(jax.ops.segment_sum(size, bins, BINS) / filled)
    # Where all is Gaussian there is no rate but rounding: a hundredth counts as a peak.
    peak = jnp.maximum(peak, 0.01)
    return proposal_of(fraction[:pairs], out[:pairs]), *jax.lax.stop_gradient((tail, peak))


@eqx.filter_jit
def _bound(
    integrand: BoundIntegrand,
    proposal: Proposal,
    x: Array,
    condition: Any,
    prior: Any,
    *,
    key: Key,
    strata: int,
    chunk: int,
) -> tuple[Array, Array]:
    def one(sample: Array, chosen: Any, i: Array, j: Array) -> Array:
        jitter_key, noise_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, i), j))
        offset = jax.random.uniform(jitter_key, (), x.dtype, minval=1e-6)
        fraction, density, _ = proposal.place((j + offset) / strata)
        z = jax.random.normal(noise_key, sample.shape, x.dtype)
        path = integrand.pair(fraction, sample, chosen, z) / density
        if prior is None:  # the diffused reference stands for it: `DenoisingError`
            return -path
        return integrand.noise_end(prior, sample, z) - path

    def sample_chunk(args: Any, _: Array) -> tuple[Array, Array]:
        sample, chosen, i = args
        here = sample.shape[0]
        position = jnp.arange(here * strata)

        def values(where: Array, _: Array) -> Array:
            which, stratum = where // strata, where % strata
            return jax.vmap(one)(
                sample[which], jax.tree.map(lambda c: c[which], chosen), i[which], stratum
            )

        out = unchunk(in_chunks(values, position, here * strata, chunk), here * strata)
        out = out.reshape(here, strata)
        paired = out[:, : 2 * (strata // 2)]
        steps = jax.lax.stop_gradient((paired[:, 0::2] - paired[:, 1::2]) / strata)
        scale = strata / (2 * (strata // 2))  # an odd last stratum counts like the others
        return jnp.mean(out, axis=1), jnp.sqrt(scale * jnp.sum(steps**2, axis=1))

    count = x.shape[0]
    per_chunk = max(1, min(chunk // strata, count))
    value, stderr = in_chunks(sample_chunk, (x, condition, jnp.arange(count)), count, per_chunk)
    return jax.vmap(integrand.data_end)(x) + unchunk(value, count), unchunk(stderr, count)

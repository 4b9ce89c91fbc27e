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
is infinite: the pilot detects this, and asks for a cut-off.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key
from entropix._core.checks import positive_integer, samples
from entropix._core.chunks import in_chunks, unchunk
from entropix.density.integrand import BoundIntegrand
from entropix.density.method import AbstractDensityMethod
from entropix.density.result import LogDensity
from entropix.distributions import Gaussian
from entropix.entropy.axis import LogSNRAxis
from entropix.entropy.ends import check_ends, end_points, judge_ends, num_end_points
from entropix.entropy.integrate import (
    BINS,
    BLOCKS,
    Pilot,
    Proposal,
    peak_of,
    proposal_of,
)
from entropix.entropy.reference import GaussianReference, reference_of
from entropix.interfaces import AbstractModel


# Pairs at each of the points that decide whether the bound is finite.
_END_PAIRS = 16


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
        pilot_pairs = min(round(self.num_evaluations * x.shape[0] / (2 * BLOCKS)), 2048)
        pilot_pairs = max(pilot_pairs, BINS)
        pilot = _pilot(integrand, x, condition, key=pilot_key, pairs=pilot_pairs, chunk=chunk_size)
        proposal = check_ends(pilot.proposal, pilot.ends, cutoff, x)
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
        shared = 2 * (pilot_pairs + _END_PAIRS * num_end_points(model.process))
        spent = self.num_evaluations + -(-shared // x.shape[0])
        return LogDensity(value, stderr, spent, cutoff)


@eqx.filter_jit
def _pilot(
    integrand: BoundIntegrand, x: Array, condition: Any, *, key: Key, pairs: int, chunk: int
) -> Pilot:
    axis = integrand.axis
    jitter_key, index_key, noise_key = jax.random.split(key, 3)
    jitter = jax.random.uniform(jitter_key, (pairs,), x.dtype, minval=1e-6)
    fraction = (jnp.arange(pairs) + jitter) / pairs
    index = jax.random.randint(index_key, (pairs,), 0, x.shape[0])
    # A sweep of the axis, then the same samples and noise at each of its end points.
    ends = end_points(integrand.process, axis, x)
    places = jnp.concatenate([fraction, jnp.repeat(axis.fraction(ends), _END_PAIRS)])
    numbers = jnp.concatenate([jnp.arange(pairs), jnp.tile(jnp.arange(_END_PAIRS), len(ends))])

    def values(args: Any, _: Array) -> Array:
        def one(f: Array, n: Array) -> Array:
            z = jax.random.normal(jax.random.fold_in(noise_key, n), x.shape[1:], x.dtype)
            i = index[n]
            return integrand.pair(f, x[i], jax.tree.map(lambda c: c[i], condition), z)

        return jax.vmap(one)(*args)

    count = places.shape[0]
    out = in_chunks(values, (places, numbers), count, max(chunk // 2, 1))
    out = jax.lax.stop_gradient(unchunk(out, count))
    # Of the log density, which falls where the integrand is positive.
    rates = -out / axis.jacobian(places)
    # Where all is Gaussian there is no rate but rounding: a hundredth counts as a peak.
    peak = jnp.maximum(peak_of(fraction, rates[:pairs]), 0.01)
    at_ends = rates[pairs:].reshape(len(ends), _END_PAIRS)
    judged = judge_ends(ends, at_ends, peak, axis, x, fraction, out[:pairs])
    return Pilot(proposal_of(fraction, out[:pairs]), judged)


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

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

With a cut-off the process starts from $\mu_c x$, at the time $s_c$ at which $\Sigma$ equals it. It
reaches

$$Y_s = \mu x + \Sigma k z, \qquad k^2 = 1 - e^{\lambda - \lambda_c},$$

and the identity above holds with $z/\Sigma k$ in place of $z/\Sigma$, $r_c$ in place of r, and
$D\log\mu_c$ for the change of units from $\mu_c x$ to $x$. Without one $\lambda_c$ is infinite and
$k = 1$.
"""

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key
from entropix._core.checks import positive_integer, samples
from entropix._core.chunks import in_chunks, unchunk
from entropix._core.compiled import lightly_compiled
from entropix.density.tokens import token_bound
from entropix.distributions import Gaussian
from entropix.estimators import (
    EndRates,
    GaussianReference,
    LogSNRAxis,
    Proposal,
    check_ends,
    end_points,
    error_difference,
    judge_ends,
    learn_proposal,
    noise_end_of_parts,
    num_end_points,
    reference_of,
)
from entropix.interfaces import (
    AbstractDensityMethod,
    AbstractGaussianProcess,
    AbstractModel,
    AbstractTokenProcess,
    SampleEstimates,
)
from entropix.models import noise_limits


# Pairs at each of the points that decide whether the bound is finite.
_END_PAIRS = 16
# The pilot, shared by all samples: this share of their evaluations, within these numbers of pairs.
_PILOT_SHARE, _FEWEST, _MOST = 1 / 7, 64, 2048


class PathBound(AbstractDensityMethod):
    """Lower bound on the log density of the reverse SDE, without simulating it.

    For a model of tokens: on the log probability of the reverse jump process. A reference is not
    used, and at least 32 evaluations are taken for each sample.

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

    def __init__(
        self,
        num_evaluations: int = 128,
        reference: Gaussian | GaussianReference | DataLike | None = None,
    ):
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
        condition: PyTree,
        cutoff: Array | None,
        key: Key | None,
        chunk_size: int,
    ) -> SampleEstimates:
        if key is None:
            raise ValueError("`key` must be given for PathBound, got None.")
        if isinstance(model.process, AbstractTokenProcess):
            return token_bound(
                model,
                x,
                num_evaluations=max(self.num_evaluations, 32),
                prior=prior,
                condition=condition,
                key=key,
                chunk_size=chunk_size,
            )
        reference = reference_of(x) if self.reference is None else self.reference
        own, dim = reference.centre.size, math.prod(x.shape[1:])  # `mean` is a product of matrices
        if own != dim:
            raise ValueError(
                f"`reference` must have the dimension {dim} of the samples, got {own}."
            )
        axis = LogSNRAxis.of(model.process, reference.mean_variance, cutoff)
        integrand = _Integrand(model, reference, axis)
        pilot_key, main_key = jax.random.split(key)
        pilot_pairs = round(self.num_evaluations * x.shape[0] * _PILOT_SHARE / 2)
        pilot_pairs = max(min(pilot_pairs, _MOST), _FEWEST)
        proposal, ends = _pilot(
            integrand, x, condition, key=pilot_key, pairs=pilot_pairs, chunk=chunk_size
        )
        proposal = check_ends(proposal, ends, cutoff, x)
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
        beyond = None
        if noise_limits(model) is not None:  # otherwise no program for the moments is needed
            around = reference if self.reference is None else reference_of(x)
            beyond = noise_end_of_parts(model, model.process, around, samples=x, residual=True)
        stderr = stderr if beyond is None else jnp.hypot(stderr, beyond)
        shared = 2 * (pilot_pairs + _END_PAIRS * num_end_points(model.process))
        spent = self.num_evaluations + -(-shared // x.shape[0])
        return SampleEstimates(value, stderr, spent, cutoff)


class DenoisingError(AbstractDensityMethod):
    r"""$-\log p(x) = -\log r(x) + \frac12\int[\mathrm{mmse}(x, g) - \mathrm{mmse}_r(x, g)]\,dg$.

    $g = e^\lambda$ is the signal-to-noise ratio, $\mathrm{mmse}(x, g) = E\|x - D(y)\|^2$ the error
    of the model's denoiser at $y = \mu x + \Sigma z$, and $r$ a Gaussian reference, whose errors
    take the place of $d/(1 + g)$. Pointwise exact for the optimal denoiser and neither a bound nor
    a density otherwise (Kong, Brekelmans, Ver Steeg, 2302.03792).

    In terms of scores the integrand is that of `PathBound`, $\frac12\Sigma^2(s - s_r)\cdot(s + s_r
    + 2z/\Sigma)\,d\lambda$, and so is the estimator: a pilot, importance sampling of the log-SNR,
    antithetic noise. What differs is the end: no prior enters, and below the lowest
    signal-to-noise ratio of the process the denoiser is taken to be the reference's.

    With a cut-off it is the error over signal-to-noise ratios up to that of the cut-off, which
    gives the density of the data with that noise.

    Args: as `PathBound`.
    """

    bound: PathBound

    def __init__(
        self,
        num_evaluations: int = 128,
        reference: Gaussian | GaussianReference | DataLike | None = None,
    ):
        self.bound = PathBound(num_evaluations, reference)

    def evaluate(
        self,
        model: AbstractModel,
        x: Float[Array, "n *shape"],
        *,
        prior: Any,
        condition: PyTree,
        cutoff: Array | None,
        key: Key | None,
        chunk_size: int,
    ) -> SampleEstimates:
        del prior
        return self.bound.evaluate(
            model,
            x,
            prior=None,
            condition=condition,
            cutoff=cutoff,
            key=key,
            chunk_size=chunk_size,
        )


class _Integrand(eqx.Module):
    """The integrand of the path bound and its terms at both ends, for one sample."""

    model: AbstractModel
    reference: GaussianReference
    axis: LogSNRAxis

    def _kept(self, fraction: Any) -> Array:
        """$k$: what is left of the noise of the process where it starts at a cut-off."""
        if not self.axis.has_cutoff:
            return jnp.ones_like(self.axis.centre)
        passed = self.axis.log_snr(0.0) - self.axis.log_snr(fraction)
        # Closer to the cut-off than this, rounding would pull a pair of states apart or together.
        return jnp.sqrt(-jnp.expm1(-jnp.maximum(passed, 1e-5)))

    def pair(
        self,
        fraction: Array,
        x: Float[Array, "*shape"],
        condition: PyTree,
        z: Float[Array, "*shape"],
    ) -> Float[Array, ""]:
        """The integrand per unit of the axis, averaged over (z, -z)."""
        process: AbstractGaussianProcess = self.model.process
        kept = self._kept(fraction)
        s = process.time_of_log_snr(self.axis.log_snr(fraction))

        def one(noise: Array) -> Array:
            y = process.perturb(s, x, kept * noise)
            field = self.model.entropy_field(s, y, condition)
            known = self.reference.entropy_field(process, s, y)
            return error_difference(process, s, y, noise / kept, field, known)

        weight = self.axis.jacobian(fraction) * process.measure(s)
        return weight * jnp.mean(jax.vmap(one)(jnp.stack([z, -z])))

    def noise_end(
        self, prior: Any, x: Float[Array, "*shape"], z: Float[Array, "*shape"]
    ) -> Float[Array, ""]:
        r"""$\log prior(Y_T) - \log r_T(Y_T)$, averaged over (z, -z)."""
        process, kept = self.model.process, self._kept(1.0)

        def one(noise: Array) -> Array:
            y = process.perturb(process.t1, x, kept * noise)
            return prior.log_prob(y) - self.reference.log_prob(process, process.t1, y)

        return (one(z) + one(-z)) / 2

    def data_end(self, x: Float[Array, "*shape"]) -> Float[Array, ""]:
        r"""$\log r(x)$, or with a cut-off $\log r_c(\mu_c x) + D\log\mu_c$."""
        if not self.axis.has_cutoff:
            return self.reference.log_prob_undiffused(x)
        process = self.model.process
        start = self.axis.start_time(process)
        there = self.reference.log_prob(process, start, process.scale(start) * x)
        return there + x.size * process.log_scale(start)


@functools.partial(lightly_compiled, level=1)
def _pilot(
    integrand: _Integrand, x: Array, condition: PyTree, *, key: Key, pairs: int, chunk: int
) -> tuple[Proposal, EndRates]:
    axis = integrand.axis
    jitter_key, index_key, noise_key = jax.random.split(key, 3)
    jitter = jax.random.uniform(jitter_key, (pairs,), x.dtype, minval=1e-6)
    fraction = (jnp.arange(pairs) + jitter) / pairs
    index = jax.random.randint(index_key, (pairs,), 0, x.shape[0])
    # A sweep of the axis, then the same samples and noise at each of its end points.
    ends = end_points(integrand.model.process, axis, x)
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
    # Rates of the log density, which falls where the integrand is positive.
    rates = -out / axis.jacobian(places)
    proposal, peak = learn_proposal(fraction, out[:pairs], None, rates[:pairs])
    # Where all is Gaussian there is no rate but rounding: a hundredth counts as a peak.
    peak = jnp.maximum(peak, 0.01)
    at_ends = rates[pairs:].reshape(len(ends), _END_PAIRS)
    return proposal, judge_ends(ends, at_ends, peak, axis, x, fraction, out[:pairs])


@functools.partial(lightly_compiled, level=1)
def _bound(
    integrand: _Integrand,
    proposal: Proposal,
    x: Array,
    condition: PyTree,
    prior: Any,
    *,
    key: Key,
    strata: int,
    chunk: int,
) -> tuple[Array, Array]:
    def one(sample: Array, chosen: PyTree, i: Array, j: Array) -> Array:
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

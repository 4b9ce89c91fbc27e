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
from entropix.density.method import AbstractDensityMethod
from entropix.density.result import LogDensity
from entropix.entropy.axis import LogSNRAxis
from entropix.entropy.denoising import error_difference
from entropix.entropy.integrate import BINS, PILOT_SHARE, Proposal, proposal_of
from entropix.entropy.reference import GaussianReference, reference_of


class PathBound(AbstractDensityMethod):
    """Lower bound on the log density of the reverse SDE, without simulating it.

    Args:
        num_evaluations: evaluations of the model's field per sample, even, at least 16.
        reference: samples, shape (M, *shape), whose moments make the Gaussian reference; None takes
            the moments of the evaluated samples themselves. Any choice is unbiased.

    Raises:
        ValueError: if `num_evaluations` is not an even integer of at least 16.
    """

    num_evaluations: int = eqx.field(static=True)
    reference: Float[Array, "m *shape"] | None

    def __init__(self, num_evaluations: int = 128, reference: Any = None):
        self.num_evaluations = positive_integer(num_evaluations, "num_evaluations", 16)
        if self.num_evaluations % 2:
            raise ValueError(
                f"`num_evaluations` must be even (antithetic pairs), got {num_evaluations}."
            )
        self.reference = None if reference is None else samples(reference, "reference")

    def evaluate(
        self,
        model: AbstractModel,
        x: Float[Array, "n *shape"],
        *,
        prior: Any,
        condition: Any,
        key: Key | None,
        chunk_size: int,
    ) -> LogDensity:
        if key is None:
            raise ValueError("`key` must be given for PathBound, got None.")
        reference = reference_of(x if self.reference is None else self.reference)
        axis = LogSNRAxis.of(model.process, reference.mean_variance)
        pilot_key, main_key = jax.random.split(key)
        # The pilot is shared by all samples: its share of their evaluations, up to a few thousand.
        pilot_pairs = min(round(PILOT_SHARE * self.num_evaluations * x.shape[0] / 2), 2048)
        pilot_pairs = max(pilot_pairs, BINS)
        strata = self.num_evaluations // 2
        proposal = _pilot(
            model, reference, axis, x, condition, key=pilot_key, pairs=pilot_pairs, chunk=chunk_size
        )
        value, stderr = _bound(
            model,
            reference,
            axis,
            proposal,
            x,
            condition,
            prior,
            key=main_key,
            strata=strata,
            chunk=max(chunk_size // 2, 1),
        )
        return LogDensity(value, stderr, self.num_evaluations + -(-2 * pilot_pairs // x.shape[0]))


def _pair(
    model: AbstractModel,
    reference: GaussianReference,
    axis: LogSNRAxis,
    fraction: Array,
    x: Array,
    condition: Any,
    z: Array,
) -> Array:
    """The integrand per unit of the axis, averaged over (z, -z)."""
    process = model.process
    s = process.time_of_log_snr(axis.log_snr(fraction))

    def one(noise: Array) -> Array:
        y = process.perturb(s, x, noise)
        field = model.entropy_field(s, y, condition)
        known = reference.entropy_field(process, s, y)
        return error_difference(process, s, y, noise, field, known)

    return axis.jacobian(fraction) * jnp.mean(jax.vmap(one)(jnp.stack([z, -z])))


@eqx.filter_jit
def _pilot(
    model: AbstractModel,
    reference: GaussianReference,
    axis: LogSNRAxis,
    x: Array,
    condition: Any,
    *,
    key: Key,
    pairs: int,
    chunk: int,
) -> Proposal:
    jitter_key, index_key, noise_key = jax.random.split(key, 3)
    jitter = jax.random.uniform(jitter_key, (pairs,), x.dtype, minval=1e-6)
    fraction = (jnp.arange(pairs) + jitter) / pairs
    index = jax.random.randint(index_key, (pairs,), 0, x.shape[0])

    def values(args: Any, _: Array) -> Array:
        def one(f: Array, i: Array, n: Array) -> Array:
            z = jax.random.normal(jax.random.fold_in(noise_key, n), x.shape[1:], x.dtype)
            chosen = jax.tree.map(lambda c: c[i], condition)
            return _pair(model, reference, axis, f, x[i], chosen, z)

        return jax.vmap(one)(*args)

    out = in_chunks(values, (fraction, index, jnp.arange(pairs)), pairs, max(chunk // 2, 1))
    return proposal_of(fraction, unchunk(out, pairs))


@eqx.filter_jit
def _bound(
    model: AbstractModel,
    reference: GaussianReference,
    axis: LogSNRAxis,
    proposal: Proposal,
    x: Array,
    condition: Any,
    prior: Any,
    *,
    key: Key,
    strata: int,
    chunk: int,
) -> tuple[Array, Array]:
    process = model.process
    end = process.t1

    def one(sample: Array, chosen: Any, i: Array, j: Array) -> Array:
        jitter_key, noise_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, i), j))
        offset = jax.random.uniform(jitter_key, (), x.dtype, minval=1e-6)
        fraction, density, _ = proposal.place((j + offset) / strata)
        z = jax.random.normal(noise_key, sample.shape, x.dtype)
        path = _pair(model, reference, axis, fraction, sample, chosen, z) / density
        if prior is None:  # the diffused reference stands for it: `DenoisingError`
            return -path
        ends = [process.perturb(end, sample, noise) for noise in (z, -z)]
        ratio = sum(prior.log_prob(y) - reference.log_prob(process, end, y) for y in ends) / 2
        return ratio - path

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

    def known(sample: Array) -> Array:
        return reference.log_prob_undiffused(sample)

    return jax.vmap(known)(x) + unchunk(value, count), unchunk(stderr, count)

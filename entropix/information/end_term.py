r"""What a process has not erased: the end term of an integral, added to it.

Information measures are $\int\frac{\sigma^2}{2}E[f]\,ds$ plus a divergence at $t_1$, where
$KL(p_T\|q_T)$ is left. It is zero where the process ends in noise, and not small where the data are
wide: the signal-to-noise ratio at $t_1$, times the data's variance, decides.

**Exact models** are known at any noise, and per unit log-SNR the integral is the same for every
Gaussian process. It is taken along a process that ends in noise: no end term is left.

**Other models** are known on their own process only. Below its last log-SNR their densities are
continued as Gaussians $N_p$, $N_q$, which are read from the fields at $t_1$: with $u = \Sigma s$,
that of a Gaussian is $u = -Q(y - m)/\Sigma$, $Q = \Sigma^2P^{-1}$, and linear regression of u on
$y/\Sigma$ gives Q and m. For the field of the very density that y is drawn from, whatever it is,
$E[s\,(y - m)^T] = -1$ makes this the Gaussian with its moments. A density that depends on a
condition has a Gaussian for each class, if classes are few; otherwise a common Q, of the difference
of the fields at $\mu x \pm \Sigma z$, and an m for each sample, of their mean. Then

$$KL(N_p\|N_q) = \tfrac12\left[\mathrm{tr}(Q_qQ_p^{-1}) - D - \log\det Q_qQ_p^{-1} +
\Sigma^{-2}E\,(m_p - m_q)^TQ_q(m_p - m_q)\right]$$

("score"), or the difference of the mean log densities of the two Gaussians on the diffused data
("denoising"). Where q is the mean of p over classes, it is the mixture of their Gaussians.

What is not Gaussian adds $KL(p_T\|N_p)$, and takes away as much for q. The logarithmic Sobolev
inequality of a Gaussian bounds it by the field at $t_1$,

$$0 \le KL(p_T\|N_p) \le \tfrac12 E\,(u_p - u_{N_p})^TQ_p^{-1}(u_p - u_{N_p}).$$

Half of the bound is added, and half of it is a part of the standard error. (For q the expectation
ought to be over q, and is over p.)
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from entropix._core.arrays import Key, safe_sqrt
from entropix._core.checks import conditions, is_concrete, samples
from entropix._core.chunks import in_chunks, unchunk
from entropix.entropy.axis import log_snr_of_std
from entropix.entropy.curve import EntropyCurve, curve_of
from entropix.entropy.functional import check_cutoff
from entropix.entropy.integrate import gaussian_process
from entropix.entropy.reference import GaussianReference
from entropix.information.forms import DenoisingForm, Form
from entropix.interfaces import AbstractGaussianProcess, Estimate
from entropix.processes import LinearSchedule, VariancePreserving


# Antithetic pairs at which the fields are read at t1, and groups of them for the jackknife.
_PAIRS = 1024
_PARTS = 16
# More classes than this count as a continuous condition.
_CLASSES = 64
# Up to here Q is a full matrix. Beyond, it is taken to be diagonal, and counts as not Gaussian.
_DENSE = 64
# B(t1) of the process along which exact models are continued: e^-60 of the data's power is left.
_ERASURE = 60.0


def with_end_term(
    functional: Form, data: Any, *, key: Key, condition: Any, cutoff: Any, **options: Any
) -> Estimate:
    """The integral of `functional` down to pure noise."""
    if not functional.pair.is_exact:
        return curve_with_end_term(
            functional, data, key=key, condition=condition, cutoff=cutoff, **options
        ).total
    data = samples(data)
    cutoff = check_cutoff(functional, cutoff)
    moved, moved_cutoff, stretch = _along_another(functional, data, cutoff)
    total = _integral(
        moved, data, key=key, condition=condition, cutoff=moved_cutoff, **options
    ).total
    total = eqx.tree_at(
        lambda e: e.bias, total, jnp.zeros_like(total.value), is_leaf=lambda x: x is None
    )
    if cutoff is None:
        return total
    return eqx.tree_at(lambda e: (e.cutoff, e.slope), total, (cutoff, stretch * total.slope))


@eqx.filter_jit
def _along_another(
    functional: Form, data: Array, cutoff: Array | None
) -> tuple[Form, Array | None, Array | None]:
    r"""The functional along a process that ends in noise, and its cut-off there.

    A cut-off is carried over by its noise-to-signal ratio; the last output is what turns a slope
    per $-\ln\Sigma$ of the new process into one of the old.
    """
    own = gaussian_process(functional)
    # An equilibrium as wide as the data: with it, entropy fields lose least to cancellation.
    variance = GaussianReference.from_data(data).mean_variance
    log_snr = None
    if cutoff is not None:
        log_snr = log_snr_of_std(own, cutoff)
        variance = variance + jax.lax.stop_gradient(jnp.exp(-log_snr))
    schedule = LinearSchedule(_ERASURE, _ERASURE)
    process = VariancePreserving(schedule, jax.lax.stop_gradient(jnp.sqrt(variance)))
    moved = eqx.tree_at(lambda f: f.pair, functional, functional.pair.with_process(process))
    if log_snr is None:
        return moved, None, None

    def share(process: AbstractGaussianProcess) -> Array:
        r"""$d\ln\Sigma/d(-\lambda)$, times two."""
        s = process.time_of_log_snr(log_snr)
        return process.equilibrium_gain(s) * process.scale(s)

    std = process.std(process.time_of_log_snr(log_snr))
    return moved, std, share(process) / share(own)


def _integral(functional: Form, data: Any, **options: Any) -> EntropyCurve:
    defaults = {"times": None, "num_times": 2, "control_variate": False, "divergence": None}
    return curve_of(functional, data, **(defaults | options))


def curve_with_end_term(
    functional: Form, data: Any, *, key: Key, condition: Any, chunk_size: int, **options: Any
) -> EntropyCurve:
    """The integral as it accumulates along its own process; the end term is in its total only.

    `times` and `num_times` are as for `entropy_curve`.
    """
    integral_key, end_key = jax.random.split(key)
    curve = _integral(
        functional, data, key=integral_key, condition=condition, chunk_size=chunk_size, **options
    )
    total = curve.total
    data = jnp.asarray(data, total.value.dtype)
    count = min(_PAIRS, max(options["num_evaluations"] // 4, 128))
    end = end_term(functional, data, condition, key=end_key, count=count, chunk_size=chunk_size)
    return eqx.tree_at(lambda c: c.total, curve, end.added_to(total))


class EndTerm(eqx.Module):
    r"""What is left at $t_1$, in nats.

    Attributes:
        value: an estimate of it.
        mc_stderr: its Monte Carlo error, for the given points.
        data_stderr: what the sampling of the data adds.
        allowance: how far it may be off because the densities are not Gaussian.
        num_evaluations: evaluations of each field.
    """

    value: Float[Array, ""]
    mc_stderr: Float[Array, ""]
    data_stderr: Float[Array, ""]
    allowance: Float[Array, ""]
    num_evaluations: int = eqx.field(static=True)

    def added_to(self, total: Estimate, sign: int = 1) -> Estimate:
        """An estimate with `sign` times the end term in its value and its errors."""
        # Both are means over the same samples, of which one often tells the other.
        gap = total.stderr**2 - total.mc_stderr**2
        from_data = safe_sqrt(jnp.where(jnp.isinf(total.mc_stderr), 0.0, gap))  # not inf - inf
        from_data = from_data + self.data_stderr
        mc = total.mc_stderr**2 + self.mc_stderr**2
        return Estimate(
            total.value + sign * self.value,
            safe_sqrt(mc + from_data**2 + self.allowance**2),
            safe_sqrt(mc),
            total.num_evaluations + self.num_evaluations,
            total.cutoff,
            total.slope,
            jnp.zeros_like(total.value),
        )


def end_term(
    functional: Form,
    data: Array,
    condition: Any,
    *,
    key: Key,
    count: int = _PAIRS,
    chunk_size: int,
) -> EndTerm:
    """The end term of a pair of fields, read at `count` antithetic pairs of states at t1."""
    process = gaussian_process(functional)
    scale = process.scale(process.t1)
    if is_concrete(scale) and float(scale) == 0.0:
        zero = jnp.zeros((), data.dtype)
        return EndTerm(zero, zero, zero, zero, 0)
    condition = conditions(condition, data.shape[0])
    groups = [_groups(c, count, data[0].size) for c in functional.pair.conditions_of(condition)]
    parts = _end_term(functional, data, condition, groups, key, count, chunk_size)
    return EndTerm(*parts, 2 * count)


class _Groups(eqx.Module):
    """Which samples have one density in common: classes, or (no index) every one its own."""

    index: Int[Array, " n"] | None
    count: int = eqx.field(static=True)


def _is_dense(count: int, dim: int) -> bool:
    return dim <= min(_DENSE, count // 8)


def _groups(condition: Any, count: int, dim: int) -> _Groups:
    """The classes of a condition, if it has few and each enough samples to fit a Gaussian."""
    leaves = jax.tree.leaves(condition)
    if not leaves:
        return _Groups(None, 1)
    if not is_concrete(leaves):
        return _Groups(None, 0)
    samples = leaves[0].shape[0]

    def rows(stop: int) -> np.ndarray:
        # NumPy takes the slice: JAX would stage it out inside a transformation.
        parts = [np.asarray(v)[:stop].reshape(min(stop, samples), -1) for v in leaves]
        return np.concatenate([part.astype(float) for part in parts], axis=1)

    # A few samples tell that a condition is continuous.
    if len(np.unique(rows(1000), axis=0)) > _CLASSES:
        return _Groups(None, 0)
    _, index, sizes = np.unique(rows(samples), axis=0, return_inverse=True, return_counts=True)
    fewest = 8 * ((dim if _is_dense(count, dim) else 1) + 1)
    if len(sizes) > _CLASSES or sizes.min() * count < fewest * samples:
        return _Groups(None, 0)
    return _Groups(jnp.asarray(index.reshape(-1)), len(sizes))


class _Normals(eqx.Module):
    r"""Gaussians in units of $\Sigma$, one or one for each sample drawn.

    Attributes:
        precision: Q, or its diagonal, shape (k, D, D) or (k, D).
        mean: shape (m, D).
        which: the Q of each sample drawn, shape (m,).
    """

    precision: Array
    mean: Float[Array, "m dim"]
    which: Int[Array, " m"]

    def times(self, v: Float[Array, "m dim"]) -> Float[Array, "m dim"]:
        """Q v."""
        return _each(self.precision, self.which, v)

    def over(self, v: Float[Array, "m dim"]) -> Float[Array, "m dim"]:
        """The inverse of Q times v."""
        return _each(_inverse(self.precision), self.which, v)

    def square(self, v: Float[Array, "m dim"]) -> Float[Array, " m"]:
        return jnp.sum(v * self.times(v), axis=1)

    def trace(self) -> Float[Array, " m"]:
        return jnp.sum(_diagonal(self.precision), axis=1)[self.which]

    def log_det(self) -> Float[Array, " m"]:
        if self.precision.ndim == 2:
            return jnp.sum(jnp.log(self.precision), axis=1)[self.which]
        factors = jnp.linalg.cholesky(self.precision)
        return 2 * jnp.sum(jnp.log(_diagonal(factors)), axis=1)[self.which]

    def per(self, other: "_Normals") -> Float[Array, " m"]:
        """The trace of Q times the inverse of the other's."""
        inverse = _inverse(other.precision)
        axes = tuple(range(1, inverse.ndim))
        pairs = jnp.sum(self.precision[:, None] * inverse[None], axis=tuple(a + 1 for a in axes))
        return pairs[self.which, other.which]


def _diagonal(q: Array) -> Array:
    return q if q.ndim == 2 else jnp.diagonal(q, axis1=1, axis2=2)


def _inverse(q: Array) -> Array:
    return 1 / q if q.ndim == 2 else jnp.linalg.inv(q)


def _each(q: Array, which: Array, v: Array) -> Array:
    if q.ndim == 2:
        return q[which] * v
    return v @ q[0] if q.shape[0] == 1 else jnp.einsum("mij,mj->mi", q[which], v)


def _positive(q: Array) -> Array:
    """Symmetric, with eigenvalues above zero; derivatives are those of what was given."""
    least = 8 * jnp.finfo(q.dtype).eps
    if q.ndim == 2:
        return q + jax.lax.stop_gradient(jnp.maximum(q, least) - q)
    q = (q + jnp.swapaxes(q, 1, 2)) / 2
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(q))
    lift = vectors * jnp.maximum(least - values, 0.0)[:, None, :]
    return q + lift @ jnp.swapaxes(vectors, 1, 2)


def _slope(inputs: Array, outputs: Array, weight: Array, dense: bool) -> Array:
    """The matrix, or the diagonal one, by which outputs follow inputs, both centred."""
    weighted = weight[:, None] * inputs
    if dense:
        return jnp.linalg.solve(weighted.T @ inputs, weighted.T @ outputs)
    return jnp.sum(weighted * outputs, axis=0) / jnp.sum(weighted * inputs, axis=0)


def _fit(u: Array, y: Array, z: Array, weight: Array, group: Array, groups: _Groups) -> _Normals:
    r"""The Gaussians of a field u at the states y of pairs, shape (2, m, D), in units of $\Sigma$.

    `weight`, shape (m,), is that of each pair, and `group` its class.
    """
    dense = _is_dense(z.shape[0], z.shape[1])
    if groups.count == 0:
        odd, even = (u[0] - u[1]) / 2, (u[0] + u[1]) / 2
        q = _positive(-_slope(z, odd, weight, dense)[None])
        which = jnp.zeros_like(group)
        return _Normals(q, (y[0] + y[1]) / 2 + _each(_inverse(q), which, even), which)

    def one(k: Array) -> tuple[Array, Array, Array]:
        here = jnp.where(group == k, weight, 0.0)
        here = jnp.tile(here / jnp.sum(here), 2) / 2
        states, fields = y.reshape(-1, y.shape[-1]), u.reshape(-1, u.shape[-1])
        middle, pull = here @ states, here @ fields
        return -_slope(states - middle, fields - pull, here, dense), middle, pull

    q, middle, pull = jax.vmap(one)(jnp.arange(groups.count))
    q = _positive(q)
    mean = middle + _each(_inverse(q), jnp.arange(groups.count), pull)
    return _Normals(q, mean[group], group)


def _divergence(p: _Normals, q: _Normals, x: Array, denoising: bool) -> Float[Array, " m"]:
    """The end term of two Gaussians, for each sample drawn."""
    log_dets = p.log_det() - q.log_det()
    if denoising:
        own, other = (n.square(x - n.mean) + n.trace() for n in (p, q))
        return (log_dets - own + other) / 2
    apart = q.square(p.mean - q.mean)
    return (q.per(p) - x.shape[1] + log_dets + apart) / 2


def _mixture_information(p: _Normals, y: Array, share: Array) -> Float[Array, " m"]:
    """Mean log density of a class's Gaussian over that of the mixture, at the states of a pair."""
    count = share.shape[0]
    first = jnp.argmax(p.which[None] == jnp.arange(count)[:, None], axis=1)
    means, log_dets = p.mean[first], p.log_det()[first]

    def log_density(k: Array) -> Array:
        which = jnp.full_like(p.which, k)
        around = [v - means[k] for v in y]
        squares = [jnp.sum(v * _each(p.precision, which, v), axis=1) for v in around]
        return (log_dets[k] - jnp.stack(squares)) / 2

    each = jax.vmap(log_density)(jnp.arange(count))  # (classes, 2, m)
    own = jnp.take_along_axis(each, jnp.tile(p.which, (2, 1))[None], axis=0)[0]
    mixed = jax.nn.logsumexp(each + jnp.log(share)[:, None, None], axis=0)
    return jnp.mean(own - mixed, axis=0)


@eqx.filter_jit
def _end_term(
    functional: Form,
    data: Array,
    condition: Any,
    groups: Sequence[_Groups],
    key: Key,
    count: int,
    chunk_size: int,
) -> tuple[Array, Array, Array, Array]:
    pair, denoising = functional.pair, isinstance(functional, DenoisingForm)
    process = pair.process
    s = process.t1
    scale, std, precision = process.scale(s), process.std(s), process.equilibrium_precision(s)
    index_key, noise_key = jax.random.split(key)
    index = jax.random.randint(index_key, (count,), 0, data.shape[0])

    def read(args: Any, _: Array) -> Any:
        i, n = args

        def one(i: Array, n: Array) -> Any:
            x, c = data[i], jax.tree.map(lambda leaf: leaf[i], condition)
            z = jax.random.normal(jax.random.fold_in(noise_key, n), x.shape, x.dtype)
            states = [process.perturb(s, x, v) for v in (z, -z)]
            fields = [pair(s, y, c) for y in states]
            scores = [
                jnp.stack(
                    [std * (e[j] - precision * y) for e, y in zip(fields, states, strict=True)]
                )
                for j in (0, 1)
            ]
            return [v.reshape(2, -1) for v in scores], z.reshape(-1)

        return jax.vmap(one)(i, n)

    chunk = max(chunk_size // 2, 1)
    out = in_chunks(read, (index, jnp.arange(count)), count, chunk)
    fields, z = jax.tree.map(lambda leaf: unchunk(leaf, count), out)
    fields = [jnp.swapaxes(u, 0, 1) for u in fields]
    x = scale / std * data.reshape(data.shape[0], -1)
    group = [
        jnp.zeros_like(index) if g.index is None else g.index[index].astype(index.dtype)
        for g in groups
    ]
    one_for_all = all(g.count == 1 for g in groups)
    mixes = pair.marginal and groups[0].count > 1 and groups[1].count == 1
    share = None
    if mixes:
        assert groups[0].index is not None
        share = jnp.bincount(groups[0].index, length=groups[0].count) / data.shape[0]

    dense = _is_dense(count, z.shape[1])
    # About one of the samples: the squares of means far from zero are not to be subtracted.
    everyone = jnp.full(x.shape[0], 1 / x.shape[0], x.dtype)
    everywhere = _moments(x - x[index[0]], everyone, dense)

    def continued(
        fields: list[Array], x: Array, everywhere: Any, weight: Array
    ) -> tuple[Array, Array, Array]:
        """The end term; of each pair, the Gaussians' and the bounds on what is not Gaussian."""
        drawn = x[index]
        y = jnp.stack([drawn + z, drawn - z])
        fits = [
            _fit(u, y, z, weight, which, g)
            for u, which, g in zip(fields, group, groups, strict=True)
        ]
        bounds = [_beyond(u, y, z, fit, g) for u, fit, g in zip(fields, fits, groups, strict=True)]
        if share is not None:
            each = _mixture_information(fits[0], y, share)
            bounds[1] = jnp.zeros_like(each)
        else:
            each = _divergence(fits[0], fits[1], drawn, denoising)
        above, below = bounds
        value = weight @ (each + (above - below) / 2)
        if one_for_all and denoising:
            # Two Gaussians for all samples: the moments of all of them give the mean.
            here = _moments(drawn - x[index[0]], weight, dense)
            gap = jax.tree.map(jnp.subtract, everywhere, here)
            value = value + _moments_gap(fits[0], fits[1], x[index[0]], gap)
        return value, each + (above - below) / 2, above + below

    weight = jnp.full(count, 1 / count, data.dtype)
    value, *_ = continued(fields, x, everywhere, weight)
    frozen = jax.lax.stop_gradient((fields, x, everywhere))
    part = jnp.arange(count) % _PARTS
    weights = (part[None] != jnp.arange(-1, _PARTS)[:, None]).astype(data.dtype)  # all, then less
    weights = weights / jnp.sum(weights, axis=1, keepdims=True)

    def errors(weight: Array) -> tuple[Array, Array, Array]:
        value, each, bounds = continued(*frozen, weight)
        return value, jnp.std(each), weight @ bounds / 2

    values, spread, allowance = jax.lax.map(errors, weights)
    jackknife = jnp.sqrt((_PARTS - 1) * jnp.var(values[1:]))
    # Where the signal is strong, u is the small difference of an entropy field and equilibrium.
    drawn = frozen[1][index]
    pull = jnp.mean((precision * std**2) ** 2 * (drawn**2 + z**2))
    small = jnp.stack([jnp.mean(u**2) for u in frozen[0]])
    rounding = jnp.finfo(data.dtype).eps * jnp.sqrt(pull / jnp.min(small))
    allowance = allowance[0] + jax.lax.stop_gradient(2 * rounding * jnp.abs(values[0]))
    from_data = spread[0] / jnp.sqrt(data.shape[0])
    parts = (value, jackknife, from_data, allowance)
    value, jackknife, from_data, allowance = (jnp.where(scale > 0, part, 0.0) for part in parts)
    return value, jackknife, from_data, allowance


def _beyond(u: Array, y: Array, z: Array, fit: _Normals, groups: _Groups) -> Float[Array, " m"]:
    """The bound on the divergence of a density from its Gaussian, at each pair."""
    if groups.count == 0:
        # With a mean of its own for each sample the even part fits by construction: the odd part
        # stands for both.
        rest = (u[0] - u[1]) / 2 + fit.times(z)
        return jnp.sum(rest * fit.over(rest), axis=1)
    rests = [field + fit.times(state - fit.mean) for field, state in zip(u, y, strict=True)]
    squares = [jnp.sum(rest * fit.over(rest), axis=1) for rest in rests]
    return (squares[0] + squares[1]) / 4


def _moments(v: Array, weight: Array, dense: bool) -> tuple[Array, Array]:
    """Weighted mean of samples, and of their squares (of the products of their coordinates)."""
    return weight @ v, (weight[:, None] * v).T @ v if dense else weight @ v**2


def _moments_gap(
    p: _Normals, q: _Normals, middle: Array, gap: tuple[Array, Array]
) -> Float[Array, ""]:
    """What a gap between moments about `middle` does to the mean of `_divergence`."""
    mean, squares = gap
    at_q, at_p = (
        _each(n.precision, jnp.zeros(1, int), (middle - n.mean[0])[None])[0] for n in (q, p)
    )
    return jnp.sum((q.precision[0] - p.precision[0]) * squares) / 2 + jnp.sum(mean * (at_q - at_p))

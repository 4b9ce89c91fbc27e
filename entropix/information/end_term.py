r"""What a process has not erased: the end term of an integral, added to it.

Information measures are $\int\frac{\sigma^2}{2}E[f]\,ds$ plus the divergence $KL(p_T\|q_T)$ that is
left at $t_1$. It is zero where the process ends in noise, and not small where the data are
wide: the signal-to-noise ratio at $t_1$, times the data's variance, decides.

**Exact models** are known at any noise, and per unit log-SNR the integral is the same for every
Gaussian process. It is taken along a process that ends in noise: no end term is left.

**Other models** are known on their own process only. Below its last log-SNR their densities are
continued as Gaussians $N_p$, $N_q$, which are read from the fields at $t_1$ (see
`entropix.information.normals`). A density that is not Gaussian adds $KL(p_T\|N_p)$; that of q takes
away as much. Half of the bound on it is added, and half is a part of the standard error. (For q the
expectation ought to be over q, and is over p.)
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key, safe_sqrt
from entropix._core.checks import conditions, is_concrete, samples
from entropix._core.chunks import in_chunks, unchunk
from entropix._core.compiled import compiled
from entropix.estimators import (
    EntropyCurve,
    GaussianReference,
    Partition,
    PointwiseCurve,
    check_cutoff,
    integrate,
    integrate_parts,
    log_snr_of_std,
    std_of_log_snr,
)
from entropix.information.forms import DenoisingForm, ModelPair, ScoreForm, TokenForm, in_form
from entropix.information.normals import (
    Groups,
    fit_normals,
    groups_of,
    is_dense,
    mixture_information,
    moments,
    moments_gap,
    normal_divergence,
    sobolev_bound,
)
from entropix.interfaces import AbstractGaussianProcess, AbstractTokenProcess, Estimate
from entropix.processes import (
    CosineSchedule,
    LinearSchedule,
    UniformJumps,
    VariancePreserving,
    check_example_shape,
)


# Antithetic pairs at which the fields are read at t1, and groups of them for the jackknife.
_PAIRS = 1024
_PARTS = 16
# B(t1) of the process along which exact models are continued: e^-60 of the data's power is left.
_ERASURE = 60.0


def divided_or_whole(
    pair: ModelPair,
    form: str | None,
    data: DataLike,
    *,
    per_coordinate: bool | Callable = False,
    per_sample: bool = False,
    num_times: int,
    **options: Any,
) -> Estimate | PointwiseCurve:
    """The integral of a pair of fields in one of its forms: an estimate, or by parts if asked."""
    if per_coordinate is False and not per_sample:
        return with_end_term(in_form(pair, form), data, **options)
    data = samples(data)
    by = Partition.of(per_coordinate, data[0])
    return parts_with_end_term(
        in_form(pair, form, by), data, per_sample=per_sample, num_times=num_times, **options
    )


def with_end_term(
    functional: ScoreForm | DenoisingForm,
    data: DataLike,
    *,
    key: Key,
    condition: PyTree,
    cutoff: DataLike | None,
    **options: Any,
) -> Estimate:
    """The integral of `functional` down to pure noise."""
    if isinstance(functional.pair.model.process, AbstractTokenProcess):
        return tokens_curve(
            functional, data, key=key, condition=condition, cutoff=cutoff, **options
        ).total
    if not functional.pair.is_exact:
        return curve_with_end_term(
            functional, data, key=key, condition=condition, cutoff=cutoff, **options
        ).total
    data = samples(data)
    cutoff = check_cutoff(functional, cutoff)
    moved, moved_cutoff, stretch = _along_another(functional, data, cutoff)
    total = integrate(
        moved, data, key=key, condition=condition, cutoff=moved_cutoff, **options
    ).total
    total = eqx.tree_at(
        lambda e: e.bias, total, jnp.zeros_like(total.value), is_leaf=lambda x: x is None
    )
    return _on_own_process(total, cutoff, stretch)


def tokens_curve(
    functional: ScoreForm | DenoisingForm, data: DataLike, *, condition: PyTree, **options: Any
) -> EntropyCurve:
    """The integral for models of tokens, along a process that loses all of them."""
    data = samples(data)
    form = _token_form(functional, data)
    return integrate(form, data, condition=(data, condition), **options)


def _token_form(functional: ScoreForm | DenoisingForm, data: Array) -> TokenForm:
    pair: Any = functional.pair
    process = pair.model.process
    check_example_shape(pair.model, data, "data")
    if not process.ends_in_noise:
        if not pair.is_exact:
            raise ValueError(
                "`process` must lose all tokens for models with a network, got one that "
                "does not: train on a schedule whose integral is infinite (CosineSchedule)."
            )
        pair = pair.with_process(UniformJumps(process.num_tokens, CosineSchedule()))
    return TokenForm(pair, isinstance(functional, DenoisingForm), functional.partition)


def parts_with_end_term(
    functional: ScoreForm | DenoisingForm,
    data: DataLike,
    *,
    key: Key,
    condition: PyTree,
    cutoff: DataLike | None,
    num_evaluations: int,
    chunk_size: int,
    **options: Any,
) -> PointwiseCurve:
    """As `with_end_term`, by parts: an end term is not divided, and is the bias of the total.

    The times are those of the process along which the integral is taken: of exact models, another.
    """
    data = samples(data)
    common = {
        "condition": condition,
        "num_evaluations": num_evaluations,
        "chunk_size": chunk_size,
        "partition": functional.partition,
    }
    if isinstance(functional.pair.model.process, AbstractTokenProcess):
        form = _token_form(functional, data)
        common["condition"] = (data, condition)
        curve = integrate_parts(form, data, key=key, cutoff=cutoff, **common, **options)
        total, bias = curve.total, jnp.zeros_like(curve.total.value)
    elif functional.pair.is_exact:
        cutoff = check_cutoff(functional, cutoff)
        moved, moved_cutoff, stretch = _along_another(functional, data, cutoff)
        curve = integrate_parts(moved, data, key=key, cutoff=moved_cutoff, **common, **options)
        total = _on_own_process(curve.total, cutoff, stretch)
        bias = jnp.zeros_like(total.value)
    else:
        integral_key, end_key = jax.random.split(key)
        curve = integrate_parts(
            functional, data, key=integral_key, cutoff=cutoff, **common, **options
        )
        count = min(_PAIRS, max(num_evaluations // 4, 128))
        end = end_term(functional, data, condition, key=end_key, count=count, chunk_size=chunk_size)
        total, bias = curve.total, -end.value
    total = eqx.tree_at(lambda e: e.bias, total, bias, is_leaf=lambda x: x is None)
    return eqx.tree_at(lambda c: c.total, curve, total)


def _on_own_process(total: Estimate, cutoff: Array | None, stretch: Array | None) -> Estimate:
    """An estimate of a moved functional with the cut-off and the slope of its own process."""
    if cutoff is None:
        return total
    assert stretch is not None  # as there is a cut-off
    assert total.slope is not None
    return eqx.tree_at(lambda e: (e.cutoff, e.slope), total, (cutoff, stretch * total.slope))


@compiled
def erasing_process(variance: Array) -> VariancePreserving:
    """A process that ends in noise, for data of a variance, a constant for derivatives.

    Its equilibrium is as wide as the data: with it, entropy fields lose least to cancellation.
    """
    schedule = LinearSchedule(_ERASURE, _ERASURE)
    return VariancePreserving(schedule, jax.lax.stop_gradient(jnp.sqrt(variance)))


@compiled
def _along_another(
    functional: ScoreForm | DenoisingForm, data: Array, cutoff: Array | None
) -> tuple[ScoreForm | DenoisingForm, Array | None, Array | None]:
    r"""The functional along a process that ends in noise, and its cut-off there.

    A cut-off is carried over by its noise-to-signal ratio; the last output is what turns a slope
    per $-\ln\Sigma$ of the new process into one of the old.
    """
    own = functional.process
    variance = GaussianReference.from_data(data).mean_variance
    log_snr = None
    if cutoff is not None:
        log_snr = log_snr_of_std(own, cutoff)
        variance = variance + jax.lax.stop_gradient(jnp.exp(-log_snr))
    process = erasing_process(variance)
    moved = eqx.tree_at(lambda f: f.pair, functional, functional.pair.with_process(process))
    if log_snr is None:
        return moved, None, None

    def share(process: AbstractGaussianProcess) -> Array:
        r"""$d\ln\Sigma/d(-\lambda)$, times two."""
        s = process.time_of_log_snr(log_snr)
        return process.equilibrium_gain(s) * process.scale(s)

    return moved, std_of_log_snr(process, log_snr), share(process) / share(own)


def curve_with_end_term(
    functional: ScoreForm | DenoisingForm,
    data: DataLike,
    *,
    key: Key,
    condition: PyTree,
    chunk_size: int,
    **options: Any,
) -> EntropyCurve:
    """The integral as it accumulates along its own process.

    The end term is in its total; and in every point of it if it accumulates `from_noise`. `times`
    and `num_times` are as for `entropy_curve`.
    """
    if isinstance(functional.pair.model.process, AbstractTokenProcess):
        return tokens_curve(
            functional, data, key=key, condition=condition, chunk_size=chunk_size, **options
        )
    data = samples(data)
    integral_key, end_key = jax.random.split(key)
    curve = integrate(
        functional, data, key=integral_key, condition=condition, chunk_size=chunk_size, **options
    )
    count = min(_PAIRS, max(options["num_evaluations"] // 4, 128))
    end = end_term(functional, data, condition, key=end_key, count=count, chunk_size=chunk_size)
    if options.get("from_noise"):
        each = end.added_to(Estimate(curve.cumulative, curve.stderr, curve.mc_stderr))
        curve = eqx.tree_at(
            lambda c: (c.cumulative, c.stderr, c.mc_stderr),
            curve,
            (each.value, each.stderr, each.mc_stderr),
        )
    return eqx.tree_at(lambda c: c.total, curve, end.added_to(curve.total))


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
        # Both are means over the same samples, so their errors may be fully correlated.
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
            largest_noise=total.largest_noise,
        )


def end_term(
    functional: ScoreForm | DenoisingForm,
    data: Array,
    condition: PyTree,
    *,
    key: Key,
    count: int = _PAIRS,
    chunk_size: int,
) -> EndTerm:
    """The end term of a pair of fields, read at `count` antithetic pairs of states at t1."""
    process = functional.process
    scale = process.scale(process.t1)
    if is_concrete(scale) and float(scale) == 0.0:
        zero = jnp.zeros((), data.dtype)
        return EndTerm(zero, zero, zero, zero, 0)
    condition = conditions(condition, data.shape[0])
    groups = [groups_of(c, count, data[0].size) for c in condition]
    parts = _end_term(functional, data, condition, groups, key, count, chunk_size)
    return EndTerm(*parts, 2 * count)


@eqx.filter_jit
def _end_term(
    functional: ScoreForm | DenoisingForm,
    data: Array,
    condition: PyTree,
    groups: Sequence[Groups],
    key: Key,
    count: int,
    chunk_size: int,
) -> tuple[Array, Array, Array, Array]:
    pair, denoising = functional.pair, isinstance(functional, DenoisingForm)
    process = functional.process
    s = process.t1
    scale, std, precision = process.scale(s), process.std(s), process.equilibrium_precision(s)
    index_key, noise_key = jax.random.split(key)
    index = jax.random.randint(index_key, (count,), 0, data.shape[0])

    def read(args: Any, _: Array) -> Any:
        i, n = args

        def one(i: Array, n: Array) -> Any:
            x, c = data[i], jax.tree.map(lambda leaf: leaf[i], condition)
            z = jax.random.normal(jax.random.fold_in(noise_key, n), x.shape, x.dtype)
            states = jnp.stack([process.perturb(s, x, v) for v in (z, -z)])
            fields = jax.vmap(lambda y: pair(s, y, c))(states)
            scores = [std * (field - precision * states) for field in fields]
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
    classes, share = groups[0], None
    if pair.marginal and classes.index is not None and classes.count > 1 and groups[1].count == 1:
        share = jnp.bincount(classes.index, length=classes.count) / data.shape[0]

    dense = is_dense(count, z.shape[1])
    # About one of the samples: the squares of means far from zero are not to be subtracted.
    everyone = jnp.full(x.shape[0], 1 / x.shape[0], x.dtype)
    everywhere = moments(x - x[index[0]], everyone, dense)

    def continued(
        fields: list[Array], x: Array, everywhere: Any, weight: Array
    ) -> tuple[Array, Array, Array]:
        """The end term; of each pair, the Gaussians' and the bounds on what is not Gaussian."""
        drawn = x[index]
        y = jnp.stack([drawn + z, drawn - z])
        fits = [
            fit_normals(u, y, z, weight, which, g)
            for u, which, g in zip(fields, group, groups, strict=True)
        ]
        bounds = [
            sobolev_bound(u, y, z, fit, g) for u, fit, g in zip(fields, fits, groups, strict=True)
        ]
        if share is not None:
            each = mixture_information(fits[0], y, share)
            bounds[1] = jnp.zeros_like(each)
        else:
            each = normal_divergence(fits[0], fits[1], drawn, denoising)
        above, below = bounds
        value = weight @ (each + (above - below) / 2)
        if one_for_all and denoising:
            # Two Gaussians for all samples: the moments of all of them give the mean.
            here = moments(drawn - x[index[0]], weight, dense)
            gap = jax.tree.map(jnp.subtract, everywhere, here)
            value = value + moments_gap(fits[0], fits[1], x[index[0]], gap)
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

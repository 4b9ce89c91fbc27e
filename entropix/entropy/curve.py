r"""Entropy curves, neural entropy and total entropy production.

$$S_{NN} = \int_{t_0}^{t_1}\frac{\sigma^2}{2}\,E\|e_\theta(Y_s, s)\|^2\,ds$$

(Neural Entropy, 2409.03817), the information a network must store to undo the
diffusion; with the exact field in place of the network's it is the total entropy production
$S_{tot}$.
"""

from collections.abc import Callable
from typing import Any, Literal, overload

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key, RealScalarLike, squared_norm
from entropix._core.checks import samples
from entropix._core.precision import full_precision
from entropix.estimators import (
    EntropyControl,
    EntropyCurve,
    Partition,
    PointwiseCurve,
    Proposal,
    integrate,
    integrate_parts,
)
from entropix.interfaces import (
    AbstractFunctional,
    AbstractGaussianProcess,
    AbstractKernel,
    AbstractModel,
    AbstractProcess,
    Estimate,
)
from entropix.models import checked_model
from entropix.processes import check_example_shape


def thermodynamic_force(
    process: AbstractProcess, s: RealScalarLike, y: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    r"""$a = 2b/\sigma^2$, in closed form where the drift is linear."""
    if isinstance(process, AbstractGaussianProcess):
        return process.equilibrium_score(s, y)
    return 2 * process.drift(s, y) / process.sigma_squared(s)


class EntropyProduction(AbstractFunctional):
    r"""$\|a - \nabla\log p\|^2$: its integral is $S_{NN}$, and $S_{tot}$ of an exact model.

    Here $a = 2b/\sigma^2$ is the thermodynamic force. For a Gaussian process it is the equilibrium
    score, and the integrand is $\|e\|^2$, the squared norm of the entropy field. On tokens it is
    the divergence $d(f, 0)$ of the reverse rates from those at equilibrium. With a partition `rate`
    returns its parts, for `entropix.estimators.integrate_parts`.
    """

    model: AbstractModel = eqx.field(converter=checked_model)
    partition: Partition | None = None
    uses_noise = False
    control = EntropyControl()

    @property
    def process(self) -> AbstractProcess | AbstractKernel:
        return self.model.process

    def rate(
        self, s: RealScalarLike, y: Float[Array, "*shape"], z: PyTree, condition: PyTree
    ) -> Float[Array, "..."]:
        process = self.process
        if not isinstance(process, AbstractProcess):  # tokens, alone or beside numbers
            field = self.model.entropy_field(s, y, condition)
            sites = process.field_divergence(s, y, field)
            return jnp.sum(sites) if self.partition is None else self.partition.sites(sites)
        if isinstance(process, AbstractGaussianProcess):
            field = self.model.entropy_field(s, y, condition)
        else:
            field = thermodynamic_force(process, s, y) - self.model.score(s, y, condition)
        return squared_norm(field) if self.partition is None else self.partition.inner(field, field)


@overload
def entropy_curve(
    model: AbstractModel,
    data: DataLike,
    *,
    key: Key,
    per_coordinate: Literal[False] = False,
    per_sample: Literal[False] = False,
    **options: Any,
) -> EntropyCurve: ...


@overload
def entropy_curve(
    model: AbstractModel,
    data: DataLike,
    *,
    key: Key,
    per_coordinate: Literal[True] | Callable,
    per_sample: bool = False,
    **options: Any,
) -> PointwiseCurve: ...


@overload
def entropy_curve(
    model: AbstractModel,
    data: DataLike,
    *,
    key: Key,
    per_coordinate: bool | Callable = False,
    per_sample: Literal[True],
    **options: Any,
) -> PointwiseCurve: ...


@full_precision
def entropy_curve(
    model: AbstractModel,
    data: DataLike,
    *,
    key: Key,
    num_evaluations: int = 16_384,
    condition: PyTree = None,
    cutoff: DataLike | None = None,
    times: DataLike | None = None,
    num_times: int = 65,
    control_variate: bool = True,
    chunk_size: int = 4096,
    proposal: Proposal | None = None,
    per_coordinate: bool | Callable = False,
    per_sample: bool = False,
) -> EntropyCurve | PointwiseCurve:
    r"""The entropy $\int\frac{\sigma^2}{2}E\|e\|^2 ds$ of a model along its process, in nats.

    The total is `neural_entropy`; its documentation explains the quantity, the estimator and its
    errors. Works under `jit` and `vmap` (over models, keys or data).

    Args:
        model: any model; of an `ExactModel` this is the total entropy production.
        data: samples of the data distribution, shape (N, *shape).
        key: PRNG key.
        num_evaluations: evaluations of the model's field, at least 256; it is rounded down
            to 8, ..., 15 times a power of 2.
        condition: None, or conditions of the samples: a pytree of arrays with leading axis N.
        cutoff: smallest noise standard deviation included. None takes the whole axis.
        times: where to report the curve, increasing, within `[t0, t1]`; None chooses `num_times`
            of them that resolve both ends.
        num_times: see `times`.
        control_variate: whether the Gaussian reference may be used; not with `per_coordinate` or
            `per_sample`, where it always may.
        chunk_size: evaluations held in memory at once.
        proposal: where to place the evaluations: the `.proposal` of an earlier curve, of the same
            or a similar model. None takes that of a pilot pass, which changes with the model; with
            a given one, the estimate is a smooth function of the model for a fixed key, and its
            gradient is exactly that function's.
        per_coordinate: True for the entropy of each coordinate, $\int\frac{\sigma^2}{2}E\,e_i^2
            ds$, or an orthogonal transform W of one example for that of each of its coefficients,
            $(We)_i^2$, or bands: see `entropix.estimators.transforms`. `.total` is the sum.
        per_sample: whether each sample has an entropy of its own; `num_evaluations` must then be at
            least 16 for each of them. `.total` is the mean.

    Returns:
        The curve; `.total` is an `Estimate`, with `.cutoff` and `.slope` where a cut-off was given.
        With `per_coordinate` or `per_sample` a `PointwiseCurve`, which has an array of the size of
        `num_times` times the parts (times the samples).

    Raises:
        ValueError: if an argument is malformed.
        DivergenceError: as `neural_entropy`.

    Example:
        >>> import jax, entropix as ex
        >>> process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
        >>> model = ex.ExactModel(ex.Gaussian([1.0], [[0.2]]), process)
        >>> data = model.distribution.sample(500, key=jax.random.key(0))
        >>> curve = ex.entropy_curve(model, data, key=jax.random.key(1), num_evaluations=1024)
        >>> curve.cumulative.shape, bool(curve.cumulative[-1] == curve.total.value)
        ((65,), True)
        >>> pixels = ex.entropy_curve(
        ...     model, data, key=jax.random.key(1), per_coordinate=True, num_evaluations=1024
        ... )
        >>> pixels.value.shape, pixels.intervals.shape
        ((1,), (64, 1))

    References:
        Neural Entropy, 2409.03817.
    """
    data = samples(data)
    check_example_shape(model, data, "data")
    if per_coordinate is not False or per_sample:
        by = Partition.of(per_coordinate, data[0])
        return integrate_parts(
            EntropyProduction(model, by),
            data,
            key=key,
            num_evaluations=num_evaluations,
            per_sample=per_sample,
            condition=condition,
            cutoff=cutoff,
            times=times,
            num_times=num_times,
            chunk_size=chunk_size,
            proposal=proposal,
            divergence=model.divergence,
            partition=by,
        )
    return integrate(
        EntropyProduction(model),
        data,
        key=key,
        num_evaluations=num_evaluations,
        condition=condition,
        cutoff=cutoff,
        times=times,
        num_times=num_times,
        control_variate=control_variate,
        chunk_size=chunk_size,
        proposal=proposal,
        divergence=model.divergence,
    )


@full_precision
def neural_entropy(
    model: AbstractModel,
    data: DataLike,
    *,
    key: Key,
    num_evaluations: int = 16_384,
    condition: PyTree = None,
    cutoff: DataLike | None = None,
    control_variate: bool = True,
    chunk_size: int = 4096,
    proposal: Proposal | None = None,
) -> Estimate:
    r"""The neural entropy $S_{NN}$ of a model, in nats; of an `ExactModel`, $S_{tot}$.

    $$S_{NN} = \int_{t_0}^{t_1}\frac{\sigma^2}{2}\,E\|e_\theta(Y_s, s)\|^2\,ds, \qquad
      e_\theta = \nabla\log p_\theta - \nabla\log p_{eq}, \qquad Y_s = \mu x + \Sigma z,$$

    with the expectation over the data $x$ and the noise $z$.

    **What it means.** Diffusion drives the data to equilibrium and produces the entropy $S_{tot} =
    KL(p_d\|p_{eq}) - KL(p_T\|p_{eq})$ for a static equilibrium. To reverse it, a network must have
    stored that much information about the data. $S_{NN}$ is what this network has stored. It equals
    $S_{tot}$ if the network is optimal. Neither is a bound on the other: a network that has learnt
    less stores less, and one with a wrong field may store more, uselessly. How far the field is
    from the exact one is the path KL, $\int\frac{\sigma^2}{2}E\|e_\theta - e^*\|^2ds$
    (`path_kl`). Invertible changes of time do not change $S_{NN}$, but another process does:
    compare models of the same process, with data in the same units.

    **How it is estimated.** Nothing is simulated. The integral is taken over the log-SNR,
    $\int\frac{\Sigma^2}{2}E\|e_\theta\|^2(-d\lambda)$, whose whole axis is included. A pilot pass
    finds where the entropy is; the other evaluations are the nodes of scrambled digital nets
    over log-SNR, data and noise (randomised quasi-Monte Carlo). The Gaussian with the moments of
    the data, whose entropy is known, serves as a control variate.
    See `entropix.estimators.integral`. Differentiable in the model, its process and the data; works
    under `jit` and `vmap`.

    **Its errors.** `stderr` is the standard error with the data taken as a sample of a population:
    it falls with the number of samples N and of evaluations M. `mc_stderr` takes the given data as
    the population: it falls with M alone. If it is much smaller than `stderr`, more data help, and
    more evaluations do not. There is no discretisation error. Both errors include the effect of
    rounding the data. In float32 it dominates for data far from the origin that are narrow in some
    direction.

    **How it fails.**

    - Data on a set of lower dimension (manifolds, finite data sets, pixels with few levels) have an
      infinite entropy, which grows like the codimension times $-\ln\Sigma$. The pilot detects this
      and raises; pass `cutoff`, the smallest noise standard deviation that counts. The value then
      depends on it, at the rate `.slope`.
    - In float32, structure finer than about $10^{-6}$ of the size of the data is not resolved. The
      message then asks for float64.
    - A field with rare large values, such as that of a badly trained network, may have an error
      that a few evaluations decide. Where this is seen (`.num_effective`) and matters, the estimate
      is refused. It can be missed if no evaluation met such a value.
    - Samples that the network was trained on give the value for the training set. Memorisation
      makes it differ from that for held-out data, in either direction.

    Args:
        model: any model.
        data: samples of the data distribution, shape (N, *shape), in the units of the model.
        key: PRNG key.
        num_evaluations: evaluations of the model's field, at least 256; it is rounded down
            to 8, ..., 15 times a power of 2.
        condition: None, or conditions of the samples: a pytree of arrays with leading axis N. The
            value is then the mean over conditions of the conditional entropies.
        cutoff: smallest noise standard deviation included. None takes the whole axis.
        control_variate: whether the Gaussian reference may be used.
        chunk_size: evaluations held in memory at once.
        proposal: where to place the evaluations, see `entropy_curve`.

    Returns:
        An `Estimate`, with `.cutoff` and `.slope` where a cut-off was given.

    Raises:
        ValueError: if an argument is malformed, or the field is not finite.
        DivergenceError: if the entropy is known to be infinite (finite data sets, collapsing
            equilibria) or its rate does not decay at the data end, and no cut-off was given; if the
            rate does not decay at the noise end. Under `jit`, what is seen only when the compiled
            program runs raises a run-time error of Equinox.

    Example:
        For a Gaussian, $S_{tot}$ is a divergence between Gaussians, here 1.125 nats:

        >>> import jax, entropix as ex
        >>> process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
        >>> gaussian = ex.Gaussian([0.0, 0.0], [[4.0, 0.0], [0.0, 0.25]])
        >>> data = gaussian.sample(1000, key=jax.random.key(0))
        >>> model = ex.ExactModel(gaussian, process)
        >>> entropy = ex.neural_entropy(model, data, key=jax.random.key(1), num_evaluations=1024)
        >>> bool(abs(entropy.value - 1.125) < 4 * entropy.stderr)
        True
        >>> bool(entropy.mc_stderr < 0.1 * entropy.stderr)
        True

    References:
        Neural Entropy, 2409.03817. Seifert, Rep. Prog. Phys. 75, 126001 (2012).
    """
    return entropy_curve(
        model,
        data,
        key=key,
        num_evaluations=num_evaluations,
        condition=condition,
        cutoff=cutoff,
        num_times=2,
        control_variate=control_variate,
        chunk_size=chunk_size,
        proposal=proposal,
    ).total

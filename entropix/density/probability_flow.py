r"""Log densities of the probability flow.

Along $dy/ds = v(y, s)$ (Chen et al., 1806.07366; Song et al., 2011.13456)

$$\log p(x) = \log prior(y_T) + \int_{t_0}^{t_1}\nabla\cdot v(y_s, s)\,ds.$$

The flow is solved in the standardised state and the angle

$$X = \frac{y}{\sqrt P}, \qquad \tan\theta = \frac{\Sigma}{\sqrt c\,\mu}, \qquad
  P = \Sigma^2 + c\mu^2, \qquad \frac{dX}{d\theta} = -\sin\theta\,F,$$

with $c$ a reference variance and $F$ the field of `ReverseCoordinates`: for a denoiser $D$ with its
noise $\epsilon$ it is $-\sin\theta\,D/\sqrt c + \cos\theta\,\epsilon$, bounded at both ends for
every process and every model, and zero for data $N(0, cI)$. Nothing is cut off; a log density that
grows without limit towards the data end is refused. A `FlowMatching` model, which has no score, is
solved in y and s.
"""

import math
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key
from entropix._core.checks import positive, positive_integer
from entropix._core.chunks import fewer_on_cpu, map_in_chunks
from entropix._core.compiled import check_results, compiled
from entropix.dynamics import Divergence, ReverseCoordinates
from entropix.estimators import EndRates, check_ends, judge_sizes, log_snr_of_std, resolved_points
from entropix.interfaces import AbstractDensityMethod, AbstractModel, SampleEstimates
from entropix.models import FlowMatching, reference_variance


# Samples that are solved together wait for the slowest of them. With fewer than so many, products
# of matrices take a CPU longer than the waiting.
_TOGETHER = 128


class ProbabilityFlow(AbstractDensityMethod):
    r"""The log density of the probability-flow ODE, by Diffrax.

    That is the density of what `sample(method="ode")` draws. It is not the density of the reverse
    SDE, which `PathBound` bounds and `Jarzynski` estimates: the two agree for an exact score.
    Differentiable in model and samples. Where a model is continued to noise beyond its range (see
    `entropix.models.moved`), it is the density of the continued field, without an error for that.

    The variance of a few probes of one sample is uncertain. The standard error of each sample is
    that of its own probes or the root mean square over all samples of the call, whichever is
    larger; if those are few too, it is enlarged by the quantile of a t distribution.

    Each sample has steps of its own. On a CPU at most 128 samples are solved together, because they
    wait for the slowest of them.

    Args:
        divergence: "exact", from the network where it offers its divergence (`FourierMLP` does;
            with one or two hidden layers it costs one to four evaluations), else by forward-mode
            derivatives along all D axes, at the cost of D evaluations; or "hutchinson", with random
            probes, for large D: unbiased, with a standard error.
        num_probes: probes of each sample, at least 2 (Hutchinson). D of them or more are the axes,
            and the divergence is exact.
        probe: "orthogonal", directions of a random rotation: they see different parts of a Jacobian
            and cannot agree by chance, and m of them in D dimensions have a variance smaller by
            $1 - m/D$; or independent "gaussian" or "rademacher" ones (Hutchinson). Signs have no
            variance where the Jacobian is diagonal, but a few may agree: "rademacher" is refused
            for less than 16 samples.
        rtol: relative tolerance of the adaptive steps.
        atol: absolute tolerance, in units of the standardised state.
        solver: a Diffrax solver with an error estimate; None for `diffrax.Tsit5()`.
        adjoint: how to differentiate; None for `diffrax.RecursiveCheckpointAdjoint()`.
        max_steps: bound on the number of steps.

    Raises:
        ValueError: if an argument is not allowed.
    """

    divergence: Divergence
    rtol: float = eqx.field(static=True)
    atol: float = eqx.field(static=True)
    solver: diffrax.AbstractSolver
    adjoint: diffrax.AbstractAdjoint
    max_steps: int = eqx.field(static=True)

    def __init__(
        self,
        divergence: str = "exact",
        *,
        num_probes: int = 8,
        probe: str = "orthogonal",
        rtol: float = 1e-5,
        atol: float = 1e-5,
        solver: diffrax.AbstractSolver | None = None,
        adjoint: diffrax.AbstractAdjoint | None = None,
        max_steps: int = 1024,
    ):
        self.divergence = Divergence(divergence, num_probes=num_probes, probe=probe)
        self.rtol = float(positive(rtol, "rtol"))
        self.atol = float(positive(atol, "atol"))
        self.solver = diffrax.Tsit5() if solver is None else solver
        if not isinstance(self.solver, diffrax.AbstractAdaptiveSolver):
            raise ValueError(
                "`solver` must be a Diffrax solver with an error estimate, "
                f"got {type(solver).__name__}."
            )
        self.adjoint = diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint
        if not isinstance(self.adjoint, diffrax.AbstractAdjoint):
            raise ValueError(f"`adjoint` must be one of Diffrax's, got {type(adjoint).__name__}.")
        self.max_steps = positive_integer(max_steps, "max_steps")

    def num_directions(self, dim: int) -> int:
        """Directions along which a Jacobian in `dim` dimensions is taken: `dim` if it is exact."""
        return self.divergence.num_directions(dim)

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
        if self.divergence.method == "hutchinson" and key is None:
            raise ValueError("`key` must be given for the probes of `divergence='hutchinson'`.")
        if isinstance(model, FlowMatching) and cutoff is not None:
            raise ValueError("`cutoff` must be None for FlowMatching, whose paths have no noise.")
        bridge = ReverseCoordinates(model.process, reference_variance(model), flow=True)
        size = math.prod(x.shape[1:])
        self.divergence.check(x.shape[0], size)
        held = self.divergence.num_held(model, size)
        chunk = fewer_on_cpu(max(1, min(chunk_size // held, x.shape[0])), _TOGETHER)
        value, stderr, ends = _log_densities(
            self, model, bridge, prior, x, condition, cutoff, key, chunk
        )
        value = check_ends(value, ends, cutoff, x)
        return SampleEstimates(value, stderr, 0, cutoff)


@compiled
def _log_densities(
    method: ProbabilityFlow,
    model: AbstractModel,
    bridge: ReverseCoordinates,
    prior: Any,
    x: Array,
    condition: PyTree,
    cutoff: Array | None,
    key: Key | None,
    chunk: int,
) -> tuple[Array, Array, EndRates]:
    process = model.process
    if cutoff is None:
        start = process.t0
    else:
        start = process.time_of_log_snr(log_snr_of_std(process, cutoff))
    lowest = process.log_snr(start)
    points = resolved_points(lowest, x)

    def one(args: Any) -> tuple[Array, Array, Array]:
        sample, condition, index = args
        probes = method.divergence.probes(sample, key, index)
        if isinstance(model, FlowMatching):
            flow = _Straight(model, condition)
            end, gains = _carry(method, flow, process.t0, process.t1, sample, probes)
            return prior.log_prob(end), gains, jnp.zeros_like(points)
        flow = _Flow(model, bridge, condition)
        first, last = flow.spread(start), flow.spread(process.t1)
        state = process.scale(start) * sample / first
        end, gains = _carry(method, flow, flow.angle(start), flow.angle(process.t1), state, probes)
        # Volume of the standardised state in units of the sample: P grows from c to P(t1).
        growth = sample.size * (jnp.log(last / first) + process.log_scale(start))

        def slope(log_snr: Array) -> Array:
            r"""$d\log p/d(-\ln\Sigma)$ at a log-SNR of the data end."""
            s = process.time_of_log_snr(log_snr)
            theta, state = jax.lax.stop_gradient((flow.angle(s), sample / flow.spread(s)))
            stretch = flow.along(theta, state, probes)[1]
            return jax.lax.stop_gradient(theta * jnp.mean(stretch))

        return prior.log_prob(last * end) + growth, gains, jax.vmap(slope)(points)

    args = (x, condition, jnp.arange(x.shape[0]))
    value, gains, slopes = map_in_chunks(one, args, chunk)
    gain, stderr = method.divergence.estimate(gains, math.prod(x.shape[1:]))
    # A slope of log p in -ln(noise std) is twice a rate per unit log-SNR.
    size = jnp.mean(jnp.abs(slopes), axis=0) / 2
    ends = judge_sizes(points, size, slopes[:, 0], jnp.ones_like(lowest), lowest, x)
    return value + gain, stderr, ends


class _Straight(eqx.Module):
    """The flow of a model that has no score, in its own state and time."""

    model: AbstractModel
    condition: PyTree

    def along(self, s: Array, y: Array, probes: Array | None) -> tuple[Array, Array]:
        """The velocity and its divergence."""
        return Divergence.along(
            lambda model, y: model.velocity(s, y, self.condition), self.model, y, probes
        )


class _Flow(eqx.Module):
    """The flow of one sample, in the standardised state and the angle."""

    model: AbstractModel
    bridge: ReverseCoordinates
    condition: PyTree

    def spread(self, s: Array) -> Array:
        r"""$\sqrt P$."""
        return jnp.sqrt(self.bridge.total(s))

    def angle(self, s: Array) -> Array:
        r"""$\theta$."""
        process = self.model.process
        return jnp.arctan2(process.std(s), jnp.sqrt(self.bridge.variance) * process.scale(s))

    def along(self, theta: Array, x: Array, probes: Array | None) -> tuple[Array, Array]:
        """The velocity and its divergence."""
        # The field is evaluated from this angle on; the integral starts at zero.
        least = jnp.sqrt(jnp.finfo(x.dtype).eps) * 1e-3
        theta = jnp.maximum(jnp.asarray(theta), least)
        t = -2 * jnp.sin(theta / 2) ** 2  # cos(theta) - 1
        batched = jax.tree.map(lambda leaf: leaf[None], self.condition)

        def velocity(model: AbstractModel, x: Array) -> Array:
            return -jnp.sin(theta) * self.bridge.field(t, x[None], (model, batched))[0]

        return Divergence.along(velocity, self.model, x, probes)


def _carry(
    method: ProbabilityFlow,
    flow: _Flow | _Straight,
    first: Array,
    last: Array,
    state: Array,
    probes: Array | None,
) -> tuple[Array, Array]:
    """The state at the noise end, and the integral of the divergence."""
    count = 1 if probes is None else len(probes)

    def rate(s: Any, state: tuple[Array, Array], args: Any) -> tuple[Array, Array]:
        flow, probes = args
        return flow.along(s, state[0], probes)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(rate),
        method.solver,
        first,
        last,
        None,
        (state, jnp.zeros(count, state.dtype)),
        (flow, probes),
        stepsize_controller=diffrax.PIDController(rtol=method.rtol, atol=method.atol),
        adjoint=method.adjoint,
        max_steps=method.max_steps,
        throw=False,
    )
    states: Any = check_results(solution.ys, solution.result)
    return states[0][-1], states[1][-1]

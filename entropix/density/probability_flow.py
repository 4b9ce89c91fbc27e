r"""Log densities of the probability flow.

Along $dy/ds = v(y, s)$ (Chen et al., 1806.07366; Song et al., 2011.13456)

$$\log p(x) = \log prior(y_T) + \int_{t_0}^{t_1}\nabla\cdot v(y_s, s)\,ds.$$

The flow is solved in the standardised state and the angle

$$X = \frac{y}{\sqrt P}, \qquad \tan\theta = \frac{\Sigma}{\sqrt c\,\mu}, \qquad
  P = \Sigma^2 + c\mu^2, \qquad \frac{dX}{d\theta} = -\sin\theta\,F,$$

with $c$ a reference variance and $F$ the field of `entropix.dynamics.bridge.Bridge`: for a denoiser
$D$ with its noise $\epsilon$ it is $-\sin\theta\,D/\sqrt c + \cos\theta\,\epsilon$, bounded at both
ends for every process and every model, and zero for data $N(0, cI)$. Nothing is cut off. A
`FlowMatching` model, which has no score, is solved in y and s.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key, inner
from entropix._core.checks import choice, positive, positive_integer
from entropix._core.interfaces import AbstractModel
from entropix.density.method import AbstractDensityMethod
from entropix.density.result import LogDensity
from entropix.density.straight import carry_straight
from entropix.dynamics.bridge import Bridge, reference_variance
from entropix.models import FlowMatching


class ProbabilityFlow(AbstractDensityMethod):
    r"""The log density of the probability-flow ODE, by Diffrax.

    That is the density of what `sample(method="ode")` draws. It is not the density of the reverse
    SDE, which `PathBound` bounds and `Jarzynski` estimates: the two agree for an exact score.
    Differentiable in model and samples.

    Args:
        divergence: "exact", by forward-mode derivatives along every axis, D evaluations each; or
            "hutchinson", with random probes, for large D: unbiased, with a standard error.
        num_probes: probes of each sample, at least 2 (Hutchinson).
        probe: "rademacher" or "gaussian" (Hutchinson).
        rtol: relative tolerance of the adaptive steps.
        atol: absolute tolerance, in units of the standardised state.
        solver: a Diffrax solver with an error estimate; None for `diffrax.Tsit5()`.
        adjoint: how to differentiate; None for `diffrax.RecursiveCheckpointAdjoint()`.
        max_steps: bound on the number of steps.

    Raises:
        ValueError: if an argument is not allowed.
    """

    divergence: str = eqx.field(static=True)
    num_probes: int = eqx.field(static=True)
    probe: str = eqx.field(static=True)
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
        probe: str = "rademacher",
        rtol: float = 1e-5,
        atol: float = 1e-5,
        solver: diffrax.AbstractSolver | None = None,
        adjoint: diffrax.AbstractAdjoint | None = None,
        max_steps: int = 1024,
    ):
        self.divergence = choice(divergence, "divergence", ("exact", "hutchinson"))
        self.num_probes = positive_integer(num_probes, "num_probes", 2)
        self.probe = choice(probe, "probe", ("rademacher", "gaussian"))
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
        if self.divergence == "hutchinson" and key is None:
            raise ValueError("`key` must be given for the probes of `divergence='hutchinson'`.")
        bridge = Bridge(model.process, reference_variance(model), True)
        size = x[0].size if self.divergence == "exact" else self.num_probes
        chunk = max(1, min(chunk_size // size, x.shape[0]))
        value, stderr = _log_densities(self, model, bridge, prior, x, condition, key, chunk)
        return LogDensity(value, stderr, 0)


@eqx.filter_jit
def _log_densities(
    method: ProbabilityFlow,
    model: AbstractModel,
    bridge: Bridge,
    prior: Any,
    x: Array,
    condition: Any,
    key: Key | None,
    chunk: int,
) -> tuple[Array, Array]:
    def one(args: Any) -> tuple[Array, Array]:
        sample, condition, index = args
        probes = _probes(method, sample, key, index)
        if isinstance(model, FlowMatching):
            end, gains = carry_straight(method, model, sample, condition, probes)
            return _with_error(method, prior.log_prob(end), gains)
        end, gains = _carry(method, model, bridge, sample, condition, probes)
        # Volume of the standardised state: P grows from c to P(t1).
        process = model.process
        last = process.var(process.t1) + bridge.variance * process.scale(process.t1) ** 2
        growth = sample.size / 2 * jnp.log(last / bridge.variance)
        return _with_error(method, prior.log_prob(jnp.sqrt(last) * end) + growth, gains)

    args = (x, condition, jnp.arange(x.shape[0]))
    return jax.lax.map(one, args, batch_size=chunk)


def _with_error(method: ProbabilityFlow, value: Array, gains: Array) -> tuple[Array, Array]:
    """The log density, by the mean of the integrals of the divergence, and its standard error."""
    value = value + jnp.mean(gains)
    if method.divergence == "exact":
        return value, jnp.zeros_like(value)
    return value, jnp.std(gains, ddof=1) / jnp.sqrt(method.num_probes)


def _probes(
    method: ProbabilityFlow, sample: Array, key: Key | None, index: Array
) -> Float[Array, "probes *shape"]:
    """The axes, or random directions of unit covariance."""
    if method.divergence == "exact":
        return jnp.eye(sample.size, dtype=sample.dtype).reshape(-1, *sample.shape)
    assert key is not None
    key, shape = jax.random.fold_in(key, index), (method.num_probes, *sample.shape)
    if method.probe == "gaussian":
        return jax.random.normal(key, shape, sample.dtype)
    return jax.random.rademacher(key, shape, sample.dtype)


def _carry(
    method: ProbabilityFlow,
    model: AbstractModel,
    bridge: Bridge,
    sample: Array,
    condition: Any,
    probes: Array,
) -> tuple[Array, Array]:
    """The standardised state at the noise end, and the integral of the divergence by each probe."""
    exact = method.divergence == "exact"
    # The field is looked at from this angle on; the integral starts at zero.
    least = jnp.sqrt(jnp.finfo(sample.dtype).eps) * 1e-3

    def field(theta: Any, state: Any, args: Any) -> Any:
        model, bridge, condition, probes = args
        theta = jnp.maximum(jnp.asarray(theta), least)
        t = -2 * jnp.sin(theta / 2) ** 2  # cos(theta) - 1
        batched = jax.tree.map(lambda leaf: leaf[None], condition)

        def velocity(x: Array) -> Array:
            return -jnp.sin(theta) * bridge.field(model, t, x[None], batched)[0]

        moved, jvp = jax.linearize(velocity, state[0])
        stretch = jax.vmap(lambda v: inner(jvp(v), v))(probes)
        return moved, jnp.sum(stretch, keepdims=True) if exact else stretch

    process = model.process
    signal = jnp.sqrt(bridge.variance) * process.scale(process.t1)
    stop = jnp.arctan2(process.std(process.t1), signal)
    start = (
        sample / jnp.sqrt(bridge.variance),
        jnp.zeros(1 if exact else method.num_probes, sample.dtype),
    )
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        method.solver,
        jnp.zeros_like(stop),
        stop,
        None,
        start,
        (model, bridge, condition, probes),
        stepsize_controller=diffrax.PIDController(rtol=method.rtol, atol=method.atol),
        adjoint=method.adjoint,
        max_steps=method.max_steps,
    )
    states: Any = solution.ys
    return states[0][-1], states[1][-1]

r"""The Schrödinger bridge between two data sets, by iterated Markovian fitting.

Of all processes with unit time and the densities $p_0$ and $p_1$ at its ends, the Schrödinger
bridge is the closest to Brownian motion, $\min_P KL(P\Vert W)$, $W: dX = \sqrt\epsilon\,dB$
(Schrödinger, 1931; Léonard, 1308.0215). It is the one process that has those ends and is both
Markov and a mixture of Brownian bridges. Projecting on either class in turn converges to it
(Shi et al., 2303.16852; Peluchetti, 2304.00917):

1. from pairs $(x_0, x_1)$ and Brownian bridges between them to a diffusion, by regression
   (`BridgeProcess`);
2. from the diffusion to new pairs, the ends of its simulated paths.

The diffusion is learnt in both directions of time by turns, each from pairs that the other one made
from true points: those at which its own paths must arrive. Errors of the marginals do not add up.

A fifth of the points is held out from training. A fitted drift seems better than it is on the
points it was fitted to, by as much, to leading order, as it is worse on others (Akaike, 1974): the
costs are the mean of both, with an error of at least half their difference.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import DataLike, Key, RealScalarLike, as_float
from entropix._core.checks import (
    checked,
    choice,
    is_concrete,
    positive_integer,
    prng_key,
    samples,
)
from entropix.dynamics import Trajectory, solve_forward
from entropix.interfaces import Estimate
from entropix.networks import trainable
from entropix.processes import check_example_shape
from entropix.training import (
    ClippedAdam,
    Run,
    Setup,
    WarmupCosine,
    join_model,
    split_model,
    train,
)
from entropix.transport.bridge_costs import measure_bridge
from entropix.transport.bridge_process import (
    BridgeObjective,
    BridgeProcess,
    BrownianMotion,
    StateFeatures,
    bridge_times,
)


class SchroedingerBridge(eqx.Module):
    r"""A process between two data sets, in both directions of time.

    With the drifts $u_f$ of the forward process and $u_b$ of the reversed one, each along its own
    time, the bridge has the current velocity $v = (u_f - u_b)/2$ and the score
    $\nabla\log p_s = (u_f + u_b)/\epsilon$ (Nelson, 1967).

    Attributes:
        forward: the process from $p_0$ to $p_1$, with drift $u_f$.
        backward: the process from $p_1$ to $p_0$, with drift $u_b$, in its own time $1 - s$.
        cost: $KL(P\Vert W^{p_0})$ in nats, the path KL from Brownian motion.
        entropy_production: $S_{tot} = \int\frac2\epsilon E\|v\|^2ds$ in nats.
        loss: of every step, in nats, shape (2, num_iterations, steps): backward, forward; a perfect
            network reaches minus the path KL of its direction.

    The standard errors hold the noise of paths and data, the misfit of the networks as far as a
    regression of their residuals finds it, the difference between pairs of the two directions and
    between points that were trained on and points held out, and the change made by the last
    iteration, which must be small for the pairs to be those of the bridge. After a single iteration
    that is unknown, and the errors are infinite.
    """

    forward: BridgeProcess
    backward: BridgeProcess
    cost: Estimate | None
    entropy_production: Estimate | None
    loss: Float[Array, "2 iterations steps"] | None

    @property
    def epsilon(self) -> Float[Array, ""]:
        r"""$\epsilon$, the variance of the reference."""
        return self.forward.process.epsilon

    def trajectory(
        self,
        x: DataLike,
        *,
        key: Key,
        direction: str = "forward",
        num_steps: int = 64,
        **options: Any,
    ) -> Trajectory:
        """Paths from given points, by `solve_forward` (which see for `options`).

        Args:
            x: points to start from, shape (n, *shape): of $p_0$, or of $p_1$ for "backward".
            key: PRNG key.
            direction: "forward" or "backward"; the times of the latter are $1 - s$.
            num_steps: steps of `diffrax.SRA1`, which shrink towards both ends.
            **options: for `solve_forward`, such as `save="steps"`.

        Returns:
            A `Trajectory`.
        """
        options = {"times": bridge_times(num_steps)} | options
        return solve_forward(self._process_from(x, direction), x, key=key, **options)

    def transport(
        self, x: DataLike, *, key: Key, direction: str = "forward", num_steps: int = 64
    ) -> Float[Array, "n *shape"]:
        """Where paths from `x` end: a draw from the entropic plan given its one end.

        Args: as `trajectory`.
        """
        process = self._process_from(x, direction)
        # Solved about the mean of the paths: a common offset costs no digits.
        centre = jnp.mean(process.mean, axis=0)
        moved, start = process.shifted(-centre), samples(x, "x", minimum=1) - centre
        return solve_forward(moved, start, key=key, times=bridge_times(num_steps)).final + centre

    def _process_from(self, x: DataLike, direction: str) -> BridgeProcess:
        ahead = choice(direction, "direction", ("forward", "backward")) == "forward"
        process = self.forward if ahead else self.backward
        check_example_shape(process, x, "x")
        return process

    def sample_pairs(
        self, x: DataLike, *, key: Key, direction: str = "forward", num_steps: int = 64
    ) -> tuple[Float[Array, "n *shape"], Float[Array, "n *shape"]]:
        """Pairs of the entropic plan, $(X_0, X_1)$ in either direction, one end given.

        Args: as `trajectory`.
        """
        x = samples(x, "x", minimum=1)
        end = self.transport(x, key=key, direction=direction, num_steps=num_steps)
        return (x, end) if direction == "forward" else (end, x)

    def velocity(self, s: RealScalarLike, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        r"""The current velocity $v = (u_f - u_b)/2$ of one state."""
        return (self.forward.drift(s, y) - self.backward.drift(1 - s, y)) / 2

    def score(self, s: RealScalarLike, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        r"""$\nabla\log p_s(y) = (u_f + u_b)/\epsilon$ of one state."""
        return (self.forward.drift(s, y) + self.backward.drift(1 - s, y)) / self.epsilon

    def measure(
        self, x: DataLike, y: DataLike, *, key: Key, num_steps: int = 64
    ) -> tuple[Estimate, Estimate]:
        """`cost` and `entropy_production` anew, from other points or with more steps.

        For points that the networks were not trained on. The errors hold the noise of paths and
        data and the misfit, but not what is left to further iterations.

        Args:
            x: samples of $p_0$, shape (n, *shape).
            y: samples of $p_1$, shape (m, *shape).
            key: PRNG key.
            num_steps: steps of the paths, and about the times at which each is evaluated.
        """
        positive_integer(num_steps, "num_steps", 2)
        return measure_bridge(self.forward, self.backward, x, y, key=key, num_steps=num_steps)


def schroedinger_bridge(
    x: DataLike,
    y: DataLike,
    *,
    key: Key,
    epsilon: RealScalarLike,
    network: Callable | None = None,
    num_iterations: int = 5,
    steps: int = 1000,
    batch_size: int | None = None,
    num_draws: int = 2,
    learning_rate: RealScalarLike | Callable = 2e-3,
    ema_decay: RealScalarLike | None = 0.99,
    coupling: Callable | None = None,
    num_steps: int = 64,
    callback: Callable | None = None,
    progress: bool = False,
) -> SchroedingerBridge:
    r"""Learn the Schrödinger bridge between two data sets.

    Args:
        x: samples of $p_0$, shape (n, *shape), at least 10.
        y: samples of $p_1$, shape (m, *shape), at least 10.
        key: PRNG key.
        epsilon: $\epsilon = \sigma^2$, the variance the reference gains in unit time. The smaller,
            the closer the pairs are to optimal transport, and the more iterations are needed from
            independent pairs.
        network: what both directions start from, `network(level, y, condition=None)`; None for two
            layers of 128 over the state and random Fourier features of it.
        num_iterations: projections of either direction. The errors of the costs hold the change
            made by the last one; after a single one they are infinite.
        steps: gradient steps of each projection; it starts from the last one's parameters.
        batch_size: pairs per step, at most max(n, m); None: 256, or max(n, m) if that is less.
        num_draws: times and noises per pair; antithetic if even.
        learning_rate: of Adam: the peak of a cosine with a short warm-up, anew in each projection.
        ema_decay: of the moving average of the parameters, or None.
        coupling: of the first pairs, `coupling(x, y, *, key) -> y permuted`, such as
            `MinibatchCoupling(epsilon=...)`, applied to batches; None for independent pairs.
        num_steps: steps of the simulated paths.
        callback: `callback(iteration, bridge)` after each iteration; `bridge` has no estimates yet.
        progress: show a bar for each projection (needs tqdm).

    Returns:
        A `SchroedingerBridge`. The same key gives the same bridge.

    Raises:
        ValueError: if an argument is not as above.
        FloatingPointError: if a loss, gradient or parameter is not finite.

    References:
        Shi et al., arXiv 2303.16852; Peluchetti, 2304.00917; Liu et al., 2302.05872.

    Example:
        >>> import entropix as ex, jax
        >>> x, y = jax.random.normal(jax.random.key(0), (2, 20, 1))
        >>> options = {"epsilon": 0.5, "steps": 2, "batch_size": 8, "num_steps": 4}
        >>> bridge = ex.transport.schroedinger_bridge(  # doctest: +SKIP
        ...     x, y + 3, key=jax.random.key(1), num_iterations=2, **options
        ... )
        >>> bridge.transport(x, key=jax.random.key(2)).shape  # doctest: +SKIP
        (20, 1)
    """
    x, y = samples(x, "x", minimum=10), samples(y, "y", minimum=10)
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"`y` must have samples of the shape of `x`, {x.shape[1:]}, got {y.shape[1:]}."
        )
    y = y.astype(x.dtype)
    prng_key(key)
    reference = BrownianMotion(epsilon)
    positive_integer(num_iterations, "num_iterations")
    positive_integer(num_steps, "num_steps", 2)
    steps = positive_integer(steps, "steps")
    positive_integer(num_draws, "num_draws")
    count = max(x.shape[0], y.shape[0])
    size = min(256, count) if batch_size is None else batch_size
    batch_size = positive_integer(size, "batch_size")
    if batch_size > count:
        raise ValueError(f"`batch_size` must be at most {count}, got {batch_size}.")
    functions = {"coupling(x, y, *, key)": coupling, "callback(iteration, bridge)": callback}
    for call, given in functions.items():
        if not (given is None or callable(given)):
            name = call.split("(")[0]
            raise ValueError(f"`{name}` must be a function {call}, got {type(given).__name__}.")
    if ema_decay is not None:
        ema_decay = as_float(ema_decay, "ema_decay")
        checked(ema_decay, "ema_decay", lambda v: (v >= 0) & (v < 1), "in [0, 1)")
    rate = learning_rate if callable(learning_rate) else WarmupCosine(learning_rate, steps)

    pair_key, network_key, key = jax.random.split(key, 3)
    if network is None:
        if x.ndim != 2:
            raise ValueError(
                f"`network` must be given for samples of shape {x.shape[1:]}, got None."
            )
        network = StateFeatures(x.shape[1], key=network_key)
    for name, points in (("x", x), ("y", y)):
        if is_concrete(points) and not np.ptp(np.asarray(points), axis=0).any():
            raise ValueError(
                f"`{name}` must vary, got {len(points)} equal samples: the entropy production of a "
                "bridge from or to one point is infinite."
            )
    # About the common mean: an offset of the data costs no digits.
    centre = (jnp.mean(x, axis=0) + jnp.mean(y, axis=0)) / 2
    first, second, key = jax.random.split(key, 3)
    x, x_out = _hold_out(x - centre, first)
    y, y_out = _hold_out(y - centre, second)
    forward = BridgeProcess(network, reference, x, y)
    backward = BridgeProcess(network, reference, y, x)
    if not any(jax.tree.leaves(trainable(network))):
        raise ValueError("`network` must have trainable arrays, got none.")

    def project(process: BridgeProcess, pairs: Array, key: Key) -> tuple[BridgeProcess, Any]:
        template, params, fixed = split_model(process)
        loss = BridgeObjective(num_draws=num_draws, antithetic=num_draws % 2 == 0)
        optimiser = ClippedAdam(rate)
        setup = Setup(template, fixed, loss, optimiser, ema_decay, key, None, batch_size)
        params, history = train(Run(setup, params, steps, pairs, progress=progress))
        return join_model(template, params, fixed), history.loss

    # Each point as often as the others of its set, or once more.
    starts, ends = (v[np.arange(count) % v.shape[0]] for v in (x, y))
    pairs = _first_pairs(starts, ends, coupling, batch_size, pair_key)
    times = bridge_times(num_steps)
    losses, costs = [], None
    measure_key = jax.random.fold_in(key, num_iterations)
    for iteration in range(num_iterations):
        fit_back, go_back, fit_on, go_on = jax.random.split(jax.random.fold_in(key, iteration), 4)
        if iteration > 0 and iteration + 1 == num_iterations:
            costs = measure_bridge(forward, backward, x, y, key=measure_key, num_steps=num_steps)
        backward, loss = project(backward, pairs[:, ::-1], fit_back)
        reached = solve_forward(backward, ends, key=go_back, times=times).final
        forward, other = project(forward, jnp.stack([reached, ends], axis=1), fit_on)
        losses += [jnp.stack([loss, other])]
        if iteration + 1 < num_iterations:
            reached = solve_forward(forward, starts, key=go_on, times=times).final
            pairs = jnp.stack([starts, reached], axis=1)
        if callback is not None:
            ahead, back = forward.shifted(centre), backward.shifted(centre)
            callback(iteration + 1, SchroedingerBridge(ahead, back, None, None, None))
    options_of_costs: Any = {"key": measure_key, "num_steps": num_steps}
    seen = measure_bridge(forward, backward, x, y, **options_of_costs)
    unseen = measure_bridge(forward, backward, x_out, y_out, **options_of_costs)
    before = (None, None) if costs is None else costs
    cost, production = (
        _combined(*estimates) for estimates in zip(before, seen, unseen, strict=True)
    )
    return SchroedingerBridge(
        forward.shifted(centre),
        backward.shifted(centre),
        cost,
        production,
        jnp.stack(losses, axis=1),
    )


def _hold_out(points: Array, key: Key) -> tuple[Array, Array]:
    """Points to train on, and a fifth to test on."""
    points = points[jax.random.permutation(key, points.shape[0])]
    count = points.shape[0] // 5
    return points[count:], points[:count]


def _combined(before: Estimate | None, seen: Estimate, unseen: Estimate) -> Estimate:
    """The mean over points that were trained on and points that were not.

    The error is at least half their difference, and holds the change since the estimate `before`.
    """
    gap = (seen.value - unseen.value) / 2
    change = jnp.inf if before is None else seen.value - before.value

    def error(a: Array, b: Array) -> Array:
        return jnp.sqrt(jnp.maximum((a**2 + b**2) / 4, gap**2) + change**2)

    return Estimate(
        (seen.value + unseen.value) / 2,
        error(seen.stderr, unseen.stderr),
        error(seen.mc_stderr, unseen.mc_stderr),
        seen.num_evaluations + unseen.num_evaluations,
    )


@eqx.filter_jit
def _first_pairs(
    starts: Array, ends: Array, coupling: Callable | None, batch_size: int, key: Key
) -> Array:
    """Independent pairs, or such as `coupling` makes of batches of them."""
    first, second, coupling_key = jax.random.split(key, 3)
    count = starts.shape[0]
    starts = starts[jax.random.permutation(first, count)]
    ends = ends[jax.random.permutation(second, count)]
    if coupling is not None:
        whole = count // batch_size * batch_size
        batches = (-1, batch_size, *starts.shape[1:])
        a, b = starts[:whole].reshape(batches), ends[:whole].reshape(batches)
        keys = jax.random.split(coupling_key, a.shape[0])
        b = jax.lax.map(lambda args: coupling(args[0], args[1], key=args[2]), (a, b, keys))
        ends = jnp.concatenate([b.reshape(-1, *ends.shape[1:]), ends[whole:]])
    return jnp.stack([starts, ends], axis=1)

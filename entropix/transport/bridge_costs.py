r"""The costs of a Schrödinger bridge, and their errors.

With the drifts $u_f$ of the forward process and $u_b$ of the reversed one, each along its own time,
the bridge has (Nelson, 1967)

$$v = \frac{u_f - u_b}{2} \quad\text{(current velocity)}, \qquad
  \nabla\log p_s = \frac{u_f + u_b}{\epsilon}.$$

Two costs, in nats, are averages over its forward paths:

$$KL(P\Vert W^{p_0}) = \int_0^1\frac{1}{2\epsilon}E\|u_f\|^2\,ds, \qquad
  S_{tot} = \int_0^1\frac{2}{\epsilon}E\|v\|^2\,ds,$$

the path KL from the reference that starts in $p_0$ (its least value for these ends; see
`static_bridge`), and the entropy production, the KL from the time-reversed process. They are linked
by $\frac12[KL(P\Vert W^{p_0}) + KL(P\Vert W^{p_1})] = \frac14 S_{tot} +
\frac{\epsilon}{8}\int_0^1 E\|\nabla\log p_s\|^2 ds$.

**How they are estimated.** Let q be one of $u_f$, $u_b$, $u_f - u_b$ as learnt, and t the
regression target with $E[t\mid X_s] = q^*$, the exact one. Then

$$E\left[2\,q\cdot t - \|q\|^2\right] = E\|q^*\|^2 - E\|q - q^*\|^2 ,$$

which a misfit of the network changes to second order only, and downwards, whereas $E\|q\|^2$ is off
to first order. In the half of the time that ends in $p_1$, $X_s$ and t are taken from Brownian
bridges between points y of $p_1$ and the ends of backward paths from them; in the other half, from
points of $p_0$ and forward paths. Where a drift has structure, it is compared with true points, and
the paths that make the pairs need the drift of the other direction, which is smooth there.
Times are drawn from the clock of `bridge_process`, stratified: there is no quadrature error.

The misfit $\frac{1}{2\epsilon}\int E\|q - q^*\|^2ds$ is estimated by a regression of the residuals
t - q on random Fourier features of the state, fitted in time bins to half of the points and applied
to the other half, with the best of a few ridge penalties. What it explains is added to the value.
Fixed rules turn this into an error:

* the error holds twice the misfit, as the features find about half of what a perceptron misses;
* it holds half the difference between the mean $\|x_1 - x_0\|^2/2\epsilon$ of forward and of
  backward pairs, as far as this exceeds its noise (four times as much for the entropy production):
  the two have one law only if the paths of both directions arrive and the pairs are those of the
  bridge;
* 64 features have log-uniform frequencies from 0.5 to 15 per standard deviation of the state;
* each point has two paths, which separate the noise of paths from that of points.

None of them is a bound: a misfit finer than the features, or common to both directions, is missed.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from entropix._core.arrays import DataLike, Key, safe_sqrt
from entropix._core.checks import samples
from entropix._core.precision import full_precision
from entropix.dynamics import solve_forward
from entropix.interfaces import Estimate
from entropix.transport.bridge_process import BridgeProcess, bridge_times, end_clock
from entropix.transport.speed import errors_of


_PATHS = 2  # from each point: two separate the noise of paths from that of points
_FEATURES = 64
_FREQUENCIES = (0.5, 15.0)  # from half a standard deviation's to the finest structure resolved
_RIDGES = (30.0, 300.0, 3e3, 3e4)
_GROUPS = 4  # of times, in which the misfit is fitted
_OWN, _OTHER, _DIFFERENCE = 0, 1, 2  # the drifts of `_half`


def measure_bridge(
    forward: BridgeProcess,
    backward: BridgeProcess,
    x: DataLike,
    y: DataLike,
    *,
    key: Key,
    num_steps: int,
) -> tuple[Estimate, Estimate]:
    """Path KL and entropy production, from both halves of the time; see the module."""
    x, y = samples(x, "x"), samples(y, "y")
    centre = jnp.mean(forward.mean, axis=0)
    forward, backward = forward.shifted(-centre), backward.shifted(-centre)
    x, y = x - centre, y - centre
    early_key, late_key = jax.random.split(key)
    bins = _GROUPS * max(num_steps // (4 * _GROUPS), 1)
    late, late_misfit, late_moved = _of_half(forward, backward, y, late_key, num_steps, bins)
    early, early_misfit, early_moved = _of_half(backward, forward, x, early_key, num_steps, bins)
    # The pairs of both directions have one law.
    apart = jnp.mean(late_moved) - jnp.mean(early_moved)
    noise = sum(
        jnp.var(jnp.mean(m, axis=1), ddof=1) / m.shape[0] for m in (late_moved, early_moved)
    )
    apart = jnp.sqrt(jnp.maximum(apart**2 - noise, 0.0)) / 2
    count = (x.shape[0] + y.shape[0]) * _PATHS * (2 * num_steps + 4 * bins)

    def estimate(of_late: int, of_early: int, weight: float) -> Estimate:
        misfit = late_misfit[of_late] + early_misfit[of_early]
        parts = [late[of_late], early[of_early]]
        errors = jnp.stack([jnp.stack(errors_of(v, v.shape[0])) for v in parts])
        stderr, mc_stderr = jnp.sqrt(
            jnp.sum(errors**2, axis=0) + (2 * misfit) ** 2 + (weight * apart) ** 2
        )
        value = sum(jnp.mean(v) for v in parts) + misfit
        return Estimate(value, stderr, mc_stderr, count)

    # Both grow with the displacement, one as |x_1 - x_0|^2 / 2 epsilon, the other as four times it.
    return estimate(_OWN, _OTHER, 1.0), estimate(_DIFFERENCE, _DIFFERENCE, 4.0)


def _of_half(
    own: BridgeProcess, other: BridgeProcess, ends: Array, key: Key, num_steps: int, bins: int
) -> tuple[Array, Array, Array]:
    """What `_half` finds for points at the end of `own`, and the squared displacements in nats."""
    path_key, key = jax.random.split(key)
    ends = jnp.repeat(ends, _PATHS, axis=0)
    starts = solve_forward(other, ends, key=path_key, times=bridge_times(num_steps)).final
    axes = tuple(range(1, ends.ndim))
    moved = jnp.sum((ends - starts) ** 2, axis=axes) / (2 * own.process.epsilon)
    return *_half(own, other, starts, ends, key, bins), moved.reshape(-1, _PATHS)


@eqx.filter_jit
@full_precision
def _half(
    own: BridgeProcess, other: BridgeProcess, starts: Array, ends: Array, key: Key, bins: int
) -> tuple[Array, Array]:
    r"""Path KL of `own`, of `other`, and entropy production over the last half of `own`'s time.

    Returns:
        The three for each point and path, shape (3, n, paths), and their misfits, shape (3,).
    """
    epsilon, dtype = own.process.epsilon, ends.dtype
    count, size = ends.shape[0], int(np.prod(ends.shape[1:]))
    half = jnp.arcsinh(jnp.sqrt(0.5 / own.delta)) / jnp.arcsinh(jnp.sqrt(1 / own.delta))
    feature_key, scale_key, key = jax.random.split(key, 3)
    lowest, highest = np.log(_FREQUENCIES)
    frequencies = jnp.exp(jax.random.uniform(scale_key, (_FEATURES,), dtype, lowest, highest))
    ways = jax.random.normal(feature_key, (size, _FEATURES), dtype) / jnp.sqrt(size / 2)
    folds = (jnp.arange(count) // _PATHS % 2 == jnp.arange(2)[:, None]).astype(dtype)

    def at(start: Array, end: Array, v: Array, z: Array) -> tuple[Array, Array, Array, Array]:
        rest, rate, steep = end_clock(v, own.delta)
        s = 1 - rest
        y = rest * start + s * end + safe_sqrt(epsilon * s * rest) * z
        ahead, back = own.drift(s, y), other.drift(rest, y)
        onward = rate * (end - start) - steep * safe_sqrt(epsilon * s) * z
        return_ = rate * (start - end) - rate * safe_sqrt(epsilon * rest / s) * z
        drifts = jnp.stack([ahead, back, ahead - back]).reshape(3, size)
        # Times the rate: it is zero where a target is infinite.
        targets = jnp.stack([onward, return_, onward - return_]).reshape(3, size)
        energy = jnp.sum(2 * drifts * targets - rate * drifts**2, axis=1)
        scale = own.size(s)
        residual = scale * (targets - rate * drifts) / epsilon
        wave = own.standardised(s, y).reshape(size) @ ways
        phase = frequencies * wave
        features = jnp.concatenate([jnp.ones(1, dtype), wave, jnp.sin(phase), jnp.cos(phase)])
        return energy / (2 * epsilon), residual, features, rate * scale**2 / epsilon

    def of_bin(index: Array) -> tuple[Array, Array, Array]:
        """Energies, and the normal equations of the residuals for either half of the points."""
        time_key, noise_key = jax.random.split(jax.random.fold_in(key, index))
        v = half * (index + jax.random.uniform(time_key, (count,), dtype)) / bins
        z = jax.random.normal(noise_key, ends.shape, dtype)
        pairs = [jax.vmap(at)(starts, ends, v, sign * z) for sign in (1, -1)]
        energy, residual, features, weight = (jnp.stack(part) for part in zip(*pairs, strict=True))

        def of_fold(chosen: Array) -> tuple[Array, Array]:
            kept = (features * chosen[:, None]).reshape(2 * count, -1)
            weighted = (features * weight[..., None]).reshape(2 * count, -1)
            return kept.T @ weighted, kept.T @ residual.reshape(2 * count, -1)

        return jnp.mean(energy, axis=0), *jax.lax.map(of_fold, folds)

    def of_group(group: Array) -> tuple[Array, Array]:
        energy, gram, right = jax.tree.map(
            lambda leaf: jnp.sum(leaf, axis=0), jax.lax.map(of_bin, group)
        )

        def explained(part: int) -> Array:
            """Of the misfit in one half of the points, by the fit to the other; (ridges, 3)."""
            eye = jnp.eye(gram.shape[1], dtype=dtype)

            def by(ridge: Array) -> Array:
                found = jnp.linalg.solve(gram[1 - part] + ridge * eye, right[1 - part])
                gain = found * (right[part] - gram[part] @ found / 2)
                return jnp.sum(gain.reshape(-1, 3, size), axis=(0, 2))

            return jax.lax.map(by, jnp.asarray(_RIDGES, dtype))

        return energy, (explained(0) + explained(1)) / (2 * count)

    groups = jnp.arange(bins).reshape(_GROUPS, -1)
    energies, gains = jax.lax.map(of_group, groups)
    energies = half / bins * jnp.sum(energies, axis=0).T.reshape(3, -1, _PATHS)
    misfit = half / bins * jnp.max(jnp.sum(gains, axis=0), axis=0)
    return energies, jnp.maximum(misfit, 0.0)

"""Brownian paths for tests: of linear solves without Monte Carlo, and one path on many grids."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


class Impulses(diffrax.AbstractBrownianPath):
    """Noise for 2N + 1 samples of one number over N steps: each sees one variable of the noise.

    Samples 0 ... N-1 see the increment of step i, samples N ... 2N-1 its space-time area, each at
    one standard deviation; the last sees none. The last sample is then the mean of a linear
    scheme, and the others' distances from it are the columns of a root of its covariance.
    """

    knots: Array
    levy_area: type = diffrax.SpaceTimeLevyArea

    @property
    def t0(self):
        return self.knots[0]

    @property
    def t1(self):
        return self.knots[-1]

    def evaluate(self, t0, t1=None, left=True, use_levy=False):
        steps = self.knots.shape[0] - 1
        step = jnp.argmin(jnp.abs(self.knots - t0))
        std = jnp.sqrt(t1 - t0)
        hit = jnp.eye(2 * steps + 1, dtype=self.knots.dtype)
        w, h = std * hit[:, step, None], std / 12**0.5 * hit[:, steps + step, None]
        return diffrax.SpaceTimeLevyArea(dt=t1 - t0, W=w, H=h) if use_levy else w


def linear_law(states):
    """Mean, shape (K,), and covariance across times, shape (K, K), of a solve along `Impulses`."""
    states = np.asarray(states)
    columns = states[:, :-1, 0] - states[:, -1:, 0]
    return states[:, -1, 0], columns @ columns.T


class Refined(diffrax.AbstractBrownianPath):
    """One path drawn on a fine grid, with its space-time areas, for solves on parts of that grid.

    What `diffrax.VirtualBrownianTree` does for any times, as two tables: W and its integral.
    """

    knots: Array
    w: Array
    integral: Array
    levy_area: type = diffrax.SpaceTimeLevyArea

    def __init__(self, knots, shape, key=None):
        key = jax.random.key(7) if key is None else key
        step = np.diff(knots).reshape(-1, *[1] * len(shape))
        z = np.asarray(jax.random.normal(key, (2, step.shape[0], *shape), knots.dtype))
        w = np.cumsum(np.sqrt(step) * z[0], axis=0)
        before = np.concatenate([np.zeros_like(w[:1]), w[:-1]])
        areas = step * ((before + w) / 2 + np.sqrt(step / 12) * z[1])
        self.knots = knots
        self.w = jnp.asarray(np.concatenate([before, w[-1:]]))
        self.integral = jnp.asarray(np.concatenate([before[:1], np.cumsum(areas, axis=0)]))

    @property
    def t0(self):
        return self.knots[0]

    @property
    def t1(self):
        return self.knots[-1]

    def evaluate(self, t0, t1=None, left=True, use_levy=False):
        first, last = (jnp.argmin(jnp.abs(self.knots - t)) for t in (t0, t1))
        w = self.w[last] - self.w[first]
        if not use_levy:
            return w
        length = t1 - t0
        area = self.integral[last] - self.integral[first] - length * self.w[first]
        return diffrax.SpaceTimeLevyArea(dt=length, W=w, H=area / length - w / 2)

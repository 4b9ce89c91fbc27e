"""A flow in closed form: the optimal map of N(m, v) to N(0, 1) along straight paths."""

import equinox as eqx
import jax
import jax.numpy as jnp

import entropix as ex


class Straight(eqx.Module):
    """The velocity of rectified flow for pairs x = m + sqrt(v) z: constant along each path."""

    m: jax.Array
    v: jax.Array

    def __init__(self, m=0.7, v=0.4):
        self.m, self.v = jnp.asarray(m, float), jnp.asarray(v, float)

    def __call__(self, level, y, condition=None):
        s, root = (1 - level / 4) / 2, jnp.sqrt(self.v)
        z = (y - (1 - s) * self.m) / ((1 - s) * root + s)
        return (1 - root) * z - self.m


def straight_flow(m=0.7, v=0.4, dim=1):
    return ex.FlowMatching(Straight(m, v), ex.RectifiedFlow(), shape=(dim,))

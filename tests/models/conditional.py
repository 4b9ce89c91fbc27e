"""Conditional models in closed form."""

import abc

import jax
import jax.numpy as jnp

import entropix as ex
from entropix.interfaces import AbstractModel


class AbstractConditional(AbstractModel):
    """The fields of an exact model that depends on the condition."""

    @abc.abstractmethod
    def inner(self, condition) -> ex.ExactModel:
        """The model given the condition."""

    def score(self, s, y, condition=None, *, key=None):
        return self.inner(condition).score(s, y)

    def entropy_field(self, s, y, condition=None, *, key=None):
        return self.inner(condition).entropy_field(s, y)

    def velocity(self, s, y, condition=None, *, key=None):
        return self.inner(condition).velocity(s, y)


class ConditionalGaussian(AbstractConditional):
    """N(condition, variance I) given a condition; without one N(0, marginal I)."""

    process: ex.VariancePreserving
    variance: jax.Array
    marginal: jax.Array
    shape: tuple[int, ...]
    divergence = None

    def __init__(self, process, variance, marginal, dim):
        self.process = process
        self.variance = jnp.asarray(variance, float)
        self.marginal = jnp.asarray(marginal, float)
        self.shape = (dim,)

    def inner(self, condition):
        identity = jnp.eye(*self.shape, *self.shape)
        if condition is None:
            gaussian = ex.Gaussian(jnp.zeros(self.shape), self.marginal * identity)
        else:
            gaussian = ex.Gaussian(
                jnp.broadcast_to(condition, self.shape), self.variance * identity
            )
        return ex.ExactModel(gaussian, self.process)

    @property
    def prior(self):
        process = self.process
        spread = jnp.sqrt(process.var(process.t1) + process.scale(process.t1) ** 2)
        return ex.Gaussian(jnp.zeros(self.shape), spread**2 * jnp.eye(*self.shape, *self.shape))

    def with_process(self, process):
        return ConditionalGaussian(process, self.variance, self.marginal, *self.shape)

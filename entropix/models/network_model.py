"""What models that wrap a network share."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array

from entropix._core.arrays import Key, RealScalarLike
from entropix.distributions import IsotropicGaussian
from entropix.interfaces import AbstractGaussianProcess, AbstractModel, AbstractProcess
from entropix.networks.keys import with_key


class AbstractNetworkModel(AbstractModel):
    """A model whose field comes from `network(log_snr, y, condition=None[, key=None])`.

    A process that is not Gaussian has no log-SNR: there the network is given the time.
    """

    network: AbstractVar[Callable]
    process: AbstractVar[Any]
    shape: AbstractVar[tuple[int, ...] | None]

    @property
    def prior(self) -> IsotropicGaussian:
        """The Gaussian the process ends in: equilibrium if static, else N(0, Sigma(t1)^2)."""
        return noise_prior(self.process, self.shape)


def noise_prior(process: Any, shape: tuple[int, ...] | None) -> IsotropicGaussian:
    """The Gaussian a process ends in: equilibrium if static, else N(0, Sigma(t1)^2)."""
    if not isinstance(process, AbstractGaussianProcess):
        raise ValueError(
            f"`prior` must be given by the caller: what {type(process).__name__} ends in has "
            "no closed form."
        )
    if shape is None:
        raise ValueError(
            "`shape` must be given to the model, or known from its network's `dim` or its "
            "scaling, for the model to have a prior."
        )
    return IsotropicGaussian(shape, _final_std(process))


@eqx.filter_jit
def _final_std(process: AbstractGaussianProcess) -> Array:
    if process.is_static:
        return 1 / jnp.sqrt(process.equilibrium_precision(process.t1))
    return process.std(process.t1)


def collapse(process: AbstractProcess) -> str | None:
    """Why the entropy under a process is infinite at the data end, whatever the model."""
    if not isinstance(process, AbstractGaussianProcess) or process.is_finite:
        return None
    return f"the equilibrium of {type(process).__name__} collapses at the data end"


def check_parts(network: Any, process: Any, *, gaussian: bool = True) -> None:
    """Refuse what no model can wrap; `gaussian`: whether it needs a Gaussian process."""
    if not callable(network):
        raise ValueError(
            "`network` must be callable as network(log_snr, y, condition=None), "
            f"got {type(network).__name__}."
        )
    leaves = jax.tree.leaves(network, is_leaf=lambda x: isinstance(x, eqx.nn.StateIndex))
    if any(isinstance(leaf, eqx.nn.StateIndex) for leaf in leaves):
        raise ValueError(
            "`network` must be stateless: layers with state (such as BatchNorm) would make a field "
            "depend on what was evaluated before. Use LayerNorm or GroupNorm."
        )
    if gaussian:
        check_process(process)
    elif not isinstance(process, AbstractProcess):
        raise ValueError(f"`process` must be a process, got {type(process).__name__}.")


def check_process(process: Any, name: str = "process") -> None:
    """Refuse what is not a Gaussian process."""
    if not isinstance(process, AbstractGaussianProcess):
        raise ValueError(f"`{name}` must be a Gaussian process, got {type(process).__name__}.")


def example_shape(network: Any, shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The shape of one example: as given, or from `network.shape` or `network.dim`."""
    if shape is not None:
        return tuple(int(n) for n in shape)
    known = getattr(network, "shape", None)
    if known is not None:
        return tuple(int(n) for n in known)
    dim = getattr(network, "dim", None)
    return None if dim is None else (int(dim),)


def noise_level(process: AbstractProcess, s: RealScalarLike) -> Array:
    """What a network is given for the time `s`: the log-SNR, or `s` itself where there is none."""
    if isinstance(process, AbstractGaussianProcess):
        return process.log_snr(s)
    return jnp.asarray(s, process.t1.dtype)


def time_level(process: AbstractProcess, s: RealScalarLike) -> Array:
    """What a network is given for a time that has two ends and no log-SNR: from 4 down to -4.

    Networks embed log-SNRs, of which these are the middle: linear in time, so that no time is far
    from those seen in training. (Log-SNRs that run to infinity are, at exact ends.)
    """
    share = (jnp.asarray(s, process.t1.dtype) - process.t0) / (process.t1 - process.t0)
    return 4 * (1 - 2 * share)


def call_network(
    network: Callable, level: RealScalarLike, y: Array, condition: Any, key: Key | None
) -> Array:
    """Call a network; a key goes only to networks that accept one (dropout)."""
    out = network(level, y, condition, **with_key(network, key))
    if jnp.shape(out) != jnp.shape(y):
        raise ValueError(
            f"`network` must return an array of y's shape {jnp.shape(y)}, got {jnp.shape(out)}."
        )
    return out

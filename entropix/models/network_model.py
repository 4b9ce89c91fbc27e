"""The common part of models that contain a network."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array, PyTree

from entropix._core.arrays import Key, RealScalarLike
from entropix._core.checks import accepts, with_key
from entropix._core.compiled import lightly_compiled
from entropix.distributions import IsotropicGaussian
from entropix.interfaces import AbstractGaussianProcess, AbstractModel, AbstractProcess


class AbstractNetworkModel(AbstractModel):
    """A model whose field is computed by `network(log_snr, y, condition=None[, key=None])`.

    For a process that is not Gaussian, which has no log-SNR, the network is given the time.
    """

    network: AbstractVar[Callable]
    process: AbstractVar[Any]
    shape: AbstractVar[tuple[int, ...] | None]

    @property
    def prior(self) -> IsotropicGaussian:
        """The Gaussian in which the process ends."""
        return noise_prior(self.process, self.shape)


def noise_prior(process: AbstractProcess, shape: tuple[int, ...] | None) -> IsotropicGaussian:
    r"""The Gaussian in which a process ends: equilibrium if static, else $N(0, \Sigma(t_1)^2)$."""
    if not isinstance(process, AbstractGaussianProcess):
        raise ValueError(
            f"`prior` must be given by the caller: the density at the end of "
            f"{type(process).__name__} has no closed form."
        )
    if shape is None:
        raise ValueError(
            "`shape` must be given to the model if neither its network nor its scaling states the "
            "shape of an example."
        )
    return IsotropicGaussian(shape, _final_std(process))


@lightly_compiled
def _final_std(process: AbstractGaussianProcess) -> Array:
    if process.is_static:
        return 1 / jnp.sqrt(process.equilibrium_precision(process.t1))
    return process.std(process.t1)


def collapse(process: AbstractProcess) -> str | None:
    """Why the entropy of every model under a process diverges at the data end; None if not."""
    if not isinstance(process, AbstractGaussianProcess) or process.is_finite:
        return None
    return f"the equilibrium of {type(process).__name__} collapses at the data end"


def checked_model(model: Any, name: str = "model", *, gaussian: bool = False) -> AbstractModel:
    """A model, or a ValueError; if `gaussian`, one of a Gaussian process."""
    if not isinstance(model, AbstractModel):
        raise ValueError(f"`{name}` must be a model, got {type(model).__name__}.")
    if gaussian and not isinstance(model.process, AbstractGaussianProcess):
        process = type(model.process).__name__
        raise ValueError(f"`{name}` must be one of a Gaussian process, got {process}.")
    return model


def check_parts(network: Any, process: Any, *, gaussian: bool | None = True) -> None:
    """Refuse invalid parts of a model.

    `gaussian`: whether it needs a Gaussian process; None where the process has been checked.
    """
    if not callable(network):
        raise ValueError(
            "`network` must be callable as network(log_snr, y, condition=None), "
            f"got {type(network).__name__}."
        )
    if not accepts(network, 0.0, None, None):
        raise ValueError(
            "`network` must be callable as network(log_snr, y, condition=None), got "
            f"{_name(network)}, called as network({_arguments(network)}). Wrap it in a "
            "function, lambda log_snr, y, condition=None: ...; see `Your own network`."
        )
    leaves = jax.tree.leaves(network, is_leaf=lambda x: isinstance(x, eqx.nn.StateIndex))
    if any(isinstance(leaf, eqx.nn.StateIndex) for leaf in leaves):
        raise ValueError(
            "`network` must be stateless: with layers with state (such as BatchNorm) a field would "
            "depend on earlier evaluations. Use LayerNorm or GroupNorm."
        )
    if gaussian:
        check_process(process)
    elif gaussian is False and not isinstance(process, AbstractProcess):
        raise ValueError(f"`process` must be a process, got {type(process).__name__}.")


def check_process(process: Any, name: str = "process") -> None:
    """Refuse processes that are not Gaussian."""
    if not isinstance(process, AbstractGaussianProcess):
        raise ValueError(f"`{name}` must be a Gaussian process, got {type(process).__name__}.")


def example_shape(network: Any, shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The shape of one example: `shape`, or else `network.shape` or `(network.dim,)`."""
    if shape is not None:
        return tuple(int(n) for n in shape)
    known = getattr(network, "shape", None)
    if known is not None:
        return tuple(int(n) for n in known)
    dim = getattr(network, "dim", None)
    return None if dim is None else (int(dim),)


def noise_level(process: AbstractProcess, s: RealScalarLike) -> Array:
    """First argument of a network at time `s`: the log-SNR, or `s` for other processes."""
    if isinstance(process, AbstractGaussianProcess):
        return process.log_snr(s)
    return jnp.asarray(s, process.t1.dtype)


def time_level(process: AbstractProcess, s: RealScalarLike) -> Array:
    """First argument of the network of a flow: decreases linearly in time from 4 to -4.

    This is the range in which networks embed log-SNRs well. Unlike infinite log-SNRs, no level is
    far from those used in training.
    """
    share = (jnp.asarray(s, process.t1.dtype) - process.t0) / (process.t1 - process.t0)
    return 4 * (1 - 2 * share)


def call_network(
    network: Callable, level: RealScalarLike, y: Array, condition: PyTree, key: Key | None
) -> Array:
    """Call a network, with a key if it accepts one (dropout).

    Raises:
        ValueError: if it cannot be called as `network(log_snr, y, condition)`, or its result has
            not the shape of y.
    """
    given = "log_snr, y, condition = " + eqx.tree_pformat((level, y, condition))
    try:
        out = network(level, y, condition, **with_key(network, key))
    except (TypeError, IndexError, AttributeError) as error:  # of arguments in another order, say
        raise ValueError(
            "`network` must be callable as network(log_snr, y, condition) -> array of y's shape, "
            f"got an error of {_name(network)} for {given}: {error}"
        ) from error
    except ValueError as error:
        error.add_note(f"It was raised by network(log_snr, y, condition), for {given}.")
        raise
    if not eqx.is_array_like(out) or jnp.shape(out) != jnp.shape(y):
        raise ValueError(
            f"`network` must return an array of y's shape {jnp.shape(y)}, as network(log_snr, y, "
            f"condition), got {eqx.tree_pformat(out)}, for {given}."
        )
    return out


def _name(network: Callable) -> str:
    return getattr(network, "__name__", type(network).__name__)


def _arguments(network: Callable) -> str:
    """Names and defaults of the arguments, as they are written in a definition."""
    empty = inspect.Parameter.empty
    given = inspect.signature(network).parameters.values()
    bare = inspect.Signature([parameter.replace(annotation=empty) for parameter in given])
    return str(bare)[1:-1]

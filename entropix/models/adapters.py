r"""Models made elsewhere: any function of a noisy state and a noise level.

A denoiser at a known noise level is all that the estimators need, whatever process, framework or
parametrisation it came from. Three arguments say what differs: what the function returns
(`parametrisation`), which multiple of the state it is given (`state`), and how the noise level is
expressed (`level`).

| `state` | | `level` | |
|---|---|---|---|
| `"vp"` | $\alpha x + \sigma\epsilon$ | `"log_snr"` | $\lambda$ |
| `"ve"` | $x + n\epsilon$ | `"std"` | $n = e^{-\lambda/2}$ |
| `"flow"` | $(1 - t)x + t\epsilon$ | `"time"` | $t = n/(1 + n)$ |
| `"edm"` | $(x + n\epsilon)/\sqrt{n^2 + s_d^2}$ | `"edm"` | $\ln(n)/4$ |
| | | a table | the step k, between entries linear in $\lambda_k$ |

with $\alpha^2 = \mathrm{sigmoid}(\lambda)$, $\sigma^2 = 1 - \alpha^2$, and for a table of
$\bar\alpha_k$, $\lambda_k = \ln(\bar\alpha_k/(1 - \bar\alpha_k))$.

A network is defined for the noise with which it was trained, `log_snr_range`. It is never evaluated
outside. At the upper end, estimators take the cut-off at that noise, unless a larger one is given,
and report it. The model's own process ends at the lower end. Under another process that erases more
of the data the denoiser is continued linearly, see `with_process`: estimates report the largest
noise for which the network is defined, `.largest_noise`, and their standard error includes a bound
on the error of the continuation (`entropix.estimators.noise_end`).
"""

import sys
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key, RealScalarLike, State, as_float
from entropix._core.checks import accepts, choice, is_concrete, positive, with_key
from entropix.interfaces import AbstractGaussianProcess, AbstractModel
from entropix.models.denoisers import (
    AbstractDenoiserModel,
    edm_std,
    from_denoised,
    from_edm,
    from_flow,
    from_noise,
    from_v,
    unit_state,
)
from entropix.processes import LinearSchedule, RectifiedFlow, VariancePreserving


_NOT_TRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
_TRACEABLE = (
    "`function` must be traceable by JAX: written with jax.numpy, without decisions that depend on "
    "values. Call NumPy code through `jax.pure_callback`, a PyTorch module through "
    "`entropix.models.TorchFunction`."
)
OUTPUTS = ("denoiser", "noise", "v", "flow", "edm", "score")
STATES = ("vp", "ve", "flow", "edm")
LEVELS = ("log_snr", "std", "time", "edm")
# What goes with an output in the models that are published.
_STATE = {"denoiser": "ve", "noise": "vp", "v": "vp", "flow": "flow", "edm": "edm", "score": "ve"}
_LEVEL = {
    "denoiser": "std",
    "noise": "log_snr",
    "v": "log_snr",
    "flow": "time",
    "edm": "edm",
    "score": "std",
}


class DenoiserAdapter(AbstractDenoiserModel):
    r"""A function of state and noise level as a model; made by `from_denoiser`.

    Attributes:
        network: `network(state, level, condition=None[, key=None])`, for one example or a batch.
        process: a Gaussian process within `log_snr_range`, apart from its data end.
        log_snr_range: where the function is defined.
        steps: the log-SNR of each discrete step, falling, shape (K,); None for a continuous level.
        data_std: $s_d$, or None.
        output: what the function returns.
        state: what it is given.
        level: how the noise level is written; "step" with a table.
        batched: whether it wants a leading axis.
        shape: of one example.
    """

    network: Callable
    process: AbstractGaussianProcess
    log_snr_range: Float[Array, "2"]
    steps: Float[Array, " k"] | None
    data_std: Float[Array, ""] | None
    output: str = eqx.field(static=True)
    state: str = eqx.field(static=True)
    level: str = eqx.field(static=True)
    batched: bool = eqx.field(static=True)
    shape: tuple[int, ...] | None = eqx.field(static=True)

    def _noise_level(self, log_snr: Array) -> Array:
        if self.steps is not None:
            index = jnp.arange(self.steps.shape[0], dtype=log_snr.dtype)
            return jnp.interp(-log_snr, -self.steps, index)
        if self.level == "log_snr":
            return log_snr
        if self.level == "std":
            return jnp.exp(-log_snr / 2)
        return 1 / (1 + jnp.exp(log_snr / 2)) if self.level == "time" else -log_snr / 8

    def _call(self, state: Array, log_snr: Array, condition: PyTree, key: Key | None) -> Array:
        level = self._noise_level(log_snr)
        args = (state, level, condition)
        if self.batched:
            args = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], args)
        try:
            out = self.network(*args, **with_key(self.network, key))
        except _NOT_TRACEABLE as error:
            raise ValueError(_TRACEABLE) from error
        except Exception as error:
            if "torch" in sys.modules:  # its errors know nothing of JAX
                error.add_note(_TRACEABLE)
            raise
        out = as_float(out, "function")
        expected = (1, *state.shape) if self.batched else state.shape
        if out.shape != expected:
            raise ValueError(
                f"`function` must return an array of the shape of its state, {expected}, "
                f"got {out.shape}."
            )
        return out.reshape(state.shape)

    def split(
        self, s: RealScalarLike, y: State, condition: PyTree, key: Key | None
    ) -> tuple[State, State]:
        log_snr, z, alpha, sigma = unit_state(self.process, s, y)
        state = z
        if self.state == "ve":
            state = z / alpha
        elif self.state == "flow":
            state = z / (alpha + sigma)
        elif self.state == "edm":
            assert self.data_std is not None
            state = z / edm_std(alpha, sigma, self.data_std)
        out = self._call(state, log_snr, condition, key)
        if self.output == "denoiser":
            return from_denoised(z, alpha, sigma, out)
        if self.output == "noise":
            return from_noise(z, alpha, sigma, out)
        if self.output == "score":  # of x + n epsilon
            return from_noise(z, alpha, sigma, -sigma / alpha * out)
        if self.output == "v":
            return from_v(z, alpha, sigma, out)
        if self.output == "flow":
            return from_flow(z, alpha, sigma, out)
        assert self.data_std is not None
        return from_edm(z, alpha, sigma, out, self.data_std)


def from_denoiser(
    function: Callable,
    *,
    shape: tuple[int, ...],
    parametrisation: str = "denoiser",
    log_snr_range: DataLike | None = None,
    state: str | None = None,
    level: str | DataLike | None = None,
    data_std: RealScalarLike | None = None,
    process: AbstractGaussianProcess | None = None,
    batched: bool = False,
) -> AbstractModel:
    r"""A model from any function of a noisy state and a noise level.

    Args:
        function: `function(state, level, condition)`, written for one example, or for a batch with
            `batched=True`. Parameters are leaves of the function: pass an Equinox module, or
            `jax.tree_util.Partial(apply, params)`.
        shape: of one example.
        parametrisation: what it returns: `"denoiser"` (E[x|state]), `"noise"` ($\epsilon$), `"v"`
            ($\alpha\epsilon - \sigma x$), `"flow"` ($\epsilon - x$), `"edm"` (F of Karras et al.)
            or `"score"` (of $x + n\epsilon$).
        log_snr_range: the log-SNRs between which the network was trained, low and high; the low one
            is -inf for a flow that ends in pure noise. None: those of the table.
        state: which multiple of the state it is given: `"vp"`, `"ve"`, `"flow"` or `"edm"`, see
            `entropix.models.adapters`. None: `"ve"` for denoisers and scores, `"vp"` for noise and
            v, otherwise that of the parametrisation.
        level: `"log_snr"`, `"std"`, `"time"`, `"edm"`, or a table of $\bar\alpha_k$ (falling), for
            networks that are given the index k of a step. None: `"std"` for denoisers and scores,
            `"log_snr"` for noise and v, otherwise that of the parametrisation.
        data_std: $s_d$ of EDM.
        process: the Gaussian process of the model. None: a variance-preserving process that ends at
            the lower end of the range, or rectified flow if that is pure noise.
        batched: whether `function` takes a leading axis: states (1, *shape) and levels (1,).

    Returns:
        A model, for all estimators. Their `cutoff` is at least the noise at the upper end of the
        range.

    Raises:
        ValueError: if an argument is malformed, or a range is needed and missing.

    References:
        Karras et al., arXiv 2206.00364, for the common form of published models.

    Example:
        >>> import entropix as ex
        >>> gaussian = lambda y, std, condition: y / (1 + std**2)  # E[x|y] of N(0, I)
        >>> model = ex.models.from_denoiser(gaussian, shape=(3,), log_snr_range=(-9.0, 9.0))
        >>> model.shape
        (3,)
    """
    torch = sys.modules.get("torch")  # imported where one of its modules exists
    if torch is not None and isinstance(function, torch.nn.Module):
        raise ValueError(
            "`function` must be a function of JAX, got a PyTorch module: pass "
            "`entropix.models.TorchFunction(module)`."
        )
    linen = sys.modules.get("flax.linen")
    if (
        linen is not None
        and isinstance(function, linen.Module)
        and getattr(function, "scope", None) is None
    ):
        raise ValueError(
            "`function` must hold its parameters, got a Flax linen module without them: pass "
            "`jax.tree_util.Partial(f, variables)`, where f(variables, state, level, condition) "
            "calls `module.apply`."
        )
    if not callable(function) or not accepts(function, None, 0.0, None):
        raise ValueError(
            "`function` must be callable as function(state, level, condition), "
            f"got {type(function).__name__}."
        )
    choice(parametrisation, "parametrisation", OUTPUTS)
    state = choice(_STATE[parametrisation] if state is None else state, "state", STATES)
    level = _LEVEL[parametrisation] if level is None else level
    steps = None if isinstance(level, str) else _table(level)
    level = choice(level, "level", LEVELS) if isinstance(level, str) else "step"
    if "edm" in (parametrisation, state):
        if data_std is None:
            raise ValueError("`data_std` must be given for EDM preconditioning, got None.")
        data_std = positive(data_std, "data_std", shape=())
    elif data_std is not None:
        raise ValueError("`data_std` must be None without EDM preconditioning.")
    if log_snr_range is not None:
        bounds = as_float(log_snr_range, "log_snr_range")
    elif steps is not None:
        bounds = jnp.stack([steps[-1], steps[0]])
    else:
        raise ValueError(
            "`log_snr_range` must be given: the lowest and the highest log-SNR that the network "
            "was trained with."
        )
    ordered = bounds.shape == (2,)
    if ordered and is_concrete(bounds):
        ordered = bool(bounds[0] < bounds[1]) and bool(jnp.isfinite(bounds[1]))
    if not ordered:
        raise ValueError(
            f"`log_snr_range` must be (low, high) with low < high, high finite, got {bounds}."
        )
    if not isinstance(shape, tuple | list) or not all(
        isinstance(n, int | np.integer) and n > 0 for n in shape
    ):
        raise ValueError(f"`shape` must be a tuple of positive integers, got {shape!r}.")
    if is_concrete(bounds) and not np.isfinite(float(bounds[0])):
        own: AbstractGaussianProcess = RectifiedFlow()
    else:
        erased = jnp.logaddexp(0.0, -bounds[0])  # B(t1): the signal-to-noise ratio is 1/(e^B - 1)
        own = VariancePreserving(LinearSchedule(erased, erased))
    model = DenoiserAdapter(
        network=function,
        process=own,
        shape=tuple(int(n) for n in shape),
        log_snr_range=bounds,
        steps=steps,
        data_std=data_std,
        output=parametrisation,
        state=state,
        level=level,
        batched=bool(batched),
    )
    return model if process is None else model.with_process(process)


def _table(alpha_bar: DataLike) -> Array:
    """The log-SNR of each step."""
    table = np.asarray(alpha_bar, float)
    if table.ndim != 1 or table.size < 2 or not np.all((table > 0) & (table < 1)):
        raise ValueError(
            "`level` must be a name, or a table of alpha-bar between 0 and 1 with one entry for "
            f"each step, got shape {table.shape}."
        )
    if not np.all(np.diff(table) < 0):
        raise ValueError("`level` must be a table of alpha-bar that falls with the step.")
    return as_float(np.log(table) - np.log1p(-table))

"""Models that exist already: read from disk, checked against the data, and brought to their order.

Studies hold a sample as a vector, an image with its channels last. Models may take arrays, those of
PyTorch with the channels first; `Arranged` makes them models of vectors. Everything that can be
wrong with a model is found here, before anything is written: it is evaluated once at a low, a
middle and a high noise level.
"""

import contextlib
import dataclasses
import hashlib
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key, RealScalarLike, as_float
from entropix._core.extras import MissingPackageError
from entropix.distributions import IsotropicGaussian
from entropix.interfaces import (
    AbstractDistribution,
    AbstractGaussianProcess,
    AbstractModel,
    AbstractPrior,
    AbstractTokenProcess,
)
from entropix.models import TorchFunction, checked_model, from_diffusers, highest_log_snr
from entropix.persistence import describe, load


# The log-SNRs, from that of the data, at which a model is evaluated once.
_PROBES = (-6.0, 0.0, 6.0)
# The arguments of what reads a model, and the options of a study.
_OPTIONS = {
    "folder": "model",
    "path": "model",
    "precision": "model_precision",
    "condition": "model_condition",
}
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin")


# ------------------------------------------------------------------ reading


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model and where it came from.

    Attributes:
        model: as it was read.
        pipeline: whether it came from a diffusers pipeline.
        path: the file or folder; None for a model that was given in Python.
        condition: the file with the embedding that a pipeline is given, or None.
    """

    model: AbstractModel
    pipeline: bool
    path: Path | None
    condition: Path | None = None

    @property
    def text(self) -> str:
        """The model in words."""
        where = "" if self.path is None else f"{self.path}, "
        if self.pipeline:
            function: TorchFunction = self.model.network  # pyright: ignore[reportAttributeAccessIssue]
            precision = "" if function.precision is None else f" in {function.precision}"
            given = "" if self.condition is None else f", given the embedding {self.condition}"
            kind = type(function.module).__name__
            return f"{where}a diffusers pipeline with a {kind}{precision}{given}"
        network = getattr(self.model, "network", None)
        of = "" if network is None else f" of a {type(network).__name__}"
        return f"{where}{type(self.model).__name__}{of}"

    @property
    def fingerprint(self) -> str:
        """A hash of all that the model was read from; without a file, of its parameters."""
        digest = hashlib.sha256()
        if self.path is None:
            digest.update(repr(describe(self.model)).encode())
            for function in jax.tree.leaves(self.model, is_leaf=_is_torch):
                if _is_torch(function):
                    digest.update(function.fingerprint.encode())
            return digest.hexdigest()[:16]
        files = sorted(self.path.rglob("*")) if self.pipeline else [self.path]
        files += [] if self.condition is None else [self.condition]
        for file in (file for file in files if file.is_file()):
            digest.update(file.name.encode())
            with open(file, "rb") as stream:  # weights may be larger than the memory
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()[:16]


def _is_torch(node: Any) -> bool:
    return isinstance(node, TorchFunction)


def load_model(
    path: str, precision: str | None = None, condition: str | None = None
) -> LoadedModel:
    """The model of a file written by `entropix.save`, or of the folder of a diffusers pipeline.

    Args:
        path: of the file or folder.
        precision: of a pipeline, see `TorchFunction`.
        condition: a .npy file with the embedding that a pipeline is given.

    Raises:
        ValueError: in one line, if there is none.
    """
    where = Path(path).expanduser()
    try:
        exists, folder = where.exists(), where.is_dir()
    except (OSError, ValueError):
        exists = folder = False
    if not path or not exists:
        raise ValueError(f"`model` must be a file or a folder, got {path!r}, which does not exist.")
    if where.suffix in _PICKLES and not folder:
        raise ValueError(
            "`model` must be a file written by entropix.save or the folder of a diffusers "
            f"pipeline, got {path!r}: a pickle may run any code. Load it where it was made, and "
            "save the network with `save_pretrained`, or measure it with "
            "entropix.models.from_denoiser."
        )
    given = None if condition is None else Path(condition).expanduser()
    embedding = None if given is None else _embedding(given)
    try:
        with _quiet():
            if folder:
                model = from_diffusers(where, condition=embedding, precision=precision)
            else:
                model = load(where)
    except MissingPackageError:
        raise
    except (ImportError, OSError, ValueError) as error:
        text = str(error)
        for name, option in _OPTIONS.items():
            text = text.replace(f"`{name}`", f"`{option}`")
        raise ValueError(text) from error
    if not isinstance(model, AbstractModel):
        raise ValueError(f"`model` must hold a model, got a {type(model).__name__} in {path!r}.")
    return LoadedModel(model, folder, where, given)


def _embedding(path: Path) -> np.ndarray:
    try:
        with open(path, "rb") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "it is no array in the .npy format"
        raise ValueError(
            f"`model_condition` must be a .npy file with the embedding of a prompt, got {path}: "
            f"{reason}."
        ) from error


def given_model(model: AbstractModel) -> LoadedModel:
    """A model that was given in Python.

    Raises:
        ValueError: if it is not a model.
    """
    return LoadedModel(checked_model(model), False, None)


# ------------------------------------------------------------------ the order of the data


class FlatPrior(AbstractPrior):
    """A prior of arrays as one of vectors."""

    prior: AbstractDistribution | AbstractPrior
    layout: "Layout" = eqx.field(static=True)

    def sample(self, n: int, *, key: Key) -> Array:
        return jax.vmap(self.layout.flat)(self.prior.sample(n, key=key))

    def log_prob(self, y: Array) -> Array:
        arrays = jax.vmap(self.layout.array)(y.reshape(-1, y.shape[-1]))
        return self.prior.log_prob(arrays).reshape(y.shape[:-1])


@dataclasses.dataclass(frozen=True)
class Layout:
    """The order of the numbers of a sample.

    Attributes:
        data: shape of one example of the data, channels last.
        model: shape of what the model takes.
        channels_first: whether the channels are the first axis of the model.
    """

    data: tuple[int, ...]
    model: tuple[int, ...]
    channels_first: bool

    def array(self, flat: Array) -> Array:
        """From a vector of the data to an array of the model."""
        if self.channels_first:
            flat = jnp.moveaxis(flat.reshape(self.data), -1, 0)
        return flat.reshape(self.model)

    def flat(self, array: Array) -> Array:
        """From an array of the model to a vector of the data."""
        if self.channels_first:
            height, width, channels = self.data
            array = jnp.moveaxis(array.reshape(channels, height, width), 0, -1)
        return array.reshape(-1)


class Arranged(AbstractModel):
    """A model of arrays as one of vectors in the order of the data.

    Attributes:
        model: of arrays.
        layout: the order of both.
        shape: that of the vectors.
    """

    model: AbstractModel
    layout: Layout = eqx.field(static=True)
    shape: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(self, model: AbstractModel, layout: Layout):
        self.model = model
        self.layout = layout
        self.shape = (math.prod(layout.data),)

    @property
    def process(self) -> Any:
        return self.model.process

    @property
    def prior(self) -> AbstractDistribution | AbstractPrior:
        prior = self.model.prior
        if isinstance(prior, IsotropicGaussian):  # any order of its numbers is the same
            assert self.shape is not None
            return IsotropicGaussian(self.shape, prior.std)
        return FlatPrior(prior, self.layout)

    @property
    def divergence(self) -> str | None:
        return self.model.divergence

    def with_process(self, process: AbstractGaussianProcess) -> "Arranged":
        return Arranged(self.model.with_process(process), self.layout)

    def score(
        self,
        s: RealScalarLike,
        y: Float[Array, " d"],
        condition: PyTree = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, " d"]:
        return self.layout.flat(self.model.score(s, self.layout.array(y), condition, key=key))

    def entropy_field(
        self,
        s: RealScalarLike,
        y: Float[Array, " d"],
        condition: PyTree = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, " d"]:
        array = self.layout.array(y)
        return self.layout.flat(self.model.entropy_field(s, array, condition, key=key))

    def velocity(
        self,
        s: RealScalarLike,
        y: Float[Array, " d"],
        condition: PyTree = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, " d"]:
        return self.layout.flat(self.model.velocity(s, self.layout.array(y), condition, key=key))


def arranged(loaded: LoadedModel, shape: tuple[int, ...]) -> AbstractModel:
    """The model, for vectors of data with examples of a shape, channels last.

    Raises:
        ValueError: if it takes samples of another shape, or its process is not Gaussian.
    """
    model = checked_model(loaded.model, gaussian=True)
    size = math.prod(shape)
    takes = (size,) if model.shape is None else tuple(model.shape)
    if takes == (size,) and not loaded.pipeline:
        return model
    first = (shape[-1], *shape[:-1]) if len(shape) == 3 else (1, *shape)
    same = () if loaded.pipeline else (shape, (*shape, 1))
    if takes in same:
        return Arranged(model, Layout(shape, takes, False))
    if takes == first or (takes == first[1:] and first[0] == 1):
        return Arranged(model, Layout(shape, takes, len(shape) == 3))
    order = ", channels first" if loaded.pipeline else ""
    hint = ""
    if math.prod(takes) == size and len(shape) > 1:
        hint = ": say with `channels` which axis of the data holds the channels"
    raise ValueError(
        f"`model` must take samples of the shape of the data, {first if order else shape}{order}, "
        f"got a model of samples of shape {takes}{hint}."
    )


# ------------------------------------------------------------------ evaluated once


def probe(model: AbstractModel, points: np.ndarray, condition: Any) -> str | None:
    """What is wrong with the entropy field of a model; None if it can be evaluated.

    Args:
        model: of vectors, or of tokens.
        points: some samples, shape (n, D), or sequences.
        condition: of the samples, or None.
    """
    process = model.process
    if isinstance(process, AbstractTokenProcess):
        states = [(process.time_of_lost(0.5), points)]
    else:
        states = _noisy(model, points)
    try:
        with _quiet():
            for s, y in states:
                out = np.asarray(_fields(model, s, as_float(y), condition))
                if not np.isfinite(out).all():
                    return f"its field is not finite at log-SNR {float(process.log_snr(s)):.3g}"
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # Of an error on the host, only the last line of its traceback says what it is.
        hosted = isinstance(error, jax.errors.JaxRuntimeError)
        said = (lines[-1] if hosted else " ".join(lines)) if lines else type(error).__name__
        return said[:300].rstrip(".")
    return None


def _noisy(model: AbstractModel, points: np.ndarray) -> list[tuple[Array, Array]]:
    """Times, and the points with the noise of each time."""
    process, highest = model.process, highest_log_snr(model)
    centre = -float(np.log(max(float(np.var(points)), 1e-12)))
    levels = jnp.clip(
        jnp.asarray([centre + offset for offset in _PROBES], process.t1.dtype),
        process.log_snr(process.t1),
        None if highest is None else highest,
    )
    times = [process.time_of_log_snr(level) for level in levels]
    return [(s, process.scale(s) * points + process.std(s) * np.ones_like(points)) for s in times]


@eqx.filter_jit
def _fields(model: AbstractModel, s: Array, y: Array, condition: Any) -> Array:
    if condition is None:
        return jax.vmap(lambda one: model.entropy_field(s, one))(y)
    return jax.vmap(lambda one, c: model.entropy_field(s, one, c))(y, jnp.asarray(condition))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the logs of other libraries: an error is reported in one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)

"""Pipelines of `diffusers` in a folder on disk, as models."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike

from entropix._core.extras import needed
from entropix.interfaces import AbstractModel
from entropix.models.adapters import from_denoiser
from entropix.models.pytorch import TorchFunction


_OUTPUTS = {"epsilon": "noise", "sample": "denoiser", "v_prediction": "v"}
_NETWORKS = ("unet", "transformer")


def from_diffusers(
    folder: str | os.PathLike[str],
    *,
    condition: ArrayLike | None = None,
    batch_size: int | None = None,
    precision: str | None = None,
) -> AbstractModel:
    r"""The network of a `diffusers` pipeline on disk, with the noise levels of its scheduler.

    It reads `model_index.json`, the scheduler's table of $\bar\alpha$ and what its network
    predicts, and the weights (safetensors only; nothing is downloaded). What a scheduler does
    besides, such as clipping its samples, belongs to the sampler and is left out; a learned
    variance is ignored. Of a pipeline with an autoencoder the model is that of the latents.

    Args:
        folder: as `pipeline.save_pretrained(folder)` leaves it.
        condition: what a text-conditioned network is given, an array (tokens, width), the same for
            all samples: the embedding of a prompt, or of the empty one. None for networks with
            class labels, which are the `condition` of the estimators (integers), and for
            unconditional ones.
        batch_size: how many examples the network is given at a time, see `TorchFunction`.
        precision: of matrix products and convolutions, "bfloat16" or "float16", see
            `TorchFunction`; None for that of the weights.

    Returns:
        A model of examples of shape (channels, height, width), usually with values in [-1, 1].

    Raises:
        ValueError: if the folder holds no pipeline, weights are missing or no safetensors, or the
            scheduler or what the network predicts is not known.
        ImportError: if PyTorch or diffusers is not installed.
    """
    try:
        folder = pathlib.Path(folder)
    except TypeError as error:
        raise ValueError(
            f"`folder` must be the path of a folder, got {type(folder).__name__}."
        ) from error
    index = _index(folder)
    name = next((n for n in _NETWORKS if n in index), None)
    if name is None or "scheduler" not in index:
        raise ValueError(
            f"`folder` must hold a pipeline with a scheduler and a unet or a transformer, got "
            f"{sorted(k for k in index if not k.startswith('_'))} in {folder}."
        )
    network, scheduler = _component(folder, index, name), _component(folder, index, "scheduler")
    table, output, last = _noise(scheduler)
    config = network.config
    size = config.get("sample_size")
    if size is None:
        raise ValueError(
            f"`folder` must hold a network of known sample_size, got none in {folder}."
        )
    sides = [size, size] if isinstance(size, int) else size
    if not isinstance(sides, list | tuple) or not _are_sizes(sides, 2):
        raise ValueError(
            f"`folder` must hold a network whose sample_size is one or two positive integers, got "
            f"{size!r} in {folder}."
        )
    height, width = sides
    given = None if condition is None else _embedding(condition, config, name)
    if given is None and name == "unet" and config.get("cross_attention_dim") is not None:
        raise ValueError(
            "`condition` must be given for a network with cross attention: the embedding "
            f"(tokens, {config['cross_attention_dim']}) of a prompt."
        )

    def call(module: Any, states: Any, levels: Any, labels: Any) -> Any:
        torch = needed("torch", "a model of PyTorch", "torch", "torch")

        options: dict[str, Any] = {}
        if given is not None:
            embedding = torch.from_numpy(given).to(states.device, states.dtype)
            options["encoder_hidden_states"] = embedding.expand(len(states), *embedding.shape)
        if labels is not None:
            options["class_labels"] = labels.reshape(len(states)).long()
        if name == "transformer":
            return module(states, timestep=levels, **options)
        return module(states, levels, **options)

    if table is None:  # a flow, whose time its network is given in steps
        scaled = call

        def call(module: Any, states: Any, levels: Any, labels: Any) -> Any:
            return scaled(module, states, levels * last, labels)

    function = TorchFunction(network, batch_size=batch_size, call=call, precision=precision)
    shape = (int(config["in_channels"]), int(height), int(width))
    if table is None:
        # The first of its steps is the least noise: t = 1/steps.
        return from_denoiser(
            function,
            shape=shape,
            parametrisation="flow",
            log_snr_range=(-np.inf, 2 * np.log(last - 1.0)),
        )
    return from_denoiser(function, shape=shape, parametrisation=output, state="vp", level=table)


def _index(folder: pathlib.Path) -> dict[str, Any]:
    try:
        index = json.loads((folder / "model_index.json").read_text())
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is no JSON"
        raise ValueError(
            f"`folder` must hold a diffusers pipeline with a model_index.json, got {folder}: "
            f"{reason}."
        ) from error
    if not isinstance(index, dict) or not str(index.get("_class_name", "")).endswith("Pipeline"):
        raise ValueError(f"`folder` must hold a diffusers pipeline, got another index in {folder}.")
    return index


def _component(folder: pathlib.Path, index: dict[str, Any], name: str) -> Any:
    diffusers = needed("diffusers", "a model of PyTorch", "diffusers", "torch")

    entry = index[name]
    library, kind = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
    cls = getattr(diffusers, str(kind), None) if library == "diffusers" else None
    if not isinstance(cls, type):  # only what diffusers itself defines is run
        raise ValueError(f"`folder` must name a class of diffusers for its {name}, got {entry!r}.")
    options = {} if name == "scheduler" else {"use_safetensors": True, "low_cpu_mem_usage": False}
    try:
        return cls.from_pretrained(folder, subfolder=name, local_files_only=True, **options)
    except Exception as error:  # what they raise on a damaged file is not documented
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise ValueError(f"`folder` must hold the {name} of its pipeline: {reason}.") from error


def _are_sizes(sides: Sequence[Any], count: int) -> bool:
    return len(sides) == count and all(isinstance(side, int) and side > 0 for side in sides)


def _embedding(condition: ArrayLike, config: Any, name: str) -> np.ndarray:
    """What a text-conditioned network is given."""
    given = np.array(condition, np.float32)
    width = config.get("cross_attention_dim")
    if name == "unet" and width is None:
        raise ValueError("`condition` must be None for a network without cross attention.")
    fits = given.ndim == 2 and (not isinstance(width, int) or given.shape[1] == width)
    if not fits or not np.isfinite(given).all():
        raise ValueError(
            f"`condition` must be a finite array of shape (tokens, {width or 'width'}), "
            f"got shape {given.shape}."
        )
    return given


def _noise(scheduler: Any) -> tuple[np.ndarray | None, str, float]:
    """The table of alpha-bar (None for a flow), what the network predicts, the number of steps."""
    config = scheduler.config
    steps = float(config.get("num_train_timesteps", 1000))
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None:
        if "FlowMatch" in type(scheduler).__name__:
            return None, "flow", steps
        raise ValueError(
            f"`folder` must have a scheduler with a table of alphas or a flow, got "
            f"{type(scheduler).__name__}."
        )
    kind = config.get("prediction_type", "epsilon")
    if kind not in _OUTPUTS:
        raise ValueError(
            f"`folder` must have a network that predicts one of {', '.join(_OUTPUTS)}, "
            f"got {kind!r}."
        )
    table = np.asarray(table, float)
    # The last steps may be pure noise, up to the rounding of single precision.
    known = table[: np.count_nonzero(table > np.finfo(np.float32).eps ** 2)]
    if len(known) < 2 or not np.all((known > 0) & (known < 1)) or not np.all(np.diff(known) < 0):
        raise ValueError(
            "`folder` must have a scheduler whose table of alpha-bar falls from below 1 to 0 or "
            f"above in two steps or more, got {len(table)} steps of {type(scheduler).__name__}."
        )
    return known, _OUTPUTS[kind], steps

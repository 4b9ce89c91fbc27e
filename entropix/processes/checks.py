"""Checks of models and samples that depend on the kind of process: numbers, tokens, or both."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from entropix._core.checks import is_concrete
from entropix.interfaces import AbstractTokenProcess
from entropix.processes.multimodal import Multimodal


def check_example_shape(model: Any, x: Any, name: str) -> None:
    """Raise ValueError if samples are not like the examples of a model: their shape, and tokens."""
    shape = getattr(model, "shape", None)
    if shape is not None and jnp.shape(x)[1:] != tuple(shape):
        sizes = ", ".join(["n", *map(str, shape)])
        raise ValueError(f"`{name}` must have shape ({sizes}), got {jnp.shape(x)}.")
    process, tokens = getattr(model, "process", None), x
    if isinstance(process, Multimodal):
        process, tokens = process.tokens, process.split(x)[0]
    if isinstance(process, AbstractTokenProcess) and is_concrete(tokens):
        host, num_tokens = np.asarray(tokens), process.num_tokens
        wrong = host[(host != np.floor(host)) | (host < 0) | (host >= num_tokens)]
        if wrong.size:
            raise ValueError(
                f"`{name}` must hold tokens, integers from 0 to {num_tokens - 1}, got {wrong[0]:g}."
            )


def check_one_kind(process: Any) -> None:
    """Refuse rows of tokens and numbers, where only one kind of them has an answer."""
    if isinstance(process, Multimodal):
        raise ValueError(
            "`model` must be one of numbers or of tokens alone, got one of Multimodal rows: these "
            "have `neural_entropy`, `entropy_curve`, `path_kl`, `fit` and `sample`."
        )

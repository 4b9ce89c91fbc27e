"""The options of `storage` with what `--paper` and `--best` set."""

import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np

from entropix.datasets import Dataset
from entropix.studies import paper
from entropix.studies.options import StorageOptions
from entropix.studies.training import increasing


# What presets set, or what has no meaning with them.
_SET_BY_BEST = ("batch_size",)
_SET_BY_PAPER = ("batch_size", "network", "num_draws", "learning_rate", "widths", "patience")
_DATA = (
    *("num_samples", "array", "columns", "drop", "drop_missing", "drop_repeated", "encode"),
    *("split", "kind", "held_out", "dequantise", "dequantise_columns", "standardise"),
    *("components", "tokens", "length", "max_tokens"),
)


class Preset(NamedTuple):
    """What a preset fixes.

    Attributes:
        name: "paper" or "best".
        images: of both splits.
        order: the indices of the held-out and of the training images.
    """

    name: str
    images: Dataset
    order: tuple[np.ndarray, np.ndarray]


def with_preset(
    options: StorageOptions, source: str | os.PathLike[str] | Dataset
) -> tuple[StorageOptions, Preset | None]:
    """The options with those that a preset sets, and the preset, if one was asked for.

    Raises:
        ValueError: for options that the preset sets or that have no meaning with it, and as
            `entropix.studies.paper.paper_images`.
    """
    chosen = paper.preset(options.training, _SET_BY_PAPER, _SET_BY_BEST)
    if chosen is None:
        return options, None
    paper.check_unset(options.data, StorageOptions().data, _DATA, chosen)
    if isinstance(source, Dataset):
        raise ValueError(
            f"`source` must be a path with the splits train and test for `{chosen}`, "
            f"got {source!r}."
        )
    t = options.training
    if options.condition.condition not in (None, "labels"):
        raise ValueError(
            f"`condition` must be 'labels' for `{chosen}`, those of the images, got "
            f"{options.condition.condition!r}."
        )
    asked = increasing(t.sizes, "sizes", 2) if t.sizes else ()
    dataset, order, sizes = paper.paper_images(source, options.data, asked)
    batch = min(paper.BATCH_SIZE, max(sizes))
    settings: dict[str, Any] = {"sizes": sizes, "batch_size": batch}
    if t.network == "auto":
        settings["network"] = "paper" if chosen == "paper" else "unet"
    if not t.steps:
        settings["epochs"] = t.epochs or paper.IMAGE_EPOCHS
    condition = options.condition
    if paper.is_colour(dataset.shape) and condition.condition is None:
        condition = dataclasses.replace(condition, condition="labels")
    if chosen == "paper":
        rate = paper.COLOUR_RATE if paper.is_colour(dataset.shape) else paper.LEARNING_RATE
        settings |= {"num_draws": 1, "learning_rate": rate}
    data = dataclasses.replace(options.data, standardise="range", dequantise=chosen == "best")
    training = dataclasses.replace(t, **settings)
    options = dataclasses.replace(options, data=data, training=training, condition=condition)
    return options, Preset(chosen, dataset, order)

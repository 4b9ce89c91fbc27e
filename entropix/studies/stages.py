"""From trained networks to a record: what every study does between training and writing.

A stage takes what is measured and what was found before it, and returns arrays under names of the
study's schema.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np

from entropix.interfaces import DivergenceError
from entropix.studies.axis import Cutoff
from entropix.studies.grid import Grid
from entropix.studies.record import Schema, make_record
from entropix.studies.run import Run
from entropix.training import EnsembleFit


if TYPE_CHECKING:
    import xarray

Found = dict[str, Any]
S = TypeVar("S")
# Folded into the key of a seed: what follows training draws other numbers than training does.
_ESTIMATES = 0xE571


def announce(run: Run | Grid, attributes: dict[str, Any]) -> None:
    """Say what is about to happen: the texts among the attributes of the record."""
    for name, text in attributes.items():
        if name.endswith("_text"):
            run.say(f"  {name.removesuffix('_text'):<12} {text}")


def arrays(found: Found) -> Found:
    """What a stage found, on the host."""
    return {name: np.asarray(value) for name, value in found.items()}


def asks_for_cutoff(error: ValueError) -> bool:
    """Whether an estimator found its integral to be infinite without a cut-off."""
    return isinstance(error, DivergenceError) and error.remedy == "cutoff"


def with_cutoff(
    estimate: Callable[[Cutoff], S], cutoff: Cutoff, default: Callable[[], Cutoff]
) -> tuple[S, Cutoff]:
    """An estimate; with the default cut-off if it turns out to be infinite without one."""
    try:
        return estimate(cutoff), cutoff
    except ValueError as error:
        if cutoff.value is not None or not asks_for_cutoff(error):
            raise
    cutoff = default()
    return estimate(cutoff), cutoff


def for_each_seed(
    run: Run,
    stages: Sequence[tuple[str, Callable[[Any, Found], Found]]],
    subject: Callable[[int, jax.Array], Any],
) -> Found:
    """What the stages find, seed by seed, stacked.

    Args:
        run: whose seeds.
        stages: names and stages, in this order; each has random numbers of its own.
        subject: what is measured, from the index of a seed and a key.
    """
    per_seed = []
    with run.bar(len(run.seeds) * len(stages)) as bar:
        for i, seed in enumerate(run.seeds):
            what = subject(i, jax.random.fold_in(jax.random.key(seed), _ESTIMATES))
            found: Found = {}
            for j, (name, stage) in enumerate(stages):
                bar.set_postfix_str(name)
                found |= stage(what.with_stream(j), found)
                bar.update()
            per_seed.append(found)
    return {name: np.stack([found[name] for found in per_seed]) for name in per_seed[0]}


def record_of(
    run: Run,
    fits: EnsembleFit,
    found: Found,
    times: np.ndarray,
    attributes: dict[str, Any],
    schema: Schema,
) -> "xarray.Dataset":
    """The record of a study: what was found, with the history of the training."""
    history = fits.history
    values = {
        "log_snr": np.asarray(run.process.log_snr(times)),
        "loss": np.asarray(history.loss),
        "loss_held_out": np.asarray(history.holdout_loss),
    }
    record = make_record(
        values | found,
        seeds=run.seeds,
        times=times,
        steps=np.asarray(history.step),
        checks=np.asarray(history.holdout_step),
        attributes=attributes,
        schema=schema,
    )
    if run.weighting != "likelihood":
        for name in ("loss", "loss_held_out"):
            record[name].attrs["units"] = "1"
    return record

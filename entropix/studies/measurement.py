"""Measuring: train, estimate, record, report."""

import os
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from entropix.datasets import Dataset
from entropix.studies.axis import Cutoff, default_cutoff, report_times
from entropix.studies.description import describe
from entropix.studies.estimates import (
    STAGES,
    Subject,
    asks_for_cutoff,
    measure_data,
    measure_truth,
)
from entropix.studies.files import CHECKPOINT
from entropix.studies.options import MeasureOptions
from entropix.studies.outputs import write_outputs
from entropix.studies.plan import MeasurePlan, prepare_measure
from entropix.studies.record import make_record
from entropix.studies.report import text_table
from entropix.training import EnsembleFit, fit_ensemble


if TYPE_CHECKING:
    import xarray

# Folded into the key of a seed: what follows training draws other numbers than training does.
_ESTIMATES, _TRUTH = 0xE571, 0x7A17


def measure(
    source: str | os.PathLike[str] | Dataset, options: MeasureOptions = MeasureOptions()
) -> "xarray.Dataset":
    """Train entropy-matching models on data and measure what they store.

    Args:
        source: what `entropix.datasets.load` takes, or a data set.
        options: see `MeasureOptions`.

    Returns:
        The record, which has also been written, with report, plots and models, to the output
        folder. `entropix.studies.record.SCHEMA` says what is in it.

    Raises:
        ValueError: in one line, before anything is trained or written, for whatever is wrong with
            the request.
    """
    return run_measure(prepare_measure(source, options))


def run_measure(plan: MeasurePlan) -> "xarray.Dataset":
    """Run a prepared measurement; what `measure` does after its checks."""
    say = _silent if plan.options.output.quiet else print
    attributes = describe(plan, plan.cutoff)
    for name in ("data", "condition", "coordinates", "process", "cutoff", "training"):
        if f"{name}_text" in attributes:
            say(f"  {name:<12} {attributes[f'{name}_text']}")
    fits = train(plan)
    values, cutoff, times = _estimate(plan, fits)
    if cutoff is not plan.cutoff:
        say(f"  {'cutoff':<12} {describe(plan, cutoff)['cutoff_text']}")
    record = make_record(
        values,
        seeds=plan.seeds,
        times=times,
        steps=np.asarray(fits.history.step),
        checks=np.asarray(fits.history.holdout_step),
        attributes=describe(plan, cutoff),
    )
    if plan.weighting != "likelihood":
        for name in ("loss", "loss_held_out"):
            record[name].attrs["units"] = "1"
    write_outputs(plan, fits, record)
    say(f"\n{text_table(record)}\n\n  written to {plan.folder.path}{os.sep}")
    return record


def _silent(*_: Any) -> None:
    pass


def train(plan: MeasurePlan) -> EnsembleFit:
    """All networks, as one program; from the checkpoint on if there is one."""
    options = plan.options.training
    return fit_ensemble(
        plan.make_model(),
        plan.data.augmented,
        keys=[jax.random.key(seed) for seed in plan.seeds],
        steps=options.steps,
        batch_size=options.batch_size,
        num_draws=options.num_draws,
        learning_rate=options.learning_rate,
        weighting=plan.weighting,
        condition=plan.data.condition_augmented,
        holdout=plan.data.held_out,
        holdout_condition=plan.data.condition_held_out,
        checkpoint=plan.folder.path / CHECKPOINT,
        checkpoint_every=options.checkpoint_every,
        resume=True,
        progress=not plan.options.output.quiet,
    )


def _estimate(
    plan: MeasurePlan, fits: EnsembleFit
) -> tuple[dict[str, np.ndarray], Cutoff, np.ndarray]:
    """All numbers; with a cut-off if it turns out that the entropy is infinite without."""
    try:
        return _estimate_from(plan, fits, plan.cutoff)
    except ValueError as error:
        if plan.cutoff.value is not None or not asks_for_cutoff(error):
            raise
    cutoff = default_cutoff(plan.data, "chosen, because the entropy does not converge without")
    return _estimate_from(plan, fits, cutoff)


def _estimate_from(
    plan: MeasurePlan, fits: EnsembleFit, cutoff: Cutoff
) -> tuple[dict[str, np.ndarray], Cutoff, np.ndarray]:
    times = report_times(plan.process, plan.data, cutoff)

    def subject(index: int, key: jax.Array) -> Subject:
        return Subject(
            fits.member(index), plan.data, plan.options.estimation, times, cutoff.value, key
        )

    values = {
        "log_snr": np.asarray(plan.process.log_snr(times)),
        "loss": np.asarray(fits.history.loss),
        "loss_held_out": np.asarray(fits.history.holdout_loss),
    }
    first = jax.random.key(plan.options.data.data_seed)
    any_seed = subject(0, jax.random.fold_in(first, _TRUTH))
    values |= measure_data(any_seed) | measure_truth(any_seed)
    per_seed = []
    with _bar(len(plan.seeds) * len(STAGES), quiet=plan.options.output.quiet) as bar:
        for i, seed in enumerate(plan.seeds):
            what = subject(i, jax.random.fold_in(jax.random.key(seed), _ESTIMATES))
            found: dict[str, Any] = {}
            for j, (name, stage) in enumerate(STAGES):
                bar.set_postfix_str(name)
                found |= stage(what.with_stream(j), found)
                bar.update()
            per_seed.append(found)
    for name in per_seed[0]:
        values[name] = np.stack([found[name] for found in per_seed])
    if "path_kl" in values:
        values["kl_bound"] = values["path_kl"] + values["prior_kl"]
        values["kl_bound_stderr"] = np.hypot(values["path_kl_stderr"], values["prior_kl_stderr"])
    return values, cutoff, times


def _bar(total: int, *, quiet: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="measuring", unit="estimate", disable=quiet)

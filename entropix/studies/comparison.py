"""`information`: KL between two data sets in both directions, from one network, and W2."""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import numpy as np

from entropix._core.arrays import Key
from entropix._core.checks import positive_integer
from entropix.datasets import Dataset
from entropix.interfaces import AbstractGaussianProcess
from entropix.models import EntropyMatching
from entropix.studies.cutoff import Cutoff, choose_cutoff, default_cutoff, report_times
from entropix.studies.data import PreparedData, coordinates_text, data_text, pooled, prepare_pair
from entropix.studies.divergence import (
    DIRECTIONS,
    SIDES,
    PairSubject,
    measure_distance,
    measure_divergence,
    measure_pair_truth,
    side_of,
)
from entropix.studies.figures import plot_divergence, plot_loss
from entropix.studies.labels import given_labels
from entropix.studies.options import InformationOptions, TrainingOptions
from entropix.studies.record import TRAINING, Schema
from entropix.studies.report import Report, results_tables, spread_note
from entropix.studies.study import (
    AbstractDiffusionStudy,
    Figures,
    Found,
    Member,
    Workspace,
    for_each_seed,
)
from entropix.studies.training import (
    checked_training,
    make_models,
    make_process,
    process_name,
    process_parameters,
    process_text,
    training_text,
)


if TYPE_CHECKING:
    import xarray

# What is estimated of the data alone draws other numbers than any seed does.
_TRUTH = 0x7A18


def _direction(name: str, what: str) -> Schema:
    """The variables of a divergence in one direction."""
    seed, curve, rate = ("seed",), ("seed", "time"), "nats per unit log-SNR"
    return {
        name: (seed, "nats", f"{what}, held-out data, from denoising errors"),
        f"{name}_score": (seed, "nats", f"{what}, held-out data, from scores"),
        f"{name}_rate_log_snr": (curve, rate, f"rate of {what}, from denoising errors"),
        f"{name}_score_rate_log_snr": (curve, rate, f"rate of {what}, from scores"),
        f"{name}_exact": ((), "nats", f"exact {what}, held-out data"),
        f"{name}_exact_rate_log_snr": (("time",), rate, f"exact rate of {what}"),
    }


PAIR_SCHEMA: Schema = {
    **TRAINING,
    **_direction("kl", "KL(first || second)"),
    **_direction("kl_reverse", "KL(second || first)"),
    "wasserstein2": ((), "model units", "W2 between the two sets"),
    "wasserstein2_null_first": ((), "model units", "W2 between two parts of the first set"),
    "wasserstein2_null_second": ((), "model units", "W2 between two parts of the second set"),
    "wasserstein2_count": ((), "1", "samples on each side of every W2"),
}


def information(
    first: str | os.PathLike[str] | Dataset,
    second: str | os.PathLike[str] | Dataset,
    options: InformationOptions = InformationOptions(),
) -> "xarray.Dataset":
    """Train one model of two data sets and measure the KL divergences and W2 between them.

    Args:
        first: a data set, or what `entropix.datasets.load` takes.
        second: the same, in the same coordinates.
        options: see `InformationOptions`.

    Returns:
        The record, which is also written to the output folder, with report, figures and models. Its
        variables are listed in `entropix.studies.PAIR_SCHEMA`.

    Raises:
        ValueError: in one line, before anything is trained or written, for whatever is wrong with
            the request.
        FolderError: if the output folder cannot be written to any more; `resume` continues the run.
    """
    return prepare_information(first, second, options).run()


def prepare_information(
    first: str | os.PathLike[str] | Dataset,
    second: str | os.PathLike[str] | Dataset,
    options: InformationOptions = InformationOptions(),
    *,
    command: Sequence[str] = (),
) -> "InformationStudy":
    """Check the request and claim the output folder: the study of `information`, ready to run.

    Args and errors are those of `information`; `command` is the command line, if the request came
    from one. Nothing is left behind if the request is refused.
    """
    positive_integer(options.estimation.evaluations, "evaluations", 256)
    positive_integer(options.estimation.samples, "samples", 2)
    process = make_process(options.process)
    pair = prepare_pair(first, second, options.data, given_labels(options.condition))
    # A divergence may be finite where the entropies are not: the process needs no cut-off.
    cutoff = choose_cutoff(options.estimation.cutoff, process, pair[1], of_entropy=False)
    count = sum(data.num_train for data in pair)
    settings = checked_training(options.training, pair[0], process, count)
    workspace = Workspace.claim(
        options.output,
        name="-".join(data.dataset.name for data in pair),
        configuration={
            "process": process_name(options.process),
            **process_parameters(options.process),
            **dataclasses.asdict(settings),
            **dataclasses.asdict(options.data),
            **({} if pair[0].condition is None else dataclasses.asdict(options.condition)),
            "data_fingerprint": [data.fingerprint for data in pair],
        },
        command=command,
    )
    return InformationStudy(workspace, options, settings, pair, process, cutoff)


@dataclasses.dataclass(frozen=True, eq=False)
class InformationStudy(AbstractDiffusionStudy):
    """A comparison of two data sets that is ready to run.

    Attributes:
        workspace: the claimed output folder.
        options: as requested.
        settings: of the training, with the batch size filled in.
        pair: the two data sets, in the coordinates of the model.
        process: the forward process.
        cutoff: of the divergences.
    """

    schema: ClassVar[Schema] = PAIR_SCHEMA
    workspace: Workspace
    options: InformationOptions
    settings: TrainingOptions
    pair: tuple[PreparedData, PreparedData]
    process: AbstractGaussianProcess
    cutoff: Cutoff

    @property
    def names(self) -> tuple[str, str]:
        """Of the two sets; if they are the same, the second is marked."""
        first, second = (data.dataset.name for data in self.pair)
        return first, second if second != first else f"{second}'"

    @property
    def deadline(self) -> None:
        return None

    def make_model(self) -> Callable[[Key], EntropyMatching]:
        """The function from a key to an untrained model of both sets."""
        points, shape = pooled(list(self.pair)), self.pair[0].example_shape
        size = side_of(SIDES[0], self.pair[0]).shape[1]
        return make_models(self.settings, points, self.process, shape, condition_dim=size)

    def attributes(self) -> dict[str, Any]:
        first, second = self.pair
        labels = {} if first.condition is None else {"condition_text": first.condition.text}
        return {
            "title": f"entropix divergence: {' and '.join(self.names)}",
            "first": self.names[0],
            "second": self.names[1],
            "first_text": data_text(first),
            "second_text": data_text(second),
            **labels,
            "num_train": [data.num_train for data in self.pair],
            "num_held_out": [len(data.held_out) for data in self.pair],
            "standardisation": first.standardisation.name,
            "coordinates_text": f"{coordinates_text(first)}, by the moments of the two sets "
            "together, with equal weights",
            **self.cutoff.attributes(),
            "process": process_name(self.options.process),
            "process_text": process_text(self.options.process),
            "training_text": training_text(self.settings, self.process),
            "precision": str(first.train.dtype),
        }

    def examples(self) -> dict[str, Any]:
        def sides(*, augmented: bool) -> np.ndarray:
            own = zip(SIDES, self.pair, strict=True)
            return np.concatenate([side_of(s, data, augmented=augmented) for s, data in own])

        augmented, held_out = zip(*((d.augmented, d.held_out) for d in self.pair), strict=True)
        return {
            "data": np.concatenate(augmented),
            "condition": sides(augmented=True),
            "holdout": np.concatenate(held_out),
            "holdout_condition": sides(augmented=False),
        }

    def times(self, cutoff: Cutoff) -> np.ndarray:
        return report_times(self.process, self.pair[1], cutoff)

    def fallback(self) -> Cutoff:
        return default_cutoff(self.pair[1], "chosen, because KL is infinite without one")

    def estimate(
        self, member: Member, times: np.ndarray, cutoff: float | None, show: bool
    ) -> Found:
        def subject(index: int) -> PairSubject:
            effort = self.options.estimation
            return PairSubject(member(index), self.pair, effort, times, cutoff)

        key = jax.random.fold_in(jax.random.key(self.options.data.data_seed), _TRUTH)
        found = measure_distance(subject(0)) | measure_pair_truth(subject(0), key)
        stages = {"divergence": measure_divergence}
        return found | for_each_seed(self.training, stages, subject, show=show)

    def figures(self) -> Figures:
        return {
            "divergence.png": ("Rate of KL against log-SNR, in both directions", plot_divergence),
            "loss.png": ("Training loss", plot_loss),
        }

    def report(self, record: "xarray.Dataset") -> Report:
        return information_report(record)


def information_report(record: "xarray.Dataset") -> Report:
    """The record of a comparison in words."""
    a = record.attrs
    first, second = a["first"], a["second"]
    trained, held_out = (json.loads(a[name]) for name in ("num_train", "num_held_out"))
    facts = [
        f"First: {a['first_text']}",
        f"Second: {a['second_text']}",
        *([f"Labels: {a['condition_text']}"] if "condition_text" in a else []),
        f"Split: {trained[0]} and {trained[1]} samples for training, {held_out[0]} and "
        f"{held_out[1]} held out",
        f"Coordinates of the model: {a['coordinates_text']}. W2 is measured in them; KL is the "
        "same in all coordinates",
        f"Process: {a['process_text']}",
        f"Cut-off: {a['cutoff_text']}",
        f"Training: {a['training_text']}",
    ]
    texts = {"kl": f"KL({first} || {second})", "kl_reverse": f"KL({second} || {first})"}
    labels = {}
    for name, text in texts.items():
        labels[name] = f"{text}, from denoising errors"
        labels[f"{name}_score"] = f"{text}, from scores"
        labels[f"{name}_exact"] = f"exact {text}, same samples"
    labels |= {
        "wasserstein2": f"W2, {first} to {second}",
        "wasserstein2_null_first": f"W2, {first} to itself",
        "wasserstein2_null_second": f"W2, {second} to itself",
    }
    notes = [
        f"{spread_note(record)}; for W2, that of samples of this number",
        "The main result is KL from denoising errors: the error with the field of the other set "
        "minus that with the own field, on held-out samples, not clipped. KL from scores is the "
        "squared difference of the two fields, which is never negative. Where they differ by more "
        "than their errors, the network has not learnt one of the fields where the samples lie",
        f"W2 compares {int(record['wasserstein2_count'])} samples on each side and is biased "
        "upwards. Compare it with W2 between two parts of one set, of the same number",
    ]
    if "condition_text" in a:
        notes.append(
            "KL is that of the densities given the label, averaged over the labels of the set "
            "that is named first. With KL between the frequencies of the labels added, it is KL of "
            "data and labels together. W2 does not use the labels"
        )
    title = f"divergence: {first} and {second}"
    tables = results_tables(record, labels, texts, _limits(record))
    return Report(record, title, facts, tables, _warnings(record), notes)


def _limits(record: "xarray.Dataset") -> dict[str, tuple[float, str]]:
    """Ln N of the samples of the other set, which no estimate of KL can confirm to be exceeded."""
    counts = json.loads(record.attrs["num_train"])
    limits = {}
    for name, count in zip(DIRECTIONS, counts[::-1], strict=True):
        limit = float(np.log(count)), f"above {{}} = ln {count}, not confirmed; estimate {{}}"
        limits |= dict.fromkeys((name, f"{name}_score"), limit)
    return limits


def _warnings(record: "xarray.Dataset") -> list[str]:
    """A sentence for each divergence that is larger than the samples can confirm."""
    counts = json.loads(record.attrs["num_train"])
    others = zip((record.attrs["second"], record.attrs["first"]), counts[::-1], strict=True)
    warnings = []
    totals = [
        trained + held_out
        for trained, held_out in zip(counts, json.loads(record.attrs["num_held_out"]), strict=True)
    ]
    if totals[0] == totals[1]:
        warnings.append(
            f"Both sets have {totals[0]} rows. KL states how much two populations differ, not the "
            "mutual information of paired rows; for that, use "
            "`entropix mutual-information`"
        )
    for name, (other, count) in zip(DIRECTIONS, others, strict=True):
        value = float(record[f"{name}_score"].mean())
        if value > np.log(count):
            warnings.append(
                f"The sets barely overlap: {count} samples of {other} cannot confirm a KL above "
                f"ln {count} = {np.log(count):.1f} nats (McAllester and Stratos, 1811.04251). "
                "Where there are no samples, the field is an extrapolation of the network, and "
                f"{value:.3g} nats only mean that KL is large"
            )
    return warnings

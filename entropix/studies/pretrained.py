"""`measure --model`: what an existing model stores about a data set.

The numbers are those of `measure` for a network that it has trained. The data are brought to the
values and the order that the model expects; noise levels for which the model is not defined are cut
off, and reported.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from entropix._core.arrays import Key
from entropix._core.formatting import format_with_error
from entropix.datasets import Dataset, Standardisation
from entropix.entropy import neural_entropy
from entropix.estimators import check_cutoff
from entropix.interfaces import AbstractModel, AbstractTokenProcess
from entropix.models import highest_log_snr
from entropix.studies.cells import Task
from entropix.studies.cutoff import (
    Cutoff,
    choose_cutoff,
    default_cutoff,
    report_times,
    with_cutoff,
)
from entropix.studies.data import PreparedData, data_attributes, prepare_data, read
from entropix.studies.estimates import Subject, check_effort, errors_of
from entropix.studies.findings import finding_attributes
from entropix.studies.labels import information_limits
from entropix.studies.loaded import LoadedModel, arranged, given_model, load_model, probe
from entropix.studies.location import location_tables
from entropix.studies.measurement import (
    LABELS,
    SCHEMA,
    STAGES,
    baseline_tables,
    evaluations_text,
    measure_all,
    model_figures,
    notes_on,
)
from entropix.studies.options import (
    ConditionOptions,
    DataOptions,
    MeasureOptions,
    ProcessOptions,
    TrainingOptions,
)
from entropix.studies.record import Schema, assemble
from entropix.studies.report import Report, Table, results_tables
from entropix.studies.study import AbstractStudy, Figures, Found, Outcome, Workspace
from entropix.studies.tokens import prepare_token_model
from entropix.studies.training import Training, check_seed
from entropix.studies.verdict import verdicts


if TYPE_CHECKING:
    import xarray

# What a pipeline is trained with, unless `model_range` says otherwise.
_USUAL = (-1.0, 1.0)
_OF_TRAINING = ("loss", "loss_held_out")
# The least number of evaluations of an estimate.
_FEWEST = 256

PRETRAINED_SCHEMA: Schema = {
    name: variable for name, variable in SCHEMA.items() if name not in _OF_TRAINING
} | {
    "class_neural_entropy": (
        ("seed", "class"),
        "nats",
        "neural entropy S_NN of the model given a class, on held-out data of that class",
    ),
}


def prepare_pretrained(
    source: str | os.PathLike[str] | Dataset,
    options: MeasureOptions,
    *,
    model: AbstractModel | None = None,
    command: Sequence[str] = (),
) -> AbstractStudy:
    """Check the request and claim the output folder.

    Args and errors are those of `prepare_measure`.
    """
    _refuse_training(options)
    effort, asked = options.estimation, options.pretrained
    check_effort(effort)
    check_seed(options.training.seed, "seed")
    if model is not None:
        if asked.model is not None:
            raise ValueError(f"`model` must be given once, got {asked.model!r} besides a model.")
        loaded = given_model(model)
    else:
        assert asked.model is not None
        loaded = load_model(asked.model, asked.model_precision, asked.model_condition)
    for name in ("model_precision", "model_condition"):
        if getattr(asked, name) is not None and not loaded.pipeline:
            raise ValueError(
                f"`{name}` must be omitted for a model that is not a pipeline of diffusers, got "
                f"{getattr(asked, name)!r}."
            )
    dataset = read(source, options.data, options.condition)
    if dataset.kind == "tokens":
        return prepare_token_model(dataset, options, loaded, command=command)
    if isinstance(loaded.model.process, AbstractTokenProcess):
        raise ValueError(
            "`model` must be one of numbers for data of numbers, got one of tokens: --tokens int "
            "or char reads tokens."
        )
    wanted = _data_options(options.data, asked.model_range, loaded)
    data = prepare_data(dataset, wanted, options.condition)
    model = arranged(loaded, data.dataset.shape)
    if model.shape is not None and model.shape != (data.dim,):
        raise ValueError(
            f"`model` must take samples of dimension {data.dim}, got one of {model.shape}."
        )
    data, scaling = _scaled(data, asked.model_range, loaded)
    conditions, required = _conditions(model, data, loaded)
    if required:  # the density that is known is that of all classes together
        data = dataclasses.replace(data, distribution=None)
    cutoff = choose_cutoff(effort.cutoff, model.process, data)
    if highest_log_snr(model) is not None:
        least = float(check_cutoff(model, cutoff.value))  # pyright: ignore[reportArgumentType]
        if cutoff.value is None or least > cutoff.value:
            cutoff = Cutoff(least, "the least noise for which the network is defined")
    workspace = Workspace.claim(
        options.output,
        name=data.dataset.name,
        configuration={
            "model": loaded.text if loaded.path is None else asked.model,
            "model_fingerprint": loaded.fingerprint,
            "model_range": asked.model_range,
            "model_precision": asked.model_precision,
            "seed": options.training.seed,
            **dataclasses.asdict(options.data),
            **({} if data.condition is None else dataclasses.asdict(options.condition)),
            "data_fingerprint": data.fingerprint,
        },
        command=command,
    )
    return PretrainedStudy(
        workspace, options, loaded, model, data, scaling, conditions, required, cutoff
    )


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainedStudy(AbstractStudy):
    """A measurement of an existing model, ready to run.

    Attributes:
        workspace: the claimed output folder.
        options: as requested.
        loaded: the model as it was read.
        model: for vectors of data.
        data: in the coordinates of the model.
        scaling: these coordinates in words.
        conditions: of the held-out and the training samples, as the model takes them, or None.
        required: whether the model can be evaluated with conditions only.
        cutoff: of the entropies.
    """

    workspace: Workspace
    options: MeasureOptions
    loaded: LoadedModel
    model: AbstractModel
    data: PreparedData
    scaling: str
    conditions: tuple[np.ndarray, np.ndarray] | None
    required: bool
    cutoff: Cutoff

    @property
    def cells(self) -> dict[str, int]:
        return {"measurement": 0}

    def attributes(self) -> dict[str, Any]:
        data = self.data
        labels = {} if data.condition is None else {"condition_text": data.condition.text}
        return {
            "title": f"entropix measure: {data.dataset.name}",
            "model_text": self.loaded.text,
            **data_attributes(data),
            "coordinates_text": self.scaling,
            **labels,
            **self.cutoff.attributes(),
            "process_text": type(self.model.process).__name__,
            "noise_text": self._noise_text(),
            **finding_attributes(data, self.model.process),
            "relative_error": self.options.estimation.relative_error or 0.0,
        }

    def _noise_text(self) -> str:
        process, highest = self.model.process, highest_log_snr(self.model)
        low = float(process.log_snr(process.t1))
        high = float(process.log_snr(process.t0) if highest is None else highest)
        return f"log-SNR from {low:.4g} to {high:.4g}"

    def measure(self, task: Task) -> Outcome:
        options, data = self.options, self.data
        # The keys are those of a network that was trained with this seed.
        seeds = Training((options.training.seed,), 1, 1, 1.0, 1)
        # Given labels where the model needs them; otherwise the labels give I(X; label).
        main = self.conditions if self.required and self.conditions is not None else (None, None)
        stages: dict[str, Callable[[Subject, Key, Found], Found]] = dict(STAGES)
        if self.required or not self._takes_encoded():
            del stages["information"]
        if self.conditions is not None and data.condition is not None and data.condition.entropy:
            stages["classes"] = self._measure_classes

        def estimate(cutoff: Cutoff) -> tuple[Found, np.ndarray]:
            times = report_times(self.model.process, data, cutoff)

            def subject(_: int) -> Subject:
                effort = options.estimation
                return Subject(
                    self.model, data, effort, times, cutoff.value, main, min(4096, effort.samples)
                )

            seed = options.data.data_seed
            return measure_all(seeds, stages, subject, seed, show=task.show), times

        def fallback() -> Cutoff:
            return default_cutoff(data, "chosen, because the entropy is infinite without one")

        (found, times), cutoff = with_cutoff(estimate, self.cutoff, fallback)
        values = found | {"log_snr": np.asarray(self.model.process.log_snr(times)), "time": times}
        return Outcome(values, cutoff.attributes())

    def _takes_encoded(self) -> bool:
        """Whether the model takes labels as `measure --condition` encodes them."""
        return self.conditions is not None and self.conditions[0].ndim == 2

    def _measure_classes(self, subject: Subject, key: Key, _: Found) -> Found:
        """S_NN of the model given each class, on the held-out samples of that class."""
        assert self.conditions is not None
        classes, index = _classes(self.data)
        # As many samples of each, and as many evaluations in all as one estimate: one program.
        count = min(np.bincount(index, minlength=len(classes)))
        spent = max(_FEWEST, subject.options.evaluations // len(classes))
        out = []
        for i in range(len(classes)):
            chosen = np.flatnonzero(index == i)[:count]
            out.append(
                neural_entropy(
                    subject.model,
                    self.data.held_out[chosen],
                    key=jax.random.fold_in(key, i),
                    num_evaluations=spent,
                    condition=self.conditions[0][chosen],
                    cutoff=subject.cutoff,
                    chunk_size=subject.chunk_size,
                )
            )
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *out)
        return errors_of("class_neural_entropy", stacked)

    def record(self, found: dict[str, Found], attributes: dict[str, Any]) -> "xarray.Dataset":
        (values,) = (dict(values) for values in found.values())
        coordinates: dict[str, tuple[Any, str]] = {
            "seed": ([self.options.training.seed], "seed of the estimates"),
            "time": (values.pop("time"), "time s, from data to noise"),
        }
        if "class_neural_entropy" in values:
            coordinates["class"] = ([str(c) for c in _classes(self.data)[0]], "label")
        return assemble(PRETRAINED_SCHEMA, values, coordinates, attributes)

    def figures(self) -> Figures:
        return model_figures(self.data)

    def report(self, record: "xarray.Dataset") -> Report:
        a = record.attrs
        labels = [f"Labels: {a['condition_text']}"] if "condition_text" in a else []
        facts = [
            f"Model: {a['model_text']}. Nothing was trained",
            f"Data: {a['data_text']}",
            *labels,
            f"Split: {a['num_held_out']} samples held out, on which the main results are measured, "
            f"and {a['num_train']} others, called training data as if the model had been trained "
            "on them",
            f"Coordinates of the model: {a['coordinates_text']}. Entropies, path KL and transport "
            "are measured in them; log densities and samples are in the units of the data",
            f"Process: {a['process_text']}. The model is defined for {a['noise_text']}",
            f"Cut-off: {a['cutoff_text']}",
            f"Evaluations: {evaluations_text(record)}",
        ]
        results = results_tables(record, LABELS, {}, information_limits(record))
        tables = [*results, *baseline_tables(record)]
        tables += location_tables(record)
        notes = notes_on(record)
        if self.required:
            notes.append(
                "The model cannot be evaluated without labels: all results are those of the model "
                "given the labels of the samples, -log p that of a sample given its label"
            )
        if float(a["cutoff"]) > 0:
            notes.append(
                "With a cut-off, the bound on -log p is that of the density of the model at the "
                "noise of the cut-off, wherever the bound is infinite without one"
            )
        if "class_neural_entropy" in record:
            per_class = record["class_neural_entropy"].values[0]
            errors = record["class_neural_entropy_stderr"].values[0]
            rows = [["class", "S_NN, nats"]]
            for name, value, error in zip(record["class"].values, per_class, errors, strict=True):
                rows.append([str(name), format_with_error(float(value), float(error))])
            tables.append(Table(rows, "S_NN of the model given a class"))
        return Report(record, f"measure: {a['name']}", facts, tables, verdicts(record), notes)


# ------------------------------------------------------------------ checks


def _refuse_training(options: MeasureOptions) -> None:
    """Refuse options that do not concern an existing model."""
    training = dataclasses.asdict(options.training)
    for group, default in (
        (training, dataclasses.asdict(TrainingOptions()) | {"seed": training["seed"]}),
        (dataclasses.asdict(options.process), dataclasses.asdict(ProcessOptions())),
        (
            {"condition_dropout": options.condition.condition_dropout},
            {"condition_dropout": ConditionOptions().condition_dropout},
        ),
    ):
        for name, value in group.items():
            if value != default[name]:
                raise ValueError(
                    f"`{name}` must be omitted together with `model`, because nothing is trained, "
                    f"got {value}."
                )


def _data_options(
    options: DataOptions, model_range: tuple[float, ...], loaded: LoadedModel
) -> DataOptions:
    """How the data are read: not standardised unless asked."""
    if model_range:
        finite = len(model_range) == 2 and all(np.isfinite(model_range))
        if not finite or not model_range[0] < model_range[1]:
            raise ValueError(
                f"`model_range` must be two numbers LOW < HIGH, got {_numbers(model_range)}."
            )
    if options.standardise == "auto":
        return dataclasses.replace(options, standardise="none")
    if options.standardise != "none" and (model_range or loaded.pipeline):
        why = "together with `model_range`" if model_range else "for a pipeline"
        raise ValueError(f"`standardise` must be none {why}, got {options.standardise!r}.")
    return options


def _scaled(
    data: PreparedData, model_range: tuple[float, ...], loaded: LoadedModel
) -> tuple[PreparedData, str]:
    """The data in the values that the model expects, and a sentence on it."""
    dataset, points = data.dataset, data.dataset.points
    if dataset.levels is not None:
        low, high = 0.0, float(dataset.levels - 1)
    else:
        low, high = float(points.min()), float(points.max())
    if not model_range:
        if loaded.pipeline and not (_USUAL[0] - 1e-3 <= low < 0 and high <= _USUAL[1] + 1e-3):
            raise ValueError(
                f"`model_range` must be given for data outside [-1, 1], the usual values of a "
                f"pipeline, got values in [{low:g}, {high:g}]: `--model-range -1 1` rescales them, "
                f"and `--model-range {low:g} {high:g}` takes them as they are."
            )
        usual = ", the usual values of a pipeline, [-1, 1]" if loaded.pipeline else ""
        return data, f"{data_attributes(data)['coordinates_text']}{usual}"
    # Uniform noise of one level is added to levels, so that their centres lie half a level higher.
    shift = 0.5 if data.dequantised else 0.0
    size = (high - low) / (model_range[1] - model_range[0])
    mean = low + shift - model_range[0] * size
    full = np.full(data.dim, 1.0, data.train.dtype)
    scaled = data.standardised(Standardisation(mean * full, size * full, "range"))
    return scaled, f"[{low:g}, {high:g}] of the data is [{_numbers(model_range)}] of the model"


def _conditions(
    model: AbstractModel, data: PreparedData, loaded: LoadedModel
) -> tuple[tuple[np.ndarray, np.ndarray] | None, bool]:
    """The conditions as the model takes them, and whether it needs them; the model is evaluated.

    Raises:
        ValueError: if it cannot be evaluated, or its values are not finite.
    """
    alone = probe(model, data.held_out[:2], None)
    if data.condition is None:
        if alone is not None:
            raise ValueError(
                "`model` must be a model that can be evaluated on the data without labels "
                f"(`condition`), got: {alone}."
            )
        return None, False
    encoded = data.condition.values
    candidates: list[np.ndarray] = [] if loaded.pipeline else [encoded]
    if data.condition.entropy is not None:
        classes, index = _classes(data)
        names = classes if classes.dtype.kind in "biu" else np.arange(len(classes))
        if names.min() >= 0:
            candidates.append(names.astype(np.int32)[encoded.argmax(axis=1)])
        counts = np.bincount(index, minlength=len(classes))
        if counts.min() < 2:
            raise ValueError(
                "`condition` must have at least two held-out samples of each class, got "
                f"{counts.min()} of {classes[counts.argmin()]}."
            )
    said = "it takes whole numbers from 0 as classes"
    for values in candidates:
        held_out, train = (values[index] for index in data.order)
        ends = [int(held_out.reshape(len(held_out), -1)[:, 0].argmin())]
        ends.append(int(held_out.reshape(len(held_out), -1)[:, 0].argmax()))
        error = probe(model, data.held_out[ends], held_out[ends])
        if error is None:
            return (held_out, train), alone is not None
        said = error
    raise ValueError(f"`model` must take the labels of `condition`, got: {said}.")


def _classes(data: PreparedData) -> tuple[np.ndarray, np.ndarray]:
    """The classes, and the index of that of each held-out sample."""
    labels, given = data.original.labels, data.condition_held_out
    assert labels is not None
    assert given is not None
    return np.unique(labels), given.argmax(axis=1)


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)

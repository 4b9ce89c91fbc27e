"""`measure`: what trained models of one data set store."""

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import numpy as np

from entropix._core.arrays import Key
from entropix._core.formatting import format_with_error
from entropix.datasets import Dataset
from entropix.interfaces import AbstractGaussianProcess, AbstractModel
from entropix.models import EntropyMatching
from entropix.studies.baselines import GAUSSIANS
from entropix.studies.budget import Plan, Work, path_samples, time_plan
from entropix.studies.cutoff import Cutoff, choose_cutoff, default_cutoff, report_times
from entropix.studies.data import PreparedData, data_attributes, prepare_data, read
from entropix.studies.estimates import (
    STAGES as ESTIMATES,
)
from entropix.studies.estimates import (
    Subject,
    check_effort,
    measure_data,
    measure_truth,
    with_relative_error,
)
from entropix.studies.figures import plot_entropy, plot_loss
from entropix.studies.findings import finding_attributes
from entropix.studies.labels import (
    LABEL_SCHEMA,
    LABEL_TEXTS,
    conditional_network,
    information_limits,
    label_notes,
)
from entropix.studies.location import (
    LOCATION,
    location_labels,
    location_notes,
    location_tables,
    measure_critical_times,
    measure_location,
    plot_location,
)
from entropix.studies.options import (
    ConditionOptions,
    MeasureOptions,
    TrainingOptions,
)
from entropix.studies.pictures import plot_log_density, plot_samples
from entropix.studies.record import TRAINING, Schema
from entropix.studies.report import Report, Table, estimate_text, results_tables, spread_note
from entropix.studies.study import (
    AbstractDiffusionStudy,
    AbstractStudy,
    Figures,
    Found,
    Member,
    Workspace,
    for_each_seed,
)
from entropix.studies.tokens import prepare_tokens
from entropix.studies.training import (
    Training,
    checked_training,
    gaussian_parts,
    make_models,
    make_network,
    make_process,
    num_steps,
    process_name,
    process_parameters,
    process_text,
    training_text,
)
from entropix.studies.verdict import verdicts


if TYPE_CHECKING:
    import xarray

# What is estimated of the data alone draws other numbers than any seed does.
_TRUTH, _PILOT = 0x7A17, 0x9110
# The width of the guess of a latent class from an image.
_GUESS = 256
_SEED, _TIME = ("seed",), ("seed", "time")
_RATED = ("seed", "rated_sample")
_LOG_RATE = "nats per unit log-SNR"


def _gaussian_schema() -> Schema:
    """The variables of the Gaussians with the moments of the training data."""
    rated, bits = ("rated_sample",), "bits per dimension"
    found: Schema = {}
    for name, text in GAUSSIANS.items():
        found |= {
            f"negative_log_likelihood_{name}": ((), "nats", f"-E log g, held-out, g: {text}"),
            f"bits_per_dim_{name}": ((), bits, f"the same per dimension, g: {text}"),
            f"log_prob_{name}": (rated, "nats", f"log g of held-out samples, g: {text}"),
            f"log_prob_{name}_train": (rated, "nats", f"the same of training samples, g: {text}"),
        }
    return found


SCHEMA: Schema = TRAINING | {
    "neural_entropy": (_SEED, "nats", "neural entropy S_NN on held-out data"),
    "neural_entropy_train": (_SEED, "nats", "neural entropy S_NN on training data"),
    "evaluations": ((), "1", "evaluations of the field in each estimate of an entropy"),
    "entropy_rate": (_TIME, "nats per unit time", "entropy rate on held-out data"),
    "entropy_rate_log_snr": (_TIME, _LOG_RATE, "entropy rate on the log-SNR axis"),
    "cumulative_entropy": (_TIME, "nats", "entropy between the data end and each time"),
    "cumulative_entropy_train": (_TIME, "nats", "the same on training data"),
    "entropy_slope": (_SEED, "nats", "d S_NN / d(-ln cut-off): the codimension of the data"),
    "negative_log_likelihood": (_SEED, "nats", "upper bound on -E log p, held-out, data units"),
    "negative_log_likelihood_train": (_SEED, "nats", "the same on training data"),
    "bits_per_dim": (_SEED, "bits per dimension", "the bound per dimension, for integer levels"),
    "storage_limit": ((), "nats", "ln N, the entropy of the training samples"),
    **_gaussian_schema(),
    "log_prob": (_RATED, "nats", "lower bound on log p, held-out samples, data units"),
    "log_prob_train": (_RATED, "nats", "the same for training samples"),
    "log_prob_generated": (_RATED, "nats", "the same for generated samples"),
    "log_prob_exact": (("rated_sample",), "nats", "exact log p of held-out samples"),
    "wasserstein2": (_SEED, "model units", "W2 between held-out data and generated samples"),
    "wasserstein2_null": ((), "model units", "W2 between held-out and training data, same size"),
    "wasserstein2_count": ((), "1", "samples on each side of both W2"),
    "transport_w2": (_SEED, "model units", "W2 between samples of data and diffused data"),
    "transport_w2_lower": (_SEED, "model units", "lower bound on that W2 by moments"),
    "transport_length": (_SEED, "model units", "length of the path of the density, at least W2"),
    "transport_action": (_SEED, "model units squared", "action of the path, at least length^2"),
    "transport_budget": (_SEED, "model units squared", "noise budget, int sigma^2/2 ds"),
    "transport_efficiency": (_SEED, "1", "W2^2 / (S_NN x noise budget), at most 1"),
    "samples": (("seed", "generated_sample", "coordinate"), "data units", "generated samples"),
    **LABEL_SCHEMA,
    "mutual_information_cutoff": (_SEED, "model units", "smallest noise included, 0 for all"),
    "total_entropy": ((), "nats", "exact total entropy production S_tot on held-out data"),
    "cumulative_total_entropy": (("time",), "nats", "exact entropy up to each time"),
    "total_entropy_rate_log_snr": (("time",), _LOG_RATE, "exact entropy rate"),
    "path_kl": (_SEED, "nats", "path KL between the exact field and that of the model"),
    "prior_kl": ((), "nats", "KL(p_T || prior)"),
    "kl_bound": (_SEED, "nats", "upper bound on KL(data || model): path KL + KL(p_T || prior)"),
    "negative_log_likelihood_exact": ((), "nats", "exact -E log p on held-out data, data units"),
    **LOCATION,
}
LABELS = {
    "neural_entropy": "neural entropy S_NN, held-out data",
    "neural_entropy_train": "neural entropy S_NN, training data",
    "total_entropy": "exact total entropy S_tot",
    "entropy_slope": "slope of S_NN at the cut-off (codimension)",
    "path_kl": "path KL to the exact field",
    "prior_kl": "exact KL(p_T || prior)",
    "kl_bound": "bound on KL(data || model), their sum",
    "negative_log_likelihood": "bound on -log p, held-out data",
    "negative_log_likelihood_train": "bound on -log p, training data",
    "negative_log_likelihood_exact": "exact -log p, held-out data",
    "bits_per_dim": "bound on -log p, held-out data, per dimension",
    "storage_limit": "ln N, to identify one of the training samples",
    "wasserstein2": "W2, held-out data to samples",
    "wasserstein2_null": "W2, held-out data to training data",
    "transport_w2_lower": "W2 from data to noise, lower bound by moments",
    "transport_length": "W2 from data to noise, upper bound by length of path",
    "transport_efficiency": "efficiency of the process, at most 1",
    **LABEL_TEXTS,
}
STAGES = ESTIMATES | {
    "where it is": measure_location,
    "critical times": measure_critical_times,
}
_PER_SEED = {
    "neural_entropy": "S_NN, held-out",
    "negative_log_likelihood": "bound on -log p, held-out",
    "mutual_information": "I(X; label), held-out",
}


def measure(
    source: str | os.PathLike[str] | Dataset,
    options: MeasureOptions = MeasureOptions(),
    *,
    model: AbstractModel | None = None,
) -> "xarray.Dataset":
    """Train entropy-matching models on data and measure what they store.

    With `model` or `options.pretrained.model` nothing is trained, and that model is measured.

    Args:
        source: a data set, or what `entropix.datasets.load` takes.
        options: see `MeasureOptions`.
        model: a model, such as one of `entropix.models.from_denoiser`. It takes vectors, images
            with their channels last, or images with their channels first.

    Returns:
        The record, which is also written to the output folder, with report, figures and models. Its
        variables are listed in `entropix.studies.SCHEMA`.

    Raises:
        ValueError: in one line, before anything is trained or written, for whatever is wrong with
            the request.
        FolderError: if the output folder cannot be written to any more; `resume` continues the run.
    """
    return prepare_measure(source, options, model=model).run()


def prepare_measure(
    source: str | os.PathLike[str] | Dataset,
    options: MeasureOptions = MeasureOptions(),
    *,
    model: AbstractModel | None = None,
    command: Sequence[str] = (),
) -> AbstractStudy:
    """Check the request and claim the output folder: the study of `measure`, ready to run.

    Args and errors are those of `measure`; `command` is the command line, if the request came
    from one. Nothing is left behind if the request is refused.
    """
    started = time.perf_counter()
    if model is not None or options.pretrained.model is not None:
        if options.budget.minutes is not None:
            raise ValueError(
                f"`minutes` must be omitted together with `model`, got {options.budget.minutes}."
            )
        from entropix.studies.pretrained import prepare_pretrained  # it imports this module

        return prepare_pretrained(source, options, model=model, command=command)
    for name, value in dataclasses.asdict(options.pretrained).items():
        if value:
            raise ValueError(f"`{name}` must be omitted without `model`, got {value}.")
    effort = options.estimation
    check_effort(effort)
    dataset = read(source, options.data, options.condition)
    if dataset.kind == "tokens":
        return prepare_tokens(dataset, options, command=command, started=started)
    process = make_process(options.process)
    data = prepare_data(dataset, options.data, options.condition)
    cutoff = choose_cutoff(effort.cutoff, process, data)
    settings = checked_training(options.training, data, process)
    folder = Workspace.located(options.output, data.dataset.name)
    # Made once, where it is first needed: the moments of the data cost time.
    models = functools.cache(
        functools.partial(models_of, settings, data, process, options.condition)
    )
    examples = functools.partial(examples_of, data)
    plan = time_plan(options, settings, models, examples, process, Work.of(data), folder, started)
    options = dataclasses.replace(options, estimation=plan.effort)
    workspace = Workspace.claim(
        options.output,
        name=data.dataset.name,
        configuration={
            "process": process_name(options.process),
            **process_parameters(options.process),
            **dataclasses.asdict(plan.settings),
            **dataclasses.asdict(options.data),
            **({} if data.condition is None else dataclasses.asdict(options.condition)),
            **plan.configuration(options.budget.minutes),
            "data_fingerprint": data.fingerprint,
        },
        command=command,
    )
    return MeasureStudy(workspace, options, plan.settings, models, data, process, cutoff, plan)


def models_of(
    settings: TrainingOptions,
    data: PreparedData,
    process: AbstractGaussianProcess,
    labels: ConditionOptions,
) -> Callable[[Key], EntropyMatching]:
    """The function from a key to an untrained model: of the data, with labels if there are."""
    shape, condition = data.example_shape, data.condition
    if condition is None:
        return make_models(settings, data.train, process, shape)
    parts = gaussian_parts(settings, data.train, process)

    def network(key: Key, condition_dim: int) -> Callable:
        return make_network(settings, shape, key, condition_dim)

    half = -(-settings.widths[0] // 2) if settings.network == "mlp" else _GUESS
    rate = labels.condition_dropout
    conditional = conditional_network(network, condition, data.dim, half, rate)

    def make(key: Key) -> EntropyMatching:
        return EntropyMatching(conditional(key), process, **parts)

    return make


def examples_of(data: PreparedData) -> dict[str, Any]:
    """Training and held-out data, as arguments of `Training.fit`."""
    return {
        "data": data.augmented,
        "condition": data.condition_augmented,
        "holdout": data.held_out,
        "holdout_condition": data.condition_held_out,
    }


@dataclasses.dataclass(frozen=True, eq=False)
class MeasureStudy(AbstractDiffusionStudy):
    """A measurement that is ready to run.

    Attributes:
        workspace: the claimed output folder.
        options: as requested.
        settings: of the training, with the batch size filled in.
        models: see `models_of`.
        data: in the coordinates of the model.
        process: the forward process.
        cutoff: of the entropies.
        plan: of the time.
    """

    schema: ClassVar[Schema] = SCHEMA
    workspace: Workspace
    options: MeasureOptions
    settings: TrainingOptions
    models: Callable[[], Callable[[Key], EntropyMatching]]
    data: PreparedData
    process: AbstractGaussianProcess
    cutoff: Cutoff
    plan: Plan

    @property
    def deadline(self) -> float | None:
        return self.plan.deadline

    def make_model(self) -> Callable[[Key], EntropyMatching]:
        return self.models()

    def attributes(self) -> dict[str, Any]:
        data = self.data
        labels = {} if data.condition is None else {"condition_text": data.condition.text}
        return {
            "title": f"entropix measure: {data.dataset.name}",
            **data_attributes(data),
            **labels,
            **self.cutoff.attributes(),
            "process": process_name(self.options.process),
            "process_text": process_text(self.options.process),
            "training_text": training_text(self.settings, self.process),
            **self.plan.attributes(),
            "num_steps": num_steps(self.settings),
            "patience": self.settings.patience or 0,
            "network": self.settings.network,
            **finding_attributes(data, self.process),
            "relative_error": self.options.estimation.relative_error or 0.0,
        }

    def examples(self) -> dict[str, Any]:
        return examples_of(self.data)

    def times(self, cutoff: Cutoff) -> np.ndarray:
        return report_times(self.process, self.data, cutoff)

    def fallback(self) -> Cutoff:
        return default_cutoff(self.data, "chosen, because the entropy is infinite without one")

    def estimate(
        self, member: Member, times: np.ndarray, cutoff: float | None, show: bool
    ) -> Found:
        effort = self.options.estimation

        def subject(index: int) -> Subject:
            model, count = member(index), path_samples(effort)
            return Subject(model, self.data, effort, times, cutoff, path_samples=count)

        return measure_all(self.training, STAGES, subject, self.options.data.data_seed, show=show)

    def figures(self) -> Figures:
        return model_figures(self.data) | {"loss.png": ("Training loss", plot_loss)}

    def report(self, record: "xarray.Dataset") -> Report:
        return measure_report(record)


def measure_all(
    training: Training,
    stages: dict[str, Callable[[Subject, Key, Found], Found]],
    subject: Callable[[int], Subject],
    data_seed: int,
    *,
    show: bool,
) -> Found:
    """All results for every seed, with the number of evaluations that was requested.

    Args:
        training: whose seeds.
        stages: see `for_each_seed`.
        subject: from the index of a seed to what is measured.
        data_seed: of what is estimated of the data alone.
        show: whether to show progress.
    """
    key = jax.random.fold_in(jax.random.key(data_seed), _TRUTH)
    first = with_relative_error(subject(0), jax.random.fold_in(key, _PILOT))
    found = measure_data(first) | measure_truth(first, key) | location_labels(first)

    def equal(index: int) -> Subject:
        return dataclasses.replace(subject(index), options=first.options)

    found |= for_each_seed(training, stages, equal, show=show)
    if "path_kl" in found:
        found["kl_bound"] = found["path_kl"] + found["prior_kl"]
        found["kl_bound_stderr"] = np.hypot(found["path_kl_stderr"], found["prior_kl_stderr"])
    return found


def model_figures(data: PreparedData) -> Figures:
    """Figures of what is measured of a model of the data."""
    samples = functools.partial(plot_samples, data=data)
    location = functools.partial(plot_location, data=data)
    parts = "scale of images" if data.has_pictures else "column"
    return {
        "entropy.png": (
            "Entropy rate against log-SNR, and its integral from the data end",
            plot_entropy,
        ),
        "information.png": (f"Where S_NN is, and at which noise for each {parts}", location),
        "samples.png": ("Held-out data and samples of the first seed", samples),
        "log_density.png": (
            "Lower bound on log p for data and generated samples",
            plot_log_density,
        ),
    }


def evaluations_text(record: "xarray.Dataset") -> str:
    """The number of evaluations of each estimate, and how it was chosen."""
    text = f"{int(record['evaluations'])} for each estimate of an entropy"
    asked = float(record.attrs.get("relative_error", 0.0))
    if asked == 0:
        return text
    reached = np.abs(record["neural_entropy_mc_stderr"] / record["neural_entropy"]).max()
    return (
        f"{text}, chosen by a pilot estimate for a relative Monte Carlo error of {asked:g}; "
        f"that of S_NN is {float(reached):.2g}"
    )


def measure_report(record: "xarray.Dataset") -> Report:
    """The record of a measurement in words."""
    a = record.attrs
    facts = [
        f"Data: {a['data_text']}",
        *([f"Labels: {a['condition_text']}"] if "condition_text" in a else []),
        f"Split: {a['num_train']} samples for training, {a['num_held_out']} held out",
        f"Coordinates of the model: {a['coordinates_text']}. Entropies, path KL and transport are "
        "measured in them; log densities and samples are in the units of the data",
        f"Process: {a['process_text']}",
        f"Cut-off: {a['cutoff_text']}",
        f"Evaluations: {evaluations_text(record)}",
        f"Training: {a['training_text']}",
    ]
    results = results_tables(record, LABELS, _PER_SEED, information_limits(record))
    tables = [*results, *baseline_tables(record)]
    tables += location_tables(record)
    title, notes = f"measure: {a['name']}", notes_on(record)
    return Report(record, title, facts, tables, verdicts(record), notes)


def baseline_tables(record: "xarray.Dataset") -> list[Table]:
    """The model beside the Gaussians of the training data."""
    bits = "bits_per_dim" in record
    rows = [["density", "-log p [nats]", *(["bits per dimension"] if bits else [])]]
    rows[0].append("above the model [nats]")
    named = {"": "bound of the model"} | {f"_{name}": text for name, text in GAUSSIANS.items()}
    for suffix, text in named.items():
        of = f"negative_log_likelihood{suffix}"
        if of not in record:
            rows.append([text, "none", *([""] if bits else []), "it has no density"])
            continue
        row = [text, estimate_text(record, of)]
        if bits:
            row.append(estimate_text(record, f"bits_per_dim{suffix}"))
        if suffix:
            model, other = record["log_prob"].mean("seed"), record[f"log_prob{suffix}"]
            above = (model - other).values
            row.append(format_with_error(above.mean(), above.std(ddof=1) / np.sqrt(len(above))))
        rows.append([*row, ""] if not suffix else row)
    return [Table(rows, "Held-out data, against Gaussians with the moments of the training data")]


def notes_on(record: "xarray.Dataset") -> list[str]:
    """How to read the results."""
    efficiency = (
        "it is computed with the W2 of samples, which is biased upwards, so that it may exceed 1 "
        "for few samples. The lower bound on W2 has no such bias"
    )
    if not np.isfinite(record["transport_budget"].values).all():
        efficiency = "it is zero here, because the noise budget of this process is infinite"
    notes = [
        f"The main result is S_NN on held-out data. {spread_note(record)}",
        "The bounds on -log p are path bounds: on average, log p of the model is at least minus "
        "their value. A gap between training and held-out data shows what the network has "
        "memorised",
        f"W2 compares {int(record['wasserstein2_count'])} samples on each side and is biased "
        "upwards. Compare it with W2 between held-out and training data of the same number, which "
        "is what perfect samples would have",
        "Speed limit: the path of the density from data to noise is at least as long as W2. "
        f"Efficiency is W2^2 / (S_NN x noise budget); {efficiency}",
        "The Gaussians have the moments of the training data: isotropic in the coordinates of the "
        "model, diagonal, and with the full covariance. The advantage of a model over the "
        "last is what it has learnt beyond mean and covariance",
        "ln N is the entropy of the empirical distribution: the information that identifies one of "
        "the N training samples",
    ]
    if "path_kl" in record:
        notes.append(
            "The density of the data is known: path KL + KL(p_T || prior) is an upper bound on "
            "KL(data || model), and |sqrt(S_NN) - sqrt(S_tot)| is at most sqrt(path KL)"
        )
    if "bits_per_dim" in record:
        notes.append(
            "Bits per dimension are a bound for the integer levels, because uniform noise of one "
            "level was added"
        )
    return notes + label_notes(record) + location_notes(record)

r"""`measure` of tokens: what trained models of sequences store, beside counting and packing.

With D tokens from K symbols and m the share of tokens that are lost,

$$S_{NN} = D\int_0^1 I(m)\,dm,$$

I being what the model knows of a lost token: $E\,KL(p_\theta(x_i)\|\text{uniform})$ for masking. It
falls from $m = 0$, where all other tokens are known, to $m = 1$, where none is.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax
import numpy as np

from entropix._core.arrays import Key
from entropix._core.checks import choice
from entropix._core.memory import check_fits
from entropix.datasets import Dataset
from entropix.interfaces import AbstractModel, AbstractTokenProcess
from entropix.models import MaskedDenoiser
from entropix.networks import Flattened, FourierMLP, TokenTransformer
from entropix.processes import CosineSchedule, LinearSchedule, Masking, UniformJumps
from entropix.studies.budget import Plan, Work, time_plan
from entropix.studies.estimates import check_effort
from entropix.studies.figures import plot_loss
from entropix.studies.labels import conditional_network, label_entropy, make_condition
from entropix.studies.options import (
    EstimationOptions,
    MeasureOptions,
    ProcessOptions,
    TrainingOptions,
)
from entropix.studies.record import Schema
from entropix.studies.report import Report
from entropix.studies.study import (
    AbstractTrainedStudy,
    Figures,
    Found,
    Member,
    Workspace,
    for_each_seed,
)
from entropix.studies.tokens.baselines import COMPRESSORS, baseline_names, measure_baselines
from entropix.studies.tokens.data import TokenData, split_tokens
from entropix.studies.tokens.figures import (
    plot_baselines,
    plot_information,
    plot_positions,
    plot_samples,
)
from entropix.studies.tokens.measurement import (
    SHARES,
    STAGES,
    TOKEN_SCHEMA,
    Subject,
    of_positions,
    sampling,
    with_relative_error,
)
from entropix.studies.tokens.report import data_text, token_report, with_verdict
from entropix.studies.training import (
    TOKEN_PROCESSES,
    Training,
    checked_steps,
    checked_widths,
    num_steps,
    stopping_text,
    training,
    widths_text,
)


if TYPE_CHECKING:
    import xarray

# By kind of network: batch size, learning rate.
_NETWORKS = {"mlp": (128, 3e-3), "transformer": (16, 3e-3)}
# Memory of a training step for each number in the fields of a batch; measured for 50,000 tokens.
_BYTES = 42
# The width of the network that guesses a latent class from a sequence, beside a transformer.
_GUESS = 256
TOKEN_AXES = {
    "lost": "share of lost tokens",
    "baseline": "models with which the network is compared",
    "compressor": "programs that pack the data",
}
_OF_NUMBERS = {
    *("dequantise", "dequantise_columns", "standardise", "components", "cutoff", "gaussian"),
    "model_range",
    *(field.name for field in dataclasses.fields(ProcessOptions) if field.name != "process"),
}


# ------------------------------------------------------------------ the request


def prepare_tokens(
    dataset: Dataset, options: MeasureOptions, *, command: Sequence[str], started: float
) -> "TokenStudy":
    """Check the request and claim the output folder.

    Args:
        dataset: of tokens.
        options: see `MeasureOptions`.
        command: the command line, if the request came from one.
        started: the value of `time.perf_counter` when the request was read.

    Raises:
        ValueError: in one line, for whatever is wrong with the request.
    """
    refuse_numbers(options.data, options.estimation, options.training, options.process)
    check_effort(options.estimation)
    condition = make_condition(dataset.labels, options.condition, options.data.data_seed)
    data = split_tokens(dataset, options.data, condition)
    process = token_process(options.process.process, data.num_tokens)
    settings = _checked_training(options.training, data)
    folder = Workspace.located(options.output, dataset.name)
    dropout = options.condition.condition_dropout
    models = functools.partial(_models_of, settings, data, process, dropout)
    examples = functools.partial(_examples_of, data)
    work = _work(data, process)
    plan = time_plan(options, settings, models, examples, process, work, folder, started)
    options = dataclasses.replace(options, estimation=plan.effort)
    workspace = Workspace.claim(
        options.output,
        name=dataset.name,
        configuration={
            "process": process_word(process),
            **dataclasses.asdict(plan.settings),
            **dataclasses.asdict(options.data),
            **({} if condition is None else dataclasses.asdict(options.condition)),
            **plan.configuration(options.budget.minutes),
            "data_fingerprint": data.fingerprint,
        },
        command=command,
    )
    return TokenStudy(workspace, options, plan.settings, data, process, plan)


def refuse_numbers(*groups: Any) -> None:
    """Refuse options that concern numbers: units, densities and cut-offs.

    Args:
        groups: of options, dataclasses; what differs from their defaults was given.
    """
    for given in groups:
        default = type(given)()
        for field in dataclasses.fields(given):
            value = getattr(given, field.name)
            if field.name in _OF_NUMBERS and value != getattr(default, field.name):
                raise ValueError(f"`{field.name}` must be left out for tokens, got {value!r}.")


def token_process(name: str, num_tokens: int) -> AbstractTokenProcess:
    """The process of an option.

    Raises:
        ValueError: if it is another.
    """
    if choice(name, "process", ("auto", *TOKEN_PROCESSES)) == "uniform-jumps":
        return UniformJumps(num_tokens, CosineSchedule())
    return Masking(num_tokens, LinearSchedule())


def _checked_training(options: TrainingOptions, data: TokenData) -> TrainingOptions:
    """The options with all that is chosen automatically filled in."""
    network = choice(options.network, "network", ("auto", *_NETWORKS))
    if network == "auto":
        network = "mlp" if options.widths else "transformer"
    size = "medium" if options.size == "auto" else options.size
    widths = checked_widths(options, network, size, data.num_train * data.dataset.dim)
    options = dataclasses.replace(options, network=network, gaussian="no", size=size, widths=widths)
    options = checked_steps(options, *_NETWORKS[network], data.num_train)
    _check_memory(options, data)
    return options


def _check_memory(options: TrainingOptions, data: TokenData) -> None:
    """Refuse training steps that do not fit into the memory of this machine."""
    assert options.batch_size is not None
    size = _BYTES * options.batch_size * options.num_draws * data.dim * data.num_tokens
    if jax.default_backend() == "cpu":
        check_fits(
            size,
            "a training step (--batch-size, --num-draws, --length, --max-tokens)",
            f"one with {options.batch_size} x {options.num_draws} sequences of {data.dim} tokens "
            f"from {data.num_tokens}",
        )


def _models_of(
    settings: TrainingOptions, data: TokenData, process: AbstractTokenProcess, dropout: float
) -> Callable[[Key], MaskedDenoiser]:
    """The function from a key to an untrained model."""
    make_network: Any = functools.partial(token_network, settings, data, process)
    if data.condition is not None:
        half = -(-settings.widths[0] // 2) if settings.network == "mlp" else _GUESS
        dim = data.dataset.dim * process.num_states
        plain = make_network

        def flat(key: Key, condition_dim: int) -> FourierMLP | Flattened:
            network = plain(key, condition_dim)
            return network if isinstance(network, FourierMLP) else Flattened(network)

        make_network = conditional_network(flat, data.condition, dim, half, dropout)

    def make(key: Key) -> MaskedDenoiser:
        names = data.dataset.vocabulary
        return MaskedDenoiser(make_network(key), process, shape=data.shape, vocabulary=names)

    return make


def token_network(
    settings: TrainingOptions,
    data: TokenData,
    process: AbstractTokenProcess,
    key: Key,
    condition_dim: int | None = None,
) -> FourierMLP | TokenTransformer:
    """An untrained network.

    Args:
        settings: `network`, "mlp" of the `widths` or "transformer" of the `size`.
        data: the sequences, for their shape and number.
        process: with the number of states.
        key: PRNG key of the initial weights.
        condition_dim: size of a condition, or None.
    """
    if settings.network == "mlp":
        dim = data.dataset.dim * process.num_states
        return FourierMLP(dim, widths=settings.widths, condition_dim=condition_dim, key=key)
    return TokenTransformer.sized(
        settings.size,
        data.shape,
        process.num_states,
        data.num_train,
        time_dependent=not process.has_mask,
        condition_dim=condition_dim,
        key=key,
    )


def _examples_of(data: TokenData) -> dict[str, Any]:
    """Training and held-out data, as arguments of `Training.fit`."""
    return {
        "data": data.augmented,
        "condition": data.condition_augmented,
        "holdout": data.held_out,
        "holdout_condition": data.condition_held_out,
    }


def _work(data: TokenData, process: AbstractTokenProcess) -> Work:
    rated, labels = min(len(data.held_out), data.num_train), data.condition is not None

    def evaluations(effort: EstimationOptions) -> int:
        steps = sampling(effort, data, process)["num_steps"]
        curves = (2 + 4 * labels) * effort.evaluations + of_positions(effort)
        densities = 2 * min(rated, effort.samples) * effort.density_evaluations
        return curves + effort.samples * steps + densities

    return Work(data.num_train, evaluations, labels)


# ------------------------------------------------------------------ the study


@dataclasses.dataclass(frozen=True, eq=False)
class TokenStudy(AbstractTrainedStudy):
    """A measurement of tokens that is ready to run.

    Attributes:
        workspace: the claimed output folder.
        options: as requested.
        settings: of the training, with the batch size filled in.
        data: the sequences.
        process: the forward process.
        plan: of the time.
    """

    schema: ClassVar[Schema] = TOKEN_SCHEMA
    axes: ClassVar[dict[str, str]] = TOKEN_AXES
    workspace: Workspace
    options: MeasureOptions
    settings: TrainingOptions
    data: TokenData
    process: AbstractTokenProcess  # pyright: ignore[reportIncompatibleVariableOverride]
    plan: Plan

    @property
    def deadline(self) -> float | None:
        return self.plan.deadline

    def make_model(self) -> Callable[[Key], AbstractModel]:
        dropout = self.options.condition.condition_dropout
        return _models_of(self.settings, self.data, self.process, dropout)

    def examples(self) -> dict[str, Any]:
        return _examples_of(self.data)

    def attributes(self) -> dict[str, Any]:
        return {
            **token_attributes(self.data, self.process),
            "training_text": self._training_text(),
            **self.plan.attributes(),
            "num_steps": num_steps(self.settings),
            "patience": self.settings.patience or 0,
            "network": self.settings.network,
            "relative_error": self.options.estimation.relative_error or 0.0,
        }

    def _training_text(self) -> str:
        settings = self.settings
        text = widths_text(settings.widths)
        if settings.network == "transformer":
            make = functools.partial(token_network, settings, self.data, self.process)
            network = eqx.filter_eval_shape(make, jax.random.key(0))
            text = f"transformer of {len(network.blocks)} blocks of width {network.entry.shape[1]}"
        method = "cross-entropy of lost tokens" if self.process.has_mask else "score entropy"
        steps = num_steps(settings)
        cut = ""
        if (offsets := round(len(self.data.augmented) / self.data.num_train)) > 1:
            cut = f"; windows are cut at {offsets} offsets"
        return f"{training(settings).text(text, steps, method)}{cut}{stopping_text(settings)}"

    def evaluate(self, member: Member, *, show: bool) -> tuple[Found, dict[str, Any]]:
        return measure_all(self.training, member, self.data, self.options, show=show), {}

    def record(self, found: dict[str, Found], attributes: dict[str, Any]) -> "xarray.Dataset":
        return with_verdict(self.assembled(found, attributes))

    def figures(self) -> Figures:
        return token_figures(self.data) | {"loss.png": ("Training loss", plot_loss)}

    def report(self, record: "xarray.Dataset") -> Report:
        return token_report(record, self.data)


# ------------------------------------------------------------------ of any model


def process_word(process: AbstractTokenProcess) -> str:
    """The process as the command line names it."""
    return "masking" if process.has_mask else "uniform-jumps"


def token_attributes(data: TokenData, process: AbstractTokenProcess) -> dict[str, Any]:
    """What a record says of its data and of the process."""
    dataset = data.dataset
    lost = {"Masking": "a mask", "UniformJumps": "a uniform one"}
    name = type(process).__name__
    become = f": a lost token becomes {lost[name]}" if name in lost else ""
    return {
        "title": f"entropix measure: {dataset.name}",
        "name": dataset.name,
        "data_text": data_text(data),
        **({} if data.condition is None else {"condition_text": data.condition.text}),
        "source": dataset.source,
        "shape": list(dataset.shape),
        "num_train": data.num_train,
        "num_held_out": len(data.held_out),
        "num_tokens": data.num_tokens,
        "uniform_bits": float(np.log2(data.num_tokens)),
        "vocabulary": dataset.vocabulary,
        "leaked": data.leaked[0],
        "compared": data.leaked[1],
        "process": process_word(process),
        "process_text": f"{name}{become}",
    }


def measure_all(
    training: Training,
    member: Member,
    data: TokenData,
    options: MeasureOptions,
    *,
    show: bool,
) -> Found:
    """All results for every seed, with the number of evaluations that was requested.

    Args:
        training: whose seeds.
        member: from the index of a seed to its model.
        data: on which they are measured.
        options: as requested.
        show: whether to show progress.
    """
    first = Subject(member(0), data, options.estimation)
    effort = with_relative_error(first, jax.random.key(options.data.data_seed))

    def subject(index: int) -> Subject:
        return Subject(member(index), data, effort)

    found = measure_baselines(data, first.num_rated) | label_entropy(data.condition)
    found["evaluations"] = np.asarray(effort.evaluations)
    found |= for_each_seed(training, STAGES, subject, show=show)
    axes = {"lost": SHARES, "baseline": baseline_names(data), "compressor": list(COMPRESSORS)}
    return found | axes


def token_figures(data: TokenData) -> Figures:
    """Figures of what is measured of a model of the data."""
    shape = data.shape
    found: Figures = {
        "entropy.png": (
            "S_NN of a lost token against the share of lost tokens, and its integral from the "
            "data end",
            plot_information,
        ),
        "information.png": (
            "S_NN at each position",
            functools.partial(plot_positions, shape=shape),
        ),
        "baselines.png": ("Bits per token of the model and of the baselines", plot_baselines),
    }
    if len(shape) > 1:
        found["samples.png"] = (
            "Held-out data and samples of the first seed",
            functools.partial(
                plot_samples, real=data.held_out, shape=shape, num_tokens=data.num_tokens
            ),
        )
    return found

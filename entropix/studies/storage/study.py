"""`storage`: S_NN of networks against the number of their training samples and their training."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from entropix._core.arrays import Key
from entropix._core.checks import choice, positive_integer
from entropix.datasets import Dataset
from entropix.distributions import dequantise
from entropix.interfaces import (
    AbstractDistribution,
    AbstractGaussianProcess,
    AbstractModel,
    AbstractTokenProcess,
)
from entropix.models import EntropyMatching, GaussianScaling, MaskedDenoiser
from entropix.networks import PaperConvNet, UNet
from entropix.studies import paper
from entropix.studies.cells import Arrays, Task, stacked
from entropix.studies.cutoff import Cutoff, choose_cutoff, default_cutoff
from entropix.studies.data import PreparedData, data_attributes, prepare_data, read
from entropix.studies.labels import given_labels, make_condition
from entropix.studies.options import StorageOptions, TrainingOptions
from entropix.studies.record import Schema, assemble
from entropix.studies.report import Report
from entropix.studies.storage.figures import plot_memorisation, plot_storage
from entropix.studies.storage.fit import LogFit, fit_logarithm
from entropix.studies.storage.measurement import CUT, measure_cell
from entropix.studies.storage.presets import with_preset
from entropix.studies.storage.report import storage_report
from entropix.studies.study import (
    AbstractStudy,
    Figures,
    Found,
    Outcome,
    Workspace,
)
from entropix.studies.theorems import SLACK
from entropix.studies.tokens import (
    TokenData,
    process_word,
    refuse_numbers,
    split_tokens,
    token_attributes,
    token_network,
    token_process,
)
from entropix.studies.training import (
    Training,
    check_widths,
    increasing,
    make_process,
    mlp_model,
    paper_seeds,
    process_name,
    process_parameters,
    process_text,
    widths_text,
)


if TYPE_CHECKING:
    import xarray

_NETWORKS = ("auto", "mlp", "unet", "paper", "transformer")
_OF_IMAGES = ("unet", "paper")
# Lengths of training, in steps.
_LENGTHS = (250, 1000, 4000)
_LEAST = 50
# Noise draws of every sample of the largest set, and the memory they may take.
_MAX_DRAWS, _MAX_NUMBERS = 32, 2**25
# Folded into the seed of the data: the noise of dequantisation in training.
_NOISE = 0xD1CE
_EACH, _STEPS = ("size", "steps", "seed"), ("steps",)

# The dimension `steps` is called `epochs` if lengths are given in epochs.
SCHEMA: Schema = {
    "neural_entropy": (_EACH, "nats", "neural entropy S_NN on held-out data"),
    "neural_entropy_train": (_EACH, "nats", "neural entropy S_NN on the N training samples"),
    "total_entropy": (_EACH, "nats", "exact total entropy production S_tot, same samples"),
    "efficiency": (_EACH, "1", "encoding efficiency S_NN / S_tot"),
    "nearest_ratio": (_EACH, "1", "distance to nearest over second nearest training sample"),
    "nearest_ratio_null": (_EACH, "1", "the same for held-out samples"),
    "memorised": (_EACH, "1", "share of generated samples with a ratio below 1/3"),
    "memorised_null": (_EACH, "1", "the same for held-out samples"),
    "theorem_slack": (("theorem", *_EACH), "1", SLACK),
    "loss": (_EACH, "nats", "training loss over the last 100 steps"),
    "best_step": (_EACH, "1", "training steps of the parameters that were measured"),
    "log_fit_intercept": (_STEPS, "nats", "a of S_NN = a + b log N"),
    "log_fit_slope": (_STEPS, "nats", "b, per e-fold of N; its error is from scatter over seeds"),
    "log_fit_slope_low": (_STEPS, "nats", "lower end of its 95% interval, Student's t"),
    "log_fit_slope_high": (_STEPS, "nats", "upper end of its 95% interval"),
    "log_fit_chi_squared": (_STEPS, "1", "chi^2 per degree of freedom of the fit"),
}


def storage(
    source: str | os.PathLike[str] | Dataset = "digits", options: StorageOptions = StorageOptions()
) -> "xarray.Dataset":
    """S_NN of networks against the number of their training samples and the length of training.

    The experiment of Neural Entropy (arXiv 2409.03817) on storage.

    Args:
        source: a data set, or what `entropix.datasets.load` takes.
        options: see `StorageOptions`.

    Returns:
        The record, which is also written to the output folder, with report and figures. Its
        variables are listed in `entropix.studies.storage.study.SCHEMA`.

    Raises:
        ValueError: in one line, before anything is trained or written, for whatever is wrong with
            the request.
        FolderError: if the output folder cannot be written to any more; finished cells are kept.
    """
    return prepare_storage(source, options).run()


def prepare_storage(
    source: str | os.PathLike[str] | Dataset = "digits",
    options: StorageOptions = StorageOptions(),
    *,
    command: Sequence[str] = (),
) -> "StorageStudy":
    """Check the request and claim the output folder: the study of `storage`, ready to run.

    Args and errors are those of `storage`; `command` is the command line, if the request came
    from one. Nothing is left behind if the request is refused.
    """
    t, effort = options.training, options.estimation
    positive_integer(effort.evaluations, "evaluations", 256)
    positive_integer(effort.samples, "samples", 2)
    positive_integer(effort.sampling_steps, "sampling_steps")
    if t.epochs and t.steps:
        raise ValueError(
            f"`steps` must be left out with `epochs`, got {t.steps!r} and {t.epochs!r}."
        )
    options, preset = with_preset(options, source)
    t = dataclasses.replace(options.training, network=_network(options.training.network))
    options = dataclasses.replace(options, training=t)
    check_widths(t.widths)
    unit = "epochs" if t.epochs else "steps"
    lengths = increasing(t.epochs or t.steps or _LENGTHS, unit)
    seeds = paper_seeds(t.seeds)
    training = Training(
        seeds,
        t.batch_size,
        t.num_draws,
        t.learning_rate,
        t.checkpoint_every,
        t.patience,
        plain=t.paper,
    )
    labels = given_labels(options.condition)
    dataset = read(source, options.data, labels) if preset is None else preset.images
    if dataset.kind == "tokens":
        data, process, cutoff, fallback = _of_tokens(dataset, options)
        of_process = {"process": process_word(process)}
    else:
        process = make_process(options.process)
        data = prepare_data(dataset, options.data, labels, None if preset is None else preset.order)
        cutoff = choose_cutoff(effort.cutoff, process, data)
        if preset is not None and effort.cutoff is None:
            cutoff = paper.image_cutoff(process, data.example_shape)
        reason = "chosen, because one of the entropies is infinite without one"
        fallback = default_cutoff(data, reason)
        of_process = {"process": process_name(options.process)}
        of_process |= process_parameters(options.process)
        if t.network != "mlp" and (data.dataset.kind != "image" or data.projection is not None):
            raise ValueError(
                f"`network` must be mlp for data that are not images, got {t.network!r} for "
                f"{data.dataset.name!r}."
            )
        choice(t.network, "network", ("mlp", *_OF_IMAGES))
        if t.network in _OF_IMAGES:  # is it made for images of this shape?
            shape = data.dataset.shape
            make = functools.partial(_image_network, t.network, shape, process, None)
            eqx.filter_eval_shape(make, jax.random.key(0))
    sizes = _sizes(t.sizes, data.num_train)
    if t.batch_size > sizes[-1]:
        raise ValueError(
            f"`batch_size` must be at most the largest of `sizes`, {sizes[-1]}, got {t.batch_size}."
        )
    workspace = Workspace.claim(
        options.output,
        name=f"storage-{data.dataset.name}",
        configuration={
            "study": "storage",
            **dataclasses.asdict(options.data),
            **({} if data.condition is None else dataclasses.asdict(options.condition)),
            "data_fingerprint": data.fingerprint,
            **of_process,
            "sizes": list(sizes),
            **dataclasses.asdict(training),
            unit: list(lengths),
            "network": t.network,
            "widths": list(t.widths),
            "preset": None if preset is None else preset.name,
            **dataclasses.asdict(effort),
        },
        command=command,
        shared=True,
    )
    return StorageStudy(
        workspace, options, data, process, cutoff, fallback, sizes, lengths, unit, training
    )


def _of_tokens(
    dataset: Dataset, options: StorageOptions
) -> tuple[TokenData, AbstractTokenProcess, Cutoff, None]:
    """The sequences and their process; entropies of tokens are finite."""
    refuse_numbers(options.data, options.estimation, options.process)
    choice(options.training.network, "network", ("mlp", "transformer"))
    labels = given_labels(options.condition)
    condition = make_condition(dataset.labels, labels, options.data.data_seed)
    data = split_tokens(dataset, options.data, condition)
    process = token_process(options.process.process, data.num_tokens)
    return data, process, Cutoff(None, "none: the entropies of tokens are finite"), None


def _network(name: str) -> str:
    """The network of this name, chosen if it was not given."""
    return "mlp" if choice(name, "network", _NETWORKS) == "auto" else name


def _image_network(
    name: str,
    shape: tuple[int, ...],
    process: AbstractGaussianProcess,
    condition_dim: int | None,
    key: Key,
) -> UNet | PaperConvNet:
    """The untrained network for images of this shape.

    Raises:
        ValueError: if images are too small for it.
    """
    if name == "paper":
        return paper.image_network(shape, process, condition_dim, key)
    return UNet(shape, key=key, condition_dim=condition_dim)


def _sizes(requested: tuple[int, ...], available: int) -> tuple[int, ...]:
    """The numbers of training samples: as requested, or doublings and nearly all there are."""
    if requested:
        sizes = increasing(requested, "sizes", 2)
        if sizes[-1] > available:
            raise ValueError(
                f"`sizes` must be at most the number of training samples, {available}, "
                f"got {sizes[-1]}."
            )
        return sizes
    unit = 10 ** max(len(str(available)) - 2, 0)  # two significant digits
    largest = available // unit * unit
    sizes, size = [], _LEAST
    while size < 0.7 * largest:
        sizes.append(size)
        size *= 2
    return (*sizes, largest)


class StorageCell(NamedTuple):
    """The number N of training samples, and the length of training in steps."""

    size: int
    steps: int


@dataclasses.dataclass(frozen=True, eq=False)
class StorageStudy(AbstractStudy):
    """A study of storage that is ready to run.

    Attributes:
        workspace: the claimed output folder.
        options: as requested.
        data: in the coordinates of the model, the same for all N; or sequences of tokens.
        process: the forward process.
        cutoff: of the entropies, the same for all N.
        fallback: the cut-off of all entropies if one of them is infinite without it; None for
            tokens, whose entropies are finite.
        sizes: increasing.
        lengths: of training, increasing.
        unit: of the lengths, steps or epochs.
        training: of the networks.
    """

    workspace: Workspace
    options: StorageOptions
    data: PreparedData | TokenData
    process: AbstractGaussianProcess | AbstractTokenProcess
    cutoff: Cutoff
    fallback: Cutoff | None
    sizes: tuple[int, ...]
    lengths: tuple[int, ...]
    unit: str
    training: Training

    @property
    def grid(self) -> dict[str, StorageCell]:
        """All cells by name, size by size."""
        out = {}
        for size in self.sizes:
            for length in self.lengths:
                steps = length
                if self.unit == "epochs":
                    steps = -(-length * size // self.training.batch_size)
                out[f"N{size}-{length}-{self.unit}"] = StorageCell(size, steps)
        return out

    @property
    def cells(self) -> dict[str, int]:
        """The training steps of each cell, by name."""
        return {name: cell.steps for name, cell in self.grid.items()}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example, as the network sees it."""
        if isinstance(self.data, TokenData):
            return self.data.shape
        if self.options.training.network in _OF_IMAGES:
            return self.data.dataset.shape
        return (self.data.dim,)

    @property
    def numbers(self) -> int:
        """How many numbers a field of one example has: D, or D K for tokens."""
        tokens = self.data.num_tokens if isinstance(self.data, TokenData) else 1
        return self.data.dim * tokens

    @property
    def distribution(self) -> AbstractDistribution | None:
        """The exact distribution of what the networks learn, if it is known."""
        if isinstance(self.data, TokenData) or self.data.condition is not None:
            return None
        return self.data.distribution

    @property
    def runs(self) -> dict[str, str] | None:
        """With a constant learning rate, all lengths are measured along one run."""
        if not self.training.plain:
            return None
        return {name: f"N{cell.size}" for name, cell in self.grid.items()}

    def training_rows(self, size: int) -> np.ndarray:
        """The first `size` training samples, repeated; with dequantisation, in new noise each time.

        As far as sizes divide one another, the number of rows is the same for all of them: then one
        program trains them all, and all samples are seen equally often.

        Returns:
            Shape (copies * size, *shape).
        """
        data, largest = self.data, self.sizes[-1]
        if isinstance(data, TokenData):
            return np.tile(data.train[:size], (-(-largest // size), *[1] * len(self.shape)))
        draws = max(1, min(_MAX_DRAWS, _MAX_NUMBERS // (largest * data.dim)))
        copies = -(-largest * (draws if data.dequantised else 1) // size)
        if not data.dequantised:
            rows = np.tile(data.train[:size], (copies, 1))
            return rows.reshape(-1, *self.shape)
        raw = data.original.points[data.order[1][:size]]
        key = jax.random.fold_in(jax.random.key(self.options.data.data_seed), _NOISE)
        rows = np.concatenate(
            [np.asarray(dequantise(raw, key=jax.random.fold_in(key, i))) for i in range(copies)]
        )
        if data.projection is not None:
            rows = data.projection.forward(rows)
        return np.asarray(data.standardisation.forward(rows)).reshape(-1, *self.shape)

    def training_conditions(self, size: int) -> np.ndarray | None:
        """The conditions of the first `size` training samples, shape (size, C); None without."""
        condition = self.data.condition
        return None if condition is None else condition.values[self.data.order[1][:size]]

    def make_model(self, rows: np.ndarray) -> Callable[[Key], AbstractModel]:
        """The function from a key to a model that knows no more of the data than `rows`."""
        dim = None if self.data.condition is None else self.data.condition.dim
        if isinstance(self.data, TokenData):
            return self._token_model(self.data, dim)
        process = self.process
        assert isinstance(process, AbstractGaussianProcess)
        if self.options.training.network == "mlp":
            widths = self.options.training.widths
            return mlp_model(rows, process, widths, condition_dim=dim)
        scaling = None if self.training.plain else GaussianScaling.from_data(rows, process)
        network = functools.partial(
            _image_network, self.options.training.network, self.shape, process, dim
        )
        return lambda key: EntropyMatching(network(key), process, scaling)

    def _token_model(self, data: TokenData, dim: int | None) -> Callable[[Key], MaskedDenoiser]:
        t, process = self.options.training, self.process
        assert isinstance(process, AbstractTokenProcess)
        kind = "mlp" if t.network == "mlp" else "transformer"
        settings = TrainingOptions(network=kind, widths=t.widths, size="medium")

        def make(key: Key) -> MaskedDenoiser:
            network = token_network(settings, data, process, key, dim)
            return MaskedDenoiser(network, process, shape=data.shape)

        return make

    def attributes(self) -> dict[str, Any]:
        options, t = self.options, self.options.training
        named = {
            "unet": "U-Net",
            "paper": "the network of the paper",
            "transformer": "transformer of 4 blocks",
        }
        network = named.get(t.network, widths_text(t.widths))
        condition = self.data.condition
        labels = {} if condition is None else {"condition_text": condition.text}
        method = "entropy matching"
        if isinstance(self.data, TokenData):
            assert isinstance(self.process, AbstractTokenProcess)
            data, method = token_attributes(self.data, self.process), "denoising of tokens"
        else:
            data = data_attributes(self.data) | {
                "process": process_name(options.process),
                "process_text": process_text(options.process),
            }
            data["coordinates_text"] = f"{data['coordinates_text']}; the same for all N"
        stopping = ""
        if t.patience is not None:
            stopping = (
                "; each network is the one of its least held-out loss, stopped "
                f"{t.patience} steps after it"
            )
        return {
            **data,
            **labels,
            "title": f"entropix storage: {data['name']}",
            "training_text": self.training.text(network, method=method) + stopping,
            "grid_text": f"N = {', '.join(map(str, self.sizes))}; "
            f"{', '.join(map(str, self.lengths))} {self.unit}; {len(self.cells)} cells",
            "unit_of_length": self.unit,
            "along_one_run": int(t.paper),
            **self.cutoff.attributes(),
            "evaluations": options.estimation.evaluations,
            "num_generated": options.estimation.samples,
        }

    def measure(self, task: Task) -> Outcome:
        return Outcome(measure_cell(self, self.grid[task.name], task))

    def record(self, found: dict[str, Found], attributes: dict[str, Any]) -> "xarray.Dataset":
        shape = (len(self.sizes), len(self.lengths), len(self.training.seeds))
        cells = stacked(list(self.cells), found)
        values, cutoff = self._one_cutoff(cells, found)
        values = {name: value.reshape(shape) for name, value in values.items()}
        if "total_entropy" in values:
            values["efficiency"] = values["neural_entropy"] / values["total_entropy"]
        schema = dict(SCHEMA)
        if self.training.plain:
            schema["loss"] = (
                _EACH,
                "1",
                "training loss over the last 100 steps, uniform weighting",
            )
        schema = {
            name: (tuple(self.unit if dim == "steps" else dim for dim in dims), unit, meaning)
            for name, (dims, unit, meaning) in schema.items()
        }
        fits = [
            fit_logarithm(np.array(self.sizes), values["neural_entropy"][:, i])
            for i in range(len(self.lengths))
        ]
        for field in dataclasses.fields(LogFit):
            values[f"log_fit_{field.name}"] = np.array(
                [np.nan if fit is None else getattr(fit, field.name) for fit in fits]
            )
        coordinates = {
            "size": (list(self.sizes), "number N of training samples"),
            self.unit: (list(self.lengths), f"length of training, in {self.unit}"),
            "seed": (list(self.training.seeds), "seed of training"),
        }
        return assemble(schema, values, coordinates, attributes | cutoff.attributes())

    def _one_cutoff(self, cells: Arrays, found: dict[str, Found]) -> tuple[Arrays, Cutoff]:
        """Entropies of all cells with one cut-off: none, unless one of them is infinite then."""
        if self.fallback is None:
            return cells, self.cutoff
        plain = {name: value for name, value in cells.items() if not name.startswith(CUT)}
        entropies = ("neural_entropy", "neural_entropy_train")
        if not any(np.isnan(cell[name]).any() for cell in found.values() for name in entropies):
            return plain, self.cutoff
        cut = {name.removeprefix(CUT): v for name, v in cells.items() if name.startswith(CUT)}
        return plain | cut, self.fallback

    def figures(self) -> Figures:
        return {
            "storage.png": (
                "S_NN on held-out data against the number of training samples and the length of "
                "training",
                plot_storage,
            ),
            "memorisation.png": (
                "Distance of generated samples to single training samples",
                plot_memorisation,
            ),
        }

    def report(self, record: "xarray.Dataset") -> Report:
        return storage_report(record)

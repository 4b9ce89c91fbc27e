"""`transport`: S_NN of networks trained on Gaussian mixtures, by the length of training."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from entropix._core.arrays import Key
from entropix._core.checks import choice, positive_integer
from entropix._core.formatting import format_with_error
from entropix.distributions import GaussianMixture
from entropix.interfaces import AbstractGaussianProcess
from entropix.models import EntropyMatching
from entropix.studies import paper
from entropix.studies.cells import Task, stacked
from entropix.studies.options import ProcessOptions, TransportOptions
from entropix.studies.record import Schema, assemble
from entropix.studies.report import Report, Rows, Table, cells_text, mean_text
from entropix.studies.study import (
    AbstractStudy,
    Figures,
    Found,
    Outcome,
    Workspace,
)
from entropix.studies.theorems import ERRORS, SLACK, TRIANGLE
from entropix.studies.training import (
    Training,
    check_seed,
    check_widths,
    increasing,
    make_process,
    mlp_model,
    paper_seeds,
    widths_text,
)
from entropix.studies.transport.figures import plot_epochs, plot_matching
from entropix.studies.transport.measurement import measure_cell
from entropix.studies.transport.mixtures import choose_mixtures


if TYPE_CHECKING:
    import xarray

_DIMENSIONS, _FULL_DIMENSIONS = (2, 3), (2, 3, 6, 9)
_EPOCHS, _FULL_EPOCHS = (1, 2, 4, 8), (5, 10, 20, 50, 100, 200)
_PROCESSES = ("vp", "vpx", "sl")
_EACH = ("dimension", "process", "epochs", "seed")

SCHEMA: Schema = {
    "neural_entropy": (_EACH, "nats", "neural entropy S_NN on samples not used for training"),
    "total_entropy": (_EACH, "nats", "exact total entropy production S_tot, same samples"),
    "path_kl": (_EACH, "nats", "path KL L between the exact field and that of the network"),
    "gap": (_EACH, "nats^(1/2)", "sqrt(L) - |sqrt(S_NN) - sqrt(S_tot)|, not negative"),
    "theorem_slack": (("theorem", *_EACH), "1", SLACK),
    "loss": (_EACH, "nats", "training loss over the last 100 steps; a perfect network has -S_tot"),
}


def transport(options: TransportOptions = TransportOptions()) -> "xarray.Dataset":
    """S_NN of networks trained on Gaussian mixtures, against epochs and against the path KL.

    The experiment of Neural Entropy (arXiv 2409.03817) on transport.

    Args:
        options: see `TransportOptions`.

    Returns:
        The record, which is also written to the output folder, with report and figures. Its
        variables are listed in `entropix.studies.transport.study.SCHEMA`.

    Raises:
        ValueError: in one line, before anything is trained or written, for whatever is wrong with
            the request.
        FolderError: if the output folder cannot be written to any more; finished cells are kept.
    """
    return prepare_transport(options).run()


def prepare_transport(
    options: TransportOptions = TransportOptions(), *, command: Sequence[str] = ()
) -> "TransportStudy":
    """Check the request and claim the output folder: the study of `transport`, ready to run.

    Args and errors are those of `transport`; `command` is the command line, if the request came
    from one. Nothing is left behind if the request is refused.
    """
    asked, t = options.mixtures, options.training
    of_paper = ("batch_size", "num_draws", "learning_rate", "widths", "full")
    chosen = paper.preset(t, of_paper, ("full",))
    positive_integer(asked.num_samples, "num_samples", 2)
    check_seed(asked.data_seed, "data_seed")
    check_seed(asked.mixture_seed, "mixture_seed")
    positive_integer(options.estimation.evaluations, "evaluations", 256)
    dimensions = increasing(asked.dimensions, "dimensions") if asked.dimensions else ()
    sizes = (_FULL_DIMENSIONS, _FULL_EPOCHS) if t.full else (_DIMENSIONS, _EPOCHS)
    default, lengths = (paper.DIMENSIONS, paper.EPOCHS) if chosen else sizes
    mixtures, sources = choose_mixtures(dimensions, asked.mixtures, asked.mixture_seed, default)
    epochs = increasing(t.epochs or lengths, "epochs")
    if not t.processes:
        raise ValueError("`processes` must name at least one process, got none.")
    processes: dict[str, AbstractGaussianProcess] = {}
    for name in t.processes:
        choice(name, "processes", _PROCESSES)
        processes[name] = make_process(ProcessOptions(process=name))
    check_widths(t.widths)
    seeds = paper_seeds(t.seeds)
    training = Training(seeds, t.batch_size, t.num_draws, t.learning_rate, t.checkpoint_every)
    if chosen == "paper":
        batch, draws, rate = paper.BATCH_SIZE, paper.NUM_DRAWS, paper.LEARNING_RATE
        training = Training(seeds, batch, draws, rate, t.checkpoint_every, plain=True)
    if training.batch_size > asked.num_samples:
        raise ValueError(
            f"`batch_size` must be at most `num_samples`, {asked.num_samples}, got "
            f"{training.batch_size}."
        )
    workspace = Workspace.claim(
        options.output,
        name="transport",
        configuration={
            "study": "transport",
            "dimensions": list(mixtures),
            "mixtures": {str(dim): _fingerprint(mixture) for dim, mixture in mixtures.items()},
            "num_samples": asked.num_samples,
            "data_seed": asked.data_seed,
            "processes": list(processes),
            "epochs": list(epochs),
            **dataclasses.asdict(training),
            "widths": list(t.widths),
            "preset": chosen,
            "evaluations": options.estimation.evaluations,
        },
        command=command,
        shared=True,
    )
    return TransportStudy(workspace, options, mixtures, sources, processes, epochs, training)


def _fingerprint(mixture: GaussianMixture) -> str:
    """A hash of the parameters of a mixture."""
    digest = hashlib.sha256()
    for part in (mixture.weights, mixture.means, mixture.stds):
        digest.update(np.asarray(part, np.float32).tobytes())
    return digest.hexdigest()[:16]


class TransportCell(NamedTuple):
    """The dimension D, the name of the process, and the length of training in steps."""

    dim: int
    process: str
    steps: int


@dataclasses.dataclass(frozen=True, eq=False)
class TransportStudy(AbstractStudy):
    """A study of transport that is ready to run.

    Attributes:
        workspace: the claimed output folder.
        options: as requested.
        mixtures: by dimension.
        sources: where each of them comes from.
        processes: by name.
        epochs: increasing.
        training: of the networks.
    """

    workspace: Workspace
    options: TransportOptions
    mixtures: dict[int, GaussianMixture]
    sources: dict[int, str]
    processes: dict[str, AbstractGaussianProcess]
    epochs: tuple[int, ...]
    training: Training

    @property
    def grid(self) -> dict[str, TransportCell]:
        """All cells by name, dimension by dimension, process by process."""
        per_epoch = self.options.mixtures.num_samples // self.training.batch_size
        return {
            f"D{dim}-{process}-{count}-epochs": TransportCell(dim, process, count * per_epoch)
            for dim in self.mixtures
            for process in self.processes
            for count in self.epochs
        }

    @property
    def cells(self) -> dict[str, int]:
        """The training steps of each cell, by name."""
        return {name: cell.steps for name, cell in self.grid.items()}

    @property
    def runs(self) -> dict[str, str] | None:
        """With a constant learning rate, all lengths are measured along one run."""
        if not self.training.plain:
            return None
        return {name: f"D{cell.dim}-{cell.process}" for name, cell in self.grid.items()}

    @property
    def num_held_out(self) -> int:
        """The number of samples on which networks are measured."""
        t = self.options.training
        return paper.HELD_OUT if t.paper or t.best else self.options.mixtures.num_samples

    def make_model(
        self, cell: TransportCell, train: np.ndarray
    ) -> Callable[[Key], EntropyMatching]:
        """The function from a key to an untrained model."""
        process = self.processes[cell.process]
        if self.training.plain:
            return paper.paper_mlp(cell.dim, process)
        return mlp_model(train, process, self.options.training.widths)

    def samples(self, dim: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples to train on, and others to measure on: the same for all processes and seeds."""
        key = jax.random.fold_in(jax.random.key(self.options.mixtures.data_seed), dim)
        counts = self.options.mixtures.num_samples, self.num_held_out
        train, held_out = (
            self.mixtures[dim].sample(count, key=k)
            for count, k in zip(counts, jax.random.split(key), strict=True)
        )
        return np.asarray(train), np.asarray(held_out)

    def attributes(self) -> dict[str, Any]:
        options = self.options
        mixtures = "; ".join(f"D = {dim} ({source})" for dim, source in self.sources.items())
        network = "the network of the paper"
        if not self.training.plain:
            network = widths_text(options.training.widths)
        return {
            "title": "entropix transport",
            "data_text": f"Gaussian mixtures, {mixtures}; {options.mixtures.num_samples} samples "
            f"for training and {self.num_held_out} others for measuring",
            "process_text": "VP (kappa 1), VPx (kappa 0.1), SL (sigma0 0.1): "
            + ", ".join(self.processes),
            "training_text": self.training.text(network),
            "along_one_run": int(self.training.plain),
            "grid_text": f"{', '.join(map(str, self.epochs))} epochs, {len(self.cells)} cells",
            "num_samples": options.mixtures.num_samples,
            "evaluations": options.estimation.evaluations,
        }

    def measure(self, task: Task) -> Outcome:
        return Outcome(measure_cell(self, self.grid[task.name], task))

    def record(self, found: dict[str, Found], attributes: dict[str, Any]) -> "xarray.Dataset":
        seeds = self.training.seeds
        shape = (len(self.mixtures), len(self.processes), len(self.epochs), len(seeds))
        values = stacked(list(self.cells), found)
        coordinates = {
            "dimension": (list(self.mixtures), "dimension D of the mixture"),
            "process": (list(self.processes), "forward process"),
            "epochs": (list(self.epochs), "length of training, in epochs"),
            "seed": (list(seeds), "seed of training"),
        }
        values = {name: value.reshape(shape) for name, value in values.items()}
        schema = dict(SCHEMA)
        if self.training.plain:
            schema["loss"] = (
                _EACH,
                "1",
                "training loss over the last 100 steps, uniform weighting",
            )
        return assemble(schema, values, coordinates, attributes)

    def figures(self) -> Figures:
        return {
            "epochs.png": ("S_NN against the length of training, range over seeds", plot_epochs),
            "matching.png": (
                "S_NN against the path KL; all points must lie in the grey region",
                plot_matching,
            ),
        }

    def report(self, record: "xarray.Dataset") -> Report:
        return transport_report(record)


# ------------------------------------------------------------------ in words


def _rows(record: "xarray.Dataset") -> Rows:
    """A row for each cell that is finished."""
    header = ["D", "process", "epochs", "S_NN", "S_tot", "S_NN / S_tot", "L", "|√S_NN - √S_tot|"]
    rows = [[*header, "√L", "≤"]]
    cells = record.stack(cell=("dimension", "process", "epochs"))
    holds = _holds(cells)
    for i in range(cells.sizes["cell"]):
        of = cells.isel(cell=i)
        s, total, kl = (of[n].values for n in ("neural_entropy", "total_entropy", "path_kl"))
        if np.isnan(s).all():
            continue
        where = [str(of[name].item()) for name in ("dimension", "process", "epochs")]
        error = float(of["total_entropy_mc_stderr"][0])
        entropies = [mean_text(s), format_with_error(total[0], error), mean_text(s / total)]
        distance = mean_text(np.abs(np.sqrt(s) - np.sqrt(total)))
        count = f"{int(holds.isel(cell=i).sum())} of {len(s)}"
        rows.append([*where, *entropies, mean_text(kl), distance, mean_text(np.sqrt(kl)), count])
    return rows


def _holds(record: "xarray.Dataset") -> "xarray.DataArray":
    """Where the triangle inequality holds within its error; missing points are False."""
    return record["gap"] >= -ERRORS * record["gap_stderr"]


def _findings(record: "xarray.Dataset") -> list[str]:
    """Whether the inequality holds, and whether L decreases with training."""
    count = int((~np.isnan(record["gap"])).sum())
    least = float(np.nanmin((record["gap"] / record["gap_stderr"]).values))
    change = np.diff(record["path_kl"].mean("seed", skipna=False).values, axis=-1)
    falls, known = int((change < 0).sum()), int((~np.isnan(change)).sum())
    return [
        cells_text(record),
        f"{TRIANGLE} holds within {ERRORS:g} standard errors for {int(_holds(record).sum())} of "
        f"{count} points; the smallest gap is {least:.1f} standard errors",
        f"L decreases from one length of training to the next in {falls} of {known} cases",
    ]


def transport_report(record: "xarray.Dataset") -> Report:
    """The report: what was trained on which data, the results, and how to read them."""
    a = record.attrs
    spread = "one standard error of the mean over seeds" if record.sizes["seed"] > 1 else "unknown"
    facts = [
        f"Data: {a['data_text']}",
        f"Processes: {a['process_text']}",
        f"Training: {a['training_text']}",
        f"Grid: {a['grid_text']}",
    ]
    notes = [
        f"Entropies are in nats; ± is {spread}, and for S_tot the Monte Carlo error for these "
        "samples. The standard error for the population (`..._stderr` in results.nc) is larger, "
        "and common to S_NN and S_tot",
        "L is the path KL between the exact field and that of the network. The last column counts "
        f"the seeds for which the triangle inequality holds within {ERRORS:g} standard errors",
        "Each length of training is a separate training run, whose learning rate decays to zero",
    ]
    if a["along_one_run"]:
        notes[-1] = (
            "All lengths of training are measured along one run, with the training and the network "
            "of the paper (arXiv 2409.03817), which found S_NN / S_tot = 0.97, 0.92 and 0.85 for "
            "D = 3, 6 and 9 under VPx after 200 epochs, and about 1 under VP"
        )
    if a["along_one_run"] and "sl" in record["process"].values:
        notes.append(
            "SL is measured up to s = 0.99: this network does not vanish at the noise end, where "
            "its entropies diverge"
        )
    return Report(record, "transport", facts, [Table(_rows(record))], _findings(record), notes)

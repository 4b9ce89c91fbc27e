"""`mutual-information`: I(X; Y) of paired samples, from networks trained by cross-fitting."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from entropix._core.formatting import format_with_error
from entropix.datasets import Dataset, available, load
from entropix.information import (
    InformationEstimate,
    Recipe,
    check_pair,
    estimate_mutual_information,
)
from entropix.studies.cells import Task
from entropix.studies.data import check_options_of_reading, of_numbers
from entropix.studies.figures import plot_pointwise
from entropix.studies.options import MutualInformationOptions
from entropix.studies.record import Schema, assemble
from entropix.studies.report import Report, Table
from entropix.studies.study import AbstractStudy, Figures, Found, Outcome, Workspace
from entropix.studies.training import check_seed


if TYPE_CHECKING:
    import xarray

SCHEMA: Schema = {
    "mutual_information": ((), "nats", "I(X; Y), mean of both forms, on held-out samples"),
    "model_error": ((), "nats", "error of the networks that the forms and the training data show"),
    "denoising": ((), "nats", "I(X; Y), from denoising errors"),
    "score": ((), "nats", "I(X; Y), from scores"),
    "fitted": ((), "nats", "I(X; Y), from denoising errors, training samples"),
    "gaussian": ((), "nats", "I(X; Y) of Gaussians with the same correlations (CCA)"),
    "label_entropy": ((), "nats", "H(Y), the largest possible I(X; Y), for labels"),
    "fold_value": (("fold",), "nats", "I(X; Y) of each fold"),
    "pointwise": (("sample",), "nats", "log p(x|y)/p(x) of each sample"),
    "x": (("sample",), "data units", "first column of X"),
    "y": (("sample",), "data units", "first column of Y"),
}


def mutual_information(
    first: str | os.PathLike[str] | Dataset,
    second: str | os.PathLike[str] | Dataset | None = None,
    options: MutualInformationOptions = MutualInformationOptions(),
) -> "xarray.Dataset":
    """Estimate the mutual information of two files with equal rows, or of columns of one table.

    Args:
        first: a data set, or what `entropix.datasets.load` takes: X, or the table of both.
        second: the same for Y, row by row the partner of X; None for columns or labels of the
            first data set, see `options.pairs`.
        options: see `MutualInformationOptions`.

    Returns:
        The record, which is also written to the output folder, with report and figure.

    Raises:
        ValueError: in one line, before anything is trained or written, for whatever is wrong with
            the request.
        FolderError: if the output folder cannot be written to any more.
    """
    return prepare_mutual_information(first, second, options).run()


def prepare_mutual_information(
    first: str | os.PathLike[str] | Dataset,
    second: str | os.PathLike[str] | Dataset | None = None,
    options: MutualInformationOptions = MutualInformationOptions(),
    *,
    command: Sequence[str] = (),
) -> "MutualInformationStudy":
    """Check the request and claim the output folder; see `mutual_information`."""
    check_seed(options.pairs.seed, "seed")
    recipe = Recipe(folds=options.cross_fitting.folds, steps=options.cross_fitting.steps)
    x, y, names = _pair(first, second, options)
    if len(x) < 4 * recipe.folds:
        raise ValueError(
            f"`X` must have at least {4 * recipe.folds} rows for {recipe.folds} folds, "
            f"got {len(x)}."
        )
    if options.pairs.shuffle:
        y = y[np.random.default_rng(options.pairs.seed).permutation(len(y))]
    check_pair(
        x,
        y,
        normal_scores=options.pairs.normal_scores,
        name="condition" if y.ndim == 1 else "Y",
        otherwise="--x and --y name columns of numbers",
    )
    digest = hashlib.sha256(np.ascontiguousarray(x).tobytes() + np.ascontiguousarray(y).tobytes())
    workspace = Workspace.claim(
        options.output,
        name="-".join(names),
        configuration={
            "study": "mutual-information",
            **dataclasses.asdict(options.pairs),
            **dataclasses.asdict(options.cross_fitting),
            "data_fingerprint": digest.hexdigest()[:16],
        },
        command=command,
    )
    return MutualInformationStudy(workspace, options, recipe, x, y, names)


def _pair(
    first: str | os.PathLike[str] | Dataset,
    second: str | os.PathLike[str] | Dataset | None,
    options: MutualInformationOptions,
) -> tuple[np.ndarray, np.ndarray, tuple[str, str]]:
    """The two variables, row by row, and their names."""
    asked = options.pairs
    reading: dict[str, Any] = {"drop": asked.drop, "drop_missing": asked.drop_missing}
    reading |= {"delimiter": asked.delimiter, "decimal": asked.decimal}

    def loaded(source: str | os.PathLike[str] | Dataset, **more: Any) -> Dataset:
        check_options_of_reading(source, asked, asked.condition)
        if not isinstance(source, Dataset):
            source = load(source, key=jax.random.key(asked.seed), **reading, **more)
        return of_numbers(source)

    if second is not None:
        for name in ("x", "y", "condition", "drop_missing"):
            if getattr(asked, name):
                raise ValueError(
                    f"`{name}` must be left out if X and Y are two files, "
                    f"got {getattr(asked, name)!r}."
                )
        table, other = loaded(first), loaded(second)
        if len(table.points) != len(other.points):
            raise ValueError(
                f"`Y` must have one row for each of X, {len(table.points)}, got "
                f"{len(other.points)}: rows are pairs. To compare two populations, use "
                "`entropix divergence`."
            )
        return table.points, other.points, (table.name, other.name)
    if asked.y and asked.condition is not None:
        raise ValueError(f"`y` must be left out together with `condition`, got {asked.y}.")
    if asked.y and not asked.x:
        raise ValueError("`--x` and `--y` must both name columns of the table.")
    if shared := [name for name in asked.y if name in asked.x]:
        raise ValueError(
            f"`y` must name other columns than `x`, got {', '.join(shared)} in both: the "
            "information of a column about itself is infinite."
        )
    # Only these columns are read, so that others may hold text.
    wanted = tuple(dict.fromkeys((*asked.x, *asked.y)))
    if isinstance(first, Dataset) or first in available():
        table = loaded(first, labels=asked.condition)
        wanted = table.columns or tuple(map(str, range(table.dim)))
    else:
        table = loaded(first, columns=wanted or None, labels=asked.condition)
    if asked.y:
        names = (",".join(asked.x), ",".join(asked.y))
        return _columns(table, wanted, asked.x), _columns(table, wanted, asked.y), names
    if table.labels is None:
        raise ValueError(
            "`Y` must be a second file, columns of the first named by --x and --y, or the labels "
            f"named by --condition: {table.name} has no labels."
        )
    labels = np.asarray(table.labels)
    if not np.issubdtype(labels.dtype, np.floating):
        labels = np.unique(labels, return_inverse=True)[1]
    points = _columns(table, wanted, asked.x) if asked.x else table.points
    return points, labels, (table.name, asked.condition or "labels")


def _columns(table: Dataset, known: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Columns of a table, of known names or numbers."""
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"`columns` must be among {', '.join(known[:20])}, got {', '.join(missing)}."
        )
    return table.points[:, [known.index(name) for name in names]]


@dataclasses.dataclass(frozen=True, eq=False)
class MutualInformationStudy(AbstractStudy):
    """An estimate that is ready to run.

    Attributes:
        workspace: the claimed output folder.
        options: as requested.
        recipe: of the cross-fitting.
        x: the first variable, shape (N, d_x).
        y: the second one, or labels of shape (N,).
        names: of both.
    """

    workspace: Workspace
    options: MutualInformationOptions
    recipe: Recipe
    x: np.ndarray
    y: np.ndarray
    names: tuple[str, str]

    @property
    def cells(self) -> dict[str, int]:
        return {"training": self.recipe.steps * self.recipe.folds}

    def attributes(self) -> dict[str, Any]:
        sizes = [1 if v.ndim == 1 else v.shape[1] for v in (self.x, self.y)]
        kind = "labels" if self.y.ndim == 1 and self.y.dtype.kind in "iu" else f"{sizes[1]} columns"
        scores = "normal scores" if self.options.pairs.normal_scores else "standard units"
        return {
            "title": f"entropix mutual-information: {self.names[0]} and {self.names[1]}",
            "x": self.names[0],
            "y": self.names[1],
            "data_text": f"{len(self.x)} pairs: X {self.names[0]} ({sizes[0]} columns), "
            f"Y {self.names[1]} ({kind})" + ", shuffled" * self.options.pairs.shuffle,
            "coordinates_text": f"canonical coordinates of {scores}",
            "training_text": f"{self.recipe.folds} folds, at most {self.recipe.steps} steps each",
        }

    def measure(self, task: Task) -> Outcome:
        found = estimate_mutual_information(
            self.x,
            self.y,
            key=jax.random.key(self.options.pairs.seed),
            normal_scores=self.options.pairs.normal_scores,
            recipe=self.recipe,
        )
        flags = {"converged": int(found.converged), "resolved": int(found.resolved)}
        return Outcome(self._values(found), flags)

    def _values(self, found: InformationEstimate) -> Found:
        values = {
            "mutual_information": found.value,
            "mutual_information_stderr": found.stderr,
            "model_error": found.model_error,
            "denoising": found.denoising,
            "score": found.score,
            "fitted": found.fitted,
            "gaussian": found.gaussian,
            "fold_value": found.folds,
            "pointwise": found.pointwise,
            "x": self.x[:, 0],
            "y": self.y if self.y.ndim == 1 else self.y[:, 0],
        }
        if found.bound is not None:
            values["label_entropy"] = found.bound
            del values["gaussian"]
        return {name: np.asarray(value) for name, value in values.items()}

    def record(self, found: dict[str, Found], attributes: dict[str, Any]) -> "xarray.Dataset":
        (values,) = found.values()
        coordinates = {
            "fold": (np.arange(self.recipe.folds), "fold"),
            "sample": (np.arange(len(self.x)), "row"),
        }
        return assemble(SCHEMA, values, coordinates, attributes)

    def figures(self) -> Figures:
        caption = "Pointwise information of each sample, over the first columns of X and Y"
        return {"pointwise.png": (caption, plot_pointwise)}

    def report(self, record: "xarray.Dataset") -> Report:
        return mutual_information_report(record)


def mutual_information_report(record: "xarray.Dataset") -> Report:
    """The record in words."""
    a = record.attrs
    value = format_with_error(
        float(record["mutual_information"]), float(record["mutual_information_stderr"])
    )
    labels = {
        "model_error": "detectable error of the networks",
        "denoising": "from denoising errors",
        "score": "from scores",
        "fitted": "from denoising errors, training samples",
        "gaussian": "Gaussians of the same correlations",
        "label_entropy": "H(Y), the largest possible value",
    }
    rows = [["quantity", "nats"], ["I(X; Y)", value]]
    rows += [[text, f"{float(record[n]):.4g}"] for n, text in labels.items() if n in record]
    findings = []
    if not int(a["converged"]):
        findings.append("the held-out loss was still falling when training ended: use more --steps")
    if not int(a["resolved"]):
        findings.append(
            "X and Y leave less than a tenth of each other's spread unknown, which networks do "
            "not resolve: the value is about that of a Gaussian pair, and the error of the "
            "networks may be too small"
        )
    facts = [
        f"Data: {a['data_text']}",
        f"Coordinates: {a['coordinates_text']}",
        f"Training: {a['training_text']}",
    ]
    notes = [
        "The value is the mean of the two forms below it, in which fitted noise cancels to first "
        "order. Each sample was measured with a network that had not seen it. ± is one standard "
        "error for the population from which the pairs are drawn",
        "The error of the networks is the larger of half the difference between both forms and "
        "half that between training samples and others. Structure that was not learnt lowers all "
        "of them equally and is not detected",
        "For independent variables the value is zero within its errors, or negative; --shuffle "
        "repeats the estimate with Y in random order",
    ]
    title = f"mutual-information: {a['x']} and {a['y']}"
    return Report(record, title, facts, [Table(rows)], findings, notes)

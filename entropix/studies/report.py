"""A record in words: tables and sentences, for the terminal and for `report.md`."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from entropix._core.formatting import format_with_error
from entropix.studies.theorems import contradictions


if TYPE_CHECKING:
    import xarray

Rows = list[list[str]]
# Words in front of a sentence, which are printed in bold.
_ROUNDING = 1e-9  # relative, of exact values
_MARK = re.compile("^(verdict|contradiction):")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        rows: cells of text, of equal length; the first row is the header.
        heading: above the table.
        terminal: whether it is also shown on the terminal.
    """

    rows: Rows
    heading: str = ""
    terminal: bool = True

    def text(self) -> str:
        """Aligned text."""
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        lines = [f"  {self.heading}"] if self.heading else []
        for row in self.rows:
            cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
            lines.append(("  " + "  ".join(cells)).rstrip())
        return "\n".join(lines)

    def markdown(self) -> list[str]:
        """Lines of markdown."""
        escaped = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in self.rows]
        lines = [f"| {row} |" for row in escaped]
        lines.insert(1, "|" + "---|" * len(self.rows[0]))
        return [f"## {self.heading}", "", *lines] if self.heading else lines


@dataclasses.dataclass(frozen=True)
class Report:
    """A report of any study.

    Attributes:
        record: what was measured.
        title: after the name of the program.
        facts: what was done on which data, one sentence each.
        tables: the results.
        findings: sentences on the results, also shown on the terminal.
        notes: how to read the results.
    """

    record: "xarray.Dataset"
    title: str
    facts: Sequence[str]
    tables: Sequence[Table]
    findings: Sequence[str]
    notes: Sequence[str]

    def _findings(self) -> list[str]:
        wrong = [f"contradiction: {sentence}" for sentence in contradictions(self.record)]
        return [*self.findings, *wrong]

    def text(self) -> str:
        """Tables and findings, for a terminal."""
        parts = [table.text() for table in self.tables if table.terminal]
        if findings := self._findings():
            parts.append("\n".join(f"  {line}" for line in findings))
        return "\n\n".join(parts)

    def markdown(self, figures: dict[str, str]) -> str:
        """The whole report.

        Args:
            figures: captions of the figures, by file.
        """
        command = self.record.attrs["command"]
        lines = [f"# entropix {self.title}", ""]
        if command:
            lines += [f"`{command}`", ""]
        lines += [f"- {fact}." for fact in self.facts]
        for table in self.tables:
            lines += ["", *table.markdown()]
        if findings := self._findings():
            marked = (_MARK.sub(lambda m: f"**{m[0].capitalize()}**", f) for f in findings)
            lines += ["", *(f"- {finding}." for finding in marked)]
        lines += ["", "## How to read the results", "", *(f"- {note}." for note in self.notes)]
        for file, caption in figures.items():
            lines += ["", f"![{caption}]({file})", "", f"*{caption}.*"]
        return "\n".join(lines) + "\n"


# ------------------------------------------------------------------ results of single seeds


def results_tables(
    record: "xarray.Dataset",
    labels: dict[str, str],
    per_seed: dict[str, str],
    limits: Mapping[str, tuple[float, str]] = MappingProxyType({}),
) -> list[Table]:
    """The results with their standard errors; and, of several seeds, some of each seed.

    One seed is shown with its standard error; of several, the mean with the standard error of one
    of them, and the range.

    Args:
        record: what was measured.
        labels: names of quantities, in the order of the table, and their labels; quantities that
            were not measured are left out.
        per_seed: the same for the table of all seeds.
        limits: by name, the largest value that is possible, or that the samples can confirm; and
            a format of this value and the estimate, for an estimate that is larger.
    """
    rows = [["quantity", "value", "unit"]]
    for name, label in labels.items():
        if name in record:
            unit = record[name].attrs["units"]
            text = estimate_text(record, name)
            if name in limits and float(record[name].mean()) > limits[name][0]:
                limit, marked = limits[name]
                text = marked.format(f"{limit:.4g}", text)
            rows.append([label, text, "" if unit == "1" else unit])
    tables = [Table(rows)]
    seeds = record["seed"].values.tolist()
    shown = {name: label for name, label in per_seed.items() if name in record}
    if len(seeds) > 1:
        each = [["seed", *shown.values()]]
        for i, seed in enumerate(seeds):
            values = (
                format_with_error(float(record[n][i]), float(record[f"{n}_stderr"][i]))
                for n in shown
            )
            each.append([str(seed), *values])
        tables.append(Table(each, terminal=False))
    return tables


def estimate_text(record: "xarray.Dataset", name: str) -> str:
    """A quantity of all seeds with its standard error."""
    values = np.atleast_1d(record[name].values)
    text = f"{values.mean():.4g}"
    if f"{name}_stderr" in record:
        errors = np.atleast_1d(record[f"{name}_stderr"].values)
        text = with_error(float(values.mean()), float(np.sqrt(np.mean(errors**2))), 5)
    if len(values) > 1:
        text += f"   ({values.min():.5g} to {values.max():.5g})"
    return text


def spread_note(record: "xarray.Dataset") -> str:
    """The meaning of the sign ± in `results_tables`."""
    if record.sizes["seed"] > 1:
        return (
            "± is one standard error of a single seed, for the population from which the data are "
            "drawn; the range is that over the seeds"
        )
    return "± is one standard error for the population from which the data are drawn"


# ------------------------------------------------------------------ results over seeds


def over_seeds(values: np.ndarray) -> tuple[float, float]:
    """The mean of all values and its standard error; 0 for one value or an infinite mean."""
    values = np.asarray(values, float)
    mean = float(np.mean(values))
    if values.size < 2 or not np.isfinite(mean):
        return mean, 0.0
    return mean, float(np.std(values, ddof=1) / np.sqrt(values.size))


def with_error(value: float, error: float, digits: int = 3) -> str:
    """A value with its standard error, if there is one beyond rounding."""
    exact = error <= _ROUNDING * abs(value)
    return f"{value:.{digits}g}" if exact else format_with_error(value, error)


def mean_text(values: np.ndarray) -> str:
    """The mean over seeds with its standard error."""
    mean, error = over_seeds(values)
    if not np.isfinite(mean):
        return "missing" if np.isnan(mean) else "infinite"
    return with_error(mean, error, 5)


def cells_text(record: "xarray.Dataset") -> str:
    """The number of finished cells."""
    done, count = int(record.attrs["cells_finished"]), int(record.attrs["cells"])
    text = f"{done} of {count} cells"
    return text if done == count else f"{text}; `--resume` computes the missing ones"

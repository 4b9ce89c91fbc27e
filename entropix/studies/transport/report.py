"""The record in words: the tables of the terminal, and `report.md`."""

from typing import TYPE_CHECKING

import numpy as np

from entropix._core.formatting import format_with_error
from entropix.studies.files import EPOCHS, MATCHING
from entropix.studies.tables import aligned, coverage, markdown, quantity
from entropix.studies.theorems import ERRORS, TRIANGLE, contradictions


if TYPE_CHECKING:
    import xarray

_FIGURES = (
    (EPOCHS, "S_NN against the length of training, range over seeds"),
    (MATCHING, "S_NN against the path KL; no point can lie outside of the grey region"),
)


def table(record: "xarray.Dataset") -> list[list[str]]:
    """Header and rows: one for each cell that is finished."""
    header = ["D", "process", "epochs", "S_NN", "S_tot", "S_NN / S_tot", "L", "|√S_NN - √S_tot|"]
    rows = [[*header, "√L", "≤"]]
    stacked = record.stack(cell=("dimension", "process", "epochs"))
    for i in range(stacked.sizes["cell"]):
        of = stacked.isel(cell=i)
        if np.isnan(of["neural_entropy"]).all():
            continue
        s, total, kl = (of[n].values for n in ("neural_entropy", "total_entropy", "path_kl"))
        ok = holds(of)
        rows.append(
            [
                str(of["dimension"].item()),
                str(of["process"].item()),
                str(of["epochs"].item()),
                quantity(s),
                format_with_error(total[0], float(of["total_entropy_mc_stderr"][0])),
                quantity(s / total),
                quantity(kl),
                quantity(np.abs(np.sqrt(s) - np.sqrt(total))),
                quantity(np.sqrt(kl)),
                f"{int(ok.sum())} of {ok.size}",
            ]
        )
    return rows


def holds(record: "xarray.Dataset") -> np.ndarray:
    """Where the triangle inequality holds within its error; missing points are False."""
    return (record["gap"] >= -ERRORS * record["gap_stderr"]).values


def verdicts(record: "xarray.Dataset") -> list[str]:
    """In a sentence each: whether the inequality holds, and whether L falls with training."""
    there = ~np.isnan(record["gap"].values)
    least = float(np.nanmin((record["gap"] / record["gap_stderr"]).values))
    said = [
        f"{TRIANGLE} within {ERRORS:g} standard errors: {int(holds(record).sum())} of "
        f"{int(there.sum())} points; the least gap is {least:.1f} standard errors"
    ]
    falls, rises = falling(record)
    said.append(f"L falls from one length of training to the next in {falls} of {falls + rises}")
    return said + contradictions(record)


def falling(record: "xarray.Dataset") -> tuple[int, int]:
    """How often the mean of L over seeds falls from one number of epochs to the next, or not."""
    steps = np.diff(record["path_kl"].mean("seed", skipna=False).values, axis=-1)
    return int((steps < 0).sum()), int((steps >= 0).sum())


def text_report(record: "xarray.Dataset") -> str:
    """The table as aligned text, for a terminal."""
    lines = "\n".join(f"  {line}" for line in (coverage(record), *verdicts(record)))
    return f"{aligned(table(record))}\n\n{lines}"


def markdown_report(record: "xarray.Dataset", figures: list[str]) -> str:
    """The report: what was trained on what, the numbers, how to read them, and the figures."""
    a = record.attrs
    spread = "one standard error of the mean over seeds" if record.sizes["seed"] > 1 else "unknown"
    lines = [
        "# entropix transport",
        "",
        *([f"`{a['command']}`", ""] if a["command"] else []),
        f"- Data: {a['data_text']}.",
        f"- Processes: {a['process_text']}.",
        f"- Training: {a['training_text']}.",
        f"- Grid: {a['grid_text']}; {coverage(record)}.",
        "",
        *markdown(table(record)),
        "",
        *(f"- {line}." for line in verdicts(record)),
        "",
        "## How to read it",
        "",
        f"- Nats; ± is {spread}, that of S_tot the Monte Carlo error for these samples. The error "
        "for the population (`..._stderr` in results.nc) is larger, and common to S_NN and S_tot.",
        "- L is the path KL between the exact field and the network's. The last column counts the "
        f"seeds for which the triangle inequality holds within {ERRORS:g} standard errors.",
        "- Every length of training is a run of its own, whose learning rate ends at zero.",
    ]
    for file, caption in _FIGURES:
        if file in figures:
            lines += ["", f"![{caption}]({file})", "", f"*{caption}.*"]
    return "\n".join(lines) + "\n"

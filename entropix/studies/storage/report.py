"""The record in words: the tables of the terminal, and `report.md`."""

from typing import TYPE_CHECKING

import numpy as np

from entropix._core.formatting import format_with_error
from entropix.studies.files import MEMORISATION, STORAGE
from entropix.studies.tables import aligned, coverage, markdown, quantity
from entropix.studies.theorems import contradictions


if TYPE_CHECKING:
    import xarray

_FIGURES = (
    (STORAGE, "S_NN on held-out data against the number of training samples and against steps"),
    (MEMORISATION, "How near generated samples lie to single training samples"),
)


def table(record: "xarray.Dataset") -> list[list[str]]:
    """Header and rows: one for each cell that is finished."""
    known = "efficiency" in record
    unit = record.attrs["unit_of_length"]
    header = ["N", unit, "S_NN", "S_NN, training", *(["S_tot", "S_NN / S_tot"] if known else [])]
    rows = [[*header, "memorised", "held-out", "ratio r", "r held-out"]]
    stacked = record.stack(cell=("size", unit))
    for i in range(stacked.sizes["cell"]):
        of = stacked.isel(cell=i)
        if np.isnan(of["neural_entropy"]).all():
            continue
        row = [str(of["size"].item()), str(of[unit].item())]
        row += [quantity(of[n].values) for n in ("neural_entropy", "neural_entropy_train")]
        if known:
            total, error = (of[n].values[0] for n in ("total_entropy", "total_entropy_mc_stderr"))
            row += [format_with_error(total, error), quantity(of["efficiency"].values)]
        row += [
            quantity(of["memorised"].values),
            f"{of['memorised_null'].values[0]:.3g}",
            quantity(of["nearest_ratio"].values),
            format_with_error(
                of["nearest_ratio_null"].values[0], of["nearest_ratio_null_stderr"].values[0]
            ),
        ]
        rows.append(row)
    return rows


def verdicts(record: "xarray.Dataset") -> list[str]:
    """The fitted logarithm, in a sentence for each length of training, and contradictions."""
    said, unit = [], record.attrs["unit_of_length"]
    for i, length in enumerate(record[unit].values):
        fit = {
            name: float(record[f"log_fit_{name}"][i])
            for name in ("intercept", "slope", "slope_stderr", "slope_low", "slope_high")
        }
        if np.isnan(fit["slope"]):
            said.append(f"{length} {unit}: fewer than three sizes, no fit")
            continue
        chi = float(record["log_fit_chi_squared"][i])
        text = (
            f"{length} {unit}: S_NN = a + b log N with b = "
            f"{format_with_error(fit['slope'], fit['slope_stderr'])} nats per e-fold, 95% "
            f"{fit['slope_low']:.3g} to {fit['slope_high']:.3g}, a = {fit['intercept']:.4g}"
        )
        said.append(text + ("" if np.isnan(chi) else f"; chi^2 {chi:.2g} per degree of freedom"))
    return said + contradictions(record)


def text_report(record: "xarray.Dataset") -> str:
    """The table as aligned text, for a terminal."""
    lines = "\n".join(f"  {line}" for line in (coverage(record), *verdicts(record)))
    return f"{aligned(table(record))}\n\n{lines}"


def markdown_report(record: "xarray.Dataset", figures: list[str]) -> str:
    """The report: what was trained on what, the numbers, how to read them, and the figures."""
    a = record.attrs
    spread = "one standard error of the mean over seeds" if record.sizes["seed"] > 1 else "unknown"
    lines = [
        f"# entropix storage: {a['name']}",
        "",
        *([f"`{a['command']}`", ""] if a["command"] else []),
        f"- Data: {a['data_text']}; {a['num_held_out']} held out.",
        f"- Coordinates: {a['coordinates_text']}.",
        f"- Process: {a['process_text']}.",
        f"- Training: {a['training_text']}.",
        f"- Noise in the entropies: {a['cutoff_text']}.",
        f"- Grid: {a['grid_text']}; {coverage(record)}.",
        "",
        *markdown(table(record)),
        "",
        *(f"- {line}." for line in verdicts(record)),
        "",
        "## How to read it",
        "",
        f"- Nats, averaged over held-out samples; ± is {spread}. All seeds and all N are measured "
        "on the same held-out samples, and train on the first N of the same order: the choice of "
        "samples is in no error here, `--data-seed` makes another one.",
        "- A network that has learnt few samples by heart has a large field at held-out ones: S_NN "
        "on held-out data may fall with N. On the training samples it falls by log N where these, "
        "with their noise, do not overlap, as their density has log N nats more entropy.",
        "- The fit weighs each N by the scatter of its mean over seeds, and widens its interval, "
        "by Student's t, where the means do not lie on a line.",
        "- r is the distance of a sample to its nearest training sample over that to the second "
        f"nearest, mean over {a['num_generated']} generated samples per network; memorised is the "
        "share with r < 1/3 (arXiv 2310.02664). Held-out samples, which nobody can have "
        "memorised, say what to compare with.",
    ]
    for file, caption in _FIGURES:
        if file in figures:
            lines += ["", f"![{caption}]({file})", "", f"*{caption}.*"]
    return "\n".join(lines) + "\n"

"""The record of `storage` in words."""

from typing import TYPE_CHECKING

import numpy as np

from entropix._core.formatting import format_with_error
from entropix.studies.report import Report, Rows, Table, cells_text, mean_text


if TYPE_CHECKING:
    import xarray


def _rows(record: "xarray.Dataset") -> Rows:
    """A row for each cell that is finished."""
    known, unit = "efficiency" in record, record.attrs["unit_of_length"]
    header = ["N", unit, "S_NN", "S_NN, training", *(["S_tot", "S_NN / S_tot"] if known else [])]
    rows = [[*header, "memorised", "held-out", "ratio r", "r held-out"]]
    cells = record.stack(cell=("size", unit))
    for i in range(cells.sizes["cell"]):
        of = {name: values.values for name, values in cells.isel(cell=i).variables.items()}
        if np.isnan(of["neural_entropy"]).all():
            continue
        row = [str(of["size"]), str(of[unit])]
        row += [mean_text(of["neural_entropy"]), mean_text(of["neural_entropy_train"])]
        if known:
            total, error = of["total_entropy"][0], of["total_entropy_mc_stderr"][0]
            row += [format_with_error(total, error), mean_text(of["efficiency"])]
        null, error = of["nearest_ratio_null"][0], of["nearest_ratio_null_stderr"][0]
        row += [mean_text(of["memorised"]), f"{of['memorised_null'][0]:.3g}"]
        rows.append([*row, mean_text(of["nearest_ratio"]), format_with_error(null, error)])
    return rows


def _findings(record: "xarray.Dataset") -> list[str]:
    """The fitted logarithm for each length of training."""
    found, unit = [cells_text(record)], record.attrs["unit_of_length"]
    for i, length in enumerate(record[unit].values):
        fit = {
            str(name).removeprefix("log_fit_"): float(record[name][i])
            for name in record.data_vars
            if str(name).startswith("log_fit_")
        }
        if np.isnan(fit["slope"]):
            found.append(f"{length} {unit}: fewer than three sizes, no fit")
            continue
        text = (
            f"{length} {unit}: S_NN = a + b log N with b = "
            f"{format_with_error(fit['slope'], fit['slope_stderr'])} nats per e-fold, 95% "
            f"{fit['slope_low']:.3g} to {fit['slope_high']:.3g}, a = {fit['intercept']:.4g}"
        )
        chi = fit["chi_squared"]
        found.append(text + ("" if np.isnan(chi) else f"; chi^2 {chi:.2g} per degree of freedom"))
    return found


def storage_report(record: "xarray.Dataset") -> Report:
    """The report: what was trained on which data, the results, and how to read them."""
    a = record.attrs
    spread = "one standard error of the mean over seeds" if record.sizes["seed"] > 1 else "unknown"
    facts = [
        f"Data: {a['data_text']}; {a['num_held_out']} held out",
        *([f"Labels: {a['condition_text']}"] if "condition_text" in a else []),
        *([f"Coordinates: {a['coordinates_text']}"] if "coordinates_text" in a else []),
        f"Process: {a['process_text']}",
        f"Training: {a['training_text']}",
        f"Cut-off of the entropies: {a['cutoff_text']}",
        f"Grid: {a['grid_text']}",
    ]
    notes = [
        f"Entropies are in nats, averaged over held-out samples; ± is {spread}. All seeds and all "
        "N are measured on the same held-out samples, and trained on the first N samples in the "
        "same order. The errors do not include this choice of samples; use `--data-seed` for "
        "another one",
        "A network that has memorised few samples has a large field at held-out ones, so that S_NN "
        "on held-out data may decrease with N. On the training samples S_NN decreases as log N as "
        "long as these, with their noise, do not overlap, because the entropy of their density "
        "contains log N",
        "The fit weights each N by the scatter of its mean over seeds. Its interval, from "
        "Student's t, is wider if the means do not lie on a line",
        "r is the distance of a sample to its nearest training sample divided by that to the "
        f"second nearest, averaged over {a['num_generated']} generated samples per network; "
        "memorised is the share with r < 1/3 (arXiv 2310.02664). Held-out samples, which cannot "
        "have been memorised, give the values to compare with",
    ]
    if a["along_one_run"]:
        notes.append(
            "All lengths of training are measured along one run, with the training and the network "
            "of the paper (arXiv 2409.03817), which found 1.40, 1.72, 2.22, 2.44 and 2.53 thousand "
            "nats for 1e2, 1e3, 1e4, 3e4 and 6e4 images of MNIST, and for CIFAR-10 with labels "
            "5.07, 8.43, 11.05, 12.33 and 13.2 thousand for 1e2, 1e3, 1e4, 3e4 and 5e4"
        )
    if "condition_text" in a:
        notes.append(
            "Entropies are those of densities given the label, averaged over the labels. For "
            "small N some labels may be missing in the training samples"
        )
    if "num_tokens" in a:
        notes.append(
            "The distance of two sequences is the share of sites at which their tokens differ"
        )
    tables = [Table(_rows(record))]
    return Report(record, f"storage: {a['name']}", facts, tables, _findings(record), notes)

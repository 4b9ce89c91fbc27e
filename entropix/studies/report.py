"""A record in words: the table of the terminal, and `report.md`."""

from typing import TYPE_CHECKING

import numpy as np

from entropix._core.estimate import format_with_error
from entropix.studies.files import ENTROPY, LOG_DENSITY, LOSS, SAMPLES


if TYPE_CHECKING:
    import xarray


Row = tuple[str, str, str]

# What the table shows, in this order; what was not measured is left out.
_ROWS = (
    ("neural_entropy", "neural entropy S_NN, held-out data"),
    ("neural_entropy_train", "neural entropy S_NN, training data"),
    ("total_entropy", "exact total entropy S_tot"),
    ("entropy_slope", "slope of S_NN at the cut-off (codimension)"),
    ("path_kl", "path KL to the exact field"),
    ("prior_kl", "exact KL(p_T || prior)"),
    ("kl_bound", "bound on KL(data || model), their sum"),
    ("negative_log_likelihood", "bound on -log p, held-out data"),
    ("negative_log_likelihood_train", "bound on -log p, training data"),
    ("negative_log_likelihood_exact", "exact -log p, held-out data"),
    ("bits_per_dim", "bound on -log p, held-out data, per dimension"),
    ("wasserstein2", "W2, held-out data to samples"),
    ("wasserstein2_null", "W2, held-out data to training data"),
    ("transport_w2_lower", "W2 from data to noise, at least (Gelbrich)"),
    ("transport_length", "W2 from data to noise, at most (length of the path)"),
    ("transport_efficiency", "efficiency of the process, at most 1"),
    ("mutual_information", "I(X; label), held-out data, from denoising errors"),
    ("mutual_information_score", "I(X; label), held-out data, from scores"),
    ("label_entropy", "H(label)"),
)
_FIGURES = (
    (ENTROPY, "Entropy rate against log-SNR, and its integral from the data end"),
    (SAMPLES, "Held-out data and samples of the first seed"),
    (LOG_DENSITY, "Lower bound on log p for data and samples"),
    (LOSS, "Training loss"),
)


def table_rows(record: "xarray.Dataset") -> list[Row]:
    """Quantity, value and unit of everything measured, over all seeds.

    One seed is shown with its standard error; of several, the mean with the standard error of one
    of them, and the range.
    """
    rows = []
    for name, label in _ROWS:
        if name in record:
            values = np.atleast_1d(record[name].values)
            unit = record[name].attrs["units"]
            rows.append((label, _quantity(record, name, values), "" if unit == "1" else unit))
    return rows


def _quantity(record: "xarray.Dataset", name: str, values: np.ndarray) -> str:
    mean = float(values.mean())
    if f"{name}_stderr" in record:
        errors = np.atleast_1d(record[f"{name}_stderr"].values)
        text = format_with_error(mean, float(np.sqrt(np.mean(errors**2))))
    else:
        text = f"{mean:.4g}"
    if len(values) > 1:
        text += f"   ({values.min():.5g} to {values.max():.5g})"
    return text


def text_table(record: "xarray.Dataset") -> str:
    """The table as aligned text, for a terminal."""
    rows = table_rows(record)
    width = max(len(label) for label, _, _ in rows)
    return "\n".join(f"  {label:<{width}}  {value} {unit}".rstrip() for label, value, unit in rows)


def markdown_report(record: "xarray.Dataset", figures: list[str]) -> str:
    """The report: what was measured on what, the numbers, how to read them, and the figures."""
    a = record.attrs
    seeds = record["seed"].values.tolist()
    lines = [
        f"# entropix measure: {a['name']}",
        "",
        *([f"`{a['command']}`", ""] if a["command"] else []),
        f"- Data: {a['data_text']}.",
        f"- Split: {a['num_train']} samples to train on, {a['num_held_out']} held out.",
        f"- Coordinates of the model: {a['coordinates_text']}. Entropies, path KL and "
        "transport are measured in them; log densities and samples are in the units of the data.",
        f"- Process: {a['process_text']}.",
        f"- Cut-off: {a['cutoff_text']}.",
        f"- Training: {a['training_text']}.",
        "",
        "| quantity | value | unit |",
        "|---|---|---|",
        *("| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in table_rows(record)),
        "",
        *_reading(record),
    ]
    if len(seeds) > 1:
        lines += ["", "| seed | S_NN, held-out | bound on -log p, held-out |", "|---|---|---|"]
        for i, seed in enumerate(seeds):
            cells = (
                format_with_error(float(record[n][i]), float(record[f"{n}_stderr"][i]))
                for n in ("neural_entropy", "negative_log_likelihood")
            )
            lines.append(f"| {seed} | {' | '.join(cells)} |")
    for file, caption in _FIGURES:
        if file in figures:
            lines += ["", f"![{caption}]({file})", "", f"*{caption}.*"]
    return "\n".join(lines) + "\n"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def _reading(record: "xarray.Dataset") -> list[str]:
    """How the numbers are meant."""
    spread = (
        "one standard error of one seed for the population, and the range over seeds"
        if record.sizes["seed"] > 1
        else "one standard error for the population the data come from"
    )
    notes = [
        f"- The headline number is S_NN on held-out data. ± is {spread}.",
        "- The bounds are path bounds: log p of the model is at least that large on average. A gap "
        "between training and held-out data is what the network knows of its own samples only.",
        f"- W2 compares {int(record['wasserstein2_count'])} samples on each side. Its bias from "
        "sampling dwarfs most differences: W2 of as many held-out and training data is what "
        "perfect samples would have.",
        "- Speed limit: the density travels a path of that length from data to noise, at least as "
        "far as W2. Efficiency is W2^2 / (S_NN x noise budget)"
        + (
            ", zero here because this process spends an infinite budget."
            if not np.isfinite(record["transport_budget"].values).all()
            else ", with the W2 of samples, which sampling biases upwards: on few samples both it "
            "and the lower bound of W2 can come out above their limits."
        ),
    ]
    if "path_kl" in record:
        notes.append(
            "- The data have a known density: path KL + KL(p_T || prior) bounds KL(data || model) "
            "from above, and |sqrt(S_NN) - sqrt(S_tot)| is at most sqrt(path KL)."
        )
    if "bits_per_dim" in record:
        notes.append(
            "- Bits per dimension bound those of the integer levels: uniform noise of one level "
            "was added."
        )
    return notes

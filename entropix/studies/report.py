"""A record in words: the table of the terminal, and `report.md`."""

from typing import TYPE_CHECKING

import numpy as np

from entropix._core.formatting import format_with_error
from entropix.studies.files import ENTROPY, LOG_DENSITY, LOSS, SAMPLES
from entropix.studies.theorems import contradictions


if TYPE_CHECKING:
    import xarray


Row = tuple[str, str, str]
Rows = tuple[tuple[str, str], ...]

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
    ("negative_log_likelihood_gaussian", "-log of a Gaussian density, held-out data"),
    ("bits_per_dim", "bound on -log p, held-out data, per dimension"),
    ("wasserstein2", "W2, held-out data to samples"),
    ("wasserstein2_null", "W2, held-out data to training data"),
    ("transport_w2_lower", "W2 from data to noise, at least (by moments)"),
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


def table_rows(record: "xarray.Dataset", wanted: Rows = _ROWS) -> list[Row]:
    """Quantity, value and unit of everything measured, over all seeds.

    One seed is shown with its standard error; of several, the mean with the standard error of one
    of them, and the range.
    """
    rows = []
    for name, label in wanted:
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


def text_table(record: "xarray.Dataset", wanted: Rows = _ROWS) -> str:
    """The table as aligned text, for a terminal, and what contradicts itself in it."""
    rows = table_rows(record, wanted)
    width = max(len(label) for label, _, _ in rows)
    lines = [f"  {label:<{width}}  {value} {unit}".rstrip() for label, value, unit in rows]
    lines += [f"\n  contradiction: {sentence}" for sentence in contradictions(record)]
    return "\n".join(lines)


def markdown_report(record: "xarray.Dataset", figures: list[str]) -> str:
    """The report: what was measured on what, the numbers, how to read them, and the figures."""
    a = record.attrs
    facts = [
        f"Data: {a['data_text']}.",
        *([f"Labels: {a['condition_text']}."] if "condition_text" in a else []),
        f"Split: {a['num_train']} samples to train on, {a['num_held_out']} held out.",
        f"Coordinates of the model: {a['coordinates_text']}. Entropies, path KL and "
        "transport are measured in them; log densities and samples are in the units of the data.",
    ]
    per_seed = {
        "neural_entropy": "S_NN, held-out",
        "negative_log_likelihood": "bound on -log p, held-out",
    }
    if "mutual_information" in record:
        per_seed["mutual_information"] = "I(X; label), held-out"
    return compose(
        record, f"measure: {a['name']}", facts, _ROWS, _reading(record), per_seed, _FIGURES, figures
    )


def compose(
    record: "xarray.Dataset",
    title: str,
    facts: list[str],
    rows: Rows,
    reading: list[str],
    per_seed: dict[str, str],
    captions: Rows,
    figures: list[str],
) -> str:
    """A report of any study.

    Args:
        record: what was measured.
        title: after the name of the program.
        facts: on what, one sentence each.
        rows: names of quantities, and what the table calls them.
        reading: notes on how the numbers are meant.
        per_seed: names of quantities shown for every seed, and what the table calls them.
        captions: files of figures, and what they show.
        figures: the files that there are.
    """
    a = record.attrs
    lines = [
        f"# entropix {title}",
        "",
        *([f"`{a['command']}`", ""] if a["command"] else []),
        *(f"- {fact}" for fact in facts),
        f"- Process: {a['process_text']}.",
        f"- Cut-off: {a['cutoff_text']}.",
        f"- Training: {a['training_text']}.",
        "",
        "| quantity | value | unit |",
        "|---|---|---|",
        *(
            "| " + " | ".join(_escaped(cell) for cell in row) + " |"
            for row in table_rows(record, rows)
        ),
        "",
        *(f"- **Contradiction:** {sentence}." for sentence in contradictions(record)),
        *(f"- {note}" for note in reading),
    ]
    seeds = record["seed"].values.tolist()
    if len(seeds) > 1:
        heads = [_escaped(head) for head in per_seed.values()]
        lines += ["", f"| seed | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
        for i, seed in enumerate(seeds):
            cells = (
                format_with_error(float(record[n][i]), float(record[f"{n}_stderr"][i]))
                for n in per_seed
            )
            lines.append(f"| {seed} | {' | '.join(cells)} |")
    for file, caption in captions:
        if file in figures:
            lines += ["", f"![{caption}]({file})", "", f"*{caption}.*"]
    return "\n".join(lines) + "\n"


def spread_text(record: "xarray.Dataset") -> str:
    """What stands behind the sign of a table."""
    if record.sizes["seed"] > 1:
        return "one standard error of one seed for the population, and the range over seeds"
    return "one standard error for the population the data come from"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def _reading(record: "xarray.Dataset") -> list[str]:
    """How the numbers are meant."""
    notes = [
        f"The headline number is S_NN on held-out data. ± is {spread_text(record)}.",
        "The bounds are path bounds: log p of the model is at least that large on average. A gap "
        "between training and held-out data is what the network knows of its own samples only.",
        f"W2 compares {int(record['wasserstein2_count'])} samples on each side. Its bias from "
        "sampling dwarfs most differences: W2 of as many held-out and training data is what "
        "perfect samples would have.",
        "Speed limit: the density travels a path of that length from data to noise, at least as "
        "far as W2. Efficiency is W2^2 / (S_NN x noise budget)"
        + (
            ", zero here because this process spends an infinite budget."
            if not np.isfinite(record["transport_budget"].values).all()
            else ", with the W2 of samples, which sampling biases upwards: on few samples it can "
            "come out above 1. The lower bound of W2 has no such bias."
        ),
    ]
    if "path_kl" in record:
        notes.append(
            "The data have a known density: path KL + KL(p_T || prior) bounds KL(data || model) "
            "from above, and |sqrt(S_NN) - sqrt(S_tot)| is at most sqrt(path KL)."
        )
    if "bits_per_dim" in record:
        notes.append(
            "Bits per dimension bound those of the integer levels: uniform noise of one level "
            "was added."
        )
    if "mutual_information" in record:
        notes += [
            "I(X; label) from denoising errors is the headline: the error of the network without "
            "labels minus that with labels, on held-out data, not clipped. It is too large by what "
            "the network misses without labels, and too small by what it misses with them; of "
            "labels without information it is zero within its error, or below.",
            "I(X; label) from scores is the squared difference of the two fields: never negative, "
            "and what it exceeds the other by, beyond the errors, is no information.",
        ]
        hidden = float(record["mutual_information_cutoff"].max())
        if hidden > 0:
            notes.append(f"I(X; label) leaves out what noise below {hidden:.3g} would hide.")
    if "label_entropy" in record:
        notes.append(
            "H(label) is the entropy of the labels' frequencies: no information exceeds it."
        )
    return notes

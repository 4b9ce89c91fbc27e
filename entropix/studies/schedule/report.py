"""A record in words: the tables of the terminal, and `report.md`."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from entropix._core.formatting import format_with_error
from entropix.studies.files import PRICES, SCHEDULES, STEPS
from entropix.studies.theorems import contradictions


if TYPE_CHECKING:
    import xarray

_FIGURES = (
    (SCHEDULES, "Log-SNR over the time of each schedule, first seed"),
    (PRICES, "Kinetic action, and Monte Carlo errors of entropies with times uniform in it"),
    (STEPS, "W2 to data, and distance to many steps, against the number of steps"),
)
_RETRAINED = (
    ("path_kl", "path KL to the exact field", "nats"),
    ("neural_entropy", "neural entropy S_NN, held-out data", "nats"),
    ("negative_log_likelihood", "bound on -log p, held-out data", "nats"),
    ("wasserstein2", "W2 at the target number of steps", "model units"),
)


def over_seeds(values: np.ndarray) -> tuple[float, float]:
    """Mean over the last axis, and its standard error; 0 for one seed."""
    mean = float(np.mean(values))
    count = np.size(values) if np.isfinite(mean) else 1
    return mean, float(np.std(values, ddof=1) / np.sqrt(count)) if count > 1 else 0.0


def _quantity(values: np.ndarray) -> str:
    mean, error = over_seeds(values)
    if not np.isfinite(mean):
        return "infinite"
    return format_with_error(mean, error) if error > 0 else f"{mean:.4g}"


@dataclasses.dataclass(frozen=True)
class Contest:
    """The found schedule of lowest W2 against the best one made by hand, at one number of steps.

    Attributes:
        steps: of the sampler.
        found: name of the schedule that was found.
        rival: name of the best one made by hand.
        gain: W2 of the rival minus that of the found one, mean over seeds; positive is good.
        stderr: of the gain, paired by seed: both had the same noise and the same data.
        ratio: distance to many steps, that of the found one over that of its best rival.
        excess_gain: of the same two, the difference of `excess`; positive is good.
        excess_stderr: its standard error, paired by seed.
    """

    steps: int
    found: str
    rival: str
    gain: float
    stderr: float
    ratio: float
    excess_gain: float
    excess_stderr: float


def contests(record: "xarray.Dataset", found: str) -> list[Contest]:
    """A schedule that was found against the best by hand at each number of steps."""
    out = []
    by_hand = record["schedule"].values[record["made_by_hand"].values == 1]
    for steps in record["steps"].values:
        w2 = record["wasserstein2"].sel(steps=steps)
        means = w2.sel(schedule=by_hand).mean("seed")
        rival = str(by_hand[np.argmin(means.values)])
        differences = (w2.sel(schedule=rival) - w2.sel(schedule=found)).values
        errors = record["sampler_error"].sel(steps=steps).mean("seed")
        best = float(errors.sel(schedule=by_hand).min())
        ratio = float(errors.sel(schedule=found)) / best
        more = excess(record).sel(steps=steps)
        excesses = (more.sel(schedule=rival) - more.sel(schedule=found)).values
        out.append(
            Contest(
                int(steps), found, rival, *over_seeds(differences), ratio, *over_seeds(excesses)
            )
        )
    return out


def _found(record: "xarray.Dataset") -> list[str]:
    return [str(name) for name in record["found"].values]


def _titles(record: "xarray.Dataset") -> dict[str, str]:
    import json

    titles = json.loads(record.attrs["titles"])
    return dict(zip(record["schedule"].values.tolist(), titles, strict=True))


def prices_table(record: "xarray.Dataset") -> list[list[str]]:
    """Header and rows: what each schedule costs."""
    rows = [["schedule", "action", "efficiency", "S_NN error", "path KL error"]]
    for name, title in _titles(record).items():
        of = record.sel(schedule=name)
        columns = ("action", "efficiency", "entropy_error", "path_kl_error")
        rows.append([title, *(_quantity(of[column].values) for column in columns)])
    return rows


def steps_table(record: "xarray.Dataset", values: "xarray.DataArray") -> list[list[str]]:
    """Header and rows: W2, or another quantity, at each number of steps."""
    counts = [int(n) for n in record["steps"].values]
    rows = [["schedule", *(f"{n} steps" for n in counts)]]
    for name, title in _titles(record).items():
        of = values.sel(schedule=name)
        rows.append([title, *(_quantity(of.sel(steps=n).values) for n in counts)])
    return rows


def excess(record: "xarray.Dataset") -> "xarray.DataArray":
    r"""$W_2^2(x, y) - \frac12 W_2^2(x, x') - \frac12 W_2^2(y, y')$ of data x and samples y.

    What sampling adds to W2 is taken off on both sides, as in the Sinkhorn divergence: samples that
    huddle together are near to any finite set of data, and gain nothing by it here.
    """
    own, null = record["wasserstein2_own"] ** 2, record["wasserstein2_null"] ** 2
    return record["wasserstein2"] ** 2 - (own + null) / 2


def verdicts(record: "xarray.Dataset") -> list[str]:
    """In a sentence each: whether what was found is better than what was there."""
    titles, seeds = _titles(record), record.sizes["seed"]
    said = []
    for found in _found(record):
        for c in contests(record, found):
            gain = (
                format_with_error(abs(c.gain), c.stderr) if c.stderr > 0 else f"{abs(c.gain):.3g}"
            )
            excess_text = f"{c.excess_gain:.3g}"
            if c.excess_stderr > 0:
                excess_text = format_with_error(c.excess_gain, c.excess_stderr)
            how = "below" if c.gain > 0 else "above"
            beyond = f", {abs(c.gain) / c.stderr:.1f} standard errors" if c.stderr > 0 else ""
            said.append(
                f"{titles[found]}, {c.steps} steps: W2 {gain} {how} the best made by hand "
                f"({titles[c.rival]}){beyond}; less bias, W2^2 {excess_text} better; distance to "
                f"many steps {c.ratio:.2f} times the least"
            )
    if seeds == 1:
        said.append("one seed: no error of the differences; --seeds 5 gives one")
    return said + contradictions(record)


def retraining_table(record: "xarray.Dataset") -> list[list[str]]:
    """Header and rows: networks trained with either schedule; empty without."""
    if "training" not in record.dims:
        return []
    labels = [f"times uniform in {name}" for name in record["training"].values]
    rows = [["trained with", *labels, "unit"]]
    for name, label, unit in _RETRAINED:
        if (variable := f"retrained_{name}") in record:
            rows.append([label, *(_quantity(row) for row in record[variable].values), unit])
    return rows


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  "
        + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _references(record: "xarray.Dataset") -> list[str]:
    count = int(record.attrs["num_samples"])
    return [
        f"W2 of samples of many steps: {_quantity(record['wasserstein2_limit'].values)}",
        f"W2 of two sets of {count} data: {_quantity(record['wasserstein2_null'].values)}",
    ]


def text_report(record: "xarray.Dataset") -> str:
    """The tables as aligned text, for a terminal."""
    parts = [
        _aligned(prices_table(record)),
        "  W2 between data and samples\n" + _aligned(steps_table(record, record["wasserstein2"])),
        "  W2^2, less half of that of two sets of data and of two sets of samples\n"
        + _aligned(steps_table(record, excess(record))),
        "\n".join(f"  {line}" for line in (*_references(record), *verdicts(record))),
    ]
    if rows := retraining_table(record):
        parts.append(_aligned(rows))
    return "\n\n".join(parts)


def markdown_report(record: "xarray.Dataset", figures: list[str]) -> str:
    """The report: what was compared on what, the numbers, how to read them, and the figures."""
    a = record.attrs
    lines = [
        f"# entropix schedule: {a['name']}",
        "",
        *([f"`{a['command']}`", ""] if a["command"] else []),
        f"- Data: {a['data_text']}.",
        f"- Coordinates: {a['coordinates_text']}. All lengths are in them.",
        f"- Process to start from: {a['process_text']}.",
        f"- Fields: {a['model_text']}.",
        f"- Search: {a['search_text']}.",
        f"- Sampler: {a['sampler_text']}, in steps uniform in each schedule's own time (EDM: in "
        "the steps of Karras et al.).",
        "",
        "## What a schedule costs",
        "",
        *_markdown(prices_table(record)),
        "",
        "## W2 between data and samples",
        "",
        *_markdown(steps_table(record, record["wasserstein2"])),
        "",
        *(f"- {line}." for line in (*_references(record), *verdicts(record))),
        "",
        "## W2^2, less half of that of two sets of data and of two sets of samples",
        "",
        *_markdown(steps_table(record, excess(record))),
        "",
        "## Distance to samples of many steps from the same noise",
        "",
        *_markdown(steps_table(record, record["sampler_error"])),
        "",
    ]
    if rows := retraining_table(record):
        lines += ["## Training with either schedule", "", *_markdown(rows), ""]
    lines += ["## How to read it", "", *_reading(record)]
    for file, caption in _FIGURES:
        if file in figures:
            lines += ["", f"![{caption}]({file})", "", f"*{caption}.*"]
    return "\n".join(lines) + "\n"


def _markdown(rows: list[list[str]]) -> list[str]:
    head, *body = rows
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in body),
    ]


def _reading(record: "xarray.Dataset") -> list[str]:
    """How the numbers are meant."""
    a = record.attrs
    spread = "± is one standard error over seeds" if record.sizes["seed"] > 1 else "One seed"
    return [
        f"- {spread}. All schedules of a seed get the same noise and the same data, so that the "
        "error of a difference is smaller than those of its parts.",
        f"- W2 compares {int(a['num_samples'])} samples on each side, and is biased upwards by "
        "that, less so for samples that vary too little: those of few steps of first order do, and "
        "can come out below what many steps reach. The difference of squares takes the bias off on "
        "both sides. The distance to many steps from the same noise has none, and bounds from "
        "above how far the densities are apart.",
        "- Action is at least the square of the length of the path, with equality at constant "
        "speed. Efficiency is W2^2 / (S_NN x noise budget): 0 where the budget or S_NN is "
        "infinite.",
        f"- S_NN error: of an estimate from {int(a['evaluations'])} evaluations at times uniform "
        "in the schedule. Where S_NN is infinite, and for all schedules alike, the path KL to the "
        "moment-matched Gaussian is given too: one number for all processes, estimated with "
        "different errors.",
        "- A schedule made for the sampler is made for that sampler and that number of steps.",
    ]

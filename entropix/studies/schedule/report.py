"""The record of `schedule` in words."""

import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np

from entropix.studies.report import Report, Rows, Table, mean_text, over_seeds, with_error
from entropix.studies.verdict import MARGIN


if TYPE_CHECKING:
    import xarray

_RETRAINED = {
    "path_kl": ("path KL to the exact field", "nats"),
    "neural_entropy": ("neural entropy S_NN, held-out data", "nats"),
    "negative_log_likelihood": ("bound on -log p, held-out data", "nats"),
    "wasserstein2": ("W2 at the target number of steps", "model units"),
}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """An optimised schedule against the best hand-designed one, at one number of steps.

    Both have the same noise and the same data, so differences are paired by seed.

    Attributes:
        steps: of the sampler.
        optimised: name of the optimised schedule.
        best: name of the hand-designed schedule of lowest `excess`.
        gain: `excess` of the best hand-designed schedule minus that of the optimised one, mean over
            seeds; positive if the optimised one is better.
        stderr: of the gain; 0 for one seed, where it is unknown.
        ratio: distance to many steps of the optimised schedule, over the least of any hand-designed
            schedule.
    """

    steps: int
    optimised: str
    best: str
    gain: float
    stderr: float
    ratio: float

    @property
    def words(self) -> str:
        """The comparison, decided by its standard error."""
        if self.stderr > 0 and abs(self.gain) <= MARGIN * self.stderr:
            return "no different, within the errors, from"
        known = "" if self.stderr > 0 else ", as far as one seed tells,"
        return f"better{known} than" if self.gain > 0 else f"worse{known} than"


def compare(record: "xarray.Dataset", optimised: str) -> list[Comparison]:
    """An optimised schedule against the best hand-designed one at each number of steps."""
    out = []
    others = record["schedule"].values[record["hand_designed"].values == 1]
    for steps in record["steps"].values:
        more = excess(record).sel(steps=steps)
        means = more.sel(schedule=others).mean("seed")
        best = str(others[np.argmin(means.values)])
        errors = record["sampler_error"].sel(steps=steps).mean("seed")
        least = float(errors.sel(schedule=others).min())
        ratio = float(errors.sel(schedule=optimised)) / least
        gain = over_seeds((more.sel(schedule=best) - more.sel(schedule=optimised)).values)
        out.append(Comparison(int(steps), optimised, best, *gain, ratio))
    return out


def excess(record: "xarray.Dataset") -> "xarray.DataArray":
    r"""$W_2^2(x, y) - \frac12 W_2^2(x, x') - \frac12 W_2^2(y, y')$ of data x and samples y.

    The bias by sampling is subtracted on both sides, as in the Sinkhorn divergence: samples that
    vary too little are close to any finite set of data, but have no advantage here.
    """
    own, null = record["wasserstein2_own"] ** 2, record["wasserstein2_null"] ** 2
    return record["wasserstein2"] ** 2 - (own + null) / 2


def _titles(record: "xarray.Dataset") -> dict[str, str]:
    titles = json.loads(record.attrs["titles"])
    return dict(zip(record["schedule"].values.tolist(), titles, strict=True))


def _cost_rows(record: "xarray.Dataset") -> Rows:
    columns = ("action", "efficiency", "entropy_error", "path_kl_error")
    rows = [["schedule", "action", "efficiency", "S_NN error", "path KL error"]]
    for name, title in _titles(record).items():
        of = record.sel(schedule=name)
        rows.append([title, *(mean_text(of[column].values) for column in columns)])
    return rows


def _step_rows(record: "xarray.Dataset", values: "xarray.DataArray") -> Rows:
    counts = [int(n) for n in record["steps"].values]
    rows = [["schedule", *(f"{n} steps" for n in counts)]]
    for name, title in _titles(record).items():
        of = values.sel(schedule=name)
        rows.append([title, *(mean_text(of.sel(steps=n).values) for n in counts)])
    return rows


def _training_rows(record: "xarray.Dataset") -> Rows:
    labels = [f"times uniform in {name}" for name in record["training"].values]
    rows = [["trained with", *labels, "unit"]]
    for name, (label, unit) in _RETRAINED.items():
        if (variable := f"retrained_{name}") in record:
            rows.append([label, *(mean_text(row) for row in record[variable].values), unit])
    return rows


def _findings(record: "xarray.Dataset") -> list[str]:
    """Reference values, and a sentence for each optimised schedule and number of steps."""
    titles, count = _titles(record), int(record.attrs["num_samples"])
    found = [
        f"W2 of samples of many steps: {mean_text(record['wasserstein2_limit'].values)}",
        f"W2 of two sets of {count} data: {mean_text(record['wasserstein2_null'].values)}",
    ]
    for name in record["found"].values:
        for c in compare(record, str(name)):
            sign = "lower" if c.gain > 0 else "higher"
            # The many-step samples are those of the model, the data need not be.
            link = "and" if (c.ratio < 1) == (c.gain > 0) else "while"
            found.append(
                f"{titles[c.optimised]}, {c.steps} steps: {c.words} the best hand-designed "
                f"schedule ({titles[c.best]}); W2^2 to the data, without its bias, is "
                f"{with_error(abs(c.gain), c.stderr)} {sign}, {link} the distance to samples of "
                f"many steps is {c.ratio:.2f} times the least of the hand-designed ones"
            )
    if record.sizes["seed"] == 1:
        found.append("One seed: the errors of the differences are unknown; use --seeds 5")
    return found


def schedule_report(record: "xarray.Dataset") -> Report:
    """The report: what was compared on which data, the results, and how to read them."""
    a = record.attrs
    tables = [
        Table(_cost_rows(record), "Cost of each schedule"),
        Table(_step_rows(record, record["wasserstein2"]), "W2 between data and samples"),
        Table(
            _step_rows(record, excess(record)),
            "W2^2 minus half of that of two sets of data and of two sets of samples",
        ),
        Table(
            _step_rows(record, record["sampler_error"]),
            "Distance to samples of many steps from the same noise",
            terminal=False,
        ),
    ]
    if "training" in record.dims:
        tables.append(Table(_training_rows(record), "Training with the two schedules"))
    facts = [
        f"Data: {a['data_text']}",
        f"Coordinates: {a['coordinates_text']}. All lengths are in them",
        f"Initial process: {a['process_text']}",
        f"Model: {a['model_text']}",
        f"Objectives: {a['search_text']}",
        f"Sampler: {a['sampler_text']}; steps are uniform in each schedule's own time (EDM: the "
        "steps of Karras et al.)",
    ]
    spread = "± is one standard error over seeds" if record.sizes["seed"] > 1 else "One seed"
    notes = [
        f"{spread}. All schedules of a seed have the same noise and the same data, so the error of "
        "a difference is smaller than the errors of its parts",
        f"W2 compares {int(a['num_samples'])} samples on each side and is biased upwards. The bias "
        "is smaller for samples that vary too little, as those of few first-order steps do: their "
        "W2 may be below that of many steps. The difference of squares has this bias subtracted. "
        "The distance to many steps from the same noise has no bias; it is an upper bound on W2 "
        "between few and many steps",
        "The action is at least the square of the length of the path, with equality at constant "
        "speed. Efficiency is W2^2 / (S_NN x noise budget): 0 if the budget or S_NN is infinite",
        f"S_NN error: Monte Carlo error of an estimate from {int(a['evaluations'])} evaluations at "
        "times uniform in the schedule. S_NN may be infinite; the path KL to the moment-matched "
        "Gaussian is finite and the same for all processes, but estimated with different errors",
        "A schedule optimised for the sampler is best for that sampler and that number of steps "
        "only",
    ]
    return Report(record, f"schedule: {a['name']}", facts, tables, _findings(record), notes)

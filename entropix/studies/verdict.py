r"""One sentence that rates a measurement: the problems of its data and of its training.

The findings from the data alone come first (`entropix.studies.findings`). For the model, with $A = E\log p - E\log g$ its advantage over the better of the Gaussians g of the training data
(`entropix.studies.baselines`), in nats on the same samples, and the margin of $m = 3$ standard
errors:

| verdict | rule |
|---|---|
| overfitted | more than half of the advantage on training data is missing on held-out data, $A_{train} - A$ exceeds m times its error, and $A < A_{train}/2$ |
| undertrained | the held-out loss was least in the last tenth of the steps; and in the second half of the training it fell by more than m standard errors of $E\log p$, or, for data that are not Gaussian, by more than the scatter of the curve explains, at half the rate of the first half or more, per unit of learning rate |
| worse than a Gaussian | $A < -m\,\mathrm{stderr}$, and the data are not Gaussian |
| undecided | $0 < A \le m\,\mathrm{stderr}$, $A_{train} > m$ times its error, and the data are not Gaussian |
| Gaussian data | $A$ is at most $m\,\mathrm{stderr}$ otherwise; if it is below $-m\,\mathrm{stderr}$, Mardia's tests of the data find no deviation from a Gaussian |
| fine | none of these, and nothing was found in the data |

Errors are those of paired differences over samples. The advantage and the loss are means over the
seeds.
"""  # noqa: E501

import json
from typing import TYPE_CHECKING

import numpy as np

from entropix._core.formatting import format_with_error


if TYPE_CHECKING:
    import xarray

# A difference counts if it exceeds this number of its standard errors.
MARGIN = 3.0
_LAST = 0.9  # of the steps: a loss that is least after them was still falling
# The sum of the learning rates of the second half of a cosine, relative to that of the first.
_SECOND_HALF = (np.pi - 2) / (np.pi + 2)
_NAMES = {"gaussian": "the Gaussian with full covariance", "diagonal": "a diagonal Gaussian"}


def with_verdict(record: "xarray.Dataset") -> "xarray.Dataset":
    """A record of a measurement with the attributes `verdict`, a JSON list, and `verdict_text`."""
    if "negative_log_likelihood" not in record or "data_findings" not in record.attrs:
        return record
    found = verdict(record)
    text = "; ".join(found.values())
    return record.assign_attrs(verdict=json.dumps(list(found)), verdict_text=text)


def verdict(record: "xarray.Dataset") -> dict[str, str]:
    """All findings by name, the most important one first, with a clause each.

    Args:
        record: of a measurement, whose attribute `data_findings` holds those of the data.
    """
    found: dict[str, str] = json.loads(record.attrs["data_findings"])
    best = _best_gaussian(record)
    advantage, stderr = _paired(record, "", best)
    on_train, train_stderr = _paired(record, "_train", best)
    lost, lost_stderr = on_train - advantage, float(np.hypot(stderr, train_stderr))
    image = record.attrs.get("kind") == "image"
    remedy = "train longer or use a U-Net" if image else "train longer or use a larger network"
    if record.attrs.get("network") == "unet":
        remedy = "train longer"
    gaussian = _NAMES[best]
    if lost > MARGIN * lost_stderr and advantage < on_train / 2:
        found["overfitted"] = (
            f"overfitted: the density of the network exceeds that of {gaussian} by "
            f"{format_with_error(on_train, train_stderr)} nats on training data, and by "
            f"{format_with_error(advantage, stderr)} on held-out data"
        )
    is_gaussian = record.attrs.get("gaussian_data", 0) == 1
    fall = falling(record, by_rate=not is_gaussian)
    if fall is not None:
        unit = record["loss_held_out"].attrs["units"]
        found["undertrained"] = (
            f"undertrained: the held-out loss was still falling, by {fall:.2g}"
            f"{' nats' if unit == 'nats' else ''} in the second half of the training; train longer "
            "(--steps, --minutes)"
        )
    if advantage < -MARGIN * stderr and not is_gaussian:
        found["worse than a Gaussian"] = (
            f"worse than a Gaussian: -log p is {format_with_error(-advantage, stderr)} nats above "
            f"that of {gaussian}; {remedy}"
        )
    elif 0 < advantage <= MARGIN * stderr and on_train > MARGIN * train_stderr and not is_gaussian:
        found["undecided"] = (
            f"better than {gaussian} on training data, by "
            f"{format_with_error(on_train, train_stderr)} nats, but {len(record['log_prob'][0])} "
            f"held-out samples do not decide it: {format_with_error(advantage, stderr)} nats; use "
            "more --samples"
        )
    elif advantage <= MARGIN * stderr:
        found["gaussian"] = (
            "Gaussian data: nothing beyond the covariance was found"
            if is_gaussian
            else "no better than a Gaussian: nothing beyond the covariance was found"
        ) + f", -log p is {format_with_error(-advantage, stderr)} nats above that of {gaussian}"
    if not found:
        found["fine"] = (
            f"fine: -log p is {format_with_error(advantage, stderr)} nats below that of {gaussian} "
            "on held-out data, and neither data nor training show a problem"
        )
    return found


def _best_gaussian(record: "xarray.Dataset") -> str:
    known = [name for name in _NAMES if f"negative_log_likelihood_{name}" in record]
    return min(known, key=lambda name: float(record[f"negative_log_likelihood_{name}"]))


def _paired(record: "xarray.Dataset", part: str, gaussian: str) -> tuple[float, float]:
    """The mean difference of log densities over samples, and its standard error."""
    difference = record[f"log_prob{part}"].mean("seed") - record[f"log_prob_{gaussian}{part}"]
    values = difference.values.astype(float)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def falling(record: "xarray.Dataset", *, by_rate: bool) -> float | None:
    """By how much the held-out loss fell in the second half, if it was still falling.

    Args:
        record: of a measurement.
        by_rate: whether an undiminished rate is enough.
    """
    if "best_step" not in record:
        return None
    last, taken = float(record["best_step"].mean()), int(record["step"][-1])
    stopped = taken < record.attrs["num_steps"] and taken - last >= record.attrs["patience"] > 0
    if last < _LAST * taken or stopped:
        return None
    loss = record["loss_held_out"].mean("seed").values
    share = record["check"].values / last
    half, end = (loss[(share > a) & (share <= b)] for a, b in ((0.4, 0.6), (_LAST, 1.0)))
    if not len(half) or not len(end):
        return None
    before, fall = float(loss[0] - half.mean()), float(half.mean() - end.mean())
    error = float(record["negative_log_likelihood_stderr"].mean())
    in_nats = record["loss_held_out"].attrs["units"] == "nats"
    jumps = np.diff(loss[share > 0.5])  # of a trend and of independent errors
    scatter = float(np.std(jumps)) * np.sqrt(0.5 * (1 / len(half) + 1 / len(end)))
    steady = by_rate and fall > MARGIN * scatter and fall >= 0.5 * _SECOND_HALF * before
    return fall if steady or (in_nats and fall > MARGIN * error) else None


def verdicts(record: "xarray.Dataset") -> list[str]:
    """The sentence of the verdict, if the record has one: those of earlier versions do not."""
    text = record.attrs.get("verdict_text")
    return [] if text is None else [f"verdict: {text}"]

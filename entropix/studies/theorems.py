r"""Theorems that link what studies report, and where a record contradicts them.

For the exact field of the data, with $W_2$ the distance from data to noise and lengths, actions and
entropies those of the process (Benamou and Brenier, 2000; Ikeda et al., 2407.04495; Gibbs),

$$W_2 \le \mathrm{length}, \quad W_2^2 \le S_{NN}\int\frac{\sigma^2}{2}ds, \quad
  -E\log p \le -E\log g, \quad 0 \le I(X; Y) \le H(Y), \quad 0 \le KL,$$

g any density, and both forms of I and of KL agree. A network that breaks one of them by more than
the errors has another field. For any field at all

$$\mathrm{length}^2 \le \mathrm{action}, \quad |\sqrt{S_{NN}} - \sqrt{S_{tot}}| \le \sqrt L, \quad
  h(p_d) \le -E\log p_\theta,$$

so that where one of these fails an estimate is off by more than its error. `THEOREMS` is the table
of all of them; each one applies to the records that hold its quantities.
"""

import dataclasses
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from entropix._core.formatting import format_with_error


if TYPE_CHECKING:
    import xarray

# A theorem that fails by more combined standard errors is reported.
ERRORS = 2.0
# Relative; sums in single precision.
_ROUNDING = 1e-5
# What a record says of its variable `theorem_slack`.
SLACK = "by how many standard errors each theorem holds; negative where it fails"


@dataclasses.dataclass(frozen=True)
class Quantity:
    """Values and their standard errors, of one shape or of ones that broadcast."""

    value: Any
    error: Any = 0.0

    def squared(self) -> "Quantity":
        """To first order in the error."""
        return Quantity(self.value**2, 2 * abs(self.value) * self.error)

    def root(self) -> "Quantity":
        """To first order in the error; of what is not positive, the root of the least number."""
        root = np.sqrt(np.maximum(self.value, np.finfo(float).tiny))
        return Quantity(root, self.error / (2 * root))

    def distance(self, other: "Quantity") -> "Quantity":
        """The absolute difference of independent estimates."""
        return Quantity(abs(self.value - other.value), np.hypot(self.error, other.error))


class Lookup:
    """The quantities of a record, by name.

    Args:
        record: of any study.
        error: suffixes of the errors to take, the first that there is.
    """

    def __init__(self, record: "xarray.Dataset", error: tuple[str, ...] = ("_stderr",)):
        self._record, self._error = record, error

    def __call__(self, name: str) -> Quantity:
        """A quantity.

        Raises:
            KeyError: if the record does not hold it.
        """
        value = self._record[name].astype(float)
        for suffix in self._error:
            if f"{name}{suffix}" in self._record:
                return Quantity(value, self._record[f"{name}{suffix}"].astype(float))
        return Quantity(value)

    def paired(self, first: str, second: str) -> Quantity:
        """The mean over samples of a difference, with the error of that mean."""
        difference = (self._record[first] - self._record[second]).astype(float)
        count = difference.sizes["rated_sample"]
        error = difference.std("rated_sample", ddof=1) / np.sqrt(count)
        return Quantity(difference.mean("rated_sample"), error)


@dataclasses.dataclass(frozen=True)
class Theorem:
    """Left side at most the right side, or equal to it.

    Attributes:
        name: how it is written.
        sides: from the quantities of a record to both sides; raises `KeyError` without them.
        fault: what is at fault where it fails: `"field"`; `"samples"`, the field or the W2 of
            samples, which is biased upwards; or `"estimate"`, as it holds for any field.
        equal: whether the sides are equal.
        same_samples: whether it holds for the given samples, so that their choice is no error.
        whole_axis: whether it says nothing of entropies with a cut-off.
    """

    name: str
    sides: Callable[[Lookup], tuple[Quantity, Quantity]]
    fault: str = "field"
    equal: bool = False
    same_samples: bool = False
    whole_axis: bool = False


def _both(left: str, right: str) -> Callable[[Lookup], tuple[Quantity, Quantity]]:
    return lambda q: (q(left), q(right))


def _not_negative(name: str) -> Callable[[Lookup], tuple[Quantity, Quantity]]:
    return lambda q: (Quantity(0.0), q(name))


def _at_most_one(name: str) -> Callable[[Lookup], tuple[Quantity, Quantity]]:
    return lambda q: (q(name), Quantity(1.0))


def _squared_at_most(left: str, right: str) -> Callable[[Lookup], tuple[Quantity, Quantity]]:
    return lambda q: (q(left).squared(), q(right))


def _speed_limit(q: Lookup) -> tuple[Quantity, Quantity]:
    entropy, budget = q("neural_entropy"), q("transport_budget").value
    right = Quantity(entropy.value * budget, entropy.error * budget)
    return q("transport_w2_lower").squared(), right


def _triangle(q: Lookup) -> tuple[Quantity, Quantity]:
    left = q("neural_entropy").root().distance(q("total_entropy").root())
    return left, q("path_kl").root()


TRIANGLE = "|√S_NN - √S_tot| ≤ √L"
THEOREMS = (
    Theorem("0 ≤ S_NN", _not_negative("neural_entropy"), "estimate"),
    Theorem("0 ≤ path KL", _not_negative("path_kl"), "estimate"),
    Theorem(TRIANGLE, _triangle, "estimate", same_samples=True),
    Theorem(
        "exact -log p ≤ bound on -log p",
        lambda q: (Quantity(0.0), q.paired("log_prob_exact", "log_prob")),
        "estimate",
    ),
    Theorem("0 ≤ bits per dimension", _not_negative("bits_per_dim"), "estimate"),
    Theorem(
        "bound on -log p ≤ -log of a Gaussian density",
        _both("negative_log_likelihood", "negative_log_likelihood_gaussian"),
    ),
    Theorem("W2 ≤ length of the path", _both("transport_w2_lower", "transport_length")),
    Theorem(
        "length² ≤ action", _squared_at_most("transport_length", "transport_action"), "estimate"
    ),
    Theorem("length² ≤ action", _squared_at_most("length", "action"), "estimate"),
    Theorem("W2² ≤ S_NN x noise budget", _speed_limit, whole_axis=True),
    Theorem("efficiency ≤ 1", _at_most_one("transport_efficiency"), "samples", whole_axis=True),
    # Of schedules, which alone have an action by that name: in storage it is S_NN / S_tot.
    Theorem(
        "efficiency ≤ 1", lambda q: (q("action"), (q("efficiency"), Quantity(1.0)))[1], "samples"
    ),
    Theorem("0 ≤ I(X; label)", _not_negative("mutual_information")),
    Theorem("I(X; label) ≤ H(label)", _both("mutual_information", "label_entropy")),
    Theorem(
        "I(X; label) from scores ≤ H(label)", _both("mutual_information_score", "label_entropy")
    ),
    Theorem(
        "I(X; label) from denoising errors = from scores",
        _both("mutual_information", "mutual_information_score"),
        equal=True,
    ),
    Theorem("0 ≤ KL(first || second)", _not_negative("kl")),
    Theorem("0 ≤ KL(second || first)", _not_negative("kl_reverse")),
    Theorem(
        "KL(first || second) from denoising errors = from scores",
        _both("kl", "kl_score"),
        equal=True,
    ),
    Theorem(
        "KL(second || first) from denoising errors = from scores",
        _both("kl_reverse", "kl_reverse_score"),
        equal=True,
    ),
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """A theorem on a record.

    Attributes:
        theorem: which one.
        left: its left side.
        right: its right side.
        slack: by how many combined standard errors it holds, negative where it fails; of an
            equality, minus the distance of its sides. Infinite where there is no error, or no
            bound; NaN where something was not measured.
    """

    theorem: Theorem
    left: Quantity
    right: Quantity
    slack: Any


def findings(record: "xarray.Dataset") -> list[Finding]:
    """All theorems on the quantities of a record."""
    import xarray

    found = []
    for theorem in THEOREMS:
        if theorem.whole_axis and record.attrs.get("cutoff", 0.0) > 0:
            continue
        suffixes = ("_mc_stderr", "_stderr") if theorem.same_samples else ("_stderr",)
        try:
            left, right = theorem.sides(Lookup(record, suffixes))
        except KeyError:
            continue
        parts = (left.value, left.error, right.value, right.error)
        parts = xarray.broadcast(*map(xarray.DataArray, parts))
        left, right = Quantity(*parts[:2]), Quantity(*parts[2:])
        found.append(Finding(theorem, left, right, _slack(left, right, theorem.equal)))
    return found


def _slack(left: Quantity, right: Quantity, equal: bool) -> Any:
    unbounded = np.isinf(right.value)
    limit, limit_error = (part.where(~unbounded, 0.0) for part in (right.value, right.error))
    room = limit - left.value
    if equal:
        room = -abs(room)
    room = room + _ROUNDING * np.maximum(abs(limit), abs(left.value))
    error = np.hypot(left.error, limit_error)
    certain = np.where(room >= 0, np.inf, -np.inf)
    slack = (room / error.where(error > 0, 1.0)).where(error > 0, certain)
    slack = slack.where(~unbounded, np.inf)
    slack = slack.where(~(np.isnan(left.value) | np.isnan(right.value)))
    slack.attrs = {}
    return slack


def with_theorems(record: "xarray.Dataset") -> "xarray.Dataset":
    """A record with the variable `theorem_slack` and the attribute `contradictions`."""
    import xarray

    found = findings(record)
    if not found:
        return record
    names = xarray.DataArray([f.theorem.name for f in found], dims="theorem", name="theorem")
    names.attrs["long_name"] = "what holds for the exact field"
    slack = xarray.concat(xarray.broadcast(*(f.slack for f in found)), dim=names)
    slack.attrs = {"units": "1", "long_name": SLACK}
    record = record.assign(theorem_slack=slack.transpose("theorem", ...))
    return record.assign_attrs(contradictions=json.dumps(contradictions(record)))


def contradictions(record: "xarray.Dataset") -> list[str]:
    """In a sentence each: the theorems that fail by more than the errors, and what is at fault."""
    return [_sentence(record, f) for f in findings(record) if bool((f.slack < -ERRORS).any())]


def _sentence(record: "xarray.Dataset", finding: Finding) -> str:
    slack, name = finding.slack, finding.theorem.name
    for order in ("first", "second"):
        name = name.replace(order, record.attrs.get(order, order))
    failing, count = int((slack < -ERRORS).sum()), int((~np.isnan(slack)).sum())
    worst = slack.argmin(...) if slack.ndim else {}
    left, right = (
        (float(side.value.isel(worst)), float(side.error.isel(worst)))
        for side in (finding.left, finding.right)
    )
    least = float(slack.isel(worst))
    by = f" by {-least:.1f} standard errors" if np.isfinite(least) else ""
    where = ""
    if count > 1:
        place = ", ".join(f"{dim} {slack[dim].values[int(i)]}" for dim, i in worst.items())
        where = f" (in {failing} of {count} places, most for {place})"
    return (
        f"{name} fails{by}, {_text(*left)} against {_text(*right)}{where}: "
        f"{_fault(record, finding.theorem)}"
    )


def _text(value: float, error: float) -> str:
    return format_with_error(value, error) if error > 0 else f"{value:.5g}"


def _fault(record: "xarray.Dataset", theorem: Theorem) -> str:
    if theorem.fault == "estimate":
        return "it holds for any field, so that an estimate is off by more than its error"
    of_samples = "W2 of few samples is biased upwards"
    if record.attrs.get("model") == "exact":
        return of_samples
    field = "the field of the network is not that of the data (more steps, or a larger network)"
    return f"{field}, or {of_samples}" if theorem.fault == "samples" else field

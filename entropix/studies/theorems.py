r"""Theorems between the results of studies, and the records that contradict them.

For the exact field of the data, with $W_2$ the distance from data to noise and lengths, actions and
entropies those of the process (Benamou and Brenier, 2000; Ikeda et al., 2407.04495; Gibbs),

$$W_2 \le \mathrm{length}, \quad W_2^2 \le S_{NN}\int\frac{\sigma^2}{2}ds, \quad
  -E\log p \le -E\log g, \quad 0 \le I(X; Y) \le H(Y), \quad 0 \le KL,$$

for any density g, and both forms of I and of KL agree. A network that violates one of them by more
than the errors has another field. For any field

$$\mathrm{length}^2 \le \mathrm{action}, \quad |\sqrt{S_{NN}} - \sqrt{S_{tot}}| \le \sqrt L, \quad
  h(p_d) \le -E\log p_\theta,$$

so that if one of these fails, the error of an estimate is larger than stated. `THEOREMS` lists all
of them; each applies to the records that hold its quantities.
"""

import dataclasses
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from entropix._core.formatting import format_with_error


if TYPE_CHECKING:
    import xarray

# A theorem is reported if it fails by more than this number of combined standard errors.
ERRORS = 2.0
# Relative rounding of sums in single precision.
_ROUNDING = 1e-5
# The meaning of the variable `theorem_slack` of a record.
SLACK = "number of standard errors by which each theorem holds; negative if it fails"


@dataclasses.dataclass(frozen=True)
class Quantity:
    """Values and their standard errors, whose shapes broadcast."""

    value: Any
    error: Any = 0.0

    def squared(self) -> "Quantity":
        """To first order in the error."""
        return Quantity(self.value**2, 2 * abs(self.value) * self.error)

    def times(self, factor: Any) -> "Quantity":
        """The product with a number without error."""
        return Quantity(self.value * factor, self.error * factor)

    def root(self) -> "Quantity":
        """To first order in the error; values that are not positive count as nearly zero."""
        root = np.sqrt(np.maximum(self.value, np.finfo(float).tiny))
        return Quantity(root, self.error / (2 * root))

    def distance(self, other: "Quantity") -> "Quantity":
        """The absolute difference of independent estimates."""
        return Quantity(abs(self.value - other.value), np.hypot(self.error, other.error))


class Lookup:
    """The quantities of a record, by name.

    Args:
        record: of any study.
        error: suffixes of errors, of which the first that exists is used.
    """

    def __init__(self, record: "xarray.Dataset", error: tuple[str, ...] = ("_stderr",)):
        self._record, self._error = record, error

    def __call__(self, name: str, *, also: str | None = None) -> Quantity:
        """A quantity.

        Raises:
            KeyError: if the record does not hold it, or the other variable `also`.
        """
        if also is not None and also not in self._record:
            raise KeyError(also)
        value = self._record[name].astype(float)
        for suffix in self._error:
            if f"{name}{suffix}" in self._record:
                return Quantity(value, self._record[f"{name}{suffix}"].astype(float))
        return Quantity(value)

    def paired(self, first: str, second: str) -> Quantity:
        """The mean of a difference over samples, with its error."""
        difference = (self._record[first] - self._record[second]).astype(float)
        count = difference.sizes["rated_sample"]
        error = difference.std("rated_sample", ddof=1) / np.sqrt(count)
        return Quantity(difference.mean("rated_sample"), error)


@dataclasses.dataclass(frozen=True)
class Theorem:
    """Left side at most the right side, or equal to it.

    Attributes:
        name: how it is written.
        sides: both sides, from the quantities of a record; raises `KeyError` if they are missing.
        fault: the cause if it fails: `"field"`; `"samples"`, the field or the W2 of samples, which
            is biased upwards; or `"estimate"`, because it holds for any field.
        equal: whether it is an equality.
        same_samples: whether it holds for the given samples, so that only Monte Carlo errors count.
        whole_axis: whether it does not apply to entropies with a cut-off.
    """

    name: str
    sides: Callable[[Lookup], tuple[Quantity, Quantity]]
    fault: str = "field"
    equal: bool = False
    same_samples: bool = False
    whole_axis: bool = False


TRIANGLE = "|√S_NN - √S_tot| ≤ √L"
_ZERO, _ONE = Quantity(0.0), Quantity(1.0)
THEOREMS = (
    Theorem("0 ≤ S_NN", lambda q: (_ZERO, q("neural_entropy")), "estimate"),
    Theorem("0 ≤ path KL", lambda q: (_ZERO, q("path_kl")), "estimate"),
    Theorem(
        TRIANGLE,
        lambda q: (
            q("neural_entropy").root().distance(q("total_entropy").root()),
            q("path_kl").root(),
        ),
        "estimate",
        same_samples=True,
    ),
    Theorem(
        "exact -log p ≤ bound on -log p",
        lambda q: (_ZERO, q.paired("log_prob_exact", "log_prob")),
        "estimate",
    ),
    Theorem("0 ≤ bits per dimension", lambda q: (_ZERO, q("bits_per_dim")), "estimate"),
    Theorem(
        "bound on -log p ≤ -log of a Gaussian density",
        lambda q: (q("negative_log_likelihood"), q("negative_log_likelihood_gaussian")),
    ),
    Theorem("W2 ≤ length of the path", lambda q: (q("transport_w2_lower"), q("transport_length"))),
    Theorem(
        "length² ≤ action",
        lambda q: (q("transport_length").squared(), q("transport_action")),
        "estimate",
    ),
    Theorem("length² ≤ action", lambda q: (q("length").squared(), q("action")), "estimate"),
    Theorem(
        "W2² ≤ S_NN x noise budget",
        lambda q: (
            q("transport_w2_lower").squared(),
            q("neural_entropy").times(q("transport_budget").value),
        ),
        whole_axis=True,
    ),
    Theorem(
        "efficiency ≤ 1",
        lambda q: (q("transport_efficiency"), _ONE),
        "samples",
        whole_axis=True,
    ),
    # In records of schedules, which have an action: in those of storage it is S_NN / S_tot.
    Theorem("efficiency ≤ 1", lambda q: (q("efficiency", also="action"), _ONE), "samples"),
    Theorem("0 ≤ I(X; label)", lambda q: (_ZERO, q("mutual_information"))),
    Theorem("I(X; label) ≤ H(label)", lambda q: (q("mutual_information"), q("label_entropy"))),
    Theorem(
        "I(X; label) from scores ≤ H(label)",
        lambda q: (q("mutual_information_score"), q("label_entropy")),
    ),
    Theorem(
        "I(X; label) from denoising errors = from scores",
        lambda q: (q("mutual_information"), q("mutual_information_score")),
        equal=True,
    ),
    Theorem("0 ≤ KL(first || second)", lambda q: (_ZERO, q("kl"))),
    Theorem("0 ≤ KL(second || first)", lambda q: (_ZERO, q("kl_reverse"))),
    Theorem(
        "KL(first || second) from denoising errors = from scores",
        lambda q: (q("kl"), q("kl_score")),
        equal=True,
    ),
    Theorem(
        "KL(second || first) from denoising errors = from scores",
        lambda q: (q("kl_reverse"), q("kl_reverse_score")),
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
        slack: number of combined standard errors by which it holds, negative if it fails; for an
            equality, minus the distance of its sides. Infinite if there is no error or the right
            side is infinite; NaN if something was not measured.
    """

    theorem: Theorem
    left: Quantity
    right: Quantity
    slack: Any


def findings(record: "xarray.Dataset") -> list[Finding]:
    """All theorems that apply to a record."""
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
    excess = limit - left.value
    if equal:
        excess = -abs(excess)
    excess = excess + _ROUNDING * np.maximum(abs(limit), abs(left.value))
    error = np.hypot(left.error, limit_error)
    certain = np.where(excess >= 0, np.inf, -np.inf)
    slack = (excess / error.where(error > 0, 1.0)).where(error > 0, certain)
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
    names.attrs["long_name"] = "holds for the exact field"
    slack = xarray.concat(xarray.broadcast(*(f.slack for f in found)), dim=names)
    slack.attrs = {"units": "1", "long_name": SLACK}
    record = record.assign(theorem_slack=slack.transpose("theorem", ...))
    return record.assign_attrs(contradictions=json.dumps(contradictions(record)))


def contradictions(record: "xarray.Dataset") -> list[str]:
    """A sentence for each theorem that fails by more than the errors, with the cause."""
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
        where = f" (in {failing} of {count} cases, most for {place})"
    return (
        f"{name} fails{by}, {_text(*left)} against {_text(*right)}{where}: "
        f"{_fault(record, finding.theorem)}"
    )


def _text(value: float, error: float) -> str:
    return format_with_error(value, error) if error > 0 else f"{value:.5g}"


def _fault(record: "xarray.Dataset", theorem: Theorem) -> str:
    if theorem.fault == "estimate":
        return "it holds for any field, so the error of an estimate is larger than stated"
    of_samples = "W2 of few samples is biased upwards"
    if record.attrs.get("model") == "exact":
        return of_samples
    field = "the field of the network is not that of the data"
    if "model_text" not in record.attrs:  # it was trained here
        field += " (try more steps or a larger network)"
    return f"{field}, or {of_samples}" if theorem.fault == "samples" else field

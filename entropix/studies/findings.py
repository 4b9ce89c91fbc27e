r"""Problems of a measurement that the data alone reveal.

| finding | criterion |
|---|---|
| leaked | held-out rows that are equal to a training row: at least two, and 1% of them |
| duplicates | rows that are equal to an earlier one: more than 1% of all |
| discrete | columns with atoms, or a linear dependence, see `entropix.datasets.describe`; pixels of few values |
| few rows | fewer than 30 held-out rows: a standard error is then itself uncertain by $1/\sqrt{2 \cdot 29} = 13\%$ or more; or N <= 2 D training rows: the covariance then costs about 1/3 nat per dimension or more |
| units | standard deviations of columns that differ a hundredfold, a mean or a scale a hundred times that of the process; images whose ranges differ fiftyfold |
| heavy tails | a finite tail index, see `entropix.datasets.describe` |

All rows are compared before noise is added.
"""  # noqa: E501

import json

import numpy as np
from scipy.special import gammaincc, ndtr

from entropix._core.formatting import listed
from entropix.interfaces import AbstractGaussianProcess
from entropix.processes import end_scale_and_std
from entropix.studies.data import PreparedData


# Names of findings and sentences, in the order of importance.
Findings = dict[str, str]
_SHARE = 0.01
_FEWEST = 30
_ORDERS, _RANGES = 100.0, 50.0
_SHOWN = 3
_MARGIN = 3.0  # standard errors of a test
_TESTED = 2000  # rows
# Changes of units, which do not change tails.
_AFFINE = ("identity", "per-feature", "global", "range")


def data_findings(data: PreparedData, process: AbstractGaussianProcess) -> Findings:
    """The findings of the table above, with a sentence each.

    Args:
        data: in the coordinates of the model.
        process: of the model.
    """
    found: Findings = {}
    of_values = _values(data)
    if not (of_values and data.description is not None and data.description.discrete.all()):
        found |= _repeated(data)  # rows of discrete columns alone recur by chance
    found |= of_values | _rows(data) | _units(data, process) | _tails(data)
    return found


def finding_attributes(
    data: PreparedData, process: AbstractGaussianProcess
) -> dict[str, str | int]:
    """Attributes of a record on its data, for `entropix.studies.verdict`; see `data_findings`."""
    parts = [part[:_TESTED] for part in (data.train, data.held_out)]
    return {
        "kind": data.dataset.kind,
        "data_findings": json.dumps(data_findings(data, process)),
        "gaussian_data": int(looks_gaussian(np.concatenate(parts))),
    }


def _repeated(data: PreparedData) -> Findings:
    points = data.original.points
    rows = [row.tobytes() for row in points]
    held_out, train = data.order
    known = {rows[i] for i in train}
    leaked, repeated = sum(rows[i] in known for i in held_out), len(rows) - len(set(rows))
    found: Findings = {}
    if leaked >= max(2, _SHARE * len(held_out)):
        found["leaked"] = (
            f"leaked held-out rows: {leaked} of {len(held_out)} are also in the training part, so "
            "that held-out results are partly those of training data; --drop-repeated leaves "
            "copies out"
        )
    if repeated > _SHARE * len(rows):
        found["duplicates"] = (
            f"duplicates: {repeated} of {len(rows)} rows are equal to earlier ones; a density "
            "concentrates on them; --drop-repeated leaves them out"
        )
    return found


def _values(data: PreparedData) -> Findings:
    description, dataset = data.description, data.original
    if dataset.kind == "image":
        distinct = len(np.unique(dataset.points[: max(1, 2**22 // dataset.dim)]))
        if not data.dequantised and distinct <= _SHARE * min(dataset.points.size, 2**22):
            return {
                "discrete": f"discrete pixels: they take {distinct} values and have no density; "
                "give the number of grey levels, --levels, for uniform noise of one level"
            }
        return {}
    if description is None:
        return {}
    if description.discrete.any():
        which = [description.columns[i] for i in np.flatnonzero(description.discrete)]
        return {
            "discrete": f"discrete columns: values recur in {listed(which, _SHOWN)}, "
            "which have no density; entropies depend on the cut-off"
        }
    if description.rank is not None and description.rank < data.dim:
        return {
            "discrete": f"no density: the {data.dim} columns lie in {description.rank} dimensions; "
            "entropies depend on the cut-off"
        }
    return {}


def _rows(data: PreparedData) -> Findings:
    count, held_out = data.num_train, len(data.held_out)
    why = ""
    if held_out < _FEWEST:
        why = f"{held_out} held-out rows are too few for a reliable standard error"
    elif count <= 2 * data.dim:
        why = f"{count} training rows are too few for the covariance of {data.dim} coordinates"
    return {"few rows": f"too few rows: {why}"} if why else {}


def _units(data: PreparedData, process: AbstractGaussianProcess) -> Findings:
    std, mean = data.train.std(axis=0), data.train.mean(axis=0)
    if data.dataset.kind == "image":
        ranges = np.ptp(data.original.points, axis=1)
        typical, largest = float(np.median(ranges)), float(ranges.max())
        if 0 < _RANGES * typical < largest or 0 < typical < largest / _RANGES:
            return {
                "units": f"wrong units: some images span {largest:.3g}, half of them at most "
                f"{typical:.3g}"
            }
    elif data.projection is None and std.max() > _ORDERS * std.min():
        names = data.original.columns or tuple(f"column {i}" for i in range(data.dim))
        least, most = names[int(std.argmin())], names[int(std.argmax())]
        return {
            "units": f"wrong units: the standard deviation of {most} is "
            f"{std.max() / std.min():.2g} times that of {least} in the coordinates of the model; "
            "--standardise feature gives all columns the same"
        }
    scale = float(end_scale_and_std(process)[1])
    spread, offset = (float(np.sqrt(np.mean(x**2))) / scale for x in (std, mean))
    if max(spread, offset) > _ORDERS or spread < 1 / _ORDERS:
        return {
            "units": f"wrong units: mean {offset * scale:.2g} and standard deviation "
            f"{spread * scale:.2g} in the coordinates of the model, where that of the noise is "
            f"{scale:.2g}; --standardise auto rescales"
        }
    return {}


def _tails(data: PreparedData) -> Findings:
    description = data.description
    if description is None or data.standardisation.name not in _AFFINE:
        return {}
    heavy = np.flatnonzero(np.isfinite(description.tail_index))
    if not len(heavy):
        return {}
    worst = heavy[np.argmin(description.tail_index[heavy])]
    index, error = description.tail_index[worst], description.tail_index_stderr[worst]
    more = f" and {len(heavy) - 1} more" if len(heavy) > 1 else ""
    return {
        "heavy tails": f"heavy tails: the tail index of {description.columns[worst]} is "
        f"{index:.2g} ± {error:.1g}{more}; a few rows dominate means and their standard errors"
    }


def looks_gaussian(points: np.ndarray, most: int = _TESTED) -> bool:
    r"""Whether Mardia's skewness and kurtosis agree with a Gaussian, within three standard errors.

    With $g_{ij} = (x_i - m)^T C^{-1} (x_j - m)$, moments of n samples,

    $$\frac{n k}{6}\,\overline{g_{ij}^3} \sim \chi^2_f, \quad f = \tfrac16 D(D+1)(D+2), \qquad
    \overline{g_{ii}^2} \sim N\!\left(\tfrac{n-1}{n+1}\,D(D+2), \tfrac{8}{n}D(D+2)\right),$$

    with $k = (D+1)(n+1)(n+3)/(n((n+1)(D+1) - 6))$ for few samples. False also where $n < 10 D$.

    Args:
        points: shape (N, D), of which at most `most` are used.
        most: see `points`.

    References:
        Mardia, *Measures of multivariate skewness and kurtosis*, Biometrika 57 (1970).
    """
    x = np.asarray(points[:most], np.float64)
    n, dim = x.shape
    if n < 10 * dim:
        return False
    x = x - x.mean(axis=0)
    covariance = np.atleast_2d(x.T @ x / n)
    try:
        whitened = np.linalg.solve(np.linalg.cholesky(covariance), x.T).T
    except np.linalg.LinAlgError:
        return False
    gram = whitened @ whitened.T
    freedom = dim * (dim + 1) * (dim + 2) / 6
    small = (dim + 1) * (n + 1) * (n + 3) / (n * ((n + 1) * (dim + 1) - 6))
    skewness = n * small * float((gram**3).mean()) / 6
    expected, variance = dim * (dim + 2) * (n - 1) / (n + 1), 8 * dim * (dim + 2) / n
    kurtosis = float((np.diag(gram) ** 2).mean())
    symmetric = gammaincc(freedom / 2, skewness / 2) >= ndtr(-_MARGIN)
    return bool(symmetric and abs(kurtosis - expected) <= _MARGIN * np.sqrt(variance))

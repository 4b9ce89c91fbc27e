"""The sentence on a measurement, on data made so that the answer is known."""

import dataclasses
import json

import numpy as np
import pytest

from entropix.datasets import Dataset
from entropix.studies import (
    DataOptions,
    EstimationOptions,
    MeasureOptions,
    OutputOptions,
    ProcessOptions,
    TrainingOptions,
    measure,
    prepare_measure,
)
from entropix.studies.baselines import measure_gaussians
from entropix.studies.data import prepare_data
from entropix.studies.findings import data_findings, looks_gaussian
from entropix.studies.training import make_process


N = 1000
PROCESS = make_process(ProcessOptions())


def mixture(n=N, seed=0):
    """Four Gaussians on a square: far from a Gaussian."""
    rng = np.random.default_rng(seed)
    return 2.0 * rng.integers(0, 2, (n, 2)) + 0.2 * rng.normal(size=(n, 2))


def gaussian(n=N, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, 2))
    return x @ [[1.0, 0.8], [0.0, 0.6]]


def with_levels():
    points = mixture()
    points[:, 1] = np.round(points[:, 1])
    return points


def heavy():
    x = np.random.default_rng(0).standard_t(2, size=(N, 2))
    return x @ [[1.0, 0.5], [0.0, 0.5]]


def copies(leaked):
    """Copies of training rows: in the held-out part, or in the training part alone."""
    points = mixture()
    held_out, train = prepare_data(dataset(points), DataOptions()).order
    points[held_out[:50] if leaked else train[:50]] = points[train[50:100]]
    return points


def dataset(points, kind="table"):
    return Dataset.from_array(points.astype(np.float32), name="case", kind=kind)


def found(points, kind="table", **options):
    data = prepare_data(dataset(points, kind), DataOptions(**options))
    return list(data_findings(data, PROCESS))


# ------------------------------------------------------------------ from the data alone


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (mixture(), []),
        (gaussian(), []),
        (with_levels(), ["discrete"]),
        (heavy(), ["heavy tails"]),
        (copies(leaked=True), ["leaked", "duplicates"]),
        (copies(leaked=False), ["duplicates"]),
        (mixture(60), ["few rows"]),
        (np.random.default_rng(0).normal(size=(160, 80)), ["few rows"]),
    ],
)
def test_the_data_alone_tell(points, expected):
    assert found(points) == expected


def test_units_are_those_of_the_model():
    unequal = mixture() * [1.0, 1000.0]
    assert found(unequal) == []  # each column is standardised
    assert found(unequal, standardise="global") == ["units"]
    assert found(unequal, kind="points") == ["units"]
    assert found(1000 + mixture(), standardise="none") == ["units"]
    images = np.random.default_rng(0).uniform(size=(200, 64))
    images[::3] *= 255
    pictures = images.reshape(200, 8, 8)
    assert found(pictures, kind="image") == ["units"]


def test_pixels_of_few_values_are_discrete_without_their_levels():
    images = np.random.default_rng(0).integers(0, 16, (200, 8, 8))
    assert found(images / 15, kind="image") == ["discrete"]
    data = prepare_data(Dataset.from_array(images, name="case", kind="image"), DataOptions())
    assert data_findings(data, PROCESS) == {}


@pytest.mark.parametrize("dim", [1, 2, 10])
def test_mardias_tests_accept_gaussians_alone(dim):
    rng = np.random.default_rng(dim)
    rates = [looks_gaussian(rng.normal(size=(500, dim))) for _ in range(20)]
    assert np.mean(rates) > 0.9
    assert not looks_gaussian(rng.exponential(size=(500, dim)))
    assert not looks_gaussian(rng.uniform(size=(500, dim)))
    assert not looks_gaussian(rng.normal(size=(9 * dim, dim)))


# ------------------------------------------------------------------ Gaussian baselines


def test_gaussians_are_those_of_the_training_data():
    from scipy import stats

    data = prepare_data(dataset(gaussian()), DataOptions())
    found = measure_gaussians(data, len(data.held_out))
    held_out, train = (data.original.points[i].astype(float) for i in data.order)
    covariance = np.cov(train, rowvar=False)
    for name, of in {"gaussian": covariance, "diagonal": np.diag(np.diag(covariance))}.items():
        expected = stats.multivariate_normal(train.mean(axis=0), of).logpdf(held_out)
        np.testing.assert_allclose(found[f"log_prob_{name}"], expected, rtol=1e-4, atol=1e-4)
        mean, stderr = -expected.mean(), expected.std(ddof=1) / np.sqrt(len(expected))
        np.testing.assert_allclose(found[f"negative_log_likelihood_{name}"], mean, rtol=1e-4)
        error = found[f"negative_log_likelihood_{name}_stderr"]
        np.testing.assert_allclose(error, stderr, rtol=1e-3)
    assert "bits_per_dim_gaussian" not in found


def test_a_gaussian_without_a_density_is_left_out():
    points = np.random.default_rng(0).normal(size=(50, 60))
    data = prepare_data(dataset(points), DataOptions())
    found = measure_gaussians(data, 10)
    assert "log_prob_gaussian" not in found
    assert np.isfinite(found["log_prob_diagonal"]).all()


# ------------------------------------------------------------------ the whole sentence

TRAINING = TrainingOptions(
    steps=1500, patience=0, batch_size=128, widths=(64, 64), learning_rate=3e-3
)
EFFORT = EstimationOptions(evaluations=1024, density_evaluations=64, samples=200, sampling_steps=8)


def options(out, training=None, **data):
    return MeasureOptions(
        data=DataOptions(**data),
        training=dataclasses.replace(TRAINING, **(training or {})),
        estimation=EFFORT,
        output=OutputOptions(out=str(out), quiet=True, plots=False),
    )


@pytest.mark.slow(reason="trains nine networks")
@pytest.mark.parametrize(
    ("points", "request_", "expected"),
    [
        (mixture(), {}, "fine"),
        (mixture(), {"training": {"steps": 100, "learning_rate": 3e-4}}, "undertrained"),
        (
            np.random.default_rng(0).normal(size=(150, 4)),
            {"training": {"steps": 2000, "batch_size": 120, "widths": (128, 128)}},
            "overfitted",
        ),
        (gaussian(), {}, "gaussian"),
        (with_levels(), {}, "discrete"),
        (heavy(), {}, "heavy tails"),
        (copies(leaked=False), {}, "duplicates"),
        (copies(leaked=True), {}, "leaked"),
        (mixture() * [1.0, 1000.0], {"standardise": "global"}, "units"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nine_cases(points, request_, expected, tmp_path):
    request = options(tmp_path / "out", **request_)
    record = measure(dataset(points), request)
    assert json.loads(record.attrs["verdict"])[0] == expected, record.attrs["verdict_text"]
    report = (tmp_path / "out" / "report.md").read_text()
    assert f"**Verdict:** {record.attrs['verdict_text']}." in report
    assert "Gaussian with full covariance" in report


def test_few_held_out_samples_do_not_decide():
    """Better on training data, by less than three standard errors on held-out data."""
    import xarray

    from entropix.studies.verdict import verdict

    rng = np.random.default_rng(0)

    def record(held_out, train, gaussian_data=0, data_findings="{}"):
        differences = {"": rng.normal(size=16), "_train": rng.normal(size=400)}
        variables = {"negative_log_likelihood_gaussian": ((), 0.0)}
        for part, values in differences.items():
            values = (values - values.mean()) / values.std(ddof=1) + (train if part else held_out)
            variables[f"log_prob{part}"] = (("seed", f"n{part}"), values[None])
            variables[f"log_prob_gaussian{part}"] = (f"n{part}", np.zeros(len(values)))
        attributes = {"data_findings": data_findings, "gaussian_data": gaussian_data}
        return xarray.Dataset(variables, attrs=attributes)

    (name, text), *_ = verdict(record(0.5, 0.5)).items()
    assert name == "undecided"
    assert "16 held-out samples" in text
    assert list(verdict(record(0.5, 0.01))) == ["gaussian"]
    assert list(verdict(record(0.5, 0.5, gaussian_data=1))) == ["gaussian"]
    assert list(verdict(record(5.0, 5.0))) == ["fine"]
    # What the data alone tell comes first.
    few = '{"few rows": "few"}'
    assert list(verdict(record(0.5, 0.01, data_findings=few))) == ["few rows", "gaussian"]
    assert list(verdict(record(5.0, 5.0, data_findings=few))) == ["few rows"]


# ------------------------------------------------------------------ patience


def test_options_that_are_not_given_follow_the_data(tmp_path):
    def settings(points, kind="table", **training):
        request = options(tmp_path / "out")
        request = dataclasses.replace(request, training=TrainingOptions(**training))
        study = prepare_measure(
            dataset(points, kind),
            dataclasses.replace(
                request, output=OutputOptions(str(tmp_path / "o"), overwrite=True, quiet=True)
            ),
        )
        return study.settings

    small = settings(mixture(150))
    assert (small.network, small.widths, small.batch_size) == ("mlp", (64, 64), 120)
    assert (small.steps, small.patience) == (1500, 375)
    assert settings(mixture(8192)).widths == (256, 256)
    assert settings(mixture(8192), size="large").widths == (512, 512, 512)
    images = np.random.default_rng(0).uniform(size=(100, 14, 14))
    assert settings(images, "image").network == "unet"
    assert settings(images[:, :12], "image").network == "mlp"
    assert settings(images, "image", network="mlp", widths=(8,)).widths == (8,)
    with pytest.raises(ValueError, match="`network` must be mlp"):
        settings(mixture(), network="unet")
    with pytest.raises(ValueError, match="`size` must be omitted"):
        settings(mixture(), size="small", widths=(8,))


# ------------------------------------------------------------------ tables


def test_a_table_marks_what_cannot_be_and_prints_exact_values_plainly():
    import xarray

    from entropix.studies.report import results_tables

    nats = {"units": "nats"}
    record = xarray.Dataset(
        {
            "information": ("seed", [1.31], nats),
            "information_stderr": ("seed", [0.05], nats),
            "entropy": ((), np.log(3), nats),
            "entropy_stderr": ((), 1.8e-17, nats),
        },
        coords={"seed": [0]},
    )
    labels = {"information": "I", "entropy": "H"}
    limits = {"information": (np.log(3), "{} = H, clipped; estimate {}")}
    (table,) = results_tables(record, labels, {}, limits)
    assert table.rows[1] == ["I", "1.099 = H, clipped; estimate 1.310 ± 0.050", "nats"]
    assert table.rows[2] == ["H", "1.0986", "nats"]
    (table,) = results_tables(record, labels, {}, {"information": (2.0, "{}, {}")})
    assert table.rows[1] == ["I", "1.310 ± 0.050", "nats"]

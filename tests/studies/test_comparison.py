"""Two data sets compared, small: what is recorded, and that it is right."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

import entropix as ex
from entropix.datasets import Dataset
from entropix.studies import (
    PAIR_SCHEMA,
    DivergenceOptions,
    InformationOptions,
    OutputOptions,
    TrainingOptions,
    information,
)
from entropix.studies.comparison import information_report
from entropix.studies.data import prepare_pair
from entropix.studies.options import ConditionOptions, DataOptions, LabelOptions
from entropix.studies.record import definition


N = 2000
FIRST = ex.Gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
SECOND = ex.Gaussian([0.6, 0.0], [[1.44, 0.3], [0.3, 0.64]])


def dataset(distribution, name, seed, **options):
    points = np.asarray(distribution.sample(N, key=jax.random.key(seed)))
    return Dataset(points, name, kind="points", distribution=distribution, **options)


def options(out, **training):
    chosen = TrainingOptions(
        steps=1500, batch_size=128, widths=(64,), learning_rate=1e-2, patience=0
    )
    return InformationOptions(
        training=dataclasses.replace(chosen, **training),
        estimation=DivergenceOptions(evaluations=8192, samples=100),
        output=OutputOptions(out=str(out), quiet=True, resume=True),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("comparison") / "out"


@pytest.fixture(scope="module")
def record(folder):
    """Two seeds, on sets whose truth is known, as read back from the file."""
    information(dataset(FIRST, "a", 0), dataset(SECOND, "b", 1), options(folder, seeds=2))
    with xarray.open_dataset(folder / "results.nc", engine="h5netcdf") as record:
        yield record.load()


def gaussian_kl(p, q):
    inverse = np.linalg.inv(q.covariance)
    shift = np.asarray(q.mean - p.mean)
    ratio = np.linalg.slogdet(q.covariance)[1] - np.linalg.slogdet(p.covariance)[1]
    return (np.trace(inverse @ p.covariance) + shift @ inverse @ shift - len(shift) + ratio) / 2


@pytest.mark.slow
def test_the_record_is_its_schema(record):
    assert {name for name in record.data_vars if not str(name).endswith("_stderr")} == set(
        PAIR_SCHEMA
    )
    for name, variable in record.data_vars.items():
        dims, unit, meaning = definition(PAIR_SCHEMA, name)
        assert variable.dims == dims
        assert variable.attrs == {"units": unit, "long_name": meaning}
        assert np.isfinite(variable).all() or name == "log_snr"


@pytest.mark.slow
def test_everything_is_written(record, folder):
    assert {p.name for p in folder.iterdir()} - {".lock"} == {
        *("results.nc", "report.md", "configuration.json", "training.ckpt"),
        *("divergence.png", "loss.png", "model-0.eqx", "model-1.eqx"),
    }
    report = (folder / "report.md").read_text()
    for text in (
        "KL(a \\|\\| b), from denoising errors",
        "exact KL(b",
        "(divergence.png)",
        "| 1 |",
    ):
        assert text in report
    model = ex.load(folder / "model-1.eqx")
    field = model.entropy_field(0.5, jnp.zeros(2), jnp.ones(1))
    assert field.shape == (2,)


@pytest.mark.parametrize(
    ("name", "exact"),
    [("kl", gaussian_kl(FIRST, SECOND)), ("kl_reverse", gaussian_kl(SECOND, FIRST))],
)
@pytest.mark.slow
def test_kl_of_gaussians(record, name, exact):
    error = np.abs(record[f"{name}_exact"] - exact)
    assert error < 4 * record[f"{name}_exact_stderr"]
    for form in ("", "_score"):
        value, stderr = record[f"{name}{form}"], record[f"{name}{form}_stderr"]
        assert (np.abs(value - exact) < 4 * stderr + 0.15 * exact).all()
        assert (stderr < 0.25 * exact).all()


@pytest.mark.parametrize("name", ["kl", "kl_reverse"])
@pytest.mark.slow
def test_rates_add_up(record, name):
    log_snr = record["log_snr"].values
    inside = np.isfinite(log_snr)
    for variable, total in (
        (f"{name}_rate_log_snr", name),
        (f"{name}_score_rate_log_snr", f"{name}_score"),
        (f"{name}_exact_rate_log_snr", f"{name}_exact"),
    ):
        integral = np.trapezoid(record[variable].values[..., inside], -log_snr[inside], axis=-1)
        error = 4 * record[f"{name}_exact_stderr"].values
        np.testing.assert_allclose(integral, record[total], rtol=0.02, atol=error)


@pytest.mark.slow
def test_w2_exceeds_that_of_equal_sets(record):
    w2 = float(record["wasserstein2"])
    for name in ("first", "second"):
        null = float(record[f"wasserstein2_null_{name}"])
        assert w2 > null + 4 * float(record[f"wasserstein2_null_{name}_stderr"])
    exact = ex.bures_wasserstein(FIRST.mean, FIRST.covariance, SECOND.mean, SECOND.covariance)
    assert abs(w2 - float(exact)) < 4 * float(record["wasserstein2_stderr"]) + 0.1
    assert int(record["wasserstein2_count"]) == 100


@pytest.mark.slow
def test_a_finished_comparison_can_be_measured_again(record, folder):
    again = information(dataset(FIRST, "a", 0), dataset(SECOND, "b", 1), options(folder, seeds=2))
    for name in record.data_vars:
        np.testing.assert_array_equal(again[name], record[name])
    with pytest.raises(ValueError, match="`data_fingerprint` must be"):
        information(dataset(FIRST, "a", 2), dataset(SECOND, "b", 1), options(folder, seeds=2))


@pytest.mark.slow
def test_a_kl_that_samples_cannot_confirm_is_reported(record):
    assert "barely overlap" not in information_report(record).text()
    far = record.copy(deep=True)
    far["kl_score"][:] = 40.0
    assert (
        "1600 samples of b cannot confirm a KL above ln 1600 = 7.4"
        in information_report(far).text()
    )


def test_a_pair_shares_its_coordinates():
    """By the moments of both, each with half of the weight, however many samples it has."""
    rng = np.random.default_rng(0)
    small = Dataset.from_array(rng.normal([0.0, 5.0], size=(100, 2)))
    large = Dataset.from_array(rng.normal([4.0, 5.0], size=(4000, 2)))
    pair = prepare_pair(small, large, DataOptions())
    assert pair[0].standardisation is pair[1].standardisation
    assert pair[0].standardisation.name == "per-feature"
    np.testing.assert_allclose(pair[0].standardisation.mean, [2.0, 5.0], atol=0.3)
    np.testing.assert_allclose(pair[0].standardisation.std, [np.sqrt(5), 1.0], atol=0.2)
    drawn = prepare_pair("mixture2", "mixture2", DataOptions(num_samples=50))
    assert not np.isin(drawn[0].train, drawn[1].train).any()


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (Dataset.from_array(np.random.default_rng(0).normal(size=(9, 3))), "the same shape"),
        (
            Dataset.from_array(np.random.default_rng(0).normal(size=(9, 2)), columns=("x", "y")),
            "the same columns",
        ),
    ],
)
def test_a_pair_needs_the_same_coordinates(other, says):
    first = Dataset.from_array(np.random.default_rng(1).normal(size=(9, 2)))
    with pytest.raises(ValueError, match=says):
        prepare_pair(first, other, DataOptions())


LABELLED = ConditionOptions(condition="labels")


def labelled(labels, shift=0.0, seed=0, name="case"):
    """Two classes, around 2 and -2 times a constant, shifted together."""
    labels = np.asarray(labels)
    noise = np.random.default_rng(seed).normal(size=(len(labels), 1))
    points = noise + 2.0 * np.where(labels == labels[0], 1.0, -1.0)[:, None] + shift
    return Dataset(points.astype(np.float32), name, kind="points", labels=labels)


def test_a_pair_has_common_labels():
    first, second = labelled(["a", "b"] * 20), labelled(["a", "a", "b"] * 10, seed=1)
    pair = prepare_pair(first, second, DataOptions(), LABELLED)
    for data, dataset in zip(pair, (first, second), strict=True):
        np.testing.assert_array_equal(data.condition.values[:, 0], dataset.labels == "a")
    numbers = [labelled(np.linspace(0, scale, 50)) for scale in (1.0, 3.0)]
    values = [data.condition.values for data in prepare_pair(*numbers, DataOptions(), LABELLED)]
    np.testing.assert_allclose(np.concatenate(values).std(), 1.0, rtol=1e-5)
    assert values[1].max() > 2 * values[0].max()


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (
            ["a", "c"] * 20,
            "`condition` must hold classes that occur in both .* 'c', which 'case'",
        ),
        ([1.0, 2.0] * 20, "`condition` must be text or a number in both"),
    ],
)
def test_labels_of_one_set_only_are_refused(labels, says):
    with pytest.raises(ValueError, match=says):
        prepare_pair(labelled(["a", "b"] * 20), labelled(labels), DataOptions(), LABELLED)


def test_a_file_of_labels_is_of_one_set(tmp_path):
    np.save(tmp_path / "labels.npy", [0, 1] * 20)
    condition = ConditionOptions(condition=str(tmp_path / "labels.npy"))
    with pytest.raises(ValueError, match="`condition` must be 'labels' or the name of a column"):
        prepare_pair(labelled([0, 1] * 20), labelled([0, 1] * 20), DataOptions(), condition)


@pytest.mark.slow(reason="trains a network")
def test_kl_of_densities_given_the_label(tmp_path):
    """Equal shifts in both classes: KL = 1/2 for unit shifts, whatever the share of the classes.

    Without labels it is another number, because the shares differ.
    """
    first = labelled(["a", "b"] * 1000, name="first")
    second = labelled(["a", "a", "a", "b"] * 500, shift=1.0, seed=1, name="second")
    asked = options(tmp_path / "out")
    asked = dataclasses.replace(asked, condition=LabelOptions(condition="labels"))
    record = information(first, second, asked)
    for name in ("kl", "kl_reverse"):
        error = float(record[f"{name}_stderr"].mean())
        assert abs(float(record[name].mean()) - 0.5) < 4 * error + 0.05
    assert "Labels: labels, 2 classes" in (tmp_path / "out" / "report.md").read_text()

import jax
import numpy as np
import pytest

import entropix as ex
from entropix.datasets import Dataset
from entropix.studies import (
    ConditionOptions,
    DataOptions,
    InformationOptions,
    LabelOptions,
    MeasureOptions,
    MutualInformationOptions,
    prepare_mutual_information,
)
from entropix.studies.comparison import prepare_information
from entropix.studies.data import prepare_data
from entropix.studies.measurement import prepare_measure
from entropix.studies.options import PairOptions
from entropix.studies.schedule import ScheduleOptions, prepare_schedule
from entropix.studies.storage import StorageOptions, prepare_storage


def table(n=100):
    rng = np.random.default_rng(0)
    return Dataset.from_array(rng.normal(3.0, [1.0, 20.0, 0.1], size=(n, 3)))


def test_split_is_a_partition():
    source = table()
    data = prepare_data(source, DataOptions(held_out=0.25, standardise="none"))
    assert data.held_out.shape == (25, 3)
    together = np.concatenate([data.train, data.held_out])
    np.testing.assert_array_equal(
        np.sort(together[:, 0]), np.sort(source.points[:, 0].astype(together.dtype))
    )


def test_data_follow_their_seed_and_nothing_else():
    first, again, other = (
        prepare_data("mixture2", DataOptions(num_samples=50, data_seed=s)) for s in (0, 0, 1)
    )
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_tables_are_standardised_per_feature_by_the_training_part():
    data = prepare_data(table(), DataOptions())
    assert data.standardisation.name == "per-feature"
    np.testing.assert_allclose(data.train.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(data.train.std(axis=0), 1, rtol=1e-5)
    assert abs(data.held_out.mean()) > 1e-4


def test_levels_get_noise_and_several_draws_of_it():
    images = np.random.default_rng(0).integers(0, 5, size=(40, 4, 4))
    source = Dataset.from_array(images)
    data = prepare_data(source, DataOptions())
    assert data.dequantised
    assert data.noise_draws > 1
    assert len(data.augmented) == data.noise_draws * len(data.train)
    values = np.asarray(data.standardisation.inverse(data.augmented))
    assert values.min() > -1e-3
    assert values.max() < 5 + 1e-3
    draws = values.reshape(data.noise_draws, len(data.train), -1)
    assert np.ptp(draws, axis=0).max() < 1 + 1e-3  # the noise is one level wide
    assert np.ptp(draws, axis=0).min() > 0
    bare = prepare_data(source, DataOptions(dequantise=False))
    assert not bare.dequantised
    assert bare.noise_draws == 1


@pytest.mark.parametrize("name", ["mixture2", "gaussian"])
@pytest.mark.parametrize("mode", ["none", "feature", "global"])
def test_the_truth_follows_the_data_into_other_coordinates(name, mode):
    data = prepare_data(name, DataOptions(num_samples=200, standardise=mode))
    assert data.distribution is not None
    original = data.dataset.distribution.log_prob(data.standardisation.inverse(data.held_out))
    moved = data.distribution.log_prob(jax.numpy.asarray(data.held_out)) + data.log_jacobian(
        data.held_out
    )
    np.testing.assert_allclose(moved, original, atol=1e-4)


def test_known_truth_keeps_its_units():
    data = prepare_data("mixture2", DataOptions(num_samples=50))
    assert data.standardisation.name == "identity"
    assert isinstance(data.distribution, ex.GaussianMixture)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, 0.999])
def test_a_split_needs_two_samples_on_either_side(fraction):
    with pytest.raises(ValueError, match="`held_out` must"):
        prepare_data(table(), DataOptions(held_out=fraction))


def test_seed_must_make_a_key():
    with pytest.raises(ValueError, match="`data_seed` must"):
        prepare_data(table(), DataOptions(data_seed=-1))


STUDIES = [
    (prepare_measure, MeasureOptions, ConditionOptions),
    (prepare_storage, StorageOptions, LabelOptions),
    (
        lambda source, options: prepare_information(source, source, options),
        InformationOptions,
        LabelOptions,
    ),
    (prepare_schedule, ScheduleOptions, None),
]


@pytest.mark.parametrize(("prepare", "options", "of_labels"), STUDIES)
def test_options_of_reading_are_refused_for_a_data_set(
    prepare, options, of_labels, tmp_path, monkeypatch
):
    """It has been read: they would have no effect, and other labels than its own neither."""
    monkeypatch.chdir(tmp_path)
    source = Dataset.from_array(table().points, columns=tuple("abc"), labels=np.arange(100) % 2)
    for name, value in {"drop": ("a",), "num_samples": 50, "drop_repeated": True}.items():
        with pytest.raises(ValueError, match=f"`{name}` must be left out for a data set"):
            prepare(source, options(data=DataOptions(**{name: value})))
    np.save("other.npy", np.arange(100) % 5)
    for name in ("other.npy", "a") if of_labels else ():
        with pytest.raises(ValueError, match="`condition` must be 'labels'"):
            prepare(source, options(condition=of_labels(condition=name)))
    assert list(tmp_path.iterdir()) == [tmp_path / "other.npy"]


@pytest.mark.parametrize(("name", "value"), [("drop", ("a",)), ("condition", "a")])
def test_options_of_reading_are_refused_for_pairs_too(name, value):
    source = Dataset.from_array(table().points, columns=tuple("abc"), labels=np.arange(100) % 2)
    asked = MutualInformationOptions(PairOptions(**{name: value}))
    with pytest.raises(ValueError, match=f"`{name}` must be .* for a data set"):
        prepare_mutual_information(source, None, asked)

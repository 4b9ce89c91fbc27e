"""From labels to conditions: which kind they are, and what is refused."""

import numpy as np
import pytest

from entropix.datasets import Dataset
from entropix.studies import ConditionOptions, DataOptions
from entropix.studies.data import prepare_data
from entropix.studies.labels import make_condition


N = 60
RNG = np.random.default_rng(0)
LABELS = {
    "text": np.array(["cat", "dog"])[np.arange(N) % 2],
    "integers": np.arange(N) % 7 - 3,
    "few floats": (np.arange(N) % 3) / 2,
    "many integers": np.arange(N) ** 2,
    "floats": RNG.normal(size=N),
}


def condition(labels, **options):
    return make_condition(labels, ConditionOptions(**({"condition": "labels"} | options)), 0)


@pytest.mark.parametrize(("name", "classes"), [("text", 2), ("integers", 7), ("few floats", 3)])
def test_few_values_are_classes(name, classes):
    made = condition(LABELS[name])
    assert made.values.shape == (N, classes)
    np.testing.assert_array_equal(made.values.sum(axis=1), 1)
    order = np.unique(LABELS[name])
    np.testing.assert_array_equal(order[made.values.argmax(axis=1)], LABELS[name])
    assert "chosen" in made.text


@pytest.mark.parametrize("name", ["many integers", "floats"])
def test_many_values_are_a_number(name):
    made = condition(LABELS[name])
    assert made.values.shape == (N, 1)
    assert abs(made.values.mean()) < 1e-6
    assert made.values.std() == pytest.approx(1, rel=1e-6)
    assert made.entropy is None


def test_the_kind_can_be_forced():
    assert condition(LABELS["integers"], condition_kind="continuous").dim == 1
    halves = np.arange(N) // 2 * 1.5
    assert condition(halves).dim == 1
    forced = condition(halves, condition_kind="discrete")
    assert forced.dim == N // 2
    assert "as requested" in forced.text


def test_entropy_of_labels():
    made = condition(np.repeat([0, 1], [45, 15]))
    share = np.array([0.75, 0.25])
    mean = -(share * np.log(share)).sum()
    assert made.entropy[0] == pytest.approx(mean)
    assert made.entropy[1] == pytest.approx(np.sqrt(share @ (np.log(share) + mean) ** 2 / N))


def test_shuffling_keeps_the_labels_and_breaks_the_pairs():
    plain, mixed = (condition(LABELS["integers"], shuffle_labels=s) for s in (False, True))
    np.testing.assert_array_equal(plain.values.sum(axis=0), mixed.values.sum(axis=0))
    assert (plain.values.argmax(axis=1) == mixed.values.argmax(axis=1)).mean() < 0.5
    assert plain.entropy == mixed.entropy
    assert "control" in mixed.text


@pytest.mark.parametrize(
    ("labels", "options", "says"),
    [
        (None, {}, "a file of labels for data that carry none"),
        (np.zeros(N), {}, "labels that differ, got 60 times 0.0"),
        (np.array(["a"] * N), {}, "labels that differ"),
        (np.where(np.arange(N) == 4, np.nan, np.arange(N)), {}, "1 NaN or infinite of 60"),
        (np.arange(N).astype(str), {}, "two samples per class"),
        (LABELS["floats"], {"condition_kind": "discrete"}, "two samples per class"),
        (LABELS["text"], {"condition_kind": "continuous"}, "`condition_kind` must be 'discrete'"),
        (LABELS["text"], {"condition_dropout": 1.0}, "`condition_dropout` must be between"),
        (None, {"condition": None, "shuffle_labels": True}, "`shuffle_labels` must be left out"),
        (np.arange(N) * 1j, {}, "numbers or text"),
    ],
)
def test_bad_labels(labels, options, says):
    with pytest.raises(ValueError, match=says):
        condition(labels, **options)


def test_conditions_stay_with_their_samples():
    """Also through the noise draws of integer levels."""
    images = np.stack([np.full((2, 2), i % 5) for i in range(N)])
    images[:, 0, 0] = 0
    source = Dataset.from_array(images, labels=np.arange(N) % 5)
    data = prepare_data(source, DataOptions(), ConditionOptions(condition="labels"))
    assert data.noise_draws > 1
    for points, given in (
        (data.augmented, data.condition_augmented),
        (data.held_out, data.condition_held_out),
    ):
        levels = np.asarray(data.standardisation.inverse(points))[:, 3]
        assert (abs(levels - given.argmax(axis=1) - 0.5) < 0.501).all()
    other = prepare_data(source, DataOptions())
    assert other.fingerprint != data.fingerprint
    np.testing.assert_array_equal(other.held_out, data.held_out)

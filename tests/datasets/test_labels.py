"""Labels of every origin, and that what holds them is no part of the samples."""

import jax
import numpy as np
import pytest

import entropix as ex
from entropix.datasets import Dataset, load
from entropix.studies import ConditionOptions, DataOptions
from entropix.studies.data import prepare_data


N = 12
POINTS = np.random.default_rng(0).normal(size=(N, 3))
NUMBERS = np.arange(N) % 3
WORDS = np.array(["cat", "dog", "eel"])[NUMBERS]


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_table(name, labels):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(POINTS, columns=["a", "b", "c"])
    frame.insert(1, "kind", labels)
    if name.endswith(".csv"):
        frame.to_csv(name, index=False)
    else:
        frame.to_parquet(name)


@pytest.mark.parametrize("labels", [NUMBERS, WORDS], ids=["numbers", "text"])
@pytest.mark.parametrize("name", ["data.csv", "data.parquet"])
def test_a_column_of_a_table(name, labels):
    write_table(name, labels)
    data = load(name, labels="kind")
    assert data.columns == ("a", "b", "c")
    np.testing.assert_allclose(data.points, POINTS)
    assert data.labels.tolist() == labels.tolist()
    with pytest.raises(ValueError, match="'kind', 'b', 'c'; or a file that exists; got 'x'"):
        load(name, labels="x")


def test_a_column_of_a_table_without_a_header():
    np.savetxt("data.csv", np.column_stack([POINTS, NUMBERS]), delimiter=",")
    data = load("data.csv", labels="3")
    assert data.dim == 3
    np.testing.assert_array_equal(data.labels, NUMBERS)


def test_a_missing_label_in_a_table():
    write_table("data.csv", [None, *NUMBERS[1:]])
    with pytest.raises(
        ValueError, match="a label for every sample, got 1 missing in column 'kind'"
    ):
        load("data.csv", labels="kind")


def test_an_array_of_an_npz_file():
    np.savez("data.npz", x=POINTS, y=WORDS)
    data = load("data.npz", labels="y")
    np.testing.assert_array_equal(data.labels, WORDS)
    assert data.dim == 3
    with pytest.raises(ValueError, match=r"`labels` must name one array .* got 'z'"):
        load("data.npz", labels="z")
    np.savez("more.npz", x=POINTS, y=WORDS, z=POINTS)
    with pytest.raises(ValueError, match="`array` must name one array"):
        load("more.npz", labels="y")
    assert load("more.npz", array="z", labels="y").labels is not None


@pytest.mark.parametrize("labels", [NUMBERS, WORDS, NUMBERS[:, None]], ids=["n", "text", "column"])
def test_a_file_of_labels(labels):
    np.save("data.npy", POINTS)
    np.save("labels.npy", labels)
    given = load("data.npy", labels="labels.npy").labels
    np.testing.assert_array_equal(given, labels.reshape(-1))
    np.save("labels.npy", labels[1:])
    with pytest.raises(ValueError, match="`labels` must have shape"):
        load("data.npy", labels="labels.npy")


def test_labels_that_data_carry_or_not():
    np.save("data.npy", POINTS)
    with pytest.raises(ValueError, match=r"`labels` must be a file that exists .* got 'labels'"):
        load("data.npy", labels="labels")
    with pytest.raises(ValueError, match="`labels` must be 'labels' or a file that exists"):
        load("digits", labels="kind")
    assert set(load("digits", labels="labels").labels) == set(range(10))


@pytest.mark.parametrize("name", ["mixture2", "eight-gaussians"])
def test_mixtures_are_labelled_by_component(name):
    """Samples of one component have its mean; the samples are those without labels."""
    data = load(name, num_samples=2000, key=jax.random.key(0), labels="labels")
    mixture = data.distribution
    assert isinstance(mixture, ex.GaussianMixture)
    np.testing.assert_array_equal(data.points, mixture.sample(2000, key=jax.random.key(0)))
    z = (data.points - np.asarray(mixture.means)[data.labels]) / np.asarray(mixture.stds)[
        data.labels
    ]
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / z.size)
    assert isinstance(data, Dataset)


NA = ["NA", "x", "None", "null"] * 3


def test_na_is_a_label_if_the_user_says_so():
    """The code of Namibia, say. An empty field is a missing label all the same."""
    write_table("data.csv", NA)
    with pytest.raises(ValueError, match="got 9 missing in column 'kind': keep_na=True"):
        load("data.csv", labels="kind")
    data = load("data.csv", labels="kind", keep_na=True)
    assert data.labels.tolist() == NA
    np.testing.assert_allclose(data.points, POINTS)
    write_table("data.csv", ["", *NA[1:]])
    with pytest.raises(ValueError, match="got 1 missing in column 'kind'"):
        load("data.csv", labels="kind", keep_na=True)
    write_table("data.csv", NUMBERS)
    assert load("data.csv", labels="kind", keep_na=True).labels.tolist() == NUMBERS.tolist()

    options = ConditionOptions(condition="kind", keep_na=True)
    write_table("data.csv", NA)
    condition = prepare_data("data.csv", DataOptions(held_out=0.5), options).condition
    assert condition is not None
    assert condition.dim == 4
    write_table("data.csv", NUMBERS)
    with pytest.raises(ValueError, match="`keep_na` must be left out without `condition`"):
        prepare_data("data.csv", DataOptions(), ConditionOptions(keep_na=True))


def test_na_in_the_data_is_missing_whatever_the_labels_are():
    write_table("data.csv", NA)
    with open("data.csv") as file:
        text = file.read()
    with open("data.csv", "w") as file:
        file.write(text.replace(str(POINTS[3, 0]), "NA"))
    with pytest.raises(ValueError, match="1 NaN or missing of 36, the first in sample 3"):
        load("data.csv", labels="kind", keep_na=True)


@pytest.mark.parametrize("index", [True, False])
def test_a_table_of_labels(index):
    pandas = pytest.importorskip("pandas")
    np.save("data.npy", POINTS)
    for labels in (NUMBERS.tolist(), WORDS.tolist(), NA):
        pandas.DataFrame({"kind": labels}).to_csv("labels.csv", index=index)
        given = load("data.npy", labels="labels.csv", keep_na=True).labels
        assert given.tolist() == labels
        pandas.DataFrame({"kind": labels}).to_parquet("labels.parquet")
        assert load("data.npy", labels="labels.parquet").labels.tolist() == labels
    with pytest.raises(ValueError, match="a label for every sample, got 9 missing"):
        load("data.npy", labels="labels.csv")
    write_table("labels.csv", WORDS)
    with pytest.raises(ValueError, match="must hold one column of labels, got 4 columns"):
        load("data.npy", labels="labels.csv")

"""Transport: the triangle inequality and its error, the mixtures, and what is refused."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from entropix.cli import main
from entropix.interfaces import Estimate
from entropix.studies.transport.measurement import gap
from entropix.studies.transport.mixtures import choose_mixtures, drawn_mixture, read_mixtures
from tests.helpers import paper_mixture


def estimate(value, error=0.0):
    """One number for each of several seeds."""
    value = jnp.atleast_1d(jnp.asarray(value))
    return Estimate(value, jnp.full_like(value, 10 * error), jnp.full_like(value, error))


@pytest.mark.parametrize("c", [0.0, 0.5, 1.0, 1.5])
def test_fields_in_proportion_leave_no_gap(x64, c):
    """e = c e*: S_NN = c^2 S_tot, L = (1 - c)^2 S_tot."""
    total = 7.0
    value, _ = gap(estimate(c**2 * total), estimate(total), estimate((1 - c) ** 2 * total))
    np.testing.assert_allclose(value, 0.0, atol=1e-7)


def test_the_error_of_a_gap_is_honest(x64):
    rng = np.random.default_rng(0)
    truth, errors = np.array([200.0, 220.0, 3.0]), np.array([0.3, 0.2, 0.1])
    draws = truth + errors * rng.normal(size=(2000, 3))
    values, reported = gap(*(estimate(draws[:, i], errors[i]) for i in range(3)))
    exact = np.sqrt(3.0) - (np.sqrt(220.0) - np.sqrt(200.0))
    assert 0.8 < values.std() / reported.mean() < 1.25
    assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(len(values))


def test_mixtures_are_embedded_or_drawn_or_read(tmp_path):
    found, sources = choose_mixtures((2, 6), None, 0, ())
    np.testing.assert_array_equal(found[2].means, paper_mixture(2).means)
    assert sources == {2: "paper", 6: "drawn with seed 0"}
    assert found[6].means.shape == (5, 6)
    np.testing.assert_array_equal(found[6].means, drawn_mixture(6, 0).means)
    assert not np.allclose(found[6].means, drawn_mixture(6, 1).means)

    file = tmp_path / "mixtures.json"
    given = {"weights": [1, 3], "means": [[0.0], [2.0]], "stds": [0.5, 1.0], "S_tot": 1.0}
    file.write_text(json.dumps({"about": "two", "1": given}))
    found, sources = choose_mixtures((), str(file), 0, (2, 3))
    assert list(found) == [1]
    np.testing.assert_allclose(found[1].weights, [0.25, 0.75], rtol=1e-6)
    np.testing.assert_array_equal(found[1].stds, [[0.5], [1.0]])
    with pytest.raises(ValueError, match=r"`dimensions` must be among those of .*, 1, got 3"):
        choose_mixtures((3,), str(file), 0, ())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "`mixtures` must be a JSON file"),
        ("[]", "under the name of each dimension"),
        ('{"2": {"weights": [1]}}', "`mixtures` must hold weights, means and stds of dimension 2"),
        ('{"2": {"weights": [1], "means": [[0]], "stds": [[1]]}}', "means of shape (K, 2)"),
        ('{"1": {"weights": [-1], "means": [[0]], "stds": [[1]]}}', "`weights` must be positive"),
    ],
)
def test_a_file_that_is_no_mixture_is_refused(tmp_path, content, says):
    file = tmp_path / "mixtures.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="`") as error:
        read_mixtures(str(file))
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--processes ve", "ve"),
        ("--processes", "`processes` must name"),
        ("--epochs 0", "`epochs` must be"),
        ("--dimensions 0", "`dimensions` must be"),
        ("--seeds 0", "`seeds` must be"),
        ("--num-samples 16", "`batch_size` must be at most `num_samples`"),
        ("--evaluations 10", "`evaluations` must be"),
        ("--learning-rate 0", "`learning_rate` must be positive"),
        ("--mixtures none.json", "none.json"),
        ("--resume --overwrite", "`overwrite` must not be given"),
    ],
)
def test_bad_requests_end_in_one_line(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["transport", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert says in err
    assert not list(pathlib.Path().iterdir())

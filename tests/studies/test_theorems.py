"""Theorems on records: which apply, by how much they hold, and how failures are reported."""

import json
import re

import numpy as np
import pytest
import xarray

from entropix.studies.report import Report, results_tables
from entropix.studies.theorems import (
    ERRORS,
    THEOREMS,
    TRIANGLE,
    contradictions,
    findings,
    with_theorems,
)


def record(attrs=None, **values):
    """Each value with its error, or several for several seeds."""
    variables = {}
    for name, value in values.items():
        value, error = value if isinstance(value, tuple) else (value, None)
        value = np.asarray(value, np.float32)
        kept = ("seed",)[: value.ndim]
        variables[name] = (kept, value, {"units": "nats"})
        if error is not None:
            full = np.broadcast_to(np.asarray(error, np.float32), value.shape)
            variables[f"{name}_stderr"] = (kept, full)
    size = next((v[1].shape[0] for v in variables.values() if v[1].ndim), 1)
    return xarray.Dataset(variables, coords={"seed": np.arange(size)}, attrs=attrs or {})


def slack(record, name):
    return next(f.slack.values for f in findings(record) if f.theorem.name == name)


def test_contradictions_of_an_undertrained_network_are_reported():
    """MNIST, as it was printed; the errors are combined: 2.198 of 0.1021."""
    of = record(
        transport_w2_lower=([28.792], 0.025),
        transport_length=([26.594], 0.099),
        transport_efficiency=([1.53], 0.01),
    )
    np.testing.assert_allclose(slack(of, "W2 ≤ length of the path"), [-21.52], atol=0.01)
    first, second = contradictions(of)
    assert first.startswith(
        "W2 ≤ length of the path fails by 21.5 standard errors, 28.792 ± 0.025 against "
        "26.594 ± 0.099: the field of the network is not that of the data"
    )
    assert "efficiency ≤ 1 fails by 53.0 standard errors" in second
    assert "W2 of few samples is biased upwards" in second
    tables = results_tables(of, {"transport_w2_lower": "W2, at least"}, {})
    report = Report(of.assign_attrs(command=""), "measure", [], tables, [], [])
    assert f"contradiction: {first}" in report.text()
    assert f"- **Contradiction:** {first}." in report.markdown({})
    written = with_theorems(of)
    assert json.loads(written.attrs["contradictions"]) == [first, second]
    assert written["theorem_slack"].dims == ("theorem", "seed")
    assert set(written["theorem"].values) == {"W2 ≤ length of the path", "efficiency ≤ 1"}


# Of each theorem: quantities that obey it by one combined standard error, and the side to enlarge.
CASES = {
    "0 ≤ S_NN": ({"neural_entropy": (1.0, 1.0)}, "neural_entropy", -1),
    "0 ≤ path KL": ({"path_kl": (1.0, 1.0)}, "path_kl", -1),
    "0 ≤ bits per dimension": ({"bits_per_dim": (1.0, 1.0)}, "bits_per_dim", -1),
    "bound on -log p ≤ -log of a Gaussian density": (
        {
            "negative_log_likelihood": (-15.0, 3.0),
            "negative_log_likelihood_gaussian": (-10.0, 4.0),
        },
        "negative_log_likelihood",
        1,
    ),
    "W2 ≤ length of the path": (
        {"transport_w2_lower": (15.0, 3.0), "transport_length": (20.0, 4.0)},
        "transport_w2_lower",
        1,
    ),
    "W2² ≤ S_NN x noise budget": (
        {
            "transport_w2_lower": (100.0, 1.5),
            "neural_entropy": (5250.0, 200.0),
            "transport_budget": 2.0,
        },
        "neural_entropy",
        -0.5,
    ),
    "efficiency ≤ 1": ({"transport_efficiency": (0.9, 0.1)}, "transport_efficiency", 1),
    "0 ≤ I(X; label)": ({"mutual_information": (0.1, 0.1)}, "mutual_information", -1),
    "I(X; label) ≤ H(label)": (
        {"mutual_information": (2.0, 0.3), "label_entropy": (2.5, 0.4)},
        "mutual_information",
        1,
    ),
    "I(X; label) from scores ≤ H(label)": (
        {"mutual_information_score": (2.0, 0.3), "label_entropy": (2.5, 0.4)},
        "mutual_information_score",
        1,
    ),
    "0 ≤ KL(first || second)": ({"kl": (0.1, 0.1)}, "kl", -1),
    "0 ≤ KL(second || first)": ({"kl_reverse": (0.1, 0.1)}, "kl_reverse", -1),
}
PAIRED = {
    "length² ≤ action",
    TRIANGLE,
    "exact -log p ≤ bound on -log p",
    "I(X; label) from denoising errors = from scores",
    "KL(first || second) from denoising errors = from scores",
    "KL(second || first) from denoising errors = from scores",
}


def test_every_theorem_has_a_test():
    assert CASES.keys() | PAIRED == {theorem.name for theorem in THEOREMS}


@pytest.mark.parametrize("name", CASES)
def test_theorems_fail_by_their_number_of_errors(name):
    quantities, moved, sign = CASES[name]
    value, error = quantities[moved]
    combined = {"W2² ≤ S_NN x noise budget": 500.0}.get(name)
    if combined is None:
        combined = np.sqrt(sum(q[1] ** 2 for q in quantities.values()))
    for by in (1.0, -1.0, -3.0):  # the slack, in combined standard errors
        changed = {**quantities, moved: (value + sign * (1 - by) * combined, error)}
        of = record(**changed)
        np.testing.assert_allclose(slack(of, name), by, atol=2e-3)
        said = [s for s in contradictions(of) if s.startswith(f"{name} fails")]
        assert len(said) == (by < -ERRORS)
        if said:
            assert f"fails by {-by:.1f} standard errors" in said[0]


def test_forms_must_agree():
    of = record(
        {"first": "a", "second": "b"},
        kl=([0.1, 0.5], [0.03, 0.3]),
        kl_score=([0.35, 0.55], [0.04, 0.4]),
    )
    name = "KL(first || second) from denoising errors = from scores"
    np.testing.assert_allclose(slack(of, name), [-5.0, -0.1], rtol=1e-3)
    (sentence,) = contradictions(of)
    assert sentence.startswith(
        "KL(a || b) from denoising errors = from scores fails by 5.0 standard errors, "
        "0.100 ± 0.030 against 0.350 ± 0.040 (in 1 of 2 cases, most for seed 0): the field"
    )


def test_a_theorem_for_any_field_blames_an_estimate():
    of = record(
        transport_length=(3.0, 0.0),
        transport_action=(8.0, 0.5),
    )
    of["log_prob"] = ("seed", "rated_sample"), np.zeros((1, 4))
    of["log_prob_exact"] = "rated_sample", np.array([-1.0, -2.0, -1.0, -2.0])
    np.testing.assert_allclose(slack(of, "length² ≤ action"), -2.0, rtol=1e-3)
    error = np.std([1, 2, 1, 2], ddof=1) / 2
    np.testing.assert_allclose(slack(of, "exact -log p ≤ bound on -log p"), -1.5 / error, rtol=1e-3)
    assert all("holds for any field" in sentence for sentence in contradictions(of))


def test_the_triangle_is_judged_by_the_errors_of_the_same_samples():
    of = record(neural_entropy=(9.0, 3.0), total_entropy=(4.0, 3.0), path_kl=(0.64, 0.1))
    for name, error in (("neural_entropy", 0.06), ("total_entropy", 0.04), ("path_kl", 0.016)):
        of[f"{name}_mc_stderr"] = error
    error = np.sqrt(0.01**2 + 0.01**2 + 0.01**2)
    np.testing.assert_allclose(slack(of, TRIANGLE), -0.2 / error, rtol=1e-3)


def test_infinite_bounds_are_not_violated():
    of = record(
        transport_w2_lower=(5.0, 0.0),
        transport_length=(np.inf, 0.0),
        transport_action=(np.inf, np.nan),
        transport_budget=np.inf,
        neural_entropy=(3.0, 0.1),
        mutual_information=(np.nan, np.nan),
    )
    for name in ("W2 ≤ length of the path", "length² ≤ action", "W2² ≤ S_NN x noise budget"):
        assert slack(of, name) == np.inf
    assert np.isnan(slack(of, "0 ≤ I(X; label)"))
    assert contradictions(of) == []
    assert json.loads(with_theorems(of).attrs["contradictions"]) == []


def test_with_a_cutoff_the_speed_limit_is_no_theorem():
    values = {
        "transport_w2_lower": (5.0, 0.1),
        "transport_budget": 1.0,
        "neural_entropy": (3.0, 0.1),
        "transport_efficiency": (8.0, 0.1),
    }
    assert len(contradictions(record({"cutoff": 0.0}, **values))) == 2
    assert contradictions(record({"cutoff": 0.1}, **values)) == []


def test_a_record_without_theorems_is_unchanged():
    of = record(wasserstein2=([1.0], 0.1))
    assert with_theorems(of) is of
    assert contradictions(of) == []


def test_with_the_exact_model_only_samples_are_blamed():
    of = xarray.Dataset(
        {
            "action": (("schedule", "seed"), [[2.0], [3.0]]),
            "length": (("schedule", "seed"), [[1.0], [1.0]]),
            "efficiency": (("schedule", "seed"), [[0.9], [1.2]]),
        },
        coords={"schedule": ["linear", "cosine"], "seed": [0]},
        attrs={"model": "exact"},
    )
    (sentence,) = contradictions(of)
    assert sentence == (
        "efficiency ≤ 1 fails, 1.2 against 1 (in 1 of 2 cases, most for schedule cosine, "
        "seed 0): W2 of few samples is biased upwards"
    )
    assert with_theorems(of)["theorem_slack"].dims == ("theorem", "schedule", "seed")


def test_an_equality_that_holds_is_rarely_called_a_contradiction():
    """One in forty by chance, where errors are as stated."""
    rng = np.random.default_rng(0)
    of = record(
        transport_w2_lower=(5 + 0.03 * rng.normal(size=4000), 0.03),
        transport_length=(5 + 0.04 * rng.normal(size=4000), 0.04),
    )
    share = (slack(of, "W2 ≤ length of the path") < -ERRORS).mean()
    assert 0.015 < share < 0.031
    assert re.search(r"\(in \d+ of 4000 cases, most for seed \d+\)", contradictions(of)[0])

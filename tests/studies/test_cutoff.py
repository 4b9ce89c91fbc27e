import jax
import numpy as np
import pytest

import entropix as ex
from entropix.datasets import Dataset
from entropix.studies import DataOptions
from entropix.studies.cutoff import Cutoff, choose_cutoff, report_times, with_cutoff
from entropix.studies.data import prepare_data


PROCESSES = {
    "vp": lambda: ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0)),
    "vpx": lambda: ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0), kappa=0.1),
    "sl": lambda: ex.StraightLine(0.1),
    "ve": lambda: ex.VarianceExploding(0.01, 50.0),
    "sub-vp": lambda: ex.SubVariancePreserving(ex.LinearSchedule(0.1, 16.0)),
    "rectified-flow": lambda: ex.RectifiedFlow(),
    "cosine": lambda: ex.CosinePath(),
}


@pytest.fixture(scope="module")
def mixture():
    return prepare_data("mixture2", DataOptions(num_samples=400))


@pytest.mark.parametrize("cutoff", [None, 0.02])
@pytest.mark.parametrize("name", PROCESSES)
def test_times_run_from_end_to_end(mixture, name, cutoff):
    process = PROCESSES[name]()
    times = report_times(process, mixture, Cutoff(cutoff, ""))
    assert np.all(np.diff(times) > 0)
    assert times[-1] == process.t1
    assert len(times) > 20
    start = 0.0 if cutoff is None else cutoff
    np.testing.assert_allclose(process.std(times[0]), start, rtol=1e-3)


def test_no_cutoff_where_none_is_needed(mixture):
    assert choose_cutoff(None, PROCESSES["vp"](), mixture).value is None


@pytest.mark.parametrize("name", ["sub-vp", "rectified-flow"])
def test_collapsing_equilibria_get_one(mixture, name):
    cutoff = choose_cutoff(None, PROCESSES[name](), mixture)
    assert 0 < cutoff.value < 0.1
    assert "collapses" in cutoff.reason


def test_levels_without_noise_get_that_of_the_noise():
    images = np.random.default_rng(0).integers(0, 256, size=(40, 3, 3)).astype(np.uint8)
    data = prepare_data(Dataset.from_array(images), DataOptions(dequantise=False))
    cutoff = choose_cutoff(None, PROCESSES["vp"](), data)
    level = 1 / float(data.standardisation.std[0])
    np.testing.assert_allclose(cutoff.value, level / np.sqrt(12), rtol=1e-5)


@pytest.mark.parametrize("asked", [0.0, -1.0, 1.5, float("nan")])
def test_a_cutoff_lies_within_the_noise(mixture, asked):
    with pytest.raises(ValueError, match="`cutoff` must be"):
        choose_cutoff(asked, PROCESSES["vp"](), mixture)


@pytest.mark.slow(reason="two estimates")
def test_a_cutoff_is_chosen_where_the_integral_diverges():
    """Known beforehand (isolated points) or only from the estimate (a line in the plane)."""
    process = PROCESSES["vp"]()
    points = np.random.default_rng(0).normal(size=(4, 2))
    line = np.stack([np.linspace(-1, 1, 64), np.zeros(64)], axis=1)
    on_line = ex.GaussianMixture([1.0], [[0.0, 0.0]], [[0.5, 1e-9]])
    for distribution, data in ((ex.Empirical(points), points), (on_line, line)):
        model = ex.ExactModel(distribution, process)

        def entropy(cutoff, model=model, data=data):
            key = jax.random.key(0)
            return ex.neural_entropy(model, data, key=key, num_evaluations=256, cutoff=cutoff.value)

        chosen = Cutoff(0.02, "chosen")
        estimate, cutoff = with_cutoff(entropy, Cutoff(None, ""), lambda chosen=chosen: chosen)
        assert cutoff is chosen
        assert np.isfinite(float(estimate))


def test_other_errors_do_not_lead_to_a_cutoff():
    def wrong(_):
        raise ValueError("`cutoff` must be a number")

    def at_the_noise_end(_):
        raise ex.DivergenceError("the integral is infinite")

    for estimate in (wrong, at_the_noise_end):
        with pytest.raises(ValueError, match=r"must be a number|is infinite"):
            with_cutoff(estimate, Cutoff(None, ""), lambda: Cutoff(0.1, ""))

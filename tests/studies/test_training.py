import dataclasses

import pytest

import entropix as ex
from entropix.studies import ProcessOptions
from entropix.studies.training import make_process, paper_seeds, process_parameters


CLASSES = {
    "vp": ex.VariancePreserving,
    "vpx": ex.VariancePreserving,
    "sub-vp": ex.SubVariancePreserving,
    "sl": ex.StraightLine,
    "ve": ex.VarianceExploding,
    "rectified-flow": ex.RectifiedFlow,
    "cosine": ex.CosinePath,
}


@pytest.mark.parametrize("name", CLASSES)
def test_every_name_makes_its_process(name):
    assert type(make_process(ProcessOptions(process=name))) is CLASSES[name]


def test_numbers_reach_the_process():
    process = make_process(ProcessOptions(kappa=0.5, beta_min=0.2, beta_max=3.0))
    assert float(process.kappa) == 0.5
    assert float(process.schedule.beta_max) == 3.0
    assert process_parameters(ProcessOptions(process="vpx"))["kappa"] == 0.1


def test_a_number_that_the_process_lacks_is_refused():
    """An option that does nothing would be taken for one that did."""
    for field in dataclasses.fields(ProcessOptions)[1:]:
        options = ProcessOptions(process="cosine", **{field.name: 0.5})
        with pytest.raises(ValueError, match=f"`{field.name}` must be left out"):
            make_process(options)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("kappa", {"kappa": 0.0}),
        ("beta_max", {"beta_min": 2.0, "beta_max": 1.0}),
        ("sigma0", {"process": "sl", "sigma0": -0.1}),
        ("sigma_max", {"process": "ve", "sigma_min": 1.0, "sigma_max": 0.5}),
    ],
)
def test_numbers_out_of_range_are_refused(name, values):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        make_process(ProcessOptions(**values))


def test_seeds_are_those_of_the_paper():
    assert paper_seeds(4) == (1, 7, 17, 23)
    assert paper_seeds(6) == (1, 7, 17, 23, 24, 25)
    assert paper_seeds(2) == (1, 7)

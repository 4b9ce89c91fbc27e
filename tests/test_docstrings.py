"""The examples of the docstrings run, and the functions that are used most have one."""

import doctest
import importlib
import pathlib

import pytest

import entropix as ex


PACKAGE = pathlib.Path(ex.__file__).parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules():
    for file in sorted(PACKAGE.rglob("*.py")):
        if ">>> " in file.read_text():
            parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
            yield ".".join(parts)


@pytest.mark.slow(reason="each module compiles its own examples")
@pytest.mark.parametrize("name", list(modules()))
def test_examples_run(name):
    module = importlib.import_module(name)
    tests = [test for test in doctest.DocTestFinder().find(module, name) if test.examples]
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for test in tests:
        runner.run(test)
    assert tests
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize(
    "function",
    [
        ex.neural_entropy,
        ex.entropy_curve,
        ex.path_kl,
        ex.path_entropy,
        ex.log_prob,
        ex.kl_divergence,
        ex.mutual_information,
        ex.total_correlation,
        ex.differential_entropy,
        ex.fit,
        ex.fit_ensemble,
        ex.save,
        ex.load,
        ex.sample,
        ex.solve_forward,
        ex.solve_reverse,
        ex.solve_flow,
        ex.wasserstein,
        ex.speed_limit,
        ex.optimise_schedule,
        ex.datasets.load,
    ],
    ids=lambda function: function.__name__,
)
def test_has_an_example(function):
    assert ">>> " in function.__doc__

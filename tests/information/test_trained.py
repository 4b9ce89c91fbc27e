"""`estimate_mutual_information` at full size on pairs whose information is known."""

import jax
import pytest

import entropix as ex
from benchmarks.information_tasks import TASKS, Task


pytest.importorskip("scipy")

# See docs/information.md for more.
TOLERANCE = {"spiral of x, 2-D, rho 0.8": 0.1}  # a Gaussian would have a third of it
CASES = (
    Task("Gaussian, 10-D, rho 0.8", 10, 0.8),
    *(task for task in TASKS if task.name in TOLERANCE),
)


def test_the_student_has_information_without_correlation():
    """In one dimension and with one degree of freedom, the Cauchy pair: log(8 pi) - 3."""
    assert Task("", 1, 0.0, 1.0).information == pytest.approx(0.224171427, abs=1e-8)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the held-out loss was still falling")
@pytest.mark.parametrize("task", CASES, ids=[task.name for task in CASES])
def test_information_from_a_trained_network(task):
    sample_key, key = jax.random.split(jax.random.key(0))
    x, y = task.sample(10_000, key=sample_key)
    recipe = ex.information.Recipe(folds=2)  # of the default three, to save time
    found = ex.estimate_mutual_information(x, y, key=key, recipe=recipe)
    tolerance = max(TOLERANCE.get(task.name, 0.03) * task.information, 4 * float(found.stderr))
    assert float(found) == pytest.approx(task.information, abs=tolerance)

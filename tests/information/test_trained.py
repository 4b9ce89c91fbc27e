"""Trained networks on pairs whose information is known, by the recipe of docs/information.md."""

import jax
import jax.numpy as jnp
import pytest

import entropix as ex
from benchmarks.information import network_model
from benchmarks.information_tasks import TASKS, Task


pytest.importorskip("scipy")

# One task of each kind, those of one shape together, and what 1,000 steps reach of it; see
# docs/information.md for more.
TOLERANCE = {
    "half-cube, 2-D, rho 0.8": 0.12,
    "Student, 3 degrees, 2-D, rho 0.8": 0.1,
    "spiral of x, 2-D, rho 0.8": 0.3,  # a Gaussian would have a third of it
}
CASES = (
    Task("Gaussian, 10-D, rho 0.8", 10, 0.8),
    Task("independent, 2-D", 2, 0.0),
    *(task for task in TASKS if task.name in TOLERANCE),
)


def test_the_student_has_information_without_correlation():
    """In one dimension and with one degree of freedom, the Cauchy pair: log(8 pi) - 3."""
    assert Task("", 1, 0.0, 1.0).information == pytest.approx(0.224171427, abs=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("task", CASES, ids=[task.name for task in CASES])
def test_information_from_a_trained_network(task):
    sample_key, fresh_key, model_key, fit_key, key = jax.random.split(jax.random.key(0), 5)
    x, y = task.sample(10_000, key=sample_key)
    fresh_x, fresh_y = task.sample(10_000, key=fresh_key)
    size = jnp.std(x, axis=0), jnp.std(y, axis=0)
    x, y, fresh_x, fresh_y = x / size[0], y / size[1], fresh_x / size[0], fresh_y / size[1]
    model = network_model(x, y, key=model_key)
    model = ex.fit(
        model,
        x,
        condition=y,
        key=fit_key,
        steps=1000,
        batch_size=128,
        loss=ex.Denoising(4),
        learning_rate=4e-3,
    ).model
    for form in ("score", "denoising"):
        estimate = ex.mutual_information(
            model, fresh_x, fresh_y, key=key, form=form, num_evaluations=32_768
        )
        tolerance = max(TOLERANCE.get(task.name, 0.05) * task.information, 0.05)
        assert float(estimate.value) == pytest.approx(task.information, abs=tolerance)

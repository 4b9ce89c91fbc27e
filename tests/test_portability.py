"""Programs lower for a TPU on a machine without one, in the precision that they need."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import entropix as ex
from tests.training.common import gaussian_data, small_model


ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_programs_for_a_tpu():
    # A program that can raise calls back to the host, which `EQX_ON_ERROR=nan` turns off.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "EQX_ON_ERROR": "nan"}
    command = [sys.executable, str(ROOT / "tests/portability.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    programs = json.loads(done.stdout.splitlines()[-1])
    assert len(programs) == 6
    for name, found in programs.items():
        assert found["products"] > 0, name
        assert not found["callbacks"], name
        expected = [] if name == "fit_ensemble" else ["HIGHEST"]
        assert found["precisions"] == expected, name


@pytest.mark.slow(reason="as the programs above")
def test_precision_in_the_lowered_text():
    """Estimators ask for full precision, unless the user asks for another."""
    model, data = small_model(), gaussian_data()

    def text():
        def entropy(x):
            return ex.neural_entropy(model, x, key=jax.random.key(0), num_evaluations=256).value

        jax.clear_caches()
        return jax.jit(entropy).lower(data).as_text()

    exact = text()
    with jax.default_matmul_precision("bfloat16"):
        chosen = text()
    assert exact.count("dot_general") == chosen.count("dot_general") > 0
    products = exact.count("dot_general")
    assert exact.count("precision = [HIGHEST, HIGHEST]") == products
    assert 0 < chosen.count("precision = [HIGHEST, HIGHEST]") < products or "HIGHEST" not in chosen

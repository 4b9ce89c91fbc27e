"""The Python code of README.md and docs/: every page runs from top to bottom, at small sizes.

The blocks of a page form one program. `GIVEN` defines what a page assumes, such as two samples x
and y. A block with `<!-- not run -->` on the line above it is skipped. Training, sampling and
estimates are shortened here, so that the printed values are meaningless.
"""

import functools
import re
import textwrap
from pathlib import Path

import matplotlib
import pytest

import entropix as ex


ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"(?P<before>^.*\n)?^(?P<indent> *)```python.*\n(?P<code>(?:.*\n)*?)^ *```$", flags=re.MULTILINE
)
NOT_RUN = "<!-- not run -->"

TWO_SETS = """
import jax, jax.numpy as jnp, numpy as np, diffrax
import entropix as ex
key = jax.random.key(0)
model_key, fit_key, key_1, key_2, key_3, key_4 = jax.random.split(key, 6)
x = jax.random.normal(key_1, (128, 2))
y = x @ jnp.array([[1.0, 0.4], [0.0, 0.8]]) + 0.3 * jax.random.normal(key_2, (128, 2)) + 1.0
"""
MODEL = (
    TWO_SETS
    + """
from collections.abc import Callable
from typing import Any
import equinox as eqx
mixture = ex.GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.5]], [[0.3, 0.3], [0.3, 0.3]])
data = mixture.sample(256, key=key)
process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
network = ex.FourierMLP(2, key=key, widths=(8,))
model = ex.EntropyMatching(network, process, ex.GaussianScaling.from_data(data, process))
exact = ex.ExactModel(mixture, process)
dim, num_classes, label = 2, 3, jnp.arange(256) % 3

def make_model(key):
    return model
"""
)
# Code that runs before the first block of a page.
GIVEN = {
    # Components wide enough for the fluctuation theorem to have a variance.
    "docs/cheatsheet.md": MODEL,
    "docs/concepts/demon.md": MODEL.replace("[0.3, 0.3]", "[1.2, 1.2]"),
    "docs/concepts/entropy.md": MODEL,
    "docs/densities.md": TWO_SETS,
    "docs/devices.md": TWO_SETS + "data = jnp.tile(x, (16, 1))\nheld_out = y\n",
    "docs/howto/tokens.md": TWO_SETS,
    "docs/getting-started.md": TWO_SETS
    + "np.save('samples.npy', np.random.default_rng(0).normal(size=(3000, 3)))\n",
    "docs/howto/conditional.md": MODEL,
    "docs/howto/logging.md": MODEL,
    "docs/howto/notebook.md": MODEL,
    "docs/howto/own-estimand.md": MODEL,
    "docs/howto/own-network.md": MODEL,
    "docs/howto/own-process.md": MODEL,
    "docs/howto/seeds.md": MODEL,
    "docs/bridges.md": TWO_SETS + "data, s = x, 0.5\n",
    "docs/information.md": TWO_SETS + "dim_x, dim_y, held_out_x, held_out_y = 2, 2, x, y\n",
    "docs/transport.md": TWO_SETS + "v = 0.25\n",
    "docs/schedules.md": TWO_SETS
    + """
distribution = ex.Gaussian([0.5, -1.0], [[0.6, 0.35], [0.35, 0.9]])
model = ex.ExactModel(distribution, ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0)))
sampler_error = lambda process: process.noise_budget()
""",
}
# Arguments that determine the run time of what is called; these values replace those of the page.
SHORT = {
    "FourierMLP": {"widths": (8,)},
    "fit": {"steps": 8},
    "fit_ensemble": {"steps": 8},
    "optimise_schedule": {"steps": 2},
    "KineticAction": {"num_samples": 64, "num_times": 16},
    "sample": {"num_samples": 8},
    "neural_entropy": {"num_evaluations": 512},
    "path_kl": {"num_evaluations": 512},
    "mutual_information": {"num_evaluations": 512},
    "kl_divergence": {"num_evaluations": 512},
}
# Pages that take more than a few seconds.
SLOW = {
    "docs/howto/tokens.md",
    "docs/cheatsheet.md",
    "docs/coming-from.md",
    "docs/concepts/demon.md",
    "docs/concepts/entropy.md",
    "docs/devices.md",
    "docs/getting-started.md",
    "docs/gradients.md",
    "docs/howto/own-estimand.md",
    "docs/howto/conditional.md",
    "docs/howto/logging.md",
    "docs/howto/notebook.md",
    "docs/howto/own-process.md",
    "docs/howto/seeds.md",
    "README.md",
    "docs/bridges.md",
    "docs/information.md",
    "docs/schedules.md",
}


def pages():
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    names = [path.relative_to(ROOT).as_posix() for path in found if path.exists()]
    return [name for name in names if "```python" in (ROOT / name).read_text()]


def program(name):
    """The blocks of a page as one program, with the line numbers of the page."""
    text = (ROOT / name).read_text()
    lines: list[str] = []
    for block in BLOCK.finditer(text):
        if NOT_RUN in (block["before"] or ""):
            continue
        start = text[: block.start("code")].count("\n")
        lines += [""] * (start - len(lines))
        lines += textwrap.dedent(block["code"]).splitlines()
    return "\n".join(lines) + "\n"


def shortened(function, limits):
    @functools.wraps(function)
    def call(*arguments, **options):
        if options.get("condition") is not None and "num_samples" in limits:
            return function(*arguments, **options)  # as many samples as conditions
        return function(*arguments, **(options | limits))

    return call


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in pages()],
)
def test_page(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(matplotlib, "use", lambda *arguments, **options: None)
    for function, limits in SHORT.items():
        monkeypatch.setattr(ex, function, shortened(getattr(ex, function), limits))
    scope = {"__name__": "__page__"}
    exec(GIVEN.get(name, ""), scope)
    exec(compile(program(name), str(ROOT / name), "exec"), scope)


def test_pages_exist():
    if not (ROOT / "docs").exists():
        pytest.skip("not a source tree")
    assert set(GIVEN) | SLOW <= set(pages())
    for name in pages():
        text = (ROOT / name).read_text()
        found = len(BLOCK.findall(text))
        assert found == len(re.findall(r"^ *```python", text, flags=re.MULTILINE)), name

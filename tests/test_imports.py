"""What `import entropix` may cost, what it offers, and the version it reports."""

import ast
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import types

import pytest

import entropix
from entropix._core.extras import DISTRIBUTION
from tests.helpers import every_file


# Heavy, optional, or both: imported by the function that needs them.
LATE = {
    "PIL",
    "datasets",
    "grain",
    "h5netcdf",
    "jaxopt",
    "matplotlib",
    "orbax",
    "ot",
    "ott",
    "pandas",
    "pyarrow",
    "sklearn",
    "tqdm",
    "tyro",
    "xarray",
}
ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def fresh_import():
    """Import entropix in a new interpreter, warnings as errors; report what that did."""
    # The private function is the one jax.distributed uses to refuse a late initialisation.
    program = (
        "import sys, json, entropix\n"
        "from jax._src import xla_bridge\n"
        "print(json.dumps({'modules': sorted({m.partition('.')[0] for m in sys.modules}),\n"
        "                  'backend': xla_bridge.backends_are_initialized()}))\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(entropix.__file__).parent.parent)},
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_import_is_light(fresh_import):
    loaded = LATE & set(fresh_import["modules"])
    assert not loaded, f"`import entropix` also imports {sorted(loaded)}"


def test_import_creates_no_arrays(fresh_import):
    """`jax.distributed.initialize` must still be possible, and x64 still be chosen, afterwards."""
    assert not fresh_import["backend"]


def test_a_name_imports_what_it_needs():
    program = (
        "import sys, entropix as ex\n"
        "print(sum(m.startswith('entropix') for m in sys.modules), end=' ')\n"
        "ex.fit, ex.neural_entropy, ex.entropy.entropy_rates\n"
        "late = {'information', 'optimise', 'transport', 'studies', 'cli'}\n"
        "print(sorted(m for m in late if f'entropix.{m}' in sys.modules), end=' ')\n"
        "from entropix import *\n"
        "print(wasserstein is ex.transport.wasserstein, KineticAction is ex.KineticAction)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(entropix.__file__).parent.parent)}
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert run.stdout.split() == ["1", "[]", "True", "True"]


def test_every_listed_name_is_found():
    """Also where a file has the name of a function in it, and after that file was imported."""
    package = pathlib.Path(entropix.__file__).parent
    every_file()
    for stub in sorted(package.rglob("__init__.pyi")):
        parts = stub.parent.relative_to(package.parent).parts
        module = sys.modules[".".join(parts)]
        assert dir(module) == module.__all__
        found = {name: getattr(module, name) for name in module.__all__}
        of_names = {name for name, value in found.items() if isinstance(value, types.ModuleType)}
        inner = {path.parent.name for path in stub.parent.glob("*/__init__.py")}
        assert of_names <= (inner if len(parts) == 1 else set())
    with pytest.raises(AttributeError, match="No entropix attribute nothing"):
        entropix.nothing  # noqa: B018


def test_version_is_the_metadata():
    try:
        installed = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("a source tree that is not installed under its own name")
    assert entropix.__version__ == installed


def test_changelog_knows_the_version():
    changelog = ROOT / "CHANGELOG.md"
    if not changelog.exists():
        pytest.skip("not a source tree")
    headings = re.findall(r"^## \[(.+?)\]", changelog.read_text(), flags=re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert entropix.__version__ in headings


def test_subpackages_import_from_the_face_of_one_another():
    """`from entropix.entropy import X`, not `from entropix.entropy.curve import X`."""
    package = pathlib.Path(entropix.__file__).parent
    past = []
    for file in sorted(package.rglob("*.py")):
        own = file.relative_to(package).parts[0]
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            parts = node.module.split(".")
            inside = len(parts) > 2 and not package.joinpath(*parts[1:], "__init__.py").exists()
            if parts[0] == "entropix" and inside and parts[1] not in (own, "_core"):
                past.append(f"{file.relative_to(package)}: {node.module}")
    assert not past

"""Every public name and every example is documented, and the figures are small."""

import re
import types
from pathlib import Path

import pytest

import entropix


ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="not a source tree")


def pages():
    return {path.relative_to(DOCS).as_posix(): path.read_text() for path in DOCS.rglob("*.md")}


def test_every_public_name_is_documented_once():
    text = "\n".join(page for name, page in pages().items() if name.startswith("api/"))
    # `entropix.datasets.load` is another function than `entropix.load`.
    paths = re.findall(r"^::: (entropix\.(?!datasets\.)[\w.]+)$", text, flags=re.MULTILINE)
    documented = [path.rpartition(".")[2] for path in paths]
    public = {
        name: value
        for name, value in vars(entropix).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    missing = public.keys() - set(documented)
    assert not missing, f"add to the page of their subpackage in docs/api: {sorted(missing)}"
    twice = {name for name in documented if documented.count(name) > 1}
    assert not twice, f"documented more than once: {sorted(twice)}"
    # The short path of a function with the name of its module would show the module.
    modules = {
        f"{value.__module__}.{name}"
        for name, value in public.items()
        if value.__module__.rpartition(".")[2] == name
    }
    assert modules <= set(paths), f"use these paths: {sorted(modules - set(paths))}"


def test_every_example_has_its_page_and_figure():
    text = "\n".join(pages().values())
    examples = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert examples
    included = set(re.findall(r'--8<-- "examples/(\w+)\.py"', text))
    assert examples == included, "an example is included on a page docs/examples/<name>.md"
    figures = {path.stem for path in (DOCS / "figures").glob("*.png")}
    assert examples == figures, "a figure is made by `python docs/figures/make.py <name>`"


def test_every_figure_is_shown_and_small():
    shown = set()
    for name, page in pages().items():
        for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page):
            figure = (DOCS / name).parent / target
            assert figure.exists(), f"{name} shows {target}, which does not exist"
            shown.add(figure.resolve())
    for figure in (DOCS / "figures").iterdir():
        assert figure.suffix in {".png", ".py"}
        if figure.suffix == ".png":
            assert figure.resolve() in shown, f"{figure.name} is on no page"
            assert figure.stat().st_size <= 60_000, f"{figure.name} is larger than 60 kB"


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    missing = {name for name in pages() if name not in navigation}
    assert not missing, f"add to `nav` in mkdocs.yml: {sorted(missing)}"

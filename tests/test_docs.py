"""Every public name and every example is documented, and the figures are small."""

import ast
import re
import runpy
import textwrap
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
        for name, value in ((name, getattr(entropix, name)) for name in dir(entropix))
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
    figures -= {"paper_transport", "paper_storage"}  # by docs/figures/paper.py
    assert examples == figures, "a figure is made by `python docs/figures/make.py <name>`"


def test_every_figure_is_shown_and_small():
    shown = set()
    for name, page in pages().items():
        for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page):
            figure = (DOCS / name).parent / target
            assert figure.exists(), f"{name} shows {target}, which does not exist"
            shown.add(figure.resolve())
    for figure in (DOCS / "figures").iterdir():
        assert figure.suffix in {".png", ".py", ".json"}  # the records behind them
        if figure.suffix == ".png":
            assert figure.resolve() in shown, f"{figure.name} is on no page"
            assert figure.stat().st_size <= 60_000, f"{figure.name} is larger than 60 kB"


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    missing = {name for name in pages() if name not in navigation}
    assert not missing, f"add to `nav` in mkdocs.yml: {sorted(missing)}"


def test_every_example_is_in_the_gallery():
    gallery = (DOCS / "examples" / "index.md").read_text()
    for path in (ROOT / "examples").glob("*.py"):
        assert f"](../figures/{path.stem}.png){{ loading=lazy }}]({path.stem}.md)" in gallery


def quickstart():
    """The computation in examples/quickstart.py, with the defaults of its arguments as numbers."""
    source = (ROOT / "examples" / "quickstart.py").read_text()
    (main,) = (node for node in ast.parse(source).body if getattr(node, "name", "") == "main")
    last = max(node.end_lineno for node in main.body if ast.unparse(node).startswith("print("))
    lines = source.splitlines()[main.body[1].lineno - 1 : last]
    text = textwrap.dedent("\n".join(lines))
    for argument, value in zip(main.args.args[1:], main.args.defaults, strict=True):
        value = ast.get_source_segment(source, value)
        text = re.sub(rf"(?<=[ =]){argument.arg}(?=[,)}}])", value, text)
    return text


def test_readme_and_index_show_the_quickstart():
    readme = (ROOT / "README.md").read_text()
    section = readme.partition("[start:quickstart] -->")[2].partition("<!-- --8<-- [end:")[0]
    code, output = re.findall(r"```(?:python)?\n(.*?)\n```", section, flags=re.DOTALL)
    assert code == f"import jax\n\nimport entropix as ex\n\n{quickstart()}"
    page = pages()["examples/quickstart.md"]
    assert f"```\n{output}\n```" in page, "both show the output of examples/quickstart.py"
    index = pages()["index.md"]
    assert '--8<-- "README.md:quickstart"' in index
    numbers = re.findall(r"[\d.]+ ± [\d.]+", index)
    assert numbers
    assert set(numbers) <= set(re.findall(r"[\d.]+ ± [\d.]+", output))


def test_notebooks_are_in_step_with_the_examples():
    written = runpy.run_path(str(DOCS / "notebooks" / "make.py"))["written"]
    examples = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert examples == {path.stem for path in (DOCS / "notebooks").glob("*.ipynb")}
    for name in examples:
        found = (DOCS / "notebooks" / f"{name}.ipynb").read_text()
        assert found == written(name), "run `python docs/notebooks/make.py`"


@pytest.fixture(scope="module")
def hooks():
    for module in ("math_core", "mkdocs", "ziamath"):
        pytest.importorskip(module, reason="the extra `docs` is not installed")
    return runpy.run_path(str(DOCS / "hooks.py"))


def test_mathematics_becomes_mathml(hooks):
    page = r'<p>Of <span class="arithmatex">\(x &lt; \sigma^2\)</span>.</p>'
    found = hooks["mathematics"](page)
    assert found.startswith('<p>Of <span class="arithmatex"><math>')
    assert "&lt;" in found
    assert "arithmatex" not in found.replace('class="arithmatex"', "")
    display = hooks["mathematics"](r'<div class="arithmatex">\[x\]</div>')
    assert '<math display="block">' in display
    with pytest.raises(ValueError, match="nonsense"):
        hooks["mathematics"](r'<span class="arithmatex">\(\nonsense\)</span>')


def test_signatures_of_several_lines_have_one_argument_on_each(hooks):
    argument = '<span class="n">{}</span><span class="p">:</span> <span class="n">int</span>'
    x, y = argument.format("x"), argument.format("y")
    given = f'{x}<span class="p">,</span> <span class="o">*</span><span class="p">,</span> {y}'
    one = f'<div class="doc-signature highlight">f({given})</div>'
    assert hooks["signatures"](one) == one
    several = f'<div class="doc-signature highlight">f(\n<a></a>    {given}\n)</div>'
    lines = re.sub("<.*?>", "", hooks["signatures"](several)).splitlines()
    assert lines == ["f(", "    x: int,", "    *,", "    y: int", ")"]
    assert hooks["signatures"](given) == given


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example.org/x.js"></script>',
        "<img alt=figure src=//example.org/x.png>",
        '<link rel="stylesheet" href="https://fonts.example.org/css">',
        "@font-face { src: url(https://example.org/x.woff2) }",
        '@import "https://example.org/x.css";',
        '<div class="md-source" data-md-component="source">',
    ],
)
def test_what_is_loaded_from_another_host_is_found(text, hooks):
    assert hooks["foreign"](text)


def test_links_to_another_host_are_allowed(hooks):
    page = (
        '<a href="https://example.org">x</a><link rel="canonical" href="https://example.org/">'
        '<img src="../figures/x.png"><script src="../x.js"></script>'
    )
    assert not hooks["foreign"](page)

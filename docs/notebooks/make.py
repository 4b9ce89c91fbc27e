"""Write each example as a notebook, `docs/notebooks/NAME.ipynb`, without output.

    python docs/notebooks/make.py

Run this after an example has changed, and commit the notebooks: Colab opens them from the
repository. The arguments of `main` become a cell of settings, and its paragraphs become cells, with
their first comments as text.
"""

import ast
import itertools
import json
import re
import textwrap
import tomllib
from pathlib import Path


NOTEBOOKS = Path(__file__).parent
ROOT = NOTEBOOKS.parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
INSTALL = f'''\
# Where entropix is not installed, as on Colab:
%pip install -q "{PROJECT["name"]}[{{extras}}] @ git+{REPOSITORY}"'''


def colab(name: str) -> str:
    """The address at which Colab opens the notebook of an example."""
    path = REPOSITORY.partition("github.com/")[2]
    return f"https://colab.research.google.com/github/{path}/blob/main/docs/notebooks/{name}.ipynb"


def paragraphs(lines: list[str], nodes: list[ast.stmt], previous: ast.stmt) -> list[str]:
    """The source of consecutive statements, comments included, divided at blank lines."""
    found: list[list[str]] = [[]]
    for before, node in itertools.pairwise([previous, *nodes]):
        text = lines[before.end_lineno : node.end_lineno]
        if not text[0].strip():
            found.append([])
        found[-1] += text
    return [textwrap.dedent("\n".join(part)).strip() for part in found if part]


def program(example: str) -> tuple[str, list[str]]:
    """The docstring of an example, and its code as cells."""
    lines, tree = example.splitlines(), ast.parse(example)
    (main,) = (node for node in tree.body if getattr(node, "name", None) == "main")
    given = zip(reversed(main.args.args), reversed(main.args.defaults), strict=False)
    settings = [f"{arg.arg} = {ast.get_source_segment(example, value)}" for arg, value in given]

    *body, last = main.body[1:]
    assert isinstance(last, ast.Return), "`main` ends with what it returns"
    parts = paragraphs(lines, body, main.body[0])
    # A figure is shown at the end of the cell that makes it: all that draws is one cell.
    first = next(
        i
        for i, part in enumerate(parts)
        if re.search(r"plt\.(subplots|subplot_mosaic|figure)\(", part)
    )
    figure = "\n\n".join([*parts[first:], ast.get_source_segment(example, last.value)])
    figure = re.sub(r"^(figure\.savefig\(out|plt\.close).*\n", "", figure, flags=re.MULTILINE)

    before = tree.body[1 : tree.body.index(main)]
    imports = [node for node in before if isinstance(node, ast.Import | ast.ImportFrom)]
    rest = paragraphs(lines, [node for node in before if node not in imports], imports[-1])
    cells = [*rest, "\n".join(reversed(settings)), *parts[:first], figure]
    unused = {"import argparse"}
    if not any("Path" in cell for cell in cells):
        unused.add("from pathlib import Path")
    kept = lines[imports[0].lineno - 1 : imports[-1].end_lineno]
    kept = "\n".join(line for line in kept if line not in unused).strip()
    return ast.get_docstring(tree), [kept, *cells]


def notebook(name: str) -> dict:
    """The notebook of an example."""
    example = (ROOT / "examples" / f"{name}.py").read_text()
    document, cells = program(example)
    extras = "studies,torch" if "import torch\n" in example else "studies"
    title, _, text = document.partition("\n")
    text = text.partition(f"    python examples/{name}.py")[0].strip()
    source = f"{REPOSITORY}/blob/main/examples/{name}.py"
    links = f"Made from [examples/{name}.py]({source}). [Open in Colab]({colab(name)})."
    found = [
        ("markdown", f"# {title.rstrip('.')}\n\n{text}\n\n{links}"),
        ("code", INSTALL.format(extras=extras)),
    ]
    for cell in cells:
        comments = list(itertools.takewhile(lambda line: line.startswith("# "), cell.splitlines()))
        if comments:
            found.append(("markdown", "\n".join(line[2:] for line in comments)))
            cell = "\n".join(cell.splitlines()[len(comments) :])
        found.append(("code", cell))
    return {
        "cells": [
            {
                "cell_type": kind,
                "id": f"{name.replace('_', '-')}-{number}",
                "metadata": {},
                **({"execution_count": None, "outputs": []} if kind == "code" else {}),
                "source": text.splitlines(keepends=True),
            }
            for number, (kind, text) in enumerate(found)
        ],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def written(name: str) -> str:
    """The file of the notebook of an example."""
    return json.dumps(notebook(name), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for path in sorted((ROOT / "examples").glob("*.py")):
        (NOTEBOOKS / f"{path.stem}.ipynb").write_text(written(path.stem))

"""What `mkdocs build` does for this site beyond its plugins.

Mathematics is converted to MathML, which browsers show without JavaScript, and signatures are
wrapped. After a build, every page is checked to load nothing from another host, and the search to
know the words that newcomers look for.
"""

import json
import re
import runpy
from html import unescape
from pathlib import Path

import math_core
import ziamath
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


ROOT = Path(__file__).parents[1]
NOTEBOOKS = runpy.run_path(str(ROOT / "docs" / "notebooks" / "make.py"))

# For systems without a font for mathematics; docs/stylesheets/site.css names it last.
FONT = Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf"

# Written by pymdownx.arithmatex in its generic mode.
FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?P<kind>[(\[])(?P<tex>.*?)\\[)\]]</(?P=tag)>',
    flags=re.DOTALL,
)
CONVERTER = math_core.LatexToMathML(fancy_error=False)

# Of mkdocstrings and Pygments: a signature, and the space before an argument in it.
SIGNATURE = re.compile(r'<div class="doc-signature.*?</div>', flags=re.DOTALL)
ARGUMENT = re.compile(
    r'(?<=,</span>) (?=<span class="n">\w+</span><span class="p">:</span>|<span class="o">\*)'
)

# What a browser loads with a page: not the links, which a reader may follow.
LOADED = re.compile(
    r"""<(?:script|img|source|iframe|video|audio|embed)\b[^>]*?\bsrc=["']?(?P<src>[^"'\s>]+)"""
    r"""|<link\b(?![^>]*rel=["']?(?:canonical|next|prev|alternate))[^>]*?\bhref=["']?(?P<href>[^"'\s>]+)"""
    r"""|url\(["']?(?P<url>[^"')]+)|@import\s+["'](?P<sheet>[^"']+)"""
    r"""|(?P<widget>data-md-component=["']?source\b)""",  # asks the interface of GitHub
)
WORDS = ("pretrained", "PyTorch", "W&B", "notebook", "missing values")


def mathematics(page: str) -> str:
    """The page with MathML in place of LaTeX; `ValueError` names a formula that cannot be read."""

    def convert(formula: re.Match) -> str:
        tex = unescape(formula["tex"]).strip()
        try:
            found = CONVERTER.convert_with_local_state(tex, displaystyle=formula["kind"] == "[")
        except math_core.LatexError as error:
            raise ValueError(f"{error}, in the formula {tex}") from error
        return f'<{formula["tag"]} class="arithmatex">{found}</{formula["tag"]}>'

    return FORMULA.sub(convert, page)


def signatures(page: str) -> str:
    """The page with one argument a line in signatures of several lines.

    The formatter puts all of them on one line where they fit.
    """

    def wrap(found: re.Match) -> str:
        indented = "    <" in found[0]  # several lines
        return ARGUMENT.sub("\n    ", found[0]) if indented else found[0]

    return SIGNATURE.sub(wrap, page)


def foreign(text: str) -> list[str]:
    """What a page or style sheet loads from other hosts."""
    found = [next(filter(None, match.groups())) for match in LOADED.finditer(text)]
    return [address for address in found if re.match(r"(?:[a-z]+:)?//|data-md-component", address)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the font for mathematics."""
    files.append(File.generated(config, f"stylesheets/{FONT.name}", abs_src_path=str(FONT)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Link the pages of examples to their notebooks, and show the changelog of the repository."""
    source = Path(page.file.src_uri)
    if source.name == "changelog.md":
        return (ROOT / "CHANGELOG.md").read_text().replace("](docs/", "](")
    notebook = f"notebooks/{source.stem}.ipynb"
    if source.parent.name == "examples" and files.get_file_from_path(notebook):
        title, _, text = markdown.partition("\n")
        address = NOTEBOOKS["colab"](source.stem)
        links = f"[Notebook](../{notebook}) \N{MIDDLE DOT} [Open in Colab]({address})"
        return f"{title}\n\n{links}\n{text}"
    return markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Convert the mathematics of a page, and wrap its signatures."""
    try:
        return mathematics(signatures(html))
    except ValueError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from error


def on_post_build(config: MkDocsConfig) -> None:
    """Check what was built."""
    site = Path(config.site_dir)
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        if loaded := foreign(path.read_text()):
            raise PluginError(f"{path.relative_to(site)} loads {loaded[0]} from another host.")
    path = site / "search" / "search_index.json"
    path.write_text(path.read_text().replace("&amp;", "&"))  # else nobody finds W&B
    index = json.loads(path.read_text())
    known = " ".join(entry["title"] + " " + entry["text"] for entry in index["docs"])
    if unknown := [word for word in WORDS if word.lower() not in known.lower()]:
        raise PluginError(f"the search finds no page for {', '.join(unknown)}.")

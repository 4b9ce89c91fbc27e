"""Run examples at full size, and save their figures in small files for the documentation.

    python docs/figures/make.py                       # every missing figure
    python docs/figures/make.py quickstart maxwell_demon

Run this after an example has changed, and commit the figures; building the documentation runs no
example. Figures are reduced to a palette. Copy the output of an example to its page, as evidence
for the text there.
"""

import argparse
import runpy
import tempfile
from pathlib import Path

import matplotlib as mpl
from PIL import Image


FIGURES = Path(__file__).parent
EXAMPLES = FIGURES.parents[1] / "examples"
LARGEST = 60_000  # bytes


def palette(shades: int) -> Image.Image:
    """Greys, `shades` lighter versions of matplotlib's ten colours, and its colour map.

    A palette fitted to the image would merge the colours of thin lines.
    """
    cycle = [mpl.colors.to_rgb(f"C{number}") for number in range(10)]
    colours = [(level / 15,) * 3 for level in range(16)]
    for shade in range(shades):
        share = (shade + 1) / shades
        colours += [tuple(1 - share * (1 - part) for part in colour) for colour in cycle]
    colours += [mpl.colormaps["viridis"](step / 31)[:3] for step in range(32)]
    image = Image.new("P", (1, 1))
    image.putpalette([round(255 * part) for colour in colours for part in colour])
    return image


def shrink(source: Path, target: Path) -> int:
    """Write `source` with as many shades and pixels as the limit permits; returns its size."""
    image = Image.open(source).convert("RGB")
    for width, shades in ((1350, 8), (1350, 4), (1200, 4), (1000, 4), (1000, 2), (800, 2)):
        height = round(image.height * width / image.width)
        small = image if image.width <= width else image.resize((width, height), Image.LANCZOS)
        small = small.quantize(palette=palette(shades), dither=Image.Dither.NONE)
        small.save(target, optimize=True)
        if target.stat().st_size <= LARGEST:
            break
    return target.stat().st_size


def main() -> None:
    """Make the figures named on the command line, or those that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="examples (default: those without a figure)")
    names = parser.parse_args().names or [
        path.stem
        for path in sorted(EXAMPLES.glob("*.py"))
        if not (FIGURES / f"{path.stem}.png").exists()
    ]
    for name in names:
        print(f"== {name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            figure = Path(folder) / "figure.png"
            runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](figure)
            size = shrink(figure, FIGURES / f"{name}.png")
        print(f"{name}.png: {size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()

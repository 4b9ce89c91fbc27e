"""Parsing by tyro, whose parsing errors are condensed to one line."""

import contextlib
import io
import re
from collections.abc import Callable
from typing import Any

from entropix._core.extras import needed


_DESCRIPTION = (
    "Measure how much information a diffusion model stores. `entropix COMMAND --help` lists the "
    "options of a command; `entropix --version` prints the version."
)


def parse(words: list[str], commands: dict[str, Callable[..., Any]]) -> Any:
    """The result of the command named by the words, for its options; 0 for `--help`.

    Args:
        words: the words after `entropix`.
        commands: functions by name; the arguments of each are its options.

    Raises:
        ValueError: in one line, if the words are not understood.
        ImportError: if tyro is not installed.
    """
    tyro = needed("tyro", "the command line", "tyro", "studies")
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.extras.subcommand_cli_from_dict(
                commands,
                prog="entropix",
                description=_DESCRIPTION,
                args=words,
                config=(tyro.conf.OmitArgPrefixes,),
                registry=_registry(),
            )
    except SystemExit as stop:
        if stop.code in (None, 0):
            return 0
        command = next((f" {word}" for word in words[:1] if word in commands), "")
        said = _first_sentence(errors.getvalue())
        raise ValueError(f"{said}; see `entropix{command} --help`.") from None


def _registry() -> Any:
    """Optional options are written by their plain type, and None as "auto"."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def optional(info: Any) -> Any:
        for kind in (int, float, str):
            if info.type == kind | None:
                return PrimitiveConstructorSpec(
                    nargs=1,
                    metavar=kind.__name__.upper(),
                    instance_from_str=lambda given, kind=kind: (
                        None if given == ["auto"] else kind(given[0])
                    ),
                    is_instance=lambda value, kind=kind: value is None or isinstance(value, kind),
                    str_from_instance=lambda value: ["auto" if value is None else str(value)],
                )
        return None

    return registry


def _first_sentence(boxed: str) -> str:
    """The text of an error box of tyro above its first rule, as one line."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", boxed)
    lines = text.splitlines()
    if "│" in text:
        inside = [line for line in lines if line.startswith("│")]
    else:  # a terminal without box characters: a rule of hyphens is the upper edge
        rules = [i for i, line in enumerate(lines) if line.strip().startswith("-----")]
        inside = lines[rules[0] + 1 :] if rules else []
    said = []
    for line in (line.strip("│ ") for line in inside):
        if line.startswith(("──", "-----")):
            break
        said.append(line)
    sentence = " ".join(" ".join(said).split()) or " ".join(text.split())
    return sentence.rstrip(".")

"""The command line: `entropix measure DATA`, a thin face over `entropix.studies`.

What is wrong with a request is said in one line on stderr, with exit code 2, before any training
starts; a training that diverges, in one line with exit code 1. A mistake of the program itself is
not dressed up as one of the user: it surfaces with its traceback. Ctrl-C ends with exit code 130
and the command that takes the run up again.
"""

import contextlib
import functools
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from entropix import __version__
from entropix.datasets import available
from entropix.studies import (
    DataOptions,
    EstimationOptions,
    MeasureOptions,
    MeasurePlan,
    OutputOptions,
    ProcessOptions,
    TrainingOptions,
    prepare_measure,
    run_measure,
)


FAILURE, USAGE_ERROR, INTERRUPTED = 1, 2, 130
_DESCRIPTION = (
    "How much information a diffusion model stores, and what it costs. `entropix COMMAND --help` "
    "explains a command; `entropix --version` tells the version."
)
_SOURCE_HELP = (
    "A file (.npy, .npz, .csv, .parquet, IDX), a folder of PNG images, or the name of an embedded "
    f"set: {', '.join(available())}."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: the words after `entropix`; `sys.argv[1:]` if None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in (["--version"], ["-V"]):
        print(f"entropix {__version__}")
        return 0
    _be_modest()
    try:
        command = _parse(words)
        plan = command()
    except ValueError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _interrupted(None)
    if isinstance(plan, int):
        return plan
    try:
        with _termination_interrupts():
            run_measure(plan)
    except FloatingPointError as error:
        return _fail(str(error), FAILURE)
    except KeyboardInterrupt:
        return _interrupted(plan)
    return 0


def _be_modest() -> None:
    """Take memory as it is needed, and no more threads than this process may use."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if hasattr(os, "sched_getaffinity"):
        os.environ.setdefault("PJRT_NPROC", str(len(os.sched_getaffinity(0))))


def _fail(message: str, code: int = USAGE_ERROR) -> int:
    print(f"entropix: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _interrupted(plan: MeasurePlan | None) -> int:
    text = "entropix: interrupted before training"
    if plan is not None:
        again = shlex.join([*plan.command, "--resume"])
        text = f"entropix: interrupted; `{again}` takes the run up again"
    print(text, file=sys.stderr)
    return INTERRUPTED


@contextlib.contextmanager
def _termination_interrupts() -> Any:
    """SIGTERM, which schedulers send before they kill, means what Ctrl-C means."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _commands(words: list[str]) -> dict[str, Callable[..., Any]]:
    """The subcommands, each a function that returns what is left to do.

    So no error of a study can be taken for one of parsing.
    """
    from tyro.conf import arg

    def measure(
        source: Annotated[str, arg(metavar="[DATA]", help=_SOURCE_HELP)] = "digits",
        /,
        data: DataOptions = DataOptions(),
        process: ProcessOptions = ProcessOptions(),
        training: TrainingOptions = TrainingOptions(),
        estimation: EstimationOptions = EstimationOptions(),
        output: OutputOptions = OutputOptions(),
    ) -> Any:
        """Train entropy-matching models on DATA and measure what they store.

        Reports the neural entropy S_NN with its standard error, the entropy curve, a bound on the
        negative log-likelihood, KL where the truth is known, W2 between data and samples, and the
        speed limit: a table here, report.md, plots, and results.nc in the output folder.

        Args:
            source: What to measure.
            data: How the data are read, split and put into the model's coordinates.
            process: The forward process, in the model's coordinates.
            training: The network and its training. All seeds are trained as one program.
            estimation: What is spent on measuring. Every number has its standard error.
            output: Where results go.
        """
        options = MeasureOptions(data, process, training, estimation, output)
        return functools.partial(prepare_measure, source, options, command=["entropix", *words])

    return {"measure": measure}


def _registry() -> Any:
    """How options that may be left out are written: their plain type, and "auto" for None."""
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


def _parse(words: list[str]) -> Callable[[], Any]:
    """The work that the words ask for; for `--help`, an exit code.

    Raises:
        ValueError: in one line, if the words make no sense, or tyro is not installed.
    """
    try:
        import tyro
    except ImportError as error:
        raise ValueError("the command line needs tyro: pip install 'entropix[studies]'.") from error
    complaints = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaints):
            return tyro.extras.subcommand_cli_from_dict(
                _commands(words),
                prog="entropix",
                description=_DESCRIPTION,
                args=words,
                config=(tyro.conf.OmitArgPrefixes,),
                registry=_registry(),
            )
    except SystemExit as stop:
        if stop.code in (None, 0):
            return lambda: 0
        raise ValueError(_first_sentence(complaints.getvalue())) from None


def _first_sentence(boxed: str) -> str:
    """What a box of tyro says above its first rule, as one line."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", boxed)
    lines = text.splitlines()
    if "│" in text:
        inside = [line for line in lines if line.startswith("│")]
    else:  # on a terminal without them, a rule of hyphens takes the place of the upper edge
        rules = [i for i, line in enumerate(lines) if line.strip().startswith("-----")]
        inside = lines[rules[0] + 1 :] if rules else []
    said = []
    for line in (line.strip("│ ") for line in inside):
        if line.startswith(("──", "-----")):
            break
        said.append(line)
    sentence = " ".join(" ".join(said).split()) or " ".join(text.split())
    hint = "see `entropix measure --help`"
    return f"{sentence.rstrip('.')}; {hint}."


if __name__ == "__main__":
    sys.exit(main())

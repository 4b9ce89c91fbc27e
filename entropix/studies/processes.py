"""From names and numbers to a forward process."""

from entropix._core.checks import choice
from entropix.interfaces import AbstractGaussianProcess
from entropix.processes import (
    CosinePath,
    LinearSchedule,
    RectifiedFlow,
    StraightLine,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)
from entropix.studies.options import ProcessOptions


# What each process may be given, with the value it has if it is not.
_PARAMETERS: dict[str, dict[str, float]] = {
    "vp": {"kappa": 1.0, "beta_min": 0.1, "beta_max": 16.0},
    "vpx": {"kappa": 0.1, "beta_min": 0.1, "beta_max": 16.0},
    "sub-vp": {"beta_min": 0.1, "beta_max": 16.0},
    "sl": {"sigma0": 0.1},
    "ve": {"sigma_min": 0.01, "sigma_max": 50.0},
    "rectified-flow": {},
    "cosine": {},
}


def make_process(options: ProcessOptions) -> AbstractGaussianProcess:
    """The process that the options name.

    Raises:
        ValueError: if the name is unknown, a number is out of its range, or one is given that the
            process does not have.
    """
    name = choice(options.process, "process", tuple(_PARAMETERS))
    values = process_parameters(options)
    if name in ("vp", "vpx"):
        schedule = LinearSchedule(values["beta_min"], values["beta_max"])
        return VariancePreserving(schedule, values["kappa"])
    if name == "sub-vp":
        return SubVariancePreserving(LinearSchedule(values["beta_min"], values["beta_max"]))
    if name == "sl":
        return StraightLine(values["sigma0"])
    if name == "ve":
        return VarianceExploding(values["sigma_min"], values["sigma_max"])
    return RectifiedFlow() if name == "rectified-flow" else CosinePath()


def process_parameters(options: ProcessOptions) -> dict[str, float]:
    """The numbers of the process, defaults filled in.

    Raises:
        ValueError: if a number is given that the process does not have.
    """
    allowed = _PARAMETERS[choice(options.process, "process", tuple(_PARAMETERS))]
    for name in sorted({key for values in _PARAMETERS.values() for key in values}):
        value = getattr(options, name)
        if value is not None and name not in allowed:
            raise ValueError(
                f"`{name}` must be left out for the process {options.process!r}, got {value!r}."
            )
    given = {name: getattr(options, name) for name in allowed}
    return {name: allowed[name] if v is None else float(v) for name, v in given.items()}

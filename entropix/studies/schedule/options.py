"""What can be asked of `schedule`, as in `entropix.studies.options`."""

import dataclasses
from typing import Literal, get_args

from entropix.studies.options import DataOptions, OutputOptions, ProcessOptions, TrainingOptions


Objective = Literal["action", "length", "entropic-time", "variance", "girsanov", "sampler"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """What the schedule is optimised for."""

    objective: tuple[Objective, ...] = ("sampler",)
    """One or several, each giving a schedule. action: kinetic action of the density's path; length:
    change of the score; entropic-time: equal steps in what is known of the data; variance: of a
    Monte Carlo estimate of the likelihood bound; girsanov: bound on the error of a stochastic
    sampler; sampler: error of the few-step sampler itself."""
    iterations: int = 300
    """Steps of the optimiser."""
    knots: int = 24
    """Parameters of a schedule."""
    target_steps: int = 10
    """sampler, girsanov: how many steps of the sampler the schedule is made for."""


@dataclasses.dataclass(frozen=True)
class ComparisonOptions:
    """How the schedules are compared."""

    steps_compared: tuple[int, ...] = (5, 10, 20, 50)
    """Numbers of steps of the sampler, which are uniform in each schedule's own time."""
    sampler: Literal["ddim", "dpm"] = "ddim"
    """The sampler of the probability flow: of first order, or DPM-Solver++ of second; both evaluate
    the model once a step."""
    samples: int = 1000
    """Samples on either side of a W2, at most as many as are held out of real data."""
    evaluations: int = 1000
    """Evaluations of an estimate of S_NN, whose Monte Carlo error is compared."""
    model: Literal["auto", "exact", "trained"] = "auto"
    """Whose fields are used; auto: the exact ones where they are known, else those of networks."""
    train: bool = False
    """Train networks with the linear schedule and again with the found one, with times uniform in
    each: what a schedule means for training."""


@dataclasses.dataclass(frozen=True)
class ScheduleOptions:
    """Everything about a study of schedules but the data."""

    data: DataOptions = dataclasses.field(default_factory=DataOptions)
    process: ProcessOptions = dataclasses.field(default_factory=ProcessOptions)
    search: SearchOptions = dataclasses.field(default_factory=SearchOptions)
    comparison: ComparisonOptions = dataclasses.field(default_factory=ComparisonOptions)
    training: TrainingOptions = dataclasses.field(default_factory=TrainingOptions)
    output: OutputOptions = dataclasses.field(default_factory=OutputOptions)

"""Preparing a measurement: everything that can be wrong with a request is found here.

`prepare_measure` reads and checks all it is given, and raises `ValueError` in one line before any
training starts and without leaving anything behind. What it returns can only fail by a mistake of
the program, a machine that gives out, or numbers that diverge.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax

from entropix._core.arrays import Key
from entropix._core.checks import positive_integer
from entropix.datasets import Dataset
from entropix.models import EntropyMatching, GaussianScaling
from entropix.networks import ConditionDropout, FourierMLP, LatentCondition
from entropix.studies.axis import Cutoff, choose_cutoff
from entropix.studies.data import PreparedData, prepare_data
from entropix.studies.options import EstimationOptions, MeasureOptions
from entropix.studies.processes import make_process
from entropix.studies.run import Run, check_packages, prepare_run


# More latent classes than classes of labels: the rest may serve to tell styles apart.
_LEAST_LATENT = 16


@dataclasses.dataclass(frozen=True, eq=False)
class MeasurePlan:
    """A measurement that is ready to run.

    Attributes:
        options: as asked for.
        data: in the coordinates of the model.
        cutoff: of the entropies.
        run: the training, and where it is written.
    """

    options: MeasureOptions
    data: PreparedData
    cutoff: Cutoff
    run: Run

    @property
    def command(self) -> tuple[str, ...]:
        """The words that would repeat it, if it came from a command line."""
        return self.run.command

    def make_model(self) -> Callable[[Key], EntropyMatching]:
        """The function from a key to an untrained model."""
        process, widths = self.run.process, self.run.training.widths
        scaling = GaussianScaling.from_data(self.data.train, process)

        def make(key: Key) -> EntropyMatching:
            network = self._network(widths, key)
            return EntropyMatching(network, process, scaling)

        return make

    def _network(self, widths: tuple[int, ...], key: Key) -> Any:
        """For the data alone, or for data with a condition and without."""
        condition = self.data.condition
        if condition is None:
            return FourierMLP(self.data.dim, widths=widths, key=key)
        rate = self.options.condition.condition_dropout
        if condition.entropy is None:
            size = condition.dim + 1  # ConditionDropout adds a one
            network = FourierMLP(self.data.dim, widths=widths, condition_dim=size, key=key)
            return ConditionDropout(network, condition.dim, rate)
        key, guess_key = jax.random.split(key)
        latent, half = max(_LEAST_LATENT, 3 * condition.dim // 2), (-(-widths[0] // 2),)
        network = LatentCondition(
            FourierMLP(self.data.dim, widths=widths, condition_dim=latent, key=key),
            FourierMLP(self.data.dim, widths=half, out_dim=latent, key=guess_key),
            condition_dim=condition.dim,
            num_classes=latent,
        )
        return ConditionDropout(network, condition.dim, rate)


def prepare_measure(
    source: str | os.PathLike[str] | Dataset,
    options: MeasureOptions = MeasureOptions(),
    *,
    command: Sequence[str] = (),
) -> MeasurePlan:
    """Check everything, read the data, and claim the output folder.

    Args:
        source: what `entropix.datasets.load` takes, or a data set.
        options: see `MeasureOptions`.
        command: the words that asked for it, if it came from a command line.

    Raises:
        ValueError: in one line, whatever is wrong; nothing is left behind.
    """
    check_packages(plots=options.output.plots)
    _check_estimation(options.estimation)
    process = make_process(options.process)
    data = prepare_data(source, options.data, options.condition)
    cutoff = choose_cutoff(options.estimation.cutoff, process, data)
    run = prepare_run(
        options.process,
        options.training,
        options.output,
        name=data.dataset.name,
        num_samples=len(data.train),
        configuration={
            **dataclasses.asdict(options.data),
            **({} if data.condition is None else dataclasses.asdict(options.condition)),
            "data_fingerprint": data.fingerprint,
        },
        command=command,
    )
    return MeasurePlan(options=options, data=data, cutoff=cutoff, run=run)


def _check_estimation(options: EstimationOptions) -> None:
    positive_integer(options.evaluations, "evaluations", 256)
    positive_integer(options.density_evaluations, "density_evaluations", 16)
    if options.density_evaluations % 2:
        raise ValueError(f"`density_evaluations` must be even, got {options.density_evaluations}.")
    positive_integer(options.samples, "samples", 2)
    positive_integer(options.sampling_steps, "sampling_steps")

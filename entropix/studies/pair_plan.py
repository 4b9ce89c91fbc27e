"""Preparing a comparison of two data sets: everything that can be wrong is found here."""

import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np

from entropix._core.arrays import Key
from entropix._core.checks import positive_integer
from entropix.datasets import Dataset
from entropix.models import EntropyMatching, GaussianScaling
from entropix.networks import FourierMLP
from entropix.studies.axis import Cutoff, choose_cutoff
from entropix.studies.data import PreparedData, prepare_pair
from entropix.studies.options import InformationOptions
from entropix.studies.processes import make_process
from entropix.studies.run import Run, check_packages, prepare_run


# The condition of a network that knows both sets: which of them its field belongs to.
SIDES = (1.0, -1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class InformationPlan:
    """A comparison that is ready to run.

    Attributes:
        options: as asked for.
        pair: the two data sets, in the coordinates of the model.
        cutoff: of the divergences.
        run: the training, and where it is written.
    """

    options: InformationOptions
    pair: tuple[PreparedData, PreparedData]
    cutoff: Cutoff
    run: Run

    @property
    def command(self) -> tuple[str, ...]:
        """The words that would repeat it, if it came from a command line."""
        return self.run.command

    @property
    def names(self) -> tuple[str, str]:
        """Of the two sets; the second of one name is marked."""
        first, second = (data.dataset.name for data in self.pair)
        return first, second if second != first else f"{second}'"

    @property
    def pooled(self) -> np.ndarray:
        """As many training samples of either set."""
        count = min(len(data.train) for data in self.pair)
        return np.concatenate([data.train[:count] for data in self.pair])

    def both(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """A part (`"augmented"`, `"held_out"`) of both sets, and the condition of its samples."""
        points = [getattr(data, part) for data in self.pair]
        sides = [np.full((len(p), 1), side, p.dtype) for p, side in zip(points, SIDES, strict=True)]
        return np.concatenate(points), np.concatenate(sides)

    def make_model(self) -> Callable[[Key], EntropyMatching]:
        """The function from a key to an untrained model of both sets."""
        process, widths = self.run.process, self.run.training.widths
        scaling = GaussianScaling.from_data(self.pooled, process)
        dim = self.pair[0].dim

        def make(key: Key) -> EntropyMatching:
            network = FourierMLP(dim, widths=widths, condition_dim=1, key=key)
            return EntropyMatching(network, process, scaling)

        return make


def prepare_information(
    first: str | os.PathLike[str] | Dataset,
    second: str | os.PathLike[str] | Dataset,
    options: InformationOptions = InformationOptions(),
    *,
    command: Sequence[str] = (),
) -> InformationPlan:
    """Check everything, read both data sets, and claim the output folder.

    Args:
        first: what `entropix.datasets.load` takes, or a data set.
        second: the same.
        options: see `InformationOptions`.
        command: the words that asked for it, if it came from a command line.

    Raises:
        ValueError: in one line, whatever is wrong; nothing is left behind.
    """
    check_packages(plots=options.output.plots)
    positive_integer(options.estimation.evaluations, "evaluations", 256)
    positive_integer(options.estimation.samples, "samples", 2)
    process = make_process(options.process)
    pair = prepare_pair(first, second, options.data)
    # A divergence is finite where the entropies are not: no cut-off for the process's sake.
    cutoff = choose_cutoff(options.estimation.cutoff, process, pair[1], of_entropy=False)
    run = prepare_run(
        options.process,
        options.training,
        options.output,
        name="-".join(data.dataset.name for data in pair),
        num_samples=sum(len(data.train) for data in pair),
        configuration={
            **dataclasses.asdict(options.data),
            "data_fingerprint": [data.fingerprint for data in pair],
        },
        command=command,
    )
    return InformationPlan(options, pair, cutoff, run)

"""`measure --model` of tokens: what an existing model stores about sequences.

The sequences are numbered by the vocabulary of the model, where it has one.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from entropix.datasets import Dataset
from entropix.interfaces import AbstractModel, AbstractTokenProcess
from entropix.studies.cells import Task
from entropix.studies.estimates import check_effort
from entropix.studies.labels import make_condition
from entropix.studies.loaded import LoadedModel, probe
from entropix.studies.options import MeasureOptions
from entropix.studies.record import assemble
from entropix.studies.report import Report
from entropix.studies.study import AbstractStudy, Figures, Found, Outcome, Workspace
from entropix.studies.tokens.data import TokenData, split_tokens
from entropix.studies.tokens.measurement import TOKEN_SCHEMA
from entropix.studies.tokens.report import token_report, with_verdict
from entropix.studies.tokens.study import (
    TOKEN_AXES,
    measure_all,
    refuse_numbers,
    token_attributes,
    token_figures,
)
from entropix.studies.training import Training


if TYPE_CHECKING:
    import xarray


def prepare_token_model(
    dataset: Dataset, options: MeasureOptions, loaded: LoadedModel, *, command: Sequence[str]
) -> "TokenModelStudy":
    """Check the request and claim the output folder.

    Args:
        dataset: of tokens.
        options: see `MeasureOptions`; those of training have been refused.
        loaded: the model.
        command: the command line, if the request came from one.

    Raises:
        ValueError: in one line, for whatever is wrong with the request.
    """
    refuse_numbers(options.data, options.estimation, options.pretrained)
    check_effort(options.estimation)
    condition = make_condition(dataset.labels, options.condition, options.data.data_seed)
    data = split_tokens(_numbered(dataset, loaded.model), options.data, condition)
    _check_shape(loaded.model, data)
    for given in (None, data.condition_held_out):
        wrong = probe(loaded.model, data.held_out[:2], None if given is None else given[:2])
        if wrong is not None:
            how = "without labels" if given is None else "with the labels of `condition`"
            raise ValueError(
                f"`model` must be one that can be evaluated on the data {how}, got: {wrong}."
            )
    workspace = Workspace.claim(
        options.output,
        name=dataset.name,
        configuration={
            "model": loaded.text if loaded.path is None else options.pretrained.model,
            "model_fingerprint": loaded.fingerprint,
            "seed": options.training.seed,
            **dataclasses.asdict(options.data),
            **({} if condition is None else dataclasses.asdict(options.condition)),
            "data_fingerprint": data.fingerprint,
        },
        command=command,
    )
    return TokenModelStudy(workspace, options, loaded, data)


@dataclasses.dataclass(frozen=True, eq=False)
class TokenModelStudy(AbstractStudy):
    """A measurement of an existing model of tokens, ready to run.

    Attributes:
        workspace: the claimed output folder.
        options: as requested.
        loaded: the model.
        data: the sequences, in its numbering.
    """

    workspace: Workspace
    options: MeasureOptions
    loaded: LoadedModel
    data: TokenData

    @property
    def cells(self) -> dict[str, int]:
        return {"measurement": 0}

    def attributes(self) -> dict[str, Any]:
        return {
            **token_attributes(self.data, self.loaded.model.process),
            "model_text": self.loaded.text,
            "relative_error": self.options.estimation.relative_error or 0.0,
        }

    def measure(self, task: Task) -> Outcome:
        # The keys are those of a network that was trained with this seed.
        seeds = Training((self.options.training.seed,), 1, 1, 1.0, 1)
        model = self.loaded.model
        return Outcome(measure_all(seeds, lambda _: model, self.data, self.options, show=task.show))

    def record(self, found: dict[str, Found], attributes: dict[str, Any]) -> "xarray.Dataset":
        (values,) = (dict(values) for values in found.values())
        coordinates: dict[str, tuple[Any, str]] = {
            "seed": ([self.options.training.seed], "seed of the estimates")
        }
        coordinates |= {name: (values.pop(name), text) for name, text in TOKEN_AXES.items()}
        return with_verdict(assemble(TOKEN_SCHEMA, values, coordinates, attributes))

    def figures(self) -> Figures:
        return token_figures(self.data)

    def report(self, record: "xarray.Dataset") -> Report:
        return token_report(record, self.data)


def _numbered(dataset: Dataset, model: AbstractModel) -> Dataset:
    """The data set in the numbering of the model, where it has names; otherwise as it is."""
    process = model.process
    if not isinstance(process, AbstractTokenProcess):
        raise ValueError(
            f"`model` must be one of tokens for {dataset.name!r}, got one of "
            f"{type(process).__name__}."
        )
    names, count, own = getattr(model, "vocabulary", ()), process.num_tokens, dataset.num_tokens
    if names:
        return dataset.with_vocabulary(names)
    assert own is not None
    if own > count or (dataset.vocabulary and own != count):
        raise ValueError(
            f"`model` must be one of the {own} tokens of {dataset.name!r}, got one of {count} "
            "without a vocabulary."
        )
    return dataclasses.replace(dataset, num_tokens=count)


def _check_shape(model: AbstractModel, data: TokenData) -> None:
    if model.shape == data.shape:
        return
    hint = ""
    if data.dataset.texts is not None and model.shape is not None and len(model.shape) == 1:
        hint = f": length={model.shape[0]} (--length {model.shape[0]}) cuts such windows"
    raise ValueError(
        f"`model` must take sequences of the shape of the data, {data.shape}, got one of "
        f"{model.shape}{hint}."
    )

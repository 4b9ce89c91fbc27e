r"""Labels: the condition of a network, their information in the record and in the report.

Discrete labels become one-hot vectors, continuous labels a number with mean 0 and variance 1. For
discrete labels $I(X; label) \le H(label) = -E\log p(label)$.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from entropix._core.arrays import Key
from entropix._core.checks import choice
from entropix.networks import ConditionDropout, FourierMLP, LatentCondition
from entropix.studies.options import ConditionOptions, LabelOptions
from entropix.studies.record import Schema


if TYPE_CHECKING:
    import xarray

LABEL_SCHEMA: Schema = {
    "mutual_information": (("seed",), "nats", "I(X; label), held-out data, from denoising errors"),
    "mutual_information_score": (("seed",), "nats", "I(X; label), held-out data, from scores"),
    "label_entropy": ((), "nats", "entropy of discrete labels, the largest possible information"),
}
LABEL_TEXTS = {
    "mutual_information": "I(X; label), held-out data, from denoising errors",
    "mutual_information_score": "I(X; label), held-out data, from scores",
    "label_entropy": "H(label)",
}

# Numbers are treated as classes if they take few values, each of them often.
_MAX_CLASSES, _MIN_COUNT = 32, 4
_SHUFFLE = 0x5A0F
# More latent classes than classes of labels, so that some may describe styles.
_MIN_LATENT = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Condition:
    """The condition of each sample, as it is given to a network.

    Attributes:
        values: shape (N, C), in the order of the data set.
        entropy: H(label) in nats and its standard error; None for continuous labels, whose mutual
            information has no such bound.
        text: the labels in words, for a report.
    """

    values: np.ndarray
    entropy: tuple[float, float] | None
    text: str

    @property
    def dim(self) -> int:
        """C."""
        return self.values.shape[1]


def given_labels(options: LabelOptions) -> ConditionOptions:
    """The labels of a network that is always given them."""
    return ConditionOptions(**dataclasses.asdict(options))


def common_condition(
    labels: tuple[np.ndarray, np.ndarray], options: ConditionOptions, names: tuple[str, str]
) -> tuple[Condition, Condition]:
    """The conditions of two data sets with the same labels.

    Args:
        labels: of both, shapes (N,) and (M,).
        options: see `make_condition`.
        names: of both, for errors.

    Raises:
        ValueError: as `make_condition`, or if a class occurs in one of them only.
    """
    texts = {part.dtype.kind in "US" for part in labels}
    if len(texts) > 1:
        raise ValueError(
            f"`condition` must be text or a number in both data sets, got {labels[0].dtype} for "
            f"{names[0]!r} and {labels[1].dtype} for {names[1]!r}."
        )
    whole = make_condition(np.concatenate(labels), options, 0)
    assert whole is not None
    split = len(labels[0])
    parts = whole.values[:split], whole.values[split:]
    if whole.entropy is not None:
        present = np.stack([part.any(axis=0) for part in parts])
        if not present.all():
            side, index = (int(i) for i in np.argwhere(~present)[0])
            raise ValueError(
                "`condition` must hold classes that occur in both data sets, got "
                f"{np.unique(np.concatenate(labels))[index].item()!r}, which {names[side]!r} lacks."
            )
    one, other = (dataclasses.replace(whole, values=part) for part in parts)
    return one, other


def make_condition(
    labels: np.ndarray | None, options: ConditionOptions, data_seed: int
) -> Condition | None:
    """The condition of the samples, or None without labels.

    Args:
        labels: shape (N,), numbers or text, or None.
        options: see `ConditionOptions`.
        data_seed: seed for shuffling the labels.

    Raises:
        ValueError: if labels are missing, all the same or not finite, or an option does not fit.
    """
    choice(options.condition_kind, "condition_kind", ("auto", "discrete", "continuous"))
    if not 0 < options.condition_dropout < 1:
        raise ValueError(
            f"`condition_dropout` must be between 0 and 1, got {options.condition_dropout}."
        )
    if options.condition is None:
        for name in ("shuffle_labels", "condition_kind", "keep_na"):
            if getattr(options, name) != getattr(ConditionOptions(), name):
                raise ValueError(
                    f"`{name}` must be left out without `condition`, got {getattr(options, name)}."
                )
        return None
    if labels is None:
        raise ValueError(
            "`condition` must be a file of labels for data that carry none, "
            f"got {options.condition!r}."
        )
    classes, counts = _checked(labels)
    if options.shuffle_labels:
        key = jax.random.fold_in(jax.random.key(data_seed), _SHUFFLE)
        labels = labels[np.asarray(jax.random.permutation(key, len(labels)))]
    shuffled = ", shuffled: a control without information" if options.shuffle_labels else ""
    kind, why = _kind(labels, len(classes), options.condition_kind)
    if kind == "continuous":
        values = labels.astype(np.float64)
        values = (values - values.mean()) / values.std()
        text = f"{options.condition}, a continuous number ({why}){shuffled}"
        return Condition(values[:, None].astype(np.float32), None, text)
    one_hot = (labels[:, None] == classes[None, :]).astype(np.float32)
    text = f"{options.condition}, {len(classes)} classes ({why}){shuffled}"
    return Condition(one_hot, _entropy(counts), text)


def _checked(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct labels, and the count of each; checks that they are usable."""
    if labels.dtype.kind not in "biufUS":
        raise ValueError(f"`condition` must hold numbers or text, got dtype {labels.dtype}.")
    if labels.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(labels))
        if len(bad):
            raise ValueError(
                f"`condition` must hold finite labels, got {len(bad)} NaN or infinite of "
                f"{len(labels)}, the first in sample {bad[0]} (counted from 0)."
            )
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise ValueError(
            f"`condition` must hold labels that differ, got {len(labels)} times {classes[0]}."
        )
    return classes, counts


def _kind(labels: np.ndarray, num_classes: int, asked: str) -> tuple[str, str]:
    """Whether labels are discrete or continuous, and the reason."""
    count, text = len(labels), labels.dtype.kind in "US"
    if asked == "continuous" and text:
        raise ValueError(
            "`condition_kind` must be 'discrete' for labels of text, got 'continuous'."
        )
    few = num_classes <= _MAX_CLASSES and num_classes * _MIN_COUNT <= count
    kind = asked if asked != "auto" else "discrete" if text or few else "continuous"
    if kind == "discrete" and 2 * num_classes > count:
        raise ValueError(
            f"`condition` must have at least two samples per class on average, got "
            f"{num_classes} classes of {count} samples."
        )
    if asked != "auto":
        return kind, "as requested"
    if text:
        return kind, "chosen, because they are text"
    return kind, f"chosen, because they take {num_classes} values in {count} samples"


def _entropy(counts: np.ndarray) -> tuple[float, float]:
    """The entropy of the observed frequencies, and its standard error."""
    share = counts / counts.sum()
    surprise = -np.log(share)
    mean = float(share @ surprise)
    return mean, float(np.sqrt(share @ (surprise - mean) ** 2 / counts.sum()))


def conditional_network(
    make: Callable[[Key, int], Callable],
    condition: Condition,
    dim: int,
    guess_width: int,
    rate: float,
) -> Callable[[Key], ConditionDropout]:
    """The function from a key to an untrained network that works with and without labels.

    Args:
        make: the function from a key and the size of a condition to a network for vectors.
        condition: of the samples.
        dim: of the vectors.
        guess_width: width of the network that guesses a latent class from the vector.
        rate: fraction of labels dropped in training.
    """

    def discrete(key: Key) -> LatentCondition:
        # Labels reach the network as evidence for latent classes, which it otherwise guesses.
        key, guess_key = jax.random.split(key)
        latent = max(_MIN_LATENT, 3 * condition.dim // 2)
        return LatentCondition(
            make(key, latent),
            FourierMLP(dim, widths=(guess_width,), out_dim=latent, key=guess_key),
            condition_dim=condition.dim,
            num_classes=latent,
        )

    def made(key: Key) -> ConditionDropout:
        if condition.entropy is None:
            network: Any = make(key, condition.dim + 1)  # the flag of a dropout
        else:
            network = discrete(key)
        return ConditionDropout(network, condition.dim, rate)

    return made


# ------------------------------------------------------------------ in the record and in words


def label_entropy(condition: Condition | None) -> dict[str, float]:
    """H(label) as variables of a record; empty without discrete labels."""
    if condition is None or condition.entropy is None:
        return {}
    return dict(zip(("label_entropy", "label_entropy_stderr"), condition.entropy, strict=True))


def information_limits(record: "xarray.Dataset") -> dict[str, tuple[float, str]]:
    """The largest possible information of labels, for `results_tables`."""
    if "label_entropy" not in record:
        return {}
    limit = float(record["label_entropy"]), "{} = H(label), clipped; estimate {}"
    return dict.fromkeys(("mutual_information", "mutual_information_score"), limit)


def label_notes(record: "xarray.Dataset") -> list[str]:
    """How to read the information of labels; empty without labels."""
    notes = []
    if "mutual_information" in record:
        notes += [
            "The main result for labels is I(X; label) from denoising errors: the error of the "
            "network without labels minus that with labels, on held-out data, not clipped. It is "
            "too large by what the network misses without labels, and too small by what it misses "
            "with them. For labels without information it is zero within its error, or negative",
            "I(X; label) from scores is the squared difference of the two fields, which is never "
            "negative. Where it exceeds the other form by more than the errors, the excess is not "
            "information",
        ]
    if "mutual_information_cutoff" in record and (
        hidden := float(record["mutual_information_cutoff"].max())
    ):
        notes.append(f"I(X; label) excludes noise below {hidden:.3g}")
    limits = information_limits(record).items()
    if any(float(record[name].mean()) > limit for name, (limit, _) in limits if name in record):
        notes.append(
            "I(X; label) cannot exceed H(label): the table is clipped there and shows the estimate "
            "beside it, which results.nc holds. The excess is an error of one of the two fields"
        )
    if "label_entropy" in record:
        notes.append(
            "H(label) is the entropy of the frequencies of the labels, the largest "
            "possible mutual information"
        )
    return notes

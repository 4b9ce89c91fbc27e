r"""A measurement of tokens in words, and its verdict.

| verdict | rule |
|---|---|
| leaked | at least 1% of the held-out windows, and two, are in the training texts |
| overfitted | the bound on training data is lower by more than three errors, and by more than half of the advantage on held-out data |
| undertrained | as for numbers, see `entropix.studies.verdict` |
| worse than a baseline | the bound exceeds that of the best baseline with probabilities by more than three errors |
| no better than a baseline | they differ by no more than three errors |
| fine | none of these |
"""  # noqa: E501

import json
from typing import TYPE_CHECKING

import numpy as np

from entropix._core.formatting import format_with_error
from entropix.studies.labels import LABEL_TEXTS, information_limits, label_notes
from entropix.studies.report import (
    Report,
    Table,
    estimate_text,
    results_tables,
    spread_note,
    with_error,
)
from entropix.studies.tokens.data import TokenData
from entropix.studies.verdict import MARGIN, falling, verdicts


if TYPE_CHECKING:
    import xarray

# Sequences shown in a report.
_SHOWN = 4
_LABELS = {
    "neural_entropy": "neural entropy S_NN, held-out data",
    "neural_entropy_train": "neural entropy S_NN, training data",
    "neural_entropy_bits": "neural entropy S_NN, held-out data, per token",
    "negative_log_likelihood": "bound on -log p, held-out data",
    "negative_log_likelihood_train": "bound on -log p, training data",
    "bits_per_token": "bound on -log p, held-out data, per token",
    "perplexity": "bound on the perplexity, held-out data",
    **LABEL_TEXTS,
}
_PER_SEED = {
    "neural_entropy": "S_NN, held-out",
    "bits_per_token": "bound on -log p per token, held-out",
    "mutual_information": "I(X; label), held-out",
}


def token_report(record: "xarray.Dataset", data: TokenData) -> Report:
    """The record in words."""
    a = record.attrs
    facts = [
        f"Data: {a['data_text']}",
        *([f"Labels: {a['condition_text']}"] if "condition_text" in a else []),
        f"Split: {a['num_train']} sequences for training, {a['num_held_out']} held out"
        + ("" if data.dataset.texts is None else ", in four blocks"),
        f"Process: {a['process_text']}",
        f"Evaluations: {int(record['evaluations'])} for each estimate of an entropy",
        f"Training: {a['training_text']}"
        if "training_text" in a
        else f"Model: {a['model_text']}. Nothing was trained: what is called training data are the "
        "sequences that are not held out",
    ]
    results = results_tables(record, _LABELS, _PER_SEED, information_limits(record))
    tables = [*results, _baseline_table(record)]
    if len(data.shape) == 1:
        tables.append(_text_table(record, data))
    title = f"measure: {a['name']}"
    return Report(record, title, facts, tables, verdicts(record), _notes(record))


def data_text(data: TokenData) -> str:
    """The data in words."""
    dataset = data.dataset
    shape = " x ".join(map(str, dataset.shape))
    kind = "windows" if dataset.texts is not None else "sequences"
    text = f"{dataset.name}, {dataset.num_samples} {kind} of {shape} tokens, one of "
    text += f"{data.num_tokens} {'characters' if dataset.has_characters else 'symbols'}"
    return "; note: ".join([text, *dataset.notes])


def _baseline_table(record: "xarray.Dataset") -> Table:
    """The model beside the baselines."""
    size = record.sizes["position"]
    rows = [["model", "-log p [nats]", "bits per token", "perplexity", "above the model [bits]"]]
    rows.append(
        [
            "bound of the network",
            *(
                estimate_text(record, name)
                for name in ("negative_log_likelihood", "bits_per_token", "perplexity")
            ),
            "",
        ]
    )
    for i, name in enumerate(record["baseline"].values):
        bits = float(record["baseline_bits"][i])
        nats = bits * size * np.log(2)
        above, error = _advantage(record, i)
        told = format_with_error(above, error)
        text = with_error(bits, float(record["baseline_bits_stderr"][i]), 4)
        rows.append([str(name), f"{nats:.4g}", text, f"{2**bits:.4g}", told])
    model = float(record["bits_per_token"].mean())
    for name, bits in zip(record["compressor"].values, record["compressed_bits"], strict=True):
        value = float(bits)
        rows.append([str(name), "", f"{value:.4g}", f"{2**value:.4g}", f"{value - model:.3g}"])
    return Table(rows, "Held-out data, against counting and packing")


def _text_table(record: "xarray.Dataset", data: TokenData) -> Table:
    """Held-out sequences and samples of the first seed."""
    dataset = data.dataset
    real = dataset.as_text(data.held_out[:_SHOWN].reshape(-1, dataset.dim))
    made = dataset.as_text(record["samples"].values[0, :_SHOWN])
    rows = [["", "sequence"]]
    rows += [["held-out data", json.dumps(text, ensure_ascii=False)] for text in real]
    rows += [["sample", json.dumps(text, ensure_ascii=False)] for text in made]
    return Table(rows, "Samples")


def _notes(record: "xarray.Dataset") -> list[str]:
    """How to read the results."""
    return [
        f"The main result is S_NN on held-out data. {spread_note(record)}",
        "A perfect network stores S_NN = D ln K - H(x), what must be known of the data beyond "
        f"uniform tokens; ln K is {record.attrs['uniform_bits']:.4g} bits per token. S_NN and the "
        "bound on -log p then add up to D ln K",
        "The bounds on -log p are path bounds: on average, log p of the model is at least minus "
        "their value. A gap between training and held-out data shows what the network has "
        "memorised",
        "Markov models of order k count what follows k tokens, within the sequence that is "
        "rated and smoothed by lower orders; the marginals count at each position",
        "gzip and xz: what the held-out data add to the size of the packed training data, which "
        "they may refer to at any distance (gzip: 32 kB)",
        "S_NN of a lost token is what the network knows of it when this share of all tokens is "
        "lost",
        *label_notes(record),
    ]


# ------------------------------------------------------------------ the verdict


def _advantage(record: "xarray.Dataset", baseline: int) -> tuple[float, float]:
    """By how many bits per token a baseline exceeds the bound, and the standard error."""
    model, other = record["log_prob"].mean("seed"), record["baseline_log_prob"][baseline]
    bits = (model - other).values / (record.sizes["position"] * np.log(2))
    return float(bits.mean()), float(bits.std(ddof=1) / np.sqrt(len(bits)))


def with_verdict(record: "xarray.Dataset") -> "xarray.Dataset":
    """The record with the attributes `verdict`, a JSON list, and `verdict_text`."""
    found = _verdict(record)
    text = "; ".join(found.values())
    return record.assign_attrs(verdict=json.dumps(list(found)), verdict_text=text)


def _verdict(record: "xarray.Dataset") -> dict[str, str]:
    """All findings by name, the most important one first, with a clause each."""
    a, found = record.attrs, {}
    if a["leaked"] >= max(2, 0.01 * a["compared"]):
        found["leaked"] = (
            f"leaked held-out windows: {a['leaked']} of {a['compared']} are also in the "
            "training texts, so that held-out results are partly those of training data"
        )
    best = int(record["baseline_bits"].values.argmin())
    name = str(record["baseline"].values[best])
    advantage, stderr = _advantage(record, best)
    bound, on_train = (float(record[f"bits_per_token{s}"].mean()) for s in ("", "_train"))
    error, error_train = (float(record[f"bits_per_token{s}_stderr"].mean()) for s in ("", "_train"))
    gap, gap_stderr = bound - on_train, float(np.hypot(error, error_train))
    if gap > MARGIN * gap_stderr and gap > abs(advantage) / 2:
        found["overfitted"] = (
            f"overfitted: the bound on training data is {format_with_error(gap, gap_stderr)} bits "
            "per token lower than on held-out data"
        )
    falls = falling(record, by_rate=True)
    if falls is not None:
        found["undertrained"] = (
            f"undertrained: the held-out loss was still falling, by {falls:.2g} nats in the second "
            "half of the training; train longer (--steps, --minutes)"
        )
    model = format_with_error(bound, error)
    packed = record["compressed_bits"].values
    packer = str(record["compressor"].values[int(packed.argmin())])
    beside = (
        f"{model} bits per token, {format_with_error(abs(advantage), stderr)} "
        f"{'below' if advantage > 0 else 'above'} {name}, the best baseline; {packer} needs "
        f"{float(packed.min()):.3g}"
    )
    if advantage < -MARGIN * stderr:
        found["worse than a baseline"] = f"worse than a baseline: the bound is {beside}"
    elif advantage <= MARGIN * stderr:
        found["no better than a baseline"] = f"no better than a baseline: the bound is {beside}"
    else:
        said = "fine" if not found else "better than all baselines"
        found[said] = f"{said}: the bound is {beside}"
    return found

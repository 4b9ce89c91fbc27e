"""Figures over time: the entropy rate and its integral against log-SNR, and the loss."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from entropix.studies.style import EXACT, MODEL, TRAINING, figure, legend_above


if TYPE_CHECKING:
    import xarray


def plot_entropy(record: "xarray.Dataset", path: Path) -> None:
    """Entropy rate and cumulative entropy against log-SNR, with error bands."""
    log_snr = record["log_snr"].values
    inside = np.isfinite(log_snr)
    x = log_snr[inside]
    with figure(path, (9.0, 3.8)) as made:
        left, right = made.subplots(1, 2)
        _band(left, x, record, "entropy_rate_log_snr", inside)
        _band(right, x, record, "cumulative_entropy", inside)
        train = record["cumulative_entropy_train"].mean("seed").values[inside]
        right.plot(x, train, color=TRAINING, lw=1.2, ls="--", label="training data")
        for axes, name in (
            (left, "total_entropy_rate_log_snr"),
            (right, "cumulative_total_entropy"),
        ):
            if name in record:
                axes.plot(x, record[name].values[inside], color=EXACT, lw=1, ls=":", label="exact")
        left.set_ylabel("entropy rate [nats per unit log-SNR]")
        right.set_ylabel("entropy from the data end [nats]")
        # The panels end where the rate has fallen to a thousandth of its peak.
        rate = record["entropy_rate_log_snr"].mean("seed").values[inside]
        seen = x[rate > 1e-3 * rate.max()]
        for axes in (left, right):
            # Time runs from the data (large log-SNR) to noise, from left to right.
            axes.set_xlim(seen.max() + 1, seen.min() - 1)
            axes.set_xlabel("log-SNR  (data → noise)")
            axes.set_ylim(bottom=0)
        legend_above(made, right)


def plot_divergence(record: "xarray.Dataset", path: Path) -> None:
    """The rate of KL against log-SNR in both directions, with error bands."""
    log_snr = record["log_snr"].values
    inside = np.isfinite(log_snr)
    x, names = log_snr[inside], (record.attrs["first"], record.attrs["second"])
    with figure(path, (9.0, 3.8)) as made:
        panels = made.subplots(1, 2)
        for axes, name, (own, other) in zip(
            panels, ("kl", "kl_reverse"), (names, names[::-1]), strict=True
        ):
            _band(axes, x, record, f"{name}_rate_log_snr", inside, "from denoising errors")
            score = record[f"{name}_score_rate_log_snr"].mean("seed").values[inside]
            axes.plot(x, score, color=TRAINING, lw=1.2, ls="--", label="from scores")
            exact = f"{name}_exact_rate_log_snr"
            if exact in record:
                axes.plot(x, record[exact].values[inside], color=EXACT, lw=1, ls=":", label="exact")
            seen = x[score > 1e-3 * score.max()]
            axes.set_xlim(seen.max() + 1, seen.min() - 1)
            axes.axhline(0, color="0.8", lw=0.8, zorder=0)
            axes.set_title(f"KL({own} || {other})")
            axes.set_xlabel("log-SNR  (data → noise)")
        panels[0].set_ylabel("rate [nats per unit log-SNR]")
        legend_above(made, panels[1])


def _band(
    axes: Any,
    x: np.ndarray,
    record: "xarray.Dataset",
    name: str,
    inside: np.ndarray,
    label: str = "held-out data",
) -> None:
    """The mean over seeds, a band of two standard errors, and the range over seeds."""
    values = record[name].values[:, inside]
    errors = record[f"{name}_stderr"].values[:, inside]
    mean, seeds = values.mean(axis=0), len(values)
    # One estimate's error: held-out samples are shared by the seeds, so it does not average out.
    error = np.sqrt(np.mean(errors**2, axis=0))
    if seeds > 1:
        axes.fill_between(
            x,
            values.min(axis=0),
            values.max(axis=0),
            color=MODEL,
            alpha=0.15,
            lw=0,
            label=f"range of {seeds} seeds",
        )
    axes.fill_between(
        x, mean - 2 * error, mean + 2 * error, color=MODEL, alpha=0.4, lw=0, label="± 2 std. errors"
    )
    label = label if seeds == 1 else f"{label}, mean of {seeds} seeds"
    axes.plot(x, mean, color=MODEL, lw=1.2, label=label)


def plot_loss(record: "xarray.Dataset", path: Path) -> None:
    """The loss of every step, faint, its running mean, and the loss on held-out data."""
    loss, step = record["loss"].values, record["step"].values
    window = max(1, len(step) // 20)
    with figure(path, (5.0, 3.4)) as made:
        axes = made.subplots()
        for i, seed in enumerate(record["seed"].values):
            colour, seeds = f"C{i % 10}", len(loss)
            of_seed = f", seed {seed}" if seeds > 1 else ""
            axes.plot(step, loss[i], color=colour, lw=0.4, alpha=0.2)
            axes.plot(
                np.convolve(step, np.ones(window) / window, mode="valid"),
                np.convolve(loss[i], np.ones(window) / window, mode="valid"),
                color=colour,
                lw=1.3,
                label=f"mean of {window} steps{of_seed}",
            )
            axes.plot(
                record["check"].values,
                record["loss_held_out"].values[i],
                color=colour,
                lw=1.3,
                ls="--",
                label=f"held-out data{of_seed}",
            )
        # Single steps may lie far out; the frame follows the bulk of them.
        low, high = np.quantile(loss, [0.01, 0.99])
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        axes.set_xlabel("training step")
        axes.set_ylabel(f"training loss [{record['loss'].attrs['units']}]")
        if len(loss) <= 4:
            legend_above(made, axes, columns=2)

"""The figures of the page `paper`, and the record behind them, from runs of the command line.

    python docs/figures/paper.py FOLDER [FOLDER ...]

adds runs of `entropix transport` and `entropix storage` in output folders to paper.json, and draws
them. Without a folder they are only drawn.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray
from make import FIGURES, shrink


RECORD = FIGURES / "paper.json"
NAMES = {"vp": "VP", "vpx": "VPx", "sl": "SL"}
PAPER = {3: 0.97, 6: 0.92}  # S_NN / S_tot of VPx after 200 epochs
IMAGES = {100: 1400, 1000: 1720, 10_000: 2220}  # S_NN of MNIST after 600 epochs
BATCH = 32
MIXTURES = {
    "S_NN": "neural_entropy",
    "S_NN_error": "neural_entropy_mc_stderr",
    "S_tot": "total_entropy",
    "S_tot_error": "total_entropy_mc_stderr",
    "L": "path_kl",
}
DIGITS = {
    "S_NN": "neural_entropy",
    "S_NN_error": "neural_entropy_stderr",
    "S_NN_training": "neural_entropy_train",
    "memorised": "memorised",
}


def runs_in(folder: str) -> dict[str, Any]:
    """The finished cells of a run, one entry for each network that is trained."""
    with xarray.open_dataset(Path(folder) / "results.nc") as record:
        asked = json.loads(record.attrs["configuration"])
        own = " --network paper" if asked.get("network") == "paper" else ""
        best = f"--best{own}, " if asked["preset"] == "best" else ""
        if asked["study"] == "transport":
            each, length, fields = ("dimension", "process", "seed"), "epochs", MIXTURES
        else:
            each, length, fields = ("size", "seed"), record.attrs["unit_of_length"], DIGITS
        found: dict[str, Any] = {}
        for key, cell in record.stack(run=each).groupby("run"):
            cell = cell.squeeze("run").dropna(length, subset=["neural_entropy"])
            lengths, seed = cell[length].values, key[-1]
            if asked["study"] == "transport":
                name = f"{best}D = {key[0]}, {NAMES[key[1]]}, seed {seed}"
            else:
                name = f"{best}MNIST, N = {key[0]}, seed {seed}"
                if length == "epochs":
                    lengths = -(-lengths * key[0] // BATCH)
                length = "steps"
            columns = {name: cell[of].values.round(5).tolist() for name, of in fields.items()}
            found[name] = {length: lengths.tolist(), **columns}
    return found


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Two records of one training: every length that was measured, and the newer of two results."""
    length = next(iter(new))
    of_length: dict[int, dict[str, Any]] = {}
    for run in (old, new):
        for values in zip(*run.values(), strict=True):
            row = dict(zip(run, values, strict=True))
            of_length[row[length]] = row
    return {name: [of_length[at][name] for at in sorted(of_length)] for name in new}


def ratios(runs: dict[str, Any], name: str) -> tuple[list[int], np.ndarray]:
    """The numbers of epochs of runs whose name begins so, and S_NN over S_tot of each seed."""
    own = [run for key, run in runs.items() if key.startswith(name)]
    values = [np.array(run["S_NN"]) / np.array(run["S_tot"]) for run in own]
    return own[0]["epochs"], np.array(values)


def draw_mixtures(runs: dict[str, Any], target: Path) -> None:
    """S_NN over S_tot against the number of epochs, for each dimension and process.

    Lines are means over seeds, and the coloured areas their range. Stars are those of `--best`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for dim, ax in zip(PAPER, axes, strict=True):
        for number, process in enumerate(NAMES.values()):
            name, style = f"D = {dim}, {process},", {"color": f"C{number}"}
            epochs, ratio = ratios(runs, name)
            ax.plot(epochs, ratio.mean(axis=0), "o-", ms=3, lw=1, label=process, **style)
            ax.fill_between(epochs, ratio.min(axis=0), ratio.max(axis=0), alpha=0.3, lw=0, **style)
            epochs, ratio = ratios(runs, f"--best, {name}")
            ax.plot(epochs, ratio.mean(axis=0), "*", ms=8, label=f"{process}, --best", **style)
        ax.axhline(1, color="0.7", lw=0.8)
        ax.plot(200, PAPER[dim], "kx", label="paper, VPx")
        ax.set(xlabel="epochs", title=f"D = {dim}")
    axes[-1].legend(loc="lower right")
    axes[0].set_ylabel(r"$S_{NN} / S_{tot}$")
    save(figure, target)


def draw_images(runs: dict[str, Any], target: Path) -> None:
    """S_NN of MNIST against the number of steps, for each number of training images.

    Dashed: on training images. Crosses: the values of the paper, after 600 epochs. Stars: the same
    network with the training of `--best`, hollow ones on training images.
    """
    figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for number, (size, paper) in enumerate(IMAGES.items()):
        style = {"color": f"C{number}", "lw": 1}
        for name, run in runs.items():
            if name.startswith(f"MNIST, N = {size},"):
                label = f"N = {size:,}" if name.endswith("seed 1") else None
                ax.plot(run["steps"], run["S_NN"], "o-", ms=3, label=label, **style)
                ax.plot(run["steps"], np.array(run["S_NN_training"], float), "--", **style)
            if name.startswith(f"--best --network paper, MNIST, N = {size},"):
                ax.plot(run["steps"], run["S_NN"], "*", ms=8, **style)
                ax.plot(run["steps"], run["S_NN_training"], "*", ms=8, mfc="none", **style)
        ax.plot(600 * size / BATCH, paper, "x", ms=7, mew=2, color=f"C{number}")
    ax.plot([], [], "kx", ms=7, mew=2, label="paper, 600 epochs")
    ax.plot([], [], "k*", ms=8, label="--best --network paper")
    ax.set(xscale="log", xlabel="training steps", ylabel=r"$S_{NN}$ [nats]")
    ax.legend(loc="upper right")
    save(figure, target)


def save(figure: plt.Figure, target: Path) -> None:
    """A small file of a figure."""
    with tempfile.TemporaryDirectory() as folder:
        figure.savefig(Path(folder) / "figure.png", dpi=150)
        shrink(Path(folder) / "figure.png", target)


if __name__ == "__main__":
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for folder in sys.argv[1:]:
        for name, run in runs_in(folder).items():
            record[name] = merged(record.get(name, {}), run)
    RECORD.write_text(json.dumps(dict(sorted(record.items())), indent=1) + "\n")
    draw_mixtures(record, FIGURES / "paper_transport.png")
    draw_images(record, FIGURES / "paper_storage.png")

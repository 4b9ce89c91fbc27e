"""The figure of the page `paper`, and the record behind it, from runs of `entropix transport`.

    python docs/figures/paper.py FOLDER [FOLDER ...]

adds the runs in output folders to paper.json, and draws it. Without a folder it is only drawn.
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
FIELDS = {
    "S_NN": "neural_entropy",
    "S_NN_error": "neural_entropy_mc_stderr",
    "S_tot": "total_entropy",
    "S_tot_error": "total_entropy_mc_stderr",
    "L": "path_kl",
}


def runs_in(folder: str) -> dict[str, Any]:
    """The finished cells of a run, one entry for each dimension, process and seed."""
    found: dict[str, Any] = {}
    with xarray.open_dataset(Path(folder) / "results.nc") as record:
        best = "--best, " if json.loads(record.attrs["configuration"])["preset"] == "best" else ""
        for key, cell in record.stack(run=("dimension", "process", "seed")).groupby("run"):
            dim, process, seed = key
            cell = cell.squeeze("run").dropna("epochs", subset=["neural_entropy"])
            columns = {name: cell[of].values.round(5).tolist() for name, of in FIELDS.items()}
            run = {"epochs": cell["epochs"].values.tolist(), **columns}
            found[f"{best}D = {dim}, {NAMES[process]}, seed {seed}"] = run
    return found


def ratios(runs: dict[str, Any], name: str) -> tuple[list[int], np.ndarray]:
    """The numbers of epochs of runs whose name begins so, and S_NN over S_tot of each seed."""
    own = [run for key, run in runs.items() if key.startswith(name)]
    values = [np.array(run["S_NN"]) / np.array(run["S_tot"]) for run in own]
    return own[0]["epochs"], np.array(values)


def draw(runs: dict[str, Any], target: Path) -> None:
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
    with tempfile.TemporaryDirectory() as folder:
        figure.savefig(Path(folder) / "figure.png", dpi=150)
        shrink(Path(folder) / "figure.png", target)


if __name__ == "__main__":
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for folder in sys.argv[1:]:
        record |= runs_in(folder)
    RECORD.write_text(json.dumps(dict(sorted(record.items())), indent=1) + "\n")
    draw(record, FIGURES / "paper_transport.png")

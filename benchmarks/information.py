"""Mutual information against the truth: `estimate_mutual_information`, KSG and CCA.

With `--tasks FOLDER`, the tasks of benchmark-mi that `benchmarks/benchmark_mi.py` wrote; without,
those of `benchmarks/information_tasks.py`.
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import entropix as ex
from benchmarks.information_tasks import TASKS
from benchmarks.reference import table


class Pair(NamedTuple):
    """Samples of a task, its true information, and results of other programs by name."""

    name: str
    x: np.ndarray
    y: np.ndarray
    truth: float
    others: dict[str, float]


def pairs(folder: Path | None, samples: int, seed: int) -> dict[str, Pair]:
    """The tasks by name."""
    found = {}
    if folder is None:
        for task in TASKS:
            x, y = map(np.asarray, task.sample(samples, key=jax.random.key(seed)))
            found[task.name] = Pair(task.name, x, y, task.information, {})
        return found
    for path in sorted(folder.glob("*.npz")):
        data = np.load(path)
        others = {k: float(data[k]) for k in data if k not in ("x", "y", "truth")}
        arrays = (data[name][:samples] for name in ("x", "y"))
        found[path.stem] = Pair(path.stem, *arrays, float(data["truth"]), others)
    return found


def ksg(x: np.ndarray, y: np.ndarray, neighbours: int = 3) -> tuple[float, float, float]:
    """Kraskov, Stoegbauer, Grassberger (cond-mat/0305641), first estimator, on standard scores."""
    from scipy.spatial import cKDTree
    from scipy.special import digamma

    start = time.perf_counter()
    x, y = (np.asarray((v - v.mean(0)) / v.std(0), float) for v in (x, y))
    n = x.shape[0]
    joint = cKDTree(np.concatenate([x, y], axis=1))
    radius = joint.query(joint.data, k=neighbours + 1, p=np.inf)[0][:, -1]
    radius = np.nextafter(radius, 0)  # strictly closer
    counts = [cKDTree(v).query_ball_point(v, radius, p=np.inf, return_length=True) for v in (x, y)]
    local = digamma(neighbours) + digamma(n) - sum(digamma(c) for c in counts)
    return float(local.mean()), float(local.std() / np.sqrt(n)), time.perf_counter() - start


def canonical(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """The Gaussian of the same covariance: minus half the log determinant; its local spread."""
    start = time.perf_counter()
    x, y = (np.asarray(v - v.mean(0), float) for v in (x, y))
    n = x.shape[0]

    def parts(v: np.ndarray) -> tuple[float, np.ndarray]:
        covariance = v.T @ v / n
        quadratic = np.sum(v * np.linalg.solve(covariance, v.T).T, axis=1)
        return np.linalg.slogdet(covariance)[1], quadratic

    (log_x, at_x), (log_y, at_y) = parts(x), parts(y)
    log_joint, at_joint = parts(np.concatenate([x, y], axis=1))
    local = (log_x + log_y - log_joint + at_x + at_y - at_joint) / 2
    return float(local.mean()), float(local.std() / np.sqrt(n)), time.perf_counter() - start


def run(pair: Pair, recipe: ex.information.Recipe, seed: int, with_ksg: bool) -> dict:
    """One task: values, errors and seconds of processor time."""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the result says whether training had converged
        found = ex.estimate_mutual_information(
            pair.x, pair.y, key=jax.random.key(seed), recipe=recipe
        )
    names = ("value", "stderr", "model_error", "denoising", "score", "fitted")
    result = {"task": pair.name, "truth": pair.truth}
    result |= {name: float(getattr(found, name)) for name in names}
    result |= {"converged": found.converged, "seconds": time.process_time() - start}
    baselines = {"cca": canonical} | ({"ksg": ksg} if with_ksg else {})
    for name, method in baselines.items():
        value, _, _ = method(pair.x, pair.y)
        result[name] = value
    return result | pair.others


def rows(results: list[dict]) -> list[list[str]]:
    """The table: value, errors, and the error of each method in per cent of the truth."""

    def relative(value: float, truth: float) -> str:
        return f"{100 * (value / truth - 1):+.1f}%" if truth else f"{value:+.3f}"

    return [
        [
            r["task"],
            f"{r['truth']:.3f}",
            f"{r['value']:.3f} ± {r['stderr']:.3f} ({r['model_error']:.3f})",
            *(relative(r[n], r["truth"]) if n in r else "" for n in ("value", "ksg", "cca")),
            *(relative(r[n], r["truth"]) if n in r else "" for n in ("mine", "infonce")),
            f"{r['seconds']:.0f}",
        ]
        for r in results
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=Path, help="a folder that benchmark_mi.py wrote")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="*", default=[""], help="tasks whose name holds one of these"
    )
    parser.add_argument("--folds", type=int, default=ex.information.Recipe().folds)
    parser.add_argument("--steps", type=int, default=ex.information.Recipe().steps)
    parser.add_argument(
        "--no-ksg", action="store_true", help="which takes minutes in many dimensions"
    )
    parser.add_argument("--out", type=Path, help="a file to which results are added, one a line")
    args = parser.parse_args()
    recipe = ex.information.Recipe(folds=args.folds, steps=args.steps)
    results = []
    for name, pair in pairs(args.tasks, args.samples, args.seed).items():
        if any(part in name for part in args.only):
            results.append(run(pair, recipe, args.seed, not args.no_ksg))
            print(json.dumps(results[-1]), flush=True)
            if args.out is not None:
                with args.out.open("a") as file:
                    file.write(json.dumps(results[-1]) + "\n")
    header = ["task", "truth", "entropix (model error)", "entropix", "KSG, k = 3", "CCA", "MINE"]
    table(
        f"I(X; Y) in nats, {args.samples} samples; errors in per cent of the truth",
        [*header, "InfoNCE", "seconds"],
        rows(results),
    )


if __name__ == "__main__":
    main()

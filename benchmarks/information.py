"""Mutual information against the truth: entropix in both forms, KSG, and canonical correlations."""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

import entropix as ex
from benchmarks.information_tasks import TASKS, Task
from benchmarks.yardstick import table


def network_model(x: jax.Array, y: jax.Array, *, key: jax.Array) -> ex.EntropyMatching:
    """A model of x given y, or not: the recipe of docs/information.md."""
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    dim, told = x.shape[1], y.shape[1]
    inner_key, skip_key = jax.random.split(key)
    inner = ex.FourierMLP(dim, condition_dim=told + 1, widths=(128, 128), key=inner_key)
    inner = ex.networks.LinearSkip(inner, dim, condition_dim=told + 1, num_flags=1, key=skip_key)
    network = ex.networks.ConditionDropout(inner, told, rate=0.4)
    return ex.EntropyMatching(network, process, ex.GaussianScaling.from_data(x, process))


def entropix(
    first: np.ndarray, second: np.ndarray, *, key: jax.Array, steps: int
) -> dict[str, tuple]:
    """Train on four fifths, measure on the rest: (value, error) in each form, and seconds."""
    start = time.perf_counter()
    cut = 4 * first.shape[0] // 5
    # Coordinates of unit size, as for any network; an affine map leaves the information as it is.
    x, y = (jnp.asarray(v / v[:cut].std(0)) for v in (first, second))
    model_key, fit_key, key = jax.random.split(key, 3)
    model = network_model(x[:cut], y[:cut], key=model_key)
    model = ex.fit(
        model,
        x[:cut],
        condition=y[:cut],
        key=fit_key,
        steps=steps,
        batch_size=128,
        loss=ex.Denoising(num_draws=4),
        learning_rate=4e-3,
    ).model
    out = {}
    for form, count in (("denoising", 65_536), ("score", 32_768)):
        estimate = ex.mutual_information(
            model, x[cut:], y[cut:], key=key, form=form, num_evaluations=count
        )
        out[form] = (float(estimate.value), float(estimate.stderr))
    return {name: (*pair, time.perf_counter() - start) for name, pair in out.items()}


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


def run(task: Task, n: int, steps: int, seed: int) -> list[str]:
    """One row of the table."""
    sample_key, key = jax.random.split(jax.random.key(seed))
    x, y = map(np.asarray, task.sample(n, key=sample_key))
    ours = entropix(x, y, key=key, steps=steps)
    others = {
        "ksg": ksg(x, y),
        "cca": canonical(x, y),
    }
    row = [task.name, f"{task.information:.3f}"]
    for value, error, _ in (*ours.values(), *others.values()):
        row.append(f"{value:.3f} ± {error:.3f}")
    seconds = [max(s for *_, s in ours.values()), others["ksg"][2], others["cca"][2]]
    return [*row, " / ".join(f"{s:.0f}" if s >= 1 else f"{s:.2g}" for s in seconds)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="tasks whose name holds this")
    args = parser.parse_args()
    rows = []
    for task in TASKS:
        if args.only in task.name:
            rows.append(run(task, args.samples, args.steps, args.seed))
            print(" | ".join(rows[-1]), flush=True)
    table(
        f"I(X; Y) in nats, {args.samples} samples",
        [
            "task",
            "truth",
            "entropix, denoising form",
            "entropix, score form",
            "KSG, k = 3",
            "Gaussian (CCA)",
            "seconds: entropix / KSG / CCA",
        ],
        rows,
    )


if __name__ == "__main__":
    main()

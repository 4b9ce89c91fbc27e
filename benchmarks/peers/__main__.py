"""Log densities of other packages beside ours, of the same mixture with the same exact field.

    python -m benchmarks.peers --flow-matching PYTHON --sbgm PYTHON

`PYTHON` is the interpreter of an environment with that package (`flow_matching` needs torch, and
tqdm besides; `sbgm` needs Python 3.12, and pins releases of jax and Equinox that are too old here).
The peers run in processes of their own and need nothing of this project. Without its option a peer
is left out.
"""

import argparse
import json
import subprocess
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import entropix as ex
from benchmarks.density import evaluations, groups
from benchmarks.reference import table


HERE, ROUNDS, POINTS = Path(__file__).parent, 5, 200
PROCESSES = {
    "flow_matching": ex.RectifiedFlow(),
    "sbgm": ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0)),
}
METHODS = {
    "ProbabilityFlow()": ex.ProbabilityFlow(),
    "ProbabilityFlow('hutchinson')": ex.ProbabilityFlow("hutchinson"),
}


def ours(truth: ex.GaussianMixture, process, x: jax.Array) -> dict[str, dict]:
    """The same record that the peers print."""
    results = {}
    for name, method in METHODS.items():
        options = {"method": method, "key": jax.random.key(0)}
        exact = ex.ExactModel(truth, process)
        run = eqx.filter_jit(lambda model, x, o=options: ex.log_prob(model, x, **o).value)
        jax.block_until_ready(run(exact, x))
        seconds = []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            values = jax.block_until_ready(run(exact, x))
            seconds.append(time.perf_counter() - begin)
        count, products = evaluations(exact, x[:10], method)
        results[name] = {
            "log_prob": np.asarray(values).tolist(),
            "seconds": min(seconds),
            "evaluations": count,
            "products": products,
        }
    return results


def theirs(peer: str, python: str, truth: ex.GaussianMixture, x: jax.Array) -> dict[str, dict]:
    """What the peer's script prints, run by the interpreter that has it."""
    problem = {
        "weights": np.exp(truth.log_weights).tolist(),
        "means": truth.means.tolist(),
        "variances": np.broadcast_to(truth.stds**2, truth.means.shape).tolist(),
        "points": x.tolist(),
        "rounds": ROUNDS,
    }
    command = [python, str(HERE / f"with_{peer}.py")]
    done = subprocess.run(command, input=json.dumps(problem), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print one table for each peer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for peer in PROCESSES:
        parser.add_argument(f"--{peer.replace('_', '-')}", metavar="PYTHON", dest=peer)
    pythons = vars(parser.parse_args())
    if not any(pythons.values()):
        parser.error("name the interpreter of at least one peer.")
    for peer, python in pythons.items():
        if python is None:
            continue
        rows = []
        for dim in (2, 20):
            truth = groups(dim)
            x = truth.sample(POINTS, key=jax.random.key(0))
            runs = {f"{peer}: {name}": r for name, r in theirs(peer, python, truth, x).items()}
            runs |= {f"entropix: {name}": r for name, r in ours(truth, PROCESSES[peer], x).items()}
            for name, run in runs.items():
                error = jnp.array(run["log_prob"]) - truth.log_prob(x)
                rows.append(
                    [
                        str(dim),
                        name,
                        f"{run['evaluations']:.0f}",
                        f"{run['evaluations'] * (1 + run['products']):.0f}",
                        f"{float(jnp.sqrt(jnp.mean(error**2))):.2g}",
                        f"{1e3 * run['seconds']:.0f}",
                    ]
                )
        table(
            f"Log densities of {POINTS} samples of a mixture, {type(PROCESSES[peer]).__name__}",
            ["D", "method", "evaluations", "with products", "rms error (nats)", "ms"],
            rows,
        )


if __name__ == "__main__":
    main()

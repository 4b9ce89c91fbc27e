"""What is to be measured on an accelerator, in one run: `bash benchmarks/device.sh`.

| entry of the JSON file | question |
|---|---|
| `seeds` | 16 and 256 seeds as one program, against one |
| `images` | training of U-Net and DiT: images a second, share of the rate of matrix products |
| `storage` | S_NN of MNIST against N, `--paper` and `--best`, as many epochs as time allows |
| `estimators` | evaluations a second, as a share of the rate of the network alone |
| `compilation` | seconds to compile, programs compiled by a second call, arrays fetched per chunk |

The file is written after each part. One that fails leaves its error there, and the others run.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import entropix as ex
import entropix.training.run
from benchmarks.images import throughput
from benchmarks.reference import mixture, processes


# Seconds for everything; what the other parts leave is for storage.
BUDGET = 510.0
COMPILED = "/jax/core/compile/backend_compile_duration"


def best_time(run: Callable[[], Any], rounds: int = 3) -> float:
    """Seconds of the fastest run; the first, which compiles, does not count."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return min(times[1:])


def small_models() -> tuple[Callable[[jax.Array], ex.EntropyMatching], jax.Array]:
    """The function from a key to a model of the mixture in three dimensions, and its data."""
    process = processes()["VPx"]
    data = mixture(3).sample(8192, key=jax.random.key(0))
    scaling = ex.GaussianScaling.from_data(data, process)

    def make(key: jax.Array) -> ex.EntropyMatching:
        return ex.EntropyMatching(ex.FourierMLP(3, key=key), process, scaling)

    return make, data


def seeds(quick: bool) -> dict[str, Any]:
    """Seconds of the same training for several numbers of seeds."""
    make, data = small_models()
    steps, counts = (10, (1, 4)) if quick else (200, (1, 16, 256))
    once = ex.training.Callback(lambda *_: None, every=steps)  # all steps as one chunk
    found: dict[str, Any] = {"steps": steps, "batch_size": 32, "num_draws": 10}
    for count in counts:
        keys = jax.random.split(jax.random.key(1), count)
        seconds = best_time(
            lambda keys=keys: (
                ex.fit_ensemble(make, data, keys=keys, steps=steps, callback=once).history.loss
            ),
            1 if quick or count > 16 else 3,
        )
        found[f"seconds_{count}"] = seconds
        found[f"ratio_{count}"] = seconds / found["seconds_1"]
        params = sum(leaf.size for leaf in jax.tree.leaves(make(keys[0]).network))
        found["bytes_per_member"] = 4 * 3 * params  # parameters and two moments, float32
    return found


def estimators(quick: bool) -> dict[str, Any]:
    """Evaluations a second of estimators and of their networks."""
    make, data = small_models()
    process = processes()["VP"]
    shape = (8, 8) if quick else (28, 28)
    images = jax.random.uniform(jax.random.key(2), (1024, *shape))
    unet = ex.EntropyMatching(
        ex.UNet(shape, key=jax.random.key(0), widths=(8,) if quick else (32, 64, 128)),
        process,
        ex.GaussianScaling.from_data(images, process),
    )
    found = {}
    for name, model, points, chunk, count in (
        ("FourierMLP, D = 3", make(jax.random.key(0)), data, 4096, 2**13 if quick else 2**19),
        (f"UNet, {shape[0]} x {shape[1]}", unet, images, 1024, 2**10 if quick else 2**15),
    ):
        levels = jnp.linspace(-4.0, 4.0, chunk)
        batch = jnp.resize(points, (chunk, *points.shape[1:]))
        forward = jax.jit(jax.vmap(lambda level, y, network=model.network: network(level, y)))
        rate = chunk / best_time(lambda f=forward, a=(levels, batch): f(*a), 10)
        runs = {
            "neural_entropy": lambda model=model, points=points, chunk=chunk, count=count: (
                ex.neural_entropy(
                    model,
                    points,
                    key=jax.random.key(3),
                    num_evaluations=count,
                    chunk_size=chunk,
                    cutoff=0.02,
                ).value
            ),
            "log_prob": lambda model=model, points=points, chunk=chunk, count=count: (
                ex.log_prob(
                    model,
                    points[: count // 64],
                    key=jax.random.key(3),
                    method=ex.PathBound(num_evaluations=64),
                    chunk_size=chunk,
                    cutoff=0.02,
                ).value
            ),
        }
        row: dict[str, Any] = {"network_per_second": rate, "evaluations": count}
        for estimator, run in runs.items():
            row[f"{estimator}_per_second"] = count / best_time(run)
            row[f"{estimator}_share"] = row[f"{estimator}_per_second"] / rate
        found[name] = row
    return found


def compilation(quick: bool) -> dict[str, Any]:
    """Programs and seconds of first and second calls; arrays fetched for each chunk of steps."""
    make, data = small_models()
    durations: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: durations.append(seconds) if name == COMPILED else None
    )
    model, chunks, every = make(jax.random.key(0)), 4, 5 if quick else 100
    calls: dict[str, Callable[[int], Any]] = {
        "fit": lambda i: (
            ex.fit(
                make(jax.random.key(i)),
                data,
                key=jax.random.key(i),
                steps=chunks * every,
                callback=ex.training.Callback(lambda *_: None, every=every),
            ).history.loss
        ),
        "neural_entropy": lambda i: (
            ex.neural_entropy(model, data, key=jax.random.key(i), num_evaluations=4096).value
        ),
        "sample": lambda i: ex.sample(model, key=jax.random.key(i), num_samples=64, num_steps=16),
    }
    jax.clear_caches()
    found: dict[str, Any] = {}
    for name, call in calls.items():
        for turn in ("first", "second"):
            durations.clear()
            start = time.perf_counter()
            jax.block_until_ready(call(turn == "second"))
            found[f"{name}_{turn}"] = {
                "seconds": time.perf_counter() - start,
                "compiled": len(durations),
                "seconds_of_compilation": sum(durations),
            }
    fetched, original = 0, entropix.training.run.to_host

    def counting(array: Any) -> Any:
        nonlocal fetched
        fetched += 1
        return original(array)

    entropix.training.run.to_host = counting
    try:
        calls["fit"](2)
    finally:
        entropix.training.run.to_host = original
    return found | {"arrays_fetched_per_chunk": fetched / chunks}


def storage(quick: bool, mnist: Path, deadline: float) -> dict[str, Any]:
    """S_NN against N, by the command line; each command ends when its share of the time is over."""
    with tempfile.TemporaryDirectory() as folder:
        if quick:
            mnist = Path(folder) / "noise"
            _write_noise(mnist)
        if not mnist.is_dir():
            return {"skipped": f"no folder {mnist}"}
        sizes, lengths = (100, 1000, 10_000), (5, 10, 20, 40, 80, 160, 320, 600)
        effort = "--evaluations 8192 --samples 64 --sampling-steps 50"
        if quick:
            sizes, lengths, effort = (
                (32,),
                (1, 2),
                "--evaluations 256 --samples 2 --sampling-steps 2",
            )
        work = [(preset, size) for size in sizes for preset in ("paper", "best")]
        found: dict[str, Any] = {}
        for i, (preset, size) in enumerate(work):
            until = time.monotonic() + (deadline - time.monotonic()) / (len(work) - i)
            # Lengths of --best are separate trainings: one after the other while there is time.
            groups = [lengths] if preset == "paper" else [(length,) for length in lengths]
            rows: dict[str, Any] = {}
            for group in groups:
                if time.monotonic() > until:
                    break
                out = Path(folder) / f"{preset}-{size}-{group[-1]}"
                words = f"storage {mnist} --{preset} --sizes {size} --seeds 1 {effort} --out {out}"
                words += f" --epochs {' '.join(map(str, group))} --no-plots --quiet"
                rows |= _measured(words.split(), out, until)
            found[f"{preset}, N = {size}"] = rows
        return found


def _measured(words: list[str], out: Path, until: float) -> dict[str, Any]:
    """S_NN by the number of epochs, of the cells that are finished in time."""
    import xarray

    process = subprocess.Popen([sys.executable, "-m", "entropix.cli", *words])
    try:
        process.wait(max(1.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # writes what is finished
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if not (out / "results.nc").exists():
        return {}
    with xarray.open_dataset(out / "results.nc", engine="h5netcdf") as record:
        part = record.isel(size=0, seed=0)
        return {
            str(int(epochs)): {
                name: float(part[name].sel(epochs=epochs))
                for name in ("neural_entropy", "neural_entropy_stderr", "loss")
            }
            | {"cutoff": record.attrs["cutoff"]}
            for epochs in part["epochs"].values
            if np.isfinite(part["neural_entropy"].sel(epochs=epochs))
        }


def _write_noise(folder: Path) -> None:
    """Random images of 17 x 17 in the format of MNIST, for `--quick`."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", 64), ("t10k", 16)):
        for name, array in (
            ("images-idx3", rng.integers(0, 256, (count, 17, 17))),
            ("labels-idx1", np.arange(count) % 4),
        ):
            header = bytes([0, 0, 8, array.ndim])
            header += b"".join(size.to_bytes(4, "big") for size in array.shape)
            content = header + array.astype(np.uint8).tobytes()
            (folder / f"{split}-{name}-ubyte").write_bytes(content)


def main() -> None:
    """Measure and write the file."""
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--mnist", type=Path, default=Path("mnist"), help="folder of IDX files")
    parser.add_argument("--out", type=Path, default=Path("device.json"), help="the JSON file")
    given = parser.parse_args()
    device = jax.devices()[0]
    found: dict[str, Any] = {
        "device": device.device_kind,
        "platform": device.platform,
        "cpus": os.cpu_count(),
        "quick": given.quick,
        "versions": {"entropix": ex.__version__, "jax": jax.__version__},
    }
    parts: dict[str, Callable[[], Any]] = {
        "seeds": lambda: seeds(given.quick),
        "images": lambda: throughput(given.quick),
        "estimators": lambda: estimators(given.quick),
        "compilation": lambda: compilation(given.quick),
        "storage": lambda: storage(
            given.quick, given.mnist, time.monotonic() + BUDGET if given.quick else start + BUDGET
        ),
    }
    for name, part in parts.items():
        began = time.monotonic()
        try:
            found[name] = part()
        except Exception as error:  # the other parts are worth having
            found[name] = {"error": f"{type(error).__name__}: {error}"}
        found.setdefault("seconds", {})[name] = round(time.monotonic() - began, 1)
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    print(f"written to {given.out} in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()

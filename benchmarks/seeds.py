"""Many seeds as one program against the sum of single runs, interleaved; on any device."""

import statistics
import time

import jax

import entropix as ex
from benchmarks.yardstick import mixture, processes, table


STEPS, ROUNDS = 100, 5
COUNTS = (1, 4, 16)


def main() -> None:
    """Print the table."""
    process = processes()["VPx"]
    data = mixture(3).sample(8192, key=jax.random.key(0))
    scaling = ex.GaussianScaling.from_data(data, process)
    rows = []
    for widths, batch in (((512, 256), 32), ((128, 128), 128)):

        def make(key: jax.Array, widths: tuple[int, ...] = widths) -> ex.EntropyMatching:
            return ex.EntropyMatching(ex.FourierMLP(3, key=key, widths=widths), process, scaling)

        once = ex.training.Callback(lambda *_: None, every=STEPS)  # all steps as one chunk
        options = {"steps": STEPS, "callback": once, "batch_size": batch}
        for count in COUNTS[1:]:
            keys = jax.random.split(jax.random.key(1), count)
            together, one_by_one, first = [], [], []
            for number in range(ROUNDS + 1):
                start = time.perf_counter()
                jax.block_until_ready(
                    ex.fit_ensemble(make, data, keys=keys, **options).history.loss
                )
                middle = time.perf_counter()
                for index, key in enumerate(keys):
                    jax.block_until_ready(ex.fit(make(key), data, key=key, **options).history.loss)
                    if index == 0:
                        alone = time.perf_counter() - middle
                end = time.perf_counter()
                if number:  # the first round compiles
                    together.append(middle - start)
                    one_by_one.append(end - middle)
                    first.append(alone)

            def ratio(times: list[float], to: list[float]) -> str:
                return f"{statistics.median(a / b for a, b in zip(times, to, strict=True)):.2f}"

            rows.append(
                [
                    str(count),
                    ", ".join(map(str, widths)),
                    str(batch),
                    f"{1e3 * statistics.median(together) / STEPS:.2f}",
                    ratio(together, one_by_one),
                    ratio(together, first),
                ]
            )
    table(
        f"Seeds as one program, {STEPS} steps of 10 draws ({jax.devices()[0].device_kind})",
        ["seeds", "widths", "batch", "ms a step", "ratio to single runs", "ratio to one run"],
        rows,
    )


if __name__ == "__main__":
    main()

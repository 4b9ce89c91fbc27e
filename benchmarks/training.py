"""Path KL against training time: `ex.fit` with its defaults, and the paper's scheme."""

import time

import jax

import entropix as ex
from benchmarks.yardstick import mixture, processes, table, train


SAMPLES, BATCH, DRAWS, EPOCHS, PATIENCE = 8192, 32, 10, 10, 10


def main() -> None:
    """Print the table."""
    truth, rows = mixture(3), []
    data = truth.sample(SAMPLES, key=jax.random.key(0))
    fresh = truth.sample(20_000, key=jax.random.key(1))
    steps = EPOCHS * SAMPLES // BATCH

    def measure(model: ex.EntropyMatching) -> tuple[ex.Estimate, ex.Estimate]:
        exact = ex.ExactModel(truth, model.process)
        loss = ex.path_kl(model, exact, fresh, key=jax.random.key(2), num_evaluations=20_000)
        stored = ex.neural_entropy(model, fresh, key=jax.random.key(3), num_evaluations=20_000)
        return loss, stored

    for name, process in processes().items():
        total = ex.neural_entropy(ex.ExactModel(truth, process), fresh, key=jax.random.key(4))
        rows.append([name, "exact", "", "0", str(total)])
        network = ex.FourierMLP(3, key=jax.random.key(5))
        scaling = ex.GaussianScaling.from_data(data, process)
        model = ex.EntropyMatching(network, process, scaling)
        options = {"batch_size": BATCH, "loss": ex.Denoising(num_draws=DRAWS)}
        ex.fit(model, data, key=jax.random.key(6), steps=100, **options)  # compiles
        start = time.perf_counter()
        fit = ex.fit(model, data, key=jax.random.key(6), steps=steps, **options)
        jax.block_until_ready(fit.model)
        ours = time.perf_counter() - start
        loss, stored = measure(fit.model)
        rows.append([name, f"entropix, {EPOCHS} epochs", f"{ours:.1f}", str(loss), str(stored)])

        bare = ex.EntropyMatching(network, process)
        first = True
        for seconds, trained in train(bare, data, key=jax.random.key(7), batch=BATCH, draws=DRAWS):
            if first or seconds > PATIENCE * ours:
                loss, stored = measure(trained)
                label = "yardstick, 1 epoch" if first else f"yardstick, {PATIENCE}x the time"
                rows.append([name, label, f"{seconds:.1f}", str(loss), str(stored)])
                first = False
            if seconds > PATIENCE * ours:
                break
    table(
        f"Training on the D = 3 mixture: N = {SAMPLES}, batch {BATCH}, {DRAWS} draws (nats)",
        ["process", "scheme", "seconds", "path KL", "S_NN"],
        rows,
    )


if __name__ == "__main__":
    main()

"""The schema of a comparison of two data sets, first and second, and what its table shows."""

from entropix.studies.record import TRAINING, Schema


_SEED, _TIME = ("seed",), ("seed", "time")
_RATE = "nats per unit log-SNR"


def _direction(name: str, what: str) -> Schema:
    """The variables of a divergence in one direction."""
    return {
        name: (_SEED, "nats", f"{what}, difference of denoising errors, held-out data"),
        f"{name}_stderr": (_SEED, "nats", "its standard error, for the population"),
        f"{name}_score": (_SEED, "nats", f"{what}, difference of scores, held-out data"),
        f"{name}_score_stderr": (_SEED, "nats", "its standard error, for the population"),
        f"{name}_rate_log_snr": (_TIME, _RATE, f"rate of {what}, denoising errors"),
        f"{name}_rate_log_snr_stderr": (_TIME, _RATE, "its standard error (Monte Carlo)"),
        f"{name}_score_rate_log_snr": (_TIME, _RATE, f"rate of {what}, scores"),
        f"{name}_score_rate_log_snr_stderr": (_TIME, _RATE, "its standard error (Monte Carlo)"),
        f"{name}_exact": ((), "nats", f"exact {what}, held-out data"),
        f"{name}_exact_stderr": ((), "nats", "its standard error, for the population"),
        f"{name}_exact_rate_log_snr": (("time",), _RATE, f"exact rate of {what}"),
    }


PAIR_SCHEMA: Schema = {
    **TRAINING,
    **_direction("kl", "KL(first || second)"),
    **_direction("kl_reverse", "KL(second || first)"),
    "wasserstein2": ((), "model units", "W2 between the two sets"),
    "wasserstein2_stderr": ((), "model units", "its standard error, for samples of this size"),
    "wasserstein2_null_first": ((), "model units", "W2 of two parts of the first set, same size"),
    "wasserstein2_null_first_stderr": ((), "model units", "its standard error"),
    "wasserstein2_null_second": ((), "model units", "W2 of two parts of the second, same size"),
    "wasserstein2_null_second_stderr": ((), "model units", "its standard error"),
    "wasserstein2_count": ((), "1", "samples on either side of every W2"),
}


def pair_rows(first: str, second: str) -> tuple[tuple[str, str], ...]:
    """What the table shows, in this order."""
    rows = []
    names = {"kl": (first, second), "kl_reverse": (second, first)}
    for name, (one, other) in names.items():
        text = f"KL({one} || {other})"
        rows += [
            (name, f"{text}, from denoising errors"),
            (f"{name}_score", f"{text}, from scores"),
            (f"{name}_exact", f"exact {text}, same samples"),
        ]
    return (
        *rows,
        ("wasserstein2", f"W2, {first} to {second}"),
        ("wasserstein2_null_first", f"W2, {first} to itself"),
        ("wasserstein2_null_second", f"W2, {second} to itself"),
    )

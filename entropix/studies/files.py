"""Names of the files in an output folder."""

CONFIGURATION = "configuration.json"
CHECKPOINT = "training.ckpt"
RECORD, REPORT = "results.nc", "report.md"
DIVERGENCE = "divergence.png"
ENTROPY, SAMPLES, LOG_DENSITY, LOSS = "entropy.png", "samples.png", "log_density.png", "loss.png"
SCHEDULES, PRICES, STEPS = "schedules.png", "prices.png", "steps.png"
RETRAINING = "retraining.ckpt"
CELLS = "cells"
EPOCHS, MATCHING = "epochs.png", "matching.png"
STORAGE, MEMORISATION = "storage.png", "memorisation.png"


def model_file(seed: int) -> str:
    """The trained model of a seed."""
    return f"model-{seed}.eqx"


def schedule_file(name: str, seed: int) -> str:
    """The process with the schedule that was found for an objective."""
    return f"schedule-{name}-{seed}.eqx"


# What a killed run may leave half written, and all that a new one may find of an earlier one.
PARTS_OF_A_STUDY = (f"{CHECKPOINT}.*.tmp", f"{RETRAINING}.*.tmp")
OF_A_STUDY = (
    f"{CHECKPOINT}*",
    f"{RETRAINING}*",
    f"{CELLS}/*",
    RECORD,
    REPORT,
    DIVERGENCE,
    ENTROPY,
    SAMPLES,
    LOG_DENSITY,
    LOSS,
    SCHEDULES,
    PRICES,
    STEPS,
    EPOCHS,
    MATCHING,
    STORAGE,
    MEMORISATION,
    model_file(0).replace("0", "[0-9]*"),
    "schedule-*.eqx",
)

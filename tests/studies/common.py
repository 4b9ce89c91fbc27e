"""What the tests of the studies share: measurements small enough to run in seconds."""

import dataclasses
from typing import Any

from entropix.studies import (
    DataOptions,
    EstimationOptions,
    MeasureOptions,
    OutputOptions,
    ProcessOptions,
    TrainingOptions,
)


NUM_SAMPLES = 160
# One set of sizes everywhere: programs compiled for one test serve the others.
DATA = DataOptions(num_samples=NUM_SAMPLES)
TRAINING = TrainingOptions(
    steps=60,
    patience=0,
    batch_size=32,
    num_draws=2,
    widths=(16,),
    checkpoint_every=20,
    learning_rate=1e-2,
)
ESTIMATION = EstimationOptions(
    evaluations=1024, density_evaluations=16, samples=32, sampling_steps=8
)


def options(out: Any, *, training: dict | None = None, **groups: dict) -> MeasureOptions:
    """Small options, writing to `out`; each group may change some of its own."""
    defaults = {
        "data": DATA,
        "process": ProcessOptions(),
        "estimation": ESTIMATION,
        "output": OutputOptions(out=str(out), quiet=True, plots=False),
    }
    changed = {
        name: dataclasses.replace(value, **groups.get(name, {})) for name, value in defaults.items()
    }
    return MeasureOptions(training=dataclasses.replace(TRAINING, **(training or {})), **changed)


# The same on the command line.
WORDS = (
    f"--num-samples {NUM_SAMPLES} --steps 60 --patience 0 --batch-size 32 --num-draws 2 "
    "--widths 16 --checkpoint-every 20 --learning-rate 0.01 --evaluations 1024 "
    "--density-evaluations 16 --samples 32 --sampling-steps 8 --no-plots"
).split()

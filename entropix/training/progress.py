"""What the user sees of a training run while it goes on."""

from typing import Any

import jax
import numpy as np

from entropix.training.options import Options


class ProgressBar:
    """Loss, rate and time left on the terminal; silent without `progress`."""

    def __init__(self, bar: Any):
        self.bar = bar

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, steps: int, metrics: dict[str, Any]) -> None:
        if self.bar is not None:
            shown = {
                name.removesuffix("_loss"): f"{np.mean(value):.4g}"
                for name, value in metrics.items()
                if name != "gradient_norm"
            }
            self.bar.set_postfix(shown, refresh=False)
            self.bar.update(steps)


def progress_bar(options: Options, start: int) -> ProgressBar:
    """The bar of a run that begins after `start` steps.

    Raises:
        ImportError: if it is asked for and tqdm is not installed.
    """
    if not options.progress or jax.process_index() > 0:
        return ProgressBar(None)
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(
            "`progress=True` needs tqdm: python -m pip install 'entropix[studies]'"
        ) from error
    return ProgressBar(tqdm(total=options.steps, initial=start, unit="step", desc="training"))

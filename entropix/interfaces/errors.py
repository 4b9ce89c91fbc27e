"""`DivergenceError`: an integral that has no finite value."""

from typing import Any


class DivergenceError(ValueError):
    r"""An integral over noise levels is infinite, or is decided by rounding.

    Attributes:
        slope: d value / d(-ln noise std) where the integral was seen to diverge, in nats: the
            codimension of the data for an entropy. None where it was not measured.
        remedy: the argument that makes the value finite, such as `"cutoff"`; None where none does.
    """

    slope: float | None
    remedy: str | None

    def __init__(self, message: str, *, slope: Any = None, remedy: str | None = None):
        super().__init__(message)
        self.slope = None if slope is None else float(slope)
        self.remedy = remedy

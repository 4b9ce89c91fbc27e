"""Numbers as text."""

import numpy as np


def format_with_error(value: float, error: float) -> str:
    """Write a value and its standard error with two significant digits of the error."""
    if not np.isfinite(error) or not np.isfinite(value):
        return f"{value:.6g} ± {error:.2g}"
    if error <= 0:
        return f"{value:.6g} ± 0"
    digits = 1 - int(np.floor(np.log10(float(f"{error:.1e}"))))
    if digits > 12:
        return f"{value:.12g} ± {error:.2g}"
    digits = max(digits, 0)
    return f"{value:.{digits}f} ± {error:.{digits}f}"

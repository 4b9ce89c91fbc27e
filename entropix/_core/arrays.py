r"""Array types, and the conversion of user input to arrays of real numbers.

Numbers in modules are arrays of an explicit dtype: a Python float in a module would be a static
constant for `jax.jit` (one compilation for each value) without gradient.

| input | result |
|---|---|
| Python numbers, nested lists and tuples of them; arrays of bool, int or uint | JAX's default: float32, or float64 with `jax_enable_x64` |
| float32 | float32 |
| float16, bfloat16, float8 | float32 |
| float64, longdouble | float64 with `jax_enable_x64`, otherwise float32 |
| any byte order, memory layout or strides | the same numbers |
| objects with `__array__` or `__dlpack__`: pandas, xarray, torch, ... | as the array they return |
| arrays of Python objects that are all real numbers: int of any size, Fraction, Decimal | as Python numbers |
| masked arrays | as arrays if nothing is masked, otherwise rejected |
| complex numbers, dates and durations, text, bytes, records, missing values, ragged lists | rejected |

Numbers are rounded to the dtype. Numbers that it cannot represent at all are rejected: finite ones
that would become infinite, arrays in which every number would become zero, and different integers
that would become equal.
"""  # noqa: E501

import contextlib
import decimal
import numbers
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Real
from jaxtyping import ArrayLike as ArrayLike


Scalar: TypeAlias = Float[Array, ""]
State: TypeAlias = Float[Array, "*shape"]  # one example
RealLike: TypeAlias = Real[ArrayLike, "..."]  # elementwise: a number or an array of any shape
RealScalarLike: TypeAlias = Real[ArrayLike, ""]


@runtime_checkable
class SupportsArray(Protocol):
    """What NumPy can read: tables of pandas, arrays of xarray, tensors of torch, ..."""

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray: ...


DataLike: TypeAlias = ArrayLike | Sequence[Any] | SupportsArray  # see the table above
Key: TypeAlias = PRNGKeyArray | Array  # a typed key, or the legacy array of two uint32

_REAL = (numbers.Real, decimal.Decimal, np.bool_)
_TRACED = (numbers.Number, np.ndarray, np.generic, jax.Array)
_X64 = "call jax.config.update('jax_enable_x64', True) first"


def as_float(x: Any, name: str = "x") -> Array:
    """Convert to a strongly typed floating array; the table of the module lists what is accepted.

    Concrete input stays concrete inside `jax.jit`, so that checks run immediately. The result
    shares no memory with a NumPy array, which may change later.

    Args:
        x: see the table.
        name: of the argument, for errors.

    Raises:
        ValueError: if `x` does not hold real numbers, or the dtype cannot represent them.
    """
    if getattr(x, "weak_type", True) is False and x.dtype == _floating(x.dtype):
        return x
    return _converted(x, f"`{name}`", integers=False)


def as_number(x: Any, name: str = "x") -> Array:
    """As `as_float`, but integers and booleans (labels and conditions) keep their kind.

    Raises:
        ValueError: as `as_float`.
    """
    return _converted(x, f"`{name}`", integers=True)


def real_array(x: Any, subject: str) -> np.ndarray:
    """Real numbers on the host in native byte order: bool, int, uint, float32, float64, longdouble.

    Args:
        x: see the table of the module.
        subject: the name of `x` in errors.

    Raises:
        ValueError: if `x` does not hold real numbers.
    """
    host, exact = _on_host(x, subject)
    if exact is not host:
        _check_distinct(exact, host, subject)
    return host


def rounded(
    array: np.ndarray, dtype: Any, subject: str, exact: np.ndarray | None = None
) -> np.ndarray:
    """A copy with another real dtype.

    Args:
        array: real numbers, as returned by `real_array`.
        dtype: of the result.
        subject: the name of the array in errors.
        exact: the same numbers before NumPy rounded them, or None.

    Raises:
        ValueError: if `dtype` cannot represent them.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        converted = array.astype(dtype)
    _check_range(array if exact is None else exact, converted, subject)
    return converted


def check_real(dtype: Any, subject: str) -> None:
    """Raise ValueError if a dtype is not one of real numbers."""
    real = any(jnp.issubdtype(dtype, kind) for kind in (np.bool_, np.integer, np.floating))
    if real and not jnp.issubdtype(dtype, np.timedelta64):  # an integer type of NumPy
        return
    kinds = {"c": "complex numbers", "M": "dates", "m": "durations", "U": "text", "S": "bytes"}
    kind = getattr(dtype, "kind", "")
    given = f"{kinds[kind]} (dtype {dtype})" if kind in kinds else f"dtype {dtype}"
    raise ValueError(f"{subject} must hold real numbers, got {given}.")


def check_unmasked(x: Any, subject: str) -> None:
    """Raise ValueError if `x`, or an array in a list, has masked values.

    NumPy would use the numbers under the mask.
    """
    parts = jax.tree.leaves(x) if isinstance(x, list | tuple) else [x]
    masked = sum(int(np.ma.count_masked(p)) for p in parts if isinstance(p, np.ma.MaskedArray))
    if masked:
        raise ValueError(
            f"{subject} must hold real numbers, got {masked} masked values: fill them or "
            f"remove their samples."
        )


def _converted(x: Any, subject: str, *, integers: bool) -> Array:
    parts = jax.tree.leaves(x) if isinstance(x, list | tuple) else [x]
    if any(isinstance(part, jax.core.Tracer) for part in parts):
        check_unmasked(x, subject)
        others = [part for part in parts if not isinstance(part, _TRACED)]
        if others:
            raise ValueError(f"{subject} must hold real numbers, got {_shown(others[0])}.")
        try:
            array = jnp.asarray(x)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{subject} must hold real numbers, got {_shown(x)}.") from error
        check_real(array.dtype, subject)
        return jnp.asarray(array, _target(array.dtype, integers))
    if isinstance(x, jax.Array):
        check_real(x.dtype, subject)
        dtype = _target(x.dtype, integers)
        with jax.ensure_compile_time_eval():
            array = jnp.asarray(x, dtype)
        if x.dtype.itemsize >= 4 and x.dtype != dtype and x.is_fully_addressable:
            _check_range(np.asarray(x), np.asarray(array), subject)
        return array
    host, exact = _on_host(x, subject)
    dtype = _target(host.dtype, integers)
    converted = rounded(host, dtype, subject, exact)  # a copy, since JAX may keep using its memory
    with jax.ensure_compile_time_eval():
        return jnp.asarray(converted, dtype)


def _on_host(x: Any, subject: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers as a NumPy array, and the exact integers where NumPy has rounded them."""
    check_unmasked(x, subject)
    given = np.ma.getdata(x) if isinstance(x, np.ma.MaskedArray) else x
    try:
        host = _numpy(given)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        reason = " ".join(str(error).split())[:120].rstrip(".")
        raise ValueError(
            f"{subject} must hold real numbers, got {_shown(given)}: {reason}."
        ) from error
    exact = host
    if host.dtype.kind == "O":
        bad = [entry for entry in host.flat if not isinstance(entry, _REAL)][:1]
        if bad:
            raise ValueError(f"{subject} must hold real numbers, got {_shown(bad[0])}.")
        host = _floats(host, subject)
    if isinstance(given, bytearray):
        raise ValueError(f"{subject} must hold real numbers, got a bytearray.")
    check_real(host.dtype, subject)
    listed = isinstance(given, list | tuple) and host.dtype == np.float64
    if listed and (np.abs(host) >= 2**53).any():  # integers in a list of floats
        objects = np.asarray(given, dtype=object)
        exact = objects if objects.shape == host.shape else exact
    if jnp.issubdtype(host.dtype, np.floating) and host.dtype.itemsize < 4:
        host = exact = host.astype(np.float32)
    if not host.dtype.isnative:
        host = exact = host.astype(host.dtype.newbyteorder("="))
    return host, exact


def _numpy(x: Any) -> np.ndarray:
    if not hasattr(x, "__dlpack__"):
        return np.asarray(x)
    if hasattr(x, "__array__"):
        with contextlib.suppress(TypeError):  # such as bfloat16 of torch, unknown to NumPy
            return np.asarray(x)
    return np.asarray(jnp.from_dlpack(x))


def _floating(dtype: Any) -> Any:
    """The floating dtype to which numbers of `dtype` are converted."""
    if not jnp.issubdtype(dtype, np.floating):
        dtype = jnp.result_type(float)
    elif dtype.itemsize < 4:
        dtype = jnp.float32
    elif dtype.itemsize > 8:
        dtype = jnp.float64
    return jax.dtypes.canonicalize_dtype(dtype)


def _target(dtype: Any, integers: bool) -> Any:
    kept = integers and not jnp.issubdtype(dtype, np.floating)
    return jax.dtypes.canonicalize_dtype(dtype) if kept else _floating(dtype)


def _check_range(given: np.ndarray, converted: np.ndarray, subject: str) -> None:
    """Raise ValueError if `converted` differs from `given` by more than rounding."""
    if given.size == 0 or converted.dtype == given.dtype:
        return
    wide = np.float64 in (_floating(np.dtype(np.float64)), converted.dtype)
    remedy = "" if wide else f": {_X64}, for float64"
    if not jnp.issubdtype(converted.dtype, np.floating):
        if given.dtype.kind in "iu" and (given != converted).any():
            bad = given[given != converted].flat[0]
            raise ValueError(
                f"{subject} must fit into {converted.dtype}, got {bad}: {_X64}, or count the "
                f"classes from 0."
            )
        return
    if given.dtype.kind == "O" or not jnp.issubdtype(given.dtype, np.floating):
        if given.dtype.itemsize > 2:
            _check_distinct(given, converted, subject, remedy)
        if given.dtype.kind != "O":
            return
        given = _floats(given, subject)
    if converted.dtype.itemsize >= given.dtype.itemsize:
        return
    limits = np.finfo(converted.dtype)
    lost = np.isinf(converted) & np.isfinite(given)
    if lost.any():
        raise ValueError(
            f"{subject} must be at most {limits.max:.2g} in magnitude in {converted.dtype}, "
            f"got {given[lost].flat[0]:.6g}{remedy}."
        )
    largest = np.max(np.abs(converted))
    if largest < limits.tiny and (given != 0).any():
        raise ValueError(
            f"{subject} must be zero or at least {limits.tiny:.2g} in magnitude in "
            f"{converted.dtype}, got {given[given != 0].flat[0]:.6g}{remedy}."
        )


def _floats(objects: np.ndarray, subject: str) -> np.ndarray:
    try:
        return objects.astype(np.float64)
    except OverflowError as error:
        raise ValueError(
            f"{subject} must be at most {np.finfo(np.float64).max:.2g} in magnitude, "
            f"got an integer of more than 308 digits."
        ) from error


def _check_distinct(
    given: np.ndarray, converted: np.ndarray, subject: str, remedy: str = ""
) -> None:
    """Raise ValueError if different integers become the same number."""
    exact = 2 ** (np.finfo(converted.dtype).nmant + 1)
    beyond = (np.abs(converted) >= exact) & np.isfinite(converted)
    if not beyond.any():
        return
    pairs = zip(given[beyond].tolist(), converted[beyond].tolist(), strict=True)
    images = {before: after for before, after in pairs if isinstance(before, int)}
    if len(set(images.values())) < len(images):
        raise ValueError(
            f"{subject} must hold integers that {converted.dtype} can tell apart, got different "
            f"ones beyond {exact} that become equal{remedy or ': subtract an offset'}."
        )


def _shown(x: Any) -> str:
    """A value for an error: the value if it is short, and its type."""
    text = " ".join(repr(x).split())
    kind = f"of type {type(x).__name__}"
    return f"{text} {kind}" if len(text) <= 40 else f"a value {kind}"


def safe_sqrt(x: Array) -> Array:
    """Square root whose derivative at zero is zero rather than infinite.

    Zero of what rounding made negative; NaN of NaN.
    """
    above = ~(x <= 0)
    # A compiler may compute x twice and round it to either side of zero: whichever is used where,
    # the root is close to zero then.
    tiny = jnp.finfo(x.dtype).tiny
    root = jnp.sqrt(jnp.maximum(jnp.where(above, x, tiny), tiny))
    return jnp.where(above, root, 0.0)


def one_hot(tokens: Array, count: int) -> Array:
    """Tokens, numbers of any dtype, as rows of `count` zeros and ones in that dtype."""
    return jax.nn.one_hot(tokens.astype(int), count, dtype=tokens.dtype)


def inner(a: Array, b: Array) -> Array:
    """Inner product over all axes of two arrays of equal shape."""
    return jnp.sum(a * b)


def squared_norm(a: Array) -> Array:
    """Sum of squares over all axes."""
    return jnp.sum(a * a)

"""Checks of arguments. Errors state the argument, the allowed values and the received value."""

import math
import operator
import reprlib
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, SupportsFloat, SupportsIndex

import keras

from ple_keras._typing import Activation, Shape


class _ShortRepr(reprlib.Repr):
    """`repr` of limited length, with the shape and dtype of an array instead of its values."""

    def __init__(self) -> None:
        super().__init__()
        self.maxdict = 20
        self.maxstring = self.maxother = 200

    def repr1(self, x: object, level: int) -> str:
        shape = getattr(x, "shape", ())
        if isinstance(x, type) or not isinstance(shape, Iterable) or not tuple(shape):
            return super().repr1(x, level)
        dtype = f", dtype={x.dtype}" if hasattr(x, "dtype") else ""
        return f"{type(x).__name__}(shape={tuple(shape)}{dtype})"


short_repr: Callable[[object], str] = _ShortRepr().repr


def warn_user(message: str) -> None:
    """Warn at the line outside of this package and Keras that led to this call."""
    frame, level = sys._getframe(1), 2
    inside = ("ple_keras.", "keras.")
    while frame.f_back and f"{frame.f_globals.get('__name__')}.".startswith(inside):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def first_error(error: BaseException) -> BaseException:
    """Return the first cause of an error. Keras quotes whole configs in later errors."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def check_int(value: SupportsIndex, argument: str, minimum: int) -> int:
    """Return `value` as an int of at least `minimum`. A bool is refused."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{argument} must be an integer. Received: {argument}={value!r}")
    if operator.index(value) < minimum:
        raise ValueError(f"{argument} must be at least {minimum}. Received: {argument}={value!r}")
    return operator.index(value)


def check_bool(value: object, argument: str) -> bool:
    """Return `value` if it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{argument} must be True or False. Received: {argument}={value!r}")
    return value


def check_number(
    value: SupportsFloat,
    argument: str,
    minimum: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """Return `value` as a finite float between limits."""
    is_array = getattr(value, "ndim", 0) > 0
    if isinstance(value, bool) or is_array or not isinstance(value, SupportsFloat):
        raise TypeError(f"{argument} must be a number. Received: {argument}={short_repr(value)}")
    number = float(value)
    if not (math.isfinite(number) and number >= minimum and above < number < below):
        limits = {"at least": minimum, "above": above, "below": below}
        rules = ["finite", *(f"{k} {x:g}" for k, x in limits.items() if math.isfinite(x))]
        raise ValueError(
            f"{argument} must be {' and '.join(rules)}. Received: {argument}={value!r}"
        )
    return number


def check_counts(
    value: int | Mapping[str, int], tasks: Sequence[str], argument: str
) -> dict[str, int]:
    """Return the number of experts of each task, from one number or a dict keyed by task."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(tasks, check_int(value, argument, minimum=0))
    check_keys(value, tasks, argument)
    return {task: check_int(value[task], f"{argument}[{task!r}]", minimum=0) for task in tasks}


def check_keys(
    value: Any, known: Sequence[str], argument: str, has_all: bool = True, has_only: bool = True
) -> Mapping[str, Any]:
    """Return a dict if its keys are exactly `known`, or among them, or include them.

    A data frame is refused, as in `fit`, and so is a list, since Keras would sort the tasks first.
    """
    if not isinstance(value, Mapping):
        remedy = f" Convert a data frame with dict({argument})." if hasattr(value, "keys") else ""
        raise TypeError(
            f"{argument} must be a dict with keys among {list(known)}.{remedy} "
            f"Received: {argument}={short_repr(value)}"
        )
    missing = [key for key in known if has_all and key not in value]
    extra = [key for key in value if has_only and key not in known]
    if missing or extra:
        rule = ("exactly the keys" if has_only else "the keys") if has_all else "keys among"
        raise ValueError(
            f"{argument} must have {rule} {list(known)}; missing: {missing}, unknown: {extra}. "
            f"Received: {argument}={{{', '.join(map(repr, value))}}}"
        )
    return value


def check_known(get: Callable[[Any], Any], value: object, argument: str) -> Any:
    """Return `get(value)` for one of Keras's `get` functions, such as `initializers.get`."""
    try:
        return get(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{argument} must be known to Keras: {error}. Received: {argument}={value!r}"
        ) from error


def check_known_value(value: object, known: Sequence[object], argument: str) -> Any:
    """Return `value` if it is one of `known`."""
    if getattr(value, "shape", ()) or value not in known:  # arrays have no truth value
        raise ValueError(
            f"{argument} must be one of {known}. Received: {argument}={short_repr(value)}"
        )
    return value


def check_activation(activation: Activation) -> Any:
    """Return an activation as a function. A layer is refused."""
    if isinstance(activation, keras.Layer):
        raise TypeError(
            "activation must be a name, or a function. Put a layer into a keras.Sequential. "
            f"Received: activation={activation!r}"
        )
    return check_known(keras.activations.get, activation, "activation")


def check_features(shape: Shape | None, argument: str = "inputs") -> tuple[int | None, ...]:
    """Return a shape `(batch, ..., features)` with a known number of features as a tuple."""
    axes: tuple[int | None, ...] = tuple(shape or ())
    if len(axes) < 2 or not isinstance(axes[-1], int):
        raise ValueError(
            f"{argument} must have a shape (batch, ..., features) with a known number of "
            f"features. Received: {argument}.shape={axes}"
        )
    return axes


def check_width(shape: Shape, width: int | None, argument: str) -> None:
    """Check that a shape has the width that a layer was built for.

    An unknown width is allowed: None, or a size in a PyTorch trace, which is not an integer.
    """
    axes = tuple(shape) if isinstance(shape, Sequence) else ()  # None and numbers have no axes
    if len(axes) < 2 or (isinstance(axes[-1], Integral) and axes[-1] != width):
        raise ValueError(
            f"{argument} must have the shape (batch, ..., {width}) that the block was built for. "
            f"Received: {argument}.shape={axes or shape}"
        )

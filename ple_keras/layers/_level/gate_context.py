"""Checks of a context of gates that need no level."""

from collections.abc import Mapping
from typing import Any

import keras

from ple_keras._checks import short_repr
from ple_keras._keras.tensors import dtype_name, is_number


def check_context(context: Any) -> None:
    """Check that a context is None, a tensor of numbers, or a dict of such tensors.

    Blocks check it before Keras does, whose errors do not name the argument. Keras also takes an
    empty dict, and a list of numbers, for no context.
    """
    if context is None:
        return
    if not isinstance(context, Mapping):
        _check_tensor(context, "gate_context", " (..., C), or a dict of tensors by gate")
        return
    if not context:
        raise ValueError(
            "gate_context as a dict must have a tensor for each gate. Received: gate_context={}"
        )
    for gate, tensor in context.items():
        _check_tensor(tensor, f"gate_context[{gate!r}]", " (..., C)")


def _check_tensor(value: Any, argument: str, rule: str) -> None:
    if not hasattr(value, "shape"):
        raise TypeError(
            f"{argument} must be a tensor{rule}. Received: {argument}={short_repr(value)}"
        )
    if hasattr(value, "dtype") and not is_number(dtype_name(value)):
        raise TypeError(
            f"{argument} must hold numbers. Encode strings, for example with a StringLookup. "
            f"Received: {argument}.dtype={dtype_name(value)}"
        )


def refuse_symbolic(context: Any) -> None:
    """Check that a context has no symbolic tensors."""
    if any(isinstance(tensor, keras.KerasTensor) for tensor in keras.tree.flatten(context)):
        raise ValueError(f"gate_context must not be symbolic. Received: gate_context={context!r}")


def shape_of(value: Any) -> Any:
    """Return the shape of a tensor or the shapes of a dict of tensors. A shape is unchanged."""
    if isinstance(value, Mapping):
        return {key: shape_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(shape_of(item) for item in value)
    return tuple(value.shape) if hasattr(value, "shape") else value

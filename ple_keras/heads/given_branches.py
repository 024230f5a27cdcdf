"""Branches whose values are predictions of another model."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import keras
from keras import ops

from ple_keras._keras.tensors import clip, fill
from ple_keras._typing import Tensor
from ple_keras.labels.sample_space import SAFE_PREDICTION
from ple_keras.labels.task_names import NAME_RULE, SHARED, is_valid_name
from ple_keras.layers.hedged_block import OWN

MIN_PREDICTION = 2.0**-23  # of probabilities and counts; 1 - 2**-23 is exact in float32


def check_given(given: Sequence[str]) -> tuple[str, ...]:
    """Return the names of branches, if they are valid, different, and not those of HedgedBlock."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise TypeError(f"given must be a sequence of branch names. Received: given={given!r}")
    invalid = [name for name in given if not is_valid_name(name) or name in (OWN, SHARED)]
    if invalid or len(set(given)) < len(given):
        raise ValueError(
            f"given must contain different names of {NAME_RULE}, and not {OWN!r} or {SHARED!r}. "
            f"Received: given={given!r}"
        )
    return tuple(given)


def check_given_shape(shape: Sequence[int | None], rank: int, units: int, argument: str) -> None:
    """Check the shape of given predictions, `(..., units)`, or `(...)` if `units` is 1."""
    is_short = units == 1 and len(shape) == rank - 1
    if not is_short and (len(shape) != rank or shape[-1] not in (units, None)):
        batch = ", ".join(["batch", *["length"] * (rank - 2)])
        allowed = f"({batch}, {units})" + (f" or ({batch})" if units == 1 else "")
        raise ValueError(
            f"{argument} must be predictions of the shape {allowed}. "
            f"Received: {argument}.shape={tuple(shape)}"
        )


def mix_given(
    values: Sequence[Tensor],
    given: Mapping[int, Tensor],
    mixture: Tensor,
    activation: Callable[[Tensor], Tensor],
    is_filled: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Return the mixture of all branches, and the value of each, without gradients of given ones.

    Where a prediction is NaN or infinite, the mixture is that of the other branches.

    Args:
        values: The values of the branches of features, `(..., units)`, in order.
        given: The predictions of the other branches, by their indices among all branches.
        mixture: The weights of all branches, `(branches,)`.
        activation: The activation of the head, whose logits are mixed if it is a sigmoid, a softmax
            or an exponential.
        is_filled: Whether missing values are the mixture, instead of NaN.
    """
    dtype, rank = values[0].dtype, len(values[0].shape)
    shares, every, missing = [*ops.unstack(mixture, mixture.shape[0])], [*values], {}
    for i, prediction in sorted(given.items()):
        value = ops.stop_gradient(ops.cast(prediction, dtype))
        value = value if len(value.shape) == rank else ops.expand_dims(value, -1)
        is_missing = ops.logical_not(ops.isfinite(value))
        missing[i] = ops.any(is_missing, axis=-1, keepdims=True)
        value = fill(value, is_missing, SAFE_PREDICTION)
        is_probability = activation in [keras.activations.get(x) for x in ("sigmoid", "softmax")]
        if is_probability or activation is keras.activations.exponential:
            high = 1 - MIN_PREDICTION if is_probability else None
            value = clip(value, MIN_PREDICTION, high)
            odds = -ops.log1p(-value) if activation is keras.activations.sigmoid else 0.0
            value = ops.log(value) + odds
        every.insert(i, value)
        shares[i] = shares[i] * ops.cast(ops.logical_not(missing[i]), dtype)
    products = [share * value for share, value in zip(shares, every)]
    mixed = reduce(ops.add, products) / reduce(ops.add, shares)
    fill_value = ops.stop_gradient(mixed) if is_filled else ops.full_like(mixed, math.nan)
    for i, is_missing in missing.items():
        every[i] = ops.where(is_missing, fill_value, every[i])
    return mixed, every

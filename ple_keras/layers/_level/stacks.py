"""Weights of E layers as one variable `(E, ...)`, each slice as that layer alone would have it."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from ple_keras._typing import DType, Shape, Tensor


class StackedInitializer(keras.initializers.Initializer):
    """An initializer of a stack: slice e comes from initializer e, with its own fan-in.

    No function: under a distribution Keras lets JAX compile the `__call__` of what fills large
    variables.
    """

    def __init__(self, initializers: list[keras.Initializer]) -> None:
        self.initializers = initializers

    def __call__(self, shape: Shape, dtype: DType = None) -> Tensor:
        return ops.stack([initializer(shape[1:], dtype=dtype) for initializer in self.initializers])


def unstack_experts(stack: Tensor | keras.Variable) -> list[Tensor]:
    """What each expert has of a stack, `(E, n, ...)` to E times `(n, ...)`.

    On JAX the gradient of `unstack` is a sum of E stacks of zeros with one slice filled, which
    grows with the square of E; that of a split is a concatenation. Elsewhere `unstack` is faster.
    """
    stack = ops.convert_to_tensor(stack)
    experts, first, *others = stack.shape
    if keras.backend.backend() == "jax":
        split: list[Any] = ops.split(ops.reshape(stack, (experts * first, *others)), experts)
        return split
    unstacked: list[Any] = ops.unstack(stack, experts)
    return unstacked


class StackedRegularizer(keras.Regularizer):
    """A regularizer of a stack: the sum of what it is for each slice."""

    def __init__(self, regularizer: Callable[[Tensor], Tensor]) -> None:
        self.regularizer = regularizer

    @classmethod
    def of(cls, regularizer: keras.Regularizer | None) -> Any:
        """None stays None."""
        return regularizer and cls(regularizer)

    def __call__(self, stack: Tensor) -> Tensor:
        return sum(self.regularizer(weight) for weight in unstack_experts(stack))

"""Weights of E layers stacked in one variable `(E, ...)`."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from ple_keras._typing import DType, Shape, Tensor


class StackedInitializer(keras.initializers.Initializer):
    """Initializer of a stack. Initializer e, with its own fan-in, creates slice e.

    It is a class because, under a distribution, Keras compiles the `__call__` of the initializers
    of large variables with JAX.
    """

    def __init__(self, initializers: list[keras.Initializer]) -> None:
        self.initializers = initializers

    def __call__(self, shape: Shape, dtype: DType = None) -> Tensor:
        return ops.stack([initializer(shape[1:], dtype=dtype) for initializer in self.initializers])


def unstack_experts(stack: Tensor | keras.Variable) -> list[Tensor]:
    """Return the slices of a stack, from `(E, n, ...)` to E tensors `(n, ...)`.

    On JAX, the gradient of `unstack` is a sum of E padded stacks, whose cost grows with E squared.
    The gradient of `split` is a concatenation. On other backends, `unstack` is faster.
    """
    stack = ops.convert_to_tensor(stack)
    experts, first, *others = stack.shape
    if keras.backend.backend() == "jax":
        split: list[Any] = ops.split(ops.reshape(stack, (experts * first, *others)), experts)
        return split
    unstacked: list[Any] = ops.unstack(stack, experts)
    return unstacked


class StackedRegularizer(keras.Regularizer):
    """Regularizer of a stack: the sum of a regularizer's values for all slices."""

    def __init__(self, regularizer: Callable[[Tensor], Tensor]) -> None:
        self.regularizer = regularizer

    @classmethod
    def wrap(cls, regularizer: keras.Regularizer | None) -> Any:
        """Return the regularizer of a stack, or None for None."""
        return regularizer and cls(regularizer)

    def __call__(self, stack: Tensor) -> Tensor:
        return sum(self.regularizer(weight) for weight in unstack_experts(stack))

"""Weights of E layers stacked in one variable `(E, ...)`."""

from collections.abc import Callable, Sequence

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


class StackedRegularizer(keras.Regularizer):
    """Regularizer of a stack: the sum of a regularizer's values for all slices."""

    def __init__(self, regularizer: Callable[[Tensor], Tensor]) -> None:
        self.regularizer = regularizer

    def __call__(self, stack: Tensor) -> Tensor:
        return sum(self.regularizer(weight) for weight in unstack_experts(stack))


def unstack_experts(stack: Tensor | keras.Variable) -> Sequence[Tensor]:
    """Return the slices of a stack, from `(E, n, ...)` to E tensors `(n, ...)`."""
    stack = ops.convert_to_tensor(stack)
    unstack = {"jax": _unstack_on_jax, "torch": _unstack_on_torch}.get(
        keras.backend.backend(), ops.unstack
    )
    slices: Sequence[Tensor] = unstack(stack, stack.shape[0])
    return slices


def _unstack_on_jax(stack: Tensor, experts: int) -> Sequence[Tensor]:
    """Split a stack, since the gradient of a split is a concatenation.

    That of `unstack` is a sum of E padded stacks, whose cost grows with E squared. On other
    backends, `unstack` is faster.
    """
    _, first, *others = stack.shape
    slices: Sequence[Tensor] = ops.split(ops.reshape(stack, (experts * first, *others)), experts)
    return slices


def apply_dense(inputs: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Return `inputs @ kernel + bias`, on PyTorch as one operation if it has a gradient."""
    is_single = keras.backend.backend() == "torch" and inputs.dtype == kernel.dtype
    if not (is_single and _has_gradient(kernel)):
        return ops.add(ops.matmul(inputs, kernel), bias)
    import torch

    return torch.nn.functional.linear(inputs, kernel.t(), bias)


def _unstack_on_torch(stack: Tensor, experts: int) -> Sequence[Tensor]:
    """Copy the slices if gradients are on.

    The slices of `unbind` are views. They can't be used after an optimizer, for example in another
    thread, has changed the stack.
    """
    import torch

    unstack = torch.unbind_copy if _has_gradient(stack) else torch.unbind
    slices: Sequence[Tensor] = unstack(stack)
    return slices


def _has_gradient(weights: Tensor) -> bool:
    """Return whether PyTorch computes a gradient of weights. A trace, as for ONNX, has none."""
    import torch

    is_recorded: bool = weights.requires_grad and torch.is_grad_enabled()
    return is_recorded and not torch.jit.is_tracing()

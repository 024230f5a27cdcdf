"""Models around another model, and the errors of functions that run it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._keras.walking import find_layers
from ple_keras._typing import Nested, Tensor
from ple_keras.heads.task_heads import Branches, TaskHeads


class OuterModel(keras.Model):
    """Model around another model. As a Keras model, it is compiled on every backend.

    Args:
        model: The inner model.
    """

    def __init__(self, model: keras.Layer) -> None:
        super().__init__(name="outer")
        self.inner = model
        # On TensorFlow, XLA compilation takes longer than most runs.
        compiles_fast = keras.backend.backend() == "jax"
        self.jit_compile = compiles_fast and getattr(model, "jit_compile", True)
        self.run_eagerly = getattr(model, "run_eagerly", False)

    def run_batch(self, batch: Nested) -> Any:
        """Return the outputs for a batch as arrays.

        Raises:
            ValueError: If the inner model fails on the batch.
        """
        try:
            return self.predict_on_batch(batch)
        except Exception as error:
            raise failed_batch_error(batch, error) from error


@contextmanager
def holding_branches(model: keras.Layer) -> Iterator[Callable[[], Branches]]:
    """Let calls of a model hold the branches of hedged tasks, as in training.

    Yields:
        A function that returns those of the last call.
    """
    layers = find_layers(model, TaskHeads)
    with ExitStack() as stack:
        for heads in layers:
            stack.enter_context(heads._holding_branches())
        yield lambda: {
            task: held for heads in layers for task, held in heads._take_branches().items()
        }


def flatten_positions(values: Tensor, mask: Tensor | None, masked: float) -> Tensor:
    """Return values as `(positions, D)`, with the number `masked` at masked positions."""
    if mask is not None:
        values = ops.where(ops.expand_dims(mask, -1), values, masked)
    return ops.reshape(values, (-1, values.shape[-1]))


def failed_batch_error(x: Nested, error: Exception) -> ValueError:
    """Return the error for a batch on which the model fails."""
    shapes = keras.tree.map_structure(np.shape, x)
    return ValueError(
        f"x must be valid input of the model, which failed on a batch: {error} "
        f"Received: x.shape={shapes}"
    )


def repeated_run_error(model: keras.Layer, levels: Iterable[str]) -> ValueError:
    """Return the error for a model that runs levels more than once in one pass."""
    return ValueError(
        "model must run each block once, since the runs of a block share one name. "
        f"Received: model={model!r}, which runs {sorted(levels)} more than once"
    )

"""An embedding table whose gradient contains only the rows of a batch."""

from functools import cache, partial
from importlib import import_module
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._checks import check_int
from ple_keras._keras.internals import have_one_trace
from ple_keras._keras.saving import register
from ple_keras._keras.tensors import is_jax_tracer
from ple_keras._typing import DType, Shape, Tensor
from ple_keras.layers.row_updates import RowUpdates, has_row_gradients, replica_variable

MAX_CONSTANT = 2**20  # numbers; under a distribution, JAX compiles initializers of larger tables


@register
class TableInitializer(keras.initializers.RandomNormal):
    """A normal distribution drawn by NumPy, with the same values on every backend.

    JAX would compile Keras's initializer for each shape of a table. Under a distribution, Keras
    draws the values of large tables.
    """

    def __call__(self, shape: tuple[int, ...], dtype: DType = None) -> Tensor:
        if keras.distribution.distribution() is not None and np.prod(shape) > MAX_CONSTANT:
            return super().__call__(shape, dtype)
        values = np.random.default_rng(self.seed).standard_normal(shape, "float32")
        values *= self.stddev
        values += self.mean
        return ops.convert_to_tensor(values, dtype)


@register
class SparseEmbedding(keras.layers.Embedding):
    """An embedding table that `SparseAdagrad` updates by the rows of a batch.

    It is Keras's `Embedding`, with the same arguments, weights and results. Only the default
    `embeddings_initializer` differs: a normal distribution with a standard deviation of 0.01, drawn
    by NumPy. With `SparseAdagrad` as the optimizer of the table, a step reads and writes only the
    rows of the batch, and takes as long with a large table as with a small one. `table_optimizer`
    assigns all tables of a model to `SparseAdagrad`.

    In these cases, a step updates all rows, with the same result:

    - with any other optimizer (but see the guide on large tables about TensorFlow), an
      `embeddings_regularizer`, LoRA, or a scaled loss (float16);
    - on JAX, if the table is tied to an output or recomputed (RematScope), or if the `call` of a
      subclassed model does not pass `training` on. A warning names a large table. Tables with
      fewer than 6 rows for each id of a batch are updated as a whole, since this is faster;
    - in several processes of PyTorch;
    - in replicas of TensorFlow with `global_clipnorm`.

    On TensorFlow and PyTorch, a model with this layer does not use XLA or `torch.compile`.

    Args:
        input_dim: The number of rows. Ids range from 0 to `input_dim - 1`.
        output_dim: The number of columns.
        **kwargs: Arguments of `keras.layers.Embedding`.

    Call arguments:
        inputs: Integer ids of any shape, such as `(B,)` or `(B, L)`.
        training: Whether JAX stores the rows of the batch for the optimizer.

    Returns:
        The rows of the ids, `(*inputs.shape, output_dim)`.

    Raises:
        TypeError: If `input_dim` or `output_dim` is not an integer.
        ValueError: If one of them is below 1.
        IndexError: On PyTorch without a GPU, if an id is not in the table. TensorFlow without a GPU
            raises its own error. Elsewhere, and if an `Input` of int32 wraps a larger id,
            `check_inputs` finds such ids.

    Example:

    >>> columns = {"user": keras.Input((), dtype="int32"), "item": keras.Input((), dtype="int32")}
    >>> rows = [SparseEmbedding(1000, 8)(ids) for ids in columns.values()]
    >>> heads = TaskHeads([BinaryHead("click"), BinaryHead("buy")])
    >>> features = PLEBlock(2, heads, [4])(keras.layers.Concatenate()(rows))
    >>> model = MultiTaskModel(columns, heads(features))
    >>> model.compile(table_optimizer("adam"))
    """

    _ends: list[int] | None = None  # see RowUpdates

    def __init__(self, input_dim: int, output_dim: int, **kwargs: object) -> None:
        if "embeddings_initializer" not in kwargs:  # a new one would draw a global seed
            kwargs["embeddings_initializer"] = TableInitializer(stddev=0.01)
        super().__init__(
            check_int(input_dim, "input_dim", minimum=1),
            check_int(output_dim, "output_dim", minimum=1),
            **kwargs,
        )
        # Neither XLA on TensorFlow nor Inductor on PyTorch can compile the update of rows.
        self.supports_jit = keras.backend.backend() not in ("tensorflow", "torch")

    def build(self, input_shape: Shape | None = None) -> None:
        if self.built:
            return
        super().build(input_shape)
        if self.lora_enabled:
            return
        # Keras's LossScaleOptimizer for float16 does not support sparse gradients.
        half = {self.compute_dtype, keras.config.dtype_policy().compute_dtype} & {"float16"}
        may_be_sparse = not half and self.embeddings_regularizer is None
        # No file contains the attribute.
        self.embeddings.ple_keras_table = RowUpdates(self.input_dim, may_be_sparse, self._ends)

    def add_weight(self, *args: object, **kwargs: object) -> keras.Variable:
        """Add a weight. A lookup casts rows to the compute dtype, not the whole table."""
        return super().add_weight(*args, **{"autocast": False, **kwargs})

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Return the rows of the ids."""
        if self.lora_enabled:
            return super().call(inputs)
        if keras.backend.standardize_dtype(inputs.dtype) not in ("int32", "int64"):
            inputs = ops.cast(inputs, "int32")
        rows = LOOK_UP[keras.backend.backend()](self, inputs, training)
        return ops.cast(rows, self.compute_dtype)


def _look_up_tensorflow(layer: SparseEmbedding, ids: Tensor, training: bool | None) -> Tensor:
    """Read rows from the variable. `ops.take` would read the whole table first."""
    return import_module("tensorflow").gather(replica_variable(layer.embeddings), ids)


def _look_up_torch(layer: SparseEmbedding, ids: Tensor, training: bool | None) -> Tensor:
    from torch.nn.functional import embedding

    table = layer.embeddings
    try:
        return embedding(ids, table.value, sparse=has_row_gradients(table))
    except IndexError as error:
        raise IndexError(
            f"inputs must be ids from 0 to {layer.input_dim - 1} for the SparseEmbedding "
            f"{layer.name!r}. Received: inputs from {int(ids.min())} to {int(ids.max())}"
        ) from error


def _look_up_jax(layer: SparseEmbedding, ids: Tensor, training: bool | None) -> Tensor:
    """Read rows, and in training store them for the optimizer.

    The next lookup in this forward pass reads the table that this one returns. The backward passes
    of all lookups thus form a chain, and the first lookup returns the whole gradient of the table.
    """
    table = layer.embeddings
    value = table.value
    if training is True and is_jax_tracer(value) and has_row_gradients(table):
        rows, same_table = _chained_lookup()(table.ple_keras_table, value, ids)
        if have_one_trace(value, same_table):
            table.assign(same_table)  # the StatelessScope keeps the value
            return rows
    return ops.take(table, ids, axis=0)


@cache
def _chained_lookup() -> Any:
    """Return a function `(updates, table, ids) -> (rows, table)` of JAX.

    Its gradient of the table is the exact one, with all rows. `updates` stores the rows that this
    gradient consists of. If the optimizer gets this very tensor, nothing else has contributed to
    the gradient, and XLA removes the computation of all rows, since nothing reads it.
    """
    jax = import_module("jax")
    numpy = import_module("jax.numpy")
    symbolic_zero = jax.custom_derivatives.SymbolicZero

    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def look_up(updates: RowUpdates, table: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return numpy.take(table, ids, axis=0), table

    def forward(updates: RowUpdates, table: Tensor, ids: Tensor) -> Tensor:
        return look_up(updates, table.value, ids.value), ids.value

    def backward(updates: RowUpdates, ids: Tensor, gradients: Tensor) -> tuple[Tensor, None]:
        row_gradients, table_gradient = gradients
        if isinstance(row_gradients, symbolic_zero):  # no loss depends on the rows
            return table_gradient, None
        ids = ids.reshape(-1)
        values = row_gradients.reshape(len(ids), row_gradients.shape[-1])
        later = updates.rows_of(table_gradient)
        if isinstance(table_gradient, symbolic_zero):  # the last lookup had no loss
            table_gradient, later = numpy.zeros(table_gradient.shape, values.dtype), []
        gradient = table_gradient.at[ids].add(values)
        if later is not None:
            updates.remember(gradient, [*later, (ids, values)])
        return gradient, None

    look_up.defvjp(forward, backward, symbolic_zeros=True)
    return look_up


LOOK_UP = {"tensorflow": _look_up_tensorflow, "jax": _look_up_jax, "torch": _look_up_torch}

"""An embedding table whose gradient has the rows of a batch only."""

from importlib import import_module
from typing import Any

import keras
from keras import ops

from ple_keras._checks import check_int
from ple_keras._keras.registration import register
from ple_keras._keras.tables import has_row_gradients, mark_table
from ple_keras._typing import Shape, Tensor


@register
class SparseEmbedding(keras.layers.Embedding):
    """An embedding table that `SparseAdagrad` updates by the rows of a batch.

    It is Keras's `Embedding`, with the same arguments, weights and results. Only the default of
    `embeddings_initializer` differs: a normal distribution of deviation 0.01. With `SparseAdagrad`
    as the optimizer of the table, on TensorFlow and PyTorch, its gradient has the rows of the batch
    only. A step then takes as long with a large table as with a small one. `table_optimizer` gives
    all tables of a model to `SparseAdagrad`.

    The gradient is that of `Embedding`, with all rows:

    - on JAX, and with any other optimizer;
    - on PyTorch, with an `embeddings_regularizer`, LoRA, a float16 policy, or several processes.

    On TensorFlow and PyTorch, a model with this layer does not use XLA or `torch.compile`.

    Args:
        input_dim: The number of rows. Ids are from 0 to `input_dim - 1`.
        output_dim: The number of columns.
        **kwargs: Arguments of `keras.layers.Embedding`.

    Call arguments:
        inputs: Integer ids of any shape, such as `(B,)` or `(B, L)`.

    Returns:
        The rows of the ids, `(*inputs.shape, output_dim)`.

    Raises:
        TypeError: If `input_dim` or `output_dim` is not an integer.
        ValueError: If one of them is below 1.
        IndexError: On PyTorch without a GPU, if an id is not in the table. TensorFlow without a GPU
            raises an error of its own. Otherwise, `check_inputs` finds such ids.

    Example:

    >>> columns = {"user": keras.Input((), dtype="int32"), "item": keras.Input((), dtype="int32")}
    >>> rows = [SparseEmbedding(1000, 8)(ids) for ids in columns.values()]
    >>> heads = TaskHeads([BinaryHead("click"), BinaryHead("buy")])
    >>> features = PLEBlock(2, heads, [4])(keras.layers.Concatenate()(rows))
    >>> model = MultiTaskModel(columns, heads(features))
    >>> model.compile(table_optimizer("adam"))
    """

    def __init__(self, input_dim: int, output_dim: int, **kwargs: Any) -> None:
        if "embeddings_initializer" not in kwargs:  # a new one would draw a global seed
            kwargs["embeddings_initializer"] = keras.initializers.RandomNormal(stddev=0.01)
        super().__init__(
            check_int(input_dim, "input_dim", minimum=1),
            check_int(output_dim, "output_dim", minimum=1),
            **kwargs,
        )
        # The update of rows cannot be compiled by XLA on TensorFlow, nor by Inductor on PyTorch.
        self.supports_jit = keras.backend.backend() not in ("tensorflow", "torch")

    def build(self, input_shape: Shape | None = None) -> None:
        if self.built:
            return
        super().build(input_shape)
        if self.lora_enabled or self.quantization_mode:
            return
        # The optimizer that scales the loss in float16 takes no sparse gradients.
        half = {self.compute_dtype, keras.config.dtype_policy().compute_dtype} & {"float16"}
        mark_table(self.embeddings, not half and self.embeddings_regularizer is None)

    def call(self, inputs: Tensor) -> Tensor:
        """Return the rows of the ids."""
        look_up = {"tensorflow": _look_up_tensorflow, "torch": _look_up_torch}.get(
            keras.backend.backend()
        )
        if look_up is None or self.lora_enabled:
            return super().call(inputs)
        if keras.backend.standardize_dtype(inputs.dtype) not in ("int32", "int64"):
            inputs = ops.cast(inputs, "int32")
        return ops.cast(look_up(self, inputs), self.compute_dtype)

    def quantize(
        self, mode: str | None = None, type_check: bool = True, config: Any = None
    ) -> None:
        """Quantize the table as Keras's `Embedding` does, which refuses subclasses."""
        super().quantize(mode, type_check=False, config=config)


def _look_up_tensorflow(layer: SparseEmbedding, ids: Tensor) -> Tensor:
    """Read rows from the variable. `ops.take` would read the whole table first."""
    tf: Any = import_module("tensorflow")

    if not isinstance(ids, tf.Tensor):  # ragged or sparse
        return ops.take(layer.embeddings, ids, axis=0)
    return tf.gather(layer.embeddings.value, ids)


def _look_up_torch(layer: SparseEmbedding, ids: Tensor) -> Tensor:
    from torch.nn.functional import embedding

    table = layer.embeddings
    try:
        return embedding(ids, table.value, sparse=has_row_gradients(table))
    except IndexError as error:
        raise IndexError(
            f"inputs must be ids from 0 to {layer.input_dim - 1} for the SparseEmbedding "
            f"{layer.name!r}. Received: inputs from {int(ids.min())} to {int(ids.max())}"
        ) from error

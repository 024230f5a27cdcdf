"""An optimizer for embedding tables, combined with one for all other weights."""

from typing import Any

import keras

from ple_keras._checks import check_known
from ple_keras._keras.saving import register
from ple_keras._typing import Config
from ple_keras.layers.row_updates import row_updates
from ple_keras.optimizers.sparse_adagrad import SparseAdagrad


def table_optimizer(
    optimizer: str | keras.Optimizer = "adam", tables: str | keras.Optimizer | None = None
) -> keras.optimizers.MultiOptimizer:
    """Return an optimizer that trains embedding tables and all other weights separately.

    Tables are the weights of `SparseEmbedding` layers in any model, even after loading. `optimizer`
    trains all other weights, including Keras's `Embedding`.

    Files contain the names of Keras's public optimizers, so a model that was saved with PyTorch can
    also train with TensorFlow and JAX. Keras callbacks log the learning rates as
    `learning_rate_{name}`, with the names of the two optimizers.

    Args:
        optimizer: The optimizer of all other weights: a Keras optimizer or its name.
        tables: The optimizer of the tables, by default `SparseAdagrad()`. With any other optimizer,
            a step updates all rows.

    Returns:
        A `keras.optimizers.MultiOptimizer`, for `compile`. Its `optimizers` are `[tables,
        optimizer]`. Each clips the gradients of its own weights, so no norm covers the whole model.
        The `loss_scale_factor` of `optimizer`, or else of `tables`, scales the loss for both.

    Raises:
        ValueError: If an argument is not an optimizer or a known name, accumulates gradients, or
            the two have the same name. In the first step, if one is a `MultiOptimizer` or a
            `LossScaleOptimizer`.

    Example:

    >>> table = SparseEmbedding(100, 4)
    >>> model = keras.Sequential([keras.Input((), dtype="int32"), table, keras.layers.Dense(1)])
    >>> model.compile(table_optimizer("adam"), "mse")
    >>> [inner.name for inner in model.optimizer.optimizers]
    ['sparse_adagrad', 'adam']
    """
    rest = _check_optimizer(optimizer, "optimizer")
    for_tables = SparseAdagrad() if tables is None else _check_optimizer(tables, "tables")
    if rest.name == for_tables.name:
        raise ValueError(
            f"optimizer and tables must have different names. Received: name={rest.name!r}"
        )
    factor = rest.loss_scale_factor or for_tables.loss_scale_factor
    by_table = OptimizerByTable(rest, for_tables)
    return keras.optimizers.MultiOptimizer(by_table, factor, name="table_optimizer")


@register
class OptimizerByTable:
    """A mapping from variables to optimizers, for `MultiOptimizer`.

    Files contain it as an object, since the variable paths of a subclassed model change when it is
    loaded.
    """

    def __init__(self, default_optimizer: keras.Optimizer, tables: keras.Optimizer) -> None:
        self.default_optimizer, self._tables = default_optimizer, tables

    def __call__(self, variable: keras.Variable) -> keras.Optimizer:
        return self.default_optimizer if row_updates(variable) is None else self._tables

    def values(self) -> tuple[keras.Optimizer, ...]:
        """Return the optimizers that precede the default one in files."""
        return (self._tables,)

    def get_config(self) -> Config:
        return {
            "default_optimizer": _serialize(self.default_optimizer),
            "tables": _serialize(self._tables),
        }

    @classmethod
    def from_config(cls, config: Config) -> "OptimizerByTable":
        load = keras.saving.deserialize_keras_object
        return cls(**{name: load(optimizer) for name, optimizer in config.items()})


def _check_optimizer(optimizer: str | keras.Optimizer, argument: str) -> keras.Optimizer:
    """Return an optimizer if MultiOptimizer supports it. Keras refuses nested ones in `build`."""
    identifier: Any = optimizer
    if isinstance(optimizer, str):  # Keras would add a number to the name
        identifier = {"class_name": optimizer, "config": {"name": optimizer.lower()}}
    found = check_known(keras.optimizers.get, identifier, argument)
    if found is None or found.gradient_accumulation_steps:
        raise ValueError(
            f"{argument} must be an optimizer or a name, and must not accumulate gradients. "
            f"Received: {argument}={optimizer!r}"
        )
    return found


def _serialize(optimizer: keras.Optimizer) -> Config:
    """Serialize an optimizer under its public name.

    On PyTorch, Keras has a special class for most optimizers, which no other backend can use.
    """
    serialized: Config = keras.saving.serialize_keras_object(optimizer)
    public = getattr(keras.optimizers, serialized["class_name"], None)
    if public is not None and isinstance(optimizer, public):
        serialized |= {"module": "keras.optimizers", "registered_name": None}
    return serialized

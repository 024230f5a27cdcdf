"""Adagrad that updates only the rows of a sparse gradient."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._checks import check_number
from ple_keras._keras.internals import variable_index
from ple_keras._keras.layers import Untracked
from ple_keras._keras.saving import register
from ple_keras._keras.tensors import segment_sum
from ple_keras._typing import Config, Shape, Tensor
from ple_keras.layers.row_updates import RecordedRows, replica_variable, row_updates

# Arguments of Keras's optimizers that concern rows without a gradient.
REFUSED = ("weight_decay", "clipvalue", "use_ema", "gradient_accumulation_steps")

# JAX updates a table with fewer rows for each id of a batch as a whole, which is faster.
ROWS_PER_ID = 6
START_READS = 100  # reads in which the sum of squares of an average row reaches its start
MEMORY = 0.99  # share of the recent squares that a step keeps
TINY = 1e-30  # prevents a division of 0 by 0
MAX_SQUARES = 1e30  # sums of squares over rows and batches stay finite in float32


@register
class SparseAdagrad(keras.optimizers.Adagrad):
    """Adagrad for embedding tables, which updates only the rows of a batch.

    For row x_r of a table, with gradient g_r, learning rate η, a sum of squares s_r that starts at
    0, and the mean m of the squared gradients of the rows in recent batches (a decay of 0.99):

        s_r <- s_r + g_r^2
        x_r <- x_r - η g_r / sqrt(s_r + 100 m)

    A row thus starts as if batches had read it 100 times. With few examples, it takes small steps
    and does not memorize labels. This depends neither on the batch size nor on the unit of the
    loss. The table of a network of `Columns` has a mean for the rows of each column.

    A row without a gradient does not change, and neither does a row whose gradient is NaN, infinite
    or above 1e15: m and later steps do not depend on this gradient. With `clipnorm` or
    `global_clipnorm`, no row changes in this step. The sums and m are in float32, even if the table
    is in float16.

    For a `SparseEmbedding`, a step reads and writes only the rows of the batch. Gradients of
    repeated ids in a batch are added first. Other weights have the same steps. TensorFlow replicas
    clip their gradients before adding them.

    Use it with `table_optimizer`, which trains the other weights with a second optimizer.

    Args:
        learning_rate: A float or a Keras schedule.
        initial_accumulator_value: A number greater than 0 at which s_r starts instead, without m:
            `keras.optimizers.Adagrad` with `epsilon=0`. With 1e-7, the first example of a row moves
            it by up to the whole rate. With Keras's 0.1, a row moves in proportion to its gradients
            until their squares, about 1e-7 for means over 1,000 examples, add up to 0.1.
        clipnorm: The maximum norm of the gradient of each table, or None.
        global_clipnorm: The maximum norm of the gradients of all weights that this optimizer
            trains, or None. No norm includes the weights of another optimizer.
        loss_scale_factor: As in Keras's optimizers.
        name: The name, which files and logs contain.
        **kwargs: Other arguments of Keras's optimizers at their defaults, as in configs.

    Raises:
        TypeError: If `initial_accumulator_value` is not a number.
        ValueError: If `initial_accumulator_value` is not greater than 0, or `weight_decay`,
            `clipvalue`, `use_ema` or `gradient_accumulation_steps` is set, which concern all rows.

    Reference:

    - Duchi et al., "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization",
      JMLR 12, 2011. [PDF](https://jmlr.org/papers/volume12/duchi11a/duchi11a.pdf)

    Example:

    >>> optimizer = table_optimizer("adam", tables=SparseAdagrad(0.05, clipnorm=1.0))
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.1,
        initial_accumulator_value: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        loss_scale_factor: float | None = None,
        name: str = "sparse_adagrad",
        **kwargs: object,
    ) -> None:
        for argument in REFUSED:
            if kwargs.get(argument):
                raise ValueError(
                    f"SparseAdagrad has no {argument}. Received: {argument}={kwargs[argument]!r}"
                )
        if initial_accumulator_value is not None:  # 0 would cause a division by 0
            check_number(initial_accumulator_value, "initial_accumulator_value", above=0)
        super().__init__(
            learning_rate,
            initial_accumulator_value=float(initial_accumulator_value or 0),
            epsilon=0.0,  # larger initial sums have the same effect
            clipnorm=clipnorm,
            global_clipnorm=global_clipnorm,
            loss_scale_factor=loss_scale_factor,
            name=name,
            **kwargs,
        )
        self._has_start = initial_accumulator_value is None
        # The rows of the sparse gradients of a step, keyed by the index of the variable.
        self._rows: Untracked[dict[int, Tensor]] = Untracked({})
        self._trained: Untracked[list[keras.Variable]] = Untracked([])

    def build(self, var_list: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        self._ends = [getattr(row_updates(variable), "ends", None) for variable in var_list]
        self._recent = [
            self.add_variable(
                (len(ends), 2) if ends else (2,), dtype=variable.dtype, name=f"recent_squares_{i}"
            )
            for i, (variable, ends) in enumerate(zip(var_list, self._ends))
            if self._has_start
        ]
        super().build(var_list)
        self._trained.value = list(var_list)
        for updates in filter(None, map(row_updates, var_list)):
            updates.optimizers.add(self)

    def add_variable(
        self, shape: Shape, initializer: Any = "zeros", dtype: Any = None, *args: Any, **kwargs: Any
    ) -> keras.Variable:
        """Add a variable of at least float32: in float16, most squares are 0 or infinite."""
        dtype = keras.backend.result_type(dtype or keras.config.floatx(), "float32")
        return super().add_variable(shape, initializer, dtype, *args, **kwargs)

    def apply(
        self, grads: Sequence[Tensor], trainable_variables: Sequence[keras.Variable] | None = None
    ) -> None:
        """Update the variables, with the values of the rows of sparse gradients.

        Keras scales and clips these values, which have the norm of the whole gradient.
        """
        if trainable_variables is not None and not self.built:
            self.build(list(trainable_variables))
        recorded = [gradient for gradient in grads if isinstance(gradient, RecordedRows)]
        if recorded:
            recorded[0].deferred.add(self, grads, trainable_variables)
            return
        self._rows.value.clear()  # a step that raised an error leaves rows
        variables = trainable_variables or self._trained.value
        split = SPLIT[keras.backend.backend()]
        pairs = [split(gradient, variable) for gradient, variable in zip(grads, variables)]
        grads = [gradient for _, gradient in pairs]
        for position, (variable, (rows, gradient)) in enumerate(zip(variables, pairs)):
            if rows is not None:
                self._rows.value[variable_index(self, variable)] = rows
            elif gradient is not None and (self.global_clipnorm or self.loss_scale_factor):
                # Keras's operations for these arguments do not support IndexedSlices.
                grads[position] = ops.convert_to_tensor(gradient, sparse=False)
        super().apply(grads, trainable_variables)

    def update_step(self, gradient: Tensor, variable: Tensor, learning_rate: Tensor) -> None:
        """Update one variable."""
        index = variable_index(self, variable)
        rows = self._rows.value.pop(index, None)
        if rows is None and keras.backend.backend() == "tensorflow":
            rows, gradient = _split_tensorflow(gradient, variable)
        sums = self.variables[index - len(self._trained.value)]  # the sums of squares are the last
        gradient = _finite_rows(ops.cast(gradient, sums.dtype))
        rate = ops.cast(learning_rate, sums.dtype)
        start = self._start(index, rows, gradient) if self._has_start else 0.0
        if rows is None:
            self.assign_add(sums, ops.square(gradient))
            self.assign_sub(variable, rate * gradient / ops.sqrt(sums + start))
        else:
            UPDATE[keras.backend.backend()](variable, sums, rows, gradient, rate, start)

    def _start(self, index: int, rows: Tensor | None, gradient: Tensor) -> Tensor:
        """Return the start of a table's sums, or of each row's column, with a batch's gradient.

        The sum and the number of squared gradients have the same decay, so a batch without a
        gradient does not change their ratio. Rows without a gradient do not count.
        """
        recent, ends = self._recent[index], self._ends[index]
        pair = gradient * gradient, ops.square(ops.sign(gradient))  # a sum, and a number
        if ends is None:
            squares = ops.stack([*map(ops.sum, pair)])
        else:
            rows = ops.arange(ends[-1]) if rows is None else rows
            lasts = np.array(ends[:-1], "int32")
            column = ops.searchsorted(lasts, ops.cast(rows, "int32"), "right")
            by_row = ops.stack([ops.sum(x, axis=-1) for x in pair], axis=-1)
            squares = segment_sum(by_row, column, len(ends))
        value = MEMORY * recent.value + squares
        self.assign(recent, value)
        start = START_READS * value[..., 0] / (value[..., 1] + TINY) + TINY
        return start if ends is None else ops.take(start, column)[:, None]

    def get_config(self) -> Config:
        config: Config = super().get_config()
        del config["epsilon"]
        if self._has_start:
            config["initial_accumulator_value"] = None
        return config


def _split_tensorflow(gradient: Tensor, variable: keras.Variable) -> tuple[Tensor | None, Tensor]:
    """Return the unique rows of a gradient and their values, or None and a dense gradient.

    With several replicas, Keras gathers all rows, and `update_step` splits them again.
    """
    tf = import_module("tensorflow")

    if not isinstance(gradient, tf.IndexedSlices):
        return None, gradient
    rows, positions = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, positions, tf.size(rows))
    if tf.distribute.in_cross_replica_context():
        return rows, values
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        return None, tf.IndexedSlices(values, rows, gradient.dense_shape)
    return rows, values


def _split_torch(gradient: Tensor, variable: keras.Variable) -> tuple[Tensor | None, Tensor]:
    """Return the unique rows of a gradient and their values, or None and a dense gradient."""
    if gradient is None or not gradient.is_sparse:
        return None, gradient
    import torch

    # `coalesce` takes twice as long as these two operations.
    values = gradient._values()
    rows, positions = torch.unique(gradient._indices()[0], return_inverse=True)
    return rows, values.new_zeros(len(rows), values.shape[1]).index_add_(0, positions, values)


def _split_jax(gradient: Tensor, variable: keras.Variable) -> tuple[Tensor | None, Tensor]:
    """Return the unique rows of a gradient and their values, or None and a dense gradient.

    Rows beyond the end of the table, with values of 0, pad the result to a size that does not
    depend on the ids.
    """
    updates = row_updates(variable)
    pairs = None if updates is None else updates.rows_of(gradient)
    if updates is None or pairs is None:
        return None, gradient
    updates.forget()
    jax = import_module("jax")
    numpy = import_module("jax.numpy")

    ids, values = map(numpy.concatenate, zip(*pairs))
    if updates.rows < ROWS_PER_ID * len(ids):
        return None, gradient
    ids = numpy.where(ids < 0, ids + updates.rows, ids)  # lookups count negative ids from the end
    ids = numpy.where((ids < 0) | (ids >= updates.rows), updates.rows, ids)
    rows = numpy.sort(ids)  # three times as fast as jax.numpy.unique
    values = jax.ops.segment_sum(values, numpy.searchsorted(rows, ids), len(ids))
    is_row = (numpy.diff(rows, prepend=-1) > 0) & (rows < updates.rows)
    rows = numpy.where(is_row, rows, updates.rows + numpy.arange(len(ids)))
    return rows, numpy.where(is_row[:, None], values, 0)


def _update_tensorflow(
    table: Tensor, sums: Tensor, rows: Tensor, gradient: Tensor, rate: Tensor, start: Tensor
) -> None:
    tf = import_module("tensorflow")

    # `scatter_sub` and ResourceSparseApplyAdagradV2, a single operation, take longer.
    own_sums = replica_variable(sums, like=table)
    squares = tf.gather(own_sums, rows) + tf.square(gradient)
    step = gradient * rate / tf.sqrt(squares + start)
    values = tf.gather(table, rows) - tf.cast(step, table.dtype)
    own_sums.scatter_update(tf.IndexedSlices(squares, rows))
    table.scatter_update(tf.IndexedSlices(values, rows))


def _update_torch(
    table: Tensor, sums: Tensor, rows: Tensor, gradient: Tensor, rate: Tensor, start: Tensor
) -> None:
    import torch

    with torch.no_grad():
        squares = sums.value.index_select(0, rows).addcmul_(gradient, gradient)
        sums.value.index_copy_(0, rows, squares)
        step = gradient * -rate / (squares + start).sqrt()
        table.value.index_add_(0, rows, step.to(table.value.dtype))


def _update_jax(
    table: Tensor, sums: Tensor, rows: Tensor, gradient: Tensor, rate: Tensor, start: Tensor
) -> None:
    old = sums.value.at[rows].get(mode="fill", fill_value=1, unique_indices=True)
    squares = old + gradient * gradient
    step = ops.cast(gradient * -rate / ops.sqrt(squares + start), table.dtype)
    sums.assign(sums.value.at[rows].set(squares, mode="drop", unique_indices=True))
    table.assign(table.value.at[rows].add(step, mode="drop", unique_indices=True))


def _finite_rows(gradient: Tensor) -> Tensor:
    """Return a gradient with 0 in each row whose squares are NaN, infinite or nearly so."""
    axis = -1 if len(gradient.shape) else None
    squares = ops.sum(gradient * gradient, axis=axis, keepdims=True)
    # Graphs of TensorFlow turn `~(squares < MAX_SQUARES)` into `>=`, which NaN fails.
    return ops.where(squares < MAX_SQUARES, gradient, 0.0)


SPLIT = {"tensorflow": _split_tensorflow, "jax": _split_jax, "torch": _split_torch}
UPDATE = {"tensorflow": _update_tensorflow, "jax": _update_jax, "torch": _update_torch}

"""An embedding of numbers by bins at their quantiles."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._checks import check_activation, check_features, check_int, short_repr
from ple_keras._keras.batches import Batches, refuse_batches
from ple_keras._keras.layers import BaseLayer
from ple_keras._keras.saving import register
from ple_keras._keras.tensors import HALF_DTYPES, clip, dtype_name, fill, is_number, to_numpy
from ple_keras._typing import Activation, Config, Nested, Shape, Tensor
from ple_keras.layers.experts import matmul

MAX_ROWS = 100_000  # of the sample of a stream


@register
class NumberEmbedding(BaseLayer):
    """Embeddings of numbers by bins at their quantiles: `(..., n) -> (..., n * units)`.

    A small network is a smooth function of its inputs. With bins, it can change at any quantile of
    a number. With the edges b of the bins of a number, part t of it is

        p_t = clip((x - b_t) / (b_{t+1} - b_t), 0, 1)

    so the parts below a number are 1, and those above it 0. Each number has its own kernel and
    bias, and its embedding is `activation(W p + c)`.

    Outside of the edges, the parts stay constant. In the reference, the first and the last part go
    on. A missing number, NaN, has parts of 0, like the smallest number, so a
    column next to it should say that it is missing.

    `adapt` computes the edges from training data, or `edges` has them. They are non-trainable
    weights, which files, exports and copies of the layer contain. Without them, outputs are NaN.

    The parts are computed in float32 if the dtype policy is a half precision. float32 has 7 digits:
    times in seconds are exact to 128 s, and amounts of 1e9 to 64. If smaller differences matter,
    subtract a date or an amount from the data before.

    Args:
        units: The width of the embedding of each number. If None, the result is the parts of each
            number, `(..., n * num_bins)`, and the layer has no kernel.
        num_bins: The largest number of bins of a number. Equal quantiles are one edge, and the
            parts of bins that a number lacks are 0.
        activation: The activation of the embeddings: a name, a function, or None for linear.
        edges: The edges of each number: a sequence of n sequences of at most `num_bins + 1`
            numbers in ascending order. If None, `adapt` computes them.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Numbers, `(..., n)`.

    Returns:
        The embeddings, `(..., n * units)`, side by side for each number.

    Raises:
        TypeError: If `units` or `num_bins` is not an integer, or `activation` is a layer.
        ValueError: If `units` or `num_bins` is below 1, `activation` is unknown, or `edges` are not
            finite, not in ascending order or too many. If their number is not n.

    Reference:

    - Gorishniy, Rubachev, Babenko, "On Embeddings for Numerical Features in Tabular Deep Learning",
      NeurIPS 2022, section 3.2. [arXiv:2203.05556](https://arxiv.org/abs/2203.05556)

    Example:

    >>> parts = NumberEmbedding(units=None, num_bins=2)
    >>> parts.adapt(np.array([[0.0], [1.0], [3.0]]))
    >>> parts.edges
    [[0.0, 1.0, 3.0]]
    >>> keras.ops.convert_to_numpy(parts(np.array([[2.0], [9.0]]))).tolist()
    [[1.0, 0.5], [1.0, 1.0]]
    """

    _fixed = ("units", "num_bins")

    def __init__(
        self,
        units: int | None = 8,
        num_bins: int = 16,
        activation: Activation = "relu",
        edges: Sequence[Sequence[float]] | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.autocast = False  # float16 has neither the range nor the digits of many numbers
        self.units = None if units is None else check_int(units, "units", minimum=1)
        self.num_bins = check_int(num_bins, "num_bins", minimum=1)
        self.activation = check_activation(activation)
        is_half = self.compute_dtype in HALF_DTYPES
        self._parts_dtype = "float32" if is_half else self.compute_dtype
        self._limit = float(np.finfo(self._parts_dtype).max) / 8  # 1 / width is not 0
        self._edges = None if edges is None else self._check_edges(edges)
        self._edge_weights: keras.Variable = None

    @property
    def edges(self) -> list[list[float]] | None:
        """The edges of the bins of each number; None if they are unknown."""
        edges = self._edges if self._edge_weights is None else to_numpy(self._edge_weights)
        if edges is None or np.isnan(edges).any():
            return None
        return [[*map(float, _distinct(row))] for row in edges]

    def adapt(self, data: Nested) -> None:
        """Compute the edges from training data, at any time, repeatedly.

        The edges are values of the data, at the quantiles 0, 1 / num_bins, ..., 1 of each number
        without NaN. Of more than 100,000 rows, they are the quantiles of so many random rows.

        Args:
            data: An array `(..., n)`, or batches of such arrays or of `(x, y)`, which are read
                once: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a torch DataLoader or another
                iterable that ends.

        Raises:
            TypeError: If `data` is neither arrays nor batches, or does not contain numbers.
            ValueError: If `data` has fewer than two axes, another number of columns than the layer
                was built for, an infinite number, or no rows or no end.
        """
        refuse_batches(data, "data", iterators=False)
        random = np.random.default_rng(0)
        chunks: list[np.ndarray] = []  # of rows, with a random number in front of each
        for batch, *_ in Batches(data, default=None, argument="data"):
            rows = self._check_data(to_numpy(batch))
            chunks.append(np.column_stack([random.random(len(rows)), rows]))
            if sum(map(len, chunks)) > 2 * MAX_ROWS:
                chunks = [_smallest(chunks)]
        shares = np.linspace(0, 1, self.num_bins + 1)
        columns = [column[~np.isnan(column)] for column in _smallest(chunks)[:, 1:].T]
        self._edges = self._check_edges(
            [np.quantile(x, shares, method="inverted_cdf") if len(x) else x for x in columns]
        )
        if self._edge_weights is not None:
            self._edge_weights.assign(self._edges)

    def _check_data(self, data: np.ndarray) -> np.ndarray:
        """Return an array of numbers as `(rows, n)`."""
        if not is_number(dtype_name(data)):
            raise TypeError(f"data must contain numbers. Received: data={short_repr(data)}")
        width = self.input_spec.axes[-1] if self.built else None
        if data.ndim < 2 or data.shape[-1] != (width or data.shape[-1]):
            raise ValueError(f"data must be (..., {width or 'n'}). Received: {data.shape=}")
        wrong = data[np.abs(data.astype("float64")) > self._limit]
        if wrong.size:
            raise ValueError(
                f"data must be NaN or at most {self._limit:.2g} in size. Received: data={wrong[0]}"
            )
        return data.reshape(-1, data.shape[-1])

    def _check_edges(self, edges: Sequence[Sequence[float] | np.ndarray]) -> np.ndarray:
        """Return edges as `(n, num_bins + 1)`. The last edge of a number is repeated."""
        try:
            rows = [np.asarray(row, "float64") for row in edges]
        except (TypeError, ValueError):
            rows = []
        size = self.num_bins + 1
        if not rows or not all(
            row.ndim == 1
            and len(row) <= size
            and (np.abs(row) <= self._limit).all()
            and (np.diff(row) >= 0).all()
            for row in rows
        ):
            raise ValueError(
                f"edges must be a sequence of at most {size} finite numbers in ascending order for "
                f"each number. Received: edges={short_repr(edges)}"
            )
        distinct = [_distinct(row.astype(self._parts_dtype)) for row in rows]
        return np.stack([np.pad(row, (0, size - len(row)), "edge") for row in distinct])

    def build(self, input_shape: Shape) -> None:
        count = check_features(input_shape)[-1]
        if self._edges is not None and len(self._edges) != count:
            raise ValueError(
                f"inputs must have {len(self._edges)} features, as edges. Received: {input_shape=}"
            )
        self.input_spec = keras.InputSpec(min_ndim=2, axes={-1: count})
        initial = keras.initializers.Constant(math.nan if self._edges is None else self._edges)
        options = {"name": "edges", "trainable": False, "autocast": False}
        shape = (count, self.num_bins + 1)
        self._edge_weights = self.add_weight(shape, initial, self._parts_dtype, **options)
        if self.units is not None:
            limit = (6 / (self.num_bins + self.units)) ** 0.5  # Glorot's, for each number
            uniform = keras.initializers.RandomUniform(-limit, limit)
            self._kernel = self.add_weight(
                (count, self.num_bins, self.units), uniform, name="kernel"
            )
            self._bias = self.add_weight((count, self.units), "zeros", name="bias")
        self._restore_frozen()

    def call(self, inputs: Tensor) -> Tensor:
        """Return the embeddings."""
        edges, dtype, count = self._edge_weights, self.compute_dtype, self.input_spec.axes[-1]
        low, high = edges[:, :-1], edges[:, 1:]
        widths = high - low
        # Of a bin that a number lacks, `low` is the last edge, which no clipped number exceeds.
        scales = 1 / fill(widths, widths == 0, 1)
        x = ops.reshape(ops.cast(inputs, self._parts_dtype), (-1, count))
        x = ops.where(ops.isnan(x), low[:, 0], x)
        x = ops.minimum(ops.maximum(x, low[:, 0]), high[:, -1])
        # With the rows in the last axis, products of small matrices take half the time.
        x = ops.expand_dims(ops.transpose(x), 1)
        outputs = clip((x - ops.expand_dims(low, -1)) * ops.expand_dims(scales, -1), 0, 1)
        outputs = ops.cast(outputs, dtype)
        if self.units is not None:
            outputs = matmul(ops.transpose(ops.cast(self._kernel, dtype), (0, 2, 1)), outputs)
        width = count * (self.units or self.num_bins)
        outputs = ops.transpose(ops.reshape(outputs, (width, -1)))
        if self.units is not None:
            outputs = self.activation(outputs + ops.reshape(ops.cast(self._bias, dtype), (-1,)))
        return ops.reshape(outputs, (*ops.shape(inputs)[:-1], width))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shape = check_features(input_shape)
        return (*shape[:-1], (shape[-1] or 0) * (self.units or self.num_bins))

    def get_config(self) -> Config:
        activation = keras.activations.serialize(self.activation)
        return {**super().get_config(), "activation": activation, "edges": self.edges}


def _distinct(edges: np.ndarray) -> Any:
    """Return ascending edges that differ, by more than the smallest number with an inverse."""
    if not len(edges):
        return np.zeros(1, edges.dtype)  # of a number without any value
    return edges[np.diff(edges, prepend=-np.inf) > np.finfo(edges.dtype).tiny]


def _smallest(chunks: list[np.ndarray]) -> Any:
    """Return the rows with the smallest numbers in the first column, at most MAX_ROWS."""
    rows: Any = np.concatenate(chunks)
    if len(rows) > MAX_ROWS:
        rows = rows[np.argpartition(rows[:, 0], MAX_ROWS)[:MAX_ROWS]]
    return rows

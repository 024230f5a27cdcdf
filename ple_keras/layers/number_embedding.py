"""An embedding of numbers by bins at their quantiles."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._checks import check_activation, check_features, check_int, short_repr
from ple_keras._keras.layers import BaseLayer
from ple_keras._keras.saving import register
from ple_keras._keras.tensors import HALF_DTYPES, clip, dtype_name, is_number, to_numpy
from ple_keras._typing import Activation, Config, Shape, Tensor
from ple_keras.layers.experts import matmul

MAX_ROWS = 100_000  # rows whose quantiles are computed


@register
class NumberEmbedding(BaseLayer):
    """Embeddings of numbers by bins at their quantiles: `(..., n) -> (..., n * units)`.

    A small network is a smooth function of its inputs. With bins, it can change at any quantile of
    a number. With the boundaries b of the bins of a number, part t of it is

        p_t = clip((x - b_t) / (b_{t+1} - b_t), 0, 1)

    so the parts below a number are 1, and those above it 0. Each number has its own kernel and
    bias, and its embedding is `activation(W p + c)`.

    Outside of the boundaries, the parts stay constant. In the reference, the first and the last
    part continue. A missing number, NaN, has parts of 0, like the smallest number, so a column next
    to it should say that it is missing.

    `adapt` computes the boundaries from training data, or `bin_boundaries` has them. They are
    non-trainable weights, which files, exports and copies of the layer contain. Without them,
    outputs are NaN.

    The parts are computed in float32 if the dtype policy is a half precision. float32 has 7 digits:
    times in seconds are exact to 128 s, and amounts of 1e9 to 64. If smaller differences matter,
    subtract a date or an amount from the data before.

    Args:
        units: The width of the embedding of each number.
        num_bins: The largest number of bins of a number. Equal quantiles are one boundary, and the
            parts of bins that a number lacks are 0.
        activation: The activation of the embeddings: a name, a function, or None for linear.
        bin_boundaries: The boundaries of the bins of each number, the first and the last included:
            a sequence of n sequences of at most `num_bins + 1` numbers in ascending order. If None,
            `adapt` computes them.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Numbers, `(..., n)`.

    Returns:
        The embeddings of all numbers side by side, `(..., n * units)`.

    Raises:
        TypeError: If `units` or `num_bins` is not an integer, or `activation` is a layer.
        ValueError: If `units` or `num_bins` is below 1, `activation` is unknown, or
            `bin_boundaries` are not finite, not in ascending order, too many, or not for n
            numbers.

    Reference:

    - Gorishniy, Rubachev, Babenko, "On Embeddings for Numerical Features in Tabular Deep Learning",
      NeurIPS 2022, section 3.2. [arXiv:2203.05556](https://arxiv.org/abs/2203.05556)

    Example:

    >>> embedding = NumberEmbedding(units=4, num_bins=2)
    >>> embedding.adapt(np.array([[0.0], [1.0], [3.0]]))
    >>> embedding.bin_boundaries
    [[0.0, 1.0, 3.0]]
    >>> tuple(embedding(np.array([[2.0], [9.0]])).shape)
    (2, 4)
    """

    _fixed = ("units", "num_bins")

    def __init__(
        self,
        units: int = 8,
        num_bins: int = 16,
        activation: Activation = "relu",
        bin_boundaries: Sequence[Sequence[float]] | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.autocast = False  # float16 has neither the range nor the digits of many numbers
        self.units = check_int(units, "units", minimum=1)
        self.num_bins = check_int(num_bins, "num_bins", minimum=1)
        self.activation = check_activation(activation)
        is_half = self.compute_dtype in HALF_DTYPES
        self._parts_dtype = "float32" if is_half else self.compute_dtype
        self._limit = float(np.finfo(self._parts_dtype).max) / 8  # 1 / width is not 0
        self._boundaries: np.ndarray | None = None
        if bin_boundaries is not None:
            self._boundaries = self._check_boundaries(bin_boundaries)
        self._boundary_weights: keras.Variable = None

    @property
    def bin_boundaries(self) -> list[list[float]] | None:
        """The boundaries of the bins of each number; None if they are unknown."""
        weights = self._boundary_weights
        boundaries = self._boundaries if weights is None else to_numpy(weights)
        if boundaries is None or np.isnan(boundaries).any():
            return None
        return [[*map(float, _distinct(row))] for row in boundaries]

    def adapt(self, data: Tensor) -> None:
        """Compute the boundaries from training data. It can be called again at any time.

        The boundaries are values of the data, at the quantiles 0, 1 / num_bins, ..., 1 of each
        number without NaN. Of more than 100,000 rows, a random 100,000 are read.

        Args:
            data: An array `(..., n)`.

        Raises:
            TypeError: If `data` is not an array of numbers.
            ValueError: If `data` has fewer than two axes, another number of columns than the layer
                was built for, an infinite number, or no rows.
        """
        rows = self._check_data(data)
        if len(rows) > MAX_ROWS:
            rows = rows[np.random.default_rng(0).choice(len(rows), MAX_ROWS, replace=False)]
        shares = np.linspace(0, 1, self.num_bins + 1)
        columns = [column[~np.isnan(column)] for column in rows.T]
        quantiles = partial(np.quantile, q=shares, method="inverted_cdf")
        self._boundaries = self._check_boundaries([quantiles(x) if len(x) else x for x in columns])
        if self._boundary_weights is not None:
            self._boundary_weights.assign(self._boundaries)

    def _check_data(self, data: Tensor) -> np.ndarray:
        """Return an array of numbers as `(rows, n)`."""
        data = to_numpy(data)
        if not is_number(dtype_name(data)):
            raise TypeError(f"data must be an array of numbers. Received: data={short_repr(data)}")
        width = self.input_spec.axes[-1] if self.built else None
        if data.ndim < 2 or not data.size or data.shape[-1] != (width or data.shape[-1]):
            raise ValueError(
                f"data must be (..., {width or 'n'}), not empty. Received: {data.shape=}"
            )
        rows: np.ndarray = data.reshape(-1, data.shape[-1])
        return rows

    def _check_boundaries(self, boundaries: Sequence[Sequence[float] | np.ndarray]) -> np.ndarray:
        """Return boundaries as `(n, num_bins + 1)`. The last boundary of a number is repeated."""
        try:
            rows = [np.asarray(row, "float64") for row in boundaries]
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
                f"bin_boundaries must be a sequence of at most {size} finite numbers in ascending "
                f"order for each number. Received: bin_boundaries={short_repr(boundaries)}"
            )
        distinct = [_distinct(row.astype(self._parts_dtype)) for row in rows]
        return np.stack([np.pad(row, (0, size - len(row)), "edge") for row in distinct])

    def build(self, input_shape: Shape) -> None:
        count = check_features(input_shape)[-1]
        if self._boundaries is not None and len(self._boundaries) != count:
            raise ValueError(
                f"inputs must have {len(self._boundaries)} features, one for each sequence of "
                f"bin_boundaries. Received: {input_shape=}"
            )
        self.input_spec = keras.InputSpec(min_ndim=2, axes={-1: count})
        known = math.nan if self._boundaries is None else self._boundaries
        initial = keras.initializers.Constant(known)
        options = {"name": "bin_boundaries", "trainable": False, "autocast": False}
        shape = (count, self.num_bins + 1)
        self._boundary_weights = self.add_weight(shape, initial, self._parts_dtype, **options)
        limit = (6 / (self.num_bins + self.units)) ** 0.5  # Glorot's, for each number
        uniform = keras.initializers.RandomUniform(-limit, limit)
        self._kernel = self.add_weight((count, self.num_bins, self.units), uniform, name="kernel")
        self._bias = self.add_weight((count, self.units), "zeros", name="bias")
        self._restore_frozen()

    def call(self, inputs: Tensor) -> Tensor:
        """Return the embeddings."""
        dtype, count = self.compute_dtype, self.input_spec.axes[-1]
        boundaries = ops.expand_dims(self._boundary_weights, -1)
        low = boundaries[:, :-1]
        # A bin that a number lacks has no width, and its part is 0.
        scales = ops.reciprocal(boundaries[:, 1:] - low)
        scales = ops.nan_to_num(scales, nan=math.nan, posinf=0.0)
        x = ops.cast(inputs, self._parts_dtype)
        x = x if len(x.shape) == 2 else ops.reshape(x, (-1, count))
        x = ops.nan_to_num(clip(x, -self._limit, self._limit), nan=-self._limit)
        # Products of small matrices take half the time with the rows in the last axis.
        x = ops.expand_dims(ops.transpose(x), 1)
        outputs = ops.cast(clip((x - low) * scales, 0, 1), dtype)
        kernel = ops.transpose(ops.cast(self._kernel, dtype), (0, 2, 1))
        outputs = matmul(kernel, outputs) + ops.expand_dims(ops.cast(self._bias, dtype), -1)
        width = count * self.units
        outputs = self.activation(ops.transpose(ops.reshape(outputs, (width, -1))))
        shape = ops.shape(inputs)
        return outputs if len(shape) == 2 else ops.reshape(outputs, (*shape[:-1], width))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shape = check_features(input_shape)
        return (*shape[:-1], (shape[-1] or 0) * self.units)

    def get_config(self) -> Config:
        activation = keras.activations.serialize(self.activation)
        config = {"activation": activation, "bin_boundaries": self.bin_boundaries}
        return {**super().get_config(), **config}


def _distinct(boundaries: np.ndarray) -> Any:
    """Return ascending boundaries that differ, by more than the smallest number with an inverse."""
    if not len(boundaries):
        return np.zeros(1, boundaries.dtype)  # a number without any value
    return boundaries[np.diff(boundaries, prepend=-np.inf) > np.finfo(boundaries.dtype).tiny]

"""Gate: the weights of experts for each example, and their statistics."""

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._checks import check_bool, check_features, check_int, check_keys, check_number
from ple_keras._keras.building import build_on
from ple_keras._keras.copying import derive_initializer
from ple_keras._keras.internals import call_keeping_masks
from ple_keras._keras.layers import BaseLayer
from ple_keras._keras.saving import load_seed, register, save_seed
from ple_keras._keras.tensors import at_least_float32, is_constant_in_jax_trace
from ple_keras._typing import Config, Initializer, LayerLike, Regularizer, Shape, Store, Tensor
from ple_keras.layers.observer import active_observer
from ple_keras.layers.template import as_optional_template

DROPPED_LOGIT = -1e30  # the softmax is 0
# The arguments that blocks do not set themselves.
GATE_OPTIONS = ("dropout", "balance_regularizer", "kernel_initializer", "kernel_regularizer")


@register
class Gate(BaseLayer):
    """Weights of experts for each example, `(..., D) -> (..., num_experts)`.

        w = softmax(W g(x) / T)

    W has no bias, g is the optional gate block, T the temperature. The weights are non-negative and
    sum to 1. With one expert, the gate has no parameters and returns 1.

    The softmax is computed in at least float32 under every dtype policy. The weights are cast to
    the compute dtype.

    Args:
        num_experts: The number of experts.
        gate_block: The network g: an int or a sequence of ints (the units of an ExpertBlock), or
            a layer, which is copied. With None, g(x) = x.
        softmax_temperature: The temperature T, above 0. A lower T makes the weights sharper.
        dropout: The probability, in [0, 1), of dropping each expert of an example in training. The
            other weights are scaled to sum to 1. One expert is always kept.
        balance_regularizer: The coefficient, at least 0, of a loss against unused experts. The
            loss is the squared coefficient of variation of the experts' total weights in the
            batch: 0 if all are equal, and `num_experts - 1` if one expert has all the weight. It
            also penalizes useful specialization.
        track_weights: Whether to keep statistics of the weights (see `statistics`).
        kernel_initializer: Initializer of W.
        kernel_regularizer: Regularizer of W.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Features, `(..., D)`.
        training: Whether to drop experts. Statistics are updated if it is True or False, as in
            Keras's own loops, but not if it is None.
        mask: The valid positions for the statistics and the balance loss, `(...)`.

    Returns:
        The weights, `(..., num_experts)`.

    Raises:
        TypeError: If `num_experts` is not an integer, or another argument has the wrong type.
        ValueError: If `num_experts` is below 1, `softmax_temperature` is not positive and finite,
            `dropout` is outside [0, 1), `balance_regularizer` is negative or not finite, or
            `gate_block` can't be copied.

    Reference:

    - Tang, Liu, Zhao, Gong, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning
      (MTL) Model for Personalized Recommendations", RecSys 2020, equations 3 and 6,
      which have T = 1 and no g.
      [doi:10.1145/3383313.3412236](https://doi.org/10.1145/3383313.3412236)
    - The loss against unused experts: Shazeer et al., "Outrageously Large Neural Networks: The
      Sparsely-Gated Mixture-of-Experts Layer", ICLR 2017, equations 6 and 7.
      [arXiv:1701.06538](https://arxiv.org/abs/1701.06538)

    Example:

    >>> gate = Gate(num_experts=3)
    >>> tuple(gate(keras.ops.ones((32, 64))).shape)
    (32, 3)
    """

    _fixed = (
        *("num_experts", "softmax_temperature", "track_weights"),
        *("kernel_initializer", "kernel_regularizer"),
    )

    def __init__(
        self,
        num_experts: int,
        gate_block: LayerLike | None = None,
        softmax_temperature: float = 1.0,
        dropout: float = 0.0,
        balance_regularizer: float = 0.0,
        track_weights: bool = False,
        kernel_initializer: Initializer = "glorot_uniform",
        kernel_regularizer: Regularizer = None,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.num_experts = check_int(num_experts, "num_experts", minimum=1)
        self.softmax_temperature = check_number(softmax_temperature, "softmax_temperature", above=0)
        self.dropout = check_number(dropout, "dropout", minimum=0, below=1)
        self.balance_regularizer = check_number(balance_regularizer, "balance_regularizer", 0)
        self.track_weights = check_bool(track_weights, "track_weights")
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        if self.dropout:
            self._seed_generator = keras.random.SeedGenerator()
        self._template = as_optional_template(gate_block, "gate_block", self.dtype_policy)

    def build(self, input_shape: Shape) -> None:
        shape = check_features(input_shape)
        self.input_spec = keras.InputSpec(min_ndim=2, axes={-1: shape[-1]})
        if self.num_experts > 1:
            # The names `_block` and `_projection` are part of the file format.
            if self._template:
                self._block = self._template.copy("block")
                width = build_on(self._block, shape, self.compute_dtype, "gate_block")
                shape = (*shape[:-1], width)
            self._projection = keras.layers.Dense(
                self.num_experts,
                use_bias=False,
                kernel_initializer=self.kernel_initializer,
                kernel_regularizer=self.kernel_regularizer,
                dtype=self.dtype_policy,
                name="projection",
            )
            self._projection.build(shape)
        if self.track_weights:
            # Sums over examples of the weights, of each weight times its logarithm, and of the
            # largest weight, then the number of examples. With tf.distribute, each replica has its
            # own sums, which are added when they are read.
            self._sums = keras.Variable(
                "zeros",
                shape=(2 * self.num_experts + 2,),
                dtype="float32",
                trainable=False,
                autocast=False,
                aggregation="sum",
                synchronization="on_read",
                name="sums",
            )
        self._restore_frozen()

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Compute the weights of the experts."""
        if self.num_experts == 1:
            weights = ops.ones_like(at_least_float32(inputs[..., :1]))
        else:
            inputs = call_keeping_masks(self._block, inputs) if self._template else inputs
            logits = at_least_float32(self._projection(inputs))
            if self.softmax_temperature != 1:
                logits = logits / self.softmax_temperature
            weights = ops.softmax(logits)
            if self.balance_regularizer:
                self.add_loss(self.balance_regularizer * self._imbalance(weights, mask))
        if self.track_weights and training is not None and active_observer() is None:
            self._update_statistics(weights, mask)
        if self.num_experts > 1 and self.dropout and training:
            weights = ops.softmax(self._drop_experts(logits))
        return ops.cast(weights, self.compute_dtype)

    def _drop_experts(self, logits: Tensor) -> Tensor:
        draws = keras.random.uniform(ops.shape(logits), dtype="float32", seed=self._seed_generator)
        is_kept = ops.logical_or(draws >= self.dropout, draws == _largest(draws))
        return ops.where(is_kept, logits, ops.cast(DROPPED_LOGIT, logits.dtype))

    def _imbalance(self, weights: Tensor, mask: Tensor | None) -> Tensor:
        load = _masked_sum(ops.cast(weights, "float32"), mask)
        imbalance = ops.divide_no_nan(ops.var(load), ops.square(ops.mean(load)))
        return ops.cast(imbalance, keras.config.floatx())  # TensorFlow adds losses of one dtype

    def statistics(self) -> dict[str, Any]:
        """Return the statistics of the weights in fit, evaluate and predict since the last reset.

        If several processes train the model, the statistics cover the examples of all processes on
        JAX and TensorFlow, and only of this process on PyTorch.

        Returns:
            A dict with four keys. `"mean"` is the mean weight of each expert, an array
            `(num_experts,)`. `"entropy"` is the mean entropy divided by log(num_experts), in
            [0, 1]. `"max"` is the mean largest weight, near 1 if the gate has collapsed.
            `"count"` is the number of examples, or of positions that no mask excludes. The other
            three are NaN if it is 0.

        Raises:
            ValueError: If the gate does not track its weights or is not built.
        """
        if not (self.track_weights and self.built):
            raise ValueError(
                "the gate must be built with track_weights=True, by its block with "
                f"enable_gate_weights_metrics=True. Received: built={self.built}"
            )
        sums = np.array(ops.convert_to_numpy(self._sums))
        means = sums / (sums[-1] or math.nan)
        negative_entropy = means[self.num_experts : -2].sum()
        return {
            "mean": means[: self.num_experts],
            "entropy": float(-negative_entropy / max(math.log(self.num_experts), 1e-30)),
            "max": float(means[-2]),
            "count": float(sums[-1]),
        }

    def reset_statistics(self) -> None:
        """Reset the statistics."""
        if self.track_weights and self.built:
            self._sums.assign(ops.zeros(self._sums.shape, "float32"))

    def _update_statistics(self, weights: Tensor, mask: Tensor | None) -> None:
        weights = ops.cast(ops.stop_gradient(weights), "float32")
        weighted_logs = weights * ops.log(weights + 1e-30)  # 0 where a weight is 0
        maxima = _largest(weights)
        summands = [weights, weighted_logs, maxima, ops.ones_like(maxima)]
        totals = _masked_sum(ops.concatenate(summands, axis=-1), mask)
        if not is_constant_in_jax_trace(self._sums, [totals]):
            self._sums.assign_add(totals)

    def save_own_variables(self, store: Store) -> None:
        """Save the state of the dropout seed, without the statistics of the weights."""
        if self.dropout:
            save_seed(store, self._seed_generator)

    def load_own_variables(self, store: Store) -> None:
        """Load the state of the dropout seed."""
        if self.dropout:
            load_seed(store, self._seed_generator)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.num_experts)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "gate_block": self._template and self._template.serialize(),
            "dropout": self.dropout,
            "balance_regularizer": self.balance_regularizer,
        }


def gate_options(gate_kwargs: Mapping[str, object] | None, *path: object) -> dict[str, Any]:
    """Return the arguments of a gate in the `gate_kwargs` of a block.

    Args:
        gate_kwargs: The dict. Its values can be serialized.
        *path: The place of the gate. Initializers draw different values at every place.

    Raises:
        TypeError: If `gate_kwargs` is not a dict.
        ValueError: If a key is not an argument of Gate, or is set by the block.
    """
    arguments = {} if gate_kwargs is None else gate_kwargs
    check_keys(arguments, GATE_OPTIONS, "gate_kwargs", has_all=False)
    load = keras.saving.deserialize_keras_object
    options = {k: load(x) if isinstance(x, Mapping) else x for k, x in arguments.items()}
    return {key: derive_initializer(value, *path) for key, value in options.items()}


def _largest(values: Tensor) -> Tensor:
    """Return the maximum over the last axis, which is kept. The batch can be empty."""
    if 0 in values.shape:  # TensorFlow refuses it
        return values[..., :1]
    return ops.amax(values, axis=-1, keepdims=True)  # torch.compile doesn't support ops.max


def _masked_sum(values: Tensor, mask: Tensor | None) -> Tensor:
    """Sum `(..., n)` to `(n,)` over all examples, or over the valid ones of a mask `(...)`."""
    if mask is not None:
        values = values * ops.expand_dims(ops.cast(mask, values.dtype), -1)
    return ops.sum(values, axis=tuple(range(len(values.shape) - 1)))

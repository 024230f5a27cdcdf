"""A gate: how much of each expert an example gets."""

import math
from functools import reduce
from typing import Any

import keras
from keras import ops

from ple_keras._building import Shape, build_on, freeze_if_frozen
from ple_keras._registration import register
from ple_keras._validation import (
    check_bool,
    check_features,
    check_int,
    check_known,
    check_number,
)
from ple_keras.experts import as_template


@register
class Gate(keras.Layer):
    """The weight of each expert for each example, `(..., D) -> (..., num_experts)`.

        w = softmax(W g(x) / T)

    W has no bias, g is the optional gate block, T the temperature (Tang et al., RecSys 2020,
    equations 3 and 6, which have T = 1 and no g). The weights are not negative and sum to 1. A
    gate over one expert has no weights of its own and gives that expert 1.

    The softmax is computed in at least float32, whatever the dtype policy, and cast back.

    Args:
        num_experts: The number of experts to weigh.
        gate_block: g: an int or a sequence of ints (the units of an ExpertBlock), or a layer, of
            which the gate takes a copy. None: the gate reads x itself.
        softmax_temperature: T, above 0. Lower is sharper.
        kernel_initializer: Initializer of W.
        kernel_regularizer: Regularizer of W.
        track_weights: Whether to keep statistics of the weights, see `statistics`.
        **kwargs: Keras's own layer arguments.

    Raises:
        TypeError: if `num_experts` is no integer, `softmax_temperature` no number, or
            `gate_block` none of the above.
        ValueError: if `num_experts` is below 1, `softmax_temperature` not positive and finite,
            or `gate_block` can't be copied.

    Example:

    >>> gate = Gate(num_experts=3)
    >>> tuple(gate(keras.ops.ones((32, 64))).shape)
    (32, 3)
    """

    def __init__(
        self,
        num_experts: int,
        gate_block: Any = None,
        softmax_temperature: float = 1.0,
        kernel_initializer: Any = "glorot_uniform",
        kernel_regularizer: Any = None,
        track_weights: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.num_experts = check_int(num_experts, "num_experts", minimum=1)
        self.softmax_temperature = check_temperature(softmax_temperature, "softmax_temperature")
        self.kernel_initializer = check_known(
            keras.initializers.get, kernel_initializer, "kernel_initializer"
        )
        self.kernel_regularizer = check_known(
            keras.regularizers.get, kernel_regularizer, "kernel_regularizer"
        )
        self.track_weights = check_bool(track_weights, "track_weights")
        self._template = None
        if gate_block is not None:
            self._template = as_template(gate_block, "gate_block", self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        shape = check_features(input_shape)
        self.input_spec = keras.InputSpec(min_ndim=2, axes={-1: shape[-1]})
        if self.num_experts > 1:
            self._build_projection(shape)
        if self.track_weights:
            self._sums = self._add_statistic("sums", (self.num_experts + 2,))
            self._count = self._add_statistic("count", ())
        freeze_if_frozen(self)

    def _build_projection(self, shape: Shape) -> None:
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

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Weigh the experts.

        Args:
            inputs: Features, `(..., D)`.
            training: True or False in Keras's own loops; statistics are kept only there.

        Returns:
            The weights, `(..., num_experts)`.
        """
        weights = self._weights(inputs, training)
        if self.track_weights and training is not None:
            self._track(weights)
        return ops.cast(weights, self.compute_dtype)

    def _weights(self, inputs: Any, training: bool | None) -> Any:
        if self.num_experts == 1:
            return ops.ones_like(inputs[..., :1])
        if self._template:
            inputs = self._block(inputs)
        logits = at_least_float32(self._projection(inputs))
        return ops.softmax(logits / self.softmax_temperature)

    def _add_statistic(self, name: str, shape: tuple[int, ...]) -> Any:
        return self.add_weight(
            name=name,
            shape=shape,
            initializer="zeros",
            dtype="float32",
            autocast=False,
            trainable=False,
            aggregation="mean",
        )

    def _track(self, weights: Any) -> None:
        weights = ops.reshape(ops.cast(weights, "float32"), (-1, self.num_experts))
        # Where a weight is 0, so is its part of the entropy.
        entropy = -ops.sum(weights * ops.log(ops.maximum(weights, 1e-30)), axis=-1)
        # Column by column, since ops.max refuses an empty batch.
        largest = reduce(ops.maximum, ops.split(weights, self.num_experts, axis=-1))
        columns = [weights, entropy[:, None], largest]
        self._sums.assign_add(ops.sum(ops.concatenate(columns, axis=-1), axis=0))
        self._count.assign_add(ops.cast(ops.shape(weights)[0], "float32"))

    def statistics(self) -> dict[str, Any]:
        """What the weights did in fit, evaluate and predict since the last reset.

        Returns:
            `"mean"`: the mean weight of each expert, an array `(num_experts,)`; `"entropy"`:
            the mean entropy divided by log(num_experts), in [0, 1]; `"max"`: the mean largest
            weight, near 1 where the gate has collapsed. All NaN before the first example.

        Raises:
            ValueError: if the gate does not track its weights or isn't built.
        """
        if not (self.track_weights and self.built):
            raise ValueError(
                "statistics are kept only by a built gate with track_weights=True. "
                f"Received: track_weights={self.track_weights}, built={self.built}"
            )
        count = float(ops.convert_to_numpy(self._count)) or math.nan
        means = ops.convert_to_numpy(self._sums) / count
        *_, entropy, largest = means.tolist()
        return {
            "mean": means[:-2],
            "entropy": entropy / max(math.log(self.num_experts), 1e-30),
            "max": largest,
        }

    def reset_statistics(self) -> None:
        """Forget what was tracked so far."""
        for statistic in (self._sums, self._count) if self.track_weights and self.built else ():
            statistic.assign(ops.zeros(statistic.shape, statistic.dtype))

    def save_own_variables(self, store: Any) -> None:
        """Nothing: the gate's own variables are statistics, which belong to no file."""

    def load_own_variables(self, store: Any) -> None:
        """Nothing, see `save_own_variables`."""

    def compute_output_shape(self, input_shape: Any) -> Shape:
        return (*input_shape[:-1], self.num_experts)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "gate_block": self._template and self._template.serialize(),
            "softmax_temperature": self.softmax_temperature,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "track_weights": self.track_weights,
        }


def check_temperature(value: Any, argument: str) -> float:
    """`value` as a float above 0."""
    temperature = check_number(value, argument)
    if temperature <= 0:
        raise ValueError(f"{argument} must be above 0. Received: {argument}={value!r}")
    return temperature


def at_least_float32(x: Any) -> Any:
    """`x`, cast up where its dtype has fewer bits than float32."""
    is_half = keras.backend.standardize_dtype(x.dtype) in ("float16", "bfloat16")
    return ops.cast(x, "float32") if is_half else x

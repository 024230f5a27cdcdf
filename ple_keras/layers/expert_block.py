"""Expert: a multi-layer perceptron."""

from collections.abc import Sequence
from typing import SupportsIndex, cast

import keras

from ple_keras._checks import (
    check_activation,
    check_bool,
    check_features,
    check_int,
    check_known_value,
    check_number,
)
from ple_keras._keras.copying import derive_initializer
from ple_keras._keras.layers import BaseLayer
from ple_keras._keras.saving import load_seed, register, save_seed
from ple_keras._typing import (
    Activation,
    Config,
    Initializer,
    Normalization,
    Regularizer,
    Shape,
    Store,
    Tensor,
)

NORMALIZERS = {"batch": keras.layers.BatchNormalization, "layer": keras.layers.LayerNormalization}


@register
class ExpertBlock(BaseLayer):
    """An expert: an MLP, `(..., D) -> (..., units[-1])`.

    Each step applies a Dense layer, optional normalization, an activation and optional dropout. An
    ExpertBlock can also be used alone, as a tower or as a gate block, and can be subclassed.

    Args:
        units: The width of each step: an int or a sequence of ints.
        activation: The activation of every step: a name, a function, or None for linear.
        dropout: The dropout rate of every step, in [0, 1).
        normalization: The normalization before each activation: None, "batch" or "layer".
        use_bias: Whether the Dense layers add a bias.
        kernel_initializer: Initializer of the kernels. Each step draws different values, even if
            the initializer is an instance with a seed.
        bias_initializer: Initializer of the biases.
        kernel_regularizer: Regularizer of each kernel.
        bias_regularizer: Regularizer of each bias.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`,
            `activity_regularizer`.

    Call arguments:
        inputs: Features, `(..., D)`.
        training: Whether dropout and batch normalization run in training mode.
        mask: The valid positions for batch normalization, `(...)`.

    Returns:
        The output of the expert, `(..., units[-1])`.

    Raises:
        TypeError: If `units` contains anything but integers, or `activation` is a layer.
        ValueError: If `units` is empty or contains a number below 1, `dropout` is outside [0, 1),
            or `normalization` or `activation` is unknown.

    Example:

    >>> expert = ExpertBlock([256, 128], normalization="layer", dropout=0.1)
    >>> tuple(expert(keras.ops.ones((32, 64))).shape)
    (32, 128)

    A subclass can override `call`. If it adds constructor arguments, it must override
    `get_config`, because blocks copy experts through their config:

    >>> @keras.saving.register_keras_serializable()
    ... class ScaledExpert(ExpertBlock):
    ...     def __init__(self, units, scale=1.0, **kwargs):
    ...         super().__init__(units, **kwargs)
    ...         self.scale = scale
    ...
    ...     def call(self, inputs, training=None):
    ...         return self.scale * super().call(inputs, training=training)
    ...
    ...     def get_config(self):
    ...         return {**super().get_config(), "scale": self.scale}
    """

    _fixed = (
        *("units", "dropout", "normalization", "use_bias", "kernel_initializer"),
        *("bias_initializer", "kernel_regularizer", "bias_regularizer"),
    )

    def __init__(
        self,
        units: int | Sequence[int],
        activation: Activation = "relu",
        dropout: float = 0.0,
        normalization: Normalization | None = None,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.units = check_units(units)
        self.activation = check_activation(activation)
        self.dropout = check_number(dropout, "dropout", minimum=0, below=1)
        known = (None, *NORMALIZERS)
        self.normalization = check_known_value(normalization, known, "normalization")
        self.use_bias = check_bool(use_bias, "use_bias")
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)

        steps = range(len(self.units))
        # The names of these attributes are part of the file format.
        self._dense = [
            keras.layers.Dense(
                self.units[step],
                use_bias=self.use_bias,
                kernel_initializer=derive_initializer(self.kernel_initializer, "kernel", step),
                bias_initializer=derive_initializer(self.bias_initializer, "bias", step),
                kernel_regularizer=self.kernel_regularizer,
                bias_regularizer=self.bias_regularizer,
                dtype=self.dtype_policy,
                name=f"dense_{step}",
            )
            for step in steps
        ]
        self._normalization = [
            NORMALIZERS[normalization](dtype=self.dtype_policy, name=f"normalization_{step}")
            for step in steps
            if normalization
        ]
        self._dropout = [
            Dropout(self.dropout, dtype=self.dtype_policy, name=f"dropout_{step}")
            for step in steps
            if self.dropout
        ]

    def build(self, input_shape: Shape) -> None:
        *leading, _ = shape = check_features(input_shape)
        for step, units in enumerate(self.units):
            self._dense[step].build(shape)
            shape = (*leading, units)
            self._build_after_dense(step, shape)
        self._restore_frozen()

    def _build_after_dense(self, step: int, shape: Shape) -> None:
        for layers in (self._normalization, self._dropout):
            if layers:
                layers[step].build(shape)

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Apply the expert."""
        for step, dense in enumerate(self._dense):
            inputs = self._apply_after_dense(step, dense(inputs), training, mask)
        return inputs

    def _apply_after_dense(
        self, step: int, outputs: Tensor, training: bool | None, mask: Tensor | None
    ) -> Tensor:
        """Apply the normalization, activation and dropout of a step of one or all experts."""
        if self.normalization == "batch":
            outputs = self._normalization[step](outputs, training=training, mask=mask)
        elif self.normalization == "layer":
            outputs = self._normalization[step](outputs)
        outputs = self.activation(outputs)
        if self._dropout:
            outputs = self._dropout[step](outputs, training=training)
        return outputs

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        if type(self).call is ExpertBlock.call:
            return (*input_shape[:-1], self.units[-1])
        # The `call` of a subclass can change the width.
        inputs = keras.KerasTensor(tuple(input_shape), dtype=self.compute_dtype)
        return cast(Shape, keras.Operation.compute_output_spec(self, inputs).shape)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "units": list(self.units),
            "activation": keras.activations.serialize(self.activation),
        }


def check_units(
    units: SupportsIndex | Sequence[SupportsIndex], argument: str = "units"
) -> tuple[int, ...]:
    """Return widths as a tuple, from an int or a sequence of ints."""
    units = units.tolist() if hasattr(units, "tolist") else units
    if not isinstance(units, Sequence) or isinstance(units, str | bytes):
        return (check_int(cast(SupportsIndex, units), argument, minimum=1),)
    if not units:
        raise ValueError(f"{argument} must not be empty. Received: {argument}={units!r}")
    return tuple(check_int(width, f"{argument}[{i}]", 1) for i, width in enumerate(units))


class Dropout(keras.layers.Dropout):
    """Keras's Dropout, with the state of its seed in files.

    The class name, in snake case, is part of the file format.
    """

    def save_own_variables(self, store: Store) -> None:
        save_seed(store, self.seed_generator)

    def load_own_variables(self, store: Store) -> None:
        load_seed(store, self.seed_generator)

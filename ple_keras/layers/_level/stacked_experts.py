"""Experts with stacked kernels."""

import math
from collections.abc import Mapping
from contextlib import ExitStack

import keras
from keras import ops

from ple_keras._keras.copying import Template
from ple_keras._keras.freezing import freeze_if_frozen
from ple_keras._keras.internals import stop_tracking, tensorflow_not_imported
from ple_keras._keras.quantization import QuantizeForwarder, check_quantization_mode
from ple_keras._keras.walking import Untracked
from ple_keras._typing import ByName, Shape, Tensor, WeightSlice
from ple_keras.layers._level.expert_bank import ExpertBank, sublayer_name
from ple_keras.layers._level.stacks import StackedInitializer, StackedRegularizer, unstack_experts

# Activations of Keras that act on each feature alone, unlike softmax.
ELEMENTWISE = (
    *("elu", "gelu", "hard_sigmoid", "hard_silu", "leaky_relu", "linear", "mish", "relu", "relu6"),
    *("selu", "sigmoid", "silu", "softplus", "softsign", "tanh"),
)


class StackedExperts(ExpertBank):
    """ExpertBlocks of equal input width whose kernels form one `(E, D, H)` variable per step.

    Each slice is initialized and regularized like the kernel of a separate expert. Normalization,
    activation and dropout are separate for each expert.
    """

    kind = "stacked"

    def __init__(self, template: Template, experts: Mapping[str, str]) -> None:
        layer = template.layer
        super().__init__(
            template,
            experts,
            dtype=layer.dtype_policy,
            trainable=layer.trainable,
            activity_regularizer=layer.activity_regularizer,
        )

    def build(self, input_shape: Mapping[str, Shape]) -> None:
        experts = {expert: self._copy(expert) for expert in self._streams.value}
        # Not tracked by Keras, since their Dense layers are never built.
        self._experts = Untracked(experts)
        self._kernels, self._biases = [], []
        *leading, width = input_shape[next(iter(self._streams.value.values()))]
        for step, units in enumerate(self._template.layer.units):
            dense = [expert._dense[step] for expert in experts.values()]
            self._kernels.append(self._stack("kernel", step, (width, units), dense))
            if self._template.layer.use_bias:
                self._biases.append(self._stack("bias", step, (units,), dense))
            self._build_after_dense(step, (*leading, units))
            width = units
        self.width = width
        self._quantized: Untracked[list[dict[str, keras.layers.Dense]]] = Untracked([])
        self._to_quantize = QuantizeForwarder(self, "kernels")
        freeze_if_frozen(self)

    def _stack(
        self, kind: str, step: int, shape: Shape, dense: list[keras.Layer]
    ) -> keras.Variable:
        """Add one variable for the kernels, or the biases, of all experts in a step."""
        return self.add_weight(
            name=f"{kind}_{step}",
            shape=(len(dense), *shape),
            initializer=StackedInitializer(
                [getattr(layer, f"{kind}_initializer") for layer in dense]
            ),
            regularizer=StackedRegularizer.wrap(getattr(dense[0], f"{kind}_regularizer")),
        )

    def _build_after_dense(self, step: int, shape: Shape) -> None:
        for name, expert in self._experts.value.items():
            with keras.name_scope(sublayer_name(name)):
                expert._build_after_dense(step, shape)
            for kind in ("normalization", "dropout"):
                for layer in getattr(expert, f"_{kind}")[step : step + 1]:
                    # The name is part of the file format.
                    setattr(self, f"{sublayer_name(name)}-{kind}_{step}", layer)

    @property
    def is_quantized(self) -> bool:
        return bool(self._quantized.value)

    def quantize(self, mode: str, type_check: bool = True, config: object = None) -> None:
        """Replace the stacked kernels by quantized Dense layers of each expert."""
        check_quantization_mode(mode, self)
        self._quantized.value = [
            {
                expert: self._quantized_dense(expert, step, kernel, mode, config)
                for expert, kernel in zip(self._streams.value, unstack_experts(kernels))
            }
            for step, kernels in enumerate(self._kernels)
        ]
        for kernels in self._kernels:
            stop_tracking(self, kernels)
        self._kernels = []

    def _quantized_dense(
        self, expert: str, step: int, kernel: Tensor, mode: str, config: object
    ) -> keras.layers.Dense:
        name = f"{sublayer_name(expert)}-dense_{step}"  # part of the file format
        dense = keras.layers.Dense(
            kernel.shape[-1], use_bias=False, dtype=self.dtype_policy, name=name
        )
        with ExitStack() as scopes:  # as in the path of the stack
            for scope in self.path.split("/"):
                scopes.enter_context(keras.name_scope(scope))
            dense.build((None, kernel.shape[0]))
            dense.kernel.assign(kernel)
            dense.quantize(mode, config=config)
        setattr(self, name, dense)
        return dense

    def slices(self, expert: str) -> list[WeightSlice]:
        index = list(self._streams.value).index(expert)
        slices: list[WeightSlice] = []
        for step in range(len(self._template.layer.units)):
            if self.is_quantized:
                quantized = self._quantized.value[step][expert]
                slices += [(variable, ()) for variable in quantized.weights]
            stacks = self._kernels[step : step + 1] + self._biases[step : step + 1]
            slices += [(stack, (index,)) for stack in stacks]
        for layer in self._experts.value[expert]._normalization:
            slices += [(variable, ()) for variable in layer.weights]
        return slices

    def call(
        self,
        inputs: ByName,
        training: bool | None = None,
        mask: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        streams = self._streams.value
        outputs = {expert: inputs[stream] for expert, stream in streams.items()}
        for step in range(len(self._template.layer.units)):
            outputs = self._apply_dense(step, outputs)
            for expert, block in self._experts.value.items():
                expert_mask = mask and mask[streams[expert]]
                outputs[expert] = block._apply_after_dense(
                    step, outputs[expert], training, expert_mask
                )
        return outputs

    @property
    def is_batchable(self) -> bool:
        """Whether all experts can be computed at once.

        Normalization, activity regularizers and custom activations need separate outputs.
        """
        layer = self._template.layer
        needs_separate_outputs = layer.normalization or layer.activity_regularizer
        return isinstance(self._activation, str) and not needs_separate_outputs

    @property
    def is_elementwise(self) -> bool:
        return self._activation in ELEMENTWISE

    @property
    def _activation(self) -> object:
        """The name of an activation of Keras, or the config of another."""
        with tensorflow_not_imported():
            return keras.activations.serialize(self._template.layer.activation)

    @property
    def max_multiply_adds(self) -> int:
        largest: int = max(math.prod(kernels.shape[1:]) for kernels in self._kernels)
        return largest

    def stacks(self) -> list[tuple[Tensor, Tensor | None]]:
        return list(zip(self._kernels, self._biases or [None] * len(self._kernels)))

    def apply_after_dense(self, step: int, outputs: Tensor, training: bool | None) -> Tensor:
        first = next(iter(self._experts.value.values()))
        return first._apply_after_dense(step, outputs, training, None)

    def call_batched(self, features: Tensor, training: bool | None) -> Tensor:
        outputs = features
        for step, (kernels, biases) in enumerate(self.stacks()):
            outputs = ops.matmul(outputs, kernels)
            if biases is not None:
                outputs = ops.add(outputs, ops.expand_dims(biases, 1))
            outputs = self.apply_after_dense(step, outputs, training)
        return outputs

    def _apply_dense(self, step: int, inputs: ByName) -> dict[str, Tensor]:
        """Apply the Dense layer of a step to the input of each expert, one product per expert."""
        if self.is_quantized:
            layers = self._quantized.value[step]
            outputs = {expert: layers[expert](features) for expert, features in inputs.items()}
        else:
            pairs = zip(inputs.items(), unstack_experts(self._kernels[step]))
            outputs = {expert: ops.matmul(features, kernel) for (expert, features), kernel in pairs}
        if not self._biases:
            return outputs
        biases = zip(outputs.items(), unstack_experts(self._biases[step]))
        return {expert: ops.add(product, bias) for (expert, product), bias in biases}

"""The experts of a level: stacked in few variables, or one layer each, or both."""

import math
from collections.abc import Mapping
from inspect import isfunction
from typing import Any

import keras
from keras import ops

from ple_keras._keras.base_layer import freeze_if_frozen
from ple_keras._keras.building import build_on
from ple_keras._keras.copying import Template
from ple_keras._keras.saving import ordered_attribute
from ple_keras._keras.walking import Untracked
from ple_keras._typing import ByName, DType, Shape, Tensor, WeightSlice
from ple_keras.layers._level.stacks import (
    StackedInitializer,
    StackedRegularizer,
    apply_dense,
    unstack_experts,
)
from ple_keras.layers.expert_block import ExpertBlock
from ple_keras.layers.template import StreamTemplates, check_one_width

# Activations that treat each row of a batch alone. A custom function may mix the rows, even if it
# has the name of one of Keras, so they are compared by identity.
ROWWISE_ACTIVATIONS = [x for x in vars(keras.activations).values() if isfunction(x)]


def build_experts(
    templates: StreamTemplates,
    experts: Mapping[str, str],
    shapes: Mapping[str, Shape],
    dtype: DType,
    stack: bool,
    name: str = "experts",
) -> "ExpertBank":
    """Build the fastest bank for these experts.

    Args:
        templates: The template of each stream's experts.
        experts: The input stream of each expert, by expert name, in the order of the experts.
        shapes: The shape `(batch, ..., features)` of each stream.
        dtype: The dtype policy of the block.
        stack: Whether the experts may be stacked in one variable.
        name: The name of the bank.
    """
    first, *others = templates.groups(set(experts.values()))
    widths = {shapes[stream][-1] for stream in experts.values()}
    template = templates.value[first[0]]
    bank: ExpertBank
    if others:
        bank = ExpertBanks(templates, [first, *others], experts, stack, name=name, dtype=dtype)
    elif stack and type(template.layer) is ExpertBlock and len(widths) == 1:
        bank = StackedExperts(template, experts, name)
    else:
        bank = CopiedExperts(template, experts, name=name, dtype=dtype)
    bank.build(shapes)
    return bank


class ExpertBank(keras.Layer):
    """All experts of a level: `{stream: (..., D)} -> {expert: (..., H)}`.

    Args:
        experts: The input stream of each expert, by expert name, in the order of the experts.
        **kwargs: Arguments of `keras.layers.Layer`.

    Attributes:
        kind: "stacked" or "copied", part of the file format.
        width: H, or None before the bank is built.
    """

    kind: str

    def __init__(self, experts: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self._streams = Untracked(dict(experts))
        self.width: int | None = None

    def slices(self, expert: str) -> list[WeightSlice]:
        """Return the parts of variables that belong to an expert of the built bank.

        Returns:
            Pairs of a variable and the expert's index along its first axis, in the order of the
            expert's weights. The index is () if the whole variable belongs to the expert.
        """
        raise NotImplementedError

    def layers_of_experts(self) -> dict[str, keras.Layer]:
        """Return the layer of each expert that is not stacked."""
        return {}

    def layers_to_show(self) -> list[keras.Layer]:
        """Return the layers of all experts. Stacked experts are one layer."""
        return [self]

    def max_batched_rows(self, multiply_adds: int) -> int:
        """Return the number of rows for which `call_batched` does at most so many multiply-adds.

        They are those of an expert's largest Dense layer. The number is 0 if the bank has no
        `call_batched`.
        """
        return 0

    def call_batched(self, features: Tensor, training: bool | None) -> Tensor:
        """Compute all experts at once, from `(E, B, D)`, or a common `(B, D)`, to `(E, B, H)`.

        This bypasses `keras.Layer.__call__` and its work, such as casting.
        """
        raise NotImplementedError

    def compute_mask(self, inputs: ByName, previous_mask: ByName) -> dict[str, Tensor]:
        return {expert: previous_mask[stream] for expert, stream in self._streams.value.items()}

    def compute_output_shape(self, input_shape: Mapping[str, Shape]) -> dict[str, Shape]:
        return {
            expert: (*input_shape[stream][:-1], self.width)
            for expert, stream in self._streams.value.items()
        }


class CopiedExperts(ExpertBank):
    """One copy of any template per expert. The copies are called one by one."""

    kind = "copied"

    def __init__(self, template: Template, experts: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(experts, **kwargs)
        self._template = template

    def build(self, input_shape: Mapping[str, Shape]) -> None:
        widths = {}
        for expert, stream in self._streams.value.items():
            layer = self._template.copy(sublayer_name(expert), expert)
            setattr(self, sublayer_name(expert), layer)
            widths[expert] = build_on(
                layer, input_shape[stream], self.compute_dtype, self._template.argument
            )
        check_one_width(widths, self._template.argument, self._template.layer)
        self.width = next(iter(widths.values()))

    def layers_of_experts(self) -> dict[str, keras.Layer]:
        return {expert: getattr(self, sublayer_name(expert)) for expert in self._streams.value}

    def layers_to_show(self) -> list[keras.Layer]:
        return list(self.layers_of_experts().values())

    def slices(self, expert: str) -> list[WeightSlice]:
        return [(variable, ()) for variable in self.layers_of_experts()[expert].weights]

    def call(self, inputs: ByName, training: bool | None = None) -> dict[str, Tensor]:
        streams = self._streams.value
        return {
            expert: layer(inputs[streams[expert]])
            for expert, layer in self.layers_of_experts().items()
        }


class StackedExperts(ExpertBank):
    """ExpertBlocks of equal input width whose kernels form one `(E, D, H)` variable per step.

    Each slice is initialized and regularized like the kernel of a separate expert. Normalization,
    activation and dropout are separate for each expert.
    """

    kind = "stacked"

    def __init__(self, template: Template, experts: Mapping[str, str], name: str) -> None:
        layer = template.layer
        super().__init__(
            experts,
            name=name,
            dtype=layer.dtype_policy,
            trainable=layer.trainable,
            activity_regularizer=layer.activity_regularizer,
        )
        self._template = template

    def build(self, input_shape: Mapping[str, Shape]) -> None:
        experts = {e: self._template.copy(sublayer_name(e), e) for e in self._streams.value}
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
        freeze_if_frozen(self)

    def _stack(
        self, kind: str, step: int, shape: Shape, dense: list[keras.Layer]
    ) -> keras.Variable:
        """Add one variable for the kernels, or the biases, of all experts in a step."""
        regularizer = getattr(dense[0], f"{kind}_regularizer")
        return self.add_weight(
            name=f"{kind}_{step}",
            shape=(len(dense), *shape),
            initializer=StackedInitializer([getattr(x, f"{kind}_initializer") for x in dense]),
            regularizer=regularizer and StackedRegularizer(regularizer),
        )

    def _build_after_dense(self, step: int, shape: Shape) -> None:
        for name, expert in self._experts.value.items():
            with keras.name_scope(sublayer_name(name)):
                expert._build_after_dense(step, shape)
            for kind in ("normalization", "dropout"):
                for layer in getattr(expert, f"_{kind}")[step : step + 1]:
                    # The name is part of the file format.
                    setattr(self, f"{sublayer_name(name)}-{kind}_{step}", layer)

    def quantize(self, mode: str, type_check: bool = True, config: object = None) -> None:
        """Refuse quantization. `Model.quantize` warns of this error and continues."""
        raise NotImplementedError(
            f"The stacked experts of {self.path!r} were not quantized. Only experts that are "
            f"layers can be: build the block with stack_experts=False. Received: mode={mode!r}"
        )

    def slices(self, expert: str) -> list[WeightSlice]:
        index = list(self._streams.value).index(expert)
        slices: list[WeightSlice] = []
        for step in range(len(self._template.layer.units)):
            stacks = self._kernels[step : step + 1] + self._biases[step : step + 1]
            slices += [(stack, (index,)) for stack in stacks]
        for layer in self._experts.value[expert]._normalization:
            slices += [(variable, ()) for variable in layer.weights]
        return slices

    def call(
        self, inputs: ByName, training: bool | None = None, mask: Mapping[str, Tensor] | None = None
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

    def _apply_dense(self, step: int, inputs: ByName) -> dict[str, Tensor]:
        """Apply the Dense layer of a step to the input of each expert, one product per expert."""
        kernels = unstack_experts(self._kernels[step])
        if not self._biases:
            return {e: ops.matmul(x, kernel) for (e, x), kernel in zip(inputs.items(), kernels)}
        parts = zip(inputs.items(), kernels, unstack_experts(self._biases[step]))
        return {e: apply_dense(x, kernel, bias) for (e, x), kernel, bias in parts}

    def max_batched_rows(self, multiply_adds: int) -> int:
        # Normalization and activity regularizers need the outputs of each expert.
        layer = self._template.layer
        is_rowwise = any(layer.activation is function for function in ROWWISE_ACTIVATIONS)
        if layer.normalization or layer.activity_regularizer or not is_rowwise:
            return 0
        largest: int = max(math.prod(kernels.shape[1:]) for kernels in self._kernels)
        return multiply_adds // largest

    def call_batched(self, features: Tensor, training: bool | None) -> Tensor:
        first_expert = next(iter(self._experts.value.values()))
        outputs = features
        for step, kernels in enumerate(self._kernels):
            outputs = ops.matmul(outputs, kernels)
            if self._biases:
                outputs = ops.add(outputs, ops.expand_dims(self._biases[step], 1))
            outputs = first_expert._apply_after_dense(step, outputs, training, None)
        return outputs


class ExpertBanks(ExpertBank):
    """A bank of experts for each distinct template of a level.

    Args:
        templates: The template of each stream's experts.
        groups: The streams that have equal templates, in groups.
        experts: As for `ExpertBank`.
        stack: Whether experts of one template may be stacked.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(
        self,
        templates: StreamTemplates,
        groups: list[list[str]],
        experts: Mapping[str, str],
        stack: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(experts, **kwargs)
        self._templates, self._groups, self._stack = templates, Untracked(groups), stack

    def build(self, input_shape: Mapping[str, Shape]) -> None:
        banks: list[ExpertBank] = []
        for group in self._groups.value:
            experts = {e: stream for e, stream in self._streams.value.items() if stream in group}
            # The name, and that of the attribute, are part of the file format.
            name = f"experts-{group[0]}"
            bank = build_experts(
                self._templates, experts, input_shape, self.dtype_policy, self._stack, name
            )
            setattr(self, ordered_attribute(name, list(experts)), bank)
            banks.append(bank)
        self._banks = Untracked(banks)
        self.kind = " and ".join(
            f"{bank.kind} ({', '.join(group)})" for bank, group in zip(banks, self._groups.value)
        )
        widths = {", ".join(group): x.width for group, x in zip(self._groups.value, banks)}
        check_one_width(widths, self._templates.argument, self._templates.layer)
        self.width = banks[0].width

    def layers_of_experts(self) -> dict[str, keras.Layer]:
        return {e: x for bank in self._banks.value for e, x in bank.layers_of_experts().items()}

    def layers_to_show(self) -> list[keras.Layer]:
        return [layer for bank in self._banks.value for layer in bank.layers_to_show()]

    def slices(self, expert: str) -> list[WeightSlice]:
        bank = next(bank for bank in self._banks.value if expert in bank._streams.value)
        return bank.slices(expert)

    def call(self, inputs: ByName, training: bool | None = None) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}
        for bank, group in zip(self._banks.value, self._groups.value):
            outputs |= bank({stream: inputs[stream] for stream in group}, training=training)
        return {expert: outputs[expert] for expert in self._streams.value}


def sublayer_name(expert: str) -> str:
    """Return the attribute and layer name of an expert, part of the file format.

    Task names may start with a digit. Without the prefix, PyTorch would hide such attributes from
    `dir`, and thus from files. No other attribute contains a "-", so the names are unique.
    """
    return "expert-" + expert.replace("/expert_", "-")

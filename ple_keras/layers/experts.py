"""The experts of a level: ExpertBlocks with stacked weights, or a layer for each expert."""

import operator
from collections.abc import Mapping

import keras
from keras import ops

from ple_keras._keras.building import build_on
from ple_keras._keras.internals import call_keeping_masks
from ple_keras._keras.layers import Untracked, freeze_if_frozen
from ple_keras._keras.slices import whole_slices
from ple_keras._typing import ByName, DType, Shape, Tensor, WeightSlice
from ple_keras.layers.template import StreamTemplates

# `ops.matmul` takes ten times as long on eager PyTorch. TensorFlow needs it for inputs of rank 3.
matmul = operator.matmul if keras.backend.backend() == "torch" else ops.matmul


class Experts(keras.Layer):
    """All experts of a level: `{stream: (..., D)} -> {expert: (..., H)}`.

    Args:
        templates: The template of each stream's experts.
        experts: The input stream of each expert, keyed by expert name, in the experts' order.
        **kwargs: Arguments of `keras.layers.Layer`.

    Attributes:
        kind: "stacked" or "copied", part of the file format.
        width: H, or None before the layer is built.
    """

    kind: str

    def __init__(
        self, templates: StreamTemplates, experts: Mapping[str, str], **kwargs: object
    ) -> None:
        super().__init__(name="experts", **kwargs)
        self.supports_masking = True
        self.width: int | None = None
        self._templates = templates
        self._streams = Untracked(dict(experts))
        self._copies: Untracked[dict[str, keras.Layer]] = Untracked({})  # keyed by expert

    def _copy_templates(self) -> None:
        self._copies.value = {
            expert: self._templates.value[stream].copy(sublayer_name(expert), expert)
            for expert, stream in self._streams.value.items()
        }

    def slices(self, expert: str) -> list[WeightSlice]:
        """Return the slices of variables that belong to an expert of the built layer.

        Returns:
            Pairs of a variable and the expert's index along its first axis, in the order of the
            expert's weights. The index is () if the whole variable belongs to the expert.
        """
        raise NotImplementedError

    def expert_layers(self) -> dict[str, keras.Layer]:
        """Return the layer of each expert, unless the experts are stacked."""
        return {}

    def compute_mask(self, inputs: ByName, previous_mask: ByName) -> dict[str, Tensor]:
        return {expert: previous_mask[stream] for expert, stream in self._streams.value.items()}


class CopiedExperts(Experts):
    """A copy of a template for each expert. The copies are called one by one."""

    kind = "copied"

    def build(self, input_shape: Mapping[str, Shape]) -> None:
        self._copy_templates()
        widths = {}
        for expert, stream in self._streams.value.items():
            copy = self._copies.value[expert]
            setattr(self, sublayer_name(expert), copy)
            argument = self._templates.value[stream].argument
            widths[expert] = build_on(copy, input_shape[stream], self.compute_dtype, argument)
        self.width, *others = {*widths.values()}
        if others:
            raise ValueError(f"All experts must have the same output width. Received: {widths=}")

    def expert_layers(self) -> dict[str, keras.Layer]:
        return self._copies.value

    def slices(self, expert: str) -> list[WeightSlice]:
        return whole_slices(self._copies.value[expert].weights)

    def call(self, inputs: ByName, training: bool | None = None) -> dict[str, Tensor]:
        copies, streams = self._copies.value, self._streams.value.items()
        return {e: call_keeping_masks(copies[e], inputs[stream]) for e, stream in streams}


class StackedExperts(Experts):
    """ExpertBlocks of equal input width whose kernels form one `(E, D, H)` variable per step.

    Each slice is initialized and regularized like the kernel of a separate expert. Normalization,
    activation and dropout are separate for each expert. Keras does not track the copies of the
    template, since their Dense layers are never built.
    """

    kind = "stacked"

    def build(self, input_shape: Mapping[str, Shape]) -> None:
        self._copy_templates()
        self._kernels, self._biases = [], []
        template = self._templates.layer
        *leading, width = input_shape[next(iter(self._streams.value.values()))]
        for step, units in enumerate(template.units):
            dense = [expert._dense[step] for expert in self._copies.value.values()]
            self._kernels.append(self._stack("kernel", step, (width, units), dense))
            if template.use_bias:
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
            regularizer=regularizer and (lambda x: sum(map(regularizer, unstack_experts(x)))),
        )

    def _build_after_dense(self, step: int, shape: Shape) -> None:
        for name, expert in self._copies.value.items():
            with keras.name_scope(sublayer_name(name)):
                expert._build_after_dense(step, shape)
            for kind in ("normalization", "dropout"):
                for layer in getattr(expert, f"_{kind}")[step : step + 1]:
                    # The name is part of the file format.
                    setattr(self, f"{sublayer_name(name)}-{kind}_{step}", layer)

    def slices(self, expert: str) -> list[WeightSlice]:
        index = list(self._copies.value).index(expert)
        stacks = [x for step in zip(self._kernels, self._biases) for x in step] or self._kernels
        slices: list[WeightSlice] = [(stack, (index,)) for stack in stacks]
        for layer in self._copies.value[expert]._normalization:
            slices += whole_slices(layer.weights)
        return slices

    def call(
        self, inputs: ByName, training: bool | None = None, mask: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        streams = self._streams.value
        outputs = {expert: inputs[stream] for expert, stream in streams.items()}
        for step in range(len(self._kernels)):
            kernels = unstack_experts(self._kernels[step])
            biases = unstack_experts(self._biases[step]) if self._biases else []
            for i, (expert, copy) in enumerate(self._copies.value.items()):
                output = matmul(outputs[expert], kernels[i])
                output = output + biases[i] if biases else output
                expert_mask = mask and mask[streams[expert]]
                outputs[expert] = copy._apply_after_dense(step, output, training, expert_mask)
        return outputs


def sublayer_name(expert: str) -> str:
    """Return the attribute and layer name of an expert, part of the file format.

    Task names can start with a digit. Without the prefix, PyTorch would hide such attributes from
    `dir`, and so from files. No other attribute contains a "-", so the names are unique.
    """
    return "expert-" + expert.replace("/expert_", "-")


class StackedInitializer(keras.initializers.Initializer):
    """Initializer of a stack. Initializer e, with its own fan-in, creates slice e.

    It is a class because, under a distribution, Keras compiles the `__call__` of the initializers
    of large variables with JAX.
    """

    def __init__(self, initializers: list[keras.Initializer]) -> None:
        self.initializers = initializers

    def __call__(self, shape: Shape, dtype: DType = None) -> Tensor:
        return ops.stack([initializer(shape[1:], dtype=dtype) for initializer in self.initializers])


def unstack_experts(stack: Tensor | keras.Variable) -> list[Tensor]:
    """Return the slices of a stack, from `(E, n, ...)` to E tensors `(n, ...)`."""
    stack = ops.convert_to_tensor(stack)
    experts, first, *others = stack.shape
    if keras.backend.backend() == "jax":
        # The gradient of a split is a concatenation. The gradient of `unstack` is a sum of E padded
        # stacks, whose cost grows with E squared.
        return list(ops.split(ops.reshape(stack, (experts * first, *others)), experts))
    return list(ops.unstack(stack, experts))

"""Common interface of stacked experts and copied experts."""

from collections.abc import Mapping
from typing import Any

import keras

from ple_keras._keras.copying import Template
from ple_keras._keras.walking import Untracked
from ple_keras._typing import ByName, Shape, Tensor, WeightSlice


class ExpertBank(keras.Layer):
    """All experts of a level: `{stream: (..., D)} -> {expert: (..., H)}`.

    Args:
        template: The template of every expert.
        experts: The input stream of each expert, by expert name, in the order of the experts.
        **kwargs: Arguments of `keras.layers.Layer`.

    Attributes:
        kind: "stacked" or "copied", part of the file format.
        width: H, or None before the bank is built.
    """

    kind: str

    def __init__(self, template: Template, experts: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(name="experts", **kwargs)
        self.supports_masking = True
        self._template = template
        self._streams = Untracked(dict(experts))
        self.width: int | None = None

    def _copy(self, expert: str) -> keras.Layer:
        """Return an unbuilt copy of the template for an expert."""
        return self._template.copy(sublayer_name(expert), expert)

    def slices(self, expert: str) -> list[WeightSlice]:
        """Return the parts of variables that belong to an expert of the built bank.

        Returns:
            Pairs of a variable and the expert's index along its first axis, in the order of the
            expert's weights. The index is () if the whole variable belongs to the expert.
        """
        raise NotImplementedError

    def layer(self, expert: str) -> keras.Layer | None:
        """Return an expert's layer, or None if the experts are stacked."""
        return None

    @property
    def is_batchable(self) -> bool:
        """Whether `call_batched` can replace a call."""
        return False

    @property
    def is_elementwise(self) -> bool:
        """Whether the activation, if batchable, acts on each feature alone."""
        raise NotImplementedError

    @property
    def max_multiply_adds(self) -> int:
        """The multiply-adds per example of an expert's largest Dense layer."""
        raise NotImplementedError

    @property
    def is_quantized(self) -> bool:
        """Whether the experts are quantized, so that `call_batched` is not available."""
        return False

    def call_batched(self, features: Tensor, training: bool | None) -> Tensor:
        """Compute all experts at once, from `(E, B, D)`, or a common `(B, D)`, to `(E, B, H)`.

        This bypasses `keras.Layer.__call__` and its work, such as casting.
        """
        raise NotImplementedError

    def stacks(self) -> list[tuple[Tensor, Tensor | None]]:
        """Return the kernels `(E, D, H)` and biases `(E, H)` of each step, if batchable."""
        raise NotImplementedError

    def apply_after_dense(self, step: int, outputs: Tensor, training: bool | None) -> Tensor:
        """Apply what follows the Dense layers of a step to all experts, if batchable."""
        raise NotImplementedError

    def compute_mask(self, inputs: ByName, previous_mask: ByName) -> dict[str, Tensor]:
        return {expert: previous_mask[stream] for expert, stream in self._streams.value.items()}

    def compute_output_shape(self, input_shape: Mapping[str, Shape]) -> dict[str, Shape]:
        return {
            expert: (*input_shape[stream][:-1], self.width)
            for expert, stream in self._streams.value.items()
        }


def sublayer_name(expert: str) -> str:
    """Return the attribute and layer name of an expert, part of the file format.

    Task names may start with a digit. Without the prefix, PyTorch would hide such attributes from
    `dir`, and thus from files. No other attribute contains a "-", so the names are unique.
    """
    return "expert-" + expert.replace("/expert_", "-")

"""Many experts behind one interface: stacked kernels, or copies of a template."""

from collections.abc import Mapping
from typing import Any

import keras

from ple_keras._keras.building import Untracked
from ple_keras._typing import ByStream, Shape, Tensor
from ple_keras.layers.template import Template

Index = tuple[int | slice, ...]
WeightSlice = tuple[keras.Variable, Index]  # a variable, and where in it the part lies; () for all


class ExpertBank(keras.Layer):
    """Experts side by side: `{stream: (..., D)} -> {expert: (..., H)}`.

    Args:
        template: What every expert is a copy of.
        experts: The stream that each expert reads, by the expert's name; the order counts.
        **kwargs: Keras's own layer arguments.

    Attributes:
        width: H, once built.
    """

    def __init__(self, template: Template, experts: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(name="experts", **kwargs)
        self.supports_masking = True
        self._template = template
        self._streams = Untracked(dict(experts))
        self.width: int | None = None

    def _copy(self, expert: str) -> keras.Layer:
        """The template's copy that is this expert, not yet built."""
        return self._template.copy(sublayer_name(expert), expert)

    def slices(self, expert: str) -> list[WeightSlice]:
        """The variables that an expert is made of, in its own order; the bank must be built.

        Returns:
            Each with the index along its first axis at which the expert lies in it, () where all
            of it is the expert's.
        """
        raise NotImplementedError

    def layer(self, expert: str) -> Any:
        """The layer that is an expert; None where it is but a slice of a stack."""
        return None

    @property
    def is_batchable(self) -> bool:
        """Whether `call_batched` may stand in for a call."""
        return False

    @property
    def widest_product(self) -> int:
        """The most multiply-adds that one of an expert's Dense layers makes of an example."""
        raise NotImplementedError

    @property
    def is_quantized(self) -> bool:
        """Whether there are no kernels any more for `call_batched`."""
        return False

    def call_batched(self, features: Tensor, training: bool | None) -> Tensor:
        """All experts at once, `(E, B, D)`, or `(B, D)` for all alike, to `(E, B, H)`.

        No call of the layer: what Keras does around one, such as casting, is left out.
        """
        raise NotImplementedError

    def compute_mask(self, inputs: Tensor, previous_mask: ByStream) -> dict[str, Tensor]:
        return {expert: previous_mask[stream] for expert, stream in self._streams.value.items()}

    def compute_output_shape(self, input_shape: Mapping[str, Shape]) -> dict[str, Shape]:
        return {
            expert: (*input_shape[stream][:-1], self.width)
            for expert, stream in self._streams.value.items()
        }


def sublayer_name(expert: str) -> str:
    """The attribute and layer name of an expert, part of the file format.

    Task names may start with a digit, but torch hides such attributes from `dir`, and so from
    files; and no other attribute holds a "-".
    """
    return "expert-" + expert.replace("/expert_", "-")

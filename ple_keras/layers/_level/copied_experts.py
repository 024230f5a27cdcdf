"""Experts as separate layers."""

from collections.abc import Mapping

import keras

from ple_keras._keras.building import build_on
from ple_keras._typing import ByName, Shape, Tensor, WeightSlice
from ple_keras.layers._level.expert_bank import ExpertBank, sublayer_name


class CopiedExperts(ExpertBank):
    """One copy of any template per expert. The copies are called one by one."""

    kind = "copied"

    def build(self, input_shape: Mapping[str, Shape]) -> None:
        widths = {}
        for expert, stream in self._streams.value.items():
            layer = self._copy(expert)
            setattr(self, sublayer_name(expert), layer)
            widths[expert] = build_on(
                layer, input_shape[stream], self.compute_dtype, self._template.argument
            )
        if len(set(widths.values())) > 1:
            raise ValueError(
                "all experts of a level must have outputs of one width, but these differ: "
                f"{widths}. Received: {self._template.argument}={self._template.layer!r}"
            )
        self.width = next(iter(widths.values()))

    def layer(self, expert: str) -> keras.Layer:
        layer: keras.Layer = getattr(self, sublayer_name(expert))
        return layer

    def slices(self, expert: str) -> list[WeightSlice]:
        return [(variable, ()) for variable in self.layer(expert).weights]

    def call(self, inputs: ByName, training: bool | None = None) -> dict[str, Tensor]:
        return {
            expert: self.layer(expert)(inputs[stream])
            for expert, stream in self._streams.value.items()
        }

"""Methods of CGCBlock that return the shapes, specs and masks of its outputs."""

from typing import Any

import keras

from ple_keras._checks import check_bool
from ple_keras._keras.building import output_width
from ple_keras._keras.copying import Template
from ple_keras._typing import Shape, Streams, StreamShapes, Tensor
from ple_keras.layers._level.gate_inputs import GateInputs
from ple_keras.layers._level.level import Level
from ple_keras.layers._level.masks import output_masks
from ple_keras.layers._level.wiring import LevelWiring


class LevelShapes(keras.Layer):
    """Mixin of CGCBlock for symbolic calls, which do not run `call`."""

    _wiring: LevelWiring
    _gate_inputs: GateInputs
    _expert_template: Template
    _level: Level

    def compute_mask(
        self, inputs: Streams, previous_mask: Streams | None
    ) -> dict[str, Tensor] | None:
        """Return the masks of the outputs.

        An output is valid where all streams that its gate mixes are valid.
        """
        return output_masks(self._wiring, previous_mask)

    def compute_output_spec(self, inputs: Streams, *args: Any, **kwargs: Any) -> Any:
        self._gate_inputs.check_given(kwargs.get("gate_context"))
        returns_weights = kwargs.pop("return_gate_weights", False)
        outputs = super().compute_output_spec(inputs, *args, **kwargs)
        if not check_bool(returns_weights, "return_gate_weights"):
            return outputs
        weights = {
            gate: keras.KerasTensor((*outputs[gate].shape[:-1], len(experts)), self.compute_dtype)
            for gate, experts in self._wiring.gates.items()
        }
        return outputs, weights

    def compute_output_shape(
        self, inputs_shape: StreamShapes, gate_context_shape: StreamShapes | None = None
    ) -> dict[str, Shape]:
        shapes = self._wiring.by_stream(inputs_shape)
        if self.built:
            self._level.check_widths(shapes)
            if gate_context_shape is not None:
                self._gate_inputs.check_shapes(shapes, gate_context_shape)
            width = self._level.bank.width
        else:
            first_expert_stream = next(iter(self._wiring.experts.values()))
            width = output_width(
                self._expert_template.layer, shapes[first_expert_stream], "expert_block"
            )
        return {gate: (*shapes[gate][:-1], width) for gate in self._wiring.gates}

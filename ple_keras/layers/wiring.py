"""Streams, experts and gates of a level, their connections, and the inputs of its gates."""

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import add
from typing import Any

import keras
from keras import ops

from ple_keras._checks import check_features, check_keys, check_known_value, check_width, short_repr
from ple_keras._keras.internals import get_mask, set_mask
from ple_keras._keras.layers import BaseLayer, Untracked
from ple_keras._keras.tensors import all_valid, dtype_name, is_number
from ple_keras._typing import ByName, GateInput, Shape, Streams, StreamShapes, Tensor
from ple_keras.labels.task_names import SHARED

STREAM, CONTEXT, BOTH = "stream", "context", "both"  # of `gate_reads`


class LevelWiring:
    """Names and connections of a level's streams, experts and gates.

    Args:
        tasks: The tasks, in order.
        experts: The input stream of each expert, keyed by expert name.
        gates: The experts that each gate mixes, in the order of its weights.
        is_isolated: Whether the shared gate mixes task experts without training them.

    Attributes:
        streams: The inputs: one per task, and "shared" with shared experts or a shared gate.
    """

    def __init__(
        self,
        tasks: Iterable[str],
        experts: Mapping[str, str],
        gates: Mapping[str, list[str]],
        is_isolated: bool = False,
    ) -> None:
        self.tasks, self.experts, self.gates = list(tasks), dict(experts), dict(gates)
        self.is_isolated = is_isolated
        has_shared_stream = SHARED in {*self.experts.values(), *gates}
        self.streams = [*self.tasks, SHARED] if has_shared_stream else self.tasks

    def experts_of(self, stream: str) -> list[str]:
        """Return the experts that read a stream."""
        return [expert for expert, source in self.experts.items() if source == stream]

    def shapes(self, shape: StreamShapes | None) -> dict[str, Shape]:
        """Return the shape of each stream, `(batch, ..., features)`.

        Raises:
            ValueError: If a stream has an unknown number of features, or ranks differ.
        """
        shapes = {
            stream: check_features(stream_shape, f"inputs[{stream!r}]")
            for stream, stream_shape in self.by_stream(shape).items()
        }
        if len({len(stream_shape) for stream_shape in shapes.values()}) > 1:
            raise ValueError(
                "inputs must have the same axes in every stream, except for the last one. "
                f"Received: inputs={shapes}"
            )
        return shapes

    def by_stream(self, value: Any) -> dict[str, Any]:
        """Return a value per stream, from one value or a dict with exactly the streams' names."""
        if not isinstance(value, Mapping):
            return dict.fromkeys(self.streams, value)
        check_keys(value, self.streams, "inputs")
        return {stream: value[stream] for stream in self.streams}

    def masks(self, mask: Streams | None) -> dict[str, Any] | None:
        """Return the mask of each output, which is valid where all streams of its gate are.

        Args:
            mask: The mask of the inputs, or the mask of each stream.

        Returns:
            A mask for each gate, or None if all its positions are valid; None without any mask.
        """
        masks = self.by_stream(mask)
        if all(stream_mask is None for stream_mask in masks.values()):
            return None
        return {
            gate: all_valid([masks[gate], *(masks[self.experts[expert]] for expert in experts)])
            for gate, experts in self.gates.items()
        }

    def mix(self, weights: ByName, experts: ByName, dtype: str) -> dict[str, Tensor]:
        """Return sum_e w_e E_e for every gate, `{gate: (..., H)}`.

        A running sum avoids a tensor `(..., E, H)`.

        Args:
            weights: The weights of every gate.
            experts: The outputs of the experts, keyed by name.
            dtype: The dtype of the result.
        """
        outputs = {}
        for gate, names in self.gates.items():
            columns = ops.split(weights[gate], len(names), axis=-1)
            is_stopped = self.is_isolated and gate == SHARED
            mixed = [
                ops.stop_gradient(experts[e])
                if is_stopped and self.experts[e] != SHARED
                else experts[e]
                for e in names
            ]
            outputs[gate] = reduce(add, (w * ops.cast(x, dtype) for w, x in zip(columns, mixed)))
        return outputs


def cgc_wiring(
    task_experts: Mapping[str, int], num_shared_experts: int, add_shared_gate: bool, isolate: bool
) -> LevelWiring:
    """Return the wiring of CGC: a task's gate mixes its experts and the shared ones.

    Args:
        task_experts: The number of experts of each task, in task order.
        num_shared_experts: The number of shared experts.
        add_shared_gate: Whether the shared stream has a gate, which mixes all experts.
        isolate: Whether the shared gate mixes task experts without training them.

    Raises:
        ValueError: If a gate has no expert.
    """
    experts = {
        stream: [f"{stream}/expert_{i}" for i in range(count)]
        for stream, count in {**task_experts, SHARED: num_shared_experts}.items()
    }
    streams = {expert: stream for stream, names in experts.items() for expert in names}
    gates = {task: experts[task] + experts[SHARED] for task in task_experts}
    if add_shared_gate:
        gates[SHARED] = [*streams]
    for gate, names in gates.items():
        if not names:
            raise ValueError(
                f"every gate must have at least one expert, but {gate!r} has none. "
                f"Received: num_task_experts={dict(task_experts)}, "
                f"num_shared_experts={num_shared_experts}"
            )
    is_isolated = add_shared_gate and isolate and any(task_experts.values())
    return LevelWiring(task_experts, streams, gates, is_isolated)


class GatedBlock(BaseLayer):
    """Base of the blocks whose calls take `gate_context` and `return_gate_weights`."""

    _symbolic_outputs: Untracked[Any] = Untracked(None)

    @property
    def output(self) -> Any:
        """The outputs of a symbolic call, with gate weights if a call has returned them.

        Keras counts the outputs of all calls by this attribute. With the outputs of the first call,
        as in Keras, it would refuse a model of a later call that returns gate weights.
        """
        return self._symbolic_outputs.value or super().output

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Check the context before Keras does, and call the block."""
        check_context(kwargs.get("gate_context"))
        outputs = super().__call__(*args, **kwargs)
        if kwargs.get("return_gate_weights") and isinstance(
            keras.tree.flatten(outputs)[0], keras.KerasTensor
        ):
            self._symbolic_outputs = Untracked(outputs)
        return outputs


class GateInputs:
    """Inputs of the gates of a level.

    Args:
        reads: "stream", "context", or "both" for the stream followed by the context.
        gates: The names of the gates, which are the names of their streams.

    Raises:
        ValueError: If `reads` is unknown.
    """

    def __init__(self, reads: GateInput, gates: Iterable[str]) -> None:
        self.reads: GateInput = check_known_value(reads, (STREAM, CONTEXT, BOTH), "gate_reads")
        self._gates = list(gates)
        self._widths: dict[str, int | None] = {}

    def build(self, streams: Mapping[str, Shape], context: Any) -> dict[str, Shape]:
        """Return the shape of each gate's input, and store the widths of the context.

        Args:
            streams: The shape of each stream.
            context: The shape of the context, or a dict of shapes keyed by gate; None without a
                context.
        """
        self.check_given(context)
        if self.reads == STREAM:
            return {gate: streams[gate] for gate in self._gates}
        shapes = {gate: check_features(*named) for gate, named in self._by_gate(context).items()}
        self._widths = {gate: shape[-1] for gate, shape in shapes.items()}
        self.check_shapes(streams, context)
        if self.reads == CONTEXT:
            return shapes
        widths: dict[str, Any] = {gate: streams[gate][-1] for gate in shapes}
        return {gate: (*shape[:-1], widths[gate] + shape[-1]) for gate, shape in shapes.items()}

    def check_given(self, context: Any) -> None:
        """Check that a context, or its shape, is given exactly if the gates read it."""
        if self.reads == STREAM and context is not None:
            raise ValueError(
                "gate_context must be None, since no gate reads it with gate_reads='stream'. "
                f"Received: gate_context.shape={shape_of(context)}"
            )
        if self.reads != STREAM and context is None:
            raise ValueError(
                "gate_context must be a tensor (..., C), or a dict of tensors keyed by gate, since "
                f"the gates read it with gate_reads={self.reads!r}. Received: gate_context=None"
            )

    def check_shapes(self, streams: Mapping[str, Shape], context: Any) -> None:
        """Check that a context has the widths it was built with, and the axes of the streams."""
        for gate, (shape, name) in self._by_gate(context).items():
            check_width(shape or (), self._widths[gate], name)
            stream = streams[gate]
            pairs = zip(stream[:-1], shape[:-1])
            known = [pair for pair in pairs if {*map(type, pair)} == {int}]  # not in exports
            if len(stream) != len(shape) or any(one != other for one, other in known):
                raise ValueError(
                    f"{name} must have the axes of the inputs, except for the last one. Received: "
                    f"{name}.shape={tuple(shape)}, inputs[{gate!r}].shape={tuple(stream)}"
                )

    def tensors(self, streams: ByName, context: Streams | None, dtype: str) -> ByName:
        """Return the input of each gate. Gates that read the same tensors have the same input.

        Args:
            streams: The tensor of each stream.
            context: The context, or the context of each gate; None without a context.
            dtype: The dtype to which the context is cast.
        """
        self.check_given(context)
        if self.reads == STREAM:
            return streams
        contexts = {gate: tensor for gate, (tensor, _) in self._by_gate(context).items()}
        shapes = {gate: shape_of(streams[gate]) for gate in contexts}
        self.check_shapes(shapes, shape_of(context))
        made: dict[tuple[int, int], Tensor] = {}
        inputs = {}
        for gate, tensor in contexts.items():
            key = (id(streams[gate]), id(tensor))
            if key not in made:
                made[key] = self._combine(streams[gate], tensor, dtype)
            inputs[gate] = made[key]
        return inputs

    def _combine(self, stream: Tensor, context: Tensor, dtype: str) -> Tensor:
        """Return the input of a gate, with the mask of its stream, not of the context."""
        context, mask = ops.cast(context, dtype), get_mask(stream)
        if self.reads == BOTH:
            combined = ops.concatenate([ops.cast(stream, dtype), context], axis=-1)
        elif mask is get_mask(context):
            return context
        else:
            combined = context + 0  # a new tensor, since the caller's tensor must keep its mask
        set_mask(combined, mask)
        return combined

    def _by_gate(self, context: Any) -> dict[str, tuple[Any, str]]:
        """Return the context of each gate, or its shape, with its name in error messages."""
        if not isinstance(context, Mapping):
            return dict.fromkeys(self._gates, (context, "gate_context"))
        # A level without a shared gate ignores the context of "shared", which is for other levels.
        given = {gate: x for gate, x in context.items() if gate in self._gates or gate != SHARED}
        check_keys(given, self._gates, "gate_context")
        return {gate: (given[gate], f"gate_context[{gate!r}]") for gate in self._gates}


def check_context(context: Any) -> None:
    """Check that a context is None, a tensor of numbers, or a dict of such tensors.

    Blocks check it before Keras, whose errors do not name the argument. Keras also treats an empty
    dict and a list of numbers as no context.
    """
    if context is None:
        return
    tensors = context.values() if isinstance(context, Mapping) else [context]
    for tensor in tensors:
        dtype = dtype_name(tensor) if hasattr(tensor, "dtype") else ""
        if not hasattr(tensor, "shape") or (dtype and not is_number(dtype)):
            raise TypeError(
                "gate_context must be a tensor (..., C) of numbers, or a dict of such tensors. "
                f"Received: gate_context={short_repr(context)}, with {dtype or type(tensor)}"
            )


def shape_of(value: Any) -> Any:
    """Return the shape of a tensor or the shapes of a dict of tensors. A shape is unchanged."""
    if isinstance(value, Mapping):
        return {key: shape_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(shape_of(item) for item in value)
    return tuple(value.shape) if hasattr(value, "shape") else value

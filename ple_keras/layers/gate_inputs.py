"""Inputs of the gates of a level: their streams, a context, or both."""

from collections.abc import Iterable, Mapping
from typing import Any

from keras import ops

from ple_keras._checks import check_features, check_keys, check_known_value, check_width, short_repr
from ple_keras._keras.internals import largest_outputs, mask_of, set_mask
from ple_keras._keras.layers import BaseLayer
from ple_keras._keras.tensors import dtype_name, is_number
from ple_keras._typing import ByName, GateInput, Shape, Streams, Tensor
from ple_keras.labels.task_names import SHARED

STREAM, CONTEXT, BOTH = "stream", "context", "both"


class GatedBlock(BaseLayer):
    """Base of the blocks whose calls take `gate_context` and `return_gate_weights`."""

    @property
    def output(self) -> Any:
        """The outputs of a symbolic call, as in Keras: of the first one with the most outputs.

        With those of the first call, Keras would refuse a model of a block that has returned gate
        weights in a later call only.
        """
        return largest_outputs(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Check the context before Keras does, and call the block."""
        check_context(kwargs.get("gate_context"))
        return super().__call__(*args, **kwargs)


class GateInputs:
    """Inputs of the gates of a level.

    Args:
        reads: "stream", "context", or "both" for the stream and then the context, side by side.
        gates: The names of the gates, which are those of the streams that they belong to.

    Raises:
        ValueError: If `reads` has another value.
    """

    def __init__(self, reads: GateInput, gates: Iterable[str]) -> None:
        self.reads: GateInput = check_known_value(reads, (STREAM, CONTEXT, BOTH), "gate_reads")
        self._gates = list(gates)
        self._widths: dict[str, int | None] = {}

    def build(self, streams: Mapping[str, Shape], context: Any) -> dict[str, Shape]:
        """Return the shape of each gate's input, and keep the widths of the context.

        Args:
            streams: The shape of each stream.
            context: The shape of the context, or its shape by gate; None without a context.
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
        """Check that a context, or its shape, is given if the gates read it, and only then."""
        if self.reads == STREAM and context is not None:
            raise ValueError(
                "gate_context must be None, since no gate reads it with gate_reads='stream'. "
                f"Received: gate_context.shape={shape_of(context)}"
            )
        if self.reads != STREAM and context is None:
            raise ValueError(
                "gate_context must be a tensor (..., C), or a dict of tensors by gate, since the "
                f"gates read it with gate_reads={self.reads!r}. Received: gate_context=None"
            )

    def check_shapes(self, streams: Mapping[str, Shape], context: Any) -> None:
        """Check that the shapes of a context are those of the build, with the streams' axes."""
        for gate, (shape, name) in self._by_gate(context).items():
            check_width(shape or (), self._widths[gate], name)
            stream = streams[gate]
            pairs = zip(stream[:-1], shape[:-1])
            if len(stream) != len(shape) or any(_are_different(*pair) for pair in pairs):
                raise ValueError(
                    f"{name} must have the axes of the inputs, except for the last. Received: "
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
        """Return the input of a gate, with the mask of its stream and without the context's."""
        context, mask = ops.cast(context, dtype), mask_of(stream)
        if self.reads == BOTH:
            combined = ops.concatenate([ops.cast(stream, dtype), context], axis=-1)
        elif mask is mask_of(context):
            return context
        else:
            combined = context + 0  # a new tensor, since the caller's must keep its own mask
        set_mask(combined, mask)
        return combined

    def _by_gate(self, context: Any) -> dict[str, tuple[Any, str]]:
        """Return the context of each gate, or its shape, with its name in error messages."""
        if not isinstance(context, Mapping):
            return dict.fromkeys(self._gates, (context, "gate_context"))
        # A level without a shared gate ignores the context of "shared", which others may read.
        given = {gate: x for gate, x in context.items() if gate in self._gates or gate != SHARED}
        check_keys(given, self._gates, "gate_context")
        return {gate: (given[gate], f"gate_context[{gate!r}]") for gate in self._gates}


def _are_different(first: object, second: object) -> bool:
    """Return whether two sizes of axes are known and differ. Exports have sizes of other types."""
    return type(first) is int and type(second) is int and first != second


def check_context(context: Any) -> None:
    """Check that a context is None, a tensor of numbers, or a dict of such tensors.

    Blocks check it before Keras does, whose errors do not name the argument. Keras also takes an
    empty dict, and a list of numbers, for no context.
    """
    if context is None:
        return
    tensors = context.values() if isinstance(context, Mapping) else [context]
    if not tensors:
        raise ValueError(
            "gate_context as a dict must have a tensor for each gate. Received: gate_context={}"
        )
    for tensor in tensors:
        dtype = dtype_name(tensor) if hasattr(tensor, "dtype") else ""
        if not hasattr(tensor, "shape") or (dtype and not is_number(dtype)):
            raise TypeError(
                "gate_context must be a tensor (..., C) of numbers, or a dict of such tensors by "
                f"gate. Received: gate_context={short_repr(context)}, with {dtype or type(tensor)}"
            )


def shape_of(value: Any) -> Any:
    """Return the shape of a tensor or the shapes of a dict of tensors. A shape is unchanged."""
    if isinstance(value, Mapping):
        return {key: shape_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(shape_of(item) for item in value)
    return tuple(value.shape) if hasattr(value, "shape") else value

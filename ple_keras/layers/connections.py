"""Streams, experts and gates of a level, their connections, and the inputs of its gates."""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import add, mul
from typing import Any

from keras import ops

from ple_keras._checks import check_features, check_keys
from ple_keras._keras.internals import get_mask, set_mask
from ple_keras._keras.tensors import all_valid
from ple_keras._typing import ByName, GateInput, Nested, Shape, Streams, StreamShapes, Tensor
from ple_keras.labels.task_names import SHARED

STREAM, BOTH = "stream", "both"
GATE_INPUTS = (STREAM, "context", BOTH)  # the values of `gate_reads`


class Connections:
    """Names and connections of a level's streams, experts and gates.

    Args:
        tasks: The tasks, in order.
        experts: The input stream of each expert, keyed by expert name.
        gates: The experts that each gate mixes, in the order of its weights.
        is_isolated: Whether gates mix the experts of other tasks without training them.

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

    def shapes(self, shape: StreamShapes | None) -> dict[str, Shape]:
        """Return the shape of each stream, `(batch, ..., features)`.

        Raises:
            ValueError: If a stream has an unknown number of features, or ranks differ.
        """
        shapes = {s: check_features(x, f"inputs[{s!r}]") for s, x in self.by_stream(shape).items()}
        if len({len(stream_shape) for stream_shape in shapes.values()}) > 1:
            raise ValueError(
                f"inputs must have equal axes, except for the last one. Received: inputs={shapes}"
            )
        return shapes

    def by_stream(self, value: Nested) -> dict[str, Tensor]:
        """Return a value per stream, from one value or a dict with exactly the streams' names."""
        return _by_name(value, self.streams, "inputs")

    def masks(self, mask: Streams | None) -> dict[str, Tensor | None]:
        """Return the mask of each output, which is valid where all streams of its gate are.

        Args:
            mask: The mask of the inputs, or the mask of each stream.

        Returns:
            A mask for each gate, or None if all its positions are valid.
        """
        masks = self.by_stream(mask)
        found = {}
        for gate, experts in self.gates.items():
            found[gate] = all_valid([masks[gate], *(masks[self.experts[x]] for x in experts)])
        return found

    def mix(self, weights: ByName, experts: ByName, dtype: str) -> dict[str, Tensor]:
        """Return sum_e w_e E_e for every gate, `{gate: (..., H)}`.

        A running sum avoids a tensor `(..., E, H)`.

        Args:
            weights: The weights of every gate.
            experts: The outputs of the experts, keyed by name.
            dtype: The dtype of the result.
        """
        experts = {expert: ops.cast(x, dtype) for expert, x in experts.items()}
        stopped = experts
        if self.is_isolated:
            stopped = {expert: ops.stop_gradient(x) for expert, x in experts.items()}
        outputs = {}
        for gate, names in self.gates.items():
            columns = ops.split(weights[gate], len(names), axis=-1)
            read = [(experts if self.experts[x] in (gate, SHARED) else stopped)[x] for x in names]
            outputs[gate] = reduce(add, map(mul, columns, read))
        return outputs


class GateInputs:
    """Inputs of the gates of a level.

    Args:
        reads: "stream", "context", or "both" for the stream followed by the context.
        gates: The names of the gates, which are the names of their streams.
    """

    def __init__(self, reads: GateInput, gates: Iterable[str]) -> None:
        self._reads, self._gates = reads, list(gates)

    def build(self, streams: Mapping[str, Shape], context: Nested) -> Mapping[str, Shape]:
        """Return the shape of each gate's input.

        Args:
            streams: The shape of each stream.
            context: The shape of the context, or a dict of shapes keyed by gate; None without a
                context.
        """
        self.check(streams, context)
        if self._reads == STREAM:
            return streams
        shapes = self._by_gate(context)
        for gate, shape in shapes.items():
            check_features(shape, f"gate_context[{gate!r}]")
        added = {gate: streams[gate][-1] if self._reads == BOTH else 0 for gate in shapes}
        return {gate: (*shape[:-1], added[gate] + shape[-1]) for gate, shape in shapes.items()}

    def check(self, streams: Mapping[str, Shape], context: Nested) -> None:
        """Check the shapes of a context, which is required if and only if the gates read it.

        A context must have the axes of the streams.
        """
        if (context is None) != (self._reads == STREAM):
            tensors = "a tensor (..., C), or a dict of tensors keyed by gate,"
            raise ValueError(
                f"gate_context must be {'None' if self._reads == STREAM else tensors} with "
                f"gate_reads={self._reads!r}. Received: gate_context.shape={context}"
            )
        for gate, shape in self._by_gate(context).items() if self._reads != STREAM else ():
            name = f"gate_context[{gate!r}]" if isinstance(context, Mapping) else "gate_context"
            stream = streams[gate]
            # Sizes are no ints in exports.
            differ = [a != b for a, b in zip(stream[:-1], shape[:-1]) if type(a) is type(b) is int]
            if len(stream) != len(shape) or any(differ):
                raise ValueError(
                    f"{name} must have the axes of the inputs, except for the last one. Received: "
                    f"{name}.shape={tuple(shape)}, inputs[{gate!r}].shape={tuple(stream)}"
                )

    def tensors(self, streams: ByName, context: Streams | None, dtype: str) -> ByName:
        """Return the input of each gate, with the mask of its stream, not of the context.

        Args:
            streams: The tensor of each stream.
            context: The context, or the context of each gate; None without a context.
            dtype: The dtype to which the context is cast.
        """
        self.check(shape_of(streams), shape_of(context))
        if self._reads == STREAM:
            return streams
        inputs = {}
        for gate, tensor in self._by_gate(context).items():
            read = ops.cast(tensor, dtype) + 0  # a new tensor: the caller's keeps its mask
            if self._reads == BOTH:
                read = ops.concatenate([ops.cast(streams[gate], dtype), read], axis=-1)
            set_mask(read, get_mask(streams[gate]))
            inputs[gate] = read
        return inputs

    def _by_gate(self, context: Nested) -> dict[str, Tensor]:
        """Return the context of each gate, or its shape."""
        if isinstance(context, Mapping) and SHARED not in self._gates:  # other levels need the key
            context = {gate: x for gate, x in context.items() if gate != SHARED}
        return _by_name(context, self._gates, "gate_context")


def _by_name(value: Nested, names: Sequence[str], argument: str) -> dict[str, Tensor]:
    """Return a value per name, from one value or a dict with exactly these keys."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(names, value)
    check_keys(value, names, argument)
    return {name: value[name] for name in names}


def shape_of(value: Nested) -> Any:
    """Return the shape of a tensor, the shapes of a dict of tensors, or None for None."""
    if isinstance(value, Mapping):
        return {key: shape_of(item) for key, item in value.items()}
    return tuple(value.shape) if hasattr(value, "shape") else value

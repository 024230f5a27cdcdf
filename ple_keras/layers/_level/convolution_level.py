"""Computation of a level in an ONNX file from PyTorch.

ONNX Runtime takes about half a microsecond for each operation, however small. With a product per
expert and per gate, this dominates a batch of one example. It also prepares the kernels of a
batched product again in each call. A convolution with groups computes all experts at once, and its
kernels are prepared once. The features are its channels, the examples the pixels of a row:

    image (1, streams * D, 1, B)    experts (B, E, H)    weights (B, K, n), and (B, E) shared
"""

from collections.abc import Sequence
from functools import reduce
from operator import add, mul

from keras import ops

from ple_keras._checks import SHARED
from ple_keras._typing import ByName, Tensor
from ple_keras.layers._level.regular_level import RegularLevel


class ConvolutionCall:
    """Computation of a level by convolutions, for one call.

    Args:
        level: The level.
        streams: The inputs of the level, by stream.
        gate_inputs: The inputs of the gates, by gate.
    """

    def __init__(self, level: RegularLevel, streams: ByName, gate_inputs: ByName) -> None:
        self._level, self._streams, self._gate_inputs = level, streams, gate_inputs
        self._width: int = level.bank.stacks()[-1][0].shape[-1]

    def experts(self, training: bool | None) -> Tensor:
        """Return the outputs of all experts, `(B, E, H)`."""
        bank, count = self._level.bank, len(self._level.experts)
        (kernels, biases), *others = bank.stacks()
        parts = [
            _convolve(self._image(streams), kernels, biases, len(streams), experts)
            for streams, experts in self._streams_of_experts()
        ]
        # Before the concatenation, ONNX Runtime computes activations inside of a convolution.
        parts = [bank.apply_after_dense(0, part, training) for part in parts]
        image = ops.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        for step, (kernels, biases) in enumerate(others, start=1):
            image = _convolve(image, kernels, biases, count)
            image = bank.apply_after_dense(step, image, training)
        return ops.reshape(ops.transpose(image, (0, 2, 3, 1)), (-1, count, self._width))

    def _image(self, streams: list[Tensor]) -> Tensor:
        """Return streams `(B, D)` as an image `(1, streams * D, 1, B)`."""
        width = self._level.bank.stacks()[0][0].shape[1]
        features = ops.concatenate(streams, axis=1) if len(streams) > 1 else streams[0]
        # A convolution, unlike a product, does not convert integers.
        features = ops.cast(features, self._level.bank.compute_dtype)
        rows = ops.reshape(features, (1, 1, -1, len(streams) * width))
        return ops.transpose(rows, (0, 3, 1, 2))

    def _streams_of_experts(self) -> list[tuple[list[Tensor], slice]]:
        """Return lists of streams, each read by equally many of a slice of experts."""
        level = self._level
        read = {stream: self._streams[stream] for stream in level.experts.values()}
        if _is_one([*read.values()]):
            return [([*read.values()][:1], slice(None))]
        own = ([read[task] for task in level.tasks], slice(level.num_own))
        return [own, ([read[SHARED]], slice(level.num_own, None))] if SHARED in read else [own]

    def weights(self, training: bool | None) -> dict[str, Tensor]:
        """Return the gate weights: `"tasks"`, `(B, K, n)`, and `"shared"`, `(B, E)`."""
        tasks = self._level.tasks
        logits = ops.reshape(self._logits(tasks), (-1, len(tasks), self._experts_per_gate))
        weights = {"tasks": self._normalize(logits)}
        if SHARED in self._level.gates:
            weights[SHARED] = self._normalize(self._logits([SHARED]))
        return weights

    @property
    def _experts_per_gate(self) -> int:
        count: int = self._level.gates[self._level.tasks[0]].num_experts
        return count

    def _logits(self, names: list[str]) -> Tensor:
        """Return the logits of gates, `(B, gates * n)`."""
        kernels = [self._level.gates[name].kernel for name in names]
        inputs = [self._gate_inputs[name] for name in names]
        if _is_one(inputs):
            return ops.matmul(inputs[0], ops.concatenate(kernels, axis=1))
        return ops.concatenate([ops.matmul(x, w) for x, w in zip(inputs, kernels)], axis=1)

    def _normalize(self, logits: Tensor) -> Tensor:
        gate = self._level.gates[self._level.tasks[0]]
        return ops.cast(gate._normalize(logits, axis=-1), gate.compute_dtype)

    def weights_by_gate(self, weights: ByName) -> dict[str, Tensor]:
        """Return the result of `weights` as `{gate: (B, experts)}`."""
        by_gate = self._by_task(weights["tasks"], self._experts_per_gate)
        if SHARED in weights:
            by_gate[SHARED] = weights[SHARED]
        return by_gate

    def mix(self, weights: ByName, experts: Tensor) -> dict[str, Tensor]:
        """Return sum_e w_e E_e for every gate, `{gate: (B, H)}`."""
        mixed = self._mix_for_tasks(weights["tasks"], experts)
        outputs = self._by_task(mixed, self._width)
        if SHARED in weights:
            mixed = ops.matmul(ops.expand_dims(weights[SHARED], 1), experts)
            outputs[SHARED] = ops.squeeze(mixed, 1)
        return outputs

    def _mix_for_tasks(self, weights: Tensor, experts: Tensor) -> Tensor:
        """Return the mixed experts of all tasks, `(B, K, H)`."""
        level = self._level
        count, num_shared = level.experts_per_task, len(level.experts) - level.num_own
        columns = _split(weights, [*[1] * count, num_shared], axis=2)
        stacks = _split(experts, [level.num_own, num_shared], axis=1)
        terms: list[Tensor] = []
        if count:
            own = ops.reshape(stacks[0], (-1, len(level.tasks), count * self._width))
            terms += map(mul, columns, _split(own, [self._width] * count, axis=2))
        if num_shared:
            terms.append(ops.matmul(columns[-1], stacks[-1]))
        return reduce(add, terms)

    def _by_task(self, values: Tensor, size: int) -> dict[str, Tensor]:
        """Return `(B, K, size)` as a tensor `(B, size)` for each task."""
        tasks = self._level.tasks
        rows = ops.reshape(values, (-1, len(tasks) * size))
        return dict(zip(tasks, _split(rows, [size] * len(tasks), axis=1)))


def _convolve(
    image: Tensor,
    kernels: Tensor,
    biases: Tensor | None,
    groups: int,
    experts: slice = slice(None),
) -> Tensor:
    """Multiply each of `groups` streams of an image by its share of the kernels `(E, D, H)`."""
    import torch

    filters = ops.reshape(ops.swapaxes(kernels[experts], 1, 2), (-1, kernels.shape[1], 1, 1))
    bias = None if biases is None else ops.reshape(biases[experts], (-1,))
    return torch.nn.functional.conv2d(image, filters, bias, groups=groups)


def _is_one(tensors: Sequence[Tensor]) -> bool:
    """Return whether all are one and the same tensor."""
    return all(tensor is tensors[0] for tensor in tensors)


def _split(values: Tensor, sizes: Sequence[int], axis: int) -> Sequence[Tensor]:
    """Split an axis into parts of these sizes. Those of size 0 are left out."""
    import torch

    parts: Sequence[Tensor] = torch.split(values, [size for size in sizes if size], axis)
    return parts

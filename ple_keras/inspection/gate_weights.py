"""The gate weights of a model on given examples."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from ple_keras._checks import short_repr
from ple_keras._keras.batches import Batches
from ple_keras._keras.tensors import at_least_float32
from ple_keras._keras.walking import Untracked
from ple_keras._typing import ByName, Nested, Streams
from ple_keras.inspection._observed_model import OuterModel, repeated_run_error
from ple_keras.inspection.levels import built_levels
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.observation import Observer

Summarize = Callable[[ByName, ByName], Nested]  # of gate weights and expert outputs by name


def gate_weights(
    model: keras.Layer, x: Nested, batch_size: int | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Return the weights of every gate of a model for each example.

    The model runs as in `predict`: without dropout and gate dropout. Gate statistics do not change
    and need not be enabled. Masked positions are included. If several processes train one model,
    each may call this function with its own `x`.

    Args:
        model: A built model that contains PLEBlocks, MMoEBlocks or CGCBlocks, at any depth; or
            such a block itself.
        x: Input as for `predict`: arrays, or a dict or list of arrays; or batches, such as a
            `tf.data.Dataset`, a `keras.utils.PyDataset` or a torch DataLoader.
        batch_size: The number of examples per batch, 1024 by default; for arrays only.

    Returns:
        `{level: {gate: (N, ..., experts)}}`, in at least float32. The levels have the same keys as
        in `GateWeightsLogger`; the experts are in the order of `gate_experts`.

    Raises:
        TypeError: If `model` is not a Keras layer, or `x` is neither arrays nor batches.
        ValueError: If `model` has no such block, is not built, runs one block twice in one pass,
            or fails on `x`. If `x` is empty, or its batches differ in more than their size. If
            called in the scope of a `tf.distribute` strategy with several replicas.

    Example:

    >>> ple = PLEBlock(2, ["click", "buy"], [8], num_task_experts=2, name="ple")
    >>> inputs = keras.Input((3,))
    >>> model = keras.Model(inputs, ple(inputs))
    >>> weights = gate_weights(model, np.ones((5, 3)))
    >>> {level: {gate: w.shape for gate, w in gates.items()} for level, gates in weights.items()}
    {'ple/0': {'click': (5, 3), 'buy': (5, 3), 'shared': (5, 5)}, 'ple/1': {'click': (5, 3), \
'buy': (5, 3)}}
    >>> ple[0].gate_experts["click"]
    ['click/expert_0', 'click/expert_1', 'shared/expert_0']
    """
    levels = built_levels(model)
    _, weights = observe_levels(model, levels, x, batch_size, lambda weights, experts: weights)
    return {
        level: {gate: by_gate[gate] for gate in levels[level].gate_experts}
        for level, by_gate in weights.items()
    }


def observe_levels(
    model: keras.Layer,
    levels: Mapping[str, CGCBlock],
    x: Nested,
    batch_size: int | None,
    summarize: Summarize,
) -> tuple[int, dict[str, Any]]:
    """Return the number of examples, and figures of every level that runs.

    Args:
        model: As for `gate_weights`.
        levels: The levels of the model.
        x: As for `gate_weights`.
        batch_size: As for `gate_weights`.
        summarize: A function from the gate weights and expert outputs of a level to tensors, which
            are concatenated over the batches.

    Raises:
        TypeError, ValueError: As `gate_weights`.
    """
    batches = Batches(x, batch_size=batch_size)
    observed = _ObservedModel(model, levels, summarize)
    examples, by_batch = 0, []
    for batch, _ in batches:
        by_batch.append(observed.run_batch(batch))
        if observed.repeated.value:
            raise repeated_run_error(model, observed.repeated.value)
        examples += len(keras.tree.flatten(batch)[0])
    try:
        joined = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *by_batch)
    except ValueError as error:
        raise ValueError(
            f"x must have batches that differ only in their number of examples: {error} "
            f"Received: x={short_repr(x)}"
        ) from error
    return examples, {level: joined[level] for level in levels if level in joined}


class _ObservedModel(OuterModel):
    """Model that runs another model and returns `summarize` of its levels."""

    def __init__(
        self, model: keras.Layer, levels: Mapping[str, CGCBlock], summarize: Summarize
    ) -> None:
        super().__init__(model)
        self._summarize = summarize
        self._names = Untracked({id(block): level for level, block in levels.items()})
        self.repeated: Untracked[set[str]] = Untracked(set())

    def call(self, inputs: Nested, training: bool | None = None) -> dict[str, Any]:
        by_level: dict[str, Any] = {}

        def receive(level: str, inputs: Streams, weights: ByName, experts: ByName) -> None:
            figures = self._summarize(weights, experts)
            by_level[level] = keras.tree.map_structure(at_least_float32, figures)

        with Observer(self._names.value, receive=receive) as observer:
            self.inner(inputs, training=training)
        self.repeated.value |= observer.repeated
        return by_level

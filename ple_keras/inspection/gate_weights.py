"""The gate weights of a model on given examples."""

import keras
import numpy as np

from ple_keras._keras.batches import Batches
from ple_keras._typing import Nested
from ple_keras.inspection._observed_model import observe_model
from ple_keras.inspection.levels import find_levels


def gate_weights(
    model: keras.Layer, x: Nested, batch_size: int | None = None, verbose: str | int = "auto"
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
        verbose: 0 for no output, 1 for a progress bar, "auto" for a progress bar with more than 50
            batches.

    Returns:
        `{level: {gate: (N, ..., experts)}}`, in at least float32. The levels have the same keys as
        in `GateWeightsLogger`; the experts are in the order of `gate_experts`.

    Raises:
        TypeError: If `model` is not a Keras layer, or `x` is neither arrays nor batches.
        ValueError: If `model` has no such block, is not built, runs no block or one block twice
            in one pass, or fails on `x`. If `x` is empty, or its batches differ in more than
            their size. If called in the scope of a `tf.distribute` strategy with several replicas.

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
    batches = Batches(x, batch_size=batch_size)
    weights = observe_model(model, batches, lambda _, weights, experts: weights, verbose)
    levels = find_levels(model)
    return {
        level: {gate: by_gate[gate] for gate in levels[level].gate_experts}
        for level, by_gate in weights.items()
    }

"""What the gates of a model do with given examples."""

import keras
import numpy as np

from ple_keras._typing import Nested
from ple_keras.inspection._observed_model import observe_levels
from ple_keras.inspection.levels import find_levels


def gate_weights(
    model: keras.Layer, x: Nested, batch_size: int | None = None, verbose: str | int = "auto"
) -> dict[str, dict[str, np.ndarray]]:
    """The weights that every gate of a model gives its experts, example by example.

    The model runs as in `predict`: without dropout, gate dropout among it, and leaving statistics
    alone. It need not keep any. Positions that a mask leaves out are among the examples. Where
    several processes train one model, any of them may look, at its own `x`.

    Args:
        model: A built model that holds PLEBlocks, MMoEBlocks or CGCBlocks, at any depth; or such a
            block itself.
        x: What the model's `predict` takes: arrays, or a dict or list of them; or batches, such as
            a `tf.data.Dataset`, a `keras.utils.PyDataset` or a torch DataLoader.
        batch_size: The number of examples to run at once, 1024 by default; for arrays only.
        verbose: 0 for silence, 1 for a progress bar, "auto" for one where there are more than 50
            batches.

    Returns:
        `{level: {gate: (N, ..., experts)}}`, in at least float32: the levels under the keys that
        `GateWeightsLogger` has, a level's experts in the order of its `gate_experts`.

    Raises:
        TypeError: if `model` is no Keras layer, or `x` neither arrays nor batches.
        ValueError: if `model` holds no such block or isn't built, runs none or one twice in one
            pass, or doesn't take `x`; or if `x` is empty, or its batches differ beyond their size;
            or within the scope of a `tf.distribute` strategy, where each replica would run all.

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
    weights = observe_levels(model, x, lambda weights, outputs: weights, batch_size, verbose)
    levels = find_levels(model)
    return {level: {g: of[g] for g in levels[level].gate_experts} for level, of in weights.items()}

"""The deprecated function `gradient_conflict`."""

from itertools import combinations

import keras

from ple_keras._checks import warn_user
from ple_keras._keras.batches import Batches
from ple_keras._typing import Nested
from ple_keras.heads.task_heads import trained_heads
from ple_keras.inspection.task_gradients import TaskGradients, trainable_part
from ple_keras.labels.label_arrays import task_labels
from ple_keras.labels.task_names import SHARED
from ple_keras.layers.levels import built_levels

Cosines = dict[tuple[str, str], float]


def gradient_conflict(
    model: keras.Layer, x: Nested, y: Nested = None, batch_size: int | None = None
) -> dict[str, dict[str, Cosines]]:
    """Return the cosines between the gradients of the tasks' losses in each level.

    Deprecated: use `task_report(...).conflicts`, the cosines between different batches. In the same
    batch, as here, the noise of the gradients is correlated like the labels of the tasks, so that
    the cosine of a trained model does not show whether the tasks conflict.

    The losses are the heads' losses over the labeled examples of a batch, without loss weights and
    regularization. The model runs as in `predict`: without dropout, and without changes to weights,
    batch normalization statistics or gate statistics.

    Args:
        model: A built model that has TaskHeads and returns a dict keyed by task.
        x: Arrays, or a dict or list of arrays, as for `fit`; or, with `y=None`, batches of
            `(x, y)`: a `tf.data.Dataset`, a `keras.utils.PyDataset` or a torch DataLoader.
        y: `{task: labels}` for each task that has a loss, or an array in a model with one task.
        batch_size: The number of examples per gradient, only for arrays; None for all examples.
            The cosines of several batches are averaged.

    Returns:
        `{level: {"shared/expert_0": {(task, task): cosine}}}`, for each shared expert that is not
        frozen, with levels named as in `gate_weights` and pairs in task order. Gradients are with
        respect to all trainable weights of the expert. A cosine is NaN if a task has no gradient,
        for example without labels. The average skips such batches.

    Raises:
        TypeError: If `model` is not a Keras layer, `x` is neither arrays nor batches, or `y` is
            not a dict of numbers.
        ValueError: If `model` has no PLEBlock, MMoEBlock or CGCBlock, is not built, or has no
            TaskHeads with losses, if `y` lacks a task, if `x` is empty, or in the scope of a
            `tf.distribute` strategy with several replicas.

    Warns:
        DeprecationWarning: Always.

    Reference:

    - Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, definition 1.
      [arXiv:2001.06782](https://arxiv.org/abs/2001.06782)

    Example:

    >>> heads = TaskHeads([RegressionHead("up"), RegressionHead("down")])
    >>> inputs = keras.Input((3,))
    >>> block = MMoEBlock(heads, keras.layers.Dense(4), num_experts=1, name="mmoe")
    >>> model = keras.Model(inputs, heads(block(inputs)))
    >>> heads["down"].set_weights(heads["up"].get_weights())
    >>> x, y = np.ones((8, 3)), np.full(8, 1000.0)
    >>> conflict = gradient_conflict(model, x, {"up": y, "down": -y})
    >>> round(conflict["mmoe"]["shared/expert_0"]["up", "down"], 2)
    -1.0
    """
    warn_user(
        "gradient_conflict is deprecated. Use task_report(...).conflicts, which compares gradients "
        "of different batches",
        DeprecationWarning,
    )
    levels = built_levels(model)
    heads = trained_heads(model)
    parts = {
        (level, expert): part
        for level, block in levels.items()
        for expert in block._connections.experts_of(SHARED)
        if (part := trainable_part(block, expert))
    }
    gradients = TaskGradients(model, heads, list(parts.values()))
    for features, labels, _ in Batches(x, y, batch_size, default=None):
        gradients.add(features, task_labels(labels, heads))
    conflict: dict[str, dict[str, Cosines]] = {level: {} for level in levels}
    for (level, expert), cosines in zip(parts, gradients.mean_cosines().tolist()):
        conflict[level][expert] = {
            (first, second): cosines[i][j]
            for (i, first), (j, second) in combinations(enumerate(heads), 2)
        }
    return conflict

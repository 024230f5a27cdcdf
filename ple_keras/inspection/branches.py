"""What the heads of hedged tasks mix."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._checks import short_repr
from ple_keras._keras.batches import Batches
from ple_keras._keras.tensors import to_numpy
from ple_keras._keras.walking import Untracked
from ple_keras._typing import Nested, TaskName, Tensor
from ple_keras.heads.hedged_head import HedgedHead
from ple_keras.heads.task_heads import find_heads
from ple_keras.inspection._observed_model import (
    OuterModel,
    empty_data_error,
    holding_branches,
)
from ple_keras.inspection.gradient_conflict import select_labels
from ple_keras.inspection.levels import find_levels
from ple_keras.layers.observation import Observer


@dataclass(frozen=True)
class BranchValues:
    """What the head of a task mixes, for its labeled examples.

    Attributes:
        labels: The labels, `(examples, width)`, or `(examples,)`.
        examples: True for each labeled example, `(examples,)`.
        numbers: True for each number of a label that is not missing, `(examples, units)`; of
            labels of one number, `(examples, 1)`.
        values: The logits or predictions of each branch, `(examples, units)`.
    """

    labels: np.ndarray
    examples: np.ndarray
    numbers: np.ndarray
    values: dict[str, np.ndarray]


def hedged_heads(model: keras.Layer) -> dict[TaskName, HedgedHead]:
    """Return the built heads of a model or layer that mix branches, by task."""
    heads = find_heads(model).items()
    return {task: head for task, head in heads if isinstance(head, HedgedHead) and head.built}


def branch_values(observed: "BranchModel", batches: Batches) -> dict[TaskName, BranchValues]:
    """Return what the heads of all hedged tasks mix that have a loss.

    The model runs as in `predict`, once for each batch. Its state does not change.

    Args:
        observed: The model, as a BranchModel.
        batches: Batches of `(x, y)`, with labels for each of these tasks.

    Raises:
        TypeError, ValueError: If the model does not return the predictions, or fails on a batch, if
            there is no batch, or labels are missing or do not match.
    """
    heads = observed.heads
    found: dict[TaskName, list[tuple[Any, ...]]] = {task: [] for task in heads}
    for x, y in batches:
        outputs = observed.run_batch(x)
        if observed.has_one_task and hasattr(y, "shape"):
            y = dict.fromkeys(heads, y)  # as `fit` takes it
        labels = select_labels(y, heads)
        for task, head in heads.items():
            found[task].append(_labeled(head, labels[task], outputs[task]))
    if not all(found.values()):
        raise empty_data_error(batches.given)
    by_task = {}
    for task, head in heads.items():
        arrays = [np.concatenate(parts) for parts in zip(*found[task])]
        values = dict(zip(head.branch_names, arrays[3:]))
        by_task[task] = BranchValues(arrays[0], arrays[1], arrays[2], values)
    return by_task


class BranchModel(OuterModel):
    """Model that returns what the heads of another one mix, a list by task.

    It is compiled once, even if it is used several times.

    Args:
        model: A built model with a TaskHeads as its last layer.

    Attributes:
        heads: The heads with branches and a loss, by task.
        has_one_task: Whether the model has one head.

    Raises:
        ValueError: If there are no such heads.
    """

    def __init__(self, model: keras.Layer) -> None:
        super().__init__(model)
        self._heads = Untracked(
            {t: head for t, head in hedged_heads(model).items() if head.has_loss}
        )
        if not self.heads:
            raise ValueError(
                "model must be built and have the heads of a HedgedBlock, with losses. "
                f"Received: model={model!r}"
            )
        self.has_one_task = len(find_heads(model)) == 1
        self._names = Untracked({id(block): key for key, block in find_levels(model).items()})

    @property
    def heads(self) -> dict[TaskName, HedgedHead]:
        return self._heads.value

    def call(self, inputs: Nested, training: bool | None = None) -> dict[TaskName, list[Tensor]]:
        # The observer keeps gate statistics as they are.
        with Observer(self._names.value), holding_branches(self.inner) as take_branches:
            outputs = self.inner(inputs, training=training)
            held = take_branches()
        missing = [task for task in self.heads if task not in held]
        if missing:
            raise ValueError(
                "model must call its TaskHeads. "
                f"Received: outputs={short_repr(outputs)}, without {missing}"
            )
        return {task: held[task].values for task in self.heads}


def _labeled(head: HedgedHead, labels: Tensor, values: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Return labels, their masks and the values of branches, for labeled examples."""
    present, _ = head._present_labels(labels)
    head._check_values(present)
    labeled = head._find_labeled(labels, values[0])
    shape = values[0].shape
    examples, numbers = np.ones(shape[:-1], bool), np.ones(shape, bool)
    if labeled.examples is not None:
        examples = to_numpy(labeled.examples)
        numbers = examples[..., None] & numbers
    if labeled.numbers is not None:
        numbers = to_numpy(labeled.numbers)
    is_kept = numbers.any(axis=-1)
    arrays = [to_numpy(ops.convert_to_tensor(x)) for x in (labeled.labels, examples, numbers)]
    return tuple(array[is_kept] for array in [*arrays, *map(np.asarray, values)])

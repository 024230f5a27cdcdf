"""Predictions of the branches of hedged tasks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import keras
import numpy as np
from keras import ops

from ple_keras._checks import short_repr
from ple_keras._keras.batches import Batches
from ple_keras._keras.tensors import to_numpy
from ple_keras._keras.walking import Untracked, find_layers
from ple_keras._typing import LossLike, Nested, TaskName, Tensor
from ple_keras.heads.head import Head
from ple_keras.inspection._errors import empty_data_error
from ple_keras.inspection._observed_model import OuterModel
from ple_keras.inspection.gradient_conflict import select_labels
from ple_keras.inspection.levels import find_levels
from ple_keras.labels.label_arrays import masks_elements
from ple_keras.labels.sample_space import sample_space
from ple_keras.layers.observation import Observer
from ple_keras.losses.masked_loss import branches_of, ignored_class


@dataclass(frozen=True)
class BranchPredictions:
    """Predictions of the branches of a task, for its labelled examples.

    Attributes:
        labels: The labels, `(examples, width)`, or `(examples,)`.
        is_labelled: True for each example, `(examples,)`; or for each number of its label that is
            not missing, `(examples, units)`, if single numbers may be missing.
        predictions: The predictions by branch, `(examples, units)`.
    """

    labels: np.ndarray
    is_labelled: np.ndarray
    predictions: dict[str, np.ndarray]


def hedged_heads(model: keras.Layer) -> dict[TaskName, Head]:
    """Return the built heads of a model or layer that mix branches, by task."""
    return {head.task: head for head in find_layers(model, Head) if head.branch_names}


def branch_predictions(
    observed: "BranchModel", batches: Batches
) -> dict[TaskName, BranchPredictions]:
    """Return the predictions of all branches of the hedged tasks that have a loss.

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
            found[task].append(_labelled(head, labels[task], outputs[task]))
    if not all(found.values()):
        raise empty_data_error(batches.given)
    joined = {task: [np.concatenate(parts) for parts in zip(*found[task])] for task in heads}
    return {
        task: BranchPredictions(labels, mask, dict(zip(heads[task].branch_names, predictions)))
        for task, (labels, mask, *predictions) in joined.items()
    }


class BranchModel(OuterModel):
    """Model that returns the predictions of the branches of another one, a list by task.

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
        self.has_one_task = len(find_layers(model, Head)) == 1
        self._names = Untracked({id(block): key for key, block in find_levels(model).items()})

    @property
    def heads(self) -> dict[TaskName, Head]:
        return self._heads.value

    def call(self, inputs: Nested, training: bool | None = None) -> dict[TaskName, list[Tensor]]:
        with Observer(self._names.value):  # which keeps gate statistics as they are
            outputs = self.inner(inputs, training=training)
        if self.has_one_task and not isinstance(outputs, Mapping):
            outputs = dict.fromkeys(self.heads, outputs)
        branches: dict[TaskName, Any] = {}
        for task in self.heads:
            of_task = outputs.get(task) if isinstance(outputs, Mapping) else None
            branches[task] = None if of_task is None else branches_of(of_task)
            if branches[task] is None:
                raise ValueError(
                    "model must return the predictions of its TaskHeads by task, without a layer "
                    f"after it. Received: outputs={short_repr(outputs)}, without {task!r}"
                )
        return branches


def _labelled(head: Head, labels: Tensor, branches: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Return the labels, their mask and the predictions of branches, for labelled examples."""
    present, _ = head._present_labels(labels)
    head._check_values(present)
    loss = head.masked_loss(cast(LossLike, head.loss))
    y_true, y_pred, in_space = sample_space(
        labels,
        branches[0],
        loss.missing_label,
        loss.label_width,
        f" of {head.task!r}",
        masks_elements(loss.loss),
    )
    is_ignored = ignored_class(loss.loss, y_true, y_pred)
    mask = np.ones(y_pred.shape[:-1], bool) if in_space is None else to_numpy(in_space)
    if is_ignored is not None:
        mask = mask & ~to_numpy(is_ignored)
    is_kept = mask.any(axis=-1) if mask.ndim == y_pred.ndim else mask
    arrays = [to_numpy(ops.convert_to_tensor(x)) for x in (y_true, mask, *branches)]
    return tuple(array[is_kept] for array in arrays)

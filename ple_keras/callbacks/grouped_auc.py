"""A callback that logs the AUC within groups."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from ple_keras._checks import check_by_task, check_int, check_known_value
from ple_keras._keras.internals import functional_outputs, mask_of
from ple_keras._keras.walking import find_layers
from ple_keras._typing import GroupWeighting, Logs, Nested, TaskName, Tensor
from ple_keras.callbacks._gate_statistics import unchanged_gate_statistics
from ple_keras.callbacks._ranks import predictions_in_each_process
from ple_keras.callbacks._task_predictions import prediction_masks, predictions_by_task
from ple_keras.callbacks._validation_data import number_of_rows, unpack_arrays
from ple_keras.heads.binary_head import BinaryHead
from ple_keras.heads.head import Head
from ple_keras.heads.product_head import ProductHead
from ple_keras.inspection.batches import DEFAULT_SIZE
from ple_keras.labels.alignment import check_shape
from ple_keras.labels.label_arrays import is_missing
from ple_keras.metrics.grouped_auc import WEIGHTINGS, GroupedLabels, group_indices


class GroupedAUC(keras.callbacks.Callback):
    """Callback that logs the area under the ROC curve within groups, such as users or queries.

    After each epoch, it predicts the validation data and adds two keys to `logs` for each task,
    also if there is only one:

    - `val_{task}_gauc`: the mean AUC of the groups, see `grouped_auc`.
    - `val_{task}_gauc_share`: the share of the labelled rows in groups with both labels, 0 and 1.
      Only these count.

    The mean is NaN if no group has both labels. Rows and positions that Keras masks are left
    out: since `predict` returns no masks, the model runs eagerly once for them. Gate statistics do
    not change. Callbacks that read the keys, such as EarlyStopping and ModelCheckpoint, must come
    later in the list. If several processes train one model, each logs the values of the data that
    it was given. On JAX, pass the callback in every process.

    Args:
        validation_data: `(x, y)` or `(x, y, sample_weight)` of arrays, as for `fit`, with at least
            one row. y is a dict of labels 0 and 1 by task, or an array in a model with one task.
            A label that is NaN, or the head's `missing_label`, is left out. Sample weights are
            ignored, as by `metrics`.
        groups: The group of each row: an array of integers or strings.
        tasks: The names of the tasks; by default those of BinaryHeads and ProductHeads.
        batch_size: The number of rows per batch of predictions, 1024 by default.
        weighting: "rows" to weight a group by the number of its labelled rows, "equal" for equal
            weights.
        name: The end of the keys, in place of "gauc".

    Raises:
        TypeError: If an argument has a type that is not listed above.
        ValueError: If the arrays have no rows or different numbers of rows, a group is missing,
            `weighting` is unknown, or `tasks` is empty. In `fit`, if a task is unknown, has no
            labels or no single number as prediction, or a label is neither 0, 1 nor missing. If
            the model does not return predictions by task: after the first epoch for a model that
            is not Functional.

    Example:

    >>> heads = TaskHeads([BinaryHead("click"), BinaryHead("buy")])
    >>> inputs = keras.Input((2,))
    >>> model = keras.Model(inputs, heads({"click": inputs, "buy": inputs}))
    >>> model.compile("adam", **heads.compile_kwargs())
    >>> x = np.eye(4)[:, :2]
    >>> y = {"click": np.array([0, 1, 1, 0]), "buy": np.array([0, np.nan, 1, 1])}
    >>> callbacks = [  # stop if the order of the items of each user no longer improves
    ...     GroupedAUC((x, y), groups=np.array(["ann", "ann", "bob", "bob"])),
    ...     keras.callbacks.EarlyStopping("val_click_gauc", mode="max", patience=2),
    ... ]
    >>> history = model.fit(x, y, callbacks=callbacks, verbose=0).history
    >>> history["val_click_gauc_share"], history["val_buy_gauc"]
    ([1.0], [nan])
    """

    def __init__(
        self,
        validation_data: tuple[Nested, ...],
        groups: Tensor,
        tasks: Sequence[TaskName] | None = None,
        batch_size: int | None = None,
        weighting: GroupWeighting = "rows",
        name: str = "gauc",
    ) -> None:
        super().__init__()
        self._x, self._y = unpack_arrays(validation_data)
        self._indices = group_indices(groups, number_of_rows(self._x, self._y))
        self.tasks = None if tasks is None else _check_tasks(tasks)
        self.batch_size = DEFAULT_SIZE
        if batch_size is not None:
            self.batch_size = check_int(batch_size, "batch_size", minimum=1)
        self.weighting = check_known_value(weighting, WEIGHTINGS, "weighting")
        if not isinstance(name, str):
            raise TypeError(f"name must be a string. Received: name={name!r}")
        self.name = name
        self._labels: dict[TaskName, np.ndarray] = {}
        self._grouped_labels: dict[TaskName, GroupedLabels] = {}
        self._num_heads = 0
        self._may_have_masks = True

    def on_train_begin(self, logs: Logs = None) -> None:
        heads = {head.task: head for head in find_layers(self.model, Head)}
        self._num_heads = len(heads)
        tasks = self._check_known(heads)
        self._labels = {task: self._labels_of(task, heads[task]) for task in tasks}
        self._grouped_labels = {task: self._group_labels(task) for task in tasks}
        outputs = functional_outputs(self.model)
        if outputs is not None:
            self._predictions(outputs)
        self._may_have_masks = outputs is None or _has_masks(outputs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        model = self.model  # on JAX, access to self.model updates the variables
        with unchanged_gate_statistics(model), predictions_in_each_process():
            outputs = model.predict(self._x, batch_size=self.batch_size, verbose=0)
            predictions = self._predictions(outputs)
            if self._may_have_masks:  # in the first epoch only
                self._leave_out_masked(model)
                self._may_have_masks = False
        for task, labels in self._grouped_labels.items():
            of_task = np.asarray(predictions[task], "float64").ravel()
            if logs is not None:
                logs[f"val_{task}_{self.name}"] = labels.auc(of_task, self.weighting)
                logs[f"val_{task}_{self.name}_share"] = labels.share

    def _predictions(self, outputs: Nested) -> dict[TaskName, Any]:
        """Return the predictions of the tasks; check that each label has one."""
        predictions = predictions_by_task(outputs, list(self._labels), self._num_heads)
        for task, of_task in predictions.items():
            shape = tuple(of_task.shape) if len(of_task.shape) > 1 else (*of_task.shape, 1)
            check_shape(self._labels[task].shape, shape, 1, f"validation_data[1][{task!r}]")
        return predictions

    def _leave_out_masked(self, model: keras.Model) -> None:
        masks = prediction_masks(
            model, self._x, list(self._labels), self._num_heads, self.batch_size
        )
        for task, mask in masks.items():
            labels = self._labels[task]
            labels[~mask.reshape(labels.shape)] = np.nan
            self._grouped_labels[task] = self._group_labels(task)

    def _check_known(self, heads: Mapping[TaskName, Head]) -> list[TaskName]:
        """Return the tasks, if the model has a head and `validation_data` has labels for each."""
        tasks = self.tasks
        if tasks is None:
            tasks = [t for t, head in heads.items() if isinstance(head, BinaryHead | ProductHead)]
        known = [task for task, head in heads.items() if head.units == 1]
        unknown = [task for task in tasks if task not in known]
        if unknown or not tasks:
            raise ValueError(
                "tasks must be tasks of the model's heads that predict one number, "
                f"{known}; by default those of BinaryHeads and ProductHeads. "
                f"Received: tasks={self.tasks!r}"
            )
        if len(heads) > 1:
            check_by_task(self._y, list(heads), "validation_data[1]")
        missing = [t for t in tasks if isinstance(self._y, Mapping) and t not in self._y]
        if missing:
            raise ValueError(
                f"validation_data must have labels for the tasks {tasks}; missing: {missing}. "
                f"Received: validation_data=(..., {{{', '.join(map(repr, self._y))}}})"
            )
        return tasks

    def _labels_of(self, task: TaskName, head: Head) -> np.ndarray:
        """Return the labels of a task with NaN for missing labels."""
        labels = self._y[task] if isinstance(self._y, Mapping) else self._y
        return np.where(is_missing(labels, head.missing_label), np.nan, labels.astype("float64"))

    def _group_labels(self, task: TaskName) -> GroupedLabels:
        labels = self._labels[task].ravel()
        return GroupedLabels(labels, self._indices, f"validation_data[1][{task!r}]")


def _has_masks(outputs: Nested) -> bool:
    return any(mask_of(tensor) is not None for tensor in keras.tree.flatten(outputs))


def _check_tasks(tasks: Sequence[TaskName]) -> list[TaskName]:
    if isinstance(tasks, str) or not isinstance(tasks, Sequence):
        raise TypeError(f"tasks must be a sequence of names. Received: tasks={tasks!r}")
    return list(tasks)

"""A callback that logs the AUC within groups."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from ple_keras._checks import check_int, check_known_value, short_repr
from ple_keras._keras.arrays import to_numpy
from ple_keras._keras.walking import find_layers
from ple_keras._typing import Logs, Nested, TaskName, Tensor
from ple_keras.callbacks._gate_statistics import unchanged_gate_statistics
from ple_keras.heads.binary_head import BinaryHead
from ple_keras.heads.head import Head
from ple_keras.heads.product_head import ProductHead
from ple_keras.inspection.batches import DEFAULT_SIZE
from ple_keras.labels.alignment import check_dtype
from ple_keras.labels.label_arrays import is_missing
from ple_keras.metrics.grouped_auc import WEIGHTINGS, GroupedLabels, group_indices


class GroupedAUC(keras.callbacks.Callback):
    """Callback that logs the area under the ROC curve within groups, such as users or queries.

    After each epoch, it predicts the validation data and adds two keys to `logs` for each task,
    also if there is only one:

        val_{task}_gauc        the mean AUC of the groups, see `grouped_auc`.
        val_{task}_gauc_share  the share of the labelled rows in groups with both labels, 0 and 1.
                               Only these count.

    The mean is NaN if no group has both labels. Gate statistics do not change. Callbacks that read
    the keys, such as EarlyStopping and ModelCheckpoint, must come later in the list. If several
    processes train one model, each logs the values of the data that it was given.

    Args:
        validation_data: `(x, y)` or `(x, y, sample_weight)` of arrays, as for `fit`. y is a dict of
            labels 0 and 1 by task, or an array in a model with one task. A label that is NaN, or
            the head's `missing_label`, is left out. Sample weights are ignored, as by `metrics`.
        groups: The group of each row: an array of integers or strings.
        tasks: The names of the tasks; by default those of BinaryHeads and ProductHeads.
        batch_size: The number of rows per batch of predictions, 1024 by default.
        weighting: "rows" to weight a group by the number of its labelled rows, "equal" for equal
            weights.
        name: The end of the keys, in place of "gauc".

    Raises:
        TypeError: If an argument has a type that is not listed above.
        ValueError: If the arrays have different numbers of rows, `weighting` is unknown, or
            `tasks` is empty. In `fit`, if a task is unknown, has no labels or no single number as
            prediction, or a label is neither 0, 1 nor missing.

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
        weighting: str = "rows",
        name: str = "gauc",
    ) -> None:
        super().__init__()
        self._x, self._y = _unpack(validation_data)
        self._indices = group_indices(groups, _number_of_rows(self._x, self._y))
        self.tasks = None if tasks is None else _check_tasks(tasks)
        self.batch_size = DEFAULT_SIZE
        if batch_size is not None:
            self.batch_size = check_int(batch_size, "batch_size", minimum=1)
        self.weighting = check_known_value(weighting, WEIGHTINGS, "weighting")
        if not isinstance(name, str):
            raise TypeError(f"name must be a string. Received: name={name!r}")
        self.name = name
        self._grouped_labels: dict[TaskName, GroupedLabels] = {}

    def on_train_begin(self, logs: Logs = None) -> None:
        heads = {head.task: head for head in find_layers(self.model, Head)}
        self._grouped_labels = {
            task: self._group_labels(task, heads[task]) for task in self._check_known(heads)
        }

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        model = self.model  # on JAX, access to self.model updates the variables
        with unchanged_gate_statistics(model):
            outputs = model.predict(self._x, batch_size=self.batch_size, verbose=0)
        for task, labels in self._grouped_labels.items():
            predictions = outputs[task] if isinstance(outputs, Mapping) else outputs
            predictions = np.asarray(predictions, "float64").ravel()
            if logs is not None:
                logs[f"val_{task}_{self.name}"] = labels.auc(predictions, self.weighting)
                logs[f"val_{task}_{self.name}_share"] = labels.share

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
        if not isinstance(self._y, Mapping) and len(heads) > 1:
            raise TypeError(
                f"validation_data must have labels as a dict by task, {list(heads)}. "
                f"Received: validation_data=(..., {type(self._y).__name__})"
            )
        missing = [t for t in tasks if isinstance(self._y, Mapping) and t not in self._y]
        if missing:
            raise ValueError(
                f"validation_data must have labels for the tasks {tasks}; missing: {missing}. "
                f"Received: validation_data=(..., {{{', '.join(map(repr, self._y))}}})"
            )
        return tasks

    def _group_labels(self, task: TaskName, head: Head) -> GroupedLabels:
        labels = to_numpy(self._y[task] if isinstance(self._y, Mapping) else self._y)
        missing = is_missing(labels, head.missing_label)
        labels = np.where(missing, np.nan, labels.astype("float64")).ravel()
        return GroupedLabels(labels, self._indices, f"validation_data[1][{task!r}]")


def _unpack(validation_data: tuple[Nested, ...]) -> tuple[Any, Any]:
    """Return x and y, if they are arrays."""
    parts = validation_data if isinstance(validation_data, tuple | list) else ()
    leaves = keras.tree.flatten(parts[:1])
    if len(parts) not in (2, 3) or not all(hasattr(leaf, "shape") for leaf in leaves):
        raise TypeError(
            "validation_data must be a tuple (x, y) or (x, y, sample_weight) of arrays. "
            f"Received: validation_data={short_repr(validation_data)}"
        )
    x, y = parts[:2]
    for key, labels in y.items() if isinstance(y, Mapping) else [(None, y)]:
        where = "" if key is None else f"[{key!r}]"
        check_dtype(to_numpy(labels), f"validation_data[1]{where}")
    return x, y


def _number_of_rows(x: Nested, y: Nested) -> int:
    labels = list(y.values()) if isinstance(y, Mapping) else [y]
    rows = {array.shape[:1] for array in [*map(to_numpy, labels), *keras.tree.flatten(x)]}
    if len(rows) != 1 or () in rows:
        raise ValueError(
            "validation_data must have arrays with the same number of rows. "
            f"Received: rows={sorted(rows)}"
        )
    return int(rows.pop()[0])


def _check_tasks(tasks: Sequence[TaskName]) -> list[TaskName]:
    if isinstance(tasks, str) or not isinstance(tasks, Sequence):
        raise TypeError(f"tasks must be a sequence of names. Received: tasks={tasks!r}")
    return list(tasks)

"""A callback that logs the AUC within groups."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import keras
import numpy as np

from ple_keras._checks import check_by_task, check_int, check_known_value, short_repr
from ple_keras._keras.internals import functional_outputs
from ple_keras._keras.tensors import restored
from ple_keras._keras.walking import find_layers
from ple_keras._typing import GroupWeighting, Logs, Nested, TaskName, Tensor
from ple_keras.heads.binary_head import BinaryHead
from ple_keras.heads.head import Head
from ple_keras.heads.hedged_head import plain_head
from ple_keras.heads.product_head import ProductHead
from ple_keras.heads.task_heads import find_heads
from ple_keras.labels.alignment import check_shape, to_number_array
from ple_keras.labels.label_arrays import is_missing
from ple_keras.layers.gate import Gate
from ple_keras.metrics.array_metrics import WEIGHTINGS, GroupedLabels, group_indices

Labels = np.ndarray | dict[TaskName, np.ndarray]  # of the only task, or by task


class GroupedAUC(keras.callbacks.Callback):
    """Callback that logs the area under the ROC curve within groups, such as users or queries.

    After each epoch, it predicts the validation data and adds two keys to `logs` for each task,
    even if there is only one:

    - `val_{task}_gauc`: the mean AUC of the groups, see `grouped_auc`.
    - `val_{task}_gauc_share`: the share of the labeled rows in groups with both labels, 0 and 1.
      Only these count.

    The mean is NaN if no group has both labels. Gate statistics do not change. Callbacks that read
    the keys, such as EarlyStopping and ModelCheckpoint, must come later in the list.

    Masks of Keras have no effect, since `predict` returns none: give padded positions of sequences
    a missing label. If several processes train one model, the callback refuses to run, since each
    process could stop at another epoch. Call `grouped_auc` on predictions of one process instead.

    Args:
        validation_data: `(x, y)` or `(x, y, sample_weight)` of arrays, as for `fit`, with at least
            one row. y is a dict of labels 0 and 1 by task, or an array in a model with one task.
            A label that is NaN, or the head's `missing_label`, is left out. Sample weights are
            ignored, as by `metrics`.
        groups: The group of each row: an array of integers or strings.
        tasks: The names of the tasks; by default those of BinaryHeads and ProductHeads.
        batch_size: The number of rows per batch of predictions, 1024 by default.
        weighting: "rows" to weight a group by the number of its labeled rows, "equal" for equal
            weights.
        name: The end of the keys, in place of "gauc".

    Raises:
        TypeError: If an argument has a type that is not listed above.
        ValueError: If the arrays have no rows or different numbers of rows, a group is missing,
            `weighting` is unknown, or `tasks` is empty. In `fit`, if a task is unknown, has no
            labels or no single number as prediction, or a label is neither 0, 1 nor missing. Also
            if several processes train the model, or it does not return predictions by task. The
            latter is found after the first epoch for a model that is not Functional.

    Example:

    >>> heads = TaskHeads([BinaryHead("click"), BinaryHead("buy")])
    >>> inputs = keras.Input((2,))
    >>> model = MultiTaskModel(inputs, heads({"click": inputs, "buy": inputs}))
    >>> model.compile("adam")
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
        self._x, self._y = _unpack_arrays(validation_data)
        self._indices = group_indices(groups, _number_of_rows(self._x, self._y))
        if isinstance(tasks, str) or not isinstance(tasks, Sequence | None):
            raise TypeError(f"tasks must be a sequence of names. Received: tasks={tasks!r}")
        self.tasks = None if tasks is None else list(tasks)
        self.batch_size = 1024 if batch_size is None else check_int(batch_size, "batch_size", 1)
        self.weighting = check_known_value(weighting, WEIGHTINGS, "weighting")
        if not isinstance(name, str):
            raise TypeError(f"name must be a string. Received: name={name!r}")
        self.name = name

    def on_train_begin(self, logs: Logs = None) -> None:
        _check_one_process(self.model)
        heads = find_heads(self.model)
        self._num_heads = len(heads)
        labels = {task: self._labels_of(heads[task]) for task in self._checked_tasks(heads)}
        self._label_shapes = {task: of_task.shape for task, of_task in labels.items()}
        self._grouped_labels = {
            task: GroupedLabels(of_task.ravel(), self._indices, f"validation_data[1][{task!r}]")
            for task, of_task in labels.items()
        }
        outputs = functional_outputs(self.model)
        if outputs is not None:
            self._predictions_by_task(outputs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        logs = logs if logs is not None else {}
        model = self.model  # on JAX, access to self.model updates the variables
        with restored(_gate_statistics(model)):
            outputs = model.predict(self._x, batch_size=self.batch_size, verbose=0)
        predictions = self._predictions_by_task(outputs)
        for task, labels in self._grouped_labels.items():
            of_task = np.asarray(predictions[task], "float64").ravel()
            logs[f"val_{task}_{self.name}"] = labels.auc(of_task, self.weighting)
            logs[f"val_{task}_{self.name}_share"] = labels.share

    def _checked_tasks(self, heads: Mapping[TaskName, Head]) -> list[TaskName]:
        """Return the tasks, if the model has a head and `validation_data` has labels for each."""
        tasks = self.tasks
        if tasks is None:
            plain = {task: plain_head(head) for task, head in heads.items()}
            tasks = [t for t, head in plain.items() if isinstance(head, BinaryHead | ProductHead)]
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

    def _labels_of(self, head: Head) -> np.ndarray:
        """Return the labels of a task with NaN for missing labels."""
        labels = self._y[head.task] if isinstance(self._y, Mapping) else self._y
        return np.where(is_missing(labels, head.missing_label), np.nan, labels.astype("float64"))

    def _predictions_by_task(self, outputs: Nested) -> dict[TaskName, Any]:
        """Return the predictions of the tasks in the outputs; check that each label has one."""
        predictions = self._select_tasks(outputs)
        for task, of_task in predictions.items():
            shape = tuple(of_task.shape) if len(of_task.shape) > 1 else (*of_task.shape, 1)
            check_shape(self._label_shapes[task], shape, 1, f"validation_data[1][{task!r}]")
        return predictions

    def _select_tasks(self, outputs: Nested) -> dict[TaskName, Any]:
        tasks = list(self._label_shapes)
        if isinstance(outputs, Mapping):
            if all(task in outputs for task in tasks):
                return {task: outputs[task] for task in tasks}
        elif self._num_heads == 1 and len(leaves := keras.tree.flatten(outputs)) == 1:
            return dict.fromkeys(tasks, leaves[0])
        raise ValueError(
            f"model must return predictions by task, with the keys {tasks}, or the predictions "
            f"of its only task. Received: outputs={short_repr(outputs)}"
        )


def _unpack_arrays(validation_data: tuple[Nested, ...]) -> tuple[Any, Labels]:
    """Return x, and y as an array or arrays by task.

    Raises:
        TypeError: If they are not arrays, or the labels are not numbers.
    """
    parts = validation_data if isinstance(validation_data, tuple | list) else ()
    leaves = keras.tree.flatten(parts[:1])
    if len(parts) not in (2, 3) or not all(hasattr(leaf, "shape") for leaf in leaves):
        raise TypeError(
            "validation_data must be a tuple (x, y) or (x, y, sample_weight) of arrays. "
            f"Received: validation_data={short_repr(validation_data)}"
        )
    x, y = parts[:2]
    if isinstance(y, Mapping):
        return x, {t: to_number_array(of_t, f"validation_data[1][{t!r}]") for t, of_t in y.items()}
    if hasattr(y, "columns") and len(y.columns) > 1:
        check_by_task(y, list(y.columns), "validation_data[1]")  # refuses data frames
    return x, to_number_array(y, "validation_data[1]")


def _number_of_rows(x: Nested, y: Labels) -> int:
    """Return the number of rows of all arrays, if it is one number and not 0."""
    rows = {tuple(array.shape[:1]) for array in keras.tree.flatten((x, y))}
    if len(rows) != 1 or rows & {(), (0,)}:
        raise ValueError(
            "validation_data must have arrays with the same number of rows, at least 1. "
            f"Received: rows={sorted(rows)}"
        )
    return int(rows.pop()[0])


def _check_one_process(model: keras.Model) -> None:
    processes = _number_of_processes(model)
    if processes > 1:
        raise ValueError(
            "GroupedAUC must run in one process. With several, logs that differ would stop them at "
            "different epochs. Call grouped_auc(labels, predictions, groups) on predictions of one "
            f"process instead. Received: processes={processes}"
        )


def _number_of_processes(model: keras.Model) -> int:
    """Return the number of processes that train the model together."""
    backend: Any = import_module(keras.backend.backend())
    if keras.backend.backend() == "jax":
        return int(backend.process_count())
    if keras.backend.backend() == "torch":
        group = backend.distributed
        is_group = group.is_available() and group.is_initialized()
        return int(group.get_world_size()) if is_group else 1
    resolver = model.distribute_strategy.cluster_resolver
    jobs = resolver.cluster_spec().as_dict() if resolver else {}
    return sum(len(jobs.get(job, ())) for job in ("chief", "worker"))


def _gate_statistics(model: keras.Layer) -> list[keras.Variable]:
    """Return the variables with the statistics of all gates."""
    gates = [gate for gate in find_layers(model, Gate) if gate.track_weights and gate.built]
    return [gate._sums for gate in gates]

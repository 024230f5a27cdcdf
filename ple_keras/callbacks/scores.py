"""Callbacks that log scores for early stopping and checkpoints."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from ple_keras._checks import check_known_value, check_number, short_repr
from ple_keras._keras.batches import DEFAULT_SIZE, Batches
from ple_keras._typing import GroupWeighting, Logs, Nested, TaskName, Tensor
from ple_keras.heads.binary_heads import ProbabilityHead
from ple_keras.heads.task_heads import find_heads
from ple_keras.labels.label_arrays import task_labels
from ple_keras.metrics.array_metrics import WEIGHTINGS, auc_and_share, check_binary, group_indices


class MultiTaskScore(keras.callbacks.Callback):
    """Callback that logs a weighted sum of metrics, as a score for early stopping and checkpoints.

    Higher is better: use a negative weight for a metric to minimize, such as an RMSE. In the list
    of callbacks, it must come before the callbacks that monitor the score. Epochs without
    validation have no score.

    The score is NaN if a metric is NaN, such as the AUC of a task without a positive or a negative
    label in the validation data. EarlyStopping and ModelCheckpoint do not treat NaN as an
    improvement, except in the first epoch, where it counts as the best value: training then stops
    after `patience` epochs.

    Args:
        weights: `{key of logs: weight}`, with finite weights.
        name: The key of the score in `logs`.

    Raises:
        TypeError: If `weights` is not a dict of numbers, or is empty.
        ValueError: If a weight is not finite. In `fit`, if `logs` lacks a key.

    Example:

    >>> score = MultiTaskScore({"val_click_auc": +1, "val_watch_time_rmse": -0.5})
    >>> stop = keras.callbacks.EarlyStopping(monitor="val_mtl_score", mode="max", patience=3)
    >>> callbacks = [score, stop]
    """

    def __init__(self, weights: Mapping[str, float], name: str = "val_mtl_score") -> None:
        super().__init__()
        if not isinstance(weights, Mapping) or not weights:
            raise TypeError(f"weights must be a dict of at least one metric. Received: {weights=}")
        self.weights = {key: check_number(w, f"weights[{key!r}]") for key, w in weights.items()}
        self.name = name

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        missing = [key for key in self.weights if key not in logs]
        # GroupedAUC logs `val_` keys even without validation.
        if "val_loss" not in logs and any(key.startswith("val_") for key in missing):
            return
        if missing:
            raise ValueError(
                f"weights must have keys of the logs, {sorted(logs)}. Received: weights={missing}"
            )
        logs[self.name] = sum(weight * float(logs[key]) for key, weight in self.weights.items())


class GroupedAUC(keras.callbacks.Callback):
    """Callback that logs the area under the ROC curve within groups, such as users or queries.

    After each epoch, it predicts the validation data and adds two keys to `logs` for each task,
    even if there is only one:

    - `val_{task}_gauc`: the mean AUC of the groups (see `grouped_auc`).
    - `val_{task}_gauc_share`: the share of the labeled rows in groups with both labels, 0 and 1,
      which are the only rows that count.

    The mean is NaN if no group has both labels. Callbacks that read the keys, such as EarlyStopping
    and ModelCheckpoint, must come later in the list. A GateWeightsLogger must come earlier if `fit`
    has no validation data, since the predictions count in its statistics.

    Keras masks have no effect, since `predict` does not return them: use missing labels for padded
    positions of sequences. If several processes train one model, each needs the same rows, since
    different logs could stop it at a different epoch.

    Args:
        validation_data: `(x, y)` or `(x, y, sample_weight)` of arrays, as for `fit`, with at least
            one row. y is a dict of labels 0 and 1 keyed by task, or an array in a model with one
            task. Labels that are NaN or the head's `missing_label` are ignored, and so are sample
            weights, as for `metrics`.
        groups: The group of each row: an array of integers or strings.
        tasks: The names of the tasks; by default all tasks of BinaryHeads and ProductHeads.
        batch_size: The number of rows per batch of predictions; by default 1024.
        weighting: "rows" to weight a group by the number of its labeled rows, or "equal" for equal
            weights.
        name: The end of the keys, instead of "gauc".

    Raises:
        TypeError: If an argument has a type that is not listed above.
        ValueError: If the arrays have no rows or different numbers of rows, or `weighting` is
            unknown. In `fit`, if `tasks` is empty, a task is unknown, has no labels or predicts
            several numbers, or a label is not 0, 1 or missing.

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
        if not isinstance(validation_data, tuple) or len(validation_data) not in (2, 3):
            raise TypeError(
                "validation_data must be a tuple (x, y) or (x, y, sample_weight) of arrays. "
                f"Received: validation_data={short_repr(validation_data)}"
            )
        self._x, self._y = validation_data[:2]
        self._groups = group_indices(groups, Batches(self._x, self._y, batch_size).rows)
        self.tasks = None if tasks is None else list(tasks)
        self.batch_size = DEFAULT_SIZE if batch_size is None else batch_size
        self.weighting = check_known_value(weighting, WEIGHTINGS, "weighting")
        self.name = name

    def on_train_begin(self, logs: Logs = None) -> None:
        if self.model.built:
            self._labels_by_task()  # raises errors before the training

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        predictions = self.model.predict(self._x, batch_size=self.batch_size, verbose=0)
        for task, labels in self._labels_by_task().items():
            scores = np.float64(predictions[task]).ravel()
            auc, share = auc_and_share(labels, scores, self._groups, self.weighting)
            logs[f"val_{task}_{self.name}"] = auc
            logs[f"val_{task}_{self.name}_share"] = share

    def _labels_by_task(self) -> dict[TaskName, np.ndarray]:
        """Return the flattened labels of each task, with NaN for missing ones."""
        heads = find_heads(self.model)
        default = [t for t, head in heads.items() if isinstance(head, ProbabilityHead)]
        tasks = default if self.tasks is None else self.tasks
        known = [task for task, head in heads.items() if head.units == 1]
        if not tasks or not set(tasks) <= set(known):
            raise ValueError(
                f"tasks must be tasks of heads that predict one number, {known}; by default those "
                f"of BinaryHeads and ProductHeads. Received: tasks={self.tasks!r}"
            )
        labels, by_task = task_labels(self._y, tasks), {}
        for task in tasks:
            present, is_labeled = heads[task]._present_labels(labels[task])
            check_binary(present.ravel(), f"validation_data[1][{task!r}]")
            by_task[task] = np.full(is_labeled.size, np.nan)
            by_task[task][is_labeled.ravel()] = present.ravel()
        return by_task

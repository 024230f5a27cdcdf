"""The metrics of the tasks of a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from ple_keras._checks import warn_user
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import TaskName, Tensor
from ple_keras.heads.hedged_head import plain_head
from ple_keras.heads.task_heads import TaskHeads
from ple_keras.losses.reduction import BatchLoss
from ple_keras.metrics.logit_auc import LogitAUC


class TaskMeans(keras.Metric):
    """The means of the losses of all tasks over an epoch, as one metric with vectors.

    Of each task, one mean is that of the losses of batches, weighted by their numbers of rows, as
    Keras's `loss`, and one that of the losses of labeled examples. Both are NaN without a label.

    Args:
        batch_keys: The key of the first mean of each task in logs.
        example_keys: The key of the second mean; None for none.
    """

    def __init__(self, batch_keys: Sequence[str], example_keys: Sequence[str | None]) -> None:
        super().__init__(name="task_means")
        self._keys = (tuple(batch_keys), tuple(example_keys))
        # By task: losses times rows, losses of examples, labeled examples.
        self._sums = self.add_variable((3, len(batch_keys)), "zeros", "float32", name="sums")
        self._rows = self.add_variable((), "zeros", "float32", name="rows")

    def update_state(self, losses: Sequence[BatchLoss]) -> None:
        """Add the losses of a batch, one for each task."""
        values, totals, counts = (
            [getattr(batch, name) for batch in losses] for name in ("value", "total", "count")
        )
        rows = ops.shape(losses[0].labeled.predictions)[0]
        sums = ops.stack([ops.cast(x, "float32") for x in (*values, *totals, *counts)])
        sums = ops.reshape(ops.stop_gradient(sums), (3, -1))
        scale = ops.cast(ops.stack([rows, 1, 1]), "float32")
        self._sums.assign_add(sums * ops.expand_dims(scale, -1))
        self._rows.assign_add(ops.cast(rows, "float32"))

    def counts(self) -> Tensor:
        """Return the numbers of labeled examples of all tasks."""
        return ops.convert_to_tensor(self._sums)[2]

    def result(self) -> dict[str, Tensor]:
        losses, totals, counts = ops.unstack(ops.convert_to_tensor(self._sums), 3)
        rows = ops.maximum(self._rows, 1.0)
        means = ops.stack([losses / rows, totals / ops.maximum(counts, 1.0)])
        means = ops.unstack(ops.where(counts > 0, means, float("nan")), 2)
        logs: dict[str | None, Any] = {}
        for keys, of_tasks in zip(self._keys, means):
            logs.update(zip(keys, ops.unstack(of_tasks, len(keys))))
        return {key: value for key, value in logs.items() if key is not None}


class TaskMetrics:
    """New metrics of the heads of a model, and what they have seen since the last reset.

    The keys of logs begin with the task, if there are several.

    Args:
        heads: The heads.

    Attributes:
        heads: The heads.
        all: All metrics.
        built: Whether they have been updated, if only with symbolic tensors.

    Raises:
        TypeError: If a metric can't be copied.
    """

    def __init__(self, heads: TaskHeads) -> None:
        self.heads = heads
        self._plain_heads = [plain_head(head) for head in heads.values() if head.has_loss]
        self._by_task: dict[TaskName, list[keras.Metric]] = {}
        loss_keys: list[str | None] = []
        for head in self._plain_heads:
            prefix = f"{head.task}_" if len(heads) > 1 else ""
            loss_keys.append(f"{prefix}{head._loss_name()}" if head._logs_loss_mean() else None)
            self._by_task[head.task] = head._new_metrics(prefix)
        self._means = TaskMeans([f"{task}_loss" for task in self._by_task], loss_keys)
        self._warned: set[TaskName] = set()
        self.built = False
        self.all = [self._means, *(m for metrics in self._by_task.values() for m in metrics)]

    def update(self, losses: Mapping[TaskName, BatchLoss]) -> None:
        """Update all metrics with a batch."""
        self._means.update_state(list(losses.values()))
        for head in self._plain_heads:
            labeled = losses[head.task].labeled
            labeled = labeled._replace(predictions=ops.stop_gradient(labeled.predictions))
            for metric in self._by_task[head.task]:
                head._update_metric(metric, labeled)
        self.built = True

    def mark_unlabeled(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Return logs in which the metrics of tasks without a label are NaN."""
        marked = dict(logs)
        for task, metrics in enumerate(self._by_task.values()):
            for metric in metrics:
                if metric.name in logs and not isinstance(metric, LogitAUC):  # which is NaN itself
                    result = logs[metric.name]
                    is_labeled = self._means.counts()[task] > 0
                    marked[metric.name] = ops.where(is_labeled, result, float("nan"))
        return marked

    def warn_of_nan(self) -> None:
        """Warn once of each task without a label."""
        try:
            counts = to_numpy(self._means.counts())
        except (TypeError, NotImplementedError):  # a trace has no values
            return
        for task, count in zip(self._by_task, counts):
            if count == 0 and task not in self._warned:
                self._warned.add(task)
                warn_user(
                    f"The task {task!r} has no label in these data, so its metrics are NaN. For "
                    "EarlyStopping and ModelCheckpoint, NaN is no improvement, and nothing "
                    "improves on NaN in the first epoch."
                )

"""The metrics of a model that is trained by its heads."""

import math
from collections.abc import Mapping, Sequence

import keras
from keras import ops

from ple_keras._keras.tensors import clip, fill, to_numpy
from ple_keras._typing import TaskName, Tensor
from ple_keras.heads.task_heads import TaskHeads
from ple_keras.losses.example_losses import BatchLoss


class TaskMeans(keras.Metric):
    """The mean losses of all tasks over an epoch, as one metric with vectors.

    Each task has a mean of batch losses, weighted by the numbers of rows like Keras's `loss`, and a
    mean of the losses of labeled examples. Both are NaN without a label.

    Args:
        batch_keys: The key of the first mean of each task in logs.
        example_keys: The key of the second mean; None to omit it.
    """

    def __init__(self, batch_keys: Sequence[str], example_keys: Sequence[str | None]) -> None:
        super().__init__(name="task_means")
        self._keys = (tuple(batch_keys), tuple(example_keys))
        # Per task: losses times rows, losses of examples, labeled examples.
        self._sums = self.add_variable((3, len(batch_keys)), "zeros", "float32", name="sums")
        self._rows = self.add_variable((), "zeros", "float32", name="rows")

    def update_state(self, losses: Sequence[BatchLoss]) -> None:
        """Add the losses of a batch, one for each task."""
        numbers = [getattr(x, name) for name in ("value", "total", "count") for x in losses]
        rows = ops.shape(losses[0].labeled.predictions)[0]
        rows = ops.cast(rows, "float32") if ops.is_tensor(rows) else rows
        sums = ops.stack([ops.cast(number, "float32") for number in numbers])
        sums = ops.reshape(ops.stop_gradient(sums), (3, -1))
        self._sums.assign_add(ops.concatenate([sums[:1] * rows, sums[1:]]))
        self._rows.assign(ops.convert_to_tensor(self._rows) + rows)

    def counts(self) -> Tensor:
        """Return the number of labeled examples of each task."""
        return ops.convert_to_tensor(self._sums)[2]

    def result(self) -> dict[str, Tensor]:
        losses, totals, counts = ops.unstack(ops.convert_to_tensor(self._sums), 3)
        rows = clip(ops.convert_to_tensor(self._rows), low=1)
        means = ops.stack([losses / rows, totals / clip(counts, low=1)])
        means = ops.unstack(fill(means, counts == 0, math.nan), 2)
        logs: dict[str | None, Tensor] = {}
        for keys, values in zip(self._keys, means):
            logs.update(zip(keys, ops.unstack(values, len(keys))))
        return {key: value for key, value in logs.items() if key is not None}


class TaskMetrics:
    """New metrics of the heads of a model, with their state since the last reset.

    Keys of logs start with the task, if there are several tasks.

    Args:
        heads: The heads.

    Attributes:
        heads: The heads.
        all: All metrics.
        built: Whether they have been updated, even if only with symbolic tensors.

    Raises:
        TypeError: If a metric can't be copied.
    """

    def __init__(self, heads: TaskHeads) -> None:
        self.heads = heads
        self._by_task: dict[TaskName, list[keras.Metric]] = {}
        loss_keys: list[str | None] = []
        for head in heads._trained_heads().values():
            prefix = f"{head.task}_" if len(heads) > 1 else ""
            loss_keys.append(f"{prefix}{head._loss_name()}" if head._logs_loss_mean() else None)
            self._by_task[head.task] = head._new_metrics(prefix)
        metrics = [metric for metrics in self._by_task.values() for metric in metrics]
        batch_keys = [f"{task}_loss" for task in self._by_task]
        self._means = TaskMeans(batch_keys, loss_keys)
        self.built = False
        self.all = [self._means, *metrics]

    def update(self, losses: Mapping[TaskName, BatchLoss]) -> None:
        """Update all metrics with a batch."""
        self._means.update_state(list(losses.values()))
        for head in self.heads._trained_heads().values():
            labeled = losses[head.task].labeled
            labeled = labeled._replace(predictions=ops.stop_gradient(labeled.predictions))
            for metric in self._by_task[head.task]:
                head._update_metric(metric, labeled)
        self.built = True

    def mark_unlabeled(self, logs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return logs in which the metrics of tasks without a label are NaN."""
        marked = dict(logs)
        for task, metrics in enumerate(self._by_task.values()):
            for metric in metrics:
                if metric.name in logs:
                    value = ops.convert_to_tensor(logs[metric.name])
                    marked[metric.name] = fill(value, self._means.counts()[task] == 0, math.nan)
        return marked

    def unlabeled_tasks(self) -> list[TaskName]:
        """Return the trained tasks without a label; none in a trace, which has no values."""
        try:
            counts = to_numpy(self._means.counts())
        except (TypeError, NotImplementedError):
            return []
        pairs = zip(self._by_task, counts)
        return [task for task, count in pairs if not count and self.heads[task].loss_weight]

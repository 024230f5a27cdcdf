"""The metrics of a model that is trained by its heads."""

import math
from collections.abc import Mapping, Sequence

import keras
from keras import ops

from ple_keras._keras.tensors import add_to_segments, clip, fill, to_numpy
from ple_keras._typing import TaskName, Tensor
from ple_keras.heads.head import Head
from ple_keras.heads.task_heads import TaskHeads
from ple_keras.labels.sample_space import LabeledExamples
from ple_keras.losses.example_losses import BatchLoss
from ple_keras.metrics.masked_metric import new_metric
from ple_keras.metrics.sums import NUM_BINS, LogitAUC, areas, counts_by_logit

MAX_COUNTS = 2**18  # the largest size of the histograms of all targets


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
        # Keyed by task: losses times rows, losses of examples, labeled examples.
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


class TaskAUCs(keras.Metric):
    """The default AUCs of several heads over an epoch, from the histograms of all their targets.

    The AUC of a head is the mean of the areas of the targets that have both labels. Counts of
    labels 0 and 1 are exact below 2^24, the limit of float32.

    Args:
        heads: The heads, by the key of the AUC in logs.
    """

    def __init__(self, heads: Mapping[str, Head]) -> None:
        super().__init__(name="task_aucs")
        self._keys, self._tasks = [*heads], [head.task for head in heads.values()]
        self._units = [head.units for head in heads.values()]
        self._num_bins = min(NUM_BINS, MAX_COUNTS // (2 * sum(self._units)))
        shape = (2 * self._num_bins * sum(self._units),)
        self._counts = self.add_variable(shape, "zeros", self.dtype, name="counts")

    def update_state(self, labeled: Mapping[TaskName, LabeledExamples]) -> None:
        """Add the labeled examples of a batch, whose predictions have no gradient."""
        examples = [labeled[task] for task in self._tasks]
        have_positions = any(len(each.predictions.shape) > 2 for each in examples)
        groups = [[each] for each in examples] if have_positions else [examples]
        start, found = 0, []
        for group in groups:
            columns = [self._columns(each) for each in group]
            y_true, y_pred, missing = (ops.concatenate(each, axis=-1) for each in zip(*columns))
            weights = ops.cast(ops.logical_not(missing), self.dtype)
            counts, positions = counts_by_logit(y_true, y_pred, weights, self._num_bins)
            found.append((counts, positions + start))
            start += 2 * self._num_bins * y_pred.shape[-1]
        counts, positions = (ops.concatenate(each) for each in zip(*found))
        sums = ops.convert_to_tensor(self._counts)
        self._counts.assign(add_to_segments(sums, counts, positions))

    def _columns(self, labeled: LabeledExamples) -> list[Tensor]:
        """Return labels, predictions, and which labels are missing, `(examples, targets)`."""
        predictions, missing = labeled.predictions, labeled.missing
        missing = ops.zeros_like(predictions, "bool") if missing is None else missing
        columns = [ops.cast(x, self.dtype) for x in (labeled.labels, predictions)] + [missing]
        if len(predictions.shape) > 2:
            columns = [ops.reshape(x, (-1, predictions.shape[-1])) for x in columns]
        return columns

    def result(self) -> dict[str, Tensor]:
        found, pairs = areas(ops.convert_to_tensor(self._counts), sum(self._units))
        if len(self._keys) == sum(self._units):
            return dict(zip(self._keys, ops.unstack(found, len(self._keys))))
        logs, start = {}, 0
        for key, units in zip(self._keys, self._units):
            values, is_unknown = (x[start : start + units] for x in (found, pairs == 0))
            known = ops.sum(ops.cast(ops.logical_not(is_unknown), values.dtype))
            logs[key] = ops.sum(fill(values, is_unknown, 0)) / fill(known, known == 0, math.nan)
            start += units
        return logs


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
        with_auc: dict[str, Head] = {}  # the heads with a default AUC, by its key
        for task, head in heads._trained_heads().items():
            prefix = f"{task}_" if len(heads) > 1 else ""
            loss_keys.append(f"{prefix}{head._loss_name()}" if head._logs_loss_mean() else None)
            self._by_task[task] = []
            for name, template, is_default in head._named_metrics():
                if is_default and isinstance(template, LogitAUC):
                    with_auc[prefix + name] = head
                else:
                    self._by_task[task].append(new_metric(template, prefix + name))
        self._aucs = [TaskAUCs(with_auc)] if with_auc else []
        metrics = [metric for metrics in self._by_task.values() for metric in metrics]
        batch_keys = [f"{task}_loss" for task in self._by_task]
        self._means = TaskMeans(batch_keys, loss_keys)
        self.built = False
        self.all = [self._means, *self._aucs, *metrics]

    def update(self, losses: Mapping[TaskName, BatchLoss]) -> None:
        """Update all metrics with a batch."""
        self._means.update_state(list(losses.values()))
        labeled = {}
        for task, loss in losses.items():
            predictions = ops.stop_gradient(loss.labeled.predictions)
            labeled[task] = loss.labeled._replace(predictions=predictions)
            for metric in self._by_task[task]:
                self.heads[task]._update_metric(metric, labeled[task])
        for aucs in self._aucs:
            aucs.update_state(labeled)
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

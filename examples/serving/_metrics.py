"""Counts of the service, for Prometheus with alerts.yml, and for `drift`."""

import logging
from collections import Counter

import numpy as np
import prometheus_client as prometheus
from serving.drift import count_values
from serving.model_folder import GATE

MAX_VERSIONS = 10  # whose counts are kept

log = logging.getLogger("uvicorn.error")


class Metrics:
    """Counts of requests, and by version of the model, of rows, predictions and gate weights.

    A Prometheus counter can't decrease, but the sum of a regression's predictions can. So positive
    and negative predictions have separate sums, which alerts.yml subtracts. Predictions that are
    not finite are counted separately, and are not in the sums.

    Attributes:
        counts: The counts of the last versions, as `drift` reads them.
    """

    def __init__(self, model):
        self.registry = prometheus.CollectorRegistry()
        self.counts = {}
        keep = {"registry": self.registry}

        def counter(name, text, *labels):
            return prometheus.Counter(name, text, labels, **keep)

        self.requests = counter("requests", "Prediction requests by status", "status")
        self.seconds = prometheus.Histogram("request_seconds", "Time of answered requests", **keep)
        self.rows = counter("rows", "Predicted rows", "model")
        self.batch_rows = prometheus.Histogram(
            "batch_rows", "Rows per batch", buckets=[2**k for k in range(11)], **keep
        )
        self.is_newest = prometheus.Gauge("model_is_newest", "0 if the newest was refused", **keep)
        self.values = counter("column_rows", "Rows by kind of value", "model", "column", "values")
        self.predictions = counter("predictions", "Finite predictions", "model", "task")
        self.not_finite = counter("predictions_not_finite", "NaN or infinite predictions", "task")
        self.sums = counter("prediction_sum", "Sum of absolute values", "model", "task", "sign")
        self.gates = counter("gate_weight_sum", "Sum of gate weights", "model", "gate", "expert")
        self._version = model.version
        for task, width in model.widths.items():  # rates need a first value
            self._count_predictions(model.version, task, np.zeros((0, width)))

    def count(self, version, inputs, outputs):
        """Count a batch. Its requests are already answered, so an error here affects none of them.

        The first batch of a model removes the figures of the previous one, except from `counts`.
        """
        try:
            if version != self._version:
                for each in (self.rows, self.values, self.predictions, self.sums, self.gates):
                    each.clear()
                self._version = version
            tasks = {task: each for task, each in outputs.items() if not task.startswith(GATE)}
            counts = count_values(inputs, predictions=tasks)
            self.counts.setdefault(version, Counter()).update(counts)
            while len(self.counts) > MAX_VERSIONS:
                del self.counts[next(iter(self.counts))]
            self.rows.labels(version).inc(counts["rows"])
            self.batch_rows.observe(counts["rows"])
            for name, count in counts.items():
                if name != "rows" and np.ndim(count) == 0:
                    self.values.labels(version, *name.rsplit(", ", 1)).inc(count)
            for name, values in outputs.items():
                if name.startswith(GATE):
                    self._count_weights(version, name.removeprefix(GATE), values)
                else:
                    self._count_predictions(version, name, values)
        except Exception:
            log.exception("A batch was not counted")

    def _count_predictions(self, version, task, values):
        """Count the predictions of a task, or of each class of a multiclass task."""
        for place, column in enumerate(values.T.astype("float64")):
            name = task if values.shape[1] == 1 else f"{task}/{place}"
            finite = column[np.isfinite(column)]
            self.predictions.labels(version, name).inc(finite.size)
            self.not_finite.labels(name).inc(column.size - finite.size)
            self.sums.labels(version, name, "positive").inc(finite[finite > 0].sum())
            self.sums.labels(version, name, "negative").inc(-finite[finite < 0].sum())

    def _count_weights(self, version, gate, values):
        totals = values[np.isfinite(values).all(axis=1)].sum(axis=0, dtype="float64")
        for expert, total in enumerate(totals):
            self.gates.labels(version, gate, expert).inc(total)

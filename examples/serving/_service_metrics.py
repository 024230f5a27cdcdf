"""What Prometheus reads. alerts.yml has the alarms."""

import logging

import numpy as np
import prometheus_client as prometheus
from _model_folder import CATEGORIES, GATE, TASKS, UNKNOWN

log = logging.getLogger("uvicorn.error")


class Metrics:
    """Counts of requests, rows, predictions and gate weights.

    A Prometheus counter may not fall, but a sum of predictions may, for a regression. So positive
    and negative predictions have a sum each, and alerts.yml subtracts them. A prediction that is
    not finite has a count of its own, and is in no sum.
    """

    def __init__(self):
        self.registry = prometheus.CollectorRegistry()
        keep = {"registry": self.registry}

        def counter(name, text, *labels):
            return prometheus.Counter(name, text, labels, **keep)

        self.requests = counter("requests", "Requests of predictions by status", "status")
        self.seconds = prometheus.Histogram("request_seconds", "Time of good requests", **keep)
        self.rows = counter("rows", "Predicted rows")
        self.batch_rows = prometheus.Histogram(
            "batch_rows", "Rows of a batch", buckets=[2**k for k in range(11)], **keep
        )
        self.is_newest = prometheus.Gauge("model_is_newest", "0: the newest was refused", **keep)
        self.unknown = counter("unknown_categories", "Categories unknown in training", "column")
        self.predictions = counter("predictions", "Finite predictions", "task")
        self.not_finite = counter("predictions_not_finite", "Other predictions", "task")
        self.sums = counter("prediction_sum", "Sum of absolute values", "task", "sign")
        self.gates = counter("gate_weight_sum", "Sum of gate weights", "model", "gate", "expert")
        self._version = None
        for task in TASKS:  # rates need a first value
            self._count_predictions(task, np.zeros(0))

    def count(self, version, inputs, outputs):
        """Count a batch. The requests were answered before, so that an error here fails none.

        The first batch of a new model removes the gate weights of the one before.
        """
        try:
            if version != self._version:
                self.gates.clear()
                self._version = version
            self.rows.inc(len(inputs[CATEGORIES[0]]))
            self.batch_rows.observe(len(inputs[CATEGORIES[0]]))
            for name in CATEGORIES:
                self.unknown.labels(name).inc(np.count_nonzero(inputs[name] == UNKNOWN))
            for name, values in outputs.items():
                if name.startswith(GATE):
                    self._count_weights(version, name.removeprefix(GATE), values)
                else:
                    self._count_predictions(name, values)
        except Exception:
            log.exception("A batch was not counted")

    def _count_predictions(self, task, values):
        finite = values[np.isfinite(values)].astype("float64")
        self.predictions.labels(task).inc(finite.size)
        self.not_finite.labels(task).inc(values.size - finite.size)
        self.sums.labels(task, "positive").inc(finite[finite > 0].sum())
        self.sums.labels(task, "negative").inc(-finite[finite < 0].sum())

    def _count_weights(self, version, gate, values):
        totals = values[np.isfinite(values).all(axis=1)].sum(axis=0, dtype="float64")
        for expert, total in enumerate(totals):
            self.gates.labels(version, gate, expert).inc(total)

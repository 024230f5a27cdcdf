"""A callback that logs statistics of gates."""

import csv
import math
from os import PathLike
from pathlib import Path

import keras
import numpy as np

from ple_keras._keras.processes import sum_over_processes
from ple_keras._typing import Logs
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.levels import find_levels

# Keyed by level and gate: the sums of expert weights, entropy and largest weight; the count.
Sums = dict[tuple[str, str], np.ndarray]


class GateWeightsLogger(keras.callbacks.Callback):
    """Callback that logs statistics of the gates at the end of each epoch.

    It logs these keys for each gate of each block with `enable_gate_weights_metrics=True`, over all
    examples of the epoch:

    - `gate/{level}/{gate}/{expert}`: the mean weight of the expert.
    - `gate/{level}/{gate}/entropy`: the mean entropy divided by its maximum, from 0 to 1.
    - `gate/{level}/{gate}/max`: the mean of the largest weight. Near 1, the gate uses one expert
      per example, which mean weights do not show.

    Keys for validation data start with `val_`. The level is `{name of the PLEBlock}/{index}`, as
    in `gate/ple/0/click/shared/expert_1`, or the name of a block outside of a SequentialBlock. As
    for a training loss, the model changes while training statistics are averaged.

    History and `plot_gate_history` use all keys. CSVLogger, TensorBoard, ModelCheckpoint and
    EarlyStopping use them if they come later in the list of callbacks. The progress bar prints them
    unless a ProgbarLogger comes first in the list. Other runs of the model in an epoch, such as
    `predict` or `evaluate` in a callback, also count. Outside of `fit`, use `gate_report`.

    If several processes train one model, all log the same statistics, over the examples of all
    processes. Pass the logger in every process, since each waits for the others at the end of an
    epoch, but pass `path` in only one process.

    Args:
        path: A CSV file for the statistics, with one line per epoch; None for no file. A run that
            continues at a later `initial_epoch` keeps the lines of earlier epochs.

    Raises:
        TypeError: If `path` is not a path.
        ValueError: In `fit`, if no gate of the model keeps statistics, or `path` is not a file in
            an existing folder.

    Example:

    >>> ple = PLEBlock(2, ["click", "buy"], [8], enable_gate_weights_metrics=True, name="ple")
    >>> inputs = keras.Input((3,))
    >>> model = keras.Model(inputs, ple(inputs))
    >>> model.compile("adam", {"click": "mse", "buy": "mse"})
    >>> callbacks = [  # no gates in the progress bar; stop if the gate of click collapses
    ...     keras.callbacks.ProgbarLogger(),
    ...     GateWeightsLogger(),
    ...     keras.callbacks.EarlyStopping("gate/ple/0/click/max", baseline=0.95, mode="min"),
    ... ]
    >>> x, y = np.ones((4, 3)), np.ones((4, 8))
    >>> history = model.fit(x, {"click": y, "buy": y}, callbacks=callbacks, verbose=0).history
    >>> [key.removeprefix("gate/ple/1/buy/") for key in history if "gate/ple/1/buy/" in key]
    ['buy/expert_0', 'shared/expert_0', 'entropy', 'max']
    """

    def __init__(self, path: str | PathLike[str] | None = None) -> None:
        super().__init__()
        self.path = None if path is None else Path(path)
        self._training: Sums | None = None
        self._validation: Sums | None = None

    def on_train_begin(self, logs: Logs = None) -> None:
        if self.path and (not self.path.parent.is_dir() or self.path.is_dir()):
            raise ValueError(f"path must be a file in a folder. Received: path={self.path}")
        self._levels()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._training = self._validation = None
        self._reset()

    def on_test_begin(self, logs: Logs = None) -> None:
        self._training = self._sums()
        self._reset()

    def on_test_end(self, logs: Logs = None) -> None:
        self._validation = self._sums()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        figures = self._figures()
        for key, value in figures.items():
            logs.setdefault(key, value)  # an earlier logger has reset the statistics
        if self.path:
            _write_row(self.path, epoch, {key: logs[key] for key in figures})

    def _levels(self) -> dict[str, CGCBlock]:
        """Return the levels with statistics. On JAX, access to self.model updates variables."""
        found = find_levels(self.model).items()
        levels = {key: block for key, block in found if block.enable_gate_weights_metrics}
        # TensorFlow builds an unbuilt model only in its first step.
        if not levels and self.model.built:
            raise ValueError(
                f"model must have enable_gate_weights_metrics=True. Received: model={self.model!r}"
            )
        return levels

    def _reset(self) -> None:
        for block in self._levels().values():
            block.reset_gate_statistics()

    def _sums(self) -> Sums:
        """Return the statistics of each gate in this process, times the count, and the count."""
        sums = {}
        for level, block in self._levels().items():
            for gate, found in block.gate_statistics().items():
                means, count = [*found["mean"], found["entropy"], found["max"]], found["count"]
                sums[level, gate] = np.append(np.nan_to_num(means) * count, count)
        return sums

    def _figures(self) -> dict[str, float]:
        """Return the figures of the epoch over all processes, which wait for each other here."""
        training = self._training or self._sums()
        validation = self._validation or {gate: 0 * sums for gate, sums in training.items()}
        levels, figures = self._levels(), {}
        for prefix, by_gate in (("gate", training), ("val_gate", validation)):
            for (level, gate), of_process in by_gate.items():
                sums = sum_over_processes(of_process)
                if prefix == "val_gate" and self._validation is None and not sums[-1]:
                    continue
                names = [*levels[level].gate_experts[gate], "entropy", "max"]
                for name, mean in zip(names, sums[:-1] / (sums[-1] or math.nan), strict=True):
                    figures[f"{prefix}/{level}/{gate}/{name}"] = float(mean)
        return figures


def _write_row(path: Path, epoch: int, figures: dict[str, float]) -> None:
    """Write the whole file, since validation can add columns that earlier epochs lack."""
    rows: list[dict[str, object]] = []
    if path.exists():
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < epoch]
    rows.append({"epoch": epoch, **figures})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, dict.fromkeys(key for row in rows for key in row))
        writer.writeheader()
        writer.writerows(rows)

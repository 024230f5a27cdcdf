"""A callback that logs statistics of gates."""

import csv
import math
from os import PathLike
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ple_keras._typing import Logs
from ple_keras.inspection.levels import find_levels
from ple_keras.layers.cgc_block import CGCBlock

Figures = dict[str, float]


class GateWeightsLogger(keras.callbacks.Callback):
    """Callback that logs statistics of the gates at the end of each epoch.

    It logs these keys for each gate of each block with `enable_gate_weights_metrics=True`, exactly
    over the examples of the epoch:

    - `gate/{level}/{gate}/{expert}`: the mean weight of the expert.
    - `gate/{level}/{gate}/entropy`: the mean entropy divided by that of uniform weights, 0 to 1.
    - `gate/{level}/{gate}/max`: the mean of the largest weight. Near 1, the gate uses one expert
      per example, which mean weights do not show.

    Keys for validation data start with `val_`. The level is `{name of the PLEBlock}/{index}`, as
    in `gate/ple/0/click/shared/expert_1`, or the name of a block outside of a SequentialBlock. As
    for a training loss, the model changes while training statistics are averaged.

    History and `plot_gate_history` have all keys. CSVLogger, TensorBoard, ModelCheckpoint and
    EarlyStopping have them if they come later in the list of callbacks. The progress bar prints
    them unless a ProgbarLogger comes first in the list. Other runs of the model in an epoch count
    too, such as `predict` or `evaluate` in a callback, but not those of `GroupedAUC`. Outside of
    `fit`, use `gate_report`.

    If several processes train one model, the statistics cover the examples of all processes and
    are equal in all. Pass the logger in every process, since each waits for the others at the end
    of an epoch. Pass `path` in only one process.

    Args:
        path: A CSV file for the statistics, with one line per epoch; None for no file. A run that
            continues at a later `initial_epoch` keeps the lines of earlier epochs.

    Raises:
        TypeError: If `path` is not a path.
        ValueError: In `fit`, if no gate of the model has statistics, the folder of `path` does not
            exist, or `path` is something other than a file of this callback.

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
        try:
            self.path = None if path is None else Path(path)
        except TypeError as error:
            raise TypeError(f"path must be a path or None. Received: path={path!r}") from error
        self._rows: dict[int, Figures] = {}
        self._training: np.ndarray | None = None
        self._validation: np.ndarray | None = None

    def on_train_begin(self, logs: Logs = None) -> None:
        self._rows = {}
        if self.path:
            _check_path(self.path)
        if self.model.built:  # on TensorFlow, an unbuilt model is built only in its first step
            self._levels()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._training = self._validation = None
        self._reset()

    def on_test_begin(self, logs: Logs = None) -> None:
        self._training = self._sums()
        self._reset()

    def on_test_end(self, logs: Logs = None) -> None:
        self._validation = self._sums()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._levels()
        logs = logs if logs is not None else {}
        # NaN if an earlier logger in the list has read and reset the statistics.
        figures = {
            key: logs.get(key, value) if math.isnan(value) else value
            for key, value in self._figures().items()
        }
        logs.update(figures)
        if self.path:
            self._write(self.path, epoch, figures)

    def _levels(self) -> dict[str, CGCBlock]:
        """Return the levels with statistics. On JAX, access to self.model updates variables."""
        levels = _tracking_levels(self.model)
        if not levels:
            raise ValueError(
                "GateWeightsLogger needs a model with gate statistics: create its PLEBlock, "
                "MMoEBlock or CGCBlock with enable_gate_weights_metrics=True. "
                f"Received: model={self.model!r}"
            )
        return levels

    def _reset(self) -> None:
        for block in _tracking_levels(self.model).values():
            block.reset_gate_statistics()

    def _sums(self) -> np.ndarray:
        """Return the statistics of all gates in this process, times the counts, and the counts."""
        sums = [np.zeros(0)]
        for block in _tracking_levels(self.model).values():
            statistics = block.gate_statistics() if block.built else {}
            for gate, experts in block.gate_experts.items():
                of_gate = statistics.get(gate)
                sums.append(_weighted_sums(of_gate) if of_gate else np.zeros(_num_sums(experts)))
        return np.concatenate(sums)

    def _figures(self) -> Figures:
        """Return the figures of the epoch over all processes, which wait for each other here."""
        training = self._sums() if self._training is None else self._training
        validation = np.zeros_like(training) if self._validation is None else self._validation
        training, validation = _sum_over_processes(np.stack([training, validation]))
        figures = self._figures_of(training)
        if self._validation is not None or validation.any():
            figures |= {f"val_{key}": value for key, value in self._figures_of(validation).items()}
        return figures

    def _figures_of(self, sums: np.ndarray) -> Figures:
        """Return figures by key from the result of `_sums`, without blocks that never ran."""
        figures = {}
        for level, block in _tracking_levels(self.model).items():
            for gate, experts in block.gate_experts.items():
                of_gate, sums = np.split(sums, [_num_sums(experts)])
                if block.built:
                    means = of_gate[:-1] / (of_gate[-1] or math.nan)
                    for name, mean in zip([*experts, "entropy", "max"], means, strict=True):
                        figures[f"gate/{level}/{gate}/{name}"] = float(mean)
        return figures

    def _write(self, path: Path, epoch: int, figures: Figures) -> None:
        """Write the whole file, since validation may add columns that earlier epochs lack.

        A process that is killed meanwhile leaves the file as it was.
        """
        if not self._rows:
            self._rows = {row: old for row, old in _read_rows(path).items() if row < epoch}
        self._rows[epoch] = figures
        columns = dict.fromkeys(key for row in self._rows.values() for key in row)
        unfinished = path.with_name(f"{path.name}.unfinished")
        with unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["epoch", *columns])
            writer.writeheader()
            writer.writerows({"epoch": row, **values} for row, values in self._rows.items())
        unfinished.replace(path)


def _sum_over_processes(values: np.ndarray) -> np.ndarray:
    """Return the sum over all processes of PyTorch's process group; `values` without a group.

    Every process must call it at the same point with the same shape, since it waits for all.
    """
    if keras.backend.backend() != "torch":
        return values
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    total = keras.ops.convert_to_tensor(values)  # on the device of the group
    distributed.all_reduce(total)
    return np.asarray(keras.ops.convert_to_numpy(total))


def _num_sums(experts: list[str]) -> int:
    """Return the length of `_weighted_sums`: a mean per expert, and three more."""
    return len(experts) + 3


def _weighted_sums(statistics: dict[str, Any]) -> np.ndarray:
    """Return a gate's statistics times the number of examples, and this number."""
    count = statistics["count"]
    means = np.array([*statistics["mean"], statistics["entropy"], statistics["max"]])
    return np.append(means * count if count else np.zeros_like(means), count)


def _tracking_levels(model: keras.Layer) -> dict[str, CGCBlock]:
    levels = find_levels(model)
    return {key: block for key, block in levels.items() if block.enable_gate_weights_metrics}


def _check_path(path: Path) -> None:
    """Check that `path` can be a file, and is not a file of another program."""
    if not path.parent.is_dir() or path.is_dir():
        raise ValueError(f"path must be a file in an existing folder. Received: path={str(path)!r}")
    _read_rows(path)


def _read_rows(path: Path) -> dict[int, Any]:
    """Return the lines of the file by epoch; an empty dict if there is no file."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        try:
            reader = csv.DictReader(file)
            if not all(map(_is_own_column, reader.fieldnames or ())):
                raise ValueError(f"columns {reader.fieldnames}")
            return {int(row.pop("epoch")): row for row in reader}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "path must be a new file or a file of this callback, with a column "
                '"epoch" and columns of gates only. '
                f"Received: path={str(path)!r}, {error}"
            ) from error


def _is_own_column(name: str) -> bool:
    return name == "epoch" or name.startswith(("gate/", "val_gate/"))

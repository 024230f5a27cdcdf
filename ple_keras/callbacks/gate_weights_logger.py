"""What the gates did in each epoch, in the logs."""

import csv
import math
from os import PathLike
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ple_keras._typing import Logs
from ple_keras.callbacks._ranks import sum_over_ranks
from ple_keras.inspection.levels import find_levels
from ple_keras.layers.cgc_block import CGCBlock

Figures = dict[str, float]


class GateWeightsLogger(keras.callbacks.Callback):
    """Writes into `logs`, at the end of each epoch, what the gates did in it.

    For each gate of each block with `enable_gate_weights_metrics=True`, exact over the examples of
    the epoch:

        gate/{level}/{gate}/{expert}    mean weight of the expert
        gate/{level}/{gate}/entropy     mean entropy of the weights over that of even ones, 0 to 1
        gate/{level}/{gate}/max         mean largest weight; near 1 the gate has collapsed onto one
                                        expert an example, which no mean weight shows

    and the same with `val_` in front for the validation data. The level is `{name of the
    PLEBlock}/{index}`, such as `gate/ple/0/click/shared/expert_1`, or the name of a block that
    stands alone. In training the weights move while they are averaged, as a training loss does.

    History, and with it `plot_gate_history`, has all of them; CSVLogger, TensorBoard,
    ModelCheckpoint and EarlyStopping have them if they stand later in the list of callbacks. The
    progress bar prints them too, unless it is given first in the list. What else runs the model
    within an epoch, such as a `predict` or `evaluate` in another callback, counts too. In an
    `evaluate` of its own there are no logs to write to: see `gate_report`.

    Where several processes train one model (`torch.distributed`), the figures are those of the
    examples of all of them, and the same in all. Give the logger to every process, for at the end
    of an epoch each waits for the others, and a `path` to one of them alone.

    Args:
        path: A CSV file for the figures, a line an epoch; None for none. A run that goes on at a
            later `initial_epoch` keeps the lines of the epochs before it.

    Raises:
        TypeError: if `path` is no path.
        ValueError: in `fit`, if no gate of the model keeps statistics, the folder of `path` does
            not exist, or there is something else at `path`.

    Example:

    >>> ple = PLEBlock(2, ["click", "buy"], [8], enable_gate_weights_metrics=True, name="ple")
    >>> inputs = keras.Input((3,))
    >>> model = keras.Model(inputs, ple(inputs))
    >>> model.compile("adam", {"click": "mse", "buy": "mse"})
    >>> callbacks = [  # quiet bar, gates, stop when those of click begin to collapse
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
            _check_place(self.path)
        if self.model.built:  # TensorFlow builds a model of layers only when it traces a step
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
        # Another logger, before this one, has read and reset what is NaN now.
        figures = {
            key: logs.get(key, value) if math.isnan(value) else value
            for key, value in self._figures().items()
        }
        logs.update(figures)
        if self.path:
            self._write(self.path, epoch, figures)

    def _levels(self) -> dict[str, CGCBlock]:
        """The levels that keep statistics. Through self.model: on JAX that updates variables."""
        levels = _tracking_levels(self.model)
        if not levels:
            raise ValueError(
                "GateWeightsLogger needs a model with gates that keep statistics: give its "
                "PLEBlock, MMoEBlock or CGCBlock enable_gate_weights_metrics=True. "
                f"Received: model={self.model!r}"
            )
        return levels

    def _reset(self) -> None:
        for block in _tracking_levels(self.model).values():
            block.reset_gate_statistics()

    def _sums(self) -> np.ndarray:
        """The statistics of all gates in this process, each times its count, and the counts."""
        sums = [np.zeros(0)]
        for block in _tracking_levels(self.model).values():
            statistics = block.gate_statistics() if block.built else {}
            for gate, experts in block.gate_experts.items():
                of_gate = statistics.get(gate)
                sums.append(_times_count(of_gate) if of_gate else np.zeros(_num_sums(experts)))
        return np.concatenate(sums)

    def _figures(self) -> Figures:
        """Those of the epoch, over all processes, which wait for each other here alone."""
        training = self._sums() if self._training is None else self._training
        validation = np.zeros_like(training) if self._validation is None else self._validation
        training, validation = sum_over_ranks(np.stack([training, validation]))
        figures = self._named(training)
        if self._validation is not None or validation.any():
            figures |= {f"val_{key}": value for key, value in self._named(validation).items()}
        return figures

    def _named(self, sums: np.ndarray) -> Figures:
        """Figures by key, from sums as `_sums` has them; none of blocks that never ran."""
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
        """The whole file anew: validation may bring columns that earlier epochs lack."""
        if not self._rows:
            self._rows = {row: kept for row, kept in _read_rows(path).items() if row < epoch}
        self._rows[epoch] = figures
        columns = dict.fromkeys(key for row in self._rows.values() for key in row)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["epoch", *columns])
            writer.writeheader()
            writer.writerows({"epoch": row, **kept} for row, kept in self._rows.items())


def _num_sums(experts: list[str]) -> int:
    """The length of what `_times_count` returns: a mean of each expert, and three more."""
    return len(experts) + 3


def _times_count(statistics: dict[str, Any]) -> np.ndarray:
    """A gate's statistics times the number of examples, and this number."""
    count = statistics["count"]
    means = np.array([*statistics["mean"], statistics["entropy"], statistics["max"]])
    return np.append(means * count if count else np.zeros_like(means), count)


def _tracking_levels(model: keras.Layer) -> dict[str, CGCBlock]:
    levels = find_levels(model)
    return {key: block for key, block in levels.items() if block.enable_gate_weights_metrics}


def _check_place(path: Path) -> None:
    """Refuse to write where no file can be, or over one that isn't the logger's."""
    if not path.parent.is_dir() or path.is_dir():
        raise ValueError(
            f"path must be that of a file, in a folder that exists. Received: path={str(path)!r}"
        )
    _read_rows(path)


def _read_rows(path: Path) -> dict[int, Any]:
    """The lines of the file by epoch; none where there is no file yet."""
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
                "path must be that of a new file, or of one that this callback wrote: such a file "
                'has a column "epoch" and else columns of gates alone. '
                f"Received: path={str(path)!r}, {error}"
            ) from error


def _is_own_column(name: str) -> bool:
    return name == "epoch" or name.startswith(("gate/", "val_gate/"))

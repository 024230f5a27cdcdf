"""Plots of gate weights per expert and per epoch."""

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ple_keras.inspection.gates import GateReport, LevelUse

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Lines = dict[tuple[str, str], np.ndarray]  # keyed by expert or "max", and line style
STYLES = {"gate": "-", "val_gate": "--"}  # keyed by the first part of the keys in logs
CELL_SIZE = (0.62, 0.42)  # inches
MIN_WEIGHT_OF_WHITE_TEXT = 0.36


def plot_gate_weights(report: GateReport) -> "Figure":
    """Plot the mean weight of each expert in each gate, as a heat map for each level.

    Experts that a gate does not mix are blank.

    Args:
        report: The result of `gate_report`.

    Returns:
        A new figure of `matplotlib.pyplot`. To save it, call `savefig("gates.png")`.

    Raises:
        TypeError: If `report` is not a GateReport.
        ImportError: If matplotlib is not installed.

    Reference:

    - Tang, Liu, Zhao, Gong, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning
      (MTL) Model for Personalized Recommendations", RecSys 2020, the figure on
      expert utilization. [doi:10.1145/3383313.3412236](https://doi.org/10.1145/3383313.3412236)

    Example:

    >>> ple = PLEBlock(2, ["click", "buy"], [8])
    >>> _ = ple(np.ones((1, 3)))
    >>> figure = plot_gate_weights(gate_report(ple, np.eye(3)))
    >>> len(figure.axes)
    2
    """
    if not isinstance(report, GateReport):
        raise TypeError(f"report must be a GateReport. Received: report={report!r}")
    from matplotlib import pyplot

    rows = [len(use.gates) for use in report.levels.values()]
    width = 1.6 + CELL_SIZE[0] * max(len(use.experts) for use in report.levels.values())
    height = sum(rows) * CELL_SIZE[1] + 1.8 * len(rows)
    figure = pyplot.figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(len(rows), 1, height_ratios=rows, squeeze=False)[:, 0]
    for panel, (level, use) in zip(panels, report.levels.items()):
        _draw_heat_map(panel, use)
        panel.set_title(level, loc="left", fontsize="medium")
    return figure


def _draw_heat_map(panel: "Axes", use: LevelUse) -> None:
    """Draw a heat map. Colors show square roots from 0 to 1, so that small weights differ."""
    table = np.full((len(use.gates), len(use.experts)), np.nan)
    for row, gate in enumerate(use.gates.values()):
        table[row] = [gate.mean.get(expert, np.nan) for expert in use.experts]
    panel.imshow(np.sqrt(table), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        if not np.isnan(value):
            color = "white" if value > MIN_WEIGHT_OF_WHITE_TEXT else "black"
            text = panel.text(column, row, f"{value:.2f}", color=color, fontsize="small")
            text.set(ha="center", va="center")
    panel.set_yticks(range(len(use.gates)), [f"{gate} gate" for gate in use.gates])
    style: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    panel.set_xticks(range(len(use.experts)), use.experts, fontsize="small", **style)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)


def plot_gate_history(history: Any) -> "Figure":
    """Plot the mean weight of each expert, and the largest weight, of each gate over the epochs.

    Each gate has a panel; each level has a row of panels. Dashed lines are for validation data.

    Args:
        history: A model after `fit` with a `GateWeightsLogger`, the result of `fit`, its `history`,
            or the table in the logger's CSV file, such as `pandas.read_csv(path)`. With
            `validation_freq`, only the file has the exact epochs of the validation.

    Returns:
        A new figure of `matplotlib.pyplot`.

    Raises:
        TypeError: If `history` has no keys.
        ValueError: If `history` has no gate statistics.
        ImportError: If matplotlib is not installed.

    Example:

    >>> logs = {"gate/ple/0/click/click/expert_0": [0.6, 0.7], "gate/ple/0/click/max": [0.7, 0.8]}
    >>> plot_gate_history(logs).axes[0].get_title(loc="left")
    'ple/0: click gate'
    """
    logs = history
    while hasattr(logs, "history"):  # a model, or the result of fit
        logs = logs.history
    if not hasattr(logs, "keys"):
        raise TypeError(
            "history must be a trained model, the result of fit, or a dict or table of logs. For a "
            f"CSV file, pass pandas.read_csv(path). Received: history={history!r}"
        )
    levels = _lines_by_level(logs)
    if not levels:
        raise ValueError(f"history must have gate statistics. Received: history={[*logs.keys()]}")
    from matplotlib import pyplot

    columns = max(map(len, levels.values()))
    figure = pyplot.figure(figsize=(4.6 * columns, 2.6 * len(levels)), layout="constrained")
    grid = figure.subplots(len(levels), columns, sharey=True, squeeze=False)
    for row, (level, gates) in zip(grid, levels.items()):
        names = list(dict.fromkeys(name for lines in gates.values() for name, _ in lines))
        colors = dict(zip(names, pyplot.get_cmap("turbo")(np.linspace(0, 1, len(names)))))
        for panel, (gate, lines) in zip(row, gates.items()):
            _draw_lines(panel, lines, {**colors, "max": "0.5"})
            panel.set_title(f"{level}: {gate} gate", loc="left", fontsize="medium")
        for unused in row[len(gates) :]:
            unused.remove()
    grid[0, 0].set(ylabel="mean weight", ylim=(0, 1.02))
    return figure


def _lines_by_level(logs: Any) -> dict[str, dict[str, Lines]]:
    """Return `{level: {gate: {(expert or "max", line style): values}}}` from the logs."""
    levels: dict[str, Any] = defaultdict(lambda: defaultdict(dict))
    for key in logs.keys():  # noqa: SIM118, not every table iterates over its keys
        prefix, *names = str(key).split("/")
        size = 1 if names[-1:] == ["max"] else 2
        if prefix in STYLES and len(names) > size + 1 and names[-1] != "entropy":
            *level, gate = names[:-size]
            values = np.atleast_1d(np.asarray(logs[key], "float64"))
            levels["/".join(level)][gate]["/".join(names[-size:]), STYLES[prefix]] = values
    return levels


def _draw_lines(panel: Any, lines: Lines, colors: Mapping[str, Any]) -> None:
    epochs = max(map(len, lines.values()))
    for (name, style), values in lines.items():
        every = epochs // len(values)  # more than 1 with validation_freq
        label = {"max": "largest weight"}.get(name, name) if style == "-" else None
        xs = every * np.arange(1, len(values) + 1)
        panel.plot(xs, values, style, color=colors[name], label=label, marker=".")
    panel.legend(fontsize="x-small", frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    panel.set_xlabel("epoch")
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.grid(alpha=0.3)

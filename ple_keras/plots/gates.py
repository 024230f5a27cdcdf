"""Plots of gate weights by expert and by epoch."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ple_keras.inspection.gate_report import GateReport, LevelUse
from ple_keras.plots._canvas import check_axes, pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Panels = Axes | Sequence[Axes]


STYLES = {"gate/": "-", "val_gate/": "--"}  # by prefix of the keys in logs
STATISTICS = ("entropy", "max")
MAX_DEFAULT_COLORS = 10  # distinct default colors of matplotlib
CELL_SIZE = (0.62, 0.42)  # inches
PANEL_SIZE = (4.6, 2.6)
MAX_LABEL_LETTERS = 9  # of a label that is not rotated
MIN_WEIGHT_OF_WHITE_TEXT = 0.36


def plot_gate_weights(report: GateReport, ax: "Panels | None" = None) -> "Figure":
    """Plot the mean weight of each expert in each gate, as a heat map for each level.

    Experts that a gate does not mix are blank.

    Args:
        report: The result of `gate_report`.
        ax: One matplotlib Axes per level, from the first level. By default, a new figure of
            `matplotlib.pyplot`.

    Returns:
        The figure; `plot_gate_weights(report).savefig("gates.png")` saves the plot.

    Raises:
        TypeError: If `report` is not a GateReport, or `ax` is not an Axes.
        ValueError: If the number of Axes is not the number of levels.
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
    if ax is None:
        ax = _stacked_panels(report.levels.values())
    panels = _check_panels(ax, len(report.levels), "level")
    for panel, (level, use) in zip(panels, report.levels.items()):
        _draw_heat_map(panel, use)
        panel.set_title(level, loc="left", fontsize="medium")
    figure: Figure = panels[0].figure
    return figure


def _stacked_panels(levels: Iterable[LevelUse]) -> Any:
    """Return the panels of a new figure, one per level, from top to bottom."""
    levels = list(levels)
    rows = [len(use.gates) for use in levels]
    width = 1.6 + CELL_SIZE[0] * max(len(use.experts) for use in levels)
    height = sum(rows) * CELL_SIZE[1] + 1.5 * len(rows)
    figure = pyplot().figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(len(rows), 1, height_ratios=rows, squeeze=False)
    return panels[:, 0]


def _draw_heat_map(panel: "Axes", use: LevelUse) -> None:
    """Draw a heat map; colors show square roots from 0 to 1, so that small weights differ too."""
    experts = list(use.experts)
    # NaN for experts that a gate does not mix
    table = np.array([[x.mean.get(name, np.nan) for name in experts] for x in use.gates.values()])
    panel.imshow(np.sqrt(table), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        if not np.isnan(value):
            color = "white" if value > MIN_WEIGHT_OF_WHITE_TEXT else "black"
            text = panel.text(column, row, f"{value:.2f}", color=color, fontsize="small")
            text.set(ha="center", va="center")
    panel.set_yticks(range(len(use.gates)), [f"{gate} gate" for gate in use.gates])
    labels = [expert.replace("/", "\n") for expert in experts]
    if any(len(line) > MAX_LABEL_LETTERS for label in labels for line in label.split("\n")):
        panel.set_xticks(range(len(experts)), experts, fontsize="small", rotation=40)
        for label in panel.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    else:
        panel.set_xticks(range(len(experts)), labels, fontsize="small")
    panel.set_facecolor("white")
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)


def plot_gate_history(history: Any, ax: "Panels | None" = None) -> "Figure":
    """Plot the mean weight of each expert, and the largest weight, of each gate over the epochs.

    Each gate has a panel; each level has a row of panels. Dashed lines are for validation data.

    Args:
        history: The result of `fit` with a `GateWeightsLogger`, its `history`, or the table in the
            logger's CSV file, such as `pandas.read_csv(path)`. With `validation_freq`, only the
            file has the exact epochs of the validation.
        ax: One matplotlib Axes per gate, level by level. By default, a new figure of
            `matplotlib.pyplot`.

    Returns:
        The figure.

    Raises:
        TypeError: If `history` has no keys, or `ax` is not an Axes.
        ValueError: If `history` has no statistics of gates, or the number of Axes is not the
            number of gates.
        ImportError: If matplotlib is not installed.

    Example:

    >>> logs = {"gate/ple/0/click/click/expert_0": [0.6, 0.7], "gate/ple/0/click/max": [0.7, 0.8]}
    >>> plot_gate_history(logs).axes[0].get_title(loc="left")
    'ple/0: click gate'
    """
    logs = getattr(history, "history", history)
    if not hasattr(logs, "keys"):
        raise TypeError(
            "history must be the result of fit, or a dict or table of logs. For a CSV file, pass "
            f"pandas.read_csv(path). Received: history={history!r}"
        )
    lines = _lines_by_gate(logs)
    if not lines:
        raise ValueError(
            f"history must have keys of a GateWeightsLogger. Received: history={list(logs.keys())}"
        )
    longest = max(np.size(logs[key]) for key in logs.keys() if _prefix(key))  # noqa: SIM118
    epochs = [epoch + 1 for epoch in getattr(history, "epoch", range(longest))]
    colors = _colors(lines)
    if ax is None:
        ax = _grid_of_panels(lines)
    panels = _check_panels(ax, len(lines), "gate")
    panels[0].set_ylabel("mean weight")
    for panel, ((level, gate), of_gate) in zip(panels, lines.items()):
        _draw_lines(panel, of_gate, epochs, colors[level])
        panel.set_title(f"{level}: {gate} gate", loc="left", fontsize="medium")
    figure: Figure = panels[0].figure
    return figure


def _lines_by_gate(logs: Any) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """Return `{(level, gate): {expert or "max": {line style: values}}}` from the logs."""
    lines: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for key in logs.keys():  # noqa: SIM118, not every table iterates over its keys
        if prefix := _prefix(key):
            parts = key.removeprefix(prefix).split("/")
            size = 1 if parts[-1] in STATISTICS else 2
            if len(parts) < size + 2 or not np.size(logs[key]):
                continue
            *level, gate = parts[:-size]
            of_gate = lines.setdefault(("/".join(level), gate), {})
            of_gate.setdefault("/".join(parts[-size:]), {})[STYLES[prefix]] = logs[key]
    return lines


def _prefix(key: object) -> str | None:
    """Return the prefix of a key of a gate, or None for other keys."""
    return next((prefix for prefix in STYLES if str(key).startswith(prefix)), None)


def _colors(lines: Mapping[tuple[str, str], Iterable[str]]) -> dict[str, dict[str, Any]]:
    """Return a color for each expert of each level, and gray for the largest weight."""
    colors: dict[str, dict[str, Any]] = {}
    for (level, _), names in lines.items():
        of_level = colors.setdefault(level, {"max": "0.5"})
        for name in names:
            if name not in STATISTICS:
                of_level.setdefault(name, f"C{len(of_level) - 1}")
    for of_level in colors.values():
        if len(of_level) > MAX_DEFAULT_COLORS + 1:
            shades = pyplot().get_cmap("turbo")(np.linspace(0, 1, len(of_level) - 1))
            of_level.update(zip([name for name in of_level if name != "max"], shades))
    return colors


def _grid_of_panels(gates: Iterable[tuple[str, str]]) -> list[Any]:
    gates = list(gates)
    levels = list(dict.fromkeys(level for level, _ in gates))
    by_level = [[gate for key, gate in gates if key == level] for level in levels]
    columns = max(map(len, by_level))
    size = (PANEL_SIZE[0] * columns, PANEL_SIZE[1] * len(levels))
    figure = pyplot().figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(levels), columns, sharey=True, squeeze=False)
    for row, of_level in zip(grid, by_level):
        for unused in row[len(of_level) :]:
            unused.remove()
    return [panel for row, of_level in zip(grid, by_level) for panel in row[: len(of_level)]]


def _draw_lines(
    panel: Any,
    of_gate: Mapping[str, Mapping[str, Any]],
    epochs: list[int],
    colors: Mapping[str, Any],
) -> None:
    for name, by_style in of_gate.items():
        if name == "entropy":
            continue
        for style, values in by_style.items():
            values = np.atleast_1d(np.asarray(values, "float64"))
            (line,) = panel.plot(_epochs_of(values, epochs), values, style, color=colors[name])
            line.set(marker=".", markersize=4, linewidth=1.0 if name == "max" else 1.6)
            if style == next(iter(by_style)):
                line.set_label("largest weight" if name == "max" else name)
    panel.legend(
        fontsize="x-small",
        frameon=False,
        ncols=1 + len(of_gate) // (MAX_DEFAULT_COLORS + 3),
        loc="upper left",
        bbox_to_anchor=(1, 1),
    )
    panel.set_ylim(0, 1.02)
    panel.set_xlabel("epoch")
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.grid(alpha=0.3)


def _epochs_of(values: np.ndarray, epochs: list[int]) -> list[int]:
    """Return the epochs of the values: all, or every n-th with `validation_freq`."""
    for every in range(1, len(epochs)):
        validated = [epoch for epoch in epochs if epoch % every == 0]
        if len(validated) == len(values):
            return validated
    return epochs[-len(values) :]


def _check_panels(ax: Any, count: int, item: str) -> list[Any]:
    """Check that `ax` is one Axes per level or gate; return a list of Axes."""
    panels = list(np.ravel(np.asarray(ax, dtype=object)))
    for panel in panels:
        check_axes(panel, f" for each {item}")
    if len(panels) != count:
        raise ValueError(f"ax must be an Axes for each {item}, {count}. Received: ax={panels}")
    return panels

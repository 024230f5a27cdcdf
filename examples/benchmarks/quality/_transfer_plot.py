"""Pictures of the benchmark of negative transfer."""

from pathlib import Path
from typing import Any

import numpy as np
from _networks import title
from _transfer_cases import BINARY, readable
from _transfer_summary import Estimate, Scores

# Color, line style and marker by model, where it was trained. Others are in the tables only.
STYLES = {
    "trees": ("0.45", ":", "x"),
    "bottom": ("C3", "-", "o"),
    "bottom-uncertainty": ("C1", "--", "o"),
    "mmoe": ("C4", "-", "^"),
    "mmoe-levels": ("C4", "--", "v"),
    "cgc": ("C9", "-", "s"),
    "cgc-streams": ("C9", "--", "s"),
    "ple": ("C0", "-", "D"),
    "ple-gate-dropout": ("C0", "--", "D"),
    "ple-isolated": ("C2", "--", "P"),
    "ple-streams": ("C2", "-", "P"),
}
PANEL_WIDTH, PANEL_HEIGHT = 5.2, 3.6  # inches
LEGEND_COLUMN, LEGEND_ROW = 3.4, 0.22


def draw(setting: str, scores: Scores, path: Path) -> None:
    """Draw a panel for each group of cases and measure, with a line for each model.

    In the setting "weight", a line shows the metric, and the band is that of the single-task
    networks. In other settings, whose data differ by seed, a line shows the gain over the
    single-task networks. Vertical lines and bands are 95 % intervals over the seeds.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = scores.groups(setting)
    columns = 2 if len(groups) in (2, 4) else min(3, len(groups))
    rows = -(-len(groups) // columns)
    width = PANEL_WIDTH * columns
    legend_columns = int(width / LEGEND_COLUMN)
    legend = LEGEND_ROW * (-(-(len(STYLES) + 1) // legend_columns) + 1)
    height = PANEL_HEIGHT * rows + legend
    figure, panels = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
    for panel, ((group, measure), cases) in zip(panels.flat, groups.items()):
        tasks = [scores.cases[case].measures[measure] for case in cases]
        (_draw_metric if setting == "weight" else _draw_gain)(panel, scores, cases, tasks)
        label = measure if setting == "weight" else f"gain in {measure}"
        panel.set_title(f"{label}\n{readable(group)}", fontsize=10)
        ticks = [scores.cases[case].column for case in cases]
        panel.set_xticks(range(len(cases)), ticks, fontsize=8)
        panel.ticklabel_format(axis="y", useOffset=False)
        panel.grid(alpha=0.3)
    for panel in list(panels.flat)[len(groups) :]:
        panel.set_axis_off()
    labeled = [panel.get_legend_handles_labels() for panel in panels.flat]
    lines = {label: line for panel in labeled for line, label in zip(*panel)}
    place = {"loc": "lower center", "ncols": legend_columns}
    figure.legend(lines.values(), lines, fontsize=9, frameon=False, **place)
    figure.tight_layout(rect=(0, legend / height, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_metric(panel: Any, scores: Scores, cases: list[str], tasks: list[list[str]]) -> None:
    band = [Estimate.of(scores.of(case, "single", of)) for case, of in zip(cases, tasks)]
    low, high = ([x.mean + s * np.nan_to_num(x.half) for x in band] for s in (-1, 1))
    ticks = np.arange(len(cases))
    panel.fill_between(ticks, low, high, color="0.8")
    panel.plot(ticks, [x.mean for x in band], color="0.3", label=title("single"))
    for kind in _drawn(scores, cases, tasks):
        points = [Estimate.of(scores.of(case, kind, of)) for case, of in zip(cases, tasks)]
        _draw_line(panel, kind, points)


def _draw_gain(panel: Any, scores: Scores, cases: list[str], tasks: list[list[str]]) -> None:
    panel.axhline(0.0, color="0.3", label=title("single"))
    for kind in _drawn(scores, cases, tasks):
        gains = [scores.gain(case, kind, "single", of) for case, of in zip(cases, tasks)]
        _draw_line(panel, kind, [Estimate.of(gain) for gain in gains])


def _drawn(scores: Scores, cases: list[str], tasks: list[list[str]]) -> list[str]:
    """Return the models of a panel.

    Trees are left out of squared errors. Those of the synthetic tasks are so much larger that no
    other line could be told from the rest.
    """
    kinds = [kind for kind in STYLES if kind in scores.kinds and scores.has(cases[0], kind)]
    return [kind for kind in kinds if kind != "trees" or tasks[0][0] in BINARY]


def _draw_line(panel: Any, kind: str, points: list[Estimate]) -> None:
    color, line, marker = STYLES[kind]
    shift = 0.03 * (list(STYLES).index(kind) - len(STYLES) / 2)
    panel.errorbar(
        np.arange(len(points)) + shift,
        [x.mean for x in points],
        yerr=np.nan_to_num([x.half for x in points]),
        color=color,
        linestyle=line,
        marker=marker,
        markersize=4,
        linewidth=1.3,
        label=title(kind),
    )

"""Pictures of the benchmark of negative transfer."""

from pathlib import Path

import numpy as np
from _networks import title
from _transfer_summary import Estimate, Scores

# Color, line style and marker by model. Others are in the tables only.
STYLES = {
    "trees": ("0.45", ":", "x"),
    "bottom": ("C3", "-", "o"),
    "bottom-uncertainty": ("C1", "--", "o"),
    "mmoe": ("C4", "-", "^"),
    "mmoe-levels": ("C4", "--", "v"),
    "cgc": ("C9", "-", "s"),
    "ple": ("C0", "-", "D"),
    "ple-isolated": ("C2", "--", "P"),
    "ple-streams": ("C2", "-", "P"),
}


def draw(setting: str, scores: Scores, path: Path) -> None:
    """Draw a panel for each group of cases and measure, with a line for each model.

    Vertical lines are 95 % intervals over the seeds. The band is that of the single-task networks.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = scores.groups(setting)
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(5.2 * columns, 3.6 * rows + 1.1), squeeze=False
    )
    for panel, ((group, measure), cases) in zip(panels.flat, groups.items()):
        _draw_panel(panel, scores, cases, measure)
        panel.set_title(f"{measure}\n{group}", fontsize=10)
    for panel in list(panels.flat)[len(groups) :]:
        panel.set_axis_off()
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, fontsize=9, frameon=False)
    figure.tight_layout(rect=(0, 0.9 / (3.6 * rows + 1.1), 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_panel(panel: object, scores: Scores, cases: list[str], measure: str) -> None:
    ticks = np.arange(len(cases))
    tasks = [scores.cases[case].measures[measure] for case in cases]
    band = [Estimate.of(scores.of(case, "single", of)) for case, of in zip(cases, tasks)]
    low, high = ([x.mean + s * np.nan_to_num(x.half) for x in band] for s in (-1, 1))
    panel.fill_between(ticks, low, high, color="0.8")
    panel.plot(ticks, [x.mean for x in band], color="0.3", label=title("single"))
    drawn = [kind for kind in STYLES if kind in scores.kinds and scores.has(cases[0], kind)]
    for place, kind in enumerate(drawn):
        points = [Estimate.of(scores.of(case, kind, of)) for case, of in zip(cases, tasks)]
        color, line, marker = STYLES[kind]
        shift = 0.02 * (place - len(drawn) / 2)
        panel.errorbar(
            ticks + shift,
            [x.mean for x in points],
            yerr=np.nan_to_num([x.half for x in points]),
            color=color,
            linestyle=line,
            marker=marker,
            markersize=4,
            linewidth=1.3,
            label=title(kind),
        )
    panel.set_xticks(ticks, [scores.cases[case].column for case in cases], fontsize=8)
    panel.ticklabel_format(axis="y", useOffset=False)
    panel.grid(alpha=0.3)

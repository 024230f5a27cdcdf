"""Reports of step times: tables, a JSON file and a plot."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
from _step_times import Row
from _tables import align_columns
from _timing import Seconds, median_ms, median_ratio
from _variants import FLOOR

TITLES = ("variant", "train ms", "of floor", "predict ms", "of floor")
FRESH_TITLES = ("build s", "first step s", "peak MB")


def environment(xla: bool) -> dict[str, Any]:
    """Return versions and machine properties that affect the times."""
    backend = keras.backend.backend()
    return {
        "backend": backend,
        backend: importlib.metadata.version(backend),
        "keras": keras.version(),
        "xla": xla,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def group_by_table(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Return the rows of each table, by variant."""
    tables: dict[str, dict[str, Row]] = {}
    for row in rows:
        tables.setdefault(row.table, {})[row.variant] = row
    return tables


def format_tables(rows: Sequence[Row]) -> str:
    """Return a table for each case, and one for each of its export formats."""
    return "\n\n".join(
        f"case {name}\n{_format_table(table)}" for name, table in group_by_table(rows).items()
    )


def _format_table(rows: dict[str, Row]) -> str:
    has_fresh = any(row.fresh for row in rows.values())
    lines = [(*TITLES, *(FRESH_TITLES if has_fresh else ()), "parameters", "description")]
    for row in rows.values():
        floor = rows[FLOOR]
        cells = [
            row.variant,
            *_time_cells(row.train, floor.train),
            *_time_cells(row.predict, floor.predict),
        ]
        if row.fresh:
            cells += [f"{row.fresh.build_seconds:.1f}", f"{row.fresh.first_seconds:.1f}"]
            cells.append(f"{row.fresh.peak_megabytes:.0f}")
        lines.append((*cells, f"{row.parameters:,}", row.note))
    last = len(lines[0]) - 1
    return align_columns(lines, left=(0, last))


def _time_cells(seconds: Seconds, floor: Seconds) -> tuple[str, str]:
    if not seconds:
        return "-", "-"
    return f"{median_ms(seconds):.2f}", f"{median_ratio(seconds, floor):.2f}"


def write_json(path: Path, rows: Sequence[Row], config: dict[str, Any]) -> None:
    """Write all times of all rounds."""
    results = [asdict(row) for row in rows]
    path.write_text(json.dumps({"config": config, "results": results}, indent=2) + "\n")


def draw(path: Path, rows: Sequence[Row], title: str) -> None:
    """Plot a panel per table, with bars of times relative to the floor."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tables = group_by_table(rows)
    columns = min(3, len(tables))
    lines = -(-len(tables) // columns)
    size = {"figsize": (4 * columns, 0.6 + 2.8 * lines), "squeeze": False}
    figure, panels = plt.subplots(lines, columns, **size)
    for panel in panels.flat[len(tables) :]:
        panel.set_axis_off()
    for panel, (name, table) in zip(panels.flat, tables.items()):
        heights = np.arange(len(table))
        for kind, offset, color in (("train", -0.2, "C0"), ("predict", 0.2, "C1")):
            floor = getattr(table[FLOOR], kind)
            if floor:
                ratios = [median_ratio(getattr(row, kind), floor) for row in table.values()]
                bars = panel.barh(heights + offset, ratios, 0.38, label=kind, color=color)
                panel.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
        panel.axvline(1, color="0.4", linewidth=0.8)
        panel.set_yticks(heights, list(table))
        panel.set_ylim(len(table) - 0.5, -0.5)
        panel.margins(x=0.18)
        panel.set_title(f"case {name}")
        panel.set_xlabel("times the floor")
    panels[0, 0].legend(fontsize=8)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)

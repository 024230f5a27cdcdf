"""Reports of a comparison: tables, a plot and a JSON file."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
from _data import Dataset
from _metrics import Metric, selection_metrics
from _tables import align_columns
from _training import Result, Setting

import ple_keras as pk


def group_by_model(results: list[Result]) -> dict[str, list[Result]]:
    """Return the results of each model, by seed."""
    return {
        name: [result for result in results if result.model == name]
        for name in dict.fromkeys(result.model for result in results)
    }


def format_table(results: list[Result], metrics: list[Metric], baseline: str | None = None) -> str:
    """Return a table with a line per model: parameters, metrics, gains, seconds per seed.

    Args:
        results: The results of every model and seed.
        metrics: The columns.
        baseline: The model that gains are relative to, see `format_gains`. None for no gains.
    """
    models = group_by_model(results)
    rows = [["model", "parameters", *(metric.label for metric in metrics)]]
    for name, runs in models.items():
        parameters = runs[0].parameters
        row = [name, "-" if parameters is None else f"{parameters:,}"]
        rows.append(
            [*row, *(_format_spread([run.test[m.full_key] for run in runs], m) for m in metrics)]
        )
    if baseline is not None:
        for row, gains in zip(rows, _gains(models, metrics, baseline), strict=True):
            row += gains
    seconds = [f"{np.mean([run.seconds for run in runs]):.0f}" for runs in models.values()]
    for row, cell in zip(rows, ["seconds", *seconds], strict=True):
        row.append(cell)
    return align_columns(rows)


def format_gains(results: list[Result], metrics: list[Metric], baseline: str) -> str:
    """Return a table with a line per model: MTL gains over the baseline's metrics."""
    models = group_by_model(results)
    gains = _gains(models, metrics, baseline)
    return align_columns(
        [[name, *row] for name, row in zip(["model", *models], gains, strict=True)]
    )


def _gains(
    models: dict[str, list[Result]], metrics: list[Metric], baseline: str
) -> list[list[str]]:
    """Return a row of titles, then a row per model with gains of the selection metrics."""
    selected = selection_metrics(metrics)
    rows = [[f"gain {metric.task}" for metric in selected]]
    for name, runs in models.items():
        if baseline not in models or name == baseline:
            rows.append(["-"] * len(selected))
            continue
        gains = [
            pk.mtl_gain(run.test, base.test, {m.full_key: m.sign < 0 for m in metrics})
            for run, base in zip(runs, models[baseline])
        ]
        rows.append(
            [_format_spread([gain[m.full_key] for gain in gains], m, "+") for m in selected]
        )
    return rows


def _format_spread(values: list[float], metric: Metric, sign: str = "") -> str:
    """Format the mean and, for several seeds, the standard deviation."""
    mean = f"{np.mean(values):{sign}.{metric.digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{metric.digits}f}"


def print_title(data: str, dataset: Dataset) -> str:
    """Print the data set, the rows and the backend. Return a title for plots."""
    rows = ", ".join(f"{count:,} {part}" for part, count in dataset.rows.items())
    backend = keras.backend.backend()
    print(f"{data}: {rows} rows; Keras {keras.version()} on {backend}", flush=True)
    return f"{data}: {rows} rows, {backend}"


def write_json(path: Path, results: list[Result], setting: Setting, config: dict[str, Any]) -> None:
    """Write the results, the history of every epoch and the configuration."""
    config = {
        **config,
        "rows": setting.dataset.rows,
        "metric": ", ".join(dict.fromkeys(metric.name for metric in setting.metrics)),
        "recipe": asdict(setting.recipe),
        "backend": keras.backend.backend(),
        "keras": keras.version(),
    }
    runs = [asdict(result) for result in results]
    for run in runs:
        del run["predictions"]
    path.write_text(json.dumps({"config": config, "results": runs}, indent=2) + "\n")


def draw(path: Path, results: list[Result], metrics: list[Metric], title: str) -> None:
    """Plot a panel per metric: a dot per seed, mean and standard deviation of each model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    models = group_by_model(results)
    figure, panels = plt.subplots(
        1, len(metrics), sharey=True, figsize=(5 * len(metrics), 1.4 + 0.45 * len(models))
    )
    panels = np.atleast_1d(panels)
    for panel, metric in zip(panels, metrics, strict=True):
        better = "higher" if metric.sign > 0 else "lower"
        for height, runs in enumerate(models.values()):
            values = [run.test[metric.full_key] for run in runs]
            several = len(values) > 1
            panel.plot(values, [height] * len(values), "o", color="0.7", markersize=4)
            panel.errorbar(
                np.mean(values),
                height,
                xerr=np.std(values, ddof=1) if several else None,
                fmt="o",
                color="C0" if runs[0].parameters is not None else "C1",
                capsize=4,
            )
        panel.set_yticks(range(len(models)), list(models))
        panel.set_title(metric.task.replace("_", " "))
        panel.set_xlabel(f"test {metric.name} ({better} is better)")
        panel.grid(axis="x", alpha=0.3)
        panel.ticklabel_format(axis="x", useOffset=False)
        panel.locator_params(axis="x", nbins=4)
    panels[0].invert_yaxis()
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)

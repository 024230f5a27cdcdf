"""What a comparison came to: a table, a sentence on noise, a picture, a JSON file."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from _comparison import Metric, Result
from _data import Dataset

RESAMPLES = 100
# In standard errors: what the largest difference between four equal models stays below in 95 of
# 100 cases (the studentized range, 3.63, over the square root of 2).
THRESHOLD = 2.57


def by_model(results: list[Result]) -> dict[str, list[Result]]:
    """The results of each model, by seed."""
    return {
        name: [result for result in results if result.model == name]
        for name in dict.fromkeys(result.model for result in results)
    }


def gains(runs: list[Result], baseline: list[Result], task: str, metric: Metric) -> list[float]:
    """The paper's MTL gain of each seed: by how much a model betters the baseline's metric."""
    return [
        metric.sign * (run.test[task] - base.test[task])
        for run, base in zip(runs, baseline, strict=True)
    ]


def format_table(results: list[Result], tasks: list[str], metric: Metric, baseline: str) -> str:
    """A line a model: parameters, metric and gain of each task, seconds a seed.

    Args:
        results: Of every model and seed.
        tasks: The tasks, in order.
        metric: What the results' `test` holds.
        baseline: The model that the gains are over; without its results they are left out.
    """
    models = by_model(results)
    header = ["model", "parameters", *(f"{metric.name} {task}" for task in tasks)]
    header += [*(f"gain {task}" for task in tasks), "seconds"]
    rows = [header]
    for name, runs in models.items():
        parameters = runs[0].parameters
        row = [name, "-" if parameters is None else f"{parameters:,}"]
        row += [_spread([run.test[task] for run in runs], ".5f") for task in tasks]
        for task in tasks:
            compared = baseline in models and name != baseline
            gain = gains(runs, models[baseline], task, metric) if compared else []
            row.append(_spread(gain, "+.5f") if gain else "-")
        rows.append([*row, f"{np.mean([run.seconds for run in runs]):.0f}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _spread(values: list[float], form: str) -> str:
    """The mean and, of several seeds, the standard deviation."""
    mean = f"{np.mean(values):{form}}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.5f}"


def describe_noise(
    results: list[Result], names: list[str], dataset: Dataset, metric: Metric
) -> str:
    """Whether the largest difference between the named models is more than noise, by task.

    The yardstick is the standard error of that very difference: over resamples of the test rows,
    the same for both models, and over the seeds where there are several.
    """
    models = {name: runs for name, runs in by_model(results).items() if name in names}
    several_seeds = len(next(iter(models.values()))) > 1
    lines = ["Largest difference between the multi-task models:"]
    for task in dataset.tasks:
        means = {name: np.mean([run.test[task] for run in runs]) for name, runs in models.items()}
        low, high = min(means, key=means.get), max(means, key=means.get)
        difference = means[high] - means[low]
        error = _standard_error(models[high], models[low], task, dataset, metric)
        if difference <= THRESHOLD * error:
            verdict = "within noise"
        elif several_seeds:
            verdict = "more than noise"
        else:
            verdict = "more than other test rows would change; for other seeds, see --seeds"
        lines.append(f"  {task}: {difference:.5f}, standard error {error:.5f}: {verdict}")
    return "\n".join(lines)


def _standard_error(
    first: list[Result], second: list[Result], task: str, dataset: Dataset, metric: Metric
) -> float:
    labels, rng = dataset.test.labels[task], np.random.default_rng(0)

    def difference(rows: np.ndarray) -> float:
        scores = [
            [metric.score(labels[rows], run.predictions[task][rows]) for run in runs]
            for runs in (first, second)
        ]
        return float(np.mean(scores[0]) - np.mean(scores[1]))

    of_rows = np.std(
        [difference(rng.integers(len(labels), size=len(labels))) for _ in range(RESAMPLES)]
    )
    seeds = len(first)
    of_seeds = 0.0
    if seeds > 1:
        by_seed = [a.test[task] - b.test[task] for a, b in zip(first, second, strict=True)]
        of_seeds = np.std(by_seed, ddof=1) / np.sqrt(seeds)
    return float(np.hypot(of_rows, of_seeds))


def write_json(path: Path, results: list[Result], config: dict[str, Any]) -> None:
    """Everything that the table was made from, and the history of every epoch."""
    runs = [asdict(result) for result in results]
    for run in runs:
        del run["predictions"]
    path.write_text(json.dumps({"config": config, "results": runs}, indent=2) + "\n")


def draw(path: Path, results: list[Result], tasks: list[str], metric: Metric, title: str) -> None:
    """A panel a task: the metric of each model, a dot a seed, mean and standard deviation."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    models = by_model(results)
    figure, panels = plt.subplots(
        1, len(tasks), sharey=True, figsize=(5 * len(tasks), 1.4 + 0.45 * len(models))
    )
    better = "higher" if metric.sign > 0 else "lower"
    for panel, task in zip(np.atleast_1d(panels), tasks, strict=True):
        for height, runs in enumerate(models.values()):
            values = [run.test[task] for run in runs]
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
        panel.set_title(task.replace("_", " "))
        panel.set_xlabel(f"test {metric.name} ({better} is better)")
        panel.grid(axis="x", alpha=0.3)
        panel.ticklabel_format(axis="x", useOffset=False)
        panel.locator_params(axis="x", nbins=4)
    panels = np.atleast_1d(panels)
    panels[0].invert_yaxis()
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)

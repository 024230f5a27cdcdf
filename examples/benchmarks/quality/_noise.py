"""Comparison of differences between models with their noise."""

from collections.abc import Callable

import numpy as np
from _data import Dataset, Split
from _metrics import Metric, selection_metrics
from _report import group_by_model
from _training import Result

RESAMPLES = 100


def describe_noise(
    results: list[Result], names: list[str], dataset: Dataset, metrics: list[Metric]
) -> str:
    """Compare the largest difference between the named models with its noise, by task.

    The difference is compared with its standard error. The error is estimated by resampling the
    test rows, or the days that they belong to, alike for both models. With several seeds, the
    variation between seeds is included.
    """
    models = {name: runs for name, runs in group_by_model(results).items() if name in names}
    several_seeds = len(next(iter(models.values()))) > 1
    drawn = "rows" if dataset.test.days is None else "days"
    lines = []
    for metric in selection_metrics(metrics):
        means = {
            name: np.mean([run.test[metric.full_key] for run in runs])
            for name, runs in models.items()
        }
        low, high = min(means, key=means.get), max(means, key=means.get)
        difference = means[high] - means[low]
        error = _standard_error(models[high], models[low], dataset.test, metric)
        if difference <= _threshold(len(names)) * error:
            verdict = "within noise"
        elif several_seeds:
            verdict = "more than noise"
        else:
            verdict = (
                f"more than the noise of the test {drawn}; for the noise of seeds, use --seeds"
            )
        numbers = f"{difference:.{metric.digits}f}, standard error {error:.{metric.digits}f}"
        lines.append(f"  {metric.task}: {numbers}: {verdict}")
    return "\n".join(lines)


def _threshold(models: int) -> float:
    """Return the 95 % quantile of the largest difference between equal models, in standard errors.

    It is that of the studentized range, divided by the square root of 2.
    """
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(0.95, models, np.inf)) / np.sqrt(2)


def _standard_error(
    first: list[Result], second: list[Result], test: Split, metric: Metric
) -> float:
    labels, draw = test.labels[metric.task], _make_resampler(test)

    def difference(rows: np.ndarray) -> float:
        scores = [
            [metric.evaluate(labels[rows], run.predictions[metric.task][rows]) for run in runs]
            for runs in (first, second)
        ]
        return float(np.mean(scores[0]) - np.mean(scores[1]))

    of_rows = np.std([difference(draw()) for _ in range(RESAMPLES)])
    seeds = len(first)
    of_seeds = 0.0
    if seeds > 1:
        key = metric.full_key
        by_seed = [a.test[key] - b.test[key] for a, b in zip(first, second, strict=True)]
        of_seeds = np.std(by_seed, ddof=1) / np.sqrt(seeds)
    return float(np.hypot(of_rows, of_seeds))


def _make_resampler(test: Split) -> Callable[[], np.ndarray]:
    """Return a function that draws as many rows as there are, with replacement, by day if given."""
    rng, count = np.random.default_rng(0), len(test)
    if test.days is None:
        return lambda: rng.integers(count, size=count)
    days = [np.flatnonzero(test.days == day) for day in np.unique(test.days)]
    return lambda: np.concatenate([days[i] for i in rng.integers(len(days), size=len(days))])

"""Cases of the benchmark of negative transfer: the data on which all models are compared."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from _census import load_census
from _census_setting import CENSUS as ALL_CENSUS
from _data import Dataset
from _label_rates import replace_labels
from _metrics import Metric
from _networks import Recipe
from _second_tasks import INCOME, load_income_beside
from _synthetic import make_flipped, make_many, make_synthetic
from _synthetic_setting import SYNTHETIC
from _training import Setting

import ple_keras as pk

CENSUS = ALL_CENSUS.with_overrides(epochs=5, batch_size=None)
BINARY = (INCOME, "never_married")
CORRELATIONS = (0.0, 0.2, 0.5, 0.8, 1.0)
CENSUS_SHARES = (0.003, 0.01, 0.03, 0.1, 1.0)
SYNTHETIC_SHARES = (0.01, 0.03, 0.1)  # of 24,000 rows: 240, 720 and 2,400 labels
TASK_COUNTS = (2, 4, 8)


@dataclass(frozen=True)
class Case:
    """Data and loss weights on which all models are compared.

    Attributes:
        setting: The setting, a key of `SETTINGS`.
        group: The cases of a group are columns of one table and points of one line.
        column: The case's place in its group, such as a loss weight.
        measures: The tasks that are measured, by the title of a table. Only they select the epoch.
        load: `(rows, data seed) -> Dataset`.
        recipe: Recipe of the networks.
        data: "census" or "synthetic".
        seeds_per_draw: The number of seeds for one draw of the data. None if the data are fixed.
        weights: Loss weights that are not 1, by task.
        alone: The name of the case whose single-task models are the same, or "".
    """

    setting: str
    group: str
    column: str
    measures: dict[str, list[str]]
    load: Callable[[int | None, int], Dataset]
    recipe: Recipe
    data: str
    seeds_per_draw: int | None = None
    weights: tuple[tuple[str, float], ...] = ()
    alone: str = ""

    @property
    def name(self) -> str:
        """Name of the case, which is unique in its setting."""
        return f"{self.group}, {self.column}"

    @property
    def title(self) -> str:
        """Name of the case for readers."""
        return ("income " if self.setting == "weight" else "") + readable(self.name)

    @property
    def tasks(self) -> list[str]:
        """The tasks that are measured."""
        return [task for tasks in self.measures.values() for task in tasks]

    @property
    def has_missing_labels(self) -> bool:
        """Whether a task has few labels."""
        return self.setting == "scarce" and self.column != f"{1:.1%} of labels"

    def draw(self, rows: int | None, seed: int) -> Setting:
        """Return the data and models for a seed."""
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        dataset = self.load(rows, seed // self.seeds_per_draw if self.seeds_per_draw else 0)

        def head(task: str, tower: pk.ExpertBlock, reduction: Any = None) -> pk.Head:
            kind = pk.BinaryHead if task in BINARY else pk.RegressionHead
            return kind(task, tower, reduction=reduction)

        def trees(task: str, seed: int) -> Any:
            binary = task in BINARY
            kind = HistGradientBoostingClassifier if binary else HistGradientBoostingRegressor
            return kind(max_iter=300, learning_rate=0.06, early_stopping=True, random_state=seed)

        metrics = [task_metric(task, measured=task in self.tasks) for task in dataset.tasks]
        return Setting(dataset, metrics, head, trees, self.recipe, dict(self.weights))


def readable(name: str) -> str:
    """Return a name of a case or group for readers. The names in files keep an older wording."""
    return name.replace("beside", "next to")


def task_metric(task: str, measured: bool) -> Metric:
    """Return the AUC of a binary task, or the squared error of a regression."""
    from sklearn.metrics import roc_auc_score

    if task in BINARY:
        return Metric(task, "AUC", "auc", 1, roc_auc_score, weight=float(measured))
    key = "mean_squared_error"
    return Metric(task, "MSE", key, -1, relative_squared_error, weight=float(measured))


def relative_squared_error(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the mean squared error over the variance of the labels."""
    return float(np.mean((labels - predictions) ** 2) / np.var(labels))


def weight_cases(second: str, weights: list[float]) -> list[Case]:
    """Return income next to a second task, for each loss weight of the second task."""
    measures = {"AUC of income": [INCOME]}
    if second == "age":
        measures["squared error of age"] = ["age"]
    return [
        Case(
            setting="weight",
            group=f"beside {second}",
            column=f"weight {weight:g}",
            measures=measures,
            load=lambda rows, seed: load_income_beside(second, rows, seed),
            recipe=CENSUS,
            data="census",
            weights=((second, weight),),
            alone="without age" if second == "age" else "all columns",
        )
        for weight in weights
    ]


def scarce_cases() -> list[Case]:
    """Return pairs of tasks of which the first has few labels."""
    census = [
        Case(
            setting="scarce",
            group="income beside never_married",
            column=f"{share:.1%} of labels",
            measures={"AUC of income": [INCOME], "AUC of never_married": ["never_married"]},
            load=partial(_keep_labels, lambda rows, seed: load_census(rows, 0), INCOME, share),
            recipe=CENSUS,
            data="census",
            seeds_per_draw=1,
        )
        for share in CENSUS_SHARES
    ]
    synthetic = [
        Case(
            setting="scarce",
            group=f"beside {'an equal' if correlation else 'an unrelated'} task",
            column=f"{share:.0%} of labels",
            measures={
                "squared error of the scarce task": ["task_1"],
                "squared error of the other task": ["task_2"],
            },
            load=partial(_keep_labels, partial(make_synthetic, correlation), "task_1", share),
            recipe=SYNTHETIC,
            data="synthetic",
            seeds_per_draw=1,
        )
        for correlation in (1.0, 0.0)
        for share in SYNTHETIC_SHARES
    ]
    return census + synthetic


def _keep_labels(
    load: Callable[[int | None, int], Dataset], task: str, share: float, rows: int | None, seed: int
) -> Dataset:
    """Load data and hide all but a share of a task's training labels."""
    dataset = load(rows, seed)
    labels = dataset.train.labels[task].copy()
    order = np.random.default_rng([seed, 3]).permutation(len(labels))
    labels[order[round(share * len(labels)) :]] = np.nan
    return replace_labels(dataset, task, labels)


def correlation_cases() -> list[Case]:
    """Return pairs of tasks, from unrelated to equal, and one with a relation that varies."""
    related = [("correlation", f"{p:g}", partial(make_synthetic, p)) for p in CORRELATIONS]
    varying = [("relation that depends on the example", "flipped sign", make_flipped)]
    return [
        Case(
            setting="correlation",
            group=group,
            column=column,
            measures={"squared error": ["task_1", "task_2"]},
            load=load,
            recipe=SYNTHETIC,
            data="synthetic",
            seeds_per_draw=2,
        )
        for group, column, load in related + varying
    ]


def task_cases() -> list[Case]:
    """Return several tasks, of which the first half are related."""
    return [
        Case(
            setting="tasks",
            group="number of tasks",
            column=str(count),
            measures={
                "squared error of related tasks": _task_names(0, count // 2),
                "squared error of unrelated tasks": _task_names(count // 2, count),
            },
            load=partial(make_many, count),
            recipe=replace(SYNTHETIC, widths=_widths(count)),
            data="synthetic",
            seeds_per_draw=1,
        )
        for count in TASK_COUNTS
    ]


def _task_names(first: int, end: int) -> list[str]:
    return [f"task_{k + 1}" for k in range(first, end)]


def _widths(tasks: int) -> dict[str, tuple[int, ...]]:
    """Return widths for about the same number of parameters as PLE, whose experts are tasks + 1."""
    bottom = SYNTHETIC.widths["bottom"][0] * (tasks + 1) // 3
    return {**SYNTHETIC.widths, "bottom": (bottom, 64), "single": (bottom // tasks, 64)}

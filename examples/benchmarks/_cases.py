"""The cases of `never_worse` (see docs/maintainers/never_worse.md)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ._data import (
    INCOME,
    NEVER_MARRIED,
    SECOND_TASKS,
    Dataset,
    load_census,
    load_income,
    make_flipped,
    make_many,
    make_synthetic,
)
from ._networks import CENSUS, Recipe, synthetic_recipe

WEIGHTS = (0.1, 1.0, 10.0, 100.0)
CENSUS_SHARES = (0.003, 0.01, 0.03, 0.1, 1.0)
SYNTHETIC_SHARES = (0.01, 0.03, 0.1)  # of 24,000 rows: 240, 720 and 2,400 labels
CORRELATIONS = (0.0, 0.2, 0.5, 0.8, 1.0)
TASK_COUNTS = (2, 4, 8)


@dataclass(frozen=True)
class Case:
    """Data and loss weights on which all models are compared.

    Attributes:
        setting: The setting, a key of `PUBLISHED_SEEDS`.
        group: The cases that differ in one value.
        column: The value, such as a loss weight.
        measures: The measured tasks, by the title of a table. Only these select the epoch.
        load: `(rows, data seed) -> Dataset`.
        data: "census" or "synthetic".
        seeds_per_draw: The number of seeds per draw of the data, or None if the data are fixed.
        weights: Loss weights that are not 1, by task.
        alone: The name of the case whose single-task models are the same, or "".
    """

    setting: str
    group: str
    column: str
    measures: dict[str, list[str]]
    load: Callable[[int, int], Dataset]
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
        return f"income {self.name}" if self.setting == "weight" else self.name

    @property
    def problem(self) -> str:
        """Name of the problem, which cases with different loss weights share."""
        return self.group if self.setting == "weight" else self.title

    @property
    def tasks(self) -> list[str]:
        """The tasks that are measured."""
        return [task for tasks in self.measures.values() for task in tasks]

    @property
    def has_missing_labels(self) -> bool:
        """Whether a task has few labels."""
        return self.setting == "scarce" and self.column != f"{1:.1%} of labels"

    @property
    def recipe(self) -> Recipe:
        """Recipe of the networks."""
        return CENSUS if self.data == "census" else synthetic_recipe(len(self.tasks))

    def draw(self, rows: int, seed: int) -> Dataset:
        """Return the data for a seed."""
        return self.load(rows, seed // self.seeds_per_draw if self.seeds_per_draw else 0)


def all_cases() -> list[Case]:
    """Return the 32 cases."""
    return [*weight_cases(), *scarce_cases(), *correlation_cases(), *task_cases()]


def weight_cases() -> list[Case]:
    """Return income next to each second task, with each loss weight of the second task."""
    return [
        Case(
            setting="weight",
            group=f"next to {second}",
            column=f"weight {weight:g}",
            measures={"AUC of income": [INCOME]}
            | ({"squared error of age": ["age"]} if second == "age" else {}),
            load=partial(load_income, second),
            data="census",
            weights=((second, weight),),
            alone="without age" if second == "age" else "all columns",
        )
        for second in SECOND_TASKS
        for weight in WEIGHTS
    ]


def scarce_cases() -> list[Case]:
    """Return pairs of tasks, the first of which has few labels."""

    def census(rows: int, seed: int) -> Dataset:
        return load_census(rows, 0)

    of_census = [
        Case(
            setting="scarce",
            group="income next to never_married",
            column=f"{share:.1%} of labels",
            measures={"AUC of income": [INCOME], "AUC of never_married": [NEVER_MARRIED]},
            load=partial(_keep_labels, census, INCOME, share),
            data="census",
            seeds_per_draw=1,
        )
        for share in CENSUS_SHARES
    ]
    synthetic = [
        Case(
            setting="scarce",
            group=f"next to {'an equal' if correlation else 'an unrelated'} task",
            column=f"{share:.0%} of labels",
            measures={
                "squared error of the scarce task": ["task_1"],
                "squared error of the other task": ["task_2"],
            },
            load=partial(_keep_labels, partial(make_synthetic, correlation), "task_1", share),
            data="synthetic",
            seeds_per_draw=1,
        )
        for correlation in (1.0, 0.0)
        for share in SYNTHETIC_SHARES
    ]
    return of_census + synthetic


def _keep_labels(
    load: Callable[[int, int], Dataset], task: str, share: float, rows: int, seed: int
) -> Dataset:
    """Load data and hide all but a share of a task's training labels."""
    dataset = load(rows, seed)
    labels = dataset.train.labels[task].copy()
    order = np.random.default_rng([seed, 3]).permutation(len(labels))
    labels[order[round(share * len(labels)) :]] = np.nan
    return dataset.with_labels(task, labels)


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
            data="synthetic",
            seeds_per_draw=2,
        )
        for group, column, load in related + varying
    ]


def task_cases() -> list[Case]:
    """Return several tasks, the first half of which are related."""
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
            data="synthetic",
            seeds_per_draw=1,
        )
        for count in TASK_COUNTS
    ]


def _task_names(first: int, end: int) -> list[str]:
    return [f"task_{k + 1}" for k in range(first, end)]

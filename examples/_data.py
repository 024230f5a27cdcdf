"""What every data set of the examples looks like to the models."""

from dataclasses import dataclass, field

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Split:
    """Rows of a data set: what a model reads, and what it is to say.

    Attributes:
        inputs: Arrays `(rows, columns)` by the name of the model's input.
        labels: Arrays `(rows,)` by task, NaN where a row has no label.
        days: Array `(rows,)` of the day that each row is from, where rows of one day share more
            than the inputs say; None where rows are independent.
    """

    inputs: Arrays
    labels: Arrays
    days: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.labels.values())))


@dataclass(frozen=True)
class Dataset:
    """A data set in three parts.

    Attributes:
        train: The rows to train on.
        validation: The rows that choose the checkpoint.
        test: The rows to report.
        cardinalities: For every integer input, the number of codes of each of its columns. An
            input that is not in here holds real numbers.
    """

    train: Split
    validation: Split
    test: Split
    cardinalities: dict[str, list[int]] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """The tasks, in order."""
        return list(self.train.labels)

    @property
    def rows(self) -> dict[str, int]:
        """The number of rows of each part."""
        return {part: len(getattr(self, part)) for part in ("train", "validation", "test")}


def take(split: Split, rows: np.ndarray) -> Split:
    """The given rows of a split."""
    return Split(
        {name: values[rows] for name, values in split.inputs.items()},
        {task: values[rows] for task, values in split.labels.items()},
        None if split.days is None else split.days[rows],
    )


def labelled(split: Split, tasks: list[str]) -> Split:
    """The rows that have a label of at least one of the tasks."""
    known = np.any([~np.isnan(split.labels[task]) for task in tasks], axis=0)
    return split if known.all() else take(split, np.flatnonzero(known))

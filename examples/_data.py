"""What every data set of the examples looks like to the models."""

from dataclasses import dataclass, field

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Split:
    """Rows of a data set: what a model reads, and what it is to say.

    Attributes:
        inputs: Arrays `(rows, columns)` by the name of the model's input.
        labels: Arrays `(rows,)` by task.
    """

    inputs: Arrays
    labels: Arrays

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


def take(split: Split, rows: np.ndarray) -> Split:
    """The given rows of a split."""
    return Split(
        {name: values[rows] for name, values in split.inputs.items()},
        {task: values[rows] for task, values in split.labels.items()},
    )

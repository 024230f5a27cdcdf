"""Tables of categories and numbers as a network's inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from _data import Arrays

MIN_COUNT = 10


@dataclass(frozen=True)
class Encoder:
    """What the training rows say about the columns of a data frame.

    Attributes:
        values: The frequent values of each categorical column.
        edges: Where each numeric column is cut into bins.
        transform: What the numbers go through before they are standardized.
        mean: Of the transformed numbers, by column.
        deviation: Their standard deviation.
    """

    values: dict[str, list[Any]]
    edges: dict[str, np.ndarray]
    transform: Callable[[np.ndarray], np.ndarray]
    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def fit(
        cls,
        train: Any,
        categorical: Sequence[str],
        numeric: Sequence[str],
        bin_edges: Callable[[np.ndarray], np.ndarray],
        transform: Callable[[np.ndarray], np.ndarray] = np.asarray,
    ) -> "Encoder":
        """Read the training rows.

        Args:
            train: Their data frame.
            categorical: Names of the columns that hold categories.
            numeric: Names of the columns that hold numbers.
            bin_edges: From a numeric column to where it is cut.
            transform: What the numbers go through before they are standardized.
        """
        numbers = transform(train[list(numeric)].to_numpy("float64"))
        deviation = np.nanstd(numbers, axis=0)
        return cls(
            values={name: _frequent_values(train[name]) for name in categorical},
            edges={name: bin_edges(train[name].to_numpy("float64")) for name in numeric},
            transform=transform,
            mean=np.nanmean(numbers, axis=0),
            deviation=np.where(deviation > 0, deviation, 1.0),
        )

    @property
    def cardinalities(self) -> dict[str, list[int]]:
        """The number of codes of each column of `categories` and of `bins`."""
        return {
            "categories": [len(values) + 1 for values in self.values.values()],
            "bins": [len(edges) + 1 for edges in self.edges.values()],
        }

    def encode(self, frame: Any) -> Arrays:
        """The rows of a data frame.

        Returns:
            `categories`, codes of the categorical columns, 0 for a value that the training rows
            hold fewer than `MIN_COUNT` times or not at all; `bins`, the number of edges at or
            below each number, 0 for a missing one; `numbers`, transformed and standardized, 0
            for a missing one.
        """
        numbers = self.transform(frame[list(self.edges)].to_numpy("float64"))
        numbers = np.nan_to_num((numbers - self.mean) / self.deviation)
        return {
            "categories": _stack([_codes(frame[name], of) for name, of in self.values.items()]),
            "bins": _stack([_bins(frame[name], edges) for name, edges in self.edges.items()]),
            "numbers": numbers.astype("float32"),
        }


def _frequent_values(column: Any) -> list[Any]:
    counts = column.value_counts()
    return sorted(counts.index[counts >= MIN_COUNT])


def _codes(column: Any, values: list[Any]) -> np.ndarray:
    """1, 2, ... for the values, 0 for any other."""
    import pandas as pd

    return pd.Index(values).get_indexer(column) + 1


def _bins(column: Any, edges: np.ndarray) -> np.ndarray:
    numbers = np.nan_to_num(column.to_numpy("float64"), nan=-np.inf)
    return np.searchsorted(edges, numbers, side="right")


def _stack(columns: list[np.ndarray]) -> np.ndarray:
    return np.stack(columns, axis=1).astype("int32")

"""Encoding of tables with categories and numbers as network inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from _data import Arrays

MIN_COUNT = 10


@dataclass(frozen=True)
class Encoder:
    """Encoder of data frame columns, fitted to the training rows.

    Attributes:
        values: The frequent values of each categorical column.
        edges: The bin edges of each numeric column.
        transform: Function applied to the numbers before they are standardized.
        mean: Mean of the transformed numbers, by column.
        deviation: Standard deviation of the transformed numbers, by column.
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
        """Fit an encoder to the training rows.

        Args:
            train: Data frame of the training rows.
            categorical: Names of the columns that hold categories.
            numeric: Names of the columns that hold numbers.
            bin_edges: Function from the values of a numeric column to its bin edges.
            transform: Function applied to the numbers before they are standardized.
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
        """Number of codes of each column of `categories` and of `bins`."""
        return {
            "categories": [len(values) + 1 for values in self.values.values()],
            "bins": [len(edges) + 1 for edges in self.edges.values()],
        }

    def encode(self, frame: Any) -> Arrays:
        """Encode the rows of a data frame.

        Returns:
            A dict with three arrays. `categories`: codes of the categorical columns, 0 for a value
            that occurs fewer than `MIN_COUNT` times in the training rows. `bins`: the number of
            edges at or below each number, 0 for a missing one. `numbers`: transformed and
            standardized numbers, 0 for a missing one.
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
    """Return 1, 2, ... for the values in their order, and 0 for all others."""
    import pandas as pd

    return pd.Index(values).get_indexer(column) + 1


def _bins(column: Any, edges: np.ndarray) -> np.ndarray:
    numbers = np.nan_to_num(column.to_numpy("float64"), nan=-np.inf)
    return np.searchsorted(edges, numbers, side="right")


def _stack(columns: list[np.ndarray]) -> np.ndarray:
    return np.stack(columns, axis=1).astype("int32")

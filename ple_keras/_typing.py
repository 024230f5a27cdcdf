"""The types that signatures name."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import keras
import numpy as np

# The tensors of the three backends have no class in common, and arrays may stand for them.
Tensor: TypeAlias = Any

Shape: TypeAlias = tuple[int | None, ...]
TaskName: TypeAlias = str

ByStream: TypeAlias = Mapping[str, Tensor]
Streams: TypeAlias = Tensor | ByStream  # one tensor for every stream, or one for each
StreamShapes: TypeAlias = Shape | Mapping[str, Shape]
Nested: TypeAlias = Tensor | Mapping[str, "Nested"] | Sequence["Nested"]
NestedShape: TypeAlias = Shape | Mapping[str, "NestedShape"] | Sequence["NestedShape"]

LayerLike: TypeAlias = keras.Layer | int | Sequence[int]  # a template, or the units of one
LossFunction: TypeAlias = Callable[..., Tensor]
LossLike: TypeAlias = str | LossFunction | keras.Loss
MetricLike: TypeAlias = str | LossFunction | keras.Metric
Activation: TypeAlias = str | Callable[[Tensor], Tensor] | None
Initializer: TypeAlias = str | Callable[..., Tensor] | keras.Initializer
Regularizer: TypeAlias = str | Callable[[Tensor], Tensor] | keras.Regularizer | None
DType: TypeAlias = str | keras.DTypePolicy | None
Logs: TypeAlias = dict[str, float] | None


class HasTask(Protocol):
    """A head: the blocks take the names of their tasks from heads without knowing the classes."""

    task: TaskName


class HasTaskNames(Protocol):
    """A TaskHeads."""

    @property
    def task_names(self) -> list[TaskName]:
        """The tasks that have features, in order."""


Outputs: TypeAlias = (
    Sequence[TaskName] | Sequence[HasTask] | Mapping[TaskName, HasTask] | HasTaskNames
)


class Store(Protocol):
    """A layer's part of a weights file."""

    def keys(self) -> Iterable[str]:
        """The names of its arrays."""

    def __getitem__(self, key: str) -> np.ndarray: ...

    def __setitem__(self, key: str, value: np.ndarray) -> None: ...

"""Types for signatures."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import keras
import numpy as np

# The tensors of the three backends have no common class. Arrays are accepted too.
Tensor: TypeAlias = Any

Config: TypeAlias = dict[str, Any]  # the config of a layer, loss or metric
Shape: TypeAlias = tuple[int | None, ...]
TaskName: TypeAlias = str

ByName: TypeAlias = Mapping[str, Tensor]
Streams: TypeAlias = Tensor | ByName  # one tensor for all streams, or one per stream
StreamShapes: TypeAlias = Shape | Mapping[str, Shape]
Nested: TypeAlias = Tensor | Mapping[str, "Nested"] | Sequence["Nested"]
NestedShape: TypeAlias = Shape | Mapping[str, "NestedShape"] | Sequence["NestedShape"]
# The dtypes that Keras does not cast, of a tensor or per column; None for floats.
FixedDTypes: TypeAlias = str | Mapping[str, "FixedDTypes"] | None

# A variable and an index of it. The index () stands for the whole variable.
WeightSlice: TypeAlias = tuple[keras.Variable, tuple[int | slice, ...]]

LayerLike: TypeAlias = keras.Layer | int | Sequence[int]  # a template, or its units
StreamLayers: TypeAlias = LayerLike | Mapping[str, LayerLike]  # one for all, or one per stream
LossFunction: TypeAlias = Callable[..., Tensor]
LossLike: TypeAlias = str | LossFunction | keras.Loss
MetricLike: TypeAlias = str | LossFunction | keras.Metric
Activation: TypeAlias = str | Callable[[Tensor], Tensor] | None
Initializer: TypeAlias = str | Callable[..., Tensor] | keras.Initializer
Regularizer: TypeAlias = str | Callable[[Tensor], Tensor] | keras.Regularizer | None
DType: TypeAlias = str | keras.DTypePolicy | None
Logs: TypeAlias = dict[str, float] | None
Store: TypeAlias = MutableMapping[str, np.ndarray]  # the part of a weights file of a layer

# Options. Arguments with a default can also be None.
GateInput: TypeAlias = Literal["stream", "context", "both"]
GroupWeighting: TypeAlias = Literal["rows", "equal"]
LearnedWeighting: TypeAlias = Literal["uncertainty"]
LossReduction: TypeAlias = Literal["sum_over_batch_size", "label_root", "by_target"]
Normalization: TypeAlias = Literal["batch", "layer"]


# Blocks know heads by these protocols, since they do not import the classes.


@runtime_checkable
class HasTask(Protocol):
    """A head."""

    task: TaskName


@runtime_checkable
class HasFactors(HasTask, Protocol):
    """A ProductHead, which reads no features."""

    of: Sequence[TaskName]


@runtime_checkable
class HasTaskNames(Protocol):
    """A TaskHeads."""

    @property
    def task_names(self) -> list[TaskName]:
        """The tasks whose heads read features, in order."""


class HasLabels(HasTask, Protocol):
    """A head, as checks of labels know it."""

    targets: Sequence[str] | None

    def check_labels(self, labels: Tensor) -> None:
        """Check an array of labels before training."""

    def _present_labels(self, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return the labels that are not missing, and True for each of them."""


Outputs: TypeAlias = (
    Sequence[TaskName] | Sequence[HasTask] | Mapping[TaskName, HasTask] | HasTaskNames
)

"""The unit of a regression's labels, and its loss in standard deviations."""

from typing import Any

import numpy as np
from keras import ops

from ple_keras._checks import check_number, short_repr
from ple_keras._keras.internals import in_symbolic_scope
from ple_keras._keras.registration import register
from ple_keras._keras.saving import read_array
from ple_keras._typing import LossLike, Store, Tensor
from ple_keras.labels.label_arrays import ERRORS, loss_name, masks_elements
from ple_keras.labels.label_statistics import LabelStatistics
from ple_keras.losses.head_losses import WrappedLoss
from ple_keras.losses.masked_loss import example_losses

MIN_DEVIATION = 1e-18  # the square of its inverse is finite in float32


class LabelScale:
    """The mean and the standard deviation of the labels of a task, one number for each unit.

    A head shares it with its losses, which read it when they are called. It may therefore be set
    after `compile`, but not after the first step, since compiled steps contain the numbers.

    Args:
        mean: A number for each unit; None to set it later.
        deviation: As `mean`.

    Attributes:
        is_given: Whether both were given or loaded, so that labels do not set them.
        is_used: Whether a prediction or a loss has been computed.
    """

    def __init__(
        self, mean: list[float] | None = None, deviation: list[float] | None = None
    ) -> None:
        self.mean, self.deviation = mean, deviation
        self.is_given = mean is not None
        self.is_used = False

    def set(self, task: str, statistics: LabelStatistics) -> None:
        """Take the mean and the deviation of the labels of a task.

        Raises:
            ValueError: If labels of a unit do not vary, or steps were computed with other numbers.
        """
        mean, deviation = statistics.mean, statistics.deviation
        smallest = np.maximum(np.finfo("float32").eps * np.abs(mean), MIN_DEVIATION)
        if not (deviation > smallest).all():
            raise ValueError(
                f"y[{task!r}] must have labels that vary in each unit, because its head has "
                f"standardize=True. Received: deviation={np.round(deviation, 6).tolist()} of "
                f"labels={statistics.labels.tolist()} in y[{task!r}]"
            )
        self.replace(task, mean.tolist(), deviation.tolist())

    def replace(self, task: str, mean: list[float] | None, deviation: list[float] | None) -> None:
        """Take other numbers, unless steps were computed with those of before."""
        if self.is_used and (mean, deviation) != (self.mean, self.deviation):
            raise ValueError(
                f"The mean and the deviation of {task!r} must not change after the first step, "
                "since compiled steps keep those of before. Create new heads to use other labels. "
                f"Received: mean={mean} after mean={self.mean}"
            )
        self.mean, self.deviation = mean, deviation

    def save(self, store: Store) -> None:
        """Write the numbers to a file, if they are known."""
        if self.mean is not None:
            for key, numbers in self.get_config().items():
                store[key] = np.array(numbers, "float64")

    def load(self, task: str, units: int, store: Store) -> Store:
        """Take the numbers of a file, and return its other entries.

        Raises:
            ValueError: If steps were computed with others.
        """
        keys = [key for key in store.keys() if key in self.get_config()]  # noqa: SIM118, no dict
        if keys:
            arrays = {key: read_array(store, key) for key in keys}
            mean, deviation = check_scale(arrays.get("mean"), arrays.get("deviation"), units, True)
            self.replace(task, mean, deviation)
            self.is_given = True
        return {key: store[key] for key in store.keys() if key not in keys}  # noqa: SIM118

    def to_units(self, values: Tensor) -> Tensor:
        """Return `mean + deviation * values`, for values `(..., units)`."""
        if self.mean is None and in_symbolic_scope():  # `build` of a subclassed model
            return values
        mean, deviation = self._constants(values)
        return mean + deviation * values

    def standardize(self, values: Tensor) -> Tensor:
        """Return `(values - mean) / deviation`, for values `(..., units)` or `(..., units, 1)`."""
        mean, deviation = self._constants(values)
        return (values - mean) / deviation

    def _constants(self, values: Tensor) -> tuple[Any, Any]:
        # `fit` calls the losses in a symbolic scope first, where an error leaves the model intact.
        if self.mean is None or self.deviation is None:
            raise ValueError(
                "A RegressionHead with standardize=True needs the mean and the deviation of its "
                "labels before the first step. Call adapt(y) of the TaskHeads with the labels of "
                "training, or create the head with mean and deviation. Compile the model again if "
                "it failed so, or if it was saved before adapt. Received: mean=None"
            )
        self.is_used = self.is_used or not in_symbolic_scope()
        if len(self.mean) == 1:
            return self.mean[0], self.deviation[0]
        mean, deviation = (
            ops.convert_to_tensor(numbers, values.dtype) for numbers in (self.mean, self.deviation)
        )
        is_by_element = values.shape[-1] == 1
        return (mean[:, None], deviation[:, None]) if is_by_element else (mean, deviation)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"mean": self.mean, "deviation": self.deviation}


@register
class StandardizedLoss(WrappedLoss):
    """A loss of labels and predictions in standard deviations from the mean of the labels.

    It does not depend on the unit of the labels: a squared error is divided by their variance, an
    absolute error by their deviation, and the delta of Huber is in deviations.

    Args:
        loss: A squared or absolute error, Huber or LogCosh, or a custom loss.
        scale: The mean and the deviation.
    """

    def __init__(self, loss: LossLike, scale: LabelScale) -> None:
        super().__init__(loss, "standardized")
        if loss_name(self.loss) not in ERRORS | {""}:
            raise ValueError(
                "loss must be a squared or an absolute error, Huber, LogCosh or a custom loss if "
                f"standardize=True. Received: loss={loss!r}"
            )
        self.scale = scale
        self.masks_elements = masks_elements(self.loss)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, y_pred = self.scale.standardize(y_true), self.scale.standardize(y_pred)
        return example_losses(self.loss, y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale.get_config()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(config["loss"], LabelScale(**config["scale"]))


def check_scale(
    mean: Any, deviation: Any, units: int, standardize: bool
) -> tuple[list[float] | None, list[float] | None]:
    """Return the arguments `mean` and `deviation` of a RegressionHead, a float for each unit."""
    if mean is None and deviation is None:
        return None, None
    received = f"Received: mean={short_repr(mean)}, deviation={short_repr(deviation)}"
    if not standardize or mean is None or deviation is None:
        raise ValueError(
            "mean and deviation must be given together, with standardize=True. "
            f"{received}, standardize={standardize}"
        )
    means, deviations = (
        [check_number(number, name) for number in np.ravel(numbers).tolist()]
        for name, numbers in (("mean", mean), ("deviation", deviation))
    )
    if len(means) != units or len(deviations) != units:
        raise ValueError(f"mean and deviation must have a number for each of {units=}. {received}")
    if min(deviations) < MIN_DEVIATION:
        raise ValueError(f"deviation must be at least {MIN_DEVIATION}. {received}")
    return means, deviations

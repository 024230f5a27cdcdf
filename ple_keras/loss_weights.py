"""The weights of the tasks' losses: variables of TaskHeads, which the losses read."""

import uuid
import weakref
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._compiling import to_snake_case
from ple_keras._registration import register

_WAITING: "weakref.WeakSet[LossWeights]" = weakref.WeakSet()  # read from files, not yet found


@register
class LossWeights:
    """Where the losses find the variables that weigh them.

    TaskHeads owns the variables and one such object, which its losses share. In a file, the
    losses' configs and the weights of TaskHeads hold its key; while the file loads, the losses
    come first and wait, until TaskHeads finds them by the key. From then on all have a new one:
    other layers may take their weights from the same file. A loss that was never found has lost
    its weight, and says so.

    Args:
        key: What a file knows it by.
    """

    def __init__(self, key: str | None = None) -> None:
        self.key = key or uuid.uuid4().hex
        self.multipliers: Any = None
        self.log_variances: Any = None
        self._computed: dict[int, Any] = {}

    def bind(self, multipliers: Any, log_variances: Any) -> None:
        """Say which variables these are, both `(K,)`; log-variances None if they aren't learned."""
        self.multipliers, self.log_variances = multipliers, log_variances

    def _become(self, other: "LossWeights") -> None:
        self.key = other.key
        self.bind(other.multipliers, other.log_variances)
        self._computed = other._computed

    def is_tied_to(self, other: "LossWeights") -> bool:
        """Whether both are the same variables."""
        is_bound = self.multipliers is not None
        return self is other or (is_bound and self.multipliers is other.multipliers)

    def save(self, store: Any) -> None:
        """Write the key and the variables into a layer's part of a file."""
        store["key"] = np.frombuffer(self.key.encode(), dtype=np.uint8)
        store["loss_multipliers"] = ops.convert_to_numpy(self.multipliers)
        if self.log_variances is not None:
            store["log_variances"] = ops.convert_to_numpy(self.log_variances)

    def load(self, store: Any) -> None:
        """Read them, and hand the variables and the own key to the losses that wait for the file's.

        A file may lack them: one of before there were any, or without learned weights.
        """
        keys = list(store.keys())
        if "loss_multipliers" in keys:
            self.multipliers.assign(store["loss_multipliers"])
        if self.log_variances is not None and "log_variances" in keys:
            self.log_variances.assign(store["log_variances"])
        if "key" in keys:
            key = np.asarray(store["key"]).tobytes().decode()
            for other in list(_WAITING):
                if other.key == key:
                    other._become(self)
                    _WAITING.discard(other)

    def multiplier(self, index: int) -> Any:
        """What multiplies all of a task's loss.

        Raises:
            ValueError: if the variables are not known.
        """
        if self.multipliers is None:
            raise ValueError(
                "The loss has lost its tie to the TaskHeads layer that holds its weight. Compile "
                "the model again: model.compile(model.optimizer, **heads.compile_kwargs()), with "
                "the TaskHeads of this very model, built. Received: a loss from a config"
            )
        return ops.convert_to_tensor(self.multipliers)[index]

    @property
    def are_learned(self) -> bool:
        """Whether there are log-variances."""
        return self.log_variances is not None

    def learned(self, index: int, loss: Any) -> tuple[Any, Any]:
        """`c exp(-s)` and `a s`, with the log-variance s and the constants of its form."""
        scale, slope = uncertainty_form(loss)
        log_variance = ops.convert_to_tensor(self.log_variances)[index]
        return scale * ops.exp(-log_variance), slope * log_variance

    def in_force(self, index: int, loss: Any) -> float:
        """What multiplies a task's loss now, beside its fixed weight."""
        weight = self.multiplier(index)
        if self.are_learned:
            weight = weight * self.learned(index, loss)[0]
        return float(ops.convert_to_numpy(weight))

    def hand_over(self, index: int, arguments: tuple[Any, ...], loss: Any) -> None:
        """Keep a loss for whoever asks next, of the same task and the very same arguments."""
        self._computed[index] = (arguments, loss)

    def handed_over(self, index: int, arguments: tuple[Any, ...]) -> Any:
        """What was kept, once; None if there is nothing."""
        kept, loss = self._computed.pop(index, ((), None))
        return loss if [*map(id, kept)] == [*map(id, arguments)] else None

    def get_config(self) -> dict[str, Any]:
        return {"key": self.key}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LossWeights":
        weights = cls(**config)
        _WAITING.add(weights)
        return weights


def uncertainty_form(loss: Any) -> tuple[float, float]:
    """c and a of `c exp(-s) L + a s`, the negative log-likelihood with the scale `exp(s)`.

    Squared errors are a normal distribution's, with s its log-variance: `L / (2 sigma^2) + log
    sigma`. Absolute errors are a Laplace distribution's, with s the logarithm of its scale. For
    any other loss it is the scaled softmax of Kendall, Gal and Cipolla (CVPR 2018), `L / sigma^2 +
    log sigma`.
    """
    loss = keras.losses.get(getattr(loss, "loss", loss))
    names = [cls.__name__ for cls in type(loss).__mro__]
    if not isinstance(loss, keras.Loss):
        names = [getattr(loss, "__name__", "")]
    forms = {"mean_squared_error": (0.5, 0.5), "mean_absolute_error": (1.0, 1.0)}
    known = (forms[name] for name in map(to_snake_case, names) if name in forms)
    return next(known, (1.0, 0.5))

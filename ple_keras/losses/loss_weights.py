"""The weights of the losses of tasks that are trained together."""

import threading
import uuid
import weakref
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._keras.names import to_snake_case
from ple_keras._keras.registration import register
from ple_keras._keras.saving import read_text, write_text
from ple_keras._typing import LossLike, Store, Tensor
from ple_keras.losses._tensor_marks import mark

_here = threading.local()


@register
class LossWeights:
    """The variables that weigh the losses of a TaskHeads.

    Args:
        key: The key by which the losses' configs name it; None before there are any.

    Attributes:
        multipliers: The multiplier of each task's loss, a variable `(K,)`; None before `bind`.
        log_variances: The learned log-variances, a variable `(K,)`; None if they aren't learned.
    """

    def __init__(self, key: str | None = None) -> None:
        self.key = key
        self.multipliers: Any = None
        self.log_variances: Any = None
        self._last_loss: dict[int, tuple[tuple[Any, ...], Any]] = {}

    def bind(self, multipliers: keras.Variable, log_variances: keras.Variable | None) -> None:
        """Set the variables."""
        self.multipliers, self.log_variances = multipliers, log_variances

    def set_key(self, key: str) -> None:
        """Take the key of a config, for the losses that this thread deserializes next."""
        self.key = key
        _registry().made[key] = self

    def new_key(self) -> None:
        """Draw a key for new losses. Layers loaded from one file share the key of that file."""
        self.key = uuid.uuid4().hex

    def mark(self, predictions: Iterable[Tensor]) -> None:
        """Mark predictions as those of the layer that has these weights."""
        for prediction in predictions:
            mark(prediction, self)

    def save(self, store: Store) -> None:
        """Write the key and the variables into a layer's part of a file, if it is built."""
        if self.multipliers is None:
            return
        if self.key:
            write_text(store, "key", self.key)
        store["loss_multipliers"] = ops.convert_to_numpy(self.multipliers)
        if self.log_variances is not None:
            store["log_variances"] = ops.convert_to_numpy(self.log_variances)

    def load(self, store: Store) -> None:
        """Read the variables, and the key where there is none yet.

        A file may lack them: one of before there were any, or without learned weights.

        Raises:
            ValueError: if a multiplier is negative or not finite; then nothing is read.
        """
        stored = {key: np.asarray(store[key]) for key in store.keys()}  # noqa: SIM118, no mapping
        multipliers = stored.get("loss_multipliers")
        if multipliers is not None:
            if not (np.isfinite(multipliers) & (multipliers >= 0)).all():
                raise ValueError(
                    "The file must hold finite loss_multipliers of at least 0. "
                    f"Received: loss_multipliers={multipliers.tolist()}"
                )
            self.multipliers.assign(multipliers)
        if self.log_variances is not None and "log_variances" in stored:
            self.log_variances.assign(stored["log_variances"])
        if not self.key:
            self.key = read_text(store, "key")
            _bind_waiting_losses(self)

    def multiplier(self, index: int) -> Tensor:
        """Return the multiplier of a task's loss.

        Raises:
            ValueError: if the layer isn't built.
        """
        if self.multipliers is None:
            raise ValueError(
                "The TaskHeads whose weights a loss reads must be built. Compile the model with "
                "that of this very model. Received: built=False"
            )
        return ops.convert_to_tensor(self.multipliers)[index]

    @property
    def are_learned(self) -> bool:
        """Whether there are log-variances."""
        return self.log_variances is not None

    def learned(self, index: int, loss: LossLike) -> tuple[Any, Any]:
        """Return `c exp(-s)` and `a s`, with the log-variance s and the constants of its form."""
        scale, slope = uncertainty_form(loss)
        log_variance = ops.convert_to_tensor(self.log_variances)[index]
        return scale * ops.exp(-log_variance), slope * log_variance

    def in_force(self, index: int, loss: LossLike) -> float:
        """Return the current factor of a task's loss, without its fixed weight."""
        weight = self.multiplier(index)
        if self.are_learned:
            weight = weight * self.learned(index, loss)[0]
        return float(ops.convert_to_numpy(weight))

    def keep_loss(self, index: int, arguments: tuple[Tensor, ...], loss: Tensor) -> None:
        """Keep a task's loss of these arguments for `take_loss`."""
        self._last_loss[index] = arguments, loss

    def take_loss(self, index: int, arguments: tuple[Tensor, ...]) -> Tensor | None:
        """Return and drop the kept loss if it is of these very arguments; else None."""
        kept, loss = self._last_loss.pop(index, ((), None))
        return loss if [*map(id, kept)] == [*map(id, arguments)] else None

    def get_config(self) -> dict[str, Any]:
        return {"key": self.key}


class _Registry:
    """What a thread has deserialized.

    Attributes:
        made: The LossWeights that was made last from a config with a key, by key.
        waiting: The losses without LossWeights, by key.
    """

    def __init__(self) -> None:
        self.made: Any = weakref.WeakValueDictionary()
        self.waiting: dict[str, Any] = {}


def _registry() -> _Registry:
    """Return the registry of this thread."""
    if not hasattr(_here, "registry"):
        _here.registry = _Registry()
    registry: _Registry = _here.registry
    return registry


def _bind_waiting_losses(weights: LossWeights) -> None:
    """Tie the losses that wait for a key, if there are no more than one model has."""
    waiting = list(_registry().waiting.pop(weights.key or "", ()))
    places = [(type(loss), loss.index) for loss in waiting]
    if len(set(places)) == len(places):
        for loss in waiting:
            loss.tied = weights


def uncertainty_form(loss: LossLike) -> tuple[float, float]:
    """Return c and a of `c exp(-s) L + a s`, the negative log-likelihood with the scale `exp(s)`.

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

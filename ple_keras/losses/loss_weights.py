"""The weights of the losses of jointly trained tasks."""

import json
import threading
import uuid
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._keras.names import to_snake_case
from ple_keras._keras.registration import register
from ple_keras._keras.saving import read_text, write_text
from ple_keras._typing import LossLike, Store, Tensor
from ple_keras.losses._tensor_marks import mark

LOGS_KEY = "epoch_logs"
EPOCHS = 2  # for which schedules get the logs
_thread_state = threading.local()


@register
class LossWeights:
    """The variables that weigh the losses of a TaskHeads.

    Args:
        key: The key in the configs of the losses; None before there are losses.

    Attributes:
        multipliers: The multiplier of each task's loss, a variable `(K,)`; None before `bind`.
        log_variances: The learned log-variances, a variable `(K,)`; None if they are not learned.
        epoch_logs: The logs of the last two epochs by epoch, if a schedule reads them.
    """

    def __init__(self, key: str | None = None) -> None:
        self.key = key
        self.multipliers: Any = None
        self.log_variances: Any = None
        self.epoch_logs: dict[int, dict[str, float]] = {}
        self._stored_losses: dict[int, tuple[tuple[Any, ...], Any]] = {}

    def bind(self, multipliers: keras.Variable, log_variances: keras.Variable | None) -> None:
        """Set the variables."""
        self.multipliers, self.log_variances = multipliers, log_variances

    def set_key(self, key: str) -> None:
        """Set the key from a config, for the losses that this thread deserializes next."""
        self.key = key
        registry().last_weights[key] = self

    def new_key(self) -> None:
        """Generate a key for new losses. Layers loaded from one file share the key of the file."""
        self.key = uuid.uuid4().hex

    def mark(self, predictions: Iterable[Tensor]) -> None:
        """Mark predictions as made by the layer that owns these weights."""
        for prediction in predictions:
            mark(prediction, self)

    def save(self, store: Store) -> None:
        """Write the key and the variables to the store of a layer, if it is built."""
        if self.multipliers is None:
            return
        if self.key:
            write_text(store, "key", self.key)
        store["loss_multipliers"] = ops.convert_to_numpy(self.multipliers)
        if self.log_variances is not None:
            store["log_variances"] = ops.convert_to_numpy(self.log_variances)
        if self.epoch_logs:
            write_text(store, LOGS_KEY, json.dumps(self.epoch_logs))

    def load(self, store: Store) -> None:
        """Read the variables and the logs, and the key if there is none yet.

        Older files, and files without learned weights, lack some of them.

        Raises:
            ValueError: If a multiplier is negative or not finite. Nothing is read then.
        """
        stored = {key: np.asarray(store[key]) for key in store.keys()}  # noqa: SIM118, not a mapping
        multipliers = stored.get("loss_multipliers")
        if multipliers is not None:
            if not (np.isfinite(multipliers) & (multipliers >= 0)).all():
                raise ValueError(
                    "The file must contain finite loss_multipliers of at least 0. "
                    f"Received: loss_multipliers={multipliers.tolist()}"
                )
            self.multipliers.assign(multipliers)
        if self.log_variances is not None and "log_variances" in stored:
            self.log_variances.assign(stored["log_variances"])
        logs = json.loads(read_text(store, LOGS_KEY) or "{}")
        self.epoch_logs = {int(epoch): of_epoch for epoch, of_epoch in logs.items()}
        if not self.key:
            self.key = read_text(store, "key")
            _bind_waiting_losses(self)

    def add_epoch_logs(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Store the logs of an epoch, with those of the epoch before."""
        recent = {e: self.epoch_logs[e] for e in self.epoch_logs if epoch - EPOCHS < e < epoch}
        self.epoch_logs = {**recent, epoch: dict(logs)}

    def multiplier(self, index: int) -> Tensor:
        """Return the multiplier of a task's loss.

        Raises:
            ValueError: If the layer is not built.
        """
        if self.multipliers is None:
            raise ValueError(
                "The TaskHeads of a loss must be built. Compile the model with the losses of its "
                "own TaskHeads. Received: built=False"
            )
        return ops.convert_to_tensor(self.multipliers)[index]

    @property
    def are_learned(self) -> bool:
        """Whether the weights are learned, as log-variances."""
        return self.log_variances is not None

    def learned_terms(self, index: int, loss: LossLike) -> tuple[Any, Any]:
        """Return `c exp(-s)` and `a s`, with the log-variance s and the c and a of the loss."""
        scale, slope = uncertainty_form(loss)
        log_variance = ops.convert_to_tensor(self.log_variances)[index]
        return scale * ops.exp(-log_variance), slope * log_variance

    def current_factor(self, index: int, loss: LossLike) -> float:
        """Return the current factor of a task's loss, without its fixed weight."""
        weight = self.multiplier(index)
        if self.are_learned:
            weight = weight * self.learned_terms(index, loss)[0]
        return float(ops.convert_to_numpy(weight))

    def store_loss(self, index: int, arguments: tuple[Tensor, ...], loss: Tensor) -> None:
        """Store a task's loss and the arguments of its call, for `pop_loss`."""
        self._stored_losses[index] = arguments, loss

    def pop_loss(self, index: int, arguments: tuple[Tensor, ...]) -> Tensor | None:
        """Return and remove the stored loss if its arguments are the same objects; else None."""
        kept, loss = self._stored_losses.pop(index, ((), None))
        return loss if [*map(id, kept)] == [*map(id, arguments)] else None

    def discard_losses(self) -> None:
        """Discard the stored losses, with the tensors and graphs that they refer to."""
        self._stored_losses.clear()

    def get_config(self) -> dict[str, Any]:
        return {"key": self.key}


class _Registry:
    """The objects that a thread has deserialized.

    Attributes:
        last_weights: The last LossWeights made from a config with a key, by key.
        waiting_losses: The losses without LossWeights, by key.
    """

    def __init__(self) -> None:
        self.last_weights: Any = weakref.WeakValueDictionary()
        self.waiting_losses: dict[str, Any] = {}


def registry() -> _Registry:
    """Return the registry of this thread."""
    if not hasattr(_thread_state, "registry"):
        _thread_state.registry = _Registry()
    found: _Registry = _thread_state.registry
    return found


def _bind_waiting_losses(weights: LossWeights) -> None:
    """Bind the losses that wait for the key, unless they belong to several models."""
    waiting = list(registry().waiting_losses.pop(weights.key or "", ()))
    places = [(type(loss), loss.index) for loss in waiting]
    if len(set(places)) == len(places):
        for loss in waiting:
            loss.weights_by_key = weights


def uncertainty_form(loss: LossLike) -> tuple[float, float]:
    """Return c and a of `c exp(-s) L + a s`, the negative log-likelihood with the scale `exp(s)`.

    Squared errors have a normal distribution with the log-variance s: `L / (2 sigma^2) + log
    sigma`. Absolute errors have a Laplace distribution, and s is the logarithm of its scale. All
    other losses have the scaled softmax of Kendall, Gal and Cipolla (CVPR 2018): `L / sigma^2 + log
    sigma`.
    """
    loss = keras.losses.get(getattr(loss, "loss", loss))
    names = [cls.__name__ for cls in type(loss).__mro__]
    if not isinstance(loss, keras.Loss):
        names = [getattr(loss, "__name__", "")]
    forms = {"mean_squared_error": (0.5, 0.5), "mean_absolute_error": (1.0, 1.0)}
    known = (forms[name] for name in map(to_snake_case, names) if name in forms)
    return next(known, (1.0, 0.5))

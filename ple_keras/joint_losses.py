"""The losses of tasks that are trained together, and where they find their weights.

TaskHeads owns the variables that weigh the tasks' losses, in one `LossWeights`. Each task has two
losses, because Keras logs the last loss of an output as `{task}_loss`: `TrainedLoss`, weighted, is
minimized; `ShownLoss`, unweighted, has a weight of 0 in `compile`. `ShownLoss` takes over the value
that `TrainedLoss` has just computed: to compute it again costs 8 % of a step on PyTorch.

Losses from `compile_kwargs` hold the LossWeights. Losses from a config, as in files, have its key
alone. TaskHeads marks its predictions with its LossWeights, and a loss takes it from the first
predictions that it gets: so it belongs to the layer of its own model, however that was made, and in
whichever thread. Where the mark is lost (a layer after TaskHeads, DistributedDataParallel), the key
counts. Keras deserializes layers before losses, so a loss finds the layer of its key that this
thread has made last. A subclassed model makes its layer itself, without a key: then the losses wait
until the layer reads the key from the weights file. A loss with LossWeights refuses predictions of
another layer, and one that finds none raises an error: neither trains with wrong weights.
"""

import threading
import uuid
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.backend.common.symbolic_scope import in_symbolic_scope

from ple_keras._compiling import to_snake_case
from ple_keras._registration import register
from ple_keras._tensor_marks import maker_of, mark
from ple_keras.losses import MaskedLoss

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

    def bind(self, multipliers: Any, log_variances: Any) -> None:
        """Set the variables."""
        self.multipliers, self.log_variances = multipliers, log_variances

    def set_key(self, key: str) -> None:
        """Take the key of a config, for the losses that this thread deserializes next."""
        self.key = key
        _registry().made[key] = self

    def new_key(self) -> None:
        """Draw a key for new losses. Layers loaded from one file share the key of that file."""
        self.key = uuid.uuid4().hex

    def mark(self, predictions: Iterable[Any]) -> None:
        """Mark predictions as those of the layer that has these weights."""
        for prediction in predictions:
            mark(prediction, self)

    def save(self, store: Any) -> None:
        """Write the key and the variables into a layer's part of a file, if it is built."""
        if self.multipliers is None:
            return
        if self.key:
            store["key"] = np.frombuffer(self.key.encode(), dtype=np.uint8)
        store["loss_multipliers"] = ops.convert_to_numpy(self.multipliers)
        if self.log_variances is not None:
            store["log_variances"] = ops.convert_to_numpy(self.log_variances)

    def load(self, store: Any) -> None:
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
        if "key" in stored and not self.key:
            self.key = stored["key"].tobytes().decode()
            _tie_waiting(self)

    def multiplier(self, index: int) -> Any:
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

    def learned(self, index: int, loss: Any) -> tuple[Any, Any]:
        """Return `c exp(-s)` and `a s`, with the log-variance s and the constants of its form."""
        scale, slope = uncertainty_form(loss)
        log_variance = ops.convert_to_tensor(self.log_variances)[index]
        return scale * ops.exp(-log_variance), slope * log_variance

    def in_force(self, index: int, loss: Any) -> float:
        """Return the current factor of a task's loss, without its fixed weight."""
        weight = self.multiplier(index)
        if self.are_learned:
            weight = weight * self.learned(index, loss)[0]
        return float(ops.convert_to_numpy(weight))

    def keep_loss(self, index: int, arguments: tuple[Any, ...], loss: Any) -> None:
        """Keep a task's loss of these arguments for `take_loss`."""
        self._last_loss[index] = arguments, loss

    def take_loss(self, index: int, arguments: tuple[Any, ...]) -> Any:
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


def _tie_waiting(weights: LossWeights) -> None:
    """Tie the losses that wait for a key, if there are no more than one model has."""
    waiting = list(_registry().waiting.pop(weights.key or "", ()))
    places = [(type(loss), loss.index) for loss in waiting]
    if len(set(places)) == len(places):
        for loss in waiting:
            loss.tied = weights


def uncertainty_form(loss: Any) -> tuple[float, float]:
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


class _JointLoss(MaskedLoss):
    """A loss of a task that is trained together with others.

    Args:
        weights: The variables that weigh the tasks' losses, or, from a config, their key alone.
        index: The task's place in them.
        **kwargs: Arguments of `MaskedLoss`.
    """

    def __init__(self, weights: Any, index: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.index = index
        self.weights: LossWeights | None = weights
        self.tied: LossWeights | None = None  # for predictions without a mark
        self._key = None
        if isinstance(weights, Mapping):
            self.weights, self._key = None, weights["config"]["key"]
            self.tied = self._key and _registry().made.get(self._key)
            if self._key and not self.tied:
                _registry().waiting.setdefault(self._key, weakref.WeakSet()).add(self)

    def belongs_to(self, weights: LossWeights) -> bool:
        """Whether the loss reads these weights, or may still find them."""
        return self.weights is None or self.weights is weights

    def _find_weights(self, y_pred: Any) -> LossWeights | None:
        """Return the weights of the layer that made the predictions; None in a symbolic call.

        Raises:
            ValueError: if the layer is not the one that the loss belongs to, or not known.
        """
        made_by = maker_of(y_pred)
        if self.weights is not None and made_by in (None, self.weights):
            return self.weights
        if self.weights is not None:
            raise ValueError(
                f"The loss {self.name!r} belongs to another TaskHeads than the one that made the "
                "predictions, and would read its weights. Compile the model with its own: "
                "model.compile(optimizer, **heads.compile_kwargs()), with the TaskHeads of this "
                "very model. Received: y_pred of another TaskHeads"
            )
        if made_by is not None:
            self.weights = made_by
            made_by.key = made_by.key or self._key
            return self.weights
        if self.tied is None and not in_symbolic_scope():  # there Keras only builds its metrics
            raise ValueError(
                f"The loss {self.name!r} comes from a config and finds no TaskHeads that holds its "
                "weight. Save models in the .keras format, or compile the model again: "
                "model.compile(optimizer, **heads.compile_kwargs()), with the TaskHeads of this "
                "very model. Received: y_pred of no known TaskHeads"
            )
        return self.tied

    def get_config(self) -> dict[str, Any]:
        weights = LossWeights(self._key) if self.weights is None else self.weights
        serialized = keras.saving.serialize_keras_object(weights)
        return {**super().get_config(), "weights": serialized, "index": self.index}


@register
class TrainedLoss(_JointLoss):
    """The part of a task in the loss that is minimized: `w_k(t) L_k`, by the weight in force.

    Keras's own `loss_weights` are constants. This one reads variables of the TaskHeads layer: a
    multiplier that a callback moves, and, learned by uncertainty, a log-variance.

    Args:
        weights: The variables.
        index: The task's place in them.
        loss_weight: w_{k,0}, the task's fixed weight.
        **kwargs: Arguments of `MaskedLoss`.
    """

    def __init__(self, weights: Any, index: int, loss_weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(weights, index, **kwargs)
        self.loss_weight = loss_weight
        self._in_call: LossWeights | None = None

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        weights = self._in_call = self._find_weights(y_pred)
        loss = super().__call__(y_true, y_pred, sample_weight)
        if weights is None:
            return loss
        if not weights.are_learned:
            weights.keep_loss(self.index, (y_true, y_pred, sample_weight), loss)
        return self.loss_weight * weights.multiplier(self.index) * loss

    def call(self, y_true: Any, y_pred: Any) -> Any:
        values = super().call(y_true, y_pred)
        if self._in_call is None or not self._in_call.are_learned:
            return values
        factor, term = self._in_call.learned(self.index, self.loss)
        return factor * values + term

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "loss_weight": self.loss_weight}


@register
class ShownLoss(_JointLoss):
    """L_k as `{task}_loss` shows it: unweighted, and without a gradient.

    Args:
        weights: As for `TrainedLoss`.
        index: The task's place in them.
        **kwargs: Arguments of `MaskedLoss`.
    """

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        weights = self._find_weights(y_pred)
        loss = weights and weights.take_loss(self.index, (y_true, y_pred, sample_weight))
        if loss is None:
            loss = super().__call__(y_true, y_pred, sample_weight)
        return ops.stop_gradient(loss)

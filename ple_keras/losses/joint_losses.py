"""Losses of jointly trained tasks, and the variables that weigh them.

TaskHeads owns the variables, in one `LossWeights`. Each task has two losses, because Keras logs the
last loss of an output as `{task}_loss`. `TrainedLoss`, weighted, is minimized. `LoggedLoss`,
unweighted, has a weight of 0 in `compile`. It takes the value that `TrainedLoss` has just computed:
computing it again costs 8 % of a step on PyTorch.

TaskHeads marks its predictions with its LossWeights. Losses from `compile_kwargs` hold their
LossWeights, and a loss from a file takes those of the first predictions that it receives. It
therefore belongs to the layer of its own model, independent of how and in which thread the model
was made. A loss raises an error if the predictions have another mark, or if it comes from a file
and they have none.
"""

import weakref
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._keras.internals import in_symbolic_scope
from ple_keras._keras.names import to_snake_case
from ple_keras._keras.registration import register
from ple_keras._keras.saving import read_array
from ple_keras._keras.tensors import TensorTable
from ple_keras._typing import LossLike, Store, Tensor
from ple_keras.losses.masked_loss import MaskedLoss


class LossWeights:
    """The variables that weigh the losses of a TaskHeads.

    Attributes:
        multipliers: The multiplier of each task's loss, a variable `(K,)`; None before `build`.
        log_variances: The learned log-variances, a variable `(K,)`; None if they are not learned.
        hedged: The heads whose predictions mix those of branches, by the index of their task. While
            torch.compile traces, where predictions have no marks, they keep the branches.
    """

    def __init__(self) -> None:
        self.multipliers: Any = None
        self.log_variances: Any = None
        self.hedged: dict[int, Any] = {}
        self._stored_losses: dict[int, tuple[tuple[Any, ...], Any]] = {}

    def save(self, store: Store) -> None:
        """Write the variables to the store of a layer, if it is built."""
        if self.multipliers is not None:
            store["loss_multipliers"] = ops.convert_to_numpy(self.multipliers)
        if self.log_variances is not None:
            store["log_variances"] = ops.convert_to_numpy(self.log_variances)

    def load(self, store: Store) -> None:
        """Read the variables. Files without learned weights lack some of them.

        Raises:
            ValueError: If a multiplier is negative or not finite. Nothing is read then.
        """
        stored = {key: read_array(store, key) for key in store.keys()}  # noqa: SIM118, not a mapping
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


_marks = TensorTable()  # weak references to the LossWeights of predictions


def mark_predictions(predictions: Iterable[Tensor], weights: LossWeights) -> None:
    """Mark predictions as made by the layer that owns the weights. Their copies have no mark."""
    for prediction in predictions:
        _marks[prediction] = weakref.ref(weights)


def _marked_weights(prediction: Tensor) -> Any:
    """Return the LossWeights that a prediction is marked with; None if it has no mark."""
    weights = _marks.get(prediction)
    return weights and weights()


class _JointLoss(MaskedLoss):
    """A loss of a task that is trained jointly with others.

    Args:
        index: The task's index in the weights.
        weights: The variables that weigh the tasks' losses; None in a loss from a config, which
            takes those of the first predictions that it receives.
        **kwargs: Arguments of `MaskedLoss`.
    """

    def __init__(self, index: int, weights: LossWeights | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.index = index
        self.weights = weights

    def belongs_to(self, weights: LossWeights) -> bool:
        """Return whether the loss reads these weights, or has found none yet."""
        return self.weights is None or self.weights is weights

    def _find_weights(self, y_pred: Tensor) -> LossWeights | None:
        """Return the weights of the layer that made the predictions; None in a symbolic call.

        Raises:
            ValueError: If the loss belongs to another layer, or the layer is unknown.
        """
        marked = _marked_weights(y_pred)
        if self.weights is None:
            self.weights = marked
        elif marked not in (None, self.weights):
            raise ValueError(
                f"The loss {self.name!r} belongs to another TaskHeads than the predictions, so its "
                "weight would be wrong. Compile the model with the losses of its own TaskHeads: "
                "model.compile(optimizer, **heads.compile_kwargs()). In a custom loop, call "
                "compute_loss of its own TaskHeads. Received: y_pred of another TaskHeads"
            )
        # In a symbolic call, Keras only builds its metrics.
        if self.weights is None and not in_symbolic_scope():
            raise ValueError(
                f"The loss {self.name!r} comes from a file and can't find the TaskHeads that has "
                "its weight, because the predictions are not those of a TaskHeads itself: a layer "
                "after it, DistributedDataParallel or torch.compile made new tensors. Load the "
                "model, and before it is trained or evaluated, compile it with the arguments of "
                "the first compile: model.compile(model.optimizer, **heads.compile_kwargs()). This "
                "keeps the state of the optimizer. For predictions, load_model(path, "
                "compile=False) suffices. "
                "Received: y_pred of an unknown TaskHeads"
            )
        return self.weights

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "index": self.index}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Create a loss. Files of version 0.1.0 have a key as "weights"."""
        return cls(**{key: value for key, value in config.items() if key != "weights"})


@register
class TrainedLoss(_JointLoss):
    """The minimized loss of a task: `w_k(t) L_k`, with the current weight.

    Keras's own `loss_weights` are constants. This loss reads variables of the TaskHeads layer: a
    multiplier that a callback sets and, if learned by uncertainty, a log-variance.

    Args:
        index: As for `_JointLoss`.
        weights: As for `_JointLoss`.
        loss_weight: w_{k,0}, the task's fixed weight.
        **kwargs: Arguments of `MaskedLoss`.
    """

    def __init__(
        self,
        index: int,
        weights: LossWeights | None = None,
        loss_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(index, weights, **kwargs)
        self.loss_weight = loss_weight
        self._call_weights: LossWeights | None = None

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        weights = self._call_weights = self._find_weights(y_pred)
        loss = super().__call__(y_true, y_pred, sample_weight)
        if weights is None:
            return loss
        weight = self.loss_weight * weights.multiplier(self.index)
        if not weights.are_learned:
            weights.store_loss(self.index, (y_true, y_pred, sample_weight), loss)
        # In half precision, the product is float32, as the multiplier is.
        if self.index not in weights.hedged:
            return ops.multiply(weight, loss)
        value = ops.stop_gradient(loss)  # the weight does not scale the gradient of branches
        is_trained = ops.cast(ops.not_equal(weight, 0), weight.dtype)
        return ops.multiply(weight, value) + ops.multiply(is_trained, loss - value)

    def _find_branches(self, y_pred: Tensor) -> Any:
        branches, weights = super()._find_branches(y_pred), self._call_weights
        if branches or weights is None or self.index not in weights.hedged:
            return branches
        branches = weights.hedged[self.index]._pop_traced_branches()
        if branches is None and not in_symbolic_scope():
            raise ValueError(
                f"The loss {self.name!r} can't find the branches of a hedged task, which it "
                "trains, because the predictions are not those of a TaskHeads itself: a layer "
                "after it, or DistributedDataParallel with find_unused_parameters or static_graph, "
                "made new tensors. Make TaskHeads the last layer, and leave out these arguments. "
                "Received: y_pred without a mark"
            )
        return branches

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        values = super().call(y_true, y_pred)
        if self._call_weights is None or not self._call_weights.are_learned:
            return values
        terms = self._call_weights.learned_terms(self.index, self.loss)
        factor, term = (ops.cast(x, values.dtype) for x in terms)
        return factor * values + term

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "loss_weight": self.loss_weight}


@keras.saving.register_keras_serializable("ple_keras", "ShownLoss")  # the name in files
class LoggedLoss(_JointLoss):
    """The loss that is logged as `{task}_loss`: `L_k`, unweighted and without a gradient."""

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        weights = self._find_weights(y_pred)
        loss = weights and weights.pop_loss(self.index, (y_true, y_pred, sample_weight))
        if loss is None:
            loss = super().__call__(y_true, y_pred, sample_weight)
        return ops.stop_gradient(loss)

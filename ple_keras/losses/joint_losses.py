"""Losses of jointly trained tasks, and how they find their weights.

TaskHeads owns the variables that weigh the tasks' losses, in one `LossWeights`. Each task has two
losses, because Keras logs the last loss of an output as `{task}_loss`. `TrainedLoss`, weighted, is
minimized. `LoggedLoss`, unweighted, has a weight of 0 in `compile`. It takes the value that
`TrainedLoss` has just computed: computing it again costs 8 % of a step on PyTorch.

Losses from `compile_kwargs` hold the LossWeights. Losses from a config, as in files, hold only its
key. TaskHeads marks its predictions with its LossWeights, and a loss takes the LossWeights of the
first predictions that it receives. The loss therefore belongs to the layer of its own model,
independent of how and in which thread the model was made.

If the mark is lost (a layer after TaskHeads, DistributedDataParallel), the loss uses the key. Keras
deserializes layers before losses, so a loss finds the last layer with its key that this thread has
made. A subclassed model makes its layer itself, without a key. Its losses wait until the layer
reads the key from the weights file.

A loss raises an error if its LossWeights are not those of the predictions, or if it finds none. If
the mark is lost, it can't tell whose the predictions are.
"""

import weakref
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from ple_keras._keras.internals import in_symbolic_scope
from ple_keras._keras.registration import register
from ple_keras._typing import Tensor
from ple_keras.losses._tensor_marks import maker_of
from ple_keras.losses.loss_weights import LossWeights, registry
from ple_keras.losses.masked_loss import MaskedLoss


class _JointLoss(MaskedLoss):
    """A loss of a task that is trained jointly with others.

    Args:
        weights: The variables that weigh the tasks' losses, or, from a config, only their key.
        index: The task's index in them.
        **kwargs: Arguments of `MaskedLoss`.
    """

    def __init__(self, weights: LossWeights | Mapping[str, Any], index: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.index = index
        self.weights = weights if isinstance(weights, LossWeights) else None
        self.weights_by_key: LossWeights | None = None  # for predictions without a mark
        self._key = None
        if isinstance(weights, Mapping):
            self._key = weights["config"]["key"]
            self.weights_by_key = self._key and registry().last_weights.get(self._key)
            if self._key and not self.weights_by_key:
                registry().waiting_losses.setdefault(self._key, weakref.WeakSet()).add(self)

    def belongs_to(self, weights: LossWeights) -> bool:
        """Return whether the loss reads these weights, or has found none yet."""
        return self.weights is None or self.weights is weights

    def _find_weights(self, y_pred: Tensor) -> LossWeights | None:
        """Return the weights of the layer that made the predictions; None in a symbolic call.

        Raises:
            ValueError: If the loss belongs to another layer, or the layer is unknown.
        """
        made_by = maker_of(y_pred)
        if self.weights is not None and made_by in (None, self.weights):
            return self.weights
        if self.weights is not None:
            raise ValueError(
                f"The loss {self.name!r} belongs to another TaskHeads than the predictions, so its "
                "weight would be wrong. Compile the model with the losses of its own TaskHeads: "
                "model.compile(optimizer, **heads.compile_kwargs()). In a custom loop, call "
                "compute_loss of its own TaskHeads. Received: y_pred of another TaskHeads"
            )
        if made_by is not None:
            self.weights = made_by
            made_by.key = made_by.key or self._key
            return self.weights
        # In a symbolic call, Keras only builds its metrics.
        if self.weights_by_key is None and not in_symbolic_scope():
            raise ValueError(
                f"The loss {self.name!r} comes from a config and finds no TaskHeads with its "
                "weight. Save models in the .keras format, or compile the model again with the "
                "losses of its own TaskHeads: model.compile(optimizer, **heads.compile_kwargs()). "
                "Received: y_pred of an unknown TaskHeads"
            )
        return self.weights_by_key

    def get_config(self) -> dict[str, Any]:
        weights = LossWeights(self._key) if self.weights is None else self.weights
        serialized = keras.saving.serialize_keras_object(weights)
        return {**super().get_config(), "weights": serialized, "index": self.index}


@register
class TrainedLoss(_JointLoss):
    """The minimized loss of a task: `w_k(t) L_k`, with the current weight.

    Keras's own `loss_weights` are constants. This loss reads variables of the TaskHeads layer: a
    multiplier that a callback sets and, if learned by uncertainty, a log-variance.

    Args:
        weights: As for `_JointLoss`.
        index: The task's index in them.
        loss_weight: w_{k,0}, the task's fixed weight.
        **kwargs: Arguments of `MaskedLoss`.
    """

    def __init__(
        self,
        weights: LossWeights | Mapping[str, Any],
        index: int,
        loss_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(weights, index, **kwargs)
        self.loss_weight = loss_weight
        self._call_weights: LossWeights | None = None

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        weights = self._call_weights = self._find_weights(y_pred)
        loss = super().__call__(y_true, y_pred, sample_weight)
        if weights is None:
            return loss
        if not weights.are_learned:
            weights.store_loss(self.index, (y_true, y_pred, sample_weight), loss)
        multiplier = ops.cast(weights.multiplier(self.index), loss.dtype)
        return self.loss_weight * multiplier * loss

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
    """The loss that is logged as `{task}_loss`: `L_k`, unweighted and without a gradient.

    Args:
        weights: As for `_JointLoss`.
        index: The task's index in them.
        **kwargs: Arguments of `MaskedLoss`.
    """

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        weights = self._find_weights(y_pred)
        loss = weights and weights.pop_loss(self.index, (y_true, y_pred, sample_weight))
        if loss is None:
            loss = super().__call__(y_true, y_pred, sample_weight)
        return ops.stop_gradient(loss)

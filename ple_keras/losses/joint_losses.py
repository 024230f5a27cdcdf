"""The losses of tasks that are trained together, and where they find their weights.

TaskHeads owns the variables that weigh the tasks' losses, in one `LossWeights`. Each task has two
losses, because Keras logs the last loss of an output as `{task}_loss`: `TrainedLoss`, weighted, is
minimized; `LoggedLoss`, unweighted, has a weight of 0 in `compile`. `LoggedLoss` takes the value
that `TrainedLoss` has just computed: computing it again costs 8 % of a step on PyTorch.

Losses from `compile_kwargs` hold the LossWeights. Losses from a config, as in files, have its key
alone. TaskHeads marks its predictions with its LossWeights, and a loss takes it from the first
predictions that it gets: so it belongs to the layer of its own model, however that was made, and in
whichever thread. Where the mark is lost (a layer after TaskHeads, DistributedDataParallel), the key
counts. Keras deserializes layers before losses, so a loss finds the layer of its key that this
thread has made last. A subclassed model makes its layer itself, without a key: then the losses wait
until the layer reads the key from the weights file. A loss with LossWeights refuses predictions of
another layer, and one that finds none raises an error: neither trains with wrong weights.
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
from ple_keras.losses.loss_weights import LossWeights, _registry
from ple_keras.losses.masked_loss import MaskedLoss


class _JointLoss(MaskedLoss):
    """A loss of a task that is trained together with others.

    Args:
        weights: The variables that weigh the tasks' losses, or, from a config, their key alone.
        index: The task's place in them.
        **kwargs: Arguments of `MaskedLoss`.
    """

    def __init__(self, weights: LossWeights | Mapping[str, Any], index: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.index = index
        self.weights = weights if isinstance(weights, LossWeights) else None
        self.tied: LossWeights | None = None  # for predictions without a mark
        self._key = None
        if isinstance(weights, Mapping):
            self._key = weights["config"]["key"]
            self.tied = self._key and _registry().made.get(self._key)
            if self._key and not self.tied:
                _registry().waiting.setdefault(self._key, weakref.WeakSet()).add(self)

    def belongs_to(self, weights: LossWeights) -> bool:
        """Whether the loss reads these weights, or may still find them."""
        return self.weights is None or self.weights is weights

    def _find_weights(self, y_pred: Tensor) -> LossWeights | None:
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

    def __init__(
        self,
        weights: LossWeights | Mapping[str, Any],
        index: int,
        loss_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(weights, index, **kwargs)
        self.loss_weight = loss_weight
        self._in_call: LossWeights | None = None

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        weights = self._in_call = self._find_weights(y_pred)
        loss = super().__call__(y_true, y_pred, sample_weight)
        if weights is None:
            return loss
        if not weights.are_learned:
            weights.keep_loss(self.index, (y_true, y_pred, sample_weight), loss)
        return self.loss_weight * weights.multiplier(self.index) * loss

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        values = super().call(y_true, y_pred)
        if self._in_call is None or not self._in_call.are_learned:
            return values
        factor, term = self._in_call.learned(self.index, self.loss)
        return factor * values + term

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "loss_weight": self.loss_weight}


@keras.saving.register_keras_serializable("ple_keras", "ShownLoss")  # its name in files
class LoggedLoss(_JointLoss):
    """L_k as `{task}_loss` shows it: unweighted, and without a gradient.

    Args:
        weights: As for `TrainedLoss`.
        index: The task's place in them.
        **kwargs: Arguments of `MaskedLoss`.
    """

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        weights = self._find_weights(y_pred)
        loss = weights and weights.take_loss(self.index, (y_true, y_pred, sample_weight))
        if loss is None:
            loss = super().__call__(y_true, y_pred, sample_weight)
        return ops.stop_gradient(loss)

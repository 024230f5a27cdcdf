"""The head of a task that ranks the items of lists."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Self

import keras
from keras import ops

from ple_keras._keras.internals import get_mask, is_from_keras, set_mask
from ple_keras._keras.saving import register
from ple_keras._typing import ByName, Config, LayerLike, LossLike, MetricLike, Shape, Tensor
from ple_keras.families.family import Ranking
from ple_keras.heads.head import Head
from ple_keras.labels.sample_space import LabeledExamples, find_labeled, to_number_tensor
from ple_keras.metrics.masked_metric import call_metric


@register
class RankingHead(Head):
    """The scores of the items of lists, such as the results of a search: `(B, L, H) -> (B, L)`.

    A label is the relevance of an item, at least 0. Items without a label and masked items, such as
    padding, do not count. The loss is the mean over the lists with a labeled item:

        L = sum_b d_b w_b l_b / sum_b d_b

    d_b is 1 if list b has a labeled item, else 0, w_b is the sample weight of the list, and l_b the
    loss over its labeled items. If the loss returns a value for each item, l_b is their mean.
    Metrics omit lists without a relevant item, whose label is above 0, because every order of their
    items is equally good. KerasRS itself would count them as 0.

    Args:
        task: The task's name (see `TaskHeads`).
        loss: A KerasRS loss, such as `keras_rs.losses.PairwiseLogisticLoss()`, or another
            `keras.losses.Loss` whose `call` takes `{"labels": (B, L), "mask": (B, L)}` and scores
            `(B, L)`, and returns `(B,)` or `(B, L)`.
        metrics: KerasRS metrics, such as `keras_rs.metrics.NDCG(k=10)`. If None, the metric is the
            mean of the loss.
        tower: The task's own network (see `Head`). It scores each item separately.
        **kwargs: `loss_weight`, `missing_label`, `reduction` and `extra_metrics` (see `Head`), and
            Keras's layer arguments.

    Call arguments:
        inputs: The features of the items, `(B, L, H)`.
        training: Passed to the tower.

    Returns:
        The scores, `(B, L)`, at least float32. A higher score means a higher rank.

    Raises:
        TypeError: As for `Head`, and if `loss` is not a `keras.losses.Loss`, or is one of Keras's
            own, which do not take lists.
        ValueError: As for `Head`. In `build`, if the inputs are not `(B, L, H)`.

    Reference:

    - ListMLE: Xia, Liu, Wang, Zhang, Li, "Listwise Approach to Learning to Rank: Theory and
      Algorithm", ICML 2008. [doi:10.1145/1390156.1390306](https://doi.org/10.1145/1390156.1390306)

    Example:

    >>> head = RankingHead("click", keras_rs.losses.PairwiseLogisticLoss())  # doctest: +SKIP
    >>> tuple(head(keras.ops.ones((8, 20, 32))).shape)  # doctest: +SKIP
    (8, 20)
    """

    _own_family = Ranking()
    _set_by_class = ("units", "activation")

    def __init__(
        self,
        task: str,
        loss: LossLike,
        metrics: Sequence[MetricLike] | None = None,
        tower: LayerLike | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(task, 1, None, loss, metrics, tower, **kwargs)
        if not isinstance(self.loss, keras.Loss) or is_from_keras(type(self.loss)):
            raise TypeError(
                f"loss must be a loss of lists, such as one of keras_rs.losses. Received: {loss=}"
            )
        self._leading_axes = (None, None)

    def build(self, input_shape: Shape) -> None:
        if len(input_shape) != 3:
            raise ValueError(
                f"{self.name!r} must read (batch, items, features). Received: {input_shape=}"
            )
        super().build(input_shape)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Return the scores of the items."""
        return ops.squeeze(self.logits(inputs), -1)

    def example_losses(self, y_true: ByName, y_pred: Tensor) -> Tensor:
        """Return the loss of each list.

        Args:
            y_true: A dict of `labels` of items, `(B, L)`, and `mask`, `(B, L)`: False for items
                without a label.
            y_pred: The scores of the items, `(B, L)`.

        Returns:
            `(B,)`.
        """
        values = self.loss.call(y_true, y_pred)
        if len(values.shape) == 2:
            counts = ops.sum(ops.cast(y_true["mask"], values.dtype), axis=-1)
            values = ops.divide_no_nan(ops.sum(values, axis=-1), counts)
        # KerasRS treats negative labels as missing.
        is_negative = ops.any(y_true["mask"] & (y_true["labels"] < 0), axis=-1)
        return ops.where(is_negative, float("nan"), values)

    def _find_labeled(self, y_true: Tensor, y_pred: Tensor) -> LabeledExamples:
        """Return the labels of lists, as for `example_losses`, and the lists with a labeled item.

        The score of an item without a label becomes the lowest of its list: a metric that sorts the
        scores must not confuse it with the last labeled item.
        """
        where = f" of {self.task!r}"
        scores = to_number_tensor(y_pred, "y_pred", where)
        columns = ops.expand_dims(scores, -1)
        set_mask(columns, get_mask(y_pred))
        found = find_labeled(y_true, columns, [self.missing_label], 1, where)
        labels = ops.squeeze(ops.cast(found.labels, scores.dtype), -1)
        scores = ops.squeeze(found.predictions, -1)
        is_labeled = found.missing is None
        items = ops.ones_like(columns, "bool") if is_labeled else ops.logical_not(found.missing)
        items = ops.squeeze(items, -1)
        lowest = ops.min(scores, axis=-1, keepdims=True, initial=0.0)  # the batch can be empty
        scores = ops.where(items, scores, 2 * lowest - 1)
        is_unlabeled = ops.logical_not(ops.any(items, axis=-1, keepdims=True))
        return LabeledExamples({"labels": labels, "mask": items}, scores, is_unlabeled)

    def _update_metric(self, metric: keras.Metric, labeled: LabeledExamples) -> None:
        lists = labeled.labels
        has_relevant = ops.any(lists["mask"] & (lists["labels"] > 0), axis=-1)
        weights = ops.cast(has_relevant, metric.dtype)
        call_metric(metric, lists, labeled.predictions, weights, f" of {metric.name!r}")

    def compute_output_shape(self, input_shape: Any) -> Shape:
        return tuple(input_shape[:-1])

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Create a head, after importing KerasRS for its registered classes if they are used."""
        if "keras_rs>" in repr(config):
            import_module("keras_rs")
        return super().from_config(config)

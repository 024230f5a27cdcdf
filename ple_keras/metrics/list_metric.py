"""A metric of lists over their labelled items."""

from keras import ops

from ple_keras._keras.registration import register
from ple_keras._typing import Tensor
from ple_keras.labels.lists import labelled_items
from ple_keras.labels.sample_space import example_weights
from ple_keras.metrics.loss_mean import LossMean
from ple_keras.metrics.masked_metric import MaskedMetric


@register
class ListMetric(MaskedMetric):
    """A wrapper that computes a metric of KerasRS over the labelled items of lists.

    The metric gets `{"labels": ..., "mask": ...}`, scores `(B, L)`, and a weight for each list. A
    list without a relevant item, whose label is above 0, has the weight 0: every order of its items
    is equally good.

    Args:
        metric: As for `MaskedMetric`, and so are the other arguments.
    """

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Accumulate the lists of a batch.

        Args:
            y_true: Labels, `(B, L)` or `(B, L, 1)`.
            y_pred: Scores, `(B, L)`.
            sample_weight: Weights of the lists, `(B,)`.
        """
        where = f" of {self.display_name!r}"
        if isinstance(self.metric, LossMean):
            labels, scores = self.metric.loss.encode(y_true, y_pred, self.missing_label, where)
            super().update_state(labels, scores, sample_weight)
            return
        labels, scores, is_labelled = labelled_items(y_true, y_pred, self.missing_label, where)
        has_relevant = ops.any(is_labelled & (labels > 0), axis=-1)
        dtype = self.metric.dtype
        weights = example_weights(sample_weight, has_relevant, scores.shape[:1], dtype, where)
        y_true = {"labels": labels, "mask": is_labelled}
        try:
            self.metric.update_state(y_true, scores, sample_weight=weights)
        except Exception as error:
            raise ValueError(
                "metrics of a RankingHead must accept lists, as those of KerasRS do. "
                f"{self.display_name!r} failed: {error} Received: metric={self.metric!r}"
            ) from error

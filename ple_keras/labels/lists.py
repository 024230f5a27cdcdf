"""Labels of the items of lists, such as the results of a search."""

from typing import Any

from keras import ops

from ple_keras._keras.internals import mask_of, set_mask
from ple_keras._typing import Tensor
from ple_keras.labels.alignment import to_number_tensor
from ple_keras.labels.sample_space import sample_space


def labelled_items(
    y_true: Tensor, y_pred: Tensor, missing_label: float, where: str = ""
) -> tuple[Any, Any, Any]:
    """Return labels, scores and a mask of the labelled items, each `(B, L)`.

    Args:
        y_true: The labels of the items, `(B, L)` or `(B, L, 1)`.
        y_pred: Their scores, `(B, L)`. A Keras mask excludes items, such as padding.
        missing_label: The value of a missing label, in addition to NaN.
        where: Text after the name in messages, such as " of 'click_loss'".

    Returns:
        The labels, of the dtype of the scores. Labels and scores of other items are finite, and
        these scores are below all others of their list.

    Raises:
        TypeError: If labels or scores are not numbers.
        ValueError: If the shape of the labels does not match that of the scores.
    """
    scores = to_number_tensor(y_pred, "y_pred", where)
    columns = ops.expand_dims(scores, -1)
    set_mask(columns, mask_of(y_pred))
    labels, columns, is_labelled = sample_space(y_true, columns, missing_label, 1, where)
    scores, labels = ops.squeeze(columns, -1), ops.squeeze(ops.cast(labels, scores.dtype), -1)
    if is_labelled is None:
        return labels, scores, ops.ones_like(scores, dtype="bool")
    # A metric that sorts the scores must not confuse items without a label with the last one.
    lowest = ops.min(scores, axis=-1, keepdims=True, initial=0.0)  # there may be no list
    return labels, ops.where(is_labelled, scores, 2 * lowest - 1), is_labelled

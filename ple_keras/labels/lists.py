"""Labels of the items of lists, such as the results of a search."""

from keras import ops

from ple_keras._keras.internals import mask_of, set_mask
from ple_keras._typing import Tensor
from ple_keras.labels.alignment import to_number_tensor
from ple_keras.labels.sample_space import LabeledExamples, find_labeled

UNLABELED = -1.0  # the label of an item that does not count


def find_labeled_items(
    y_true: Tensor, y_pred: Tensor, missing_label: float, where: str = ""
) -> LabeledExamples:
    """Return labels and scores, and which lists and items are labeled.

    Args:
        y_true: The labels of the items, `(B, L)` or `(B, L, 1)`.
        y_pred: Their scores, `(B, L)`. A Keras mask excludes items, such as padding.
        missing_label: The value of a missing label, in addition to NaN.
        where: Text after the name in messages, such as " of 'click'".

    Returns:
        Labels and scores `(B, L)`, of the dtype of the scores. The label of an item without a label
        is -1, and its score is below all others of its list. A negative label is infinite, since
        KerasRS would take it for a missing one. `examples` has the lists with a labeled item,
        `(B,)`, and `numbers` the labeled items, `(B, L)`.

    Raises:
        TypeError: If labels or scores are not numbers.
        ValueError: If the shape of the labels does not match that of the scores.
    """
    scores = to_number_tensor(y_pred, "y_pred", where)
    columns = ops.expand_dims(scores, -1)
    set_mask(columns, mask_of(y_pred))
    found = find_labeled(y_true, columns, missing_label, 1, where)
    scores = ops.squeeze(found.predictions, -1)
    labels = ops.squeeze(ops.cast(found.labels, scores.dtype), -1)
    items = ops.ones_like(scores, dtype="bool") if found.examples is None else found.examples
    labels = ops.where(labels < 0, float("inf"), labels)
    # A metric that sorts the scores must not confuse items without a label with the last one.
    lowest = ops.min(scores, axis=-1, keepdims=True, initial=0.0)  # there may be no list
    return LabeledExamples(
        ops.where(items, labels, UNLABELED),
        ops.where(items, scores, 2 * lowest - 1),
        ops.any(items, axis=-1),
        items,
    )

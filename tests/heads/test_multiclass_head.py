"""MulticlassHead: class weights and refused arguments."""

import keras
import numpy as np
import pandas as pd
import pytest

import ple_keras as pk
from tests.heads.one_head import logs_of_head, loss_of_head
from tests.helpers import once
from tests.refusals import all_refused, table

WEIGHTS = [0.0, 2.0, 0.5]
INDICES = np.float32([0, 1, np.nan, 2, 1, 2, np.nan, 0])
RNG = np.random.default_rng(0)
SOFT = RNG.dirichlet([1, 1, 1], 8).astype("float32")
SOFT[[2, 5], 1] = np.nan
PREDICTIONS = RNG.dirichlet([1, 1, 1], 8).astype("float32")
SAMPLE_WEIGHTS = RNG.uniform(0.5, 2, 8).astype("float32")


def head_of(class_weight=WEIGHTS, **kwargs):
    return pk.MulticlassHead("a", num_classes=3, class_weight=class_weight, **kwargs)


def one_hot(labels):
    """Return labels as probabilities of the classes, NaN if missing."""
    if labels.ndim == 2:
        return np.float64(labels)
    missing = np.isnan(labels)
    return np.where(missing[:, None], np.nan, np.eye(3)[np.where(missing, 0, labels).astype(int)])


def weighted_losses(labels):
    """Return the loss of each example in float64, NaN if its label is missing."""
    y = one_hot(labels)
    return (y @ WEIGHTS) * -(y * np.log(np.float64(PREDICTIONS))).sum(-1)


LABELS = {"indices": (INDICES, {}), "soft": (SOFT, {"loss": "categorical_crossentropy"})}


every_label = pytest.mark.parametrize(("labels", "kwargs"), table(LABELS))


@every_label
@pytest.mark.parametrize(
    ("weights", "reduction"), [(None, "sum_over_batch_size"), (SAMPLE_WEIGHTS, None)]
)
def test_the_loss_agrees_with_numpy(labels, kwargs, weights, reduction):
    losses = weighted_losses(labels)
    weighted = losses * (1 if weights is None else weights)
    count = 8 if reduction else np.isfinite(losses).sum()
    loss = loss_of_head(head_of(reduction=reduction, **kwargs), labels, PREDICTIONS, weights)
    assert loss == pytest.approx(np.nansum(weighted) / count, rel=1e-6)


@every_label
def test_its_mean_is_a_metric(labels, kwargs):
    logs = logs_of_head(head_of(**kwargs), labels, np.log(PREDICTIONS))
    name = f"weighted_{kwargs.get('loss', 'sparse_categorical_crossentropy')}"
    assert set(logs) == {"loss", "a_loss", "accuracy", name}
    assert logs[name] == pytest.approx(np.nanmean(weighted_losses(labels)), rel=1e-5)


FORMS = {
    "list": ([0, 2, 0.5], [0.0, 2.0, 0.5]),
    "tensor": (keras.ops.convert_to_tensor([0.25, 2.0, 0.5]), [0.25, 2.0, 0.5]),
    "dict": ({0: 0, 1: 2.0, 2: 0.5}, [0.0, 2.0, 0.5]),
    "series_of_some": (pd.Series({2: 3, 0: 2}), [2.0, 1.0, 3.0]),
}


@once
@pytest.mark.parametrize(("weights", "expected"), table(FORMS))
def test_weights_are_a_sequence_or_by_class(weights, expected):
    head = head_of(weights)
    assert head.class_weight == expected
    assert pk.MulticlassHead.from_config(head.get_config()).class_weight == expected


def test_an_ignored_class_has_no_weight():
    ignored = 255
    head = head_of(loss=keras.losses.SparseCategoricalCrossentropy(ignore_class=ignored))
    labels = np.where(np.isnan(INDICES), ignored, INDICES).astype("float32")
    expected = np.nanmean(weighted_losses(INDICES))
    assert loss_of_head(head, labels, PREDICTIONS) == pytest.approx(expected, rel=1e-6)


REFUSED = {
    "short": ([1, 2], r"must have 3 weights.*class_weight=\[1, 2\]$"),
    "class": ({3: 1.0}, r"a dict with keys from 0 to 2.*class_weight=\{3: 1\.0\}$"),
    "negative": ([1, -1, 1], r"at least 0\. Received: class_weight\[1\]=-1$"),
    "nan": ({1: float("nan")}, r"must be finite .*Received: class_weight\[1\]=nan$"),
    "text": ("balanced", r"or be a dict.*class_weight='balanced'$"),
}


test_wrong_weights_are_refused = all_refused(head_of, REFUSED)

"""The AUC within groups, compared with scikit-learn."""

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import ple_keras as pk
from tests.helpers import every_backend, once
from tests.refusals import all_refused

pytestmark = once


def expected(labels, predictions, groups, weighting="rows"):
    areas, counts = [], []
    for group in np.unique(groups):
        inside = (groups == group) & ~np.isnan(labels)
        if len(np.unique(labels[inside])) == 2:
            areas.append(roc_auc_score(labels[inside], predictions[inside]))
            counts.append(inside.sum())
    return np.average(areas, weights=counts if weighting == "rows" else None)


def random_rows():
    """Return rows, some without a label, in groups, some with one class."""
    rng, rows = np.random.default_rng(0), 600
    labels = rng.integers(0, 2, rows).astype("float32")
    labels[rng.uniform(size=rows) < 0.3] = np.nan
    of_rows = rng.integers(0, 40, rows) ** 2
    labels[of_rows < 20] = np.where(np.isnan(labels[of_rows < 20]), np.nan, 1)
    return labels, rng.normal(size=rows).astype("float32"), of_rows


@pytest.mark.parametrize(("decimals", "weighting"), [(0, "rows"), (1, "equal"), (7, "rows")])
def test_the_mean_is_that_of_scikit_learn_group_by_group(decimals, weighting):
    labels, predictions, groups = random_rows()
    predictions = np.round(predictions, decimals)
    found = pk.grouped_auc(labels, predictions, groups, weighting)
    assert found == pytest.approx(expected(labels, predictions, groups, weighting), abs=1e-9)
    for group in np.unique(groups):  # and each group alone
        inside = groups == group
        y, p = labels[inside], predictions[inside]
        known = ~np.isnan(y)
        area = pk.grouped_auc(y, p, groups[inside])
        if len(np.unique(y[known])) == 2:
            assert area == pytest.approx(roc_auc_score(y[known], p[known]), abs=1e-9)
        else:
            assert np.isnan(area)


@every_backend
def test_groups_may_be_integers_strings_or_objects():
    labels, predictions, groups = random_rows()
    names = np.array([f"user {group}" for group in groups])
    area = pk.grouped_auc(labels, predictions, groups)
    for same in (names, names.astype(object), names.tolist(), names.astype("S"), -groups):
        assert pk.grouped_auc(labels, predictions, same) == pytest.approx(area, abs=1e-12)
    tensors = map(keras.ops.convert_to_tensor, (labels[:, None], predictions[:, None], groups))
    assert pk.grouped_auc(*tensors) == pytest.approx(area, abs=1e-12)


def test_the_labels_of_a_sequence_belong_to_the_group_of_its_row():
    labels, predictions, groups = random_rows()
    rows = groups[:120]
    area = expected(labels, predictions, np.repeat(rows, 5))
    found = pk.grouped_auc(labels.reshape(120, 5), predictions.reshape(120, 5, 1), rows)
    assert found == pytest.approx(area, abs=1e-9)


def test_infinite_predictions_are_ties_and_nan_gives_nan():
    inf = np.inf
    labels, predictions = np.array([0, 1, 0, 1]), np.array([inf, inf, -inf, -inf])
    assert pk.grouped_auc(labels, predictions, [3, 3, 3, 3]) == 0.5
    predictions[0] = np.nan
    assert np.isnan(pk.grouped_auc(labels, predictions, [3, 3, 3, 3]))
    labels = np.array([np.nan, 1, 0, 1])
    assert pk.grouped_auc(labels, predictions, [3, 3, 3, 3]) == 0.75
    assert np.isnan(pk.grouped_auc([], [], np.zeros(0, int)))


@pytest.mark.parametrize("dtype", ["int64", "bool", "Int64"])
def test_pandas_columns_are_arrays(dtype):
    y, p = pd.Series([0, 1, 0, 1], dtype=dtype), pd.Series([0.1, 0.2, 0.8, 0.7])
    names = pd.Series(["a", "a", "b", "b"], index=[4, 3, 2, 1])
    for groups in (names, names.astype("category"), pd.Series([3, 3, 4, 4], dtype="Int64")):
        assert pk.grouped_auc(y, p, groups) == 0.5
        assert pk.grouped_auc(y.to_frame(), p.to_frame(), groups) == 0.5
    if dtype == "Int64":
        y = pd.Series([0, 1, 0, None], dtype=dtype)
        assert pk.grouped_auc(y, p, names) == 1.0


ONE = ([0.0, 1.0], [0.1, 0.2])
TWO = [1, 1]
REFUSED = {
    "label": ([0, 0.5], ONE[1], TWO, r"be 0, 1 or missing.*labels=0\.5"),
    "transposed": (
        *(np.zeros((2, 3)), np.zeros((3, 2)), TWO),
        r"the shape \(3, 2\) of predictions\. Received: labels\.shape=\(2, 3\)",
    ),
    "groups": (*ONE, [1], r"the shape \(2,\).*Received: groups\.shape=\(1,\)"),
    "floats": (*ONE, [1.0, 2.0], TypeError, r"with astype\('int64'\)\. .*groups=\[\.\.\., 1"),
    "words": (ONE[0], ["a", "b"], TWO, TypeError, r"predictions must contain numbers.*dtype=<U1"),
    "weighting": (*ONE, TWO, "users", r"Received: weighting='users'"),
}


test_invalid_arguments_are_refused = all_refused(pk.grouped_auc, REFUSED)

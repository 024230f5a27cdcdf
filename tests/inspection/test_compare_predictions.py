"""Gains of predictions over others: values, groups, missing rows, statements and errors."""

import json

import numpy as np
import pytest
from scipy import special

import ple_keras as pk
from ple_keras.inspection.compare_predictions import Gain
from tests.helpers import once
from tests.refusals import NAN, all_refused

pytestmark = once
ROWS = 480
RNG = np.random.default_rng(0)
Y, A, B = RNG.normal(size=(3, ROWS))
MEANS, CLASSES = RNG.uniform(0.1, 0.9, (2, ROWS)), RNG.dirichlet(np.ones(3), (2, ROWS))
KINDS = {
    "binary": (np.arange(ROWS) % 2, MEANS, lambda y, p: -np.log(np.where(y, p, 1 - p))),
    "regression": (Y, (A, B), lambda y, p: (y - p) ** 2),
    "count": (np.arange(ROWS) % 4, 3 * MEANS, special.kl_div),
    "amount": (abs(Y), MEANS, lambda y, p: 2 * (np.sqrt(y) - np.sqrt(p)) ** 2 / np.sqrt(p)),
    "multiclass": (
        np.arange(ROWS) % 3,
        CLASSES,
        lambda y, p: -np.log(np.take_along_axis(p, y[:, None].astype(int), axis=1))[:, 0],
    ),
}


def compare(y, a, b, loss="regression", groups=None):
    both = {"a": {"t": a}, "b": {"t": b}}
    return pk.compare_predictions({"t": y}, both, {"t": loss}, groups).gains["t"]["b"]


def check_interval(found, a, b):
    """Check a gain with the losses `(labels, units)`; the first labels are the true ones."""
    gain = 1 - a[0].sum() / b[0].sum()
    e = (1 - gain) * b - a
    m = max(abs(e[0]).max(), np.sort(abs(e).max(axis=0))[-5])  # of 480 rows, 1% exceed the fifth
    half = (m + 2 * np.sqrt(m**2 + (e[0] ** 2).sum())) / b[0].sum()
    assert [found.gain, found.low, found.high] == pytest.approx(
        [100 * gain, 100 * (gain - half), 100 * (gain + half)]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_gains_and_losses_are_those_of_numpy(kind):
    y, predictions, loss = KINDS[kind]
    labels = {"binary": [0, 1], "count": [0, 2], "multiclass": [0, 1, 2]}.get(kind, [])
    labels = [y, *(np.full(ROWS, label) for label in labels)]
    a, b = (np.stack([loss(each, p) for each in labels]) for p in predictions)
    check_interval(compare(y[:, None], *predictions, kind), a, b)
    found = compare(y, *predictions, loss)
    check_interval(found, a[:1], b[:1])
    assert [found.loss, found.other_loss] == pytest.approx([a[0].mean(), b[0].mean()])


def half_deviances(y, m, p=1.7):
    return y ** (2 - p) / ((1 - p) * (2 - p)) - y * m ** (1 - p) / (1 - p) + m ** (2 - p) / (2 - p)


def test_a_head_is_a_kind_whose_intervals_know_other_labels():
    y = np.where(np.arange(ROWS) % 3, abs(Y), 0)
    labels = [y, np.zeros(ROWS), np.full(ROWS, y[y > 0].mean())]
    losses = [np.stack([half_deviances(label, p) for label in labels]) for p in MEANS]
    head = pk.TweedieHead("t", power=1.7, standardize=True)
    check_interval(compare(y, *MEANS, head), *losses)
    assert compare(Y, A, B, pk.RegressionHead("t", standardize=True)) == compare(Y, A, B)


def test_groups_are_the_units_of_the_interval():
    groups = np.arange(ROWS) // 3
    found = compare(Y, A, B, groups=[f"person {group}" for group in groups])
    check_interval(found, *(np.bincount(groups, (Y - p) ** 2)[None] for p in (A, B)))


def test_rows_count_if_they_have_a_label_and_both_predictions():
    y, a, b = (np.where(np.arange(ROWS) == row, NAN, x) for row, x in enumerate((Y, A, B)))
    assert compare(y, a, b) == compare(Y[3:], A[3:], B[3:])


def test_statements_the_table_and_json():
    y = np.arange(400) % 4 == 0
    p = np.where(y, 0.6, 0.2)
    close, rival = p + np.random.default_rng(0).normal(0, 0.002, 400), p * 0.9 + 0.05
    others = {"rival": rival, "equal": p, "close": close, "few": np.where(y.cumsum() < 9, p, NAN)}
    predictions = {name: {"late": each} for name, each in {"model": p, **others}.items()}
    found = pk.compare_predictions({"late": y}, predictions, {"late": "binary"})
    statements = [each.statement for each in found.gains["late"].values()]
    assert statements == ["better", "not worse", "not worse", "not decided"]
    assert compare(y, rival, p, "binary").statement == "worse"
    reasons = [each.reason for each in found.gains["late"].values()]
    assert reasons[:2] == ["the interval is above 0", "the interval is above -1"]
    assert reasons[-1] == (
        "too few rows or groups for an interval: fewer than 150, or fewer than 10 that decide"
    )
    assert compare(y, rival, p, "binary").reason == "the interval is below 0"
    undecided = Gain(0.1, -1.84, 2.0, 9, 1.0, 1.0, "not decided")
    assert undecided.reason == "the interval contains 0 and reaches -1.8"
    assert str(found).split("\n")[-1].split()[1:3] == ["few", "32"]
    assert json.loads(json.dumps(found.to_dict()))["gains"]["late"]["few"]["low"] is None


GOOD = {"y": {"t": Y}, "predictions": {"a": {"t": A}, "b": {"t": B}}, "losses": {"t": "regression"}}
OTHER = {
    "length": (B[1:], r"predictions\['b'\]\['t'\] must have 480 rows, like the arrays before it"),
    "text": (["x"] * ROWS, TypeError, r"predictions\['b'\]\['t'\] must contain numbers"),
    "shape": (np.ones((ROWS, 2)), r"predictions \(480, 2\) from 1 to 1"),
    "infinite": (np.full(ROWS, np.inf), "a finite number of at least 0 for each row"),
}
ARGUMENTS = {
    "labels": ({"y": Y}, TypeError, r"y must be a dict with keys among \['t'\]"),
    "task": ({"y": {"u": Y}}, r"y must have exactly the keys \['t'\]; missing: \['t'\]"),
    "one": ({"predictions": {"a": {"t": A}}}, "predictions must be a dict of at least two names"),
    "list": ({"predictions": [A, B]}, TypeError, "predictions must be a dict of at least two"),
    "array": ({"predictions": {"a": A, "b": B}}, TypeError, r"predictions\['a'\] must be a dict"),
    "no_task": ({"predictions": {"a": {}, "b": {}}}, r"predictions\['a'\] must have exactly"),
    "losses": ({"losses": ["regression"]}, TypeError, "losses must be a dict"),
    "kind": ({"losses": {"t": "mse"}}, r"losses\['t'\] must be one of \['binary',.*\]='mse'"),
    "other": ({"losses": {"t": pk.CountHead("u")}}, "an unbuilt head of 't' with the loss of one"),
    "loss": ({"losses": {"t": pk.RegressionHead("t", loss="mae")}}, "with the loss of one of them"),
    "value": ({"losses": {"t": "count"}}, r"allows the labels and predictions.* from -\d"),
    "mean": ({"losses": {"t": lambda y, p: np.mean(y - p)}}, "of at least 0 for each row"),
    "one_row": ({"y": {"t": np.where(np.arange(ROWS), NAN, 1)}}, r"two rows.*rows=1"),
    "one_group": ({"groups": ["x"] * ROWS}, r"two groups, with a label and predictions.*rows=480"),
    "no_group": ({"groups": np.full(ROWS, NAN)}, TypeError, "groups must be integers or strings"),
    "few_groups": ({"groups": [1, 2]}, r"groups must be an array of the shape \(480,\)"),
}
test_wrong_predictions_are_refused = all_refused(lambda b: compare(Y, A, b), OTHER)
test_wrong_arguments_are_refused = all_refused(
    lambda changed: pk.compare_predictions(**{**GOOD, **changed}), ARGUMENTS
)

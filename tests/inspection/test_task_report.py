"""Task reports: figures of labels and predictions, warnings, data formats, and the text."""

import json
import re
from functools import partial

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, numpy_of, once
from tests.models import (
    TASKS,
    chain,
    click_and_buy_heads,
    clicks_and_buys,
    compiled,
    heads_alone,
    loaded,
    tracked_block,
)
from tests.refusals import NAN, all_refused, check_refused

ROWS = 60
X = features(ROWS, 4)


def labels(rows=ROWS, seed=3):
    """Return labels of all kinds of heads, some missing."""
    rng = np.random.default_rng(seed)
    y = {
        "click": np.where(rng.uniform(size=rows) < 0.7, rng.integers(0, 2, rows), -1),
        "time": rng.normal(size=(rows, 2)),
        "kind": rng.integers(0, 3, rows)[:, None],
    }
    y["time"][:5, 0] = NAN
    return y


@once
@pytest.mark.parametrize("make", [pk.CountHead, partial(pk.RegressionHead, loss="poisson")])
def test_a_count_has_a_deviance(make):
    heads = pk.TaskHeads([make("visits"), pk.BinaryHead("click")])
    model = bottom_model(heads)
    y = {"visits": np.arange(ROWS) % 4.0, "click": np.arange(ROWS) % 2}
    y["visits"][:9] = NAN
    heads["visits"].set_weights([0.1 * np.ones((5, 1)), np.ones(1)])
    use = pk.task_report(model, X, y).tasks["visits"]
    is_known = np.arange(ROWS) >= 9
    count, p = y["visits"][is_known], np.float64(numpy_of(model(X)["visits"]))[is_known, 0]

    def deviance(p):
        return 2 * (np.where(count > 0, count * np.log(np.maximum(count, 1) / p), 0) - count + p)

    of_mean = deviance(count.mean()).mean()
    expected = {
        "labels": ROWS - 9,
        "loss": (p - count * np.log(p)).mean(),
        "deviance": deviance(p).mean(),
        "relative_error": deviance(p).mean() / of_mean,
        "relative_error_deviation": deviance(p).std() / np.sqrt(ROWS - 9) / of_mean,
        "calibration": p.sum() / count.sum(),
        "rmse": NAN,
    }
    assert {key: getattr(use, key) for key in expected} == close(expected)
    assert f"deviance {expected['deviance']:.4g}" in str(pk.task_report(model, X, y))
    with pytest.raises(ValueError, match=r"'visits'\] must be at least 0 for the loss 'poisson'"):
        pk.task_report(model, X, {**y, "visits": -y["visits"]})


def all_heads(**click):
    time = pk.RegressionHead("time", units=2, loss_weight=0.5)
    kind = pk.MulticlassHead("kind", num_classes=3)
    return pk.TaskHeads([pk.BinaryHead("click", missing_label=-1, **click), time, kind])


def bottom_model(heads):
    return chain(pk.SharedBottomBlock(heads, [5]), heads, width=4)


def close(value, **kwargs):
    return pytest.approx(value, rel=1e-4, nan_ok=True, **kwargs)


def test_figures_are_those_of_the_labeled_examples():
    model, y = bottom_model(all_heads()), labels()
    use = pk.task_report(model, X, y).tasks
    p = {task: np.float64(of) for task, of in numpy_of(model(X)).items()}
    is_click = y["click"] >= 0
    click, q = y["click"][is_click], p["click"][is_click, 0]
    wins = [(a > b) + (a == b) / 2 for a in q[click == 1] for b in q[click == 0]]
    errors = -np.where(click == 1, np.log(q), np.log(1 - q))
    of_rate = -np.where(click == 1, np.log(click.mean()), np.log(1 - click.mean())).mean()
    expected = {
        "labels": len(click),
        "label_share": len(click) / ROWS,
        "label_mean": click.mean(),
        "prediction_mean": q.mean(),
        "prediction_deviation": q.std(),
        "loss": errors.mean(),
        "auc": np.mean(wins),
        "relative_error": errors.mean() / of_rate,
        "relative_error_deviation": errors.std() / np.sqrt(len(click)) / of_rate,
        "calibration": q.sum() / click.sum(),
        "rmse": NAN,
        "accuracy": NAN,
    }
    assert {key: getattr(use["click"], key) for key in expected} == close(expected)
    time = y["time"]  # the first rows lack one of two numbers
    squares = (time - p["time"]) ** 2
    expected = {
        "labels": ROWS,
        "label_mean": np.nanmean(time),
        "label_deviation": np.nanstd(time, axis=0).max(),
        "loss": np.nanmean(squares),
        "rmse": np.sqrt(np.nanmean(squares, axis=0)).mean(),
        "relative_error": (np.nanmean(squares, axis=0) / np.nanvar(time, axis=0)).mean(),
        "auc": NAN,
        "calibration": NAN,
    }
    assert {key: getattr(use["time"], key) for key in expected} == close(expected)
    kind, rates = y["kind"][:, 0], np.bincount(y["kind"][:, 0]) / ROWS
    loss = -np.log(p["kind"][np.arange(ROWS), kind]).mean()
    expected = {
        "label_deviation": np.sqrt(rates * (1 - rates)).max(),
        "loss": loss,
        "accuracy": (p["kind"].argmax(axis=-1) == kind).mean(),
        "relative_error": loss / -(rates * np.log(rates)).sum(),
    }
    assert {key: getattr(use["kind"], key) for key in expected} == close(expected)


@once
@pytest.mark.parametrize(("weighting", "expected"), [(None, 4.0), ("uncertainty", 4 * np.exp(-1))])
def test_loss_weights_are_the_current_ones(weighting, expected, tmp_path):
    heads = pk.TaskHeads([pk.BinaryHead("a"), pk.BinaryHead("b", loss_weight=0.5)], weighting)
    model = compiled(bottom_model(heads))
    heads.multiply_loss_weights({"a": 4.0})
    if weighting:
        heads._log_variances.assign([1.0, 0.0])
    y = {"a": np.arange(ROWS) % 2, "b": np.arange(ROWS) % 3 % 2}
    for each in (model, loaded(model, tmp_path)):
        assert [*pk.task_report(each, X, y).loss_weights.values()] == [close(expected), 0.5]


@once
def test_a_loss_is_the_mean_over_labels_for_each_reduction():
    heads = all_heads(reduction="sum_over_batch_size")
    model, y = bottom_model(heads), labels()
    use = pk.task_report(model, X, y).tasks["click"]
    loss = heads.compute_losses(y, model(X))["click"]
    assert use.loss == close(float(loss) / use.label_share)


@once
def test_a_task_without_a_loss_needs_no_labels():
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.BinaryHead("buy"), pk.Head("score")])
    model = bottom_model(heads)
    y = {"click": np.arange(ROWS) % 2, "buy": np.arange(ROWS) % 3 % 2}
    report = pk.task_report(model, X, y)
    assert (report.tasks["score"].labels, report.loss_weights["score"]) == (0, 0.0)
    assert not any("score" in warning for warning in report.warnings)
    assert pk.task_report(model, X, {**y, "score": X[:, 0]}).tasks["score"].labels == ROWS


@once
def test_labels_of_all_heads_are_counted():
    ignores_2 = keras.losses.SparseCategoricalCrossentropy(ignore_class=2)
    kind = pk.MulticlassHead("kind", num_classes=3, loss=ignores_2)
    share = pk.MulticlassHead("share", num_classes=3, loss="categorical_crossentropy")
    heads = pk.TaskHeads([pk.RegressionHead("time", units=2), kind, share])
    y = {"time": np.ones((40, 2)), "kind": np.arange(40) % 4, "share": np.full((40, 3), 1 / 3)}
    y["time"][:5, 0] = y["time"][4:7, 1] = y["share"][:9, 2] = np.nan
    y["kind"] = np.minimum(y["kind"], 2)
    use = pk.task_report(bottom_model(heads), X[:40], y).tasks
    assert {task: of_task.labels for task, of_task in use.items()} == {
        "time": 39,  # one row lacks both numbers
        "kind": 20,
        "share": 31,
    }
    assert use["share"].relative_error > 0.9
    assert np.isnan(use["time"].relative_error)  # of constant labels


def product_model():
    both = pk.ProductHead("both", of=("click", "buy"))
    heads = pk.TaskHeads([pk.BinaryHead("click", missing_label=-1), pk.BinaryHead("buy"), both])
    level = pk.CGCBlock(heads, [3], add_shared_gate=False, name="cgc")
    return chain(level, heads, width=4)


PRODUCT_Y = {
    "click": np.arange(ROWS) % 3 - 1,
    "buy": np.arange(ROWS)[:, None] % 2,
    "both": np.arange(ROWS) % 2,
}


def batches_of(x, y, *starts):
    """Return batches that begin at some rows."""
    parts = [slice(a, b) for a, b in zip(starts, (*starts[1:], len(x)))]
    return [(x[part], {task: of[part] for task, of in y.items()}) for part in parts]


@once
def test_batches_in_all_forms_have_the_figures_of_arrays():
    model = product_model()
    expected = pk.task_report(model, X, PRODUCT_Y, batch_size=20)
    batches = batches_of(X, PRODUCT_Y, 0, 20, 40)
    tensors = [keras.tree.map_structure(keras.ops.convert_to_tensor, b) for b in batches]
    for data in (iter(batches), batches, tensors):
        report = pk.task_report(model, data)
        assert list(report.tasks) == ["click", "buy", "both"]
        for task, use in expected.tasks.items():
            assert vars(report.tasks[task]) == close(vars(use))


def test_sequences_are_counted_by_unmasked_position():
    mask = np.arange(6) < np.array([[6], [2], [1]])
    heads = pk.TaskHeads([pk.BinaryHead(task) for task in TASKS])
    inputs = keras.Input((None, 4))
    level = pk.CGCBlock(heads, [3], add_shared_gate=False, name="cgc")
    model = pk.MultiTaskModel(inputs, heads(level(keras.layers.Masking()(inputs))))
    x = features(3, 6, 4) * mask[..., None]
    y = {task: np.arange(18).reshape(3, 6) % 2 for task in TASKS}
    report = pk.task_report(model, x, y)
    use, predictions = report.tasks["click"], numpy_of(model(x))["click"]
    assert use.prediction_deviation == close(predictions[mask].std())
    assert (report.examples, use.labels, use.label_share) == (3, 9, 1.0)
    p = np.float64(predictions[mask][:, 0])
    assert use.loss == close(-np.log(np.where(y["click"][mask] == 1, p, 1 - p)).mean())
    if keras.backend.backend() == "jax":  # it compiles for each length
        return
    batches = [(features(2, n, 4), {task: np.ones((2, n)) for task in TASKS}) for n in (5, 7)]
    assert pk.task_report(model, iter(batches)).tasks["buy"].labels == 24


@once
def test_the_report_is_the_same_as_json_and_text():
    heads = pk.TaskHeads([pk.BinaryHead(f"a_long_task_name_{i}") for i in range(8)])
    y = {task: np.arange(ROWS) % (i + 2) == 0 for i, task in enumerate(heads)}
    report = pk.task_report(bottom_model(heads), X, y)
    values = report.to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["tasks"]["a_long_task_name_3"]["labels"] == ROWS
    assert values["warnings"] == report.warnings
    text = str(report)
    assert max(map(len, text.splitlines())) <= 100
    for task in heads:
        assert f"\n  {task}" in text


LABELS = 2048
SCORES = features(LABELS, 4, seed=1)
RATE = np.exp(1 + SCORES[:, 1])
CLICK = (2 * SCORES[:, 0] > np.random.default_rng(1).logistic(size=LABELS)).astype("float32")
Y = {"click": CLICK, "visits": np.random.default_rng(2).poisson(RATE)}
WARNINGS = {
    "the best model": ({}, {}, None),
    "constant predictions": (
        {},
        {"kernel": (0, 0, 0, 0)},
        "click: the predictions are constant, with .* 0e\\+00. Check the scale of x, or lower the",
    ),
    "lost labels": (
        {"click": CLICK * (np.arange(LABELS) % 2)},
        {},
        "click: the sum of the predictions is 2.* times the sum of 2,048 .*that missing labels are",
    ),
    "lost counts": (
        {"visits": np.random.default_rng(2).poisson(RATE / 2)},
        {},
        "visits: the sum of the predictions is 1.97 times",
    ),
    "weighted positives": (
        {"click": CLICK * (np.arange(LABELS) % 2)},
        {"pos_weight": 2.0},
        "click: the sum of the predictions is .* Divide the predicted odds by the pos_weight",
    ),
}


@once
@pytest.mark.parametrize("name", WARNINGS)
def test_predictions_of_labels_that_they_do_not_fit_have_a_warning(name):
    labels, options, message = WARNINGS[name]
    click = pk.BinaryHead("click", pos_weight=options.get("pos_weight"))
    heads = pk.TaskHeads([click, pk.CountHead("visits")])
    model = heads_alone(heads, width=4)
    click.set_weights([np.transpose([options.get("kernel", (2, 0, 0, 0))]), np.zeros(1)])
    heads["visits"].set_weights([np.transpose([(0, 1, 0, 0)]), np.ones(1)])
    report = pk.task_report(model, SCORES, {**Y, **labels})
    assert len(report.warnings) == (message is not None)
    assert not message or re.match(message, report.warnings[0])


# Refusals.

VALUES = {
    "infinite": (np.where(np.arange(ROWS) == 3, np.inf, 0), r"be finite or be missing; invalid: 1"),
    "width": (np.zeros((ROWS, 2)), r"have a shape \(batch, 1\)"),
    "range": (np.full(ROWS, 2), r"lie in \[0, 1\]"),
}
BY_TASK = clicks_and_buys(ROWS)[1]
REFUSED = {
    "no_labels": (None, {}, TypeError, r"a dict with keys among \['click', 'buy'\].*y=None"),
    "no_task": ({"buy": BY_TASK["buy"]}, {}, r"'buy'\]; missing: \['click'\],.*y=\{'buy'\}"),
    "rows": ({**BY_TASK, "click": np.zeros(3)}, {}, r"the same number of rows.*rows="),
    **{
        name: ({**BY_TASK, "click": values}, {}, rf"y\['click'\] must {message}")
        for name, (values, message) in VALUES.items()
    },
    "groups": (BY_TASK, {"groups": np.arange(ROWS)}, "groups require new_rows=True.*=ndarray"),
    "rows_of_groups": (BY_TASK, {"groups": [1, 2], "new_rows": True}, rf"the shape \({ROWS},\)"),
    "flag": (BY_TASK, {"new_rows": 1}, TypeError, r"new_rows must be True or False"),
}


test_labels_and_options_of_other_models_are_refused = all_refused(
    lambda y, options: pk.task_report(heads_alone(click_and_buy_heads(), 4), X, y, **options),
    REFUSED,
)


@once
def test_a_model_must_have_heads():
    model = chain(tracked_block(pk.MMoEBlock, name="mmoe"), width=4)
    check_refused(lambda: pk.task_report(model, X, {}), ValueError, "model must have TaskHeads")

"""The AUC within groups in the logs of each epoch."""

import functools

import keras
import numpy as np
import pandas as pd
import pytest

import ple_keras as pk
from tests.helpers import QUICK_JIT, features, once
from tests.models import chain, compiled, heads_alone
from tests.refusals import all_refused, check_refused, table

ROWS = 60
GROUPS = np.random.default_rng(0).integers(0, 12, ROWS)


def three_heads():
    click = pk.BinaryHead("click", missing_label=-1, metrics=[])
    buy = pk.BinaryHead("buy", metrics=[])
    both = pk.ProductHead("both", of=("click", "buy"), metrics=[])
    return pk.TaskHeads([click, buy, pk.RegressionHead("price", metrics=[]), both])


@functools.cache
def constant_model():
    """Return a model with a learning rate of 0, so that tests can share it."""
    return compiled(heads_alone(three_heads()), keras.optimizers.SGD(0.0))


def rows():
    rng = np.random.default_rng(1)
    y = {task: rng.integers(0, 2, (ROWS, 1)).astype("float32") for task in ("click", "buy", "both")}
    y["click"][::3] = -1
    y["buy"][::4] = np.nan
    return features(ROWS, 3), {**y, "price": rng.normal(size=ROWS)}


def fit(model, *callbacks, epochs=1, **kwargs):
    return model.fit(*rows(), epochs=epochs, verbose=0, callbacks=list(callbacks), **kwargs).history


def gauc_of(history):
    return {key: value for key, value in history.items() if "gauc" in key}


@pytest.mark.parametrize("weighting", ["rows", "equal"])
def test_logs_are_those_of_the_function(weighting):
    x, y = rows()
    weights = {task: np.zeros(ROWS) for task in y}  # ignored
    names = np.char.add("user ", GROUPS.astype(str))
    callback = pk.GroupedAUC((x, y, weights), names, batch_size=16, weighting=weighting)
    history = gauc_of(fit(constant_model(), callback))
    tasks = ["click", "buy", "both"]
    assert list(history) == [f"val_{t}_gauc{end}" for t in tasks for end in ("", "_share")]
    predictions = constant_model().predict(x, verbose=0)
    for task in tasks:
        labels = np.where(y[task] == -1, np.nan, y[task])
        area = pk.grouped_auc(labels, predictions[task], GROUPS, weighting)
        assert history[f"val_{task}_gauc"] == pytest.approx([area], abs=1e-6)
        used = [
            np.isfinite(of_group).sum()
            for of_group in (labels[group == GROUPS] for group in np.unique(GROUPS))
            if np.nanmax(of_group) > np.nanmin(of_group)
        ]
        share = sum(used) / np.isfinite(labels).sum()
        assert history[f"val_{task}_gauc_share"] == pytest.approx([share])
    assert 0 < history["val_click_gauc_share"][0] < 1


@once
def test_tasks_and_the_name_can_be_chosen_and_a_group_may_have_one_class():
    x, y = rows()
    y["price"] = (y["price"] > 0).astype("int32")
    callback = pk.GroupedAUC((x, y), GROUPS, tasks=["price", "buy"], name="by_user")
    found = [key for key in fit(constant_model(), callback) if "by_user" in key]
    assert found[::2] == ["val_price_by_user", "val_buy_by_user"]
    history = fit(constant_model(), pk.GroupedAUC((x, y), np.arange(ROWS)))
    assert np.isnan(history["val_click_gauc"]).all()  # no group has both classes
    assert history["val_click_gauc_share"] == [0.0]


def test_a_model_with_one_task_has_the_task_in_its_keys():
    model = compiled(heads_alone(pk.TaskHeads([pk.BinaryHead("click", metrics=[])])))
    x, y = features(6, 3), np.array([0, 1, 0, 0, 0, 1])
    for labels in ({"click": y}, y[:, None]):
        callback = pk.GroupedAUC((x, labels), [0, 0, 0, 1, 1, 1])
        history = model.fit(x, labels, verbose=0, callbacks=[callback]).history
        assert history["val_click_gauc_share"] == [1.0]
        assert set(gauc_of(history)) == {"val_click_gauc", "val_click_gauc_share"}


def test_positions_of_sequences_are_rows_of_their_group():
    x, y = features(8, 5, 3), np.arange(40).reshape(8, 5) % 3 % 2 * 1.0
    y[:, 3:] = np.nan  # padded
    inputs = keras.Input((5, 3))
    model = pk.MultiTaskModel(inputs, pk.TaskHeads([pk.BinaryHead("click")])({"click": inputs}))
    groups = np.arange(8) // 2
    callback = pk.GroupedAUC((x, {"click": y}), groups, batch_size=3)
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_end(0, logs := {})
    expected = pk.grouped_auc(y, model.predict(x, verbose=0)["click"], groups)
    assert logs["val_click_gauc"] == pytest.approx(expected, abs=1e-6)
    assert logs["val_click_gauc_share"] == 1.0


X, Y = rows()
FEW = {"click": Y["click"][:0]}
MADE = {
    "no_rows": ((X[:0], FEW), {"groups": GROUPS[:0]}, r"not empty\. .*rows=\[0\]"),
    "no_tuple": (X, {}, TypeError, r"a tuple \(x, y\) or.*Received: v"),
    "groups": (
        (X, Y),
        {"groups": GROUPS[1:]},
        r"the shape \(60,\).*groups\.shape=\(59,\)",
    ),
    "floats": ((X, Y), {"groups": GROUPS / 2}, TypeError, "groups must be integers"),
    "rows": ((X[1:], Y), {}, r"the same number of rows.*Received: rows=\[59, 60\]"),
}


test_invalid_arguments_are_refused = all_refused(
    lambda data, arguments: pk.GroupedAUC(data, **{"groups": GROUPS, **arguments}), MADE
)


TASKS = r"\['click', 'buy', 'price', 'both'\]"
CLICK = Y["click"]
FITTED = {
    "unknown": (Y, ["klick"], ValueError, rf"{TASKS}.*tasks=\['klick'\]"),
    "numbers": (Y, ["price"], ValueError, r"\[1\]\['price'\] must be 0, 1 or missing"),
    "frame": (pd.DataFrame({"a": CLICK.ravel()}), None, TypeError, "Convert a data frame"),
}


@once
@pytest.mark.parametrize(("y", "tasks", "error", "message"), table(FITTED))
def test_a_fit_with_invalid_tasks_or_labels_is_refused_before_the_first_epoch(
    y, tasks, error, message
):
    callback = pk.GroupedAUC((X, y), GROUPS, tasks=tasks)
    callback.set_model(constant_model())
    check_refused(callback.on_train_begin, error, message)


@once
def test_models_without_a_task_of_one_probability_are_refused():
    kinds = pk.TaskHeads([pk.MulticlassHead("kind", num_classes=3), pk.RegressionHead("price")])
    callback = pk.GroupedAUC((X, {"kind": Y["buy"], "price": Y["price"]}), GROUPS)
    callback.set_model(heads_alone(kinds))
    check_refused(
        callback.on_train_begin, ValueError, r"heads that predict one number, \['price'\]"
    )
    plain = chain(keras.layers.Dense(1))
    plain.compile("sgd", "mse", jit_compile=QUICK_JIT)
    with pytest.raises(ValueError, match=r"tasks of heads.*Received: tasks=None"):
        plain.fit(X, Y["buy"], verbose=0, callbacks=[pk.GroupedAUC((X, Y["buy"]), GROUPS)])

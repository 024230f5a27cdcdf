"""Metrics of heads in addition to the default ones, and the name of their AUC."""

import warnings

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features
from tests.models import compiled, heads_alone, loaded
from tests.refusals import check_refused, table

X = features(12, 3)
Y = {"click": np.arange(12) % 2, "time": np.where(np.arange(12) % 3, X[:, 1], np.nan)}


@keras.saving.register_keras_serializable("test_extra_metrics")
def gap(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)


def click_and_time():
    return pk.TaskHeads(
        [
            pk.BinaryHead("click", extra_metrics=[pk.LogitAUC(curve="PR", name="pr_auc")]),
            pk.RegressionHead("time", metrics=["mse"], extra_metrics=["mae", gap]),
        ]
    )


def names_of(metrics):
    return {task: [metric.name for metric in of_task] for task, of_task in metrics.items()}


def test_extra_metrics_follow_the_others_and_equal_names_get_a_number():
    extra = {"click": [keras.metrics.AUC(), pk.LogitAUC(name="pr_auc")], "time": []}
    kwargs = click_and_time().compile_kwargs(extra_metrics=extra)
    assert names_of(kwargs["metrics"]) == {
        "click": ["auc", "binary_crossentropy", "pr_auc", "auc_1", "pr_auc_1"],
        "time": ["mse", "mae", "gap"],
    }
    assert names_of(click_and_time().compile_kwargs()["metrics"])["click"][-1] == "pr_auc"


@pytest.mark.parametrize(
    "head",
    [
        pk.Head("a", loss="mse", extra_metrics=["mae"]),
        pk.BinaryHead("a", extra_metrics=["mae"]),
        pk.RegressionHead("a", extra_metrics=["mae"]),
        pk.MulticlassHead("a", num_classes=3, extra_metrics=["mae"]),
        pk.ProductHead("a", of=("b", "c"), extra_metrics=["mae"]),
    ],
    ids=lambda head: type(head).__name__,
)
def test_every_head_keeps_its_default_and_extra_metrics_in_its_config(head):
    default = type(head).from_config({**head.get_config(), "extra_metrics": []})
    names = [metric.name for metric in head.new_metrics()]
    assert names == [*(metric.name for metric in default.new_metrics()), "mae"]
    config = head.get_config()
    copy = type(head).from_config(config)
    assert copy.get_config() == config
    assert [metric.name for metric in copy.new_metrics()] == names
    of_older_files = {key: value for key, value in config.items() if key != "extra_metrics"}
    assert type(head).from_config(of_older_files).get_config() == default.get_config()


def test_extra_metrics_exclude_missing_labels_and_are_the_same_after_loading(tmp_path):
    model = heads_alone(click_and_time())
    compiled(model, extra_metrics={"click": ["mae"], "time": ["mean_absolute_percentage_error"]})
    logs = model.evaluate(X, Y, verbose=0, return_dict=True)
    predictions = {task: p[:, 0] for task, p in model.predict(X, verbose=0).items()}
    errors = {task: np.abs(predictions[task] - Y[task]) for task in Y}
    relative = 100 * errors["time"] / np.abs(Y["time"])
    expected = {
        "click_mae": errors["click"].mean(),
        "time_mae": np.nanmean(errors["time"]),
        "time_gap": np.nanmean(errors["time"]),
        "time_mean_absolute_percentage_error": np.nanmean(relative),
    }
    assert {key: logs[key] for key in expected} == pytest.approx(expected, rel=1e-5)
    again = loaded(model, tmp_path).evaluate(X, Y, verbose=0, return_dict=True)
    assert again == pytest.approx(logs, rel=1e-6)


def test_two_compilations_share_no_metric():
    mine = keras.metrics.MeanAbsoluteError()
    head = pk.RegressionHead("a", extra_metrics=[mine])
    heads = pk.TaskHeads([head])
    kwargs = [heads.compile_kwargs(extra_metrics={"a": [mine]}) for _ in range(2)]
    first, second = (each["metrics"]["a"] for each in kwargs)
    inner = [metric.metric for metric in [*first, *second]]
    assert len({id(metric) for metric in [*inner, mine]}) == 9
    for metric in first:
        metric.update_state([[1.0]], [[3.0]])
    assert [float(metric.result()) for metric in first] == [2, 4, 2, 2]
    assert [float(metric.result()) for metric in second] == [0, 0, 0, 0]
    assert float(mine.result()) == 0


def test_a_subclass_may_override_new_metrics_without_the_argument():
    class Bare(pk.BinaryHead):
        def new_metrics(self):
            return super().new_metrics()[:1]

    heads = pk.TaskHeads([Bare("click"), pk.BinaryHead("buy")])
    kwargs = heads.compile_kwargs(extra_metrics={"buy": ["mae"]})
    assert names_of(kwargs["metrics"])["click"] == ["auc"]


def uncopyable():
    class Lost(keras.metrics.Mean):
        def __init__(self, factor, **kwargs):
            super().__init__(**kwargs)

    return Lost(2.0)


REFUSED = {
    "string": (
        lambda: pk.BinaryHead("a", extra_metrics="mae"),
        TypeError,
        r"extra_metrics must be a sequence of metrics\. Received: extra_metrics='mae'$",
    ),
    "unknown": (
        lambda: pk.BinaryHead("a", extra_metrics=["nope"]),
        ValueError,
        r"extra_metrics given by name must be Keras.*Received: extra_metrics=\[\.\.\., 'nope'\]$",
    ),
    "class": (
        lambda: pk.ProductHead("a", of=("b", "c"), extra_metrics=[keras.metrics.AUC]),
        TypeError,
        r"extra_metrics must be names, functions.*Received: extra_metrics=\[\.\.\., <class",
    ),
    "uncopyable": (
        lambda: pk.BinaryHead("a", extra_metrics=[uncopyable()]).new_metrics(),
        ValueError,
        r"extra_metrics must be copyable.*Received: extra_metrics=\[\.\.\., <Lost",
    ),
    "compile_list": (
        lambda: click_and_time().compile_kwargs(extra_metrics=["mae"]),
        TypeError,
        r"extra_metrics must be a dict by task, .*Received: extra_metrics=\['mae'\]$",
    ),
    "compile_unknown_task": (
        lambda: click_and_time().compile_kwargs(extra_metrics={"buy": ["mae"]}),
        ValueError,
        r"extra_metrics must have keys among \['click', 'time'\]; unknown: \['buy'\].*Received",
    ),
    "compile_string": (
        lambda: click_and_time().compile_kwargs(extra_metrics={"click": "mae"}),
        TypeError,
        r"must be a sequence of metrics\. Received: extra_metrics\['click'\]='mae'$",
    ),
    "compile_with_metrics": (
        lambda: click_and_time().compile_kwargs(metrics=None, extra_metrics={"click": ["mae"]}),
        ValueError,
        r"extra_metrics can't be given with metrics.*Received: extra_metrics=\{.*, metrics=None$",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), table(REFUSED))
def test_wrong_extra_metrics_are_refused(make, error, message):
    check_refused(make, error, message)


# Keras's AUC under the key of LogitAUC


def binary(**kwargs):
    return [pk.BinaryHead("click", **kwargs)]


def product(**kwargs):
    factors = [pk.BinaryHead("a"), pk.BinaryHead("b")]
    return [*factors, pk.ProductHead("both", of=("a", "b"), **kwargs)]


REPLACED = {
    "string": (lambda: binary(metrics=["accuracy", "auc"]), {}),
    "object": (lambda: binary(metrics=[keras.metrics.AUC()]), {}),
    "masked": (lambda: binary(metrics=[pk.MaskedMetric("auc")]), {}),
    "extra": (lambda: binary(metrics=[], extra_metrics=["auc"]), {}),
    "product": (lambda: product(metrics=["auc"]), {}),
    "compile": (binary, {"metrics": {"click": "auc"}}),
}


@pytest.mark.parametrize(("make", "kwargs"), table(REPLACED))
def test_keras_s_auc_under_the_name_of_the_exact_one_is_warned_of(make, kwargs):
    message = "has an 'auc' of Keras in place of the LogitAUC"
    with pytest.warns(UserWarning, match=message) as caught:
        pk.TaskHeads(make()).compile_kwargs(**kwargs)
    assert [warning.filename for warning in caught] == [__file__]


NOT_REPLACED = {
    "default": (binary, {}),
    "none": (lambda: binary(metrics=[]), {}),
    "exact": (lambda: binary(metrics=[pk.LogitAUC(), keras.metrics.AUC()]), {}),
    "other_name": (lambda: binary(metrics=[keras.metrics.AUC(name="keras_auc")]), {}),
    "extra": (lambda: binary(extra_metrics=["auc"]), {}),
    "regression": (lambda: [pk.RegressionHead("a", metrics=["auc"])], {}),
    "compile_none": (binary, {"metrics": None}),
    "compile_extra": (binary, {"extra_metrics": {"click": ["auc"]}}),
}


@pytest.mark.parametrize(("make", "kwargs"), table(NOT_REPLACED))
def test_other_metrics_are_not_warned_of(make, kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pk.TaskHeads(make()).compile_kwargs(**kwargs)

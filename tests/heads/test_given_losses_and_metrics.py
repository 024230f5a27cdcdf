"""Losses, loss weights and metrics given to `compile_kwargs`: by task, over labelled examples."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features
from tests.models import compiled, heads_alone
from tests.refusals import check_refused, table

X = features(8, 3)
NAN = float("nan")
Y = {
    "b": np.array([0, 1, NAN, 1, 0, 1, NAN, 0], "float32"),
    "a": np.array([1, 0, 1, -1, 0, 1, -1, 1], "float32"),
    "kind": np.array([0, 2, -1, 1, 1, -1, 0, 2]),
}


def new_heads(**kwargs):
    return pk.TaskHeads(
        [
            pk.BinaryHead("b"),
            pk.BinaryHead("a", missing_label=-1, **kwargs),
            pk.MulticlassHead("kind", num_classes=3, missing_label=-1, class_weights=[1, 2, 1]),
        ]
    )


def evaluate(heads, **overrides):
    model = compiled(heads_alone(heads), **overrides)
    logs = model.evaluate(X, Y, batch_size=4, verbose=0, return_dict=True)
    assert all(np.isfinite(value) for value in logs.values())
    predictions = model.predict(X, verbose=0)
    return logs, {task: predictions[task][:, 0] for task in ("a", "b")}


def error(y_true, y_pred):
    """A custom function with one value for each example."""
    return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)


def test_given_losses_exclude_missing_labels():
    losses = {
        "b": ["mse", error],
        "a": keras.losses.MeanAbsoluteError(),
        "kind": "sparse_categorical_crossentropy",
    }
    weights = {"b": [0.5, 2.0], "a": 3.0}
    logs, predictions = evaluate(new_heads(), loss=losses, loss_weights=weights, metrics=None)
    # Every batch has the same number of labels of a task, so the mean of batch means is the mean.
    a, b = Y["a"] != -1, ~np.isnan(Y["b"])
    absolute = {t: np.abs(predictions[t] - Y[t])[of].mean() for t, of in (("a", a), ("b", b))}
    squared = np.square(predictions["b"] - Y["b"])[b].mean()
    assert logs["a_loss"] == pytest.approx(absolute["a"], rel=1e-5)
    assert logs["b_loss"] == pytest.approx(absolute["b"], rel=1e-5)  # Keras logs the last one
    total = 0.5 * squared + 2 * absolute["b"] + 3 * absolute["a"] + logs["kind_loss"]
    assert logs["loss"] == pytest.approx(total, rel=1e-5)


def test_given_metrics_exclude_missing_labels_and_objects_have_their_results():
    auc = keras.metrics.AUC(name="roc")
    logs, predictions = evaluate(
        new_heads(),
        metrics={"a": ["binary_crossentropy", auc], "b": error, "kind": None},
        weighted_metrics={"a": [keras.metrics.MeanAbsoluteError()], "kind": ("accuracy",)},
    )
    assert set(logs) == {
        *("loss", "a_loss", "b_loss", "kind_loss"),
        *("a_binary_crossentropy", "a_roc", "b_error", "a_mean_absolute_error", "kind_accuracy"),
    }
    a, b = Y["a"] != -1, ~np.isnan(Y["b"])
    errors = {t: np.abs(predictions[t] - Y[t])[of].mean() for t, of in (("a", a), ("b", b))}
    assert logs["a_mean_absolute_error"] == pytest.approx(errors["a"], rel=1e-5)
    assert logs["b_error"] == pytest.approx(errors["b"], rel=1e-5)
    assert float(auc.result()) == logs["a_roc"]


def test_the_reduction_of_the_head_applies_to_given_losses():
    by_labels, by_batch = (
        new_heads(reduction=reduction).compile_kwargs(loss={"a": "mae"})["loss"]["a"]
        for reduction in (None, "sum_over_batch_size")
    )
    predictions = np.full((8, 1), 0.25)
    expected = float(by_labels(Y["a"], predictions)) * 6 / 8  # 6 of 8 labels
    assert float(by_batch(Y["a"], predictions)) == pytest.approx(expected, rel=1e-6)


def test_masked_and_joint_losses_and_masked_metrics_are_not_wrapped_again():
    heads = new_heads()
    joint = heads.compile_kwargs()
    losses = {**joint["loss"], "b": pk.MaskedLoss("mse")}
    weights = {**joint["loss_weights"], "b": 1.0}
    metrics = {"a": [pk.MaskedMetric("mae")]}
    kwargs = heads.compile_kwargs(loss=losses, loss_weights=weights, metrics=metrics)
    assert kwargs == {"loss": losses, "loss_weights": weights, "metrics": metrics}


def test_given_metrics_with_the_same_name_get_numbers():
    metrics = [keras.metrics.Precision(), keras.metrics.Precision(thresholds=0.9), "mae"]
    kwargs = new_heads().compile_kwargs(metrics={"a": metrics})
    assert [m.name for m in kwargs["metrics"]["a"]] == ["precision", "precision_1", "mae"]


def test_a_model_with_given_losses_and_metrics_is_loaded(tmp_path):
    heads = new_heads()
    losses = {"a": keras.losses.Huber(), "b": "mse"}
    model = compiled(heads_alone(heads), loss=losses, metrics={"a": [keras.metrics.Recall()]})
    model.train_on_batch(X, Y)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert loaded.evaluate(X, Y, verbose=0, return_dict=True) == pytest.approx(expected)


@pytest.mark.parametrize(
    "argument", ["loss", "loss_weights", "metrics", "weighted_metrics", "extra_metrics"]
)
@pytest.mark.parametrize("value", ["mse", ["mse"], ("mse", "mse", "mse")])
def test_all_but_dicts_by_task_are_refused(argument, value):
    """Keras assigns the entries of a list to the tasks in alphabetical order."""
    message = rf"^{argument} must be a dict by task, .*Received: {argument}="
    check_refused(lambda: new_heads().compile_kwargs(**{argument: value}), TypeError, message)
    one = pk.TaskHeads([pk.BinaryHead("b")])
    check_refused(lambda: one.compile_kwargs(**{argument: value}), TypeError, message)


REFUSED = {
    "loss_of_unknown_task": ({"loss": {"x": "mse"}}, ValueError, r"loss must have keys among"),
    "metrics_of_unknown_task": ({"metrics": {"x": []}}, ValueError, r"metrics must have keys amon"),
    "weighted_metrics_of_unknown_task": (
        {"weighted_metrics": {"x": []}},
        ValueError,
        r"weighted_metrics must have keys among",
    ),
    "weight_of_task_without_a_loss": (
        {"loss": {"a": "mse"}, "loss_weights": {"b": 1.0}},
        ValueError,
        r"loss_weights must have keys among \['a'\]",
    ),
    "unknown_loss": ({"loss": {"a": "nope"}}, ValueError, r"loss must be the name.*loss='nope'"),
    "loss_that_does_not_reduce": (
        {"loss": {"a": keras.losses.MeanSquaredError(reduction="none")}},
        ValueError,
        r"loss must reduce to one number",
    ),
    "unknown_metric": (
        {"metrics": {"a": "nope"}},
        ValueError,
        r"metrics\['a'\] given by name.*Received: metrics\['a'\]=\[\.\.\., 'nope'\]",
    ),
    "nested_metrics": ({"metrics": {"a": [["mae"]]}}, TypeError, r"metrics\['a'\] must be names"),
    "no_metric": ({"weighted_metrics": {"a": [None]}}, TypeError, r"weighted_metrics\['a'\] must"),
}


@pytest.mark.parametrize(("overrides", "error", "message"), table(REFUSED))
def test_wrong_losses_and_metrics_are_refused(overrides, error, message):
    check_refused(lambda: new_heads().compile_kwargs(**overrides), error, message)

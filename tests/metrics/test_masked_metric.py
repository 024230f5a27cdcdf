"""Metrics over the labelled examples, against the same metric on those examples alone."""

import functools
import weakref

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.metrics.loss_mean import LossMean
from tests.helpers import features, numpy_of, once
from tests.models import compiled, heads_alone, heads_of
from tests.pairs import fewer, pairs

ROWS = 400


def new_heads(missing_label=None):
    return pk.TaskHeads(
        [
            pk.BinaryHead("click", missing_label=missing_label),
            pk.RegressionHead("time", missing_label=missing_label),
            pk.RegressionHead("place", units=2, loss="mae", missing_label=missing_label),
            pk.MulticlassHead("kind", num_classes=3, missing_label=missing_label),
            pk.ProductHead("both", of=("click", "cvr"), missing_label=missing_label),
            pk.BinaryHead("cvr", pos_weight=3.0, missing_label=missing_label),
        ]
    )


@functools.cache
def constant_model(missing_label=None):
    """Return a model with a learning rate of 0, so that tests can share it."""
    return compiled(heads_alone(new_heads(missing_label)), keras.optimizers.SGD(0.0))


def all_labels():
    rng = np.random.default_rng(0)
    return {
        "click": rng.integers(0, 2, ROWS),
        "time": rng.normal(size=(ROWS, 1)),
        "place": rng.normal(size=(ROWS, 2)),
        "kind": rng.integers(0, 3, (ROWS, 1)),
        "both": rng.integers(0, 2, ROWS),
        "cvr": rng.integers(0, 2, ROWS),
    }


def hide(labels, rate, missing_label):
    """Return labels with a share of examples kept, separately for each task."""
    rng = np.random.default_rng(1)
    hidden, kept = {}, {}
    for task, y in labels.items():  # as many for each task, so that operations compile once
        kept[task] = rng.permutation(ROWS) < max(4, rate * ROWS)
        where = kept[task].reshape((ROWS,) + (1,) * (y.ndim - 1))
        hidden[task] = np.where(where, y, np.nan if missing_label is None else missing_label)
    return hidden, kept


RATES = {"all": (1.0, -7), "some": (0.1, None), "few": (0.02, -7)}


@pytest.mark.parametrize(("rate", "missing_label"), fewer(RATES, "some"))
def test_every_default_metric_is_that_of_the_labelled_examples(rate, missing_label):
    """Over several batches of `evaluate`, in which some have no label at all."""
    model, x, labels = constant_model(missing_label), 2 * features(ROWS, 3), all_labels()
    y, kept = hide(labels, rate, missing_label)
    logs = model.evaluate(x, y, batch_size=16, verbose=0, return_dict=True)
    predictions = model.predict(x, verbose=0)
    expected = {}
    for head in heads_of(model)._heads():
        task = head.task
        for metric in head.new_metrics():
            metric.metric.update_state(
                labels[task].reshape((ROWS, -1))[kept[task]].astype("float32"),
                predictions[task][kept[task]],
            )
            expected[f"{task}_{metric.name}"] = float(metric.result())
    assert {
        "click_auc",
        "time_rmse",
        "time_mean_squared_error",
        "place_mae",
        "kind_accuracy",
        "both_binary_crossentropy",
        "cvr_weighted_binary_crossentropy",
    } <= set(expected)
    assert {key: logs[key] for key in expected} == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_fit_and_validation_agree_with_evaluate():
    model, x = constant_model(), features(ROWS, 3)
    y, _ = hide(all_labels(), 0.1, None)
    history = model.fit(x, y, batch_size=32, validation_data=(x, y), verbose=0).history
    logs = model.evaluate(x, y, batch_size=32, verbose=0, return_dict=True)
    for head in heads_of(model)._heads():
        for metric in head.new_metrics():
            key = f"{head.task}_{metric.name}"
            for found in (history[key][0], history[f"val_{key}"][0]):
                assert found == pytest.approx(logs[key], rel=1e-5, abs=1e-5), key


def test_a_metric_computes_the_sample_space_of_the_loss_again_if_anything_differs():
    head = pk.RegressionHead("time")
    known = head(np.array([[1.0], [2.0], [3.0]]))
    predictions = numpy_of(known).ravel()
    labels = [keras.ops.convert_to_tensor(y) for y in ([0.0, 1.0, np.nan], [np.nan, 2.0, 5.0])]
    for missing_label in (np.nan, 1.0):  # after the loss of NaN
        for y in labels:
            pk.MaskedLoss("mse")(labels[0], known)
            metric = pk.MaskedMetric("mean_absolute_error", missing_label)
            metric.update_state(y, known)
            y = numpy_of(y)
            kept = ~np.isnan(y) & (y != missing_label)
            expected = np.abs(y - predictions)[kept].mean()
            assert float(metric.result()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="tensors that change are PyTorch's")
def test_tensors_that_change_after_the_loss_and_predictions_that_are_gone_after_the_metric():
    predictions = pk.RegressionHead("time")(np.ones((3, 1)))
    labels = keras.ops.convert_to_tensor([0.0, 1.0, np.nan])
    pk.MaskedLoss("mse")(labels, predictions)
    predictions.detach().fill_(3.0)
    metric = pk.MaskedMetric("mean_absolute_error")
    metric.update_state(labels, predictions)
    assert float(metric.result()) == 2.5
    pk.MaskedLoss("mse")(labels, predictions)
    labels[1] = 3.0
    again = pk.MaskedMetric("mean_absolute_error")
    again.update_state(labels, predictions)
    assert float(again.result()) == 1.5
    gone = weakref.ref(predictions)
    del predictions
    assert gone() is None


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="tensors that change are PyTorch's")
def test_a_metric_that_changes_its_labels_does_not_change_those_of_the_next_one():
    def changed(y_true, y_pred):
        return keras.ops.mean(y_true.fill_(5.0), axis=-1)

    def mean_label(y_true, y_pred):
        return keras.ops.mean(y_true, axis=-1)

    predictions = pk.RegressionHead("time")(np.ones((3, 1)))
    labels = keras.ops.convert_to_tensor([0.0, 1.0, np.nan])
    pk.MaskedLoss(mean_gap)(labels, predictions)
    metrics = [pk.MaskedMetric(changed), pk.MaskedMetric(mean_label)]
    for metric in metrics:
        metric.update_state(labels, predictions)
    assert [float(metric.result()) for metric in metrics] == [5.0, 0.5]


def mean_gap(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)


METRICS = {
    "accuracy": ("accuracy", 1),
    "accuracy_of_classes": ("accuracy", 3),
    "mae": ("mae", 1),
    "function": (mean_gap, 1),
    "auc": (keras.metrics.AUC(), 1),
    "auc_pr": (keras.metrics.AUC(curve="PR", num_thresholds=20), 1),
    "precision": (keras.metrics.Precision(), 1),
    "recall_at": (keras.metrics.RecallAtPrecision(0.5), 1),
    "r2": (keras.metrics.R2Score(), 1),
    "f1": (keras.metrics.F1Score(threshold=0.5), 1),
    "top_k": (keras.metrics.SparseTopKCategoricalAccuracy(k=2), 3),
    "cosine": (keras.metrics.CosineSimilarity(), 1),
    "hinge": (keras.metrics.Hinge(), 1),
    "mape": (keras.metrics.MeanAbsolutePercentageError(), 1),
}


SETTINGS = {
    "flat": (False, (40,)),
    "weighted": (True, (40, 1)),
    "weighted_flat": (True, (40,)),
}


@pytest.mark.parametrize(("metric", "width", "is_weighted", "shape"), pairs(METRICS, SETTINGS))
def test_any_metric_is_over_the_labelled_examples_only(metric, width, is_weighted, shape):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, max(2, width), (40, 1)).astype("float32")
    predictions = rng.uniform(size=(40, width)).astype("float32")
    weights = rng.uniform(0.5, 2, 40).astype("float32") if is_weighted else None
    kept = rng.permutation(40) < 20
    masked = pk.MaskedMetric(metric, missing_label=-1)
    plain = pk.MaskedMetric(metric).metric
    y = np.where(kept[:, None], labels, [[-1], [np.nan]] * 20).astype("float32").reshape(shape)
    masked.reset_state()
    for part in (slice(0, 20), slice(20, 40)):
        masked.update_state(y[part], predictions[part], None if weights is None else weights[part])
    actual = numpy_of(masked.result())
    plain.reset_state()
    plain.update_state(labels[kept], predictions[kept], None if weights is None else weights[kept])
    np.testing.assert_allclose(actual, numpy_of(plain.result()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", ["auc", "accuracy", "mse"])
def test_a_metric_of_sequences_is_over_the_labelled_positions(metric):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (6, 5, 1)).astype("float32")
    predictions = rng.uniform(size=(6, 5, 1)).astype("float32")
    kept = rng.uniform(size=(6, 5)) < 0.5
    metric = keras.metrics.AUC() if metric == "auc" else metric
    masked, flat = pk.MaskedMetric(metric), pk.MaskedMetric(metric)
    masked.update_state(np.where(kept[..., None], labels, np.nan), predictions)
    expected = float(masked.result())
    flat.reset_state()
    flat.update_state(labels[kept], predictions[kept])
    assert float(flat.result()) == pytest.approx(expected, rel=1e-5)


@once
def test_a_masked_metric_has_the_name_direction_and_state_of_its_metric():
    inner = keras.metrics.AUC(name="roc")
    metric = pk.MaskedMetric(inner)
    assert metric.name == "roc"
    assert pk.MaskedMetric(inner, name="mine").name == "mine"
    assert metric._direction == "up"
    assert metric.variables == inner.variables
    metric.update_state([0, 1, np.nan], [[0.1], [0.2], [0.3]])
    assert float(metric.result()) > 0.9
    metric.reset_state()
    metric.update_state([1, 0, np.nan], [[0.1], [0.2], [0.3]])
    assert float(metric.result()) < 0.1


@keras.saving.register_keras_serializable("test_masked_metric")
class Unweighted(keras.metrics.Metric):
    """A metric that does not accept sample weights."""

    def update_state(self, y_true, y_pred):
        pass

    def result(self):
        return 0.0


@once
@pytest.mark.parametrize(
    ("metric", "error", "message"),
    [
        (Unweighted(), ValueError, r"must accept sample_weight.*Received: metric=<Unweighted"),
        ("nope", ValueError, r"Received: metrics=\[\.\.\., 'nope'\]"),
        (3, TypeError, r"Received: metrics=\[\.\.\., 3\]"),
        (keras.metrics.AUC, TypeError, r"Received: metrics=\[\.\.\., <class"),
    ],
)
def test_invalid_metrics_are_refused(metric, error, message):
    with pytest.raises(error, match=message):
        pk.MaskedMetric(metric)


def test_an_invalid_missing_label_is_refused():
    with pytest.raises(TypeError, match=r"missing_label must be a number.*Received: missing_label"):
        pk.MaskedMetric("mae", missing_label="none")


class IncompleteConfig(keras.metrics.Metric):
    """A metric whose config lacks an argument."""

    def __init__(self, k=10, name="incomplete_config", **kwargs):
        super().__init__(name=name, **kwargs)
        self.k = k

    def update_state(self, y_true, y_pred, sample_weight=None):
        pass

    def result(self):
        return keras.ops.convert_to_tensor(self.k)


def test_a_metric_that_would_lose_an_argument_is_refused():
    head = pk.RegressionHead("a", metrics=[IncompleteConfig(k=3)])
    with pytest.raises(ValueError, match=r"Implement get_config.*takes \['k'\], which its config"):
        head.new_metrics()


def test_a_metric_with_one_number_for_the_batch_is_refused():
    head = pk.RegressionHead("a", metrics=[lambda y, p: keras.ops.mean(keras.ops.abs(y - p))])
    (metric,) = head.new_metrics()
    message = r"a value for each example.*'a_.*' failed.*Received: metric="
    with pytest.raises(ValueError, match=f"(?s){message}"):
        metric.update_state(np.float32([1, np.nan, 3]), np.zeros((3, 1)))


@once
def test_a_metric_from_a_file_has_the_task_in_its_messages():
    (metric, _) = pk.BinaryHead("click").new_metrics()
    copy = pk.MaskedMetric.from_config(metric.get_config())
    with pytest.raises(ValueError, match="'click_auc'"):
        copy.update_state([[0.0]], [[0.5], [0.5]])


OF_NUMBERS = {
    "rmse": keras.metrics.RootMeanSquaredError,
    "mean_of_the_loss": lambda: LossMean("binary_crossentropy"),
    "auc": pk.LogitAUC,
    "auc_of_keras": keras.metrics.AUC,
    "calibration": pk.Calibration,
    "by_name": lambda: "binary_accuracy",
}


@pytest.mark.parametrize("kind", fewer({kind: kind for kind in OF_NUMBERS}, "auc", "rmse"))
def test_single_numbers_of_a_label_may_be_missing(kind):
    rng = np.random.default_rng(0)
    y, there = rng.integers(0, 2, (2, 8, 3)), rng.uniform(size=(2, 8, 3)) < 0.6
    p, weights = rng.uniform(size=(2, 8, 3)).astype("float32"), np.abs(features(2, 8))
    metric, plain = pk.MaskedMetric(OF_NUMBERS[kind]()), pk.MaskedMetric(OF_NUMBERS[kind]())
    metric.update_state(np.where(there, y, np.nan), p, weights)
    repeated = np.broadcast_to(weights[..., None], y.shape)[there]
    plain.update_state(y[there][:, None], p[there][:, None], repeated)
    assert float(metric.result()) == pytest.approx(float(plain.result()), rel=1e-5)


def test_metrics_of_whole_labels_ignore_labels_that_are_missing_in_part():
    y, p = np.float32([[1, 0], [np.nan, 1]]), np.float32([[0.9, 0.2], [0.9, 0.1]])
    metric = pk.MaskedMetric(keras.metrics.AUC(multi_label=True, num_labels=2))
    metric.update_state(y, p)
    assert float(metric.metric.true_positives[0, 1]) == 0

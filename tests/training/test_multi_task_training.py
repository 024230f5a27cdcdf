"""Steps of a MultiTaskModel: labels, sample weights, losses, gradients and regularization."""

import functools
import warnings
from collections import Counter

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import JIT, QUICK, assert_same, features, numpy_of, once
from tests.models import Subclassed, chain, compiled, heads_alone, heads_of, loaded
from tests.pairs import fewer
from tests.refusals import check_refused, table

NAN = float("nan")
ROWS = 12
X = features(ROWS, 3)
Y = {
    "click": np.where(np.arange(ROWS) % 4, np.arange(ROWS) % 2, NAN).astype("float32"),
    "time": X[:, 1:2] * 2 + 1,
    "kind": np.where(np.arange(ROWS) % 3, np.arange(ROWS) % 3, -1),
}
LOSS_WEIGHTS = {"click": 1.0, "time": 0.5, "kind": 2.0}
SAMPLE_WEIGHTS = np.linspace(0.5, 2, ROWS)


def three_heads():
    click, time = pk.BinaryHead("click", tower=[4]), pk.RegressionHead("time", loss_weight=0.5)
    kind = pk.MulticlassHead("kind", num_classes=3, loss_weight=2.0, missing_label=-1)
    return pk.TaskHeads([click, time, kind])


def model_of(*heads, rate=0.0, **kwargs):
    heads = pk.TaskHeads(heads) if heads else three_heads()
    return compiled(heads_alone(heads), keras.optimizers.SGD(rate), **kwargs)


def losses_in_numpy(predictions, weights=None):
    """Return the loss of each task over its labeled examples."""
    p, y = {task: np.float64(numpy_of(x)) for task, x in predictions.items()}, Y
    click = np.where(y["click"] == 1, p["click"][:, 0], 1 - p["click"][:, 0])
    losses = {
        "click": np.where(np.isnan(y["click"]), NAN, -np.log(click)),
        "time": np.square(p["time"] - y["time"])[:, 0],
        "kind": np.where(y["kind"] < 0, NAN, -np.log(p["kind"][np.arange(ROWS), y["kind"]])),
    }
    weights = {task: (weights or {}).get(task, np.ones(ROWS)) for task in losses}
    return {t: np.nansum(weights[t] * x) / np.isfinite(x).sum() for t, x in losses.items()}


def assert_losses(logs, expected):
    """Assert that the logs have the loss of each task, and their weighted sum."""
    for task, loss in expected.items():
        assert float(logs[f"{task}_loss"]) == pytest.approx(loss, rel=1e-5), task
    total = sum(LOSS_WEIGHTS[task] * loss for task, loss in expected.items())
    assert float(logs["loss"]) == pytest.approx(total, rel=1e-5)


# Steps

SETTINGS = {"eager": {"run_eagerly": True}, f"jit={JIT[-1]}": {"jit_compile": JIT[-1]}}
if keras.backend.backend() == "jax":
    del SETTINGS["eager"]  # it compiles every operation


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_every_method_has_the_losses_of_numpy(settings):
    model = model_of(**settings)
    expected = losses_in_numpy(model(X))
    assert_losses(model.train_on_batch(X, Y, return_dict=True), expected)
    model.reset_metrics()
    assert_losses(model.test_on_batch(X, Y, return_dict=True), expected)
    assert_losses(model.evaluate(X, Y, verbose=0, return_dict=True), expected)
    fit = model.fit(X, Y, epochs=2, verbose=0)
    assert_losses({key: values[-1] for key, values in fit.history.items()}, expected)


BLOCKS = {"hedged": pk.HedgedBlock, "PLE": functools.partial(pk.PLEBlock, 1)}


@once
@pytest.mark.parametrize(("block", "weighting"), [("hedged", None), ("PLE", "uncertainty")])
def test_a_loss_on_pytorch_creates_no_tensors_of_numbers_and_reads_none(block, weighting):
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names[func.name()] += 1
            return func(*args, **kwargs or {})

    names = Counter()
    options = {"extra_metrics": [pk.NormalizedEntropy(), pk.Calibration()]}
    heads = [pk.BinaryHead("click", pos_weight=2.0, loss_weight=0.5, **options)]
    heads += [pk.RegressionHead("time", standardize=True), pk.BinaryHead("seen")]
    heads = pk.TaskHeads(heads, loss_weighting=weighting)
    model = compiled(chain(BLOCKS[block](heads, [4]), heads))
    y = {"click": Y["click"], "time": Y["time"], "seen": np.arange(ROWS, dtype="uint8") % 2}
    heads.adapt(y)
    model.train_on_batch(X, y)
    x, y = keras.tree.map_structure(torch.from_numpy, (X, y))
    with Operations():
        predictions = model(x, training=True)
        model.compute_loss(x, y, predictions).backward()
        model.compute_metrics(x, y, predictions)
    assert names.total() > 100
    reads = {"aten::_local_scalar_dense", "aten::masked_select", "aten::nonzero"}
    assert not {"aten::lift_fresh", *reads} & {*names}


# Labels and sample weights


def test_labels_of_the_only_task_may_be_an_array():
    model = model_of(pk.RegressionHead("time"), rate=0.1, **QUICK)
    y = Y["time"]
    logs = [model.evaluate(X, labels, verbose=0, return_dict=True) for labels in ({"time": y}, y)]
    assert logs[1] == logs[0]
    assert set(logs[0]) == {"loss", "time_loss", "rmse", "mean_squared_error"}
    model.fit(X, y, sample_weight=SAMPLE_WEIGHTS, validation_data=(X, y), verbose=0)
    assert model.evaluate(X, y, verbose=0, return_dict=True)["loss"] < logs[0]["loss"]


BY_TASK = {task: SAMPLE_WEIGHTS**power for power, task in enumerate(Y, start=1)}
WEIGHTS = {
    "by_task": (BY_TASK, BY_TASK),
    "columns": ({task: w[:, None] for task, w in BY_TASK.items()}, BY_TASK),
    "some_tasks": ({"time": BY_TASK["time"]}, {"time": BY_TASK["time"]}),
    "array": (SAMPLE_WEIGHTS, dict.fromkeys(Y, SAMPLE_WEIGHTS)),
}


@pytest.mark.parametrize(("sample_weight", "weights"), fewer(WEIGHTS, "array"))
def test_sample_weights_are_by_task_or_for_all_tasks(sample_weight, weights):
    model = model_of(**QUICK)
    expected = losses_in_numpy(model(X), weights)
    logs = model.train_on_batch(X, Y, sample_weight=sample_weight, return_dict=True)
    assert_losses(logs, expected)
    if len(weights) == len(Y):  # `fit` of Keras wants weights for all tasks
        logs = model.fit(X, Y, sample_weight=sample_weight, verbose=0).history
        assert_losses({key: values[0] for key, values in logs.items()}, expected)


CLICK = {"click": Y["click"]}
KEYS = r"y must have exactly the keys \['click', 'time', 'kind'\]; missing: "
LABELS = {
    "missing": (CLICK, rf"{KEYS}\['time', 'kind'\], unknown: \[\]\. .*y=\{{'click'\}}"),
    "width": ({**Y, "time": X}, r"(y_true of 'time'|y\['time'\]) must have a shape.*\.shape=\("),
}


@pytest.mark.parametrize(("y", "message"), table(LABELS))
def test_wrong_labels_are_refused_and_the_model_keeps_its_weights(y, message):
    model = model_of(*three_heads().values(), pk.Head("score"))
    check_refused(lambda: model.fit(X, y, verbose=0), ValueError, message)
    assert np.isfinite(model.fit(X, Y, verbose=0).history["loss"][0])
    weights = model.get_weights()
    forms = [y, keras.tree.map_structure(keras.ops.convert_to_tensor, y)]
    for labels in forms[: 1 if keras.backend.backend() == "tensorflow" else 2]:
        # A graph of TensorFlow that is traced again has axes of unknown length.
        for method in (model.fit, model.evaluate):
            check_refused(lambda: method(X, labels, verbose=0), ValueError, message)  # noqa: B023
    np.testing.assert_equal(model.get_weights(), weights)


@once
def test_fit_and_evaluate_check_the_first_arrays_of_labels_without_warnings(monkeypatch):
    monkeypatch.setattr("ple_keras.models.multi_task_model.FIRST_ROWS", 4)
    heads = pk.TaskHeads([pk.Head("a", activation="exponential", loss="poisson")])
    model = Subclassed([pk.SharedBottomBlock(heads, [2]), heads])
    x, y = features(6, 5, 3), np.ones((6, 5))
    model.compile(trace=False)
    y[4:], labels = -1, {"a": y}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(x, labels, verbose=0)  # unbuilt: the rank of the labels is unknown
        model.fit(x, labels, verbose=0)
    wrong = {"a": y[::-1]}
    fits = (lambda: model.fit(x, wrong), lambda: model.fit(x, labels, validation_data=(x, wrong)))
    for call in (*fits, lambda: model.evaluate(x, wrong)):
        check_refused(call, ValueError, r"y\['a'\] must be at least 0 for the loss.*invalid: 10")


# Regularization


class AddsLoss(pk.MultiTaskTraining, keras.Model):
    """Subclassed model with a regularizer and its own loss."""

    def __init__(self):
        super().__init__()
        self.block = keras.layers.Dense(4, kernel_regularizer="l2")
        self.heads = three_heads()

    def call(self, inputs):
        hidden = self.block(inputs)
        self.add_loss(0.1 * keras.ops.sum(keras.ops.square(hidden)))
        return self.heads(dict.fromkeys(self.heads, hidden))


def regularized():
    heads = three_heads()
    return chain(pk.PLEBlock(1, heads, pk.ExpertBlock([4], kernel_regularizer="l2")), heads)


@pytest.mark.parametrize("make", [regularized, AddsLoss])
def test_losses_of_layers_are_added_once(make):
    model = compiled(make(), keras.optimizers.SGD(0.0), **QUICK)
    expected = losses_in_numpy(model(X))
    others = sum(float(loss) for loss in model.losses)
    assert others > 0.1
    total = sum(LOSS_WEIGHTS[task] * loss for task, loss in expected.items()) + others
    for step in (model.train_on_batch, model.test_on_batch):
        model.reset_metrics()
        assert float(step(X, Y, return_dict=True)["loss"]) == pytest.approx(total, rel=1e-5)


# Losses of heads


@keras.saving.register_keras_serializable("test_multi_task_training")
def squared_gap(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


@keras.saving.register_keras_serializable("test_multi_task_training")
class Bounded(pk.RegressionHead):
    """Head with its own loss."""

    def example_losses(self, y_true, y_pred):
        return keras.ops.minimum(super().example_losses(y_true, y_pred), 0.5)


LOSSES = {
    "function": (pk.RegressionHead("a", loss=squared_gap), np.square),
    "example_losses": (Bounded("a"), lambda x: np.minimum(x**2, 0.5)),
    "huber": (  # the config of Keras's Huber lacks its delta
        pk.RegressionHead("a", loss=keras.losses.Huber(0.1)),
        lambda x: np.where(abs(x) < 0.1, x**2 / 2, 0.1 * abs(x) - 0.005),
    ),
}


@pytest.mark.parametrize(("head", "function"), fewer(LOSSES, "huber", "example_losses"))
def test_losses_in_every_form_train_and_are_kept_in_files(head, function, tmp_path):
    model = model_of(head, pk.BinaryHead("b"), rate=0.1, **QUICK)
    y = {"a": np.where(np.arange(ROWS)[:, None] % 4, Y["time"], NAN), "b": Y["click"]}
    gaps = (y["a"] - numpy_of(model(X))["a"]).ravel()
    copy = loaded(model, tmp_path)
    copy.run_eagerly = QUICK["run_eagerly"]
    first, second = (m.train_on_batch(X, y, return_dict=True) for m in (model, copy))
    assert float(first["a_loss"]) == pytest.approx(np.nanmean(function(gaps)), rel=1e-5)
    assert_same({k: float(x) for k, x in second.items()}, {k: float(x) for k, x in first.items()})
    before = head.get_weights()[0]
    copied = heads_of(copy)["a"]
    np.testing.assert_allclose(copied.get_weights()[0], before, rtol=1e-6)
    assert type(copied) is type(head)
    assert heads_of(copy).get_config() == heads_of(model).get_config()


@once
def test_a_model_of_many_tasks_warns_once():
    heads = pk.TaskHeads([pk.BinaryHead(f"t{i}", metrics=[]) for i in range(51)])
    model, y = compiled(heads_alone(heads)), {task: np.arange(2) for task in heads}
    with pytest.warns(UserWarning, match=r"more than 50 tasks .*BinaryHead\('name', units=n\)"):
        model.fit(np.ones((2, 3)), y, epochs=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(np.ones((2, 3)), y, epochs=0)

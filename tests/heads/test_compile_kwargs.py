"""`compile_kwargs`: the arguments of `Model.compile`, and the logs and training of a model."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK, features, numpy_of, once
from tests.models import compiled, heads_alone
from tests.pairs import fewer

ROWS = 24


def all_heads(**kwargs):
    return pk.TaskHeads(
        [
            pk.BinaryHead("click", tower=[4]),
            pk.RegressionHead("watch-time", loss_weight=0.5),
            pk.MulticlassHead("category", num_classes=3, loss_weight=2.0),
        ],
        **kwargs,
    )


ALL_KEYS = {
    "loss",
    "click_loss",
    "click_auc",
    "click_binary_crossentropy",
    "watch-time_loss",
    "watch-time_rmse",
    "watch-time_mean_squared_error",
    "category_loss",
    "category_accuracy",
    "category_sparse_categorical_crossentropy",
}


def model_of(heads, optimizer="adam"):
    return compiled(heads_alone(heads), optimizer)


def labels():
    rng = np.random.default_rng(1)
    return {
        "click": np.arange(ROWS) % 2,
        "watch-time": rng.normal(size=ROWS).astype("float32"),
        "category": np.arange(ROWS) % 3,
    }


def evaluate(model, y=None):
    return model.evaluate(features(ROWS, 3), y or labels(), verbose=0, return_dict=True)


@pytest.fixture(scope="module")
def evaluated():
    """A model, and its logs before training."""
    model = model_of(all_heads())
    return model, evaluate(model)


@once
def test_compile_kwargs_have_losses_weights_and_metrics_of_every_task():
    kwargs = all_heads().compile_kwargs()
    assert set(kwargs) == {"loss", "loss_weights", "metrics"}
    tasks = ["click", "watch-time", "category"]
    assert all(list(by_task) == tasks for by_task in kwargs.values())
    assert {task: [m.name for m in ms] for task, ms in kwargs["metrics"].items()} == {
        "click": ["auc", "binary_crossentropy"],
        "watch-time": ["rmse", "mean_squared_error"],
        "category": ["accuracy", "sparse_categorical_crossentropy"],
    }


def test_compile_kwargs_make_new_metrics_at_every_call():
    mine = keras.metrics.MeanAbsoluteError()
    heads = pk.TaskHeads([pk.BinaryHead("a"), pk.RegressionHead("b", metrics=[mine])])
    first, second = (heads.compile_kwargs()["metrics"] for _ in range(2))
    metrics = [metric for by_task in (first, second) for ms in by_task.values() for metric in ms]
    assert len({id(metric) for metric in [*metrics, mine]}) == len(metrics) + 1
    names = [{task: [m.name for m in ms] for task, ms in by.items()} for by in (first, second)]
    assert names[0] == names[1]


@once
def test_overrides_replace_arguments_and_the_heads_give_omitted_weights():
    kwargs = all_heads().compile_kwargs(
        optimizer="sgd", loss_weights={"click": 3.0}, metrics=None, run_eagerly=True
    )
    assert kwargs["optimizer"] == "sgd"
    assert kwargs["run_eagerly"] is True
    assert kwargs["loss_weights"] == {"click": 3.0, "watch-time": 0.5, "category": 2.0}
    assert kwargs["metrics"] is None
    assert list(kwargs["loss"]) == ["click", "watch-time", "category"]


@once
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ({"loss": None}, None),
        ({"loss": {"click": "mse"}}, {"click": 1.0}),
        ({"loss_weights": {"click": 2.0}}, {"click": 2.0, "watch-time": 0.5, "category": 2.0}),
        ({"loss_weights": None}, {"click": 1.0, "watch-time": 0.5, "category": 2.0}),
        (
            {"loss_weights": {"watch-time": None}},
            {"click": 1.0, "watch-time": 0.5, "category": 2.0},
        ),
        ({"loss": {"watch-time": ["mse", "mae"]}}, {"watch-time": [0.5, 0.5]}),
        (
            {"loss": {"click": ["mse", "mae"]}, "loss_weights": {"click": [1.0, 3.0]}},
            {"click": [1.0, 3.0]},
        ),
    ],
)
def test_overridden_losses_and_loss_weights_have_the_same_tasks(override, expected):
    heads = all_heads()
    kwargs = heads.compile_kwargs(**override)
    assert kwargs["loss_weights"] == expected
    if isinstance(kwargs["loss"], dict) and expected is not None:
        assert set(kwargs["loss"]) == set(expected)


def test_a_loss_weight_of_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match=r"loss_weights must have keys among.*unknown: \['x'\]"):
        all_heads().compile_kwargs(loss_weights={"x": 1.0})


@once
@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (-1.0, ValueError, "must be at least 0"),
        (float("nan"), ValueError, "must be finite"),
        ([1.0, -1.0], ValueError, "must be at least 0"),
        ("1", TypeError, "must be a number"),
    ],
)
def test_a_loss_weight_that_no_head_takes_is_refused(weight, error, message):
    with pytest.raises(error, match=rf"^loss_weights\['click'\] {message}\. Received: "):
        all_heads().compile_kwargs(loss_weights={"click": weight})


def test_training_improves_every_task():
    model = model_of(all_heads(), optimizer=keras.optimizers.Adam(0.05))
    before = evaluate(model)
    history = model.fit(features(ROWS, 3), labels(), batch_size=12, epochs=10, verbose=0).history
    after = evaluate(model)
    assert set(history) == ALL_KEYS
    assert all(np.isfinite(values).all() for values in history.values())
    for key in ("click_loss", "watch-time_loss", "category_loss", "loss"):
        assert after[key] < before[key]


@once
def test_log_keys_are_the_same_in_every_build_and_compile():
    for _ in range(2):
        model = model_of(all_heads())
        assert set(evaluate(model)) == ALL_KEYS
        assert set(evaluate(compiled(model))) == ALL_KEYS


@once
@pytest.mark.parametrize(
    ("head", "keys"),
    [
        (pk.BinaryHead("click"), {"loss", "click_loss", "auc", "binary_crossentropy"}),
        (pk.RegressionHead("click"), {"loss", "click_loss", "rmse", "mean_squared_error"}),
    ],
    ids=["binary", "regression"],
)
def test_with_one_task_the_keys_of_metrics_omit_the_task(head, keys):
    model = model_of(pk.TaskHeads([head]))
    y = {"click": labels()["click"]}
    assert set(evaluate(model, y)) == keys
    logs = model.fit(features(ROWS, 3), y, validation_data=(features(ROWS, 3), y), verbose=0)
    assert set(logs.history) == keys | {f"val_{key}" for key in keys}


@pytest.mark.parametrize("dtype", [pytest.param("int32", marks=once), "float64"])
def test_labels_with_and_without_a_last_axis_and_of_any_type_give_the_same_logs(dtype, evaluated):
    model, expected = evaluated
    y = {task: x if task == "watch-time" else x.astype(dtype) for task, x in labels().items()}
    for flat_or_not in (y, {task: x[:, None] for task, x in y.items()}):
        compiled(model, **QUICK)  # again: a trace is of another shape
        assert evaluate(model, flat_or_not) == pytest.approx(expected, rel=1e-5)


def test_logs_agree_with_numpy(evaluated):
    (model, logs), y = evaluated, labels()
    predictions = model.predict(features(ROWS, 3), verbose=0)
    click = np.where(y["click"], predictions["click"][:, 0], 1 - predictions["click"][:, 0])
    errors = predictions["watch-time"][:, 0] - y["watch-time"]
    category = predictions["category"][np.arange(ROWS), y["category"]]
    expected = {
        "click_loss": -np.log(click).mean(),
        "click_binary_crossentropy": -np.log(click).mean(),
        "watch-time_loss": np.square(errors).mean(),
        "watch-time_rmse": np.sqrt(np.square(errors).mean()),
        "category_loss": -np.log(category).mean(),
        "category_sparse_categorical_crossentropy": -np.log(category).mean(),
        "category_accuracy": (predictions["category"].argmax(axis=-1) == y["category"]).mean(),
    }
    assert {key: logs[key] for key in expected} == pytest.approx(expected, rel=1e-4)


def test_the_loss_is_the_weighted_sum_of_the_tasks_losses(evaluated):
    _, logs = evaluated
    expected = logs["click_loss"] + 0.5 * logs["watch-time_loss"] + 2 * logs["category_loss"]
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_loss_weight_scales_the_gradient_of_its_head():
    heads = [
        pk.RegressionHead("a", loss_weight=1.0),
        pk.RegressionHead("b", loss_weight=3.0),
        pk.RegressionHead("c", loss_weight=0.0),
    ]
    model = model_of(pk.TaskHeads(heads), optimizer=keras.optimizers.SGD(0.1))
    kernel, bias = heads[0].get_weights()
    for head in heads:
        head.set_weights([kernel, bias])
    model.train_on_batch(features(ROWS, 3), dict.fromkeys("abc", labels()["watch-time"]))
    steps = [kernel - head.get_weights()[0] for head in heads]
    assert np.abs(steps[0]).min() > 1e-4
    np.testing.assert_allclose(steps[1], 3 * steps[0], rtol=1e-3)
    np.testing.assert_array_equal(steps[2], np.zeros_like(kernel))


def test_a_head_without_a_loss_predicts_but_is_not_trained():
    head = pk.Head("score", units=2)
    model = model_of(pk.TaskHeads([pk.BinaryHead("click"), head]))
    kernel = head.get_weights()[0]
    y = {"click": labels()["click"], "score": np.zeros((ROWS, 2))}
    model.train_on_batch(features(ROWS, 3), y)
    np.testing.assert_array_equal(head.get_weights()[0], kernel)
    assert model.predict(features(ROWS, 3), verbose=0)["score"].shape == (ROWS, 2)


def test_a_compiled_model_evaluates_the_same_after_loading_and_trains_on(tmp_path):
    model = model_of(all_heads())
    model.fit(features(ROWS, 3), labels(), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert evaluate(loaded) == pytest.approx(evaluate(model), rel=1e-6)
    for each in (model, loaded):
        each.train_on_batch(features(ROWS, 3), labels())
    assert evaluate(loaded) == pytest.approx(evaluate(model), rel=1e-4)


def mean_gap(y_true, y_pred):
    labels = keras.ops.reshape(keras.ops.cast(y_true, y_pred.dtype), (-1, 1))
    return keras.ops.mean(keras.ops.abs(labels - y_pred), axis=-1)


USER_METRICS = {
    "two_of_one_class": (
        lambda: [keras.metrics.AUC(), keras.metrics.AUC(curve="PR")],
        ["auc", "auc_1"],
    ),
    "named": (
        lambda: [keras.metrics.AUC(name="roc"), keras.metrics.AUC(curve="PR", name="pr_2")],
        ["roc", "pr_2"],
    ),
    "strings": (lambda: ["accuracy", "mae"], ["accuracy", "mae"]),
    "function": (lambda: [mean_gap], ["mean_gap"]),
    "mixed": (
        lambda: ["mae", mean_gap, keras.metrics.Precision(), keras.metrics.MeanSquaredError()],
        ["mae", "mean_gap", "precision", "mean_squared_error"],
    ),
    "none": (list, []),
}


@once
@pytest.mark.filterwarnings("ignore:'click' has an 'auc' of Keras")
@pytest.mark.parametrize(
    ("make_metrics", "names"), list(USER_METRICS.values()), ids=list(USER_METRICS)
)
def test_a_user_s_metrics_are_logged_under_stable_names(make_metrics, names):
    for _ in range(2):  # Keras numbers the names of objects; the logs must have no numbers
        heads = pk.TaskHeads(
            [pk.BinaryHead("click", metrics=make_metrics()), pk.RegressionHead("b", metrics=[])]
        )
        y = labels()
        model = compiled(heads_alone(heads), **QUICK)
        logs = evaluate(model, {"click": y["click"], "b": y["watch-time"]})
        assert set(logs) == {"loss", "click_loss", "b_loss", *(f"click_{name}" for name in names)}


def test_a_user_s_metrics_agree_with_numpy():
    metrics = ["accuracy", "mae", mean_gap]
    model = model_of(pk.TaskHeads([pk.BinaryHead("click", metrics=metrics)]))
    y = labels()["click"]
    logs = evaluate(model, {"click": y})
    predictions = model.predict(features(ROWS, 3), verbose=0)["click"][:, 0]
    expected = {
        "accuracy": ((predictions > 0.5) == y).mean(),
        "mae": np.abs(predictions - y).mean(),
        "mean_gap": np.abs(predictions - y).mean(),
    }
    assert {key: logs[key] for key in expected} == pytest.approx(expected, rel=1e-5)


@keras.saving.register_keras_serializable("test_compile_kwargs")
def squared_gap(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


@keras.saving.register_keras_serializable("test_compile_kwargs")
class Pinball(keras.losses.Loss):
    """The loss of a quantile, with its own argument."""

    def __init__(self, quantile=0.5, **kwargs):
        super().__init__(**kwargs)
        self.quantile = quantile

    def call(self, y_true, y_pred):
        gap = y_true - y_pred
        return keras.ops.mean(keras.ops.maximum(self.quantile * gap, (self.quantile - 1) * gap), -1)

    def get_config(self):
        return {**super().get_config(), "quantile": self.quantile}


LOSSES = {
    "name": "mean_absolute_error",
    "function": squared_gap,
    "keras_object": keras.losses.MeanAbsolutePercentageError(),
    "object": Pinball(quantile=0.9),
}


@pytest.mark.parametrize("loss", fewer(LOSSES, "function", "object"))
def test_losses_in_every_form_train_and_are_restored_from_config_and_file(loss, tmp_path):
    heads = pk.TaskHeads([pk.RegressionHead("a", loss=loss), pk.BinaryHead("b")])
    model = compiled(heads_alone(heads), "adam", **QUICK)
    y = {"a": labels()["watch-time"][:, None], "b": labels()["click"]}
    logs = evaluate(model, y)
    prediction = model.predict(features(ROWS, 3), verbose=0)["a"]
    expected = np.mean(numpy_of(keras.losses.get(loss)(y["a"], prediction)))
    assert logs["a_loss"] == pytest.approx(expected, rel=1e-5)

    copy = pk.TaskHeads.from_config(heads.get_config())
    assert copy.get_config() == heads.get_config()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.run_eagerly = QUICK["run_eagerly"]
    assert evaluate(loaded, y) == pytest.approx(logs, rel=1e-6)
    before = loaded.get_weights()
    loaded.train_on_batch(features(ROWS, 3), y)
    assert any(not np.array_equal(old, new) for old, new in zip(before, loaded.get_weights()))

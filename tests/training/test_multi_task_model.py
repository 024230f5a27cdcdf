"""MultiTaskModel and MultiTaskTraining: outputs, `compile`, classes, files and copies."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK, features, numpy_of, once
from tests.models import (
    branched,
    click_and_time,
    clicks_and_times,
    compiled,
    deep_copied,
    heads_of,
    loaded,
)
from tests.pairs import fewer
from tests.refusals import all_refused, check_refused

X = features(10, 3)
Y = {
    "click": (X[:, 0] > 0).astype("float32"),
    "time": np.where(np.arange(10) % 3, 50 * X[:, 1] + 300, np.nan),
}


def predictions(inputs, *tasks, heads=None):
    heads = heads or pk.TaskHeads([pk.BinaryHead(task) for task in tasks or ("a", "b")])
    return heads(dict.fromkeys(heads.task_names, inputs))


def functional(function, model=keras.Model):
    """Return a functional model of a function of its input."""
    inputs = keras.Input((3,))
    return model(inputs, function(inputs))


def swapped(inputs):
    """Return the prediction of each task under the name of the other one."""
    return dict(zip("ba", predictions(inputs).values()))


def in_a_block(inputs, *after):
    heads = pk.TaskHeads([pk.BinaryHead("a"), pk.BinaryHead("b")])
    return pk.SequentialBlock([pk.CGCBlock(heads, 2, add_shared_gate=False), heads, *after])(inputs)


ALLOWED = {
    "another_order": lambda x: dict(reversed(predictions(x).items())),
    "inner_model": lambda x: functional(predictions)(x),
    "two_inner_models": lambda x: functional(functional(predictions))(x),
    "sequential_block": in_a_block,
}


@pytest.mark.parametrize("make", fewer(ALLOWED, "two_inner_models", "sequential_block"))
def test_outputs_may_come_from_heads_in_other_layers(make):
    model = compiled(functional(make, pk.MultiTaskModel), **QUICK)
    y = {"a": X[:, 0] > 0, "b": X[:, 1] > 0}
    expected = 0
    for task, p in numpy_of(model(X)).items():
        expected -= np.log(np.where(y[task], p[:, 0], 1 - p[:, 0])).mean()
    logs = model.train_on_batch(X, y, return_dict=True)
    assert float(logs["loss"]) == pytest.approx(expected, rel=1e-5)


ONE = r"model must have exactly one TaskHeads.*Received: model='multi_task_model.*' with TaskHeads "
OUTPUTS = r"outputs of 'multi_task_model.*' must be the predictions of its TaskHeads 'task_heads"


class Doubled(keras.layers.Layer):
    """Layer that doubles all predictions."""

    def call(self, inputs):
        return {task: 2 * prediction for task, prediction in inputs.items()}


def predictions_of_branches(inputs):
    heads = pk.TaskHeads([pk.BinaryHead("a"), pk.BinaryHead("b")])
    return heads(pk.HedgedBlock(heads, [3])(inputs))


REFUSED = {
    "two": (lambda x: {**predictions(x, "a"), **predictions(x, "b")}, rf"{ONE}\['task_h.*', 'task"),
    "none": (lambda x: {"a": keras.layers.Dense(1)(x)}, rf"{ONE}\[\]"),
    "a_layer_after": (
        lambda x: Doubled()(predictions(x)),
        rf"{OUTPUTS}.*all tasks, \['a', 'b'\].*Received: outputs=\['a', 'b'\]",
    ),
    "a_layer_after_in_a_block": (lambda x: in_a_block(x, Doubled()), rf"{OUTPUTS}.*Received: out"),
    "swapped": (swapped, rf"{OUTPUTS}.*Received: outputs="),
    "swapped_in_an_inner_model": (lambda x: functional(swapped)(x), rf"{OUTPUTS}.*Received: out"),
    "others": (lambda x: {**predictions(x), "x": x}, rf"{OUTPUTS}.*Received: outputs=.*'x'\]"),
}


test_other_outputs_are_refused = all_refused(
    lambda make: functional(make, pk.MultiTaskModel), REFUSED
)


def test_a_mixin_after_the_model_is_refused():
    with pytest.raises(TypeError, match=r"before keras\.Model .* Received: Mine with bases=\(<cl"):

        class Mine(keras.Model, pk.MultiTaskTraining):
            pass


class Wrong(pk.MultiTaskTraining, keras.Model):
    """Subclassed model with some TaskHeads, which returns the prediction of a task."""

    def __init__(self, number=1):
        super().__init__()
        self.all_heads = [pk.TaskHeads([pk.BinaryHead("a")]) for _ in range(number)]

    def call(self, inputs):
        return self.all_heads[0]({"a": inputs})["a"]


def test_subclassed_models_without_one_task_heads_or_with_other_outputs_are_refused():
    for number in (0, 2):
        check_refused(lambda: Wrong(number).compile(), ValueError, "exactly one TaskHeads.*'wrong")  # noqa: B023
    with pytest.raises(ValueError, match=r"outputs of 'wrong.*Received: outputs=\w+\(shape="):
        compiled(Wrong(), **QUICK).train_on_batch(X, {"a": Y["click"]})


# Compile

ARGUMENTS = {"loss": "mse", "loss_weights": {"a": 2.0}, "metrics": ["mae"], "weighted_metrics": []}


@once
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_arguments_of_the_heads_are_refused_by_compile(argument):
    model = functional(predictions, pk.MultiTaskModel)
    message = f"^{argument} must be passed to heads, .*extra_metrics.*Received: {argument}="
    kwargs = {argument: ARGUMENTS[argument]}
    check_refused(lambda: model.compile("adam", **kwargs), TypeError, message)
    model.compile("adam", **{argument: None})


# Functional and subclassed classes


@keras.saving.register_keras_serializable("test_multi_task_model")
class Functional(pk.MultiTaskModel):
    """Functional model with its own class."""


@keras.saving.register_keras_serializable("test_multi_task_model")
class Subclassed(pk.MultiTaskTraining, keras.Model):
    """Model that creates its own layers. Its config does not contain the heads."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.heads = learned_heads()
        self.block = pk.CGCBlock(self.heads, [4], add_shared_gate=False)

    def call(self, inputs, training=None):
        return self.heads(self.block(inputs, training=training), training=training)


def learned_heads(loss_weighting="uncertainty"):
    time = pk.RegressionHead("time", standardize=True, loss_weight=2.0)
    return pk.TaskHeads([pk.BinaryHead("click"), time], loss_weighting)


def learned():
    heads = learned_heads()
    block = pk.CGCBlock(heads, [4], add_shared_gate=False)
    return functional(lambda x: heads(block(x)), Functional)


def hedged():
    return branched(learned_heads(None))


def subclassed(**kwargs):
    model = Subclassed(**kwargs)
    model(X[:1])
    return model


def adapted(model):
    heads_of(model).adapt(Y)
    return compiled(model, keras.optimizers.Adam(0.05), **QUICK)


def fit(model, start=0, epochs=2, callbacks=(), data=(X, Y)):
    """Train in a fixed order, with a smaller last batch. Return the logs by epoch."""
    options = {"initial_epoch": start, "epochs": start + epochs, "batch_size": 4, "verbose": 0}
    gammas = {"click": 0.5, "time": 0.9}
    decay = pk.LossWeightSchedule(lambda task, epoch: gammas[task] ** epoch)
    callbacks = [*callbacks, decay]
    history = model.fit(*data, **options, shuffle=False, callbacks=callbacks).history
    return {key: [float(value) for value in values] for key, values in history.items()}


@pytest.mark.parametrize("order", [[0, 1, 0], pytest.param([1, 0, 1], marks=once)])
def test_functional_and_subclassed_classes_live_in_one_process(order):
    """Keras changes the bases of a class that is used functionally."""

    class Graph(pk.MultiTaskModel):
        def __init__(self):
            inputs = keras.Input((3,))
            super().__init__(inputs, predictions(inputs))

    class Mine(pk.MultiTaskTraining, keras.Model):
        def __init__(self):
            super().__init__()
            self.heads = pk.TaskHeads([pk.BinaryHead("a"), pk.BinaryHead("b")])

        def call(self, inputs):
            return predictions(inputs, heads=self.heads)

    for index in order:
        model = compiled((Graph, Mine)[index](), **QUICK)
        logs = model.train_on_batch(X, dict.fromkeys("ab", Y["click"]), return_dict=True)
        assert {"a_auc", "b_auc"} <= set(logs)


# Copies


def cloned(model, folder):
    """Return a clone with all that `load_model` restores."""
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    twin.compile_from_config(model.get_compile_config())
    for variable, value in zip(twin.optimizer.variables, model.optimizer.variables, strict=True):
        variable.assign(numpy_of(value))
    return twin


COPIES = {
    "learned": (learned, loaded),
    "hedged": (hedged, loaded),
    "subclassed": (subclassed, loaded),
    "cloned": (hedged, cloned),
    "deep_copied": (learned, deep_copied),
}


@pytest.mark.parametrize(("make", "copied"), fewer(COPIES, "hedged"))
def test_a_copy_continues_exactly(make, copied, tmp_path):
    model = adapted(make())
    fit(model)
    twin = copied(model, tmp_path)
    twin.run_eagerly = QUICK["run_eagerly"]
    assert type(twin) is type(model)
    assert [metric.name for metric in twin.metrics] == [metric.name for metric in model.metrics]
    expected, actual = fit(model, 2), fit(twin, 2)
    assert actual == expected
    np.testing.assert_equal(twin.get_weights(), model.get_weights())


class Stop(keras.callbacks.Callback):
    """A callback that saves the model and ends the training when the third epoch begins."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            self.model.save(self.path)
            raise KeyboardInterrupt


@once
def test_an_interrupted_fit_continues_exactly_from_a_backup_or_a_file(tmp_path):
    """Gates drop experts."""

    def run(model=None, start=0, **kwargs):
        model = model or click_and_time(gate_dropout=0.3, trace=False)
        return fit(model, start, 4 - start, data=clicks_and_times(), **kwargs)

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    expected = {key: values[2:] for key, values in run().items()}
    with pytest.raises(KeyboardInterrupt):
        run(callbacks=[backup(), Stop(tmp_path / "model.keras")])
    assert run(keras.models.load_model(tmp_path / "model.keras"), 2) == expected
    assert run(callbacks=[backup()]) == expected


@pytest.mark.parametrize("order", [1, -1], ids=["before", "after"])
def test_a_second_model_can_read_the_predictions_of_hedged_heads(order):
    inputs = keras.Input((3,))
    outputs = predictions_of_branches(inputs)
    doubled = Doubled()({"a": outputs["a"]})
    pairs = [(keras.Model, doubled), (pk.MultiTaskModel, outputs)][::order]
    models = {model: model(inputs, tensors) for model, tensors in pairs}
    trained = compiled(models[pk.MultiTaskModel], **QUICK)
    trained.train_on_batch(X, {"a": X[:, 0] > 0, "b": X[:, 1] > 0})
    expected = 2 * numpy_of(trained(X)["a"])
    np.testing.assert_allclose(numpy_of(models[keras.Model](X)["a"]), expected, rtol=1e-6)


class WithExtraLog(pk.MultiTaskModel):
    def get_metrics_result(self):
        return {**super().get_metrics_result(), "extra": 1.0}


@once
def test_the_logs_of_a_subclass_that_changes_them_are_numbers():
    heads, inputs = pk.TaskHeads([pk.BinaryHead("a")]), keras.Input((4,))
    model = WithExtraLog(inputs, heads(pk.CGCBlock(heads, [4])(inputs)))
    model.compile("adam")
    y = (np.arange(32) % 2).astype("float32")
    for _ in range(2):  # the first one begins eagerly
        history = model.fit(features(32, 4), y, batch_size=8, epochs=2, verbose=0).history
        assert all(value > 0 for values in history.values() for value in values)

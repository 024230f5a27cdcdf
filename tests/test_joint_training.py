"""Loss weights that move and that are learned: in force, seen, saved, and never lost in silence."""

import copy
import json
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK_JIT, features, numpy_of
from tests.joint_run import data, fit, make_model

BACKEND = keras.backend.backend()
ROOT = Path(pk.__file__).parents[1]
JIT = [False] if BACKEND == "torch" else [False, True]


def heads_of(model):
    return next(layer for layer in model.layers if isinstance(layer, pk.TaskHeads))


def variable(model, name):
    return next(w for w in heads_of(model).weights if w.name == name)


def new_process(mode, folder, status=0):
    command = [sys.executable, "-m", "tests.joint_run", mode, folder]
    assert subprocess.run(command, cwd=ROOT).returncode == status
    file = folder / f"{mode}.json"
    return json.loads(file.read_text()) if file.exists() else None


@pytest.mark.parametrize("jit_compile", JIT)
@pytest.mark.parametrize("steps", [1] if BACKEND == "torch" else [1, 2])
def test_a_gamma_of_a_half_halves_the_loss_of_a_frozen_network_at_each_epoch(jit_compile, steps):
    model = make_model(None, 0.0, jit_compile=jit_compile, steps_per_execution=steps)
    x, y = data()
    history = model.fit(
        *(x, y),
        batch_size=6,
        epochs=4,
        validation_data=(x, y),
        verbose=0,
        shuffle=False,
        callbacks=[pk.LossWeightDecay(0.5)],
    ).history
    for key in ("loss", "val_loss"):
        expected = history[key][0] * 0.5 ** np.arange(4)
        np.testing.assert_allclose(history[key], expected, rtol=1e-5)
    for key in ("click_loss", "time_loss", "val_click_loss"):
        np.testing.assert_allclose(history[key], history[key][0], rtol=1e-5)
    np.testing.assert_allclose(history["loss_weight/click"], [1, 0.5, 0.25, 0.125])
    np.testing.assert_allclose(history["loss_weight/time"], [2, 1, 0.5, 0.25])


def test_moved_weights_scale_the_gradient_of_each_task():
    """A weight that only shows in the logs would train as before."""

    def kernels_after(multipliers):
        model = make_model(None)
        model.optimizer = keras.optimizers.SGD(0.1)
        model.compile(**heads_of(model).compile_kwargs(optimizer=keras.optimizers.SGD(0.1)))
        before = [numpy_of(w) for w in model.trainable_weights]
        schedule = pk.LossWeightSchedule(lambda task, epoch: multipliers[task])
        model.fit(*data(), batch_size=12, verbose=0, callbacks=[schedule])
        changes = [numpy_of(w) - b for w, b in zip(model.trainable_weights, before)]
        paths = [w.path for w in model.trainable_weights]
        return {
            task: next(c for p, c in zip(paths, changes) if f"{task}_head/projection/kernel" in p)
            for task in ("click", "time")
        }

    plain = kernels_after({"click": 1.0, "time": 1.0})
    moved = kernels_after({"click": 3.0, "time": 0.0})
    assert np.abs(plain["time"]).max() > 1e-4
    np.testing.assert_allclose(moved["click"], 3 * plain["click"], rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(moved["time"], np.zeros_like(plain["time"]))


def test_a_schedule_is_asked_for_every_task_and_epoch():
    asked = []

    def schedule(task, epoch):
        asked.append((task, epoch))
        return 1.0 + epoch

    model = make_model(None)
    history = model.fit(
        *data(),
        epochs=4,
        initial_epoch=2,
        verbose=0,
        callbacks=[pk.LossWeightSchedule(schedule)],
    ).history
    assert asked == [("click", 2), ("time", 2), ("click", 3), ("time", 3)]
    np.testing.assert_allclose(history["loss_weight/time"], [6, 8])


class Unbuilt(keras.Model):
    """On TensorFlow it is built while the first epoch already runs."""

    def __init__(self):
        super().__init__()
        self.heads = pk.TaskHeads([pk.BinaryHead("click"), pk.RegressionHead("time")])

    def call(self, inputs):
        return self.heads({"click": inputs, "time": inputs})


def test_the_first_epoch_of_a_model_that_is_not_built_is_weighed_too():
    model = Unbuilt()
    model.compile(**model.heads.compile_kwargs(optimizer="sgd", jit_compile=QUICK_JIT))
    schedule = pk.LossWeightSchedule(lambda task, epoch: float(epoch))
    history = model.fit(*data(), epochs=2, verbose=0, callbacks=[schedule]).history
    assert history["loss"][0] == 0 < history["loss"][1]
    assert history["loss_weight/click"] == [0.0, 1.0]


def test_weights_stay_as_the_callback_left_them_until_told_otherwise(tmp_path):
    model = make_model(None)
    model.fit(*data(), epochs=2, verbose=0, callbacks=[pk.LossWeightDecay(0.5)])
    assert heads_of(model).loss_weights() == {"click": 0.5, "time": 1.0}
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert heads_of(loaded).loss_weights() == {"click": 0.5, "time": 1.0}
    expected = model.evaluate(*data(), verbose=0, return_dict=True)
    assert loaded.evaluate(*data(), verbose=0, return_dict=True) == pytest.approx(expected)


# Learned weights.

FORMS = {
    "mse": (pk.RegressionHead("a"), 0.5, 0.5),
    "mse_by_name": (pk.RegressionHead("a", loss="mse"), 0.5, 0.5),
    "mae": (pk.RegressionHead("a", loss="mean_absolute_error"), 1.0, 1.0),
    "mae_object": (pk.RegressionHead("a", loss=keras.losses.MeanAbsoluteError(name="x")), 1, 1),
    "binary": (pk.BinaryHead("a"), 1.0, 0.5),
    "binary_weighted": (pk.BinaryHead("a", pos_weight=3.0), 1.0, 0.5),
    "multiclass": (pk.MulticlassHead("a", num_classes=2), 1.0, 0.5),
    "mse_weighted": (pk.BinaryHead("a", loss="mean_squared_error", pos_weight=1.0), 0.5, 0.5),
    "by_batch": (pk.RegressionHead("a", reduction="sum_over_batch_size"), 0.5, 0.5),
}


@pytest.mark.parametrize(("head", "scale", "slope"), list(FORMS.values()), ids=list(FORMS))
def test_learned_weights_follow_the_likelihood_of_each_loss(head, scale, slope):
    """`w_0 (c exp(-s) L + a s)`, its gradient in s, and that of the network."""
    x, s = features(8, 3), 0.7
    y = np.float32([1, 0, np.nan, 1, np.nan, 0, 1, np.nan])
    share = 5 / 8 if head.reduction else 1.0

    def step(loss_weighting, loss_weight):
        """The logs of a step, and how it changes s and the head's kernel."""
        keras.utils.set_random_seed(0)
        one = type(head).from_config({**head.get_config(), "loss_weight": loss_weight})
        heads = pk.TaskHeads([one], loss_weighting=loss_weighting)
        inputs = keras.Input((3,))
        model = keras.Model(inputs, heads({"a": inputs}))
        if loss_weighting:
            variable(model, "log_variances").assign([s])
        optimizer = keras.optimizers.SGD(0.1)
        model.compile(**heads.compile_kwargs(optimizer=optimizer, jit_compile=QUICK_JIT))
        kernel = numpy_of(one.trainable_weights[0])
        logs = model.train_on_batch(x, {"a": y}, return_dict=True)
        moved = numpy_of(variable(model, "log_variances"))[0] - s if loss_weighting else 0
        return logs, moved, numpy_of(one.trainable_weights[0]) - kernel

    _, _, plain = step(None, 1.0)
    logs, moved, changed = step("uncertainty", 2.0)
    loss = float(logs["a_loss"])
    assert float(logs["loss"]) == pytest.approx(
        2 * (scale * np.exp(-s) * loss + slope * s * share), rel=1e-5
    )
    assert moved == pytest.approx(-0.2 * (slope * share - scale * np.exp(-s) * loss), rel=1e-3)
    assert np.abs(plain).max() > 1e-4
    np.testing.assert_allclose(changed, 2 * scale * np.exp(-s) * plain, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("reduction", [None, "sum_over_batch_size"])
def test_a_batch_without_labels_leaves_the_learned_weight_of_its_task_alone(reduction):
    heads = pk.TaskHeads(
        [pk.BinaryHead("a", reduction=reduction), pk.RegressionHead("b")],
        loss_weighting="uncertainty",
    )
    inputs = keras.Input((3,))
    model = keras.Model(inputs, heads({"a": inputs, "b": inputs}))
    model.compile(**heads.compile_kwargs(optimizer=keras.optimizers.SGD(0.1)))
    variable(model, "log_variances").assign([0.7, 0.7])
    y = {"a": np.full(4, np.nan), "b": np.ones(4)}
    logs = model.train_on_batch(features(4, 3), y, return_dict=True)
    after = numpy_of(variable(model, "log_variances"))
    assert after[0] == np.float32(0.7)
    assert after[1] != np.float32(0.7)
    expected = 0.5 * np.exp(-0.7) * logs["b_loss"] + 0.5 * 0.7
    assert float(logs["loss"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(logs["a_loss"]) == 0


def test_learned_weights_are_seen():
    model = make_model()
    history = model.fit(*data(), epochs=2, verbose=0, callbacks=[pk.LossWeightLogger()]).history
    s = numpy_of(variable(model, "log_variances"))
    assert np.abs(s).min() > 1e-3
    assert history["loss_weight/click"][-1] == pytest.approx(np.exp(-s[0]), rel=1e-5)
    assert history["loss_weight/time"][-1] == pytest.approx(2 * 0.5 * np.exp(-s[1]), rel=1e-5)


def test_a_frozen_layer_learns_no_weights():
    model = make_model()
    heads = heads_of(model)
    heads.trainable = False
    model.compile(**heads.compile_kwargs(optimizer="sgd", jit_compile=QUICK_JIT))
    model.train_on_batch(*data())
    np.testing.assert_array_equal(numpy_of(variable(model, "log_variances")), [0, 0])


# Interruption.


@pytest.fixture(scope="module")
def uninterrupted():
    return fit(make_model())


def assert_goes_on_like(logs, uninterrupted):
    for key, values in uninterrupted.items():
        np.testing.assert_allclose(logs[key], values[2:], rtol=1e-5, err_msg=key)


def test_a_saved_model_goes_on_in_a_new_process_as_if_never_interrupted(uninterrupted, tmp_path):
    model = make_model()
    fit(model, epochs=2)
    model.save(tmp_path / "model.keras")
    assert_goes_on_like(new_process("go_on", tmp_path), uninterrupted)


def test_a_killed_run_is_restored_as_if_never_interrupted(uninterrupted, tmp_path):
    new_process("be_killed", tmp_path, status=9)
    assert_goes_on_like(new_process("be_restored", tmp_path), uninterrupted)


@keras.saving.register_keras_serializable("test_joint_training")
class Subclassed(keras.Model):
    """A model that makes its layers itself: its config knows nothing of the heads."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        tasks = [pk.BinaryHead("click"), pk.RegressionHead("time", loss_weight=2.0)]
        self.heads = pk.TaskHeads(tasks, loss_weighting="uncertainty")
        self.ple = pk.PLEBlock(1, self.heads, [4])

    def call(self, inputs, training=None):
        return self.heads(self.ple(inputs, training=training), training=training)


def test_a_subclassed_model_finds_its_weights_again_in_a_file(tmp_path):
    model = Subclassed()
    model.compile(**model.heads.compile_kwargs(optimizer="adam", jit_compile=QUICK_JIT))
    fit(model, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.heads.loss_weights() == model.heads.loss_weights() != {"click": 1, "time": 2}
    both = (fit(each, epochs=4, initial_epoch=2) for each in (model, loaded))
    expected, actual = both
    for key, values in expected.items():
        np.testing.assert_allclose(actual[key], values, rtol=1e-5, err_msg=key)


def test_two_models_from_one_file_have_weights_of_their_own(tmp_path):
    make_model(None).save(tmp_path / "model.keras")
    first, second = (keras.models.load_model(tmp_path / "model.keras") for _ in range(2))
    heads_of(first).multiply_loss_weights({"click": 0.0, "time": 0.0})
    losses = [m.evaluate(*data(), verbose=0, return_dict=True)["loss"] for m in (first, second)]
    assert losses[0] == 0
    assert losses[1] > 0


def test_a_loaded_model_that_took_other_weights_is_saved_whole(tmp_path):
    make_model().save(tmp_path / "a.keras")
    make_model().save_weights(tmp_path / "b.weights.h5")
    model = keras.models.load_model(tmp_path / "a.keras")
    model.load_weights(tmp_path / "b.weights.h5")
    model.save(tmp_path / "c.keras")
    assert np.isfinite(fit(keras.models.load_model(tmp_path / "c.keras"), epochs=1)["loss"]).all()


def test_two_layers_with_weights_from_one_file_are_told_apart_in_the_next(tmp_path):
    def heads(name):
        tasks = [pk.BinaryHead("click"), pk.RegressionHead("time")]
        return pk.TaskHeads(tasks, loss_weighting="uncertainty", name=name)

    def model_of(layer):
        inputs = keras.Input((3,))
        return keras.Model(inputs, layer({"click": inputs, "time": inputs}))

    model_of(heads("first")).save_weights(tmp_path / "w.weights.h5")
    layers = {"u": heads("u"), "v": heads("v")}
    for layer in layers.values():
        model_of(layer).load_weights(tmp_path / "w.weights.h5")
    inputs = keras.Input((3,))
    outputs = {key: x({"click": inputs, "time": inputs}) for key, x in layers.items()}
    model = keras.Model(inputs, outputs)
    kwargs = {key: layer.compile_kwargs() for key, layer in layers.items()}
    both = {name: {key: kwargs[key][name] for key in layers} for name in ("loss", "loss_weights")}
    model.compile("sgd", jit_compile=QUICK_JIT, **both)
    model.save(tmp_path / "both.keras")
    loaded = keras.models.load_model(tmp_path / "both.keras")
    x, y = data()
    loaded.fit(x, {"u": y, "v": y}, verbose=0)
    for layer in loaded.layers:
        if isinstance(layer, pk.TaskHeads):
            variances = next(w for w in layer.weights if w.name == "log_variances")
            assert np.abs(numpy_of(variances)).min() > 0, layer.name


# A loss belongs to the TaskHeads of its own model.


def assert_reads_its_own_weights(model):
    """Its loss is 0 where the multipliers of its own TaskHeads are."""
    x, y = data()
    heads = heads_of(model)
    for multiplier in (1.0, 0.0):
        heads.multiply_loss_weights(dict.fromkeys(heads.task_names, multiplier))
        loss = float(model.compute_loss(y=y, y_pred=model(x)))
        assert np.isfinite(loss)
        assert (loss == 0) == (multiplier == 0)


def with_a_layer_after_the_heads(lost_mark):
    """Of a layer's outputs nothing tells which TaskHeads made them."""
    model = make_model(None)
    if not lost_mark:
        return model
    heads = heads_of(model)
    outputs = {k: keras.layers.Rescaling(1.0, name=k)(v) for k, v in model.output.items()}
    model = keras.Model(model.input, outputs)
    model.compile(**heads.compile_kwargs(optimizer="sgd", jit_compile=QUICK_JIT))
    return model


def loaded(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def compiled_clone(model, folder):
    clone = keras.models.clone_model(model)
    clone.compile_from_config(model.get_compile_config())
    return clone


def of_json(model, folder):
    return keras.models.model_from_json(model.to_json())


def of_json_with_weights(model, folder):
    model.save_weights(folder / "m.weights.h5")
    copy = of_json(model, folder)
    copy.load_weights(folder / "m.weights.h5")
    return copy


def of_json_with_weights_of_another(model, folder):
    other = with_a_layer_after_the_heads(lost_mark=len(model.layers) > 4)
    other.save_weights(folder / "other.weights.h5")
    copy = of_json(model, folder)
    copy.load_weights(folder / "other.weights.h5")
    return copy


def deep_copied(model, folder):
    return copy.deepcopy(model)


COPIES = [
    *(loaded, compiled_clone, of_json, of_json_with_weights, of_json_with_weights_of_another),
    deep_copied,
]


@pytest.mark.parametrize("make", COPIES)
@pytest.mark.parametrize("lost_mark", [False, True], ids=["heads_last", "a_layer_after_the_heads"])
def test_two_copies_of_a_model_read_their_own_weights(make, lost_mark, tmp_path):
    model = with_a_layer_after_the_heads(lost_mark)
    copies = [make(model, tmp_path) for _ in range(2)]
    for each in (*copies, model):
        assert_reads_its_own_weights(each)


@pytest.mark.parametrize("make", [loaded, of_json])
def test_callbacks_take_a_copy_that_was_not_yet_run(make, tmp_path):
    copied = make(make_model(None), tmp_path)
    copied.jit_compile = QUICK_JIT
    history = copied.fit(*data(), verbose=0, callbacks=[pk.LossWeightDecay(0.5)]).history
    assert history["loss_weight/time"] == [2.0]


def test_models_that_are_loaded_at_once_read_their_own_weights(tmp_path):
    make_model(None).save(tmp_path / "model.keras")
    models = []

    def load():
        models.append(keras.models.load_model(tmp_path / "model.keras"))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for model in models:
        assert_reads_its_own_weights(model)


def test_a_model_loaded_in_one_thread_trains_in_another(tmp_path):
    model = with_a_layer_after_the_heads(lost_mark=True)
    copies = []
    thread = threading.Thread(target=lambda: copies.append(loaded(model, tmp_path)))
    thread.start()
    thread.join()
    assert_reads_its_own_weights(copies[0])


@keras.saving.register_keras_serializable("test_joint_training")
class Rescaled(Subclassed):
    """Its predictions are not those that the heads made, and its config has no heads."""

    def call(self, inputs, training=None):
        predictions = super().call(inputs, training=training)
        return {task: prediction * 1.0 for task, prediction in predictions.items()}


def test_a_subclassed_model_that_changes_its_predictions_finds_its_weights_in_a_file(tmp_path):
    model = Rescaled()
    model.compile(**model.heads.compile_kwargs(optimizer="sgd", jit_compile=QUICK_JIT))
    model.train_on_batch(*data())
    copies = [loaded(model, tmp_path) for _ in range(2)]
    logs = [each.evaluate(*data(), verbose=0, return_dict=True) for each in (*copies, model)]
    assert logs[0] == logs[1] == pytest.approx(logs[2], rel=1e-5)
    copies[0].heads.multiply_loss_weights({"click": 0.0, "time": 0.0})
    losses = [each.evaluate(*data(), verbose=0, return_dict=True)["loss"] for each in copies]
    assert losses == [0, logs[1]["loss"]]


def test_losses_of_another_models_heads_are_refused_at_the_first_step():
    model = make_model()
    clone = keras.models.clone_model(model)
    kwargs = heads_of(model).compile_kwargs(optimizer="sgd", jit_compile=QUICK_JIT)
    clone.compile(**kwargs)
    message = r"'click_loss' belongs to another TaskHeads.*\*\*heads\.compile_kwargs"
    with pytest.raises(ValueError, match=message):
        clone.train_on_batch(*data())


def test_a_loss_that_finds_no_heads_is_refused():
    config = make_model().get_compile_config()
    inputs = keras.Input((3,))
    outputs = {task: keras.layers.Dense(1, name=task)(inputs) for task in ("click", "time")}
    model = keras.Model(inputs, outputs)
    model.compile_from_config(config)
    message = r"comes from a config and finds no TaskHeads.*Save models in the \.keras format"
    with pytest.raises(ValueError, match=message):
        model.train_on_batch(*data())


def test_equal_layers_have_equal_configs_until_they_have_losses():
    heads = [pk.TaskHeads([pk.BinaryHead("a")], name="heads") for _ in range(2)]
    assert heads[0].get_config() == heads[1].get_config()
    heads[0].compile_kwargs()
    copy = pk.TaskHeads.from_config(heads[0].get_config())
    assert copy.get_config() == heads[0].get_config() != heads[1].get_config()


def test_a_schedule_refuses_a_model_compiled_with_the_heads_of_another():
    model, other = make_model(None), make_model(None)
    model.compile(**heads_of(other).compile_kwargs(optimizer="adam"))
    with pytest.raises(ValueError, match=r"don't read their weights.*Received: loss="):
        fit(model, epochs=1)


@pytest.mark.parametrize(
    "override",
    [{"loss_weights": {"click": 1.0, "time": 3.0}}, {"loss": {"click": "mse", "time": "mse"}}],
)
def test_weights_that_the_user_fixes_stand_still(override):
    model = make_model(None)
    heads = heads_of(model)
    kwargs = heads.compile_kwargs(optimizer="adam", jit_compile=QUICK_JIT, **override)
    model.compile(**kwargs)
    x, y = data()
    y["time"] = np.nan_to_num(y["time"])
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    weights = override.get("loss_weights", {"click": 1.0, "time": 2.0})
    expected = sum(weight * logs[f"{task}_loss"] for task, weight in weights.items())
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"without loss and loss_weights of your own"):
        fit(model, epochs=1)


@pytest.mark.parametrize("override", [{"loss_weights": {"click": 1.0}}, {"loss": "mse"}])
def test_learned_weights_cannot_be_replaced(override):
    with pytest.raises(ValueError, match=rf"Received: overrides=\['{next(iter(override))}'\]"):
        heads_of(make_model()).compile_kwargs(**override)


def test_an_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match=r"None or \"uncertainty\"\. Received: loss_weighting='x'"):
        pk.TaskHeads([pk.BinaryHead("a")], loss_weighting="x")


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_a_file_with_impossible_multipliers_is_refused(value, tmp_path):
    h5py = pytest.importorskip("h5py")
    model, other = make_model(), make_model()
    model.save_weights(tmp_path / "m.weights.h5")
    with h5py.File(tmp_path / "m.weights.h5", "r+") as file:
        group = next(file["layers"][layer] for layer in file["layers"] if "task_heads" in layer)
        group["vars"]["loss_multipliers"][1] = value
    message = r"finite loss_multipliers.*Received: loss_multipliers=\[1\.0, (nan|inf|-1)"
    with pytest.raises(ValueError, match=message):
        other.load_weights(tmp_path / "m.weights.h5")
    assert heads_of(other).loss_weights() == heads_of(make_model()).loss_weights()


def test_a_file_of_before_there_were_loss_weights_loads(tmp_path):
    """It holds the names of the tasks alone."""
    h5py = pytest.importorskip("h5py")
    model, other = make_model(None), make_model(None)
    heads_of(model).multiply_loss_weights({"click": 0.5, "time": 0.5})
    model.save_weights(tmp_path / "m.weights.h5")
    with h5py.File(tmp_path / "m.weights.h5", "r+") as file:
        group = next(file["layers"][name] for name in file["layers"] if "task_heads" in name)
        for key in ("key", "loss_multipliers"):
            del group["vars"][key]
    other.load_weights(tmp_path / "m.weights.h5")
    assert heads_of(other).loss_weights() == {"click": 1.0, "time": 2.0}
    x, _ = data()
    np.testing.assert_array_equal(numpy_of(other(x)["click"]), numpy_of(model(x)["click"]))


def test_another_copy_that_runs_before_the_loss_does_not_matter(tmp_path):
    """As a teacher does beside its student, in a training step of one's own."""
    model = with_a_layer_after_the_heads(lost_mark=True)
    teacher, student = (loaded(model, tmp_path) for _ in range(2))
    heads_of(teacher).multiply_loss_weights({"click": 10.0, "time": 10.0})
    x, y = data()
    expected = float(student.compute_loss(y=y, y_pred=student(x)))
    predictions = student(x)
    teacher(x)
    assert float(student.compute_loss(y=y, y_pred=predictions)) == expected


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_multipliers_that_no_file_could_hold_are_refused(value):
    heads = heads_of(make_model())
    with pytest.raises(ValueError, match=r"multipliers\['click'\] must be"):
        heads.multiply_loss_weights({"click": value})
    with pytest.raises(TypeError, match=r"multipliers\['click'\] must be a number"):
        heads.multiply_loss_weights({"click": "x"})

"""A loss reads the weights of its own model's TaskHeads, in copies of a model too."""

import threading

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK_JIT, assert_same, numpy_of, once
from tests.losses.joint_run import fit_with_decay
from tests.models import (
    click_and_time,
    clicks_and_times,
    compiled,
    deep_copied,
    heads_of,
    loaded,
    of_json,
)
from tests.pairs import fewer


def assert_reads_its_own_weights(model):
    """Assert that the loss is 0 if and only if the multipliers of its own TaskHeads are."""
    x, y = clicks_and_times()
    heads = heads_of(model)
    for multiplier in (1.0, 0.0):
        heads.multiply_loss_weights(dict.fromkeys(heads.task_names, multiplier))
        loss = float(model.compute_loss(y=y, y_pred=model(x)))
        assert np.isfinite(loss)
        assert (loss == 0) == (multiplier == 0)


def compiled_clone(model, folder):
    clone = keras.models.clone_model(model)
    clone.compile_from_config(model.get_compile_config())
    return clone


def of_json_with_weights(model, folder):
    model.save_weights(folder / "m.weights.h5")
    copy = of_json(model, folder)
    copy.load_weights(folder / "m.weights.h5")
    return copy


@pytest.mark.parametrize(
    "make",
    [
        loaded,
        deep_copied,
        *(pytest.param(f, marks=once) for f in (compiled_clone, of_json, of_json_with_weights)),
    ],
)
def test_two_copies_of_a_model_read_their_own_weights(make, tmp_path):
    model = click_and_time(None)
    copies = [make(model, tmp_path) for _ in range(2)]
    for each in (*copies, model):
        assert_reads_its_own_weights(each)


def test_models_loaded_concurrently_read_their_own_weights(tmp_path):
    click_and_time(None).save(tmp_path / "model.keras")
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
    model = click_and_time(None)
    copies = []
    thread = threading.Thread(target=lambda: copies.append(loaded(model, tmp_path)))
    thread.start()
    thread.join()
    assert_reads_its_own_weights(copies[0])


def test_another_copy_called_before_the_loss_does_not_change_the_loss(tmp_path):
    """As in a custom training step with a teacher and a student."""
    model = click_and_time(None)
    teacher, student = (loaded(model, tmp_path) for _ in range(2))
    heads_of(teacher).multiply_loss_weights({"click": 10.0, "time": 10.0})
    x, y = clicks_and_times()
    expected = float(model.compute_loss(y=y, y_pred=model(x)))
    predictions = student(x)
    teacher(x)
    assert float(student.compute_loss(y=y, y_pred=predictions)) == pytest.approx(expected)


@keras.saving.register_keras_serializable("test_copies")
class Subclassed(keras.Model):
    """A model that makes its layers itself: its config does not contain the heads."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        tasks = [pk.BinaryHead("click"), pk.RegressionHead("time", loss_weight=2.0)]
        self.heads = pk.TaskHeads(tasks, loss_weighting="uncertainty")
        self.ple = pk.PLEBlock(1, self.heads, [4])

    def call(self, inputs, training=None):
        return self.heads(self.ple(inputs, training=training), training=training)


def test_a_subclassed_model_restores_its_loss_weights_from_a_file(tmp_path):
    model = compiled(Subclassed(), "adam")
    fit_with_decay(model, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.heads.loss_weights() == model.heads.loss_weights() != {"click": 1, "time": 2}
    both = (fit_with_decay(each, epochs=4, initial_epoch=2) for each in (model, loaded))
    expected, actual = both
    for key, values in expected.items():
        np.testing.assert_allclose(actual[key], values, rtol=1e-5, err_msg=key)


# Predictions without a mark


@keras.saving.register_keras_serializable("test_copies")
class Rescaled(Subclassed):
    """A model that computes new tensors from the predictions of its heads."""

    def call(self, inputs, training=None):
        predictions = super().call(inputs, training=training)
        return {task: prediction * 1.0 for task, prediction in predictions.items()}


def with_a_layer_after_the_heads():
    model = click_and_time()
    outputs = {k: keras.layers.Rescaling(1.0, name=k)(v) for k, v in model.output.items()}
    return keras.Model(model.input, outputs)


UNMARKED = {"functional": with_a_layer_after_the_heads, "subclassed": Rescaled}


@pytest.mark.parametrize("make", fewer(UNMARKED, "functional"))
def test_a_loaded_model_without_marks_trains_on_after_it_is_compiled_again(make, tmp_path):
    model = compiled(make(), "adam")
    fit_with_decay(model, epochs=2)
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    message = r"from a file.*model\.compile\(model\.optimizer, \*\*heads\.compile_kwargs\(\)\)"
    with pytest.raises(ValueError, match=message):
        copy.evaluate(*clicks_and_times(), verbose=0)
    # On JAX, a model has no variables any more after any error in `evaluate`.
    copy = keras.models.load_model(tmp_path / "model.keras")
    copy.compile(copy.optimizer, **heads_of(copy).compile_kwargs(jit_compile=QUICK_JIT))
    expected, actual = (fit_with_decay(m, epochs=4, initial_epoch=2) for m in (model, copy))
    assert set(actual) == set(expected)
    for key, values in expected.items():
        np.testing.assert_allclose(actual[key], values, rtol=1e-5, err_msg=key)
    for variable, other in zip(copy.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_allclose(numpy_of(variable), numpy_of(other), rtol=1e-4, atol=1e-7)


def test_a_loaded_model_without_marks_predicts(tmp_path):
    model, (x, _) = with_a_layer_after_the_heads(), clicks_and_times()
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert_same(copy.predict(x, verbose=0), model.predict(x, verbose=0))


def test_losses_of_another_models_heads_are_refused_at_the_first_step():
    model = click_and_time()
    clone = keras.models.clone_model(model)
    kwargs = heads_of(model).compile_kwargs(optimizer="sgd", jit_compile=QUICK_JIT)
    clone.compile(**kwargs)
    message = r"'click_loss' belongs to another TaskHeads.*\*\*heads\.compile_kwargs"
    with pytest.raises(ValueError, match=message):
        clone.train_on_batch(*clicks_and_times())


def test_a_loss_that_finds_no_heads_is_refused():
    config = click_and_time().get_compile_config()
    inputs = keras.Input((3,))
    outputs = {task: keras.layers.Dense(1, name=task)(inputs) for task in ("click", "time")}
    model = keras.Model(inputs, outputs)
    model.compile_from_config(config)
    message = r"'click_loss' comes from a file and can't find the TaskHeads.*compile=False"
    with pytest.raises(ValueError, match=message):
        model.train_on_batch(*clicks_and_times())


def test_equal_layers_have_equal_configs():
    heads = [pk.TaskHeads([pk.BinaryHead("a")], name="heads") for _ in range(2)]
    heads[0].compile_kwargs()
    assert heads[0].get_config() == heads[1].get_config()

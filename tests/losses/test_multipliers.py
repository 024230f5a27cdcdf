"""Multipliers of loss weights, in training and in files."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK_JIT, numpy_of
from tests.losses.joint_run import fit_with_decay
from tests.models import click_and_time, clicks_and_times, heads_alone, heads_of


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_invalid_multipliers_are_refused(value):
    heads = heads_of(click_and_time())
    with pytest.raises(ValueError, match=r"multipliers\['click'\] must be"):
        heads.multiply_loss_weights({"click": value})
    with pytest.raises(TypeError, match=r"multipliers\['click'\] must be a number"):
        heads.multiply_loss_weights({"click": "x"})


def test_multipliers_of_an_unknown_task_are_refused():
    heads = heads_of(click_and_time(None))
    message = r"multipliers must have keys among \['click', 'time'\]; unknown: \['x'\]"
    with pytest.raises(ValueError, match=message):
        heads.multiply_loss_weights({"x": 1.0})


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_a_file_with_invalid_multipliers_is_refused(value, tmp_path):
    h5py = pytest.importorskip("h5py")
    model, other = click_and_time(), click_and_time()
    model.save_weights(tmp_path / "m.weights.h5")
    with h5py.File(tmp_path / "m.weights.h5", "r+") as file:
        group = next(file["layers"][layer] for layer in file["layers"] if "task_heads" in layer)
        group["vars"]["loss_multipliers"][1] = value
    message = r"finite loss_multipliers.*Received: loss_multipliers=\[1\.0, (nan|inf|-1)"
    with pytest.raises(ValueError, match=message):
        other.load_weights(tmp_path / "m.weights.h5")
    assert heads_of(other).loss_weights() == heads_of(click_and_time()).loss_weights()


def test_an_old_file_without_loss_weights_loads(tmp_path):
    """It contains only the names of the tasks."""
    h5py = pytest.importorskip("h5py")
    model, other = click_and_time(None), click_and_time(None)
    heads_of(model).multiply_loss_weights({"click": 0.5, "time": 0.5})
    model.save_weights(tmp_path / "m.weights.h5")
    with h5py.File(tmp_path / "m.weights.h5", "r+") as file:
        group = next(file["layers"][name] for name in file["layers"] if "task_heads" in name)
        del group["vars"]["loss_multipliers"]
    other.load_weights(tmp_path / "m.weights.h5")
    assert heads_of(other).loss_weights() == {"click": 1.0, "time": 2.0}
    x, _ = clicks_and_times()
    np.testing.assert_array_equal(numpy_of(other(x)["click"]), numpy_of(model(x)["click"]))


def test_two_models_from_one_file_have_separate_loss_weights(tmp_path):
    click_and_time(None).save(tmp_path / "model.keras")
    first, second = (keras.models.load_model(tmp_path / "model.keras") for _ in range(2))
    heads_of(first).multiply_loss_weights({"click": 0.0, "time": 0.0})
    losses = [
        m.evaluate(*clicks_and_times(), verbose=0, return_dict=True)["loss"]
        for m in (first, second)
    ]
    assert losses[0] == 0
    assert losses[1] > 0


def test_a_model_that_loaded_weights_of_another_can_be_saved_and_trained(tmp_path):
    click_and_time().save(tmp_path / "a.keras")
    click_and_time().save_weights(tmp_path / "b.weights.h5")
    model = keras.models.load_model(tmp_path / "a.keras")
    model.load_weights(tmp_path / "b.weights.h5")
    model.save(tmp_path / "c.keras")
    assert np.isfinite(
        fit_with_decay(keras.models.load_model(tmp_path / "c.keras"), epochs=1)["loss"]
    ).all()


def test_two_layers_with_weights_from_one_file_are_saved_separately(tmp_path):
    def heads(name):
        tasks = [pk.BinaryHead("click"), pk.RegressionHead("time")]
        return pk.TaskHeads(tasks, loss_weighting="uncertainty", name=name)

    heads_alone(heads("first")).save_weights(tmp_path / "w.weights.h5")
    layers = {"u": heads("u"), "v": heads("v")}
    for layer in layers.values():
        heads_alone(layer).load_weights(tmp_path / "w.weights.h5")
    inputs = keras.Input((3,))
    outputs = {key: x({"click": inputs, "time": inputs}) for key, x in layers.items()}
    model = keras.Model(inputs, outputs)
    kwargs = {key: layer.compile_kwargs() for key, layer in layers.items()}
    both = {name: {key: kwargs[key][name] for key in layers} for name in ("loss", "loss_weights")}
    model.compile("sgd", jit_compile=QUICK_JIT, **both)
    model.save(tmp_path / "both.keras")
    loaded = keras.models.load_model(tmp_path / "both.keras")
    x, y = clicks_and_times()
    loaded.fit(x, {"u": y, "v": y}, verbose=0)
    for layer in loaded.layers:
        if isinstance(layer, pk.TaskHeads):
            variances = next(w for w in layer.weights if w.name == "log_variances")
            assert np.abs(numpy_of(variances)).min() > 0, layer.name

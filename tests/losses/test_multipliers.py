"""Multipliers of loss weights, in training and in files."""

import h5py
import keras
import numpy as np
import pytest

from tests.models import click_and_time, clicks_and_times, deep_copied, heads_of, loaded


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


@pytest.mark.parametrize("copy", [loaded, deep_copied])
def test_copies_of_a_model_have_separate_loss_weights(copy, tmp_path):
    model = click_and_time(None)
    heads_of(model).multiply_loss_weights({"click": 0.5})
    first, second = (copy(model, tmp_path) for _ in range(2))
    heads_of(first).multiply_loss_weights({"click": 0.0, "time": 0.0})
    assert heads_of(first).loss_weights() == {"click": 0, "time": 0}
    for each in (model, second):
        assert heads_of(each).loss_weights() == {"click": 0.5, "time": 2}
    x, y = clicks_and_times()
    losses = [m.evaluate(x, y, verbose=0, return_dict=True)["loss"] for m in (first, second)]
    assert losses[0] == 0 < losses[1]


def test_a_model_that_loaded_weights_of_another_can_be_saved_and_trained(tmp_path):
    click_and_time().save(tmp_path / "a.keras")
    click_and_time().save_weights(tmp_path / "b.weights.h5")
    model = keras.models.load_model(tmp_path / "a.keras")
    model.load_weights(tmp_path / "b.weights.h5")
    logs = loaded(model, tmp_path).fit(*clicks_and_times(), verbose=0).history
    assert np.isfinite(logs["loss"]).all()


def test_a_file_without_multipliers_is_refused(tmp_path):
    model, path = click_and_time(None), tmp_path / "m.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "a") as file:
        names = []
        file.visit(lambda name: names.append(name) if name.endswith("loss_multipliers") else None)
        del file[names[0]]
    with pytest.raises(ValueError, match=r"The file has no loss_multipliers for 'task_heads"):
        model.load_weights(path)

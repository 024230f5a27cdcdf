"""Loss weights that callbacks schedule and log."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK, every_backend, once
from tests.models import (
    Subclassed,
    click_and_time,
    clicks_and_times,
    compiled,
    heads_alone,
    heads_of,
)
from tests.refusals import table

pytestmark = once


def decay(**gammas):
    return pk.LossWeightSchedule(lambda task, epoch: gammas.get(task, 0.5) ** epoch)


@pytest.fixture
def model():
    return click_and_time(None, **QUICK)


def fit_validated(model, *callbacks, **kwargs):
    x, y = clicks_and_times()
    kwargs = {"validation_data": (x, y), "callbacks": callbacks, "verbose": 0, **kwargs}
    return model.fit(x, y, **kwargs)


@every_backend
def test_a_gamma_of_one_half_halves_the_loss_of_a_frozen_model_in_each_epoch():
    steps = 1 if keras.backend.backend() == "torch" else 2  # in one execution
    model = click_and_time(None, 0.0, steps_per_execution=steps, run_eagerly=False)
    x, y = clicks_and_times()
    options = {"batch_size": 6, "epochs": 4, "shuffle": False, "validation_data": (x, y)}
    history = model.fit(x, y, verbose=0, callbacks=[decay()], **options).history
    for key in ("loss", "val_loss"):
        expected = history[key][0] * 0.5 ** np.arange(4)
        np.testing.assert_allclose(history[key], expected, rtol=1e-5)
    for key in ("click_loss", "time_loss", "val_click_loss"):
        np.testing.assert_allclose(history[key], history[key][0], rtol=1e-5)
    np.testing.assert_allclose(history["loss_weight/click"], [1, 0.5, 0.25, 0.125])
    np.testing.assert_allclose(history["loss_weight/time"], [2, 1, 0.5, 0.25])


def test_the_schedule_is_called_for_every_task_and_epoch(model):
    calls = []

    def schedule(task, epoch):
        calls.append((task, epoch))
        return 1.0 + epoch

    callback = pk.LossWeightSchedule(schedule)
    history = fit_validated(model, callback, epochs=4, initial_epoch=2).history
    assert calls == [("click", 2), ("time", 2), ("click", 3), ("time", 3)]
    np.testing.assert_allclose(history["loss_weight/time"], [6, 8])


@every_backend
def test_the_first_epoch_of_an_unbuilt_model_uses_the_schedule():
    """On TensorFlow, it is built during the first epoch."""
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.RegressionHead("time")])
    model = compiled(Subclassed([pk.SharedBottomBlock(heads, [2]), heads]), run_eagerly=False)
    schedule = pk.LossWeightSchedule(lambda task, epoch: float(epoch))
    history = model.fit(*clicks_and_times(), epochs=2, verbose=0, callbacks=[schedule]).history
    assert history["loss"][0] == 0 < history["loss"][1]
    assert history["loss_weight/click"] == [0.0, 1.0]


def test_without_a_schedule_the_weights_are_logged(model):
    history = fit_validated(model, decay(time=1.0), pk.LossWeightSchedule(), epochs=2).history
    assert history["loss_weight/click"] == [1.0, 0.5]
    assert history["loss_weight/time"] == [2.0, 2.0]
    assert heads_of(model).loss_weights() == {"click": 0.5, "time": 2.0}
    history = fit_validated(model, pk.LossWeightSchedule(), epochs=1).history
    assert history["loss_weight/click"] == [0.5]


def test_a_task_without_a_loss_has_no_weight():
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.Head("score")])
    model = compiled(heads_alone(heads))
    callback = decay()
    y = {"click": np.arange(4) % 2}
    history = model.fit(np.ones((4, 3)), y, verbose=0, callbacks=[callback]).history
    assert [key for key in history if key.startswith("loss_weight")] == ["loss_weight/click"]


def test_a_schedule_that_is_no_function_is_refused():
    with pytest.raises(TypeError, match=r"must be a function or None\. Received: schedule=0\.5"):
        pk.LossWeightSchedule(0.5)


FACTORS = {
    "negative": (-1, r"schedule\('click', 0\) must be .*at least 0.*: schedule\('click', 0\)=-1"),
    "nan": (float("nan"), r"finite and at least 0\. Received: schedule\('click', 0\)=nan"),
}


@pytest.mark.parametrize(("factor", "message"), table(FACTORS))
def test_wrong_multipliers_are_refused(model, factor, message):
    with pytest.raises(ValueError, match=message):
        fit_validated(model, pk.LossWeightSchedule(lambda task, epoch: factor))


@pytest.mark.parametrize("callback", [pk.LossWeightSchedule(), decay()])
def test_a_model_without_heads_or_with_losses_of_its_own_is_refused(model, callback):
    without_heads = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with_losses = keras.Model(model.input, model.output)
    x, y = clicks_and_times()
    for other, labels in ((without_heads, y["click"]), (with_losses, y)):
        other.compile("sgd", "mse")
        with pytest.raises(ValueError, match=r"needs a model that is trained .*Received: model"):
            other.fit(x, labels, callbacks=[callback], verbose=0)

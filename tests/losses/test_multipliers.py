"""Multipliers of loss weights, in training and in files."""

import functools

import keras
import numpy as np
import pytest

from tests.helpers import QUICK, once
from tests.models import click_and_time, clicks_and_times, deep_copied, heads_of, loaded
from tests.refusals import all_refused

REFUSED = {
    "negative": ({"click": -1.0}, r"multipliers\['click'\] must be .* at least 0"),
    "infinite": ({"click": np.inf}, r"multipliers\['click'\] must be finite"),
    "text": ({"click": "x"}, TypeError, r"multipliers\['click'\] must be a number"),
    "task": ({"x": 1.0}, r"keys among \['click', 'time'\].* unknown: \['x'\]"),
}


test_invalid_multipliers_are_refused = all_refused(
    lambda x: heads_of(click_and_time()).multiply_loss_weights(x), REFUSED
)


class FirstBatch(keras.callbacks.Callback):
    """Callback after which only the first batch of an epoch has a loss."""

    def __init__(self, reads_model):
        super().__init__()
        self.reads_model = reads_model

    def on_train_batch_begin(self, batch, logs=None):
        heads = heads_of(self.model if self.reads_model else self._model)
        heads.multiply_loss_weights(dict.fromkeys(heads, float(batch == 0)))


def test_multipliers_change_between_batches_and_are_refused_where_jax_would_lose_them():
    model, (x, y) = click_and_time(None, 0.0, **QUICK), clicks_and_times()
    first = model.evaluate(x[:6], {task: labels[:6] for task, labels in y.items()}, verbose=0)[0]
    fit = functools.partial(model.fit, x, y, batch_size=6, verbose=0, shuffle=False)
    history = fit(callbacks=[FirstBatch(reads_model=True)]).history
    assert history["loss"][0] == pytest.approx(first / 2, rel=1e-5)
    if keras.backend.backend() == "jax":
        with pytest.raises(ValueError, match=r"multipliers would be lost.*Received: multipliers="):
            fit(callbacks=[FirstBatch(reads_model=False)])


@once
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


@once
def test_a_file_without_learned_weights_is_refused(tmp_path):
    path = tmp_path / "m.weights.h5"
    click_and_time(None).save_weights(path)
    with pytest.raises((KeyError, ValueError), match="log_variances"):  # of Keras
        click_and_time().load_weights(path)

"""Learned loss weights."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, numpy_of, once
from tests.models import click_and_time, clicks_and_times, compiled, heads_alone, heads_of
from tests.pairs import fewer


def variable(model, name):
    return next(w for w in heads_of(model).weights if w.name == name)


@keras.saving.register_keras_serializable(package="tests")
class OwnError(keras.losses.MeanSquaredError):
    """A loss whose learned weight is that of its base class."""


FORMS = {
    "mse": (pk.RegressionHead("a"), 0.5, 0.5),
    "subclass": (pk.RegressionHead("a", loss=OwnError()), 0.5, 0.5),
    "binary_weighted": (pk.BinaryHead("a", pos_weight=3.0), 1.0, 0.5),
    "multiclass": (pk.MulticlassHead("a", num_classes=2, class_weight={1: 3.0}), 1.0, 0.5),
    "standardized": (pk.RegressionHead("a", standardize=True, mean=0.5, deviation=0.3), 0.5, 0.5),
    "by_root": (pk.RegressionHead("a", reduction="label_root"), 0.5, 0.5),
}


@pytest.mark.parametrize(("head", "scale", "slope"), fewer(FORMS, "mse", "multiclass_weighted"))
def test_learned_weights_follow_the_likelihood_of_each_loss(head, scale, slope):
    """`w_0 (c exp(-s) L + a s)`, its gradient in s, and the network's gradient."""
    x, s = features(8, 3), 0.7
    y = np.float32([1, 0, np.nan, 1, np.nan, 0, 1, np.nan])
    share = (5 / 8) ** {None: 0, "label_root": 0.5, "sum_over_batch_size": 1}[head.reduction]

    def step(loss_weighting, loss_weight):
        """Return the logs of a step and the changes of s and of the head's kernel."""
        keras.utils.set_random_seed(0)
        one = type(head).from_config({**head.get_config(), "loss_weight": loss_weight})
        heads = pk.TaskHeads([one], loss_weighting=loss_weighting)
        model = heads_alone(heads)
        if loss_weighting:
            variable(model, "log_variances").assign([s])
        compiled(model, keras.optimizers.SGD(0.1))
        kernel = numpy_of(one.trainable_weights[0])
        logs = model.train_on_batch(x, {"a": y}, return_dict=True)
        moved = numpy_of(variable(model, "log_variances"))[0] - s if loss_weighting else 0
        return logs, moved, numpy_of(one.trainable_weights[0]) - kernel

    _, _, plain = step(None, 1.0)
    logs, moved, changed = step("uncertainty", 2.0)
    loss = float(logs["a_loss"])
    expected = 2 * (scale * np.exp(-s) * loss + slope * s * share)
    assert float(logs["loss"]) == pytest.approx(expected, rel=1e-5)
    assert moved == pytest.approx(-0.2 * (slope * share - scale * np.exp(-s) * loss), rel=1e-3)
    assert np.abs(plain).max() > 1e-4
    np.testing.assert_allclose(changed, 2 * scale * np.exp(-s) * plain, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("reduction", [pytest.param(None, marks=once), "sum_over_batch_size"])
def test_a_batch_without_labels_does_not_change_the_learned_weight_of_its_task(reduction):
    heads = pk.TaskHeads(
        [pk.BinaryHead("a", reduction=reduction), pk.RegressionHead("b")],
        loss_weighting="uncertainty",
    )
    model = compiled(heads_alone(heads), keras.optimizers.SGD(0.1))
    variable(model, "log_variances").assign([0.7, 0.7])
    y = {"a": np.full(4, np.nan), "b": np.ones(4)}
    logs = model.train_on_batch(features(4, 3), y, return_dict=True)
    after = numpy_of(variable(model, "log_variances"))
    assert after[0] == np.float32(0.7)
    assert after[1] != np.float32(0.7)
    expected = 0.5 * np.exp(-0.7) * logs["b_loss"] + 0.5 * 0.7
    assert float(logs["loss"]) == pytest.approx(float(expected), rel=1e-5)
    assert np.isnan(float(logs["a_loss"]))


def test_learned_weights_are_logged():
    model = click_and_time()
    history = model.fit(
        *clicks_and_times(), epochs=2, verbose=0, callbacks=[pk.LossWeightSchedule()]
    ).history
    s = numpy_of(variable(model, "log_variances"))
    assert np.abs(s).min() > 1e-3
    assert history["loss_weight/click"][-1] == pytest.approx(np.exp(-s[0]), rel=1e-5)
    assert history["loss_weight/time"][-1] == pytest.approx(2 * 0.5 * np.exp(-s[1]), rel=1e-5)


def test_a_frozen_layer_does_not_learn_loss_weights():
    model = click_and_time()
    heads_of(model).trainable = False
    compiled(model)
    model.train_on_batch(*clicks_and_times())
    np.testing.assert_array_equal(numpy_of(variable(model, "log_variances")), [0, 0])

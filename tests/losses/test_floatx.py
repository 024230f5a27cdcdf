"""Joint training with a different `floatx`, the dtype of losses, weights and labels."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK, assert_all_close, features, numpy_of, once
from tests.models import chain, compiled, heads_alone

TASKS = ("click", "buy", "both", "time", "kind")

pytestmark = pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="JAX has no float64, and adds any two dtypes"
)


@pytest.fixture
def floatx(request):
    before = keras.config.floatx()
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_floatx(before)
    keras.config.set_dtype_policy(before)


def new_heads(loss_weighting):
    click, buy = pk.BinaryHead("click", pos_weight=2.0), pk.BinaryHead("buy")
    both = pk.ProductHead("both", of=["click", "buy"], loss_weight=0.5)
    time = pk.RegressionHead("time", extra_metrics=["mae"])
    kind = pk.MulticlassHead("kind", num_classes=3, class_weight=[1, 2, 3])
    return pk.TaskHeads([click, buy, both, time, kind], loss_weighting)


def labels():
    y = {task: np.arange(8) % 2 for task in TASKS}
    y = {task: values.astype("float32") for task, values in y.items()}
    y["buy"][::3] = y["time"][1:4] = np.nan
    return y


@pytest.mark.parametrize(
    ("floatx", "loss_weighting"),
    [
        pytest.param("float64", None, marks=once),
        ("float16", "uncertainty"),
        pytest.param("bfloat16", None, marks=once),
    ],
    indirect=["floatx"],
)
def test_tasks_are_trained_with_any_floatx(floatx, loss_weighting):
    heads = new_heads(loss_weighting)
    model = compiled(heads_alone(heads), **QUICK)
    x, y = features(8, 3), labels()
    halved = pk.LossWeightSchedule(lambda task, epoch: 0.5**epoch)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[halved])
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    logs = {key: float(value) for key, value in logs.items()}
    assert np.isfinite(list(logs.values())).all()
    loss = float(heads.compute_loss(y, model(x)))
    tolerance = {"float64": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}[floatx]
    assert logs["loss"] == pytest.approx(loss, rel=tolerance)
    if loss_weighting is None:
        weights = heads.loss_weights()
        expected = sum(weight * logs[f"{task}_loss"] for task, weight in weights.items())
        assert loss == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("floatx", ["float64"], indirect=True)
def test_a_step_of_float64_is_that_of_float32(floatx):
    def weights_after_a_step():
        keras.utils.set_random_seed(0)
        heads = new_heads("uncertainty")
        ple = pk.PLEBlock(1, heads, [4], gate_kwargs={"dropout": 0.2, "balance_regularizer": 0.1})
        model = compiled(chain(ple, heads), run_eagerly=True)
        rng = np.random.default_rng(0)
        for weight in model.trainable_weights:
            weight.assign(rng.normal(scale=0.5, size=weight.shape))
        model.train_on_batch(features(8, 3), labels())
        return [numpy_of(weight) for weight in model.trainable_weights]

    wide = weights_after_a_step()
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    assert_all_close(wide, weights_after_a_step(), rtol=1e-4, atol=1e-6)

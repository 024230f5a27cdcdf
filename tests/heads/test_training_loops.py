"""The custom loops of docs/training_loops.md take the same steps as `train_on_batch`."""

import re

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, numpy_of
from tests.models import chain, compiled, heads_of
from tests.processes import ROOT

HEADINGS = {"torch": "PyTorch", "jax": "JAX", "tensorflow": "TensorFlow"}


def block_of_page(heading):
    page = (ROOT / "docs" / "training_loops.md").read_text()
    return re.search(rf"^## {heading}\n.*?^```py\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[1]


def model_and_heads():
    """Return a model with learned weights, a regularizer and batch statistics."""
    heads = pk.TaskHeads(
        [pk.BinaryHead("click"), pk.RegressionHead("time", loss_weight=0.5)],
        loss_weighting="uncertainty",
    )
    expert = pk.ExpertBlock([4], normalization="batch", kernel_regularizer="l2")
    return chain(pk.PLEBlock(1, heads, expert), heads), heads


def batches_of(rows=8):
    for seed in range(2):
        x = features(rows, 3, seed=seed)
        click = (x[:, 0] > 0).astype("float32")
        yield x, {"click": click, "time": np.where(click, x[:, 1], np.nan)}


def test_a_custom_loop_takes_the_steps_of_train_on_batch():
    model, heads = model_and_heads()
    fitted = keras.models.clone_model(model)
    before = model.get_weights()
    fitted.set_weights(before)
    compiled(fitted, keras.optimizers.SGD(0.1))
    batches = list(batches_of())

    names = {"keras": keras, "model": model, "heads": heads, "batches": batches}
    exec(block_of_page(HEADINGS[keras.backend.backend()]), names)
    exec(block_of_page("Scheduled weights"), names)

    for epoch in range(2):
        heads_of(fitted).multiply_loss_weights({"time": 0.5**epoch})
        for x, y in batches:
            fitted.reset_metrics()
            loss, *_ = fitted.train_on_batch(x, y)
    assert names["epoch"] == epoch == 1
    assert float(numpy_of(names["loss"])) == pytest.approx(float(loss), rel=1e-5)
    assert heads.loss_weights() == pytest.approx(heads_of(fitted).loss_weights(), rel=1e-5)
    for name, actual, expected, old in zip(
        [weight.name for weight in model.weights], model.get_weights(), fitted.get_weights(), before
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
        if name in ("log_variances", "moving_mean"):
            assert np.abs(actual - old).max() > 1e-3

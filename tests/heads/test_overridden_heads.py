"""Heads that override `logits` or `call`, for the branches of a HedgedBlock."""

import keras
import numpy as np
import pytest
from keras import ops

import ple_keras as pk
from ple_keras.heads.task_heads import hedged_heads
from tests.helpers import QUICK, assert_same, features, numpy_of, once, randomize
from tests.layers.reference import sigmoid
from tests.models import cloned, compiled, heads_of, loaded
from tests.refusals import check_refused

ROWS, WIDTH, POSITIONS = 40, 3, 4
MIXTURES = {"click": [0.3, 0.7], "time": [0.8, 0.2]}  # of own, shared


@keras.saving.register_keras_serializable("tests")
class PositionHead(pk.BinaryHead):
    """Head that adds a bias for the position in the last column; -1 is unknown."""

    def build(self, input_shape):
        super().build((*input_shape[:-1], input_shape[-1] - 1))
        self.input_spec = None
        self.bias = self.add_weight((POSITIONS, 1), "zeros", name="bias")

    def logits(self, features):
        position = ops.one_hot(ops.cast(features[..., -1], "int32"), POSITIONS)
        return super().logits(features[..., :-1]) + ops.matmul(position, self.bias)


@keras.saving.register_keras_serializable("tests")
class Clipped(pk.RegressionHead):
    """Head that limits its predictions."""

    def call(self, inputs, training=None):
        return ops.clip(super().call(inputs), 0, 1)


def with_position(branches, position):
    """Return the features of "click" with a column for the position."""
    column = ops.cast(ops.expand_dims(position, -1), "float32")
    click = {b: ops.concatenate([x, column], axis=-1) for b, x in branches["click"].items()}
    return {**branches, "click": click}


def hedged_model():
    """Return a model with a position, the same layers without it, and the block."""
    heads = pk.TaskHeads([PositionHead("click"), Clipped("time")])
    item, place = keras.Input((WIDTH,), name="item"), keras.Input((), dtype="int32", name="place")
    block = pk.HedgedBlock(heads, [2])
    branches = block(item)
    model = pk.MultiTaskModel({"item": item, "place": place}, heads(with_position(branches, place)))
    unknown = ops.zeros_like(item[:, 0]) - 1
    served = keras.Model(item, heads(with_position(branches, unknown)))
    randomize(model)
    for task, mixture in MIXTURES.items():
        hedged_heads(heads)[task].mixture.assign(mixture)
    return model, served, block


def rows():
    x = {"item": features(ROWS, WIDTH), "place": (np.arange(ROWS) % POSITIONS).astype("int32")}
    y = {"click": (x["item"][:, 0] > 0).astype("float32"), "time": x["item"][:, 1]}
    y["click"][::5] = np.nan
    return x, y


def predictions_by_hand(model, block, item, place=None):
    """Return the predictions in NumPy, without a position for None."""
    heads, mixed = heads_of(model), {}
    for task, by_branch in numpy_of(block(item)).items():
        values = []
        for branch, hidden in by_branch.items():
            copy = hedged_heads(heads)[task][branch]
            logits = hidden @ numpy_of(copy._projection.kernel) + numpy_of(copy._projection.bias)
            if task == "click" and place is not None:
                logits = logits + numpy_of(copy.bias)[place]
            values.append(np.clip(logits, 0, 1) if task == "time" else logits)
        mixed[task] = np.tensordot(MIXTURES[task], values, 1)
    return {**mixed, "click": sigmoid(mixed["click"])}


def test_logits_of_copies_or_their_predictions_are_mixed(tmp_path):
    model, served, block = hedged_model()
    x, y = rows()
    expected = predictions_by_hand(model, block, x["item"], x["place"])
    predictions = model.predict(x, verbose=0)
    assert_same(predictions, expected)
    assert ((predictions["time"] > 0) & (predictions["time"] < 1)).any()
    assert_same(served.predict(x["item"], verbose=0), predictions_by_hand(model, block, x["item"]))
    copies = [loaded(model, tmp_path), cloned(model, tmp_path)]
    copies[1].set_weights(model.get_weights())
    for copy in copies:
        assert_same(copy.predict(x, verbose=0), expected)
    compiled(model, keras.optimizers.SGD(0.0), **QUICK)
    errors = (expected["time"][:, 0] - y["time"]) ** 2
    logs = model.evaluate(x, y, return_dict=True, verbose=0)
    assert logs["time_mean_squared_error"] == pytest.approx(errors.mean(), rel=1e-5)


def test_branches_with_overridden_heads_train_as_networks_alone():
    """The step of each branch is that of the loss of its own prediction."""
    model, _, block = hedged_model()
    x, y = rows()
    copies = {b: hedged_heads(model)["time"][b] for b in ("own", "shared")}
    compiled(model, keras.optimizers.SGD(0.5), **QUICK)
    hidden = {branch: numpy_of(block(x["item"])["time"][branch]) for branch in copies}
    before = {branch: numpy_of(copy._projection.bias) for branch, copy in copies.items()}
    kernels = {branch: numpy_of(copy._projection.kernel) for branch, copy in copies.items()}
    biases = numpy_of(hedged_heads(model)["click"]["own"].bias).copy()
    model.train_on_batch(x, y)
    for branch, copy in copies.items():
        logits = (hidden[branch] @ kernels[branch] + before[branch])[:, 0]
        inside = (logits > 0) & (logits < 1)
        gradient = np.mean(2 * (np.clip(logits, 0, 1) - y["time"]) * inside)
        expected = before[branch] - 0.5 * gradient
        np.testing.assert_allclose(numpy_of(copy._projection.bias), expected, atol=1e-5)
    found = numpy_of(hedged_heads(model)["click"]["own"].bias)
    assert (found != biases).all()


@once
def test_fit_keeps_the_best_epochs_and_a_file_is_served_without_the_position(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, served, _ = hedged_model()
    x, y = rows()
    compiled(model, keras.optimizers.SGD(0.1))
    logs = model.fit(x, y, validation_data=(x, y), epochs=3, verbose=0).history
    assert np.isfinite(logs["hedge/loss"]).all()
    pk.export_onnx(served, tmp_path / "served.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "served.onnx")
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {session.get_inputs()[0].name: x["item"]})))
    assert_same(found, served.predict(x["item"], verbose=0))


@once
def test_lists_stay_refused():
    losses = pytest.importorskip("keras_rs").losses
    heads = pk.TaskHeads([pk.RankingHead("a", losses.ListMLELoss())])
    message = r"not be a RankingHead.*Received: head="
    inputs = {"a": {branch: features(2, 3, 4) for branch in ("own", "shared")}}
    check_refused(lambda: heads(inputs), ValueError, message)

"""Heads that mix the branches of a HedgedBlock, and their losses."""

import operator

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.heads.task_heads import hedged_heads
from tests.helpers import QUICK, assert_same, built, features, numpy_of, once, randomize
from tests.models import branched, compiled, heads_of, loaded
from tests.refusals import all_refused, check_refused

ROWS, WIDTH, RATE = 12, 3, 0.5
BRANCHES = ("own", "shared")
X = features(ROWS, WIDTH)
Y = {
    "click": np.where(np.arange(ROWS) % 3 > 0, X[:, 0] > 0, np.nan),
    "time": X[:, 1:2] * 3,
    "kind": np.where(np.arange(ROWS) < 2, np.arange(ROWS) % 3, np.nan),
}
MIXTURES = {"click": [0.25, 0.75], "time": [0.9, 0.1], "kind": [0.5, 0.5]}


def three_heads(**kwargs):
    click, time = pk.BinaryHead("click"), pk.RegressionHead("time", loss_weight=100.0)
    kind = pk.MulticlassHead("kind", num_classes=3, loss_weight=0.5)
    return pk.TaskHeads([click, time, kind], **kwargs)


def hedged_model(heads=None, seed=0, optimizer=None, mixtures=MIXTURES, **compile_kwargs):
    """Return a compiled model with random weights, and given mixtures."""
    heads = heads or three_heads()
    model = branched(heads, keras.layers.Dense(2, "tanh"))
    randomize(model, seed)
    for task, mixture in mixtures.items():
        hedged_heads(heads)[task].mixture.assign(mixture)
    return compiled(model, optimizer or keras.optimizers.SGD(RATE), **compile_kwargs)


def not_own(model):
    """Return the trainable weights that belong to no own branch."""
    own = {id(w) for hedged in hedged_heads(model).values() for w in hedged["own"].weights}
    return [w for w in model.trainable_weights if id(w) not in own and "own" not in w.path]


ACTIVATIONS = {
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), True),
    "exponential": (np.exp, True),
    "softplus": (lambda x: np.log1p(np.exp(x)), False),
    None: (lambda x: x, False),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_logits_of_probabilities_are_mixed_and_other_predictions_themselves(name):
    function, of_logits = ACTIVATIONS[name]
    heads = pk.TaskHeads([pk.Head("a", units=2, activation=name, loss="mse")])
    inputs = {branch: features(4, 5, 2, seed=i) for i, branch in enumerate(("x", "y", "z"))}
    heads({"a": inputs})
    randomize(heads)
    hedged_heads(heads)["a"].mixture.assign([0.5, 0.2, 0.3])
    branches = {branch: hedged_heads(heads)["a"][branch] for branch in inputs}
    logits = [numpy_of(branches[branch].logits(x)) for branch, x in inputs.items()]
    mixed = sum(a * (x if of_logits else function(x)) for a, x in zip((0.5, 0.2, 0.3), logits))
    expected = function(mixed) if of_logits else mixed
    reordered = dict(reversed(inputs.items()))
    assert_same(numpy_of(heads({"a": reordered})), {"a": expected})
    (symbolic,) = heads({"a": {branch: keras.Input((5, 2)) for branch in inputs}}).values()
    assert symbolic.shape == (None, 5, 2)
    assert heads.branch_weights()["a"] == pytest.approx({"x": 0.5, "y": 0.2, "z": 0.3})


@once
def test_a_head_stays_the_same_object_and_reads_the_state_of_its_branches():
    time = pk.RegressionHead("time", standardize=True)
    model = hedged_model(pk.TaskHeads([time]), mixtures={})
    assert heads_of(model)["time"] is time
    hedged = hedged_heads(model)["time"]
    assert hedged["own"] is time
    assert hedged.mixture.path.split("/")[1:] == ["time_head", "mixture"]
    assert heads_of(model).branch_weights() == {"time": {"own": 0.5, "shared": 0.5}}
    heads_of(model).adapt({"time": [2.0, 4.0, np.nan, np.nan]})
    assert (time.mean, time.deviation, time.label_share) == ([3.0], [1.0], 0.5)
    assert [hedged[branch].mean for branch in BRANCHES] == [[3.0]] * 2


def product_heads(**kwargs):
    of = [pk.BinaryHead("a"), pk.BinaryHead("b", loss=None, metrics=[]), pk.BinaryHead("c")]
    product = pk.ProductHead("ab", of=("a", "b"), **kwargs)
    return pk.TaskHeads([*of, product, pk.ProductHead("abc", of=("ab", "c"), loss=None)])


def test_a_product_is_that_of_the_mixtures_and_trains_each_branch():
    none = np.full(ROWS, np.nan)
    labels = {"a": none, "b": none, "c": none, "abc": none, "ab": X[:, 0] > 0}

    def trained(mixture):
        model = hedged_model(product_heads(), mixtures={"a": mixture, "b": [0.5, 0.5]}, **QUICK)
        p = numpy_of(model(X))
        np.testing.assert_allclose(p["ab"], p["a"] * p["b"], rtol=1e-5)
        np.testing.assert_allclose(p["abc"], p["ab"] * p["c"], rtol=1e-5)
        before = model.get_weights()
        model.train_on_batch(X, labels)
        return before, model

    before, model = trained([0.1, 0.9])
    _, other = trained([0.8, 0.2])
    for w, old, new in zip(model.weights, before, other.get_weights()):
        if w.trainable:
            np.testing.assert_array_equal(numpy_of(w), new)
            is_trained = "c_head" not in w.path and "expert-c-" not in w.path
            assert is_trained == (not np.array_equal(new, old)), w.path


def test_a_call_returns_predictions_whose_loss_trains_the_branches():
    model = hedged_model(**QUICK)
    heads, expected = heads_of(model), float(model.test_on_batch(X, Y)[0])
    arrays = model.predict(X, verbose=0)
    for predicted in (model(X), model(X, training=True), arrays):
        assert_same(numpy_of(predicted), arrays)
        assert float(numpy_of(heads.compute_loss(Y, predicted))) == pytest.approx(expected)
    message = r"y_pred\['click'\] must be the tensor that 'task_heads.*' returned for 'click'"
    copied = {task: 1.0 * each for task, each in model(X).items()}
    swapped = model(X)
    swapped["click"], swapped["time"] = swapped["time"], swapped["click"]
    for compute in (heads.compute_loss, heads.compute_losses):
        check_refused(lambda f=compute: f(Y, copied), ValueError, message)
        of_other = f"{message}.*Received: .*the prediction of 'time'"
        check_refused(lambda f=compute: f(Y, swapped), ValueError, of_other)


def test_predictions_of_other_tasks_are_refused_in_training_and_evaluation():
    class Swapped(pk.MultiTaskTraining, keras.Model):
        def __init__(self):
            super().__init__()
            self.heads = pk.TaskHeads([pk.BinaryHead("a"), pk.BinaryHead("b")])
            self.block = pk.HedgedBlock(self.heads, [3])

        def call(self, inputs, training=None):
            p = self.heads(self.block(inputs, training=training), training=training)
            return {"a": p["b"], "b": p["b"]}

    model = compiled(Swapped(), hedge=False)
    y = {"a": np.zeros(ROWS), "b": np.ones(ROWS)}
    for run in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=r"y_pred\['a'\] must be .* for 'a'.*of 'b'"):
            run(X, y, verbose=0)


@once
@pytest.mark.parametrize("is_built", [False, True])
def test_a_frozen_head_freezes_all_branches(is_built, tmp_path):
    heads = pk.TaskHeads([pk.BinaryHead("a"), pk.BinaryHead("b")])
    if not is_built:
        heads["a"].trainable = False
    model = branched(heads)
    heads["a"].trainable = False
    expected = [w.trainable for w in model.weights]
    assert not any(w.trainable for w in hedged_heads(heads)["a"].weights)
    assert [w.trainable for w in loaded(model, tmp_path).weights] == expected
    heads["a"].trainable = True
    assert hedged_heads(heads)["a"]["shared"].trainable_weights


@once
def test_a_value_that_is_not_finite_spoils_only_its_branch():
    model = hedged_model(**QUICK)
    hedged_heads(model)["time"]["own"]._projection.bias.assign([np.inf])
    model.train_on_batch(X, Y)
    assert all(np.isfinite(numpy_of(w)).all() for w in not_own(model))


@pytest.mark.parametrize("is_nested", [True, False])
def test_the_predictions_of_frozen_branches_are_features_of_any_model(is_nested):
    model = hedged_model(**QUICK)
    for layer in model.layers:
        layer.trainable = False
    inputs = keras.Input((WIDTH,)) if is_nested else model.input
    found = model(inputs) if is_nested else model.output
    output = keras.layers.Dense(1)(keras.layers.Concatenate()([*found.values()]))
    plain, before = keras.Model(inputs, output), model.get_weights()
    plain.compile("sgd", "mse", **QUICK)
    expected = plain.evaluate(X, Y["time"], verbose=0)
    losses = plain.fit(X, Y["time"], ROWS, epochs=2, verbose=0).history["loss"]
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert losses[1] < losses[0]
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_position_is_valid_where_all_branches_are():
    masks = {"own": [[True, True, False]], "shared": [[True, False, True]]}
    x = {
        b: features(1, 3, 2, seed=i) * np.float32(m)[..., None]
        for i, (b, m) in enumerate(masks.items())
    }
    masked = {branch: keras.layers.Masking()(array) for branch, array in x.items()}
    heads = pk.TaskHeads([pk.BinaryHead("a"), pk.RegressionHead("b")])
    predictions = heads({"a": masked, "b": masked})
    trained = heads({"a": masked, "b": masked}, training=True)
    for prediction in (*predictions.values(), *trained.values()):
        assert numpy_of(prediction._keras_mask).tolist() == [[True, False, False]]
    labels = {"a": np.array([[1.0, np.nan, np.nan]]), "b": np.array([[2.0, 0.0, 0.0]])}
    unmasked = heads({"a": x, "b": x})
    known = {**labels, "b": np.array([[2.0, np.nan, np.nan]])}
    expected = float(numpy_of(heads.compute_loss(known, unmasked)))
    for outputs in (predictions, trained):
        loss = float(numpy_of(heads.compute_loss(labels, outputs)))
        assert loss == pytest.approx(expected, rel=1e-6)


@once
def test_features_without_branches_or_of_another_width_are_refused():
    heads = pk.TaskHeads([pk.BinaryHead("a")])
    heads(hedged_inputs("a"))
    wide = {"own": keras.Input((3,)), "shared": keras.Input((4,))}
    message = r"inputs\['a'\] must have the shape \(batch, \.\.\., 3\).*\.shape=\(None, 4\)"
    check_refused(lambda: heads({"a": wide}), ValueError, message)
    message = r"inputs\['a'\] must be a dict with keys among .* Received: inputs\['a'\]=Tensor"
    check_refused(lambda: heads({"a": features(2, 3)}), TypeError, message)


def hedged_inputs(*tasks, branches=BRANCHES):
    return {task: {branch: features(2, 3) for branch in branches} for task in tasks}


REFUSED = {
    "learned_weights": (
        lambda: pk.TaskHeads([pk.BinaryHead("a")], "uncertainty")(hedged_inputs("a")),
        "loss_weighting and activity_regularizer must be None.*Received: loss_weighting='unc",
    ),
    "regularizer": (
        lambda: pk.TaskHeads([pk.BinaryHead("a")], activity_regularizer="l2")(hedged_inputs("a")),
        "activity_regularizer must be None.*, <",
    ),
    "built": (
        lambda: pk.TaskHeads([built(pk.BinaryHead("a"))])(hedged_inputs("a")),
        "must be unbuilt.*=True",
    ),
    "factors": (
        lambda: product_heads()({**hedged_inputs("a", "b"), **hedged_inputs("c", branches="xy")}),
        r"Factors of 'abc' must have the same branches.*Received: names={'ab': \['own'",
    ),
    "missing_branch": (
        lambda: [(x := pk.TaskHeads([pk.BinaryHead("a")]))(hedged_inputs("a")), x({"a": {}})],
        r"inputs\['a'\] must have exactly the keys \['own', 'shared'\]",
    ),
    "a_head_alone": (lambda: pk.BinaryHead("a")(hedged_inputs("a")["a"]), "inputs must have"),
}


test_refusals = all_refused(operator.call, REFUSED)

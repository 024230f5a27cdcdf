"""Mixtures of predictions: weights as of fit_hedge and SciPy, missing rows, frames and JSON."""

import json
from functools import partial

import keras
import numpy as np
import pytest
from scipy.special import expit, softmax

import ple_keras as pk
from ple_keras.hedging.branched_model import BranchedModel
from tests.helpers import once
from tests.refusals import NAN, all_refused

ROWS, RNG, LEAST = 400, np.random.default_rng(0), 2.0**-23
LATE, WAGE, COUNT, AMOUNT, CLASS = KINDS = {
    "is late?": "binary",
    "löhne/100": "regression",
    "a.b": "count",
    "shared": "amount",
    "val": "multiclass",
}
ACTIVATIONS = dict(zip(KINDS, (expit, np.asarray, np.exp, np.exp, partial(softmax, axis=-1))))
F = RNG.normal(size=ROWS)
LOGITS = np.outer(F, [-1, 0, 1])
Y = {
    LATE: np.where(np.arange(ROWS) % 5, RNG.random(ROWS) < expit(F), NAN),
    WAGE: 5e6 + 1e3 * (F + RNG.normal(size=ROWS)),
    COUNT: RNG.poisson(np.exp(F) * RNG.gamma(1, 1, ROWS)).astype("float64"),
    AMOUNT: np.exp(F) * RNG.gamma(0.5, 2, ROWS),
    CLASS: (LOGITS + RNG.gumbel(size=(ROWS, 3))).argmax(axis=1),
}


def predict(noise):
    f = F + noise * RNG.normal(size=ROWS)
    values = [f, 5e6 + 1e3 * f, f, f, LOGITS + noise * RNG.normal(size=(ROWS, 3))]
    return {task: ACTIVATIONS[task](x) for task, x in zip(KINDS, values)}


PREDICTIONS = {"boosting": predict(0.5), "hedged": predict(1), "linear": predict(0.7)}


@once
def test_weights_are_those_of_hedged_branches():
    names = dict(zip(KINDS, "abcde"))
    y = {names[task]: labels.astype("float32") for task, labels in Y.items()}
    y["b"] = ((Y[WAGE] - 5e6) / 1e3).astype("float32")
    classes = pk.MulticlassHead("e", num_classes=3)
    heads = [pk.BinaryHead("a"), pk.RegressionHead("b"), pk.CountHead("c"), pk.TweedieHead("d")]
    heads = pk.TaskHeads([*heads, classes])
    keras.utils.set_random_seed(0)
    inputs = keras.Input((2,))
    model = pk.MultiTaskModel(inputs, heads(pk.HedgedBlock(heads, [8])(inputs)))
    x = np.stack([F, np.cos(F)], axis=1).astype("float32")
    expected = pk.fit_hedge(model, x, y, prior=2.0)
    found = BranchedModel(model).read([(x, y, None)])
    for task, name in names.items():
        p = ACTIVATIONS[task](found[name].values.astype("float64"))
        predictions = {"own": {task: p[0]}, "shared": {task: p[1]}}
        y, losses = {task: found[name].labels}, {task: KINDS[task]}
        weights = pk.mix_predictions(y, predictions, losses, prior=2.0).weights[task]
        assert weights == pytest.approx(expected[name], abs=1e-4)
        assert 0.01 < abs(weights["own"] - 0.5) < 0.49


@once
@pytest.mark.parametrize("task", [LATE, WAGE, COUNT])
def test_weights_are_those_of_scipy(task):
    minimize = pytest.importorskip("scipy.optimize").minimize
    y, w = Y[task], np.arange(ROWS) % 3 * ~np.isnan(Y[task])
    p = np.stack([each[task] for each in PREDICTIONS.values()])

    def losses(shares):
        if task == WAGE:
            return w * (y - shares @ p) ** 2
        f = shares @ (np.log(p) if task == COUNT else np.log(p / (1 - p)))
        found = np.exp(f) - y * f if task == COUNT else np.logaddexp(0, f) - y * f
        return w * np.nan_to_num(found)

    means = [*p, np.exp(np.log(p).mean(axis=0))]
    dispersion = min(w @ ((y - m) ** 2 / m) / w.sum() for m in means) if task == COUNT else 1

    def objective(logits):
        shares = softmax([*logits, 0])
        total = losses(shares).sum() / dispersion
        if task == WAGE:
            total = w.sum() / 2 * np.log(total + losses(np.full(3, 1 / 3)).sum() / w.sum())
        return total - np.log(shares).sum() / 2

    expected = softmax([*minimize(objective, [0, 0], method="Nelder-Mead").x, 0])
    found = pk.mix_predictions(
        {task: y},
        {model: {task: each[task]} for model, each in PREDICTIONS.items()},
        {task: KINDS[task]},
        sample_weight=w,
    )
    assert [*found.weights[task].values()] == pytest.approx(expected, abs=3e-3)


@once
@pytest.mark.parametrize("library", ["", "pandas", "polars"])
def test_missing_rows_frames_and_json(library):
    frame = pytest.importorskip(library).DataFrame if library else dict
    losses = {task: KINDS[task] for task in (LATE, COUNT)}
    more = {"other": F} if library else {}
    labels = np.where(np.arange(ROWS) < 50, NAN, Y[COUNT])
    missing = np.where(np.arange(ROWS) // 10 == 5, NAN, PREDICTIONS["hedged"][COUNT])
    named = {model: {t: each[t] for t in losses} for model, each in PREDICTIONS.items()}
    named["hedged"][COUNT] = missing
    predictions = {model: frame({**each, **more}) for model, each in named.items()}
    mixture = pk.mix_predictions(frame({**more, LATE: Y[LATE], COUNT: labels}), predictions, losses)
    few = {model: {COUNT: each[COUNT][60:]} for model, each in named.items()}
    expected = pk.mix_predictions({COUNT: Y[COUNT][60:]}, few, {COUNT: "count"})
    assert mixture.weights[COUNT] == expected.weights[COUNT]
    found = mixture.predict(dict(reversed(predictions.items())))[COUNT]
    assert np.isnan(found).nonzero()[0].tolist() == [*range(50, 60)]
    np.testing.assert_allclose(found[60:], expected.predict(few)[COUNT])
    assert type(mixture).from_dict(json.loads(json.dumps(mixture.to_dict()))) == mixture


@once
def test_a_head_is_a_kind():
    predictions = {m: {"t": each[AMOUNT]} for m, each in PREDICTIONS.items()}
    named = pk.mix_predictions({"t": Y[AMOUNT]}, predictions, {"t": "amount"})
    found = {}
    for power in (1.5, 1.9):
        heads = {"t": pk.TweedieHead("t", power, tower=[4], standardize=True)}
        mixture = pk.mix_predictions({"t": Y[AMOUNT]}, predictions, heads)
        copy = type(mixture).from_dict(json.loads(json.dumps(mixture.to_dict())))
        assert (copy.losses["t"].power, copy.weights) == (power, mixture.weights)
        np.testing.assert_array_equal(
            copy.predict(predictions)["t"], mixture.predict(predictions)["t"]
        )
        found[power] = mixture.weights
    assert found[1.5] == named.weights != found[1.9]


@once
@pytest.mark.parametrize("kind", ["binary", "count", "amount"])
def test_predictions_are_limited_and_tasks_without_labels_have_equal_weights(kind):
    p = {model: {"t": [0, 1 if kind == "binary" else 4]} for model in "ab"}
    for y, weights in ([NAN, NAN], None), ([0, 1], [0, 0]):
        mixture = pk.mix_predictions({"t": y}, p, {"t": kind}, sample_weight=weights)
        assert mixture.weights["t"] == {"a": 0.5, "b": 0.5}
    high = 1 - LEAST if kind == "binary" else 4
    assert mixture.predict(p)["t"] == pytest.approx([LEAST, high], rel=1e-9)


@once
def test_classes_are_limited_and_mixed():
    p = {name: {"t": [[0, 0, 1.0], [0.2, 0.3, 0.5]]} for name in "ab"}
    found = pk.mix_predictions({"t": [2, 1]}, p, {"t": "multiclass"}).predict(p)["t"]
    np.testing.assert_allclose(found, [[LEAST, LEAST, 1 - 2 * LEAST], [0.2, 0.3, 0.5]], rtol=1e-6)


BOTH = {"a": {"t": np.ones(4)}, "b": {"t": np.zeros(4)}}
GOOD = {"y": {"t": [0, 1, 1, 0]}, "predictions": BOTH, "losses": {"t": "binary"}}
ARGUMENTS = {
    "function": ({"losses": {"t": np.subtract}}, r"losses\['t'\] must be one of \['binary'"),
    "head": ({"losses": {"t": pk.BinaryHead("u")}}, "an unbuilt head of 't' with the loss of one"),
    "activation": (
        {"losses": {"t": pk.RegressionHead("t", activation="softplus")}},
        r"losses\['t'\] must have the activation 'linear'",
    ),
    "one": ({"predictions": {"a": {"t": np.ones(4)}}}, "a dict of at least two names"),
    "label": ({"y": {"t": [0, 2, 1, 0]}}, r"losses\['t'\] must be .* from 0 to 2"),
    "length": ({"y": {"t": [0, 1]}}, r"predictions\['a'\]\['t'\] must have 2 rows"),
    "prior": ({"prior": -1}, "prior must be finite and at least 0"),
    "weight": ({"sample_weight": [-1, 1, 1, 1]}, r"sample_weight\['t'\] must be finite"),
}
test_wrong_arguments_are_refused = all_refused(
    lambda changed: pk.mix_predictions(**{**GOOD, **changed}), ARGUMENTS
)
test_other_models_are_refused = all_refused(
    pk.mix_predictions(**GOOD).predict,
    {"name": ({**BOTH, "c": BOTH["a"]}, r"exactly the keys \['a', 'b'\].*unknown: \['c'\]")},
)

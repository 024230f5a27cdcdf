"""Mixtures of predictions: weights as of FitHedge and SciPy, missing rows, frames and JSON."""

import json

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.hedging.branched_model import BranchedModel
from tests.helpers import once
from tests.inspection.test_compare_predictions import NAN, all_refused

ROWS = 400
RNG = np.random.default_rng(0)
F = RNG.normal(size=ROWS)
KINDS = {
    "is late?": "binary",
    "über/100": "regression",
    "a.b": "count",
    "shared": "amount",
    "val": "multiclass",
}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


ACTIVATIONS = {
    "binary": sigmoid,
    "regression": np.asarray,
    "count": np.exp,
    "amount": np.exp,
    "multiclass": softmax,
}
Y = {
    "is late?": np.where(np.arange(ROWS) % 5, RNG.random(ROWS) < sigmoid(F), NAN),
    "über/100": 5e6 + 1e3 * (F + RNG.normal(size=ROWS)),
    "a.b": RNG.poisson(np.exp(F) * RNG.gamma(1, 1, ROWS)),
    "shared": np.exp(F) * RNG.gamma(0.5, 2, ROWS),
    "val": np.argmax(softmax(np.outer(F, [-1, 0, 1])).cumsum(1) > RNG.random((ROWS, 1)), axis=1),
}


def predict(noise):
    f = F + noise * RNG.normal(size=ROWS)
    found = {task: ACTIVATIONS[kind](f) for task, kind in KINDS.items() if kind != "multiclass"}
    return {**found, "über/100": 5e6 + 1e3 * f, "val": softmax(np.outer(f, [-1, 0, 1]))}


PREDICTIONS = {"boosting": predict(0.5), "hedged": predict(1), "linear": predict(0.7)}


def only(task, **changed):
    y, losses = {task: Y[task]}, {task: KINDS[task]}
    predictions = {model: {task: each[task]} for model, each in PREDICTIONS.items()}
    return pk.mix_predictions(
        **{"y": y, "predictions": predictions, "losses": losses, **changed}
    ).weights[task]


def test_weights_are_those_of_hedged_branches():
    kinds = dict(zip("abcde", KINDS.values()))
    y = dict(zip(kinds, Y.values())) | {"b": (Y["über/100"] - 5e6) / 1e3}
    y = {task: labels.astype("float32") for task, labels in y.items()}
    heads = pk.TaskHeads(
        [
            pk.BinaryHead("a"),
            pk.RegressionHead("b"),
            pk.CountHead("c"),
            pk.TweedieHead("d"),
            pk.MulticlassHead("e", num_classes=3),
        ]
    )
    keras.utils.set_random_seed(0)
    inputs = keras.Input((2,))
    model = pk.MultiTaskModel(inputs, heads(pk.HedgedBlock(heads, [8])(inputs)))
    x = np.stack([F, np.cos(F)], axis=1).astype("float32")
    expected = pk.fit_hedge(model, x, y, prior=2.0)
    predictions = {"own": {}, "shared": {}}
    for task, found in BranchedModel(model).read([(x, y, None)]).items():
        for branch, values in zip(predictions, found.values.astype("float64")):
            known = ACTIVATIONS[kinds[task]](values)
            predictions[branch][task] = np.full((ROWS, known.shape[1]), NAN)
            predictions[branch][task][~np.isnan(y[task])] = known
    weights = pk.mix_predictions(y, predictions, kinds, prior=2.0).weights
    assert any(0.1 < by_branch["own"] < 0.4 for by_branch in weights.values())
    for task, by_branch in weights.items():
        assert by_branch == pytest.approx(expected[task], abs=1e-4)


@once
@pytest.mark.parametrize("task", ["is late?", "über/100", "a.b"])
def test_weights_are_those_of_scipy(task):
    minimize = pytest.importorskip("scipy.optimize").minimize
    y = Y[task]
    p = np.stack([each[task] for each in PREDICTIONS.values()])[:, ~np.isnan(y)]
    y, w = y[~np.isnan(y)], np.arange((~np.isnan(y)).sum()) % 3

    def losses(shares):
        if task == "is late?":
            f = shares @ np.log(p / (1 - p))
            return w * (np.logaddexp(0, f) - y * f)
        f = np.exp(shares @ np.log(p)) if task == "a.b" else shares @ p
        return w * (f - y * np.log(f)) if task == "a.b" else w * (y - f) ** 2

    means = [*p, np.exp(np.log(np.maximum(p, 1e-9)).mean(axis=0))]
    dispersion = min(w @ ((y - m) ** 2 / m) / w.sum() for m in means) if task == "a.b" else 1

    def objective(logits):
        shares = softmax(np.append(logits, 0))
        total = losses(shares).sum() / dispersion
        if task == "über/100":
            total = w.sum() / 2 * np.log(total + losses(np.full(3, 1 / 3)).sum() / w.sum())
        return total - np.log(shares).sum() / 2

    expected = softmax(np.append(minimize(objective, [0, 0], method="Nelder-Mead").x, 0))
    weights = np.zeros(ROWS)
    weights[~np.isnan(Y[task])] = w
    found = only(task, sample_weight=weights)
    assert [*found.values()] == pytest.approx(expected, abs=3e-3)


@once
@pytest.mark.parametrize("library", ["dict", "pandas", "polars"])
def test_missing_rows_frames_and_json(library):
    tasks = [*KINDS][:4]
    losses = {task: KINDS[task] for task in tasks}
    y = {task: np.copy(Y[task]).astype("float64") for task in tasks}
    y["a.b"][:50] = NAN
    predictions = {
        model: {task: np.copy(each[task]) for task in tasks} for model, each in PREDICTIONS.items()
    }
    predictions["hedged"]["a.b"][50:60] = NAN
    rows = {name: values["a.b"][60:] for name, values in {"": y, **predictions}.items()}
    few = {name: {"a.b": values} for name, values in rows.items() if name}
    expected = pk.mix_predictions({"a.b": rows[""]}, few, {"a.b": "count"})
    if library != "dict":
        frame = pytest.importorskip(library).DataFrame
        more = {"other": np.zeros(ROWS)}
        y = frame({**y, **more})
        predictions = {model: frame({**each, **more}) for model, each in predictions.items()}
    mixture = pk.mix_predictions(y, predictions, losses)
    assert mixture.weights["a.b"] == expected.weights["a.b"]
    found = mixture.predict(dict(reversed(predictions.items())))
    assert np.isnan(found["a.b"]).nonzero()[0].tolist() == [*range(50, 60)]
    np.testing.assert_allclose(found["a.b"][60:], expected.predict(few)["a.b"])
    again = type(mixture).from_dict(json.loads(json.dumps(mixture.to_dict())))
    assert again == mixture
    np.testing.assert_allclose(again.predict(predictions)["shared"], found["shared"])


@once
def test_predictions_are_limited_and_tasks_without_labels_have_equal_weights():
    least = 2.0**-23
    for kind, ends in {"binary": (0, 1), "count": (0, 4), "amount": (0, 4)}.items():
        p = {"a": {"t": np.array(ends, "float64")}, "b": {"t": np.array(ends, "float64")}}
        mixture = pk.mix_predictions({"t": [NAN, NAN]}, p, {"t": kind})
        assert mixture.weights["t"] == {"a": 0.5, "b": 0.5}
        high = 1 - least if kind == "binary" else 4
        assert mixture.predict(p)["t"] == pytest.approx([least, high], rel=1e-9)
    classes = {name: {"t": np.array([[0, 0, 1.0], [0.2, 0.3, 0.5]])} for name in "ab"}
    mixture = pk.mix_predictions({"t": [2, 1]}, classes, {"t": "multiclass"})
    found = mixture.predict(classes)["t"]
    assert found[0] == pytest.approx([least, least, 1 - 2 * least], rel=1e-6)
    assert found[1] == pytest.approx(classes["a"]["t"][1])


BOTH = {"a": {"t": np.ones(4)}, "b": {"t": np.zeros(4)}}
GOOD = {"y": {"t": [0, 1, 1, 0]}, "predictions": BOTH, "losses": {"t": "binary"}}
test_wrong_arguments_are_refused = all_refused(
    lambda changed: pk.mix_predictions(**{**GOOD, **changed}),
    {
        "function": ({"losses": {"t": np.subtract}}, r"losses\['t'\] must be one of \['binary'"),
        "kind": ({"losses": {"t": "mse"}}, r"losses\['t'\] must be one of .*='mse'"),
        "one": ({"predictions": {"a": {"t": np.ones(4)}}}, "a dict of at least two names"),
        "label": ({"y": {"t": [0, 2, 1, 0]}}, r"losses\['t'\] must be .* from 0 to 2"),
        "length": ({"y": {"t": [0, 1]}}, r"predictions\['a'\]\['t'\] must have 2 rows"),
        "prior": ({"prior": -1}, "prior must be finite and at least 0"),
        "weight": ({"sample_weight": [-1, 1, 1, 1]}, r"sample_weight\['t'\] must be finite"),
        "weights": ({"sample_weight": {"t": np.zeros(4)}}, "must not be 0 in all rows of 't'"),
    },
)
test_other_models_are_refused = all_refused(
    lambda predictions: pk.mix_predictions(**GOOD).predict(predictions),
    {"name": ({**BOTH, "c": BOTH["a"]}, r"exactly the keys \['a', 'b'\].*unknown: \['c'\]")},
)

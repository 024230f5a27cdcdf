"""Branches that are predictions of another model: their mixture, training and files."""

import warnings

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK, assert_same, features, numpy_of, once, randomize
from tests.layers.reference import sigmoid, softmax
from tests.models import compiled, heads_of
from tests.pairs import fewer
from tests.refusals import INF, NAN, all_refused

ROWS = 8
MIXTURE = [0.5, 0.2, 0.3]  # of boosting, own, shared


def limited(p):
    return np.clip(p, 2.0**-23, 1 - 2.0**-23)


RNG = np.random.default_rng(0)
# The head, given predictions with extremes, their values, and the activation of the mixture.
KINDS = {
    "binary": (
        lambda: pk.BinaryHead("a", tower=[3]),
        np.array([0, 1, *RNG.random(6)]),
        lambda p: np.log(limited(p) / (1 - limited(p))),
        sigmoid,
    ),
    "classes": (
        lambda: pk.MulticlassHead("a", num_classes=3),
        np.array([[1.0, 0, 0], *RNG.dirichlet([1, 1, 1], 7)]),
        lambda p: np.log(limited(p)),
        softmax,
    ),
    "values": (lambda: pk.RegressionHead("a", units=2), features(ROWS, 2, seed=1), None, None),
    "standardized": (
        lambda: pk.RegressionHead("a", standardize=True, mean=1e4, deviation=300.0),
        1e4 + 300 * RNG.normal(size=ROWS),
        *(None, None),
    ),
    "counts": (
        lambda: pk.CountHead("a"),
        np.array([0, 1e6, *RNG.gamma(1, 3, 6)]),
        lambda n: np.log(np.maximum(n, 2.0**-23)),
        np.exp,
    ),
}


def hedged(head, width=None, mixture=MIXTURE, given=("boosting",)):
    """Return a model of a head with own, shared and given branches."""
    heads = pk.TaskHeads([head], given=given)
    inputs = {"x": keras.Input((4,), name="x")}
    branches = pk.HedgedBlock(heads, [3])(inputs["x"])
    for name in given:
        inputs[name] = keras.Input(() if width is None else (width,), name=name)
    given_branches = {name: inputs[name] for name in given}
    model = pk.MultiTaskModel(inputs, heads({"a": {**branches["a"], **given_branches}}))
    randomize(model)
    heads["a"].mixture.assign(mixture)
    return model


def logits_of_features(model, x):
    """Return the logits of the branches of features."""
    (head,) = heads_of(model).values()
    block = next(each for each in model.layers if isinstance(each, pk.HedgedBlock))
    return {b: getattr(head, f"branch-{b}").logits(v) for b, v in block(x)["a"].items()}


def by_hand(model, x, given, value, activation):
    """Return predictions from the values of the branches, mixed by NumPy in float64."""
    (head,) = heads_of(model).values()
    values = [np.zeros((len(x), head.units))]
    for logits in logits_of_features(model, x).values():
        values.append(numpy_of(logits if value else head._activate(logits)).astype("float64"))
    given = given.reshape(len(x), head.units).astype("float64")
    missing = ~np.isfinite(given).all(axis=-1, keepdims=True)
    values[0] = np.where(missing, 0, (value or np.copy)(np.where(missing, 0.5, given)))
    shares = [np.where(missing, 0, MIXTURE[0]), *MIXTURE[1:]]
    mixed = sum(share * v for share, v in zip(shares, values)) / sum(shares)
    return (activation or np.copy)(mixed)


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        *(pytest.param(kind, [2, 5], marks=once) for kind in ("binary", "values", "standardized")),
        *(("classes", [2, 5]), ("counts", [2, 5]), ("binary", []), ("binary", range(ROWS))),
    ],
)
def test_the_mixture_is_that_of_numpy(kind, missing):
    make, given, value, activation = KINDS[kind]
    model = hedged(make(), given.shape[-1] if given.ndim > 1 else None)
    x, given = features(ROWS, 4), given.astype("float32")
    given[[*missing]] = NAN
    given[[*missing][1:]] = INF
    given[[*missing][2:]] = -INF
    predictions = model.predict({"x": x, "boosting": given}, verbose=0)["a"]
    expected = by_hand(model, x, given, value, activation)
    np.testing.assert_allclose(predictions, expected, rtol=2e-5, atol=1e-6)


def test_sequences_have_given_branches():
    heads = pk.TaskHeads([pk.BinaryHead("a")], given=["boosting"])
    p = np.array([[0.25, NAN], [0.5, 0.75]], "float32")
    branches = {"net": features(2, 2, 3)}
    outputs = [heads({"a": {**branches, "boosting": each}}) for each in (p, p[..., None])]
    assert_same(numpy_of(outputs[0]), numpy_of(outputs[1]), atol=0)
    net = numpy_of(getattr(heads["a"], "branch-net")(branches["net"]))[..., 0]
    expected = sigmoid((np.log(p / (1 - p)) + np.log(net / (1 - net))) / 2)
    expected[0, 1] = net[0, 1]
    np.testing.assert_allclose(numpy_of(outputs[0]["a"])[..., 0], expected, atol=1e-6)
    stack = numpy_of(heads({"a": {**branches, "boosting": p}}, training=True)["a"])
    np.testing.assert_allclose(stack[1, 0, 1], stack[0, 0, 1], atol=1e-6)  # the missing one


LABELS = {
    "binary": np.arange(ROWS) % 2,
    "classes": np.arange(ROWS) % 3,
    "values": features(ROWS, 2, seed=2),
    "standardized": 1e4 + 300 * features(ROWS, seed=2),
    "counts": np.arange(ROWS),
}


@pytest.mark.parametrize("kind", fewer({kind: kind for kind in LABELS}, "classes"))
def test_branches_of_features_train_as_without_given_ones(kind):
    make, given, *_ = KINDS[kind]
    width = given.shape[-1] if given.ndim > 1 else None
    x, y = features(ROWS, 4), {"a": LABELS[kind].astype("float32")}
    weights = []
    for each in (None, given, np.full_like(given, NAN), np.full_like(given, 1e30)):
        if each is None:
            model, inputs = hedged(make(), mixture=MIXTURE[1:], given=()), {"x": x}
        else:
            model, inputs = hedged(make(), width), {"x": x, "boosting": each.astype("float32")}
        compiled(model, keras.optimizers.SGD(0.01), **QUICK)
        for _ in range(2):
            loss = model.train_on_batch(inputs, y)
        assert each is None or each[0].max() == 1e30 or np.isfinite(np.asarray(loss[0]))
        weights.append([numpy_of(w) for w in model.trainable_weights])
    for other in weights[1:]:  # XLA can round differently
        for weight, expected in zip(other, weights[0], strict=True):
            np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-7)


def test_a_given_branch_has_no_weights_and_no_gradient():
    heads = pk.TaskHeads([pk.RegressionHead("a")], given=["other"])
    inputs, other = keras.Input((4,)), keras.layers.Dense(1, name="other")
    net = keras.layers.Dense(3)(inputs)
    model = pk.MultiTaskModel(inputs, heads({"a": {"net": net, "other": other(inputs)}}))
    assert len(heads["a"].weights) == 3  # the mixture, and the output of the other branch
    before = [numpy_of(w) for w in other.weights]
    compiled(model, keras.optimizers.SGD(0.1), **QUICK)
    model.train_on_batch(features(ROWS, 4), {"a": features(ROWS, seed=1)})
    np.testing.assert_equal([numpy_of(w) for w in other.weights], before)


def test_a_product_has_the_given_branches_of_its_factors():
    heads = [pk.BinaryHead("a"), pk.BinaryHead("b"), pk.ProductHead("ab", of=("a", "b"))]
    heads = pk.TaskHeads(heads, given=["other"])
    p = np.array([0.5, NAN, 0.25, 1.0], "float32")
    net = features(4, 3)
    inputs = {task: {"net": net, "other": p} for task in ("a", "b")}
    outputs = numpy_of(heads(inputs))
    np.testing.assert_allclose(outputs["ab"], outputs["a"] * outputs["b"], rtol=1e-5)
    stacks = heads(inputs, training=True)
    y = dict.fromkeys(heads, np.array([0.0, 1, 1, 0]))
    assert np.isfinite(float(heads.compute_loss(y, stacks)))
    assert heads["ab"].branches.names == ("net", "other")


@once
def test_fit_hedge_and_reports_know_given_branches():
    rows = 300
    rng = np.random.default_rng(0)
    p = rng.random(rows).astype("float32")
    x = {"x": features(rows, 4), "boosting": p}
    y = {"a": (rng.random(rows) < p).astype("float32")}
    trained = {**x, "boosting": np.full(rows, NAN, "float32")}
    model = compiled(hedged(pk.BinaryHead("a"), mixture=[1 / 3] * 3), "adam")
    logs = model.fit(trained, y, verbose=0, callbacks=[pk.FitHedge((x, y))]).history
    assert logs["hedge/a/boosting"][-1] > 0.7
    entropy = -np.mean(np.log(np.where(y["a"] > 0, p, 1 - p)))
    np.testing.assert_allclose(logs["hedge/a/boosting_loss"][-1], entropy, rtol=1e-4)
    branches = pk.task_report(model, x, y).branches["a"]
    assert list(branches) == ["boosting", "own", "shared"]
    np.testing.assert_allclose(branches["boosting"].figures.loss, entropy, rtol=1e-4)
    assert branches["boosting"].weight == pytest.approx(logs["hedge/a/boosting"][-1], abs=0.2)


@once
def test_rows_without_predictions_do_not_count_for_their_weight():
    rows = 400
    rng = np.random.default_rng(0)
    p, x = rng.random(rows).astype("float32"), features(rows, 4)
    y = {"a": (rng.random(rows) < p).astype("float32")}
    model = hedged(pk.BinaryHead("a"))
    half = np.where(np.arange(rows) % 2, p, NAN).astype("float32")
    half[::4], half[2::4] = np.inf, -np.inf
    known = np.isfinite(half)
    (weights,) = pk.fit_hedge(model, {"x": x, "boosting": half}, y).values()
    stack = {b: numpy_of(v) for b, v in logits_of_features(model, x).items()}
    others = np.stack([stack["own"], stack["shared"]])
    logit = np.log(p / (1 - p))[:, None]

    def loss(a):  # of boosting, and of own among the others
        rest = a[1] * others[0] + (1 - a[1]) * others[1]
        f = np.where(known[:, None], a[0] * logit + (1 - a[0]) * rest, rest)[:, 0]
        b = np.array([a[0], (1 - a[0]) * a[1], (1 - a[0]) * (1 - a[1])])
        return np.sum(np.log1p(np.exp(f)) - y["a"] * f) - np.log(b).sum() / 2

    found = weights["boosting"], weights["own"] / (1 - weights["boosting"])
    grid = np.linspace(0.01, 0.99, 50)
    assert loss(found) <= min(loss((a, b)) for a in grid for b in grid) + 1e-3
    hedge = pk.FitHedge(({"x": x, "boosting": half}, y))
    model.compile("sgd")
    with warnings.catch_warnings(action="error", category=UserWarning):  # of another hedge/loss
        missing = {"x": x, "boosting": np.full(rows, NAN)}
        logs = model.fit(missing, y, verbose=0, callbacks=[hedge]).history
    assert np.isfinite(logs["hedge/a/boosting_loss"]).all()


@once
def test_given_logits_of_a_binary_task_warn():
    rows, reason = 40, r"'boosting' for 'a' must be probabilities.*Received: 40 .* from -1 to 2"
    model = compiled(hedged(pk.BinaryHead("a")), "sgd")
    x = {"x": features(rows, 4), "boosting": np.linspace(-1, 2, rows)}
    y = {"a": np.arange(rows) % 2}
    with pytest.warns(UserWarning, match=reason):
        pk.check_inputs(model, x)
    with pytest.warns(UserWarning, match=reason):
        model.fit(x, y, validation_data=(x, y), verbose=0)


PROBABILITIES = np.array([[0.25, 0.25, 0.5], [1, 0, 0], [0.1, 0.2, 0.7]])


@once
@pytest.mark.parametrize(
    ("head", "given", "reason"),
    [
        (pk.BinaryHead, np.arange(30) % 2, "2 distinct values from 0 to 1"),
        (pk.BinaryHead, [*np.linspace(0, 1, 29), NAN], None),  # of a forest
        (pk.BinaryHead, np.full(30, NAN), None),
        (pk.RegressionHead, np.arange(30) - 10, None),
        (pk.MulticlassHead, np.tile(2 * PROBABILITIES, (10, 1)) / 3, "a mean sum of 0.667"),
        (pk.MulticlassHead, np.eye(3)[np.arange(30) % 3], "2 distinct values from 0 to 1"),
        (pk.MulticlassHead, np.tile(PROBABILITIES, (10, 1)), None),
    ],
)
def test_given_predictions_that_are_no_probabilities_warn(head, given, reason):
    given = np.array(given, "float32")
    options = {"num_classes": 3} if head is pk.MulticlassHead else {}
    model = hedged(head("a", **options), options.get("num_classes"))
    labels = np.arange(30) % (2 if head is pk.BinaryHead else 3)
    x, y = {"x": features(30, 4), "boosting": given}, {"a": labels}
    if reason:
        with pytest.warns(UserWarning, match=reason):
            pk.fit_hedge(model, x, y)
    else:
        with warnings.catch_warnings(action="error", category=UserWarning):
            pk.fit_hedge(model, x, y)


NAMES = r"^given must contain different names"
REFUSED = {
    "text": ("boosting", TypeError, r"^given must be a sequence of branch names"),
    "own": (["own"], NAMES),
    "space": (["a b"], NAMES),
    "twice": (["a", "a"], NAMES),
}


test_names_that_are_no_names_are_refused = all_refused(
    lambda given: pk.TaskHeads([pk.BinaryHead("a")], given=given), REFUSED
)


SHAPE = r"inputs\['a'\]\['other'\] must have a shape \(batch, 1\) or \(batch,\)"


INPUTS = {
    "width": ({"net": (2, 3), "other": (2, 2)}, SHAPE),
    "rank": ({"net": (2, 3), "other": (2, 1, 1)}, SHAPE),
    "alone": (
        {"other": (2, 1)},
        r"^inputs\['a'\] must have a branch of features next to given predictions",
    ),
    "not_given": (
        {"net": (2, 3), "more": (2, 3)},
        r"^inputs must have given branches; missing: \{'other'\}",
    ),
}


def call_with(shapes):
    inputs = {branch: features(*shape) for branch, shape in shapes.items()}
    return pk.TaskHeads([pk.BinaryHead("a")], given=["other"])({"a": inputs})


test_inputs_that_are_no_predictions_are_refused = all_refused(call_with, INPUTS)

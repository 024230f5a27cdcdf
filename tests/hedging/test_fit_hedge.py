"""The fit of the mixtures of a HedgedBlock."""

import operator

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.heads.task_heads import hedged_heads
from ple_keras.hedging.mixture import LabeledValues, best_mixture, minimize_on_simplex
from tests.helpers import QUICK, Dataset, assert_same, every_backend, features, once, randomize
from tests.layers.reference import sigmoid, softmax
from tests.models import branched, chain, compiled, heads_of
from tests.refusals import all_refused, check_refused

pytestmark = once

BACKEND = keras.backend.backend()
TASKS = ["click", "time"]
ROWS = 40


def two_heads():
    heads = [pk.BinaryHead("click", metrics=[]), pk.RegressionHead("time", missing_label=-9)]
    return pk.TaskHeads(heads)


def rows(count=ROWS, seed=0):
    """Return rows without a fifth of the labels of each task."""
    x = features(count, 3, seed=seed)
    y = {"click": (x[:, 0] > 0).astype("float32"), "time": x[:, 1:2] * 2 + x[:, 2:]}
    y["click"][::5] = np.nan
    y["time"][1::5] = -9
    return x, y


def labeled(labels, values):
    """Return rows with weights of 1."""
    return LabeledValues(labels, np.ones(len(labels)), values)


def hedged_model(heads=None):
    model = branched(heads or two_heads(), keras.layers.Dense(3, "tanh"))
    randomize(model)
    return compiled(model, keras.optimizers.SGD(0.1), **QUICK)


# The objective of a task in float64.


def clipped(p):
    return np.clip(p, 1e-7, 1 - 1e-7)


def sum_or_log(losses, power, of_equal):
    n = len(losses)
    return losses.sum() if power == 0 else power * n * np.log(losses.sum() + of_equal.mean())


def binary(p, y):
    return -np.where(y == 1, np.log(clipped(p)), np.log(1 - clipped(p)))[:, 0]


# A head, the activation of the mixture, the loss per number, and n / 2 log, n log or the sum.
FORMS = {
    "binary": (pk.BinaryHead("a"), sigmoid, binary, 0),
    "weighted": (
        pk.BinaryHead("a", pos_weight=3.0),
        sigmoid,
        lambda p, y: (1 + 2 * y[:, 0]) * binary(p, y),
        0,
    ),
    "classes": (
        pk.MulticlassHead("a", num_classes=3),
        softmax,
        lambda p, y: -np.log(p[np.arange(len(y)), y[:, 0].astype(int)]),
        0,
    ),
    "counts": (pk.CountHead("a"), np.exp, lambda p, y: (p - y * np.log(p + 1e-7))[:, 0], 0),
    "squared": (pk.RegressionHead("a", units=2), None, lambda p, y: ((p - y) ** 2).ravel(), 0.5),
    "absolute": (
        pk.RegressionHead("a", loss="mae", activation="softplus"),
        None,
        lambda p, y: abs(p - y)[:, 0],
        1.0,
    ),
    "other": (
        pk.RegressionHead("a", loss=keras.losses.Huber()),
        None,
        lambda p, y: np.where(abs(p - y) < 1, (p - y) ** 2 / 2, abs(p - y) - 0.5)[:, 0],
        0,
    ),
}


def observed(name, branches, count):
    """Return labels, and values before the mixture, by branch."""
    units = {"classes": 3, "squared": 2}.get(name, 1)
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(count, units))
    noise = np.linspace(0.7, 1.5, branches)[:, None, None]
    values = truth + noise * rng.normal(size=(branches, count, units))
    if name in ("binary", "weighted"):
        return (rng.random((count, 1)) < sigmoid(truth)).astype("float32"), values
    if name == "classes":
        return truth.argmax(axis=-1)[:, None].astype("float32"), values
    if name == "counts":
        return rng.poisson(np.exp(truth)).astype("float32"), values
    return truth.astype("float32"), abs(values) if name == "absolute" else values


def grid(branches, steps):
    """Return weights of a grid on the simplex, without 0."""
    axis = (np.arange(steps) + 0.5) / steps
    if branches == 2:
        return np.stack([axis, 1 - axis], axis=1)
    first, second = np.meshgrid(axis, axis)
    kept = first + second < 1 - 1e-9
    return np.stack([first[kept], second[kept], 1 - first[kept] - second[kept]], axis=1)


@every_backend
@pytest.mark.parametrize(
    ("name", "branches", "count", "prior"),
    [
        *(pytest.param(name, 2, 50, 1.0, marks=once) for name in FORMS if name != "absolute"),
        pytest.param("absolute", 2, 2000, 1.0, marks=once),  # which has a kink for each row
        ("binary", 3, 30, 1.0),
        ("squared", 3, 30, 4.0),
        pytest.param("binary", 2, 3, 1.0, marks=once),
        ("classes", 2, 30, 0.0),
    ],
)
def test_the_mixture_is_the_best_of_a_grid(name, branches, count, prior):
    head, activation, loss_of, power = FORMS[name]
    labels, values = observed(name, branches, count)

    def losses(weights):
        mixed = np.tensordot(weights, values, 1)
        return loss_of(activation(mixed) if activation else mixed, np.float64(labels))

    def objective(weights):
        of_equal = losses(np.full(branches, 1 / branches))
        total = sum_or_log(losses(weights), power, of_equal) / dispersion
        return total - prior / 2 * np.log(np.maximum(weights, 1e-37)).sum()

    dispersion = 1.0
    if name == "counts":
        rates = np.exp([values.mean(axis=0), *values])
        dispersion = max(1, ((labels - rates) ** 2 / rates).mean(axis=(1, 2)).min())
        assert dispersion > 1.1
    labels = labels.reshape(count, -1)
    mixture = best_mixture(head, labeled(labels, values.astype("float32")), prior)
    assert mixture.sum() == pytest.approx(1)
    best = min(map(objective, grid(branches, 2000 if branches == 2 else 80)))
    assert objective(mixture) <= best + 1e-4


@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_few_labels_do_not_decide_a_mixture(loss):
    """One branch is right, or three branches can be mixed to the labels, where log(0) is -inf."""
    head = pk.RegressionHead("a", loss=loss)
    right = best_mixture(head, labeled(np.ones((1, 1)), np.float32([[[1]], [[3]]])), 1.0)
    assert 0.5 < right[0] < 0.85
    values = np.float32([[[0], [1]], [[2], [0]], [[2], [2]]])
    assert best_mixture(head, labeled(np.ones((2, 1)), values), 1.0).min() > 0.1


def test_a_prior_of_each_branch_is_a_mixture_that_counts_as_labels():
    """The penalty is 50 times the divergence from the mixture before, -50 sum_b a_b log a'_b."""
    rng, before = np.random.default_rng(0), np.float32([0.9, 0.1])
    values = rng.normal(size=(2, 4000, 1)).astype("float32")
    labels = (rng.random((4000, 1)) < sigmoid(values[1] * 2)).astype("float32")
    logs = np.log(weights := np.stack([w := np.linspace(1e-3, 1, 2000)[:-1], 1 - w]))
    for count in (3, 4000):
        found = labeled(labels[:count], values[:, :count])
        mixed = weights.T @ found.values[..., 0] * (1 - 2 * found.labels[:, 0])
        losses = np.logaddexp(0, mixed).sum(axis=1) - 50 * before @ logs
        mixture = best_mixture(pk.BinaryHead("a"), found, 100 * before)
        np.testing.assert_allclose(mixture, weights[:, np.argmin(losses)], atol=1e-3)
        assert mixture[0] > 0.8 if count == 3 else mixture[0] < 0.1


@pytest.mark.parametrize("size", [3, 4])
def test_mixtures_of_nearly_equal_branches_have_the_least_loss(size):
    """Searches of two weights alone zigzag along a valley, and end far from its lowest point."""
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(0)
    truth = rng.normal(size=500)
    values = truth + 0.5 * rng.normal(size=(size, 1)) + 0.1 * rng.normal(size=(size, 500))

    def objective(weights):
        return 250 * np.log(np.mean((weights @ values - truth) ** 2, axis=-1))

    found = minimize_on_simplex(objective, size, 25)
    total = {"type": "eq", "fun": lambda weights: weights.sum() - 1}
    options = {"bounds": [(1e-9, 1)] * size, "constraints": total, "options": {"ftol": 1e-12}}
    starts = [np.full(size, 1 / size), found]
    best = min(optimize.minimize(objective, start, **options).fun for start in starts)
    assert objective(found) - best < 1e-3
    assert found.sum() == pytest.approx(1)


def test_the_unit_of_counts_does_not_change_how_much_they_show_about_the_mixture():
    """Without a dispersion, losses of y / 0.1 would count ten times, and 50 times with 50 y."""
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(400, 1)) - 2.3
    values = (truth + rng.normal(size=(2, 400, 1)) * [[[0.3]], [[1.0]]]).astype("float32")
    labels = rng.poisson(np.exp(truth)).astype("float32")
    plain, standardized = pk.CountHead("a"), pk.CountHead("a", standardize=True)
    pk.TaskHeads([standardized]).adapt({"a": labels[:, 0]})
    assert standardized.mean[0] < 0.3
    standardized(np.zeros((1, 3), "float32"))  # builds it
    mixture = best_mixture(plain, labeled(labels, values), 10.0)
    found = best_mixture(standardized, labeled(labels, values), 10.0)
    np.testing.assert_allclose(found, mixture, atol=1e-3)
    scaled = best_mixture(plain, labeled(50 * labels, values + np.log(50).astype("float32")), 10.0)
    np.testing.assert_allclose(scaled, mixture, atol=0.02)


def test_a_saturated_branch_has_the_weight_of_its_best_loss():
    """Logits of 200 are right in 90% of the rows. Gradients of the clipped loss are 0."""
    y = (np.arange(200) % 2)[:, None].astype("float32")
    is_right = np.arange(200)[:, None] % 10 > 0
    logits = np.where(is_right, 1, -1) * (2 * y - 1) * 200
    values = np.stack([logits, np.random.default_rng(0).normal(size=logits.shape)])

    def objective(weights):
        mixed = np.tensordot(weights, values, 1)
        return binary(sigmoid(mixed), y).sum() - np.log(weights).sum() / 2

    mixture = best_mixture(pk.BinaryHead("a"), labeled(y, values.astype("float32")), 1.0)
    weights = np.exp(np.linspace(-14, -1e-3, 4000))
    best = min(objective(np.array([w, 1 - w])) for w in weights)
    assert objective(mixture) <= best * (1 + 1e-4)


def test_a_branch_with_infinite_counts_has_no_weight():
    """exp(1000) is infinite, and so are the counts of most mixtures."""
    labels = np.random.default_rng(0).poisson(1.0, size=(200, 1)).astype("float32")
    values = np.zeros((3, 200, 1), "float32")
    values[0], values[2] = 1000, 3
    mixture = best_mixture(pk.CountHead("a"), labeled(labels, values), 1.0)
    assert mixture[1] > 0.9


@pytest.mark.parametrize("name", ["squared", "classes"])
def test_candidates_that_are_compared_in_parts_have_the_same_mixture(name, monkeypatch):
    """Many rows leave little memory for candidates: here for one, or for seven at a time."""
    head = FORMS[name][0]
    labels, values = observed(name, 3, 40)
    labels = labels.reshape(40, -1)
    labels[0, 0] = np.nan if name == "squared" else labels[0, 0]
    values = values.astype("float32")
    expected = best_mixture(head, labeled(labels, values), 1.0)
    for limit in (0, 7 * values.size):
        monkeypatch.setattr("ple_keras.hedging.mixture.MAX_VALUES", limit)
        np.testing.assert_array_equal(best_mixture(head, labeled(labels, values), 1.0), expected)


@every_backend
def test_validation_metrics_have_the_new_mixture():
    model, data = hedged_model(), rows()
    model.run_eagerly &= BACKEND != "torch"  # which traces steps
    seen = []
    observe = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append((dict(logs), model.get_weights()))
    )
    history = model.fit(
        *rows(seed=1), validation_data=data, callbacks=[pk.FitHedge(data), observe], verbose=0
    ).history
    (logs, weights), other = seen[0], hedged_model()
    other.set_weights(weights)
    expected = other.evaluate(*data, return_dict=True, verbose=0)
    assert history["val_loss"][0] == pytest.approx(expected["loss"], rel=1e-5)
    mixtures = {task: heads_of(other).branch_weights()[task] for task in TASKS}
    for task, of_task in mixtures.items():
        assert sum(of_task.values()) == pytest.approx(1)
        assert of_task["own"] != 0.5
        assert {b: logs[f"hedge/{task}/{b}"] for b in of_task} == of_task
    assert_same(pk.fit_hedge(other, *data)["click"], mixtures["click"])


def test_the_mixture_is_fitted_in_epochs_without_validation():
    model, data = hedged_model(), rows()
    callback = pk.FitHedge(data, batch_size=16)
    for kwargs in ({}, {"validation_data": data, "validation_freq": 2}):
        model.fit(*rows(seed=1), callbacks=[callback], verbose=0, **kwargs)
        fitted = {task: heads_of(model).branch_weights()[task] for task in TASKS}
        assert_same(pk.fit_hedge(model, *data)["time"], fitted["time"])
    before = model.get_weights()
    model.evaluate(*data, callbacks=[callback], verbose=0)
    np.testing.assert_equal(model.get_weights(), before)


def test_batches_arrays_and_single_tasks_give_the_same_mixture():
    model, (x, y) = hedged_model(), rows()
    expected = pk.fit_hedge(model, x, y)
    batches = [(x[i : i + 16], {t: y[t][i : i + 16] for t in y}) for i in (0, 16, 32)]
    for task, of_task in pk.fit_hedge(model, batches).items():
        assert_same(of_task, expected[task], atol=1e-3)
    alone = hedged_model(pk.TaskHeads([pk.BinaryHead("click", metrics=[])]))
    assert pk.fit_hedge(alone, x, y["click"]) == pk.fit_hedge(alone, x, y)


@every_backend
def test_labels_at_masked_positions_do_not_count():
    heads, x = two_heads(), features(ROWS, 4, 3)
    block = pk.HedgedBlock(heads, keras.layers.Dense(3, "tanh"))
    model = chain(keras.layers.Reshape((4, 3)), keras.layers.Masking(), block, heads, width=12)
    randomize(model)
    y = {"click": (x[..., 0] > 0).astype("float32"), "time": x[..., 1:2] * 2}
    x[::2, 2:] = 0
    mixtures = [pk.fit_hedge(model, x.reshape(ROWS, 12), y)]
    for labels in y.values():
        labels[::2, 2:] = np.nan
    mixtures.append(pk.fit_hedge(model, x.reshape(ROWS, 12), y))
    for task, of_task in mixtures[1].items():
        assert_same(mixtures[0][task], of_task)


@every_backend
def test_tasks_without_labels_have_equal_weights_and_nothing_else_changes():
    heads = pk.TaskHeads([*two_heads().values(), pk.Head("score")])
    model, (x, y) = hedged_model(heads), rows()
    hedged_heads(heads)["score"].mixture.assign([0.3, 0.7])
    hedged_heads(model)["click"].mixture.assign([0.1, 0.9])
    before = model.get_weights()
    mixtures = pk.fit_hedge(model, x, {**y, "click": np.full(ROWS, np.nan)})
    assert mixtures["click"] == {"own": 0.5, "shared": 0.5}
    assert mixtures["score"]["own"] == pytest.approx(0.3)  # a task without a loss
    after = zip(model.weights, model.get_weights(), before)
    changed = [w.name for w, new, old in after if not np.array_equal(new, old)]
    assert changed == ["mixture", "mixture"]


def unhedged():
    heads = two_heads()
    return chain(pk.SharedBottomBlock(heads, [3]), heads)


X, Y = rows()
CLICK = {"click": Y["click"]}
REFUSED = {
    "prior": (lambda: pk.FitHedge((X, Y), prior=-1.0), "prior must .*at least 0"),
    "batch_size": (lambda: pk.FitHedge((X, Y), batch_size=0), "batch_size"),
    "rows": (lambda: pk.FitHedge((X[:3], Y)), "same number of rows"),
    "unhedged": (lambda: pk.fit_hedge(unhedged(), X, Y), "must have a HedgedBlock"),
    "unhedged, callback": (
        lambda: compiled(unhedged()).fit(X, Y, callbacks=[pk.FitHedge((X, Y))], verbose=0),
        "must have a HedgedBlock",
    ),
    "labels": (lambda: pk.fit_hedge(hedged_model(), X, CLICK), r"missing: \['time'\]"),
    "infinite": (
        lambda: pk.fit_hedge(hedged_model(), X, {**Y, "time": np.full_like(Y["time"], np.inf)}),
        r"y\['time'\] must be finite or be missing",
    ),
    "endless": (
        lambda: pk.fit_hedge(hedged_model(), Dataset([(X, Y)], is_endless=True)),
        "x must be finite and iterable more than once",
    ),
}


def test_predictions_that_are_nan_are_refused_and_mixtures_stay():
    x = np.where(np.arange(len(X))[:, None] == 3, np.nan, X)
    message = r"predictions of 'click' must be finite.*Received: predictions=\[\.\.\., nan\]"
    model = hedged_model()
    check_refused(lambda: pk.fit_hedge(model, x, Y), ValueError, message)
    assert {w for of in heads_of(model).branch_weights().values() for w in of.values()} == {0.5}


test_refusals = all_refused(operator.call, REFUSED)


def test_fit_refuses_a_later_callback_that_restores_weights():
    model, hedge = hedged_model(), pk.FitHedge((X, Y))
    stop = keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
    message = r"must come before FitHedge, which.*callbacks=\[FitHedge, EarlyStopping\]"
    check_refused(lambda: model.fit(X, Y, callbacks=[hedge, stop]), ValueError, message)
    model.fit(X, Y, callbacks=[stop, hedge], verbose=0)


@every_backend
def test_single_missing_numbers_and_standardized_labels_are_left_out():
    def fit(standardize, labels, **kwargs):
        head = pk.RegressionHead("a", units=2, standardize=standardize, **kwargs)
        return fit_head(head, labels)

    def fit_head(head, labels):
        model = branched(pk.TaskHeads([head]))
        randomize(model)
        return pk.fit_hedge(model, X, {"a": labels})["a"]

    labels = features(ROWS, 2)
    labels[::2, 0] = np.nan
    unit = {"mean": [5.0, -1.0], "deviation": [100.0, 0.1]}
    in_units = labels * np.float32(unit["deviation"]) + np.float32(unit["mean"])
    expected = fit(False, labels)
    assert expected["own"] != 0.5
    assert_same(fit(True, in_units, **unit), expected, atol=1e-3)
    assert fit(False, np.where(np.isnan(labels).any(1, keepdims=True), np.nan, labels)) != expected
    tags = pk.Head("a", units=2, activation="sigmoid", loss="binary_crossentropy")
    known = np.where(np.isnan(labels), np.nan, labels > 0)  # PyTorch refuses NaN
    assert fit_head(tags, known)["own"] != 0.5

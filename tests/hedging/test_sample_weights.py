"""Sample weights in validation and in `adapt`: a row with weight 2 is two rows."""

import operator

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK, Dataset, assert_same, every_backend, features, once, randomize
from tests.models import branched, compiled, heads_of
from tests.refusals import INF, NAN, all_refused, check_refused

pytestmark = once

ROWS = 60


def four_heads():
    click, cvr = pk.BinaryHead("click"), pk.BinaryHead("cvr", metrics=[])
    time = pk.RegressionHead("time", units=2)
    return pk.TaskHeads([click, cvr, pk.ProductHead("both", of=("click", "cvr")), time])


def rows(count=ROWS, seed=0):
    """Return rows with missing labels, also of single numbers, and weights from 0 to 3 by task."""
    rng, x = np.random.default_rng(seed), features(count, 3, seed=seed)
    y = {"click": (x[:, 0] + rng.normal(size=count) > 0).astype("float32")}
    y |= {"cvr": (rng.random(count) < 0.5).astype("float32")}
    y |= {"both": y["click"] * y["cvr"], "time": x[:, 1:] * 3 + features(count, 2, seed=seed + 9)}
    y["click"][::5], y["time"][::3, 0] = NAN, NAN
    weights = {task: rng.integers(0, 4, count) for task in y}
    return x, y, weights


def repeated(x, y, weights):
    """Return equal rows without weights: the labels of a task are NaN in repetitions beyond."""
    x = np.repeat(x, 3, axis=0)
    y = {task: np.repeat(labels, 3, axis=0).astype("float32") for task, labels in y.items()}
    number = np.tile(np.arange(3), len(x) // 3)
    for task, labels in y.items():
        labels[number >= np.repeat(weights[task], 3)] = NAN
    return x, y


def hedged_model(make=four_heads, rate=0.5):
    model = branched(make(), keras.layers.Dense(3, "tanh"))
    randomize(model)
    return compiled(model, keras.optimizers.SGD(rate), **QUICK)


def test_mixtures_are_those_of_repeated_rows():
    x, y, weights = rows()
    expected = pk.fit_hedge(hedged_model(), *repeated(x, y, weights))
    plain = pk.fit_hedge(hedged_model(), x, y)
    parts = [slice(0, 25), slice(25, None)]
    batches = [keras.tree.map_structure(lambda a, p=p: a[p], (x, y, weights)) for p in parts]
    for found in (
        pk.fit_hedge(hedged_model(), x, y, sample_weight=weights),
        pk.fit_hedge(hedged_model(), Dataset(batches)),
    ):
        for task in expected:
            assert_same(found[task], expected[task], atol=1e-4)
    assert max(abs(plain[task]["own"] - expected[task]["own"]) for task in expected) > 0.01


TRAIN = {"batch_size": 15, "epochs": 5, "shuffle": False, "verbose": 0}


@pytest.fixture(scope="module")
def logs_of_repeated_rows():
    x, y, _ = rows(seed=1)
    return hedged_model(rate=3.0).fit(x, y, validation_data=repeated(*rows()), **TRAIN).history


@pytest.mark.parametrize("form", ["callback", "split"])
def test_best_epochs_and_the_relative_loss_are_those_of_repeated_rows(form, logs_of_repeated_rows):
    valid, (x, y, _) = rows(), rows(seed=1)
    data = {"x": x, "y": y, "callbacks": [pk.FitHedge(Dataset([valid]))]}
    if form == "split":
        whole = keras.tree.map_structure(lambda *a: np.concatenate(a), (x, y), valid[:2])
        weights = {t: np.concatenate([np.ones(ROWS), w]) for t, w in valid[2].items()}
        data = dict(zip("xy", whole)) | {"sample_weight": weights, "validation_split": 0.5}
    logs, expected = hedged_model(rate=3.0).fit(**data, **TRAIN).history, logs_of_repeated_rows
    keys = [key for key in expected if key.startswith("hedge/")]
    assert len({expected[key][-1] for key in keys if key.endswith("_epoch")}) > 1
    for key in keys:
        np.testing.assert_allclose(logs[key], expected[key], atol=2e-4, err_msg=key)


def test_weights_of_1_change_nothing_and_weights_for_all_tasks_are_those_of_each():
    x, y, weights = rows()
    plain = pk.fit_hedge(hedged_model(), x, y)
    assert pk.fit_hedge(hedged_model(), x, y, sample_weight=np.ones((ROWS, 1))) == plain
    common, by_task = weights["click"], dict.fromkeys(y, weights["click"])
    found = [pk.fit_hedge(hedged_model(), x, y, sample_weight=w) for w in (common, by_task)]
    assert found[0] == found[1]


def test_adapt_and_fit_store_weighted_means():
    def heads():
        time = pk.RegressionHead("time", standardize=True)
        return pk.TaskHeads([time, pk.CountHead("visits", standardize=True)])

    rng, weights = np.random.default_rng(0), np.array([0.5, 0.1, 0.2, 3.0, 0.0, 1.0])
    y = {"time": rng.normal(5, 9, 6), "visits": rng.poisson(3.0, 6).astype("float32")}
    y["time"][1] = NAN
    known = ~np.isnan(y["time"])
    mean = np.average(y["time"][known], weights=weights[known])
    deviation = np.average((y["time"][known] - mean) ** 2, weights=weights[known]) ** 0.5
    visits = np.average(y["visits"], weights=weights)
    parts = [slice(0, 2), slice(2, 6)]
    batches = [(None, {t: v[p] for t, v in y.items()}, weights[p]) for p in parts]
    adapted = [heads(), heads(), heads()]
    adapted[0].adapt(y, sample_weight=weights)
    adapted[1].adapt(y, sample_weight=dict.fromkeys(y, weights))
    adapted[2].adapt(batches)
    model = hedged_model(heads)
    model.fit(features(6, 3), y, sample_weight=weights, verbose=0)
    for each in (*adapted, heads_of(model)):
        found = each["time"].mean + each["time"].deviation + each["visits"].mean
        assert found == pytest.approx([mean, deviation, visits], rel=1e-5)
        assert each["time"].label_share in (5 / 6, None)
    assert adapted[0]["visits"]._initial_bias == pytest.approx(np.log(visits))


X, Y, _ = rows()
NEGATIVE = np.where(np.arange(ROWS) == 7, -1.0, 1.0)


def fit_with(weights):
    return pk.fit_hedge(hedged_model(), X, Y, sample_weight=weights)


def adapt_with(weights, y=None):
    return four_heads().adapt(Y if y is None else y, sample_weight=weights)


VALUE = r"sample_weight\['click'\] must be finite and at least 0"
REFUSED = {
    "negative": (lambda: fit_with(NEGATIVE), ValueError, VALUE),
    "infinite": (lambda: fit_with({"click": NEGATIVE * INF}), ValueError, VALUE),
    "nan": (lambda: adapt_with({"click": NEGATIVE * NAN}), ValueError, VALUE),
    "length": (
        lambda: adapt_with(np.ones(3)),
        ValueError,
        r"sample_weight of 'click' must have a shape .*shape=\(3,\)",
    ),
    "rows": (lambda: fit_with(np.ones(3)), ValueError, "same number of rows"),
    "task": (lambda: fit_with({"clck": np.ones(ROWS)}), ValueError, "sample_weight .*'clck'"),
    "text": (lambda: adapt_with(np.full(ROWS, "a")), TypeError, r"weight\['click'\] .*numbers"),
    "batches": (
        lambda: adapt_with(np.ones(ROWS), [(X, Y)]),
        ValueError,
        "sample_weight must be None if y contains batches",
    ),
}
test_refusals = all_refused(operator.call, REFUSED)


def test_weights_of_sequences_have_any_shape_that_the_loss_takes():
    statistics = []
    y = {"a": features(4, 3)}
    for weights in (np.arange(4), np.arange(4)[:, None], np.repeat(np.arange(4)[:, None], 3, 1)):
        heads = pk.TaskHeads([pk.RegressionHead("a", standardize=True)])
        heads(dict.fromkeys("a", features(4, 3, 2)))
        heads.adapt(y, sample_weight={"a": weights})
        statistics.append(heads["a"].mean + heads["a"].deviation)
    assert statistics[0] == statistics[1] == statistics[2]


def test_weights_without_labels_are_not_read():
    weights = np.where(np.isnan(Y["click"]), NAN, 1.0)
    assert fit_with({"click": weights}) == pk.fit_hedge(hedged_model(), X, Y)
    check_refused(lambda: pk.FitHedge((X, Y, np.ones(3))), ValueError, "same number of rows")


@every_backend
def test_large_integer_weights_are_not_read_as_32_bits():
    heads = pk.TaskHeads([pk.RegressionHead("time", standardize=True)])
    weights = np.repeat([2**32 + 1, 2**33 + 2], 5)
    heads.adapt({"time": np.repeat([0.0, 3.0], 5)}, sample_weight=weights)
    assert heads["time"]._scale == {
        "mean": [pytest.approx(2)],
        "deviation": [pytest.approx(2**0.5)],
    }

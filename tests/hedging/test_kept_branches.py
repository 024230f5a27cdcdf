"""The weights that FitHedge keeps of each branch."""

import pickle
import re
import warnings
from operator import itemgetter

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras._keras.batches import Batches
from ple_keras._keras.slices import assign_slices, read_slice
from ple_keras.hedging.branch_weights import find_weights
from ple_keras.hedging.branched_model import BranchedModel
from tests.helpers import QUICK, assert_same, every_backend, features, numpy_of, once, randomize
from tests.models import Subclassed, branched, chain, compiled, heads_of
from tests.refusals import check_refused

pytestmark = once

TASKS = ["click", "time"]
ROWS = 24


def two_heads():
    time = pk.RegressionHead("time", mean=1.0, deviation=2.0, standardize=True)
    return pk.TaskHeads([pk.BinaryHead("click", metrics=[]), time])


def rows(seed=0):
    x = features(ROWS, 3, seed=seed)
    y = {"click": (x[:, 0] > 0).astype("float32"), "time": x[:, 1:2] * 2 + x[:, 2:]}
    y["click"][::5] = np.nan
    return x, y


# Models with branches.


def dense(units=3, **kwargs):
    return keras.layers.Dense(units, "tanh", **kwargs)


def stacked():
    return branched(two_heads(), pk.ExpertBlock([3], normalization="batch"))


def normalized():
    return keras.Sequential([keras.Input((3,)), dense(), keras.layers.BatchNormalization()])


def by_stream(own):
    heads = two_heads()
    streams = pk.StreamFeatures(heads, normalized(), own=own)
    return chain(streams, pk.HedgedBlock(heads, dense()), heads)


def networks():
    """Return a model whose features come from a dict of networks, with a task without branches."""
    heads = pk.TaskHeads([*two_heads().values(), pk.BinaryHead("plain")])
    inputs = keras.Input((3,))
    streams = {stream: dense(name=f"net_{stream}")(inputs) for stream in (*TASKS, "shared")}
    features = pk.HedgedBlock(TASKS, [3])(streams)
    common = keras.layers.Concatenate()([streams["click"], dense(name="net_plain")(inputs)])
    return pk.MultiTaskModel(inputs, heads({**features, "plain": common}))


def with_features(by_stream):
    """Return a model whose block copies networks, with a common layer before it."""
    heads = two_heads()
    networks = {stream: dense() for stream in (*TASKS, "shared")} if by_stream else normalized()
    block = pk.HedgedBlock(heads, dense(), features=networks)
    return chain(*([] if by_stream else [dense(name="common")]), block, heads)


def blocks():
    heads = two_heads()
    branches = {"ple": pk.PLEBlock(1, heads, [3]), "bottom": pk.SharedBottomBlock(heads, dense())}
    return chain(pk.HedgedBlock(heads, branches=branches, features=dense()), heads)


def products():
    """Return a model of a product, whose second factor has no loss, and of another task."""
    click, cvr = pk.BinaryHead("click"), pk.BinaryHead("cvr", loss_weight=0.0)
    both = pk.ProductHead("both", of=("click", "cvr"))
    return branched(pk.TaskHeads([click, cvr, both, pk.RegressionHead("time")]))


def subclassed():
    """Return a model with a layer that all branches read."""
    heads = two_heads()
    model = Subclassed([dense(name="common"), pk.HedgedBlock(heads, [3]), heads])
    model(rows()[0])
    return model


SHARED = ("shared", ("click", "time"))
OWNS = {("own", ("click",)), ("own", ("time",))}
FACTORS = ("both", "click", "cvr")
JOINED = {("shared", (*FACTORS, "time")), ("own", FACTORS), ("own", ("time",))}
# A model, its groups, and parts of the paths of variables that belong to no group.
MODELS = {
    "stacked": (stacked, {SHARED, *OWNS}, []),
    "streams": (lambda: by_stream(None), {SHARED, *OWNS}, []),
    "own": (lambda: by_stream(["click"]), {SHARED, *OWNS}, ["stream-shared"]),
    "features": (lambda: with_features(False), {SHARED, *OWNS}, ["common"]),
    "features_by_stream": (lambda: with_features(True), {SHARED, *OWNS}, []),
    "networks": (networks, {SHARED, *OWNS}, ["net_click", "net_time", "net_shared", "net_plain"]),
    "blocks": (blocks, {("ple", SHARED[1]), ("bottom", SHARED[1])}, []),
    "products": (products, JOINED, []),
    "subclassed": (subclassed, {SHARED, *OWNS}, ["common"]),
}


@every_backend
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("stacked", "subclassed") else pytest.param(name, marks=once)
        for name in MODELS
    ],
)
def test_no_other_branch_reads_the_weights_of_a_group(name):
    make, expected_groups, common = MODELS[name]
    model = make()
    randomize(model)
    model.compile("sgd", **QUICK)
    before = model.get_weights()
    branched, (x, _) = BranchedModel(model), rows()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        weights = find_weights(model)
    texts = [str(w.message) for w in caught if "stay as in the last epoch" in str(w.message)]
    named = re.findall(r"'([^']+)'", texts[0]) if texts else []
    assert all(any(part in path for path in named) for part in common)
    assert all(any(part in path for part in common) for path in named)
    np.testing.assert_equal(model.get_weights(), before)
    assert set(weights) == expected_groups
    expected = branched.observed.run_batch(x)
    for group, parts in weights.items():
        assert parts
        before = [*map(read_slice, parts)]
        assign_slices((part, array + 0.3) for part, array in zip(parts, before))
        actual = branched.observed.run_batch(x)
        for other in weights:
            for task in other.tasks:
                i = branched.branch_names[task].index(other.branch)
                arrays = [each[task][0][i] for each in (actual, expected)]
                assert np.array_equal(*arrays) == (other != group), (group, other, task)
        assign_slices(zip(parts, before))
    assign_slices((part, 7.0) for parts in weights.values() for part in parts)
    of_none = [w for w in model.weights if not (numpy_of(w) == 7).all()]
    assert {w.path for w in of_none if w.trainable and "plain_head" not in w.path} == {*named}
    statistics = {"mixture", "mean", "deviation", "loss_multipliers"}
    assert {w.name for w in of_none if not w.trainable} <= statistics | {
        name for name in ("moving_mean", "moving_variance") if common
    }


def branch_loss(model, data, *branch):
    """Return the loss of a branch, and its relative loss."""
    branched = BranchedModel(model)
    losses, relative, _ = branched.losses(branched.read(Batches(*data)))
    return losses[branch], relative.get(branch)


def fit(model, train, valid, epochs=6, learning_rate=0.5, callbacks=(), **kwargs):
    """Return the logs of training with FitHedge, and the callback."""
    eagerly = keras.backend.backend() != "jax"  # without the time of tracing
    compiled(model, keras.optimizers.SGD(learning_rate), **{**QUICK, "run_eagerly": eagerly})
    hedge = pk.FitHedge(valid, **kwargs)
    options = {"batch_size": 12, "shuffle": False, "epochs": epochs, "verbose": 0}
    return model.fit(*train, callbacks=[hedge, *callbacks], **options).history, hedge


def relative_loss(model, x, y):
    """Return the number that FitHedge logs as `hedge/loss`, which any network has."""
    heads = heads_of(model)
    exact = {t: np.reshape(y[t], (ROWS, -1)).astype("float32") for t in heads.trained_tasks}
    if "kind" in heads:
        exact["kind"] = np.eye(3, dtype="float32")[y["kind"]]
    mean = {t: np.broadcast_to(np.nanmean(v, axis=0), v.shape) for t, v in exact.items()}
    predictions = model.predict(x, verbose=0), exact, mean
    losses, least, constant = (heads.compute_losses(y, p) for p in predictions)
    tasks = [task for task in losses if heads[task].loss_weight]
    ratios = [(losses[t] - least[t]) / (constant[t] - least[t]) for t in tasks]
    return float(np.mean(numpy_of(keras.ops.stack(ratios))))


@every_backend
@pytest.mark.parametrize("make", [stacked, pytest.param(products, marks=once)])
def test_each_branch_ends_with_the_weights_of_its_best_epoch(make):
    model, (x, y) = make(), rows()
    randomize(model)
    noisy = {**y, "time": y["time"] + 3 * features(ROWS, 1, seed=3)}
    if make is products:
        y, noisy = ({**each, "cvr": y["click"], "both": y["click"] == 1} for each in (y, noisy))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "hedge/loss")
        logs, hedge = fit(model, (features(ROWS, 3, seed=1), noisy), (x, y))
    for group, kept in hedge.kept.items():
        losses = [branch_loss(model, (x, y), task, group.branch) for task in group.tasks]
        relative = sum(relative for _, relative in losses if relative is not None)
        assert relative == pytest.approx(kept.loss, rel=1e-6)
        for task, (loss, _) in zip(group.tasks, losses):
            key = f"hedge/{task}/{group.branch}"
            assert logs[f"{key}_epoch"][-1] == kept.epoch
            assert logs[f"{key}_loss"][kept.epoch] == pytest.approx(loss, rel=1e-6)
            assert len(group.tasks) > 1 or kept.epoch == np.argmin(logs[f"{key}_loss"])
    assert len({kept.epoch for kept in hedge.kept.values()}) > 1
    assert logs["hedge/loss"][-1] == pytest.approx(relative_loss(model, x, y), rel=1e-5)
    mixtures = heads_of(model).branch_weights()
    for task, of_task in pk.fit_hedge(model, x, y).items():
        assert_same(mixtures[task], of_task)


@keras.saving.register_keras_serializable(package="tests")
def distance(y_true, y_pred, unit=1.0):
    return keras.ops.abs(y_true - y_pred)[..., 0] * unit


@keras.saving.register_keras_serializable(package="tests")
def large_distance(y_true, y_pred):
    return distance(y_true, y_pred, 1000.0)


def test_relative_losses_do_not_depend_on_units():
    def relative(scale, loss):
        time = pk.RegressionHead("time", standardize=True, mean=scale, deviation=scale)
        own = pk.Head("own", activation="softplus", loss=loss)
        heads = pk.TaskHeads([time, pk.MulticlassHead("kind", num_classes=3), own])
        model = branched(heads)
        randomize(model)
        x, y = rows()
        kind = np.arange(ROWS) % 3
        data = x, {"time": y["time"] * scale, "kind": kind, "own": y["time"]}
        return [branch_loss(model, data, task, "own")[1] for task in heads]

    expected = relative(1.0, distance)
    assert relative(1000.0, large_distance) == pytest.approx(expected, rel=1e-4)


def test_training_ends_after_epochs_in_which_no_branch_improves():
    model, data = branched(two_heads()), rows()
    logs, _ = fit(model, data, data, epochs=9, learning_rate=0.0, patience=2)
    assert len(logs["loss"]) == 2  # the start is the best
    logs, _ = fit(model, data, data, epochs=4, learning_rate=0.0)
    assert len(logs["loss"]) == 4


def test_a_fit_that_continues_keeps_the_branches_of_earlier_epochs():
    model, data = branched(two_heads()), rows()
    logs, hedge = fit(model, data, data, epochs=2, learning_rate=0.01)
    kept, best = dict(hedge.kept), model.get_weights()
    state = pickle.loads(pickle.dumps(hedge.kept))
    options = {"epochs": 4, "verbose": 0}
    model.optimizer.learning_rate = 100.0  # only worse epochs
    for callback in (hedge, pk.FitHedge(data)):
        callback.kept = state
        later = model.fit(*data, initial_epoch=2, callbacks=[callback], **options).history
        assert later["hedge/loss"] == pytest.approx(2 * [logs["hedge/loss"][-1]], rel=1e-5)
        for w, value in zip(model.weights, best):
            if w.trainable:
                np.testing.assert_array_equal(numpy_of(w), value)
    logs = model.fit(*data, callbacks=[hedge], **options).history  # which begins anew
    assert logs["hedge/time/own_epoch"] == 4 * [-1]
    assert all(hedge.kept[group].loss == pytest.approx(kept[group].loss) for group in kept)
    assert pk.task_report(model, *data).branches["time"]["own"].epoch == 0


def test_nan_is_never_the_best_and_a_task_without_labels_keeps_the_last_epoch():
    heads = pk.TaskHeads([pk.RegressionHead("a"), pk.RegressionHead("b")])
    model, (x, _) = branched(heads), rows()
    train = x, {"a": x[:, 0], "b": x[:, 1]}
    valid = x, {"a": x[:, 0], "b": np.full(ROWS, np.nan)}

    def spoil(epoch, logs):
        last.append(model.get_weights())
        if epoch == 1:
            for w in model.trainable_weights:
                if "expert-a" in w.path or "a_head" in w.path:
                    w.assign(w * np.nan)

    last = []
    after = keras.callbacks.LambdaCallback(on_epoch_end=spoil)
    logs, hedge = fit(model, train, valid, epochs=3, learning_rate=0.01, callbacks=[after])
    assert np.isnan(logs["hedge/a/own_loss"]).tolist() == [False, False, True]
    assert np.isnan(logs["hedge/b/own_loss"]).all()
    assert logs["hedge/b/own_epoch"] == [0, 1, 2]
    assert max(kept.epoch for kept in hedge.kept.values()) <= 1
    for w, value in zip(model.weights, last[-1], strict=True):
        assert np.isfinite(numpy_of(w)).all()
        if "b_head-own" in w.path:
            np.testing.assert_array_equal(numpy_of(w), value)


def test_refusals():
    data = rows()
    check_refused(
        *(lambda: pk.FitHedge(data, restore_best_weights=False, patience=2), ValueError),
        "patience must be None",
    )
    check_refused(lambda: pk.FitHedge(data, patience=0), ValueError, "patience must be at least 1")
    check_refused(lambda: pk.FitHedge(iter([data])), ValueError, "data must be finite and iter")
    model = compiled(stacked(), keras.optimizers.Adam(use_ema=True))
    for optimizer in (model.optimizer, pk.table_optimizer(model.optimizer)):
        compiled(model, optimizer)
        with pytest.raises(ValueError, match=r"must be False if .* use_ema.*Received"):
            model.fit(*data, callbacks=[pk.FitHedge(data)], verbose=0)


# Keras can't average weights on JAX.
def test_the_mixture_is_fitted_to_averaged_weights():
    model, data = stacked(), rows()
    compiled(model, keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5), **QUICK)
    model.fit(*data, epochs=2, callbacks=[pk.FitHedge(data, restore_best_weights=False)], verbose=0)
    mixture = heads_of(model).branch_weights()["time"]
    assert_same(pk.fit_hedge(model, *data)["time"], mixture)


class Shuffled:
    """Batches whose rows have a new order in each pass."""

    def __init__(self, x, y):
        self.data, self.rng = (x, y), np.random.default_rng(0)

    def __iter__(self):
        for part in np.split(self.rng.permutation(ROWS), 2):
            yield keras.tree.map_structure(itemgetter(part), self.data)


def test_the_logged_loss_is_that_of_the_restored_model_in_any_order_of_rows():
    heads = pk.TaskHeads([*two_heads().values(), pk.MulticlassHead("kind", num_classes=3)])
    model, (x, y) = branched(heads), rows()
    data, losses = (x, {**y, "kind": np.arange(ROWS) ** 2 % 3}), []
    randomize(model)
    start = model.get_weights()
    for valid in (data, Shuffled(*data)):
        model.set_weights(start)
        losses.append(fit(model, data, valid, epochs=4)[0]["hedge/loss"])
        assert losses[-1][-1] == pytest.approx(relative_loss(model, *data), rel=1e-5)
    assert len(set(losses[0])) > 2
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)

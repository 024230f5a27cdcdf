"""What `fit` does for branches without a FitHedge: mixtures, best epochs, warnings."""

import importlib
import itertools
import warnings

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras._keras.batches import Batches
from ple_keras.hedging.branched_model import BranchedModel
from tests.helpers import QUICK, Dataset, features, once, randomize
from tests.models import Subclassed, chain, compiled, heads_of
from tests.refusals import check_refused

pytestmark = once

ROWS = 24


def rows(seed=0):
    """Return rows of two tasks, their product and a time, with missing labels."""
    x = features(ROWS, 3, seed=seed)
    click = (x[..., 0] > 0).astype("float32")
    click[::5] = np.nan
    y = {"click": click, "buy": np.where(x[..., 1] > 0, click, 0)}
    return x, y | {"both": y["click"] * y["buy"], "time": x[..., 2] * 9}


def heads():
    binary = [pk.BinaryHead("click"), pk.BinaryHead("buy")]
    product = pk.ProductHead("both", of=("click", "buy"))
    return pk.TaskHeads([*binary, product, pk.RegressionHead("time", standardize=True)])


def network():
    return keras.Sequential([keras.layers.Dense(3), keras.layers.BatchNormalization()])


def make(by_hand=False, rate=0.3):
    """Return a model, whose weights are the same with a StreamFeatures by hand."""
    keras.utils.set_random_seed(0)
    task_heads, networks = heads(), network()
    layers = [pk.HedgedBlock(task_heads, [4], features=None if by_hand else networks), task_heads]
    if by_hand:
        layers.insert(0, pk.StreamFeatures(task_heads, networks))
    model = chain(*layers)
    randomize(model)
    return compiled(model, keras.optimizers.SGD(rate), **QUICK)


def batches(x, y, size=8):
    return [
        keras.tree.map_structure(lambda a, start=start: a[start : start + size], (x, y))
        for start in range(0, ROWS, size)
    ]


def endless_batches(x, y):
    yield from itertools.cycle(batches(x, y))


OPTIONS = {"shuffle": False, "batch_size": 8, "verbose": 0}


def test_fit_is_equal_to_stream_features_and_a_callback_by_hand():
    train, valid = rows(1), rows()
    models, batches_of_valid = [make(by_hand=True), make()], Dataset(batches(*valid))
    hedge = pk.FitHedge(batches_of_valid)
    heads_of(models[0]).adapt(train[1])
    options = {**OPTIONS, "epochs": 4, "validation_data": batches_of_valid}
    expected = models[0].fit(*train, callbacks=[hedge], **options).history
    logs = models[1].fit(*train, **options).history
    assert logs == expected
    epochs = {logs[key][-1] for key in logs if key.endswith("_epoch")}
    assert len(epochs) > 1
    np.testing.assert_equal(models[1].get_weights(), models[0].get_weights())
    predictions = [model.predict(valid[0], verbose=0) for model in models]
    np.testing.assert_equal(*predictions)


def test_the_rows_of_a_split_and_of_steps():
    (x, y), start = rows(), make().get_weights()
    split, first = make(), make()
    logs = split.fit(x, y, validation_split=0.3, epochs=2, **OPTIONS).history
    end = int(ROWS * 0.7)
    parts = [
        keras.tree.map_structure(lambda a, p=p: a[p], (x, y)) for p in np.split(range(ROWS), [end])
    ]
    expected = first.fit(*parts[0], validation_data=parts[1], epochs=2, **OPTIONS).history
    assert logs == expected
    np.testing.assert_equal(split.get_weights(), first.get_weights())
    # Two batches of an endless dataset, and of arrays.
    endless = Dataset(batches(x, y), is_endless=True)
    mixtures = []
    for valid in ((x, y), endless, keras.tree.map_structure(lambda a: a[:16], (x, y))):
        first.set_weights(start)
        steps = {} if isinstance(valid, tuple) and len(valid[0]) == 16 else {"validation_steps": 2}
        heads_of(first).adapt(y)
        first.fit(x, y, validation_data=valid, epochs=0, **steps, **OPTIONS)
        mixtures.append([heads_of(first).branch_weights()[t]["own"] for t in ("click", "time")])
    np.testing.assert_allclose(mixtures[1], mixtures[0], atol=1e-6)
    np.testing.assert_allclose(mixtures[2], mixtures[0], atol=1e-3)


def test_repeated_fits_go_on_from_what_was_kept():
    model, data = make(rate=0.05), rows()
    options = {"validation_data": data, **OPTIONS}
    first = model.fit(*rows(1), epochs=3, **options).history
    kept = model.get_weights()
    model.optimizer.learning_rate = 3.0  # only worse epochs
    later = model.fit(*rows(1), epochs=1, **options).history
    assert later["hedge/loss"][-1] == pytest.approx(first["hedge/loss"][-1], rel=1e-5)
    assert {later[key][-1] for key in later if key.endswith("_epoch")} == {-1}
    for w, value in zip(model.weights, kept):
        if w.trainable:
            np.testing.assert_allclose(w.numpy(), value, rtol=1e-6)
    assert not model._fit_hedge.kept


def test_a_callback_can_fit_its_model():
    """Each `fit` has rows and best epochs of its own."""
    model, data, inner = make(), rows(), []

    def fit(epoch, logs):
        if epoch == 0:
            model.stop_training = False
            more = {"validation_data": rows(2), "epochs": 1, **OPTIONS}
            inner.append(model.fit(*rows(3), **more).history)

    begin = keras.callbacks.LambdaCallback(on_epoch_begin=fit)
    options = {"validation_data": data, "epochs": 2, "callbacks": [begin], **OPTIONS}
    logs = model.fit(*rows(1), **options).history
    assert np.isfinite(logs["hedge/loss"] + inner[0]["hedge/loss"]).all()
    assert {len(logs["hedge/loss"]), len(inner[0]["hedge/loss"])} == {1, 2}
    branched = BranchedModel(model)
    loss = branched.relative_loss(branched.read(Batches(*data)))
    assert logs["hedge/loss"][-1] == pytest.approx(loss, rel=1e-4)


def test_the_validation_of_branches_is_traced_once(monkeypatch):
    traced_step = importlib.import_module("ple_keras.steps.traced_step")  # it imports PyTorch
    model, found = make(), []
    model.run_eagerly = False
    created = traced_step.Graphs.__init__
    monkeypatch.setattr(
        traced_step.Graphs,
        "__init__",
        lambda graphs, constants: found.append(constants._traced) or created(graphs, constants),
    )
    model.fit(*rows(1), validation_data=rows(), epochs=5, **OPTIONS)
    observed = model._fit_hedge._branched.observed
    assert [*map(type, found)].count(type(observed)) <= 2  # before and in the first epoch
    assert len(observed.predict_function._graphs.replays) == 1


def caught(function):
    """Return the warnings of this package, before the first step and later."""
    found = []
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        begin = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs=None: (
                found.append(len(raised)) if not found else None
            )
        )
        function(begin)
    texts = [(i, str(w.message)) for i, w in enumerate(raised) if w.category is UserWarning]
    early = [text for i, text in texts if i < found[0]]
    return early, [text for i, text in texts if i >= found[0]]


WARNED = {
    "none": (lambda x, y: {}, "validation_data must be given to fit"),
    "iterator": (
        lambda x, y: {"validation_data": endless_batches(x, y), "validation_steps": 3},
        "must be finite and iterable more than once",
    ),
}


@pytest.mark.parametrize("name", WARNED)
def test_a_fit_that_cannot_fit_the_mixtures_warns_once_before_the_first_step(name):
    data, (options_of, message) = rows(), WARNED[name]
    model = make()

    def fit(begin):
        model.fit(*data, callbacks=[begin], **options_of(*data), **OPTIONS)

    (text,), later = caught(fit)
    assert message in text
    assert "compile(hedge=False)" in text
    assert not later
    assert caught(fit) == ([], [])
    assert {w for of in heads_of(model).branch_weights().values() for w in of.values()} == {0.5}
    model.compile("sgd", hedge=False, **QUICK)
    assert caught(fit) == ([], [])


def test_weights_in_front_of_the_block_have_a_warning_before_the_first_step():
    task_heads, data = heads(), rows()
    task_heads.adapt(data[1])
    model = chain(keras.layers.Dense(3, name="common"), pk.HedgedBlock(task_heads, [3]), task_heads)
    compiled(model, **QUICK)
    fit = {"validation_data": data, **OPTIONS}
    (text,), later = caught(lambda begin: model.fit(*data, callbacks=[begin], **fit))
    assert "['common/kernel', 'common/bias']" in text
    assert "HedgedBlock as its features" in text
    assert not later


# Keras can't average weights on JAX.
def test_with_averaged_weights_fit_warns_and_fits_no_mixtures():
    model, data = make(), rows()
    compiled(model, keras.optimizers.Adam(0.1, use_ema=True), **QUICK)
    fit = {"validation_data": data, "epochs": 2, **OPTIONS}
    (text,), later = caught(lambda begin: model.fit(*data, callbacks=[begin], **fit))
    assert "restore_best_weights must be False if the optimizer has use_ema=True" in text
    assert not later
    assert heads_of(model).branch_weights()["click"]["own"] == 0.5


def test_files_and_clones_keep_the_switch(tmp_path):
    model = make()
    model.compile("sgd", hedge=False)
    model.save(tmp_path / "model.keras")
    for each in (keras.models.load_model(tmp_path / "model.keras"), model):
        assert each.get_compile_config()["hedge"] is False
        assert each._hedges is False
    check_refused(lambda: model.compile("sgd", hedge="no"), TypeError, "hedge must be True or")


def test_a_subclassed_model_is_built_and_fitted():
    task_heads, (x, y) = heads(), rows()
    block = pk.HedgedBlock(task_heads, [3], features=network())
    model = compiled(Subclassed([block, task_heads]), **QUICK)
    model.fit(x, y, validation_data=(x, y), epochs=2, **OPTIONS)
    assert heads_of(model).branch_weights()["time"]["own"] != 0.5


# Standardized heads.


def fitted_heads(adapt=None, **kwargs):
    """Return the mean and deviation of "time" after `fit`."""
    model, (x, y) = make(), rows()
    if adapt:
        heads_of(model).adapt(adapt)
    model.fit(x, y, epochs=1, validation_data=(x, y), **{**OPTIONS, **kwargs})
    return heads_of(model)["time"].mean + heads_of(model)["time"].deviation


def test_fit_adapts_heads_that_nobody_has_adapted():
    y = rows()[1]
    other = {task: np.where(labels == labels[3], labels, labels * 2) for task, labels in y.items()}
    expected = [y["time"].mean(), y["time"].std()]
    assert fitted_heads() == pytest.approx(expected, rel=1e-5)
    assert fitted_heads(other) == pytest.approx([other["time"].mean(), other["time"].std()], 1e-5)
    x = rows()[0]
    alone = pk.TaskHeads([pk.RegressionHead("time", standardize=True)])
    model = compiled(chain(pk.PLEBlock(1, alone, [3]), alone), **QUICK)
    model.fit(x, y["time"], verbose=0)
    assert alone["time"].mean == pytest.approx(expected[:1], rel=1e-5)


def test_a_callback_without_rows_needs_validation_data():
    model, (x, y) = make(), rows()
    heads_of(model).adapt(y)
    hedge = pk.FitHedge(patience=1)
    check_refused(
        lambda: model.fit(x, y, callbacks=[hedge], verbose=0),
        *(ValueError, "validation_data must be given to fit"),
    )
    model.fit(x, y, validation_data=(x, y), callbacks=[hedge], verbose=0)
    assert hedge.kept
    later = itertools.repeat((x, y))
    check_refused(
        lambda: model.fit(x, y, validation_data=later, callbacks=[hedge], verbose=0),
        *(ValueError, "validation_data must be finite and iterable"),
    )

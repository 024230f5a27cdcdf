"""Calls of a TabularModel that fail change nothing, seeds repeat it, and threads wait for it."""

import copy
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import keras
import numpy as np
import pandas as pd
import pytest

import ple_keras as pk
from ple_keras.heads.task_heads import hedged_heads
from tests.helpers import once
from tests.tabular.test_tabular_model import FRAME, LABELS, QUICK, new_model, without

ROWS = without(FRAME, *LABELS).assign(w=1.0)
DAY = pd.concat([ROWS.assign(**{"user id": ROWS["user id"] + 5})] * 2)  # with new users
OPTIONS = {"sample_weight": "w", **QUICK}


@pytest.fixture
def model():
    return new_model().fit(ROWS, validation=ROWS, **OPTIONS)


def state(model):
    """Return all numbers of a model and its optimizer, and what its columns know."""
    variables = [*model.keras_model.variables, *model.keras_model.optimizer.variables]
    columns = model.columns
    return [keras.ops.convert_to_numpy(x) for x in variables], (columns.known, columns.rare)


def assert_equal(state, other):
    for one, of_other in zip(state[0], other[0], strict=True):
        np.testing.assert_array_equal(one, of_other)
    assert state[1] == other[1]


class Interrupt(keras.callbacks.Callback):
    """Callback that interrupts the training after its third step."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            raise KeyboardInterrupt


def test_an_interrupted_call_changes_nothing_and_a_loaded_model_continues_alike(tmp_path):
    model = new_model(["stars"]).fit(ROWS, validation=ROWS, **OPTIONS)
    before = copy.deepcopy(state(model))
    model.save(tmp_path / "model")
    with pytest.raises(KeyboardInterrupt):
        model.continue_fit(DAY, validation=DAY, callbacks=[Interrupt()], **OPTIONS)
    assert_equal(state(model), before)
    loaded = pk.TabularModel.load(tmp_path / "model")
    found = [x.continue_fit(DAY, validation=DAY, **OPTIONS).predict(ROWS) for x in (loaded, model)]
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)


@once
def test_a_call_that_fails_changes_nothing(model):
    """Columns count the rows of a day, and new users get rows of tables, only if it succeeds."""
    before = copy.deepcopy(state(model))
    predictions = model.predict(ROWS)
    no_label, unknown = DAY.drop(columns="stars"), DAY.assign(city=7)
    wrong = DAY.assign(w=np.where(np.arange(len(DAY)) == 9, -1, 1))
    infinite = DAY.assign(age=np.where(np.arange(len(DAY)) == 9, 1e300, DAY["age"]))
    weight = r"sample_weight\['.*'\] must be finite and at least 0. Received: weight=-1.0"
    failing = [
        ({"frame": no_label}, ValueError, "the column 'stars' once"),
        ({"validation": no_label}, ValueError, "the column 'stars' once"),
        ({"validation": unknown}, TypeError, "city must contain only strings"),
        ({"frame": wrong}, ValueError, weight),
        ({"frame": infinite}, ValueError, "age must contain finite"),
        ({"callbacks": [Interrupt()]}, KeyboardInterrupt, None),
        ({"callbacks": [keras.callbacks.LambdaCallback(on_epoch_begin=1)]}, TypeError, "callable"),
    ]
    for arguments, error, reason in failing:
        arguments = {"frame": DAY, "validation": DAY, **OPTIONS, **arguments}
        for fit in (model.continue_fit, model.fit)[: 1 + (error is KeyboardInterrupt)]:
            with pytest.raises(error, match=reason):
                fit(**arguments)
            assert_equal(state(model), before)
    np.testing.assert_array_equal(model.predict(ROWS), predictions)
    model.continue_fit(DAY, validation=DAY, **OPTIONS)
    assert max(model.columns.known["user id"]) == 24
    assert np.abs(model.predict(ROWS) - predictions).max(axis=None) > 0


@once
def test_a_seed_repeats_a_training_and_leaves_the_generators_of_the_caller_alone():
    found = []
    for _ in range(2):
        random.seed(1)
        np.random.seed(1)
        model = new_model().fit(ROWS, validation=ROWS, **OPTIONS)
        model.continue_fit(DAY, validation=DAY, **OPTIONS)
        found.append((state(model), random.random(), np.random.random()))
    random.seed(1)
    np.random.seed(1)
    assert found[0][1:] == found[1][1:] == (random.random(), np.random.random())
    assert_equal(found[0][0], found[1][0])


@once
def test_a_day_with_equal_labels_warns(model):
    with pytest.warns(UserWarning, match=r"equal labels of \['liked it'\], which"):
        model.continue_fit(DAY.assign(**{"liked it": "yes"}), **QUICK)


@once
def test_few_rows_hardly_move_a_mixture_and_none_keep_it(model):
    heads = hedged_heads(model.heads)
    for mixture in (heads["stars"].mixture, heads["liked_it"].mixture):
        mixture.assign([0.988, 0.012])
    for optimizer in model.keras_model.optimizer.optimizers:
        optimizer.learning_rate = 0.0
    day = DAY.assign(stars=np.nan)
    model.continue_fit(day, validation=day[:10], **QUICK)
    np.testing.assert_array_equal(heads["stars"].mixture, np.float32([0.988, 0.012]))
    assert 0.9 < heads["liked_it"].mixture[0] != np.float32(0.988)
    with pytest.warns(UserWarning, match=r"labels that differ .* do not count: \['stars'\]"):
        score = model.score(day)
    with pytest.warns(UserWarning, match=r"do not count: \['stars'\]"):
        assert model.score(day.assign(stars=1.0)) == score
    with pytest.raises(ValueError, match="rows must have labels of a task"):
        model.score(day.assign(**{"liked it": None}))


@once
def test_predictions_wait_for_a_training_in_another_thread(model):
    started = Event()

    def train():
        def wait(*_, **__):
            started.set()
            Event().wait(0.3)

        callback = keras.callbacks.LambdaCallback(on_train_batch_begin=wait)
        model.continue_fit(DAY, **{**OPTIONS, "epochs": 1, "callbacks": [callback]})

    with ThreadPoolExecutor(5) as pool:
        training = pool.submit(train)
        assert started.wait(15) or training.result()
        found = [*pool.map(model.predict, [ROWS] * 4)]
        training.result()
    expected = model.predict(ROWS)
    for each in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        found.append(each.predict(ROWS))
    for each in found:
        np.testing.assert_allclose(each, expected, rtol=1e-6)

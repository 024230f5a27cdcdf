"""A model of a frame: labels, splits, branches of other models, files, and errors."""

import contextlib
import itertools
import json
import os
import pickle
import re
import signal
import sys
import warnings

import keras
import numpy as np
import pandas as pd
import pytest

import ple_keras as pk
from ple_keras._keras.layers import find_layers
from ple_keras.tabular.row_split import split_rows
from ple_keras.tabular.task_columns import join_columns
from tests.helpers import once

ROWS = 120
RNG = np.random.default_rng(0)
USER, DAY = np.repeat(np.arange(20), 6), np.tile(np.arange(6), 20)
SCORE = RNG.normal(size=20)[USER] + 0.3 * RNG.normal(size=ROWS)
FRAME = pd.DataFrame(
    {
        "user id": USER,
        "city": np.array(["Rome", "Oslo"])[USER % 2],
        "age": 20.0 + USER,
        "empty": pd.Series([None] * ROWS, dtype="object"),
        "liked it": pd.Series(np.where(SCORE > 0, "yes", "no")).where(np.arange(ROWS) % 7 > 0),
        "stars": np.where(np.arange(ROWS) % 5, SCORE, np.nan),
        "visits": pd.array(np.maximum(0, SCORE * 3).astype(int), "Int64"),
        "spent": np.maximum(0, SCORE),
        "kind": USER % 3 + 5,
        "day": DAY,
    }
).set_axis(np.arange(ROWS) + 1000)
TASKS = {"liked it": "binary", "stars": "regression", "visits": "count", "spent": "amount"}
TASKS |= {"kind": "multiclass"}
QUICK = {"epochs": 1, "verbose": 0, "batch_size": 40}
NAMES = ["liked it", "stars", "visits", "spent", "kind: 5", "kind: 6", "kind: 7"]


def new_model(tasks=("liked it", "stars"), **arguments):
    tasks = tasks if isinstance(tasks, dict) else {task: TASKS[task] for task in tasks}
    options = {"units": (4,), "tower": None, "embedding_dim": 2, "seed": 0, "ids": ["user id"]}
    return pk.TabularModel(tasks, **{**options, **arguments})


def without(frame, *names):
    return frame.drop(columns=["empty", *names])


LABELS = [name for name in TASKS if name not in ("liked it", "stars")]


@pytest.fixture(scope="module")
def fitted():
    """Return a model of all kinds of tasks, and its predictions."""
    model, copy = new_model(TASKS), FRAME.copy()
    with pytest.warns(UserWarning, match=r"without a value are left out: \['empty'\]"):
        assert model.fit(FRAME, time="day", **QUICK) is model
    pd.testing.assert_frame_equal(FRAME, copy)
    return model, model.predict(FRAME)


@once
def test_columns_and_heads_are_those_of_the_frame(fitted):
    model, _ = fitted
    assert (model.columns.ids, model.columns.numbers) == (["user id", "city"], ["age"])
    assert [*model.heads] == ["liked_it", "stars", "visits", "spent", "kind"]
    assert model.feature_names_in_.tolist() == ["user id", "city", "age"]
    assert model.n_features_in_ == 3


@once
def test_predictions_are_a_frame_of_probabilities_and_positive_means(fitted):
    _, found = fitted
    assert list(found) == NAMES
    assert (found.index == FRAME.index).all()
    np.testing.assert_allclose(found[NAMES[4:]].sum(axis=1), 1, rtol=1e-5)
    assert found["liked it"].between(0, 1).all()
    assert (found[["visits", "spent"]] > 0).all(axis=None)


@once
def test_dicts_have_the_predictions_of_a_frame_and_a_score(fitted):
    model, found = fitted
    rows = FRAME[["user id", "city", "age"]].to_dict("records")
    of_rows = model.predict(rows[:3])
    np.testing.assert_allclose(pd.DataFrame(of_rows), found[:3], rtol=1e-5, atol=1e-6)
    assert model.predict([]) == []
    assert -2 < model.score(FRAME) < 0


@once
def test_a_saved_model_predicts_the_same_in_batches_of_any_size(fitted, tmp_path, monkeypatch):
    model, found = fitted
    for _ in range(2):  # replaces the first
        model.save(tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
    same = pk.TabularModel.load(tmp_path / "model")
    for size in (1024, 50):
        monkeypatch.setattr("ple_keras.tabular.tabular_model.BATCH_SIZE", size)
        np.testing.assert_allclose(same.predict(FRAME), found, rtol=1e-5, atol=1e-6)
    assert same.columns.digest == model.columns.digest
    assert same.feature_names_in_.tolist() == model.feature_names_in_.tolist()
    assert same.keras_model.optimizer.iterations > 0


@once
def test_a_binary_task_predicts_the_second_class():
    frame = without(FRAME).assign(old=FRAME["age"] > 25, cold=(FRAME["age"] > 25).astype(float))
    model = new_model({"liked it": "binary", "old": "binary", "cold": "binary"}, learning_rate=0.01)
    model.fit(frame, epochs=5, verbose=0)
    found = model.predict(frame)
    for task, one in {"liked it": "yes", "old": True, "cold": 1}.items():
        is_one = frame[task] == one
        assert found[task][is_one].mean() > found[task][~is_one].mean()
    assert model.heads["old"].units == 1
    with pytest.warns(UserWarning, match=r"liked it has labels that are not among .*{'maybe'}"):
        model.report(frame.assign(**{"liked it": "maybe"}))


@once
def test_weights_of_rows_are_those_of_their_columns(monkeypatch):
    calls = []
    monkeypatch.setattr(pk.MultiTaskModel, "fit", lambda *_, **options: calls.append(options))
    frame = without(FRAME, *LABELS).assign(w=np.arange(ROWS) / 10)
    frame = frame.assign(v=1)
    for weights in ("w", {"stars": "w"}, None):
        left = frame if weights else frame.drop(columns="w")
        model = new_model().fit(left, sample_weight=weights, validation=left[:20])
        assert "w" not in model.columns.names
    whole, of_stars, none = (options["sample_weight"] for options in calls)
    np.testing.assert_array_equal(whole["liked_it"], frame["w"])
    np.testing.assert_array_equal(of_stars["stars"], frame["w"])
    assert (of_stars["liked_it"] == 1).all()
    assert none is None


def parts(frame, share=0.25, time=None, group=None, seed=0):
    """Return the training rows and the validation rows of a frame."""
    train, valid = split_rows(frame, share, time, group, seed)
    assert sorted([*train, *valid]) == [*range(ROWS)]
    return frame.iloc[train], frame.iloc[valid]


@once
def test_rows_are_split_at_random_or_into_earlier_and_later_ones():
    _, valid = parts(FRAME)
    assert (len(valid), {*valid["day"]}) == (30, {*range(6)})
    train, valid = parts(FRAME, time="day")
    assert ({*train["day"]}, {*valid["day"]}) == ({*range(4)}, {4, 5})  # ties together


@once
def test_a_group_is_on_one_side_and_large_groups_are_drawn_at_random():
    train, valid = parts(FRAME, group="user id")
    assert len(valid) == 30
    assert not {*train["user id"]} & {*valid["user id"]}
    large = FRAME.assign(user=np.maximum(np.arange(1, ROWS + 1) - ROWS // 2, 0))  # half are of 0
    valid = [parts(large, group="user", seed=seed)[1]["user"] for seed in range(9)]
    assert sum(0 in {*users} for users in valid) < 6  # at random, and not by size


@once
def test_the_last_groups_validate_unless_one_has_too_many_rows():
    frame = FRAME.assign(day=FRAME["day"] + FRAME["user id"])
    assert {*parts(frame, time="day", group="user id")[1]["user id"]} == {*range(15, 20)}
    large = FRAME.assign(large=np.minimum(DAY * 20 + USER, 80))  # a third of the rows
    last = [80 in {*parts(large, 0.1, group="large", seed=s)[1]["large"]} for s in range(20)]
    assert sum(last) < 10
    most = FRAME.assign(user=np.maximum(np.arange(ROWS) - 100, 0))  # 101 rows are of one user
    for time in (None, "day"):
        assert 0 not in {*parts(most, 0.1, time, "user")[1]["user"]}


@once
def test_columns_that_split_nothing_are_refused():
    for names in ({"group": "constant"}, {"time": "constant"}):
        with pytest.raises(ValueError, match=r"different values of {'.*': 'constant'}"):
            parts(FRAME.assign(constant=1), **names)
    with pytest.raises(ValueError, match=r"day must have a value in each row.*: 1 missing values"):
        parts(FRAME.assign(day=[np.nan, *DAY[1:]]), time="day")


DATES = pd.date_range("2026-02-25", periods=6)
TIMES = {
    "ISO dates": DATES.strftime("%Y-%m-%d"),
    "ISO times": [*DATES[:3].strftime("%Y%m%d"), *DATES[3:].strftime("%Y-%m-%d %H:%M")],
    "pandas": pd.array(DATES.strftime("%Y-%m-%d"), "string"),
    "dates": [*DATES.date],
    "times": DATES,
    "ordered categories": pd.Categorical([*"dbcaxf"], [*"dbcaxf"], ordered=True),
    "day and month": ("2026-3-5", ValueError, r"ISO dates such as .*: day with .*'2026-3-5'"),
    "months": ("March", ValueError, r"day must have .*: numbers, .*'March'"),
    "categories": (pd.Categorical(["May", "June"] * 3), ValueError, "ordered categories"),
    "mixed": (["a", 1] * 3, ValueError, "'a'"),
    "mixed dates": ([1, DATES[0]] * 3, ValueError, "^day must have values of one kind that can"),
    "lists": ([[1]] * 6, ValueError, "^day must have values of one kind that can "),
}  # fmt: skip


@once
@pytest.mark.parametrize("name", TIMES)
def test_times_have_their_own_order_or_are_refused(name):
    values, *refused = TIMES[name] if isinstance(TIMES[name], tuple) else (TIMES[name],)
    frame = pd.DataFrame({"day": values}, range(6))
    if refused:
        error, reason = refused
        with pytest.raises(error, match=reason):
            split_rows(frame, 0.3, "day", None, 0)
        return
    assert split_rows(frame, 0.3, "day", None, 0)[1].tolist() == [4, 5]


CLICK = {"liked it": "binary"}
ARGUMENTS = {
    "no dict": ({"tasks": ["a"]}, TypeError, "tasks must be a dict with the kind"),
    "kind": ({"tasks": {"a": "class"}}, ValueError, r"tasks\['a'\] must be one of \['binary'"),
    "numbers": ({"tasks": {0: "binary"}}, TypeError, r"whose name is a string. Received: .*{0: "),
    "both": ({"columns": pk.Columns(["city"])}, ValueError, "ids must be empty if columns are"),
    "text": ({"ids": "city"}, TypeError, "ids must be a list of names"),
    "read once": ({"ids": iter(["city"])}, TypeError, "ids must be a list of names"),
}
SMALL = without(FRAME, "kind", "visits", "spent", "stars")


def liked(values):
    """Return the frame with other labels, as an argument."""
    return {"frame": SMALL.assign(**{"liked it": values})}


UNLABELED = {"frame": SMALL.drop(columns="liked it")}
CLASSES = r"liked it must have 2 classes. Received: \['a'"
OF_ONE_TYPE = "as classes, of one type. Received: "
NUMBERS = {"tasks": {"x": "regression"}, "frame": SMALL.assign(x=1e300)}
TWICE = {
    "tasks": {"k": "multiclass", "k: 10": "regression"},
    "frame": SMALL.assign(**{"k": USER % 2 + 10, "k: 10": SCORE}),
}
# Arguments of the model, with the frame, and of `fit`; a ValueError, if no other error is given.
FITS = {
    "activation": ({"activation": "rely"}, {}, "activation must be known to Keras: "),
    "numbers": ({"number_embedding_dim": 0}, {}, "number_embedding_dim must be at least 1. R"),
    "table rate": ({"table_rate": 0}, {}, "table_rate must be finite and above 0. R"),
    "table dropout": ({"table_dropout": 1}, {}, "table_dropout must be .* below 1. Received: tab"),
    "y of other rows": (UNLABELED, {"y": SCORE[1:]}, r"\['liked it'\], with the 120 .*\(119,\)"),
    "y of two columns": (UNLABELED, {"y": np.ones((ROWS, 2))}, r"the columns \['liked it'\]"),
    "text as y": (UNLABELED, {"y": "liked it"}, r"y must have the columns .*the shapes \[\(\)\]"),
    "y of other tasks": (UNLABELED, {"y": {"like": SCORE}}, r"'liked it'\], unknown: \['like'\]"),
    "an array of weights": ({}, {"sample_weight": SCORE}, TypeError, "a dict of columns keyed by"),
    "three": ({}, {"validation": (SMALL, None, SCORE)}, TypeError, "validation must be a number"),
    "arrays to validate": ({}, {"validation": (SCORE, SCORE)}, TypeError, "must be a frame of pa"),
    "list": ({"frame": [{"a": 1}]}, {}, TypeError, "frame must be a frame of pandas or polars"),
    "no task": (UNLABELED, {}, "'liked it' once"),
    "time": ({}, {"time": "hour"}, "the column 'hour' once"),
    "one value": (liked(1), {}, r"labels with two different .* in the training rows.*with 1 diff"),
    "three classes": (liked(["a", "b", "c"] * 40), {}, rf"{CLASSES}, 'b', 'c'\]"),
    "mixed": (liked(["a", 1, 2] * 40), {}, TypeError, rf"{OF_ONE_TYPE}\['int', 'str'\]"),
    "classes 1 and 2": (liked(USER % 2 + 1), {}, r"must lie in \[0, 1\] or .*\.\.\., 2\.0\]"),
    "one class": ({"tasks": {"liked it": "multiclass"}, **liked("a")}, {}, rf"{CLASSES}\]"),
    "dates": (
        {"frame": SMALL.assign(when=pd.Timestamp("2026"))},
        *({}, TypeError, r"by \(pd.to_datetime\(frame\['when'\]\) - pd.T"),
    ),
    **{
        f"{name} as a column": (
            {"columns": pk.Columns([name]), "ids": ()},
            *(options, f"must not contain tasks, .*Received: columns with \\['{name}'\\]"),
        )
        for name, options in (("liked it", {}), ("age", {"sample_weight": "age"}))
    },
    "groups": ({}, {"group": SMALL["city"]}, TypeError, "group must be the name of a column"),
    "times": ({}, {"time": ["age"]}, TypeError, "time must be the name of a column"),
    "share": ({}, {"validation": 1.0}, "validation must be finite and above 0 and bel"),
    "weights": ({}, {"sample_weight": {"a": "age"}}, "sample_weight must have keys am"),
    "no rows": ({"frame": SMALL[:0]}, {}, "frame must have at least one row"),
    "no inputs": ({"frame": SMALL[["liked it"]], "ids": ()}, {}, "frame must have columns of inp"),
    "a prediction twice": (TWICE, {}, r"names. Received: \['k: 10', 'k: 11', 'k: 10'\]"),
    "large": (NUMBERS, {}, r"x must contain finite numbers, .*Received: x=1e\+300"),
    "text": ({"tasks": {"city": "regression"}}, {}, TypeError, "contain numbers.*city='Rome'"),
}


@once
@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_that_make_no_model_are_refused(name):
    arguments, error, reason = ARGUMENTS[name]
    with pytest.raises(error, match=reason):
        pk.TabularModel(**{"tasks": CLICK, "ids": ["user id"], **arguments})


@once
def test_arguments_reach_the_layers_and_the_optimizer_and_are_saved(tmp_path):
    options = {
        "activation": "tanh",
        "number_embedding_dim": 3,
        "table_rate": 0.25,
        "table_dropout": 0.5,
    }
    model = new_model(CLICK, **options).fit(SMALL, epochs=0, verbose=0)
    model.save(tmp_path / "model")
    loaded = pk.TabularModel.load(tmp_path / "model")
    plain = new_model(CLICK, **dict.fromkeys(options)).set_params(table_dropout=0.0)
    for each in (model, loaded, loaded.fit(SMALL, epochs=0, verbose=0)):
        assert each.get_params().items() >= options.items()
        layers = find_layers(each.keras_model, keras.Layer)
        assert {x.units for x in layers if isinstance(x, pk.NumberEmbedding)} == {3}
        assert {x.activation.__name__ for x in layers if type(x) is pk.ExpertBlock} == {"tanh"}
        features = layers[layers.index(find_layers(each.keras_model, pk.HedgedBlock)[0]) :]
        assert [x.rate for x in features if type(x) is keras.layers.Dropout][:2] == [0.5, 0.5]
        assert each.keras_model.optimizer.optimizers[0].learning_rate == 0.25
    plain.fit(SMALL, epochs=0, verbose=0)
    assert not find_layers(plain.keras_model, pk.NumberEmbedding)
    tables = plain.keras_model.optimizer.optimizers[0]
    assert tables.learning_rate == pk.SparseAdagrad().learning_rate


@once
@pytest.mark.parametrize("name", FITS)
def test_frames_that_can_not_be_fitted_are_refused(name):
    arguments, options, *error, reason = FITS[name]
    arguments = {"tasks": CLICK, **arguments}
    frame = arguments.pop("frame", SMALL)
    with pytest.raises(*(error or [ValueError]), match=reason):
        new_model(**arguments).fit(frame, **options)


@once
def test_a_model_without_fit_and_folders_that_are_not_whole_are_refused(tmp_path):
    model = new_model(CLICK)
    for rows in (None, 3):
        with pytest.raises(TypeError, match=r"rows must be a frame .* Received: rows=(None|3)"):
            model.predict(rows)
    for use in (model.predict, model.score, lambda rows: model.save(tmp_path / "model")):
        with pytest.raises(ValueError, match="Call fit first"):
            use(FRAME)
    model.fit(SMALL, **QUICK)
    with pytest.raises(ValueError, match="folder must be new, or contain only a model"):
        model.save(tmp_path)
    model.save(tmp_path / "model")
    (tmp_path / "model" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"only a model. Received: .*notes.txt"):
        model.save(tmp_path / "model")
    (tmp_path / "model" / "notes.txt").unlink()
    with contextlib.chdir(tmp_path / "model"):
        model.save(".")
    with pytest.raises(ValueError, match=r"two different values"):
        model.fit(SMALL, validation=SMALL[:1])
    model.fit(SMALL, **QUICK).save(tmp_path / "other")
    pk.Columns.infer(SMALL[:9], [*model.task_names]).fit(SMALL[:9], 1).save(
        tmp_path / "model" / "columns.json"
    )
    with pytest.raises(ValueError, match=r"files of one model\. Received: other columns\.json"):
        pk.TabularModel.load(tmp_path / "model")
    (tmp_path / "other" / "columns.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"columns\.json"):
        pk.TabularModel.load(tmp_path / "other")


def interrupt():
    raise KeyboardInterrupt


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def save_until(change, action, model, folder):
    """Save in a new process that ends by an action before a change of files. Return whether."""
    changes = itertools.count(1)

    def hook(event, _):
        is_change = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
        if is_change and next(changes) == change:
            action()

    if not (child := os.fork()):
        try:
            sys.addaudithook(hook)
            model.save(folder)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] != 0


@once
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forks")
@pytest.mark.parametrize("action", [interrupt, kill])
def test_a_save_that_ends_at_any_point_loses_no_model(action, tmp_path, monkeypatch):
    monkeypatch.setattr(pk.MultiTaskModel, "save", lambda _, file: file.touch())
    model, folder = new_model(CLICK).fit(SMALL, **QUICK), tmp_path / "model"
    monkeypatch.setattr(keras.models, "load_model", lambda _: model.keras_model)
    model.save(folder)
    change = 1
    while save_until(change, action, model, folder):
        change += 1
        if not folder.exists():
            assert action is kill
            with pytest.raises(FileNotFoundError):
                pk.TabularModel.load(folder)
            (old,) = tmp_path.glob(".model-*/old")
            old.rename(folder)
        pk.TabularModel.load(folder)
    assert change > 8


@once
def test_labels_in_y_are_those_of_columns(monkeypatch):
    """They have all forms, are split with the rows, and are aligned by position."""
    calls = []
    monkeypatch.setattr(pk.MultiTaskModel, "fit", lambda *args, **_: calls.append(args[2]))
    frame = without(FRAME, "visits", "spent")
    tasks = ["liked it", "stars", "kind"]
    x, y = frame.drop(columns=tasks), frame[tasks]
    forms = [None, y[tasks[::-1]], dict(y), {task: y[task].tolist() for task in y}, y.to_numpy()]
    for each in forms:
        model = new_model(tasks).fit(frame if each is None else x, each)
        assert model.columns.names == ["user id", "city", "age", "day"]
    assert str(model.report(x, y, group="day")) == str(model.report(frame, group="day"))
    for labels in calls[1:]:
        for name, expected in calls[0].items():
            np.testing.assert_array_equal(labels[name], expected)
    model = new_model(CLICK).fit(x, y["liked it"].tolist(), validation=(x, y["liked it"]))
    assert model.score(x, y["liked it"]) == model.score(frame)
    no_warning = warnings.catch_warnings(action="error", category=UserWarning)
    with no_warning, keras.device("cpu"):  # the `index` of a tensor is something else
        tensor = keras.ops.convert_to_tensor(x["age"].fillna(0).to_numpy() > 30)
        join_columns(x, tensor, ["old"])
    with pytest.warns(UserWarning, match="y and the frame have different indices: rows are alig"):
        assert model.score(x, y["liked it"].reset_index(drop=True)) == model.score(frame)
    assert model._tasks.classes == {"liked it": ["no", "yes"]}


@once
def test_scikit_learn_clones_scores_searches_and_permutes():
    selection = pytest.importorskip("sklearn.model_selection")
    from sklearn.base import clone
    from sklearn.inspection import permutation_importance
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    head = pk.RegressionHead("stars", tower=[2])
    model = new_model({"liked it": "binary", "stars": head})
    copied = clone(model)
    assert copied is not model
    assert copied.get_params()["embedding_dim"] == 2
    frame, model = without(FRAME, *LABELS), new_model()
    x, y = frame.drop(columns=["liked it", "stars"]), frame[["liked it", "stars"]]
    assert (selection.cross_val_score(model, x, y.to_numpy(), cv=2, params=QUICK) < 0).all()
    search = selection.GridSearchCV(model, {"embedding_dim": [3]}, cv=2).fit(x, y, **QUICK)
    assert search.best_params_["embedding_dim"] == 3
    found = search.best_estimator_.predict(frame)
    loaded = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_allclose(loaded.predict(frame), found, rtol=1e-5)
    pipeline = make_pipeline(FunctionTransformer(), new_model(CLICK))
    pipeline.fit(x, y["liked it"], **{f"tabularmodel__{key}": each for key, each in QUICK.items()})
    assert pipeline.score(x, y["liked it"]) < 0
    assert pipeline.predict(x).columns.tolist() == ["liked it"]
    permuted = permutation_importance(pipeline, x, y["liked it"], n_repeats=1)
    assert permuted.importances_mean.shape == (4,)
    assert pipeline[-1].n_features_in_ == 4
    with pytest.raises(ValueError, match=r"params must be among .* Received: \['widths'\]"):
        model.set_params(widths=3)


@once
def test_heads_towers_and_columns_of_ones_own_are_copied_and_saved(tmp_path):
    columns = pk.Columns(["city"], ["age"])
    tower = pk.ExpertBlock([3])
    tasks = {"stars": pk.RegressionHead("rating", tower=[2]), "liked it": "binary"}
    model = new_model(tasks, ids=(), columns=columns, tower=tower)
    assert model.columns is columns
    model.fit(without(FRAME), **QUICK)
    assert not columns.known
    assert not tasks["stars"].built
    assert [*model.heads] == ["rating", "liked_it"]
    model.save(tmp_path / "model")
    assert "rating" in json.loads((tmp_path / "model" / "tasks.json").read_text())["names"].values()
    same = pk.TabularModel.load(tmp_path / "model")
    expected = model.predict(FRAME)
    np.testing.assert_allclose(same.predict(FRAME), expected, rtol=1e-5)
    same.fit(without(FRAME), **QUICK)
    assert same.columns.names == ["city", "age"]
    fitted = pk.Columns(["city"]).fit(FRAME, min_rows=1)
    assert new_model(CLICK, ids=(), columns=fitted).fit(SMALL, **QUICK).columns is fitted


@once
def test_the_next_day_has_new_users_and_trains_the_same_model(tmp_path):
    frame = without(FRAME, *LABELS)
    new_model().fit(frame, validation=frame, **QUICK).save(tmp_path / "model")
    model = pk.TabularModel.load(tmp_path / "model")
    keras_model, known = model.keras_model, [*model.columns.known["user id"]]
    steps = int(keras_model.optimizer.iterations)
    day = pd.concat([frame.assign(**{"user id": frame["user id"] + 9})] * 2)
    before = model.predict(frame)
    for optimizer in keras_model.optimizer.optimizers:
        optimizer.learning_rate = 0.0
    with pytest.warns(UserWarning, match="No epoch improved a branch"):
        model.continue_fit(day, validation=day, **QUICK)
    assert model.keras_model is keras_model
    assert keras_model.optimizer.iterations > steps
    assert model.columns.known["user id"] == [*known, *range(known[-1] + 1, 29)]
    assert np.abs(model.predict(frame) - before).max(axis=None) < 0.2  # of other mixtures
    model.save(tmp_path / "model")
    same = pk.TabularModel.load(tmp_path / "model").continue_fit(day, group="user id", **QUICK)
    assert same.score(day) < 0
    other = day.assign(**{"user id": day["user id"] + 100})
    with pytest.raises(ValueError, match=r"too many values: {'user id': "):
        same.continue_fit(other, **QUICK)
    with pytest.raises(ValueError, match="the column 'age' once"):
        same.continue_fit(day.drop(columns="age"), **QUICK)
    with pytest.raises(ValueError, match="Call fit first"):
        new_model().continue_fit(day)


@once
def test_names_like_those_of_layers_and_arguments_of_numpy_and_pandas_are_saved(tmp_path):
    frame = without(FRAME, *LABELS).rename(columns={"stars": "layer", "liked it": "table"})
    frame["val"] = SCORE  # logs of validation begin with it
    frame["table"] = [["a", "b"][: n % 3] for n in USER]  # a column with the name of a layer
    frame = frame.assign(ids=[["a", "b"][: n % 3] for n in USER], ids_2=SCORE, b_layer=SCORE)
    options = {"ids": pd.Index(["user id"]), "embedding_dim": np.int64(2)}
    tasks = dict.fromkeys(["layer", "val", "b_layer", "ids_2"], "regression")
    model = new_model(tasks, **options).fit(frame, **QUICK)
    names = [*model.keras_model.input, *model.keras_model.output]
    assert len({*names}) == len(names)
    model.save(tmp_path / "model")
    same = pk.TabularModel.load(tmp_path / "model")
    np.testing.assert_allclose(same.predict(frame), model.predict(frame), rtol=1e-5)
    assert same.get_params()["ids"] == ["user id"]


@once
def test_a_factor_of_a_product_can_lack_a_column(tmp_path):
    frame = without(FRAME, *LABELS, "stars", "liked it").assign(click=SCORE > 0, buy=SCORE > 1)
    tasks = {
        "click": "binary",
        "later": pk.BinaryHead("later", loss_weight=0.0),
        "buy": pk.ProductHead("buy", of=["click", "later"]),
    }
    y = frame[["click", "buy"]]
    model = new_model(tasks)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The task 'later' has no label")
        model.fit(frame.drop(columns=y.columns), y, group="day", **QUICK)
    p = model.predict(frame)
    np.testing.assert_allclose(p["buy"], p["click"] * p["later"], rtol=1e-5)
    assert [*model.report(frame).tasks] == ["click", "buy"]
    assert {*model.importance(frame, repeats=1)} == {"click", "buy"}
    assert model.score(frame) == model.score(frame.assign(later=np.nan))
    model.save(tmp_path / "model")
    loaded = pk.TabularModel.load(tmp_path / "model").continue_fit(frame, **QUICK)
    assert [*loaded.predict(frame)] == [*p]


@once
def test_labels_can_be_probabilities():
    frame = without(FRAME, *LABELS)
    frame["liked it"] = 1 / (1 + np.exp(-SCORE))
    report = new_model(CLICK).fit(frame, **QUICK).report(frame)
    assert report.gains["liked it"]["shared"].loss > 0.1


@pytest.fixture(scope="module")
def reported(fitted):
    """Return the model of all kinds of tasks, and rows."""
    return fitted[0], pd.concat([without(FRAME)] * 5)


@once
@pytest.mark.parametrize("group", [None, "user id"])
def test_a_report_has_the_gains_over_each_branch(reported, group):
    model, rows = reported
    report = model.report(rows, group=group)
    assert report.examples == 600
    assert list(report.gains) == list(TASKS)
    gain = report.gains["stars"]["shared"]
    errors = (model.predict(rows)["stars"] - rows["stars"])[rows["stars"].notna()] ** 2
    assert gain.loss == pytest.approx(errors.mean(), rel=1e-4)
    assert report.tasks["stars"].rmse == pytest.approx(gain.loss**0.5, rel=1e-4)
    assert sum(use.weight for use in report.branches["kind"].values()) == pytest.approx(1)
    assert report.tasks.keys() == report.loss_weights.keys() == {*TASKS}
    json.dumps(report.to_dict())


@once
def test_tasks_with_labels_of_no_or_of_one_group_have_no_gains(reported):
    model, rows = reported
    unlabeled = model.report(rows.assign(stars=np.nan))
    assert unlabeled.tasks["stars"].labels == 0
    assert "stars" not in unlabeled.gains
    one_user = rows["stars"].where(rows["user id"] == rows["user id"].iloc[0])
    report = model.report(rows.assign(stars=one_user), group="user id")
    assert list(report.gains) == [task for task in TASKS if task != "stars"]
    assert any(re.match("stars: it has no gains.*two groups", text) for text in report.warnings)
    with pytest.raises(ValueError, match="rows must have at least one row"):
        model.report(rows[:0])


@once
def test_frames_of_polars_give_frames_of_polars():
    polars = pytest.importorskip("polars")
    pandas = without(FRAME, *LABELS)
    objects = pandas.astype(object).where(pandas.notna(), None)
    frame = polars.DataFrame({name: objects[name].tolist() for name in objects})
    with pytest.raises(TypeError, match="frame must be a frame of pandas or polars"):
        new_model().fit(frame.lazy())
    with pytest.raises(TypeError, match=r"rows must be a frame .* not a lazy one"):
        new_model().predict(frame.lazy())
    names = ["May", "April", "June"]  # in an order of their own
    months = {"month": polars.Series(names * 2, dtype=polars.Enum(names))}
    assert split_rows(polars.DataFrame(months), 0.3, "month", None, 0)[1].tolist() == [2, 5]
    without_order = polars.DataFrame(months).cast(polars.Categorical)
    with pytest.raises(ValueError, match=r"month must have .* ordered categories"):
        split_rows(without_order, 0.3, "month", None, 0)
    found = new_model().fit(frame, time="day", **QUICK).predict(frame)
    assert isinstance(found, polars.DataFrame)
    expected = new_model().fit(pandas, time="day", **QUICK).predict(pandas)
    np.testing.assert_allclose(found.to_numpy(), expected, rtol=1e-5)


@once
def test_a_report_has_the_group_of_fit(tmp_path):
    frame = without(FRAME, *LABELS)
    model = new_model().fit(frame, group="day", **QUICK)
    model.save(tmp_path / "model")
    rows = pd.concat([frame] * 4)  # of six days, which are too few groups for an interval
    loaded = pk.TabularModel.load(tmp_path / "model")
    assert np.isnan(loaded.report(rows).gains["stars"]["own"].low)
    with pytest.warns(UserWarning, match="rows lack 'day', the group of `fit`"):
        report = loaded.report(rows.drop(columns="day"))
    assert np.isfinite(report.gains["stars"]["own"].low)
    with pytest.raises(TypeError, match=r"group must be the name of a column. .* `groups`"):
        model.report(frame, group=frame["day"].to_numpy())

"""Reports of models with a HedgedBlock."""

import json
import re

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.heads.task_heads import hedged_heads
from tests.helpers import features, once, randomize
from tests.models import chain, compiled, heads_of

TASKS, BRANCHES = ["click", "time"], ("own", "shared")
X = features(64, 3)
Y = {"click": (X[:, 0] > 0).astype("float32"), "time": X[:, 1:2] * 3}
Y["click"][::4] = np.nan


def hedged_model(make=lambda heads: pk.HedgedBlock(heads, [4, 3], name="hedged")):
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.RegressionHead("time", loss_weight=9.0)])
    model = chain(make(heads), heads)
    randomize(model)
    return compiled(model, "sgd")


def test_the_task_report_shows_the_mixture_and_the_figures_of_branches():
    model = hedged_model()
    pk.fit_hedge(model, X, Y)
    heads = heads_of(model)
    report = pk.task_report(model, X, Y, batch_size=32)
    for task in TASKS:
        weights = {branch: use.weight for branch, use in report.branches[task].items()}
        assert weights == heads.branch_weights()[task]
    assert [*report.tasks] == [*report.loss_weights] == TASKS
    assert (report.loss_weights["time"], report.gains, report.warnings) == (9.0, {}, [])
    assert re.search(r"epoch  relative error +metric\n  click +own", str(report))
    assert np.isnan(report.branches["time"]["own"].epoch)
    json.dumps(report.to_dict())
    for task in TASKS:
        hedged_heads(heads)[task].mixture.assign([1.0, 0.0])  # the branch "own" alone
    model.history = keras.callbacks.History()
    model.history.history = {f"hedge/time/{branch}_epoch": [0, 0] for branch in BRANCHES}
    after = pk.task_report(model, X, Y, batch_size=32)
    assert [after.branches["time"][branch].epoch for branch in BRANCHES] == [1, 1]
    for task, figures in after.tasks.items():
        own = report.branches[task]["own"].figures
        assert (own.loss, own.labels) == (pytest.approx(figures.loss, rel=1e-5), figures.labels)


NUMBERS = {
    "like": (pk.BinaryHead("like"), X[:, 1] > 0),
    "kind": (pk.MulticlassHead("kind", num_classes=3), np.arange(64) % 3),
    "shares": (
        pk.MulticlassHead("shares", num_classes=3, loss="categorical_crossentropy"),
        np.eye(3)[np.arange(64) % 3],
    ),
    "time": (pk.RegressionHead("time", standardize=True, mean=1, deviation=2), X[:, 1]),
    "error": (pk.RegressionHead("error", loss="mean_absolute_error"), X[:, 1]),
    "pair": (pk.RegressionHead("pair", units=2), X[:, :2]),
    "visits": (pk.CountHead("visits"), np.arange(64) % 4),
    "spent": (pk.TweedieHead("spent"), np.exp(X[:, 0])),
    "paid": (pk.TweedieHead("paid", 1.7), np.maximum(X[:, 0], 0)),
}


@once
def test_new_rows_have_the_gains_over_branches():
    heads = pk.TaskHeads([head for head, _ in NUMBERS.values()])
    model = chain(pk.HedgedBlock(heads, [4]), heads)
    randomize(model)
    y = {task: labels.astype("float32") for task, (_, labels) in NUMBERS.items()}
    y["like"][8:] = np.nan  # in one group
    report = pk.task_report(model, X, y, groups=np.arange(64) // 8, new_rows=True)
    assert [*report.gains] == [task for task in NUMBERS if task != "like"]
    (warning,) = (text for text in report.warnings if "no gains" in text)
    assert warning.startswith("like: it has no gains. y must have at least two rows, of two groups")
    for task, losses in {
        **{"time": "rmse", "visits": "deviance", "paid": "deviance", "kind": "loss"},
    }.items():
        mixed, own = report.tasks[task], report.branches[task]["own"].figures
        scale = {"rmse": lambda x: x**2, "deviance": lambda x: x / 2}.get(losses, float)
        gain = report.gains[task]["own"]
        assert gain.loss == pytest.approx(scale(getattr(mixed, losses)), rel=1e-4)
        assert gain.other_loss == pytest.approx(scale(getattr(own, losses)), rel=1e-4)
    assert report.gains["pair"]["own"].loss == pytest.approx(report.tasks["pair"].loss, rel=1e-4)
    text = str(report)
    assert re.search(r"gain, %  95% interval  statement\n  like +own .* - +- +no gain\n", text)
    assert re.search(r"(better|worse|decided): (the|too few)", text)
    json.dumps(report.to_dict())


@once
def test_sequences_have_no_gains():
    heads = pk.TaskHeads([pk.BinaryHead("click")])
    inputs = keras.Input((2, 3))
    model = pk.MultiTaskModel(inputs, heads(pk.HedgedBlock(heads, [4])(inputs)))
    report = pk.task_report(model, X.reshape(32, 2, 3), X[:, 0].reshape(32, 2) > 0, new_rows=True)
    assert (report.tasks["click"].labels, report.gains, report.warnings) == (64, {}, [])


def test_a_layer_after_the_heads_does_not_change_the_values_of_branches():
    model = hedged_model()
    scaled = {task: keras.layers.Rescaling(2.0)(x) for task, x in model.output.items()}
    after = keras.Model(model.input, scaled)
    expected = pk.fit_hedge(model, X, Y)
    branches = pk.task_report(model, X, Y).to_dict()["branches"]
    assert pk.task_report(after, X, Y).to_dict()["branches"] == branches
    assert pk.fit_hedge(after, X, Y) == expected

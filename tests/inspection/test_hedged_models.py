"""Reports of models with a HedgedBlock."""

import json

import keras
import numpy as np
import pytest

import ple_keras as pk
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
    report = pk.task_report(model, X, Y, validation=(X, Y), batch_size=32)
    for task in TASKS:
        weights = {branch: use.weight for branch, use in report.branches[task].items()}
        assert weights == heads[task].branch_weights()
    assert set(report.tasks) == set(report.training) == set(report.validation) == set(TASKS)
    assert report.training["time"].gradient_share > 0
    assert "mixed" in str(report)
    assert np.isnan(report.branches["time"]["own"].epoch)
    json.dumps(report.to_dict())
    for task in TASKS:
        heads[task].mixture.assign([1.0, 0.0])  # the branch "own" alone
    model.history = keras.callbacks.History()
    model.history.epoch = [0, 1]
    names = ("click_binary_crossentropy", "time_mean_squared_error")
    losses = {f"val_{name}": [1e-3, 9.0] for name in names}
    kept = {f"hedge/time/{branch}_epoch": [0, 0] for branch in BRANCHES}
    model.history.history = losses | kept | {"hedge/click/own": [0.5, 0.5]}  # keep_best=False
    after = pk.task_report(model, X, Y, validation=(X, Y), batch_size=32)
    assert [after.branches["time"][branch].epoch for branch in BRANCHES] == [1, 1]
    warned = [text.split(":")[0] for text in after.warnings if "was lowest in" in text]
    assert warned == ["click"]  # not the task whose branches FitHedge has kept
    for task, figures in after.tasks.items():
        own = report.branches[task]["own"].figures
        assert (own.loss, own.labels) == (pytest.approx(figures.loss, rel=1e-5), figures.labels)


@once
@pytest.mark.parametrize(("planned", "best", "warns"), [(5, 3, True), (5, 1, False), (9, 4, False)])
def test_too_few_epochs_warn(planned, best, warns):
    model = hedged_model()
    model.history = keras.callbacks.History()
    model.history.epoch, model.history.params = [0, 1, 2, 3, 4], {"epochs": planned}
    best_epochs = dict(zip(BRANCHES, (best, 4 if warns else best)))
    kept = {f"hedge/{task}/{b}_epoch": [e] for task in TASKS for b, e in best_epochs.items()}
    model.history.history = kept
    warnings = pk.task_report(model, X, Y).warnings
    reason = "4 of 4 branches were best in the last fifth of the 5 epochs. Train longer"
    assert any(reason in warning for warning in warnings) == warns


@once
def test_reports_of_the_default_branches():
    model = hedged_model()
    assert "click/expert_0" in str(pk.gate_report(model, X))


def test_a_layer_after_the_heads_does_not_change_the_values_of_branches():
    model = hedged_model()
    scaled = {task: keras.layers.Rescaling(2.0)(x) for task, x in model.output.items()}
    after = keras.Model(model.input, scaled)
    expected = pk.fit_hedge(model, X, Y)
    branches = pk.task_report(model, X, Y).to_dict()["branches"]
    assert pk.task_report(after, X, Y).to_dict()["branches"] == branches
    assert pk.fit_hedge(after, X, Y) == expected

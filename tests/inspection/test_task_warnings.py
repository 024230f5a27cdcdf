"""Warnings of task reports, on data made for each of them."""

import re

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.inspection.task_figures import TaskFigures, gap_warnings
from tests.helpers import features, once
from tests.inspection.task_models import HEALTHY, healthy_model
from tests.models import chain, compiled

pytestmark = once

ROWS = 2048
X = features(ROWS, 4)
RNG = np.random.default_rng(1)
RATE = np.exp(1 + X[:, 1])
Y = {
    "visits": np.random.default_rng(2).poisson(RATE).astype("float32"),
    "click": (2 * X[:, 0] + RNG.logistic(size=ROWS) > 0).astype("float32"),
    "like": (2 * X[:, 1] + RNG.logistic(size=ROWS) > 0).astype("float32"),
    "time": X[:, 1] + 0.5 * RNG.normal(size=ROWS),
    "age": X[:, 0] + 0.5 * RNG.normal(size=ROWS),
}
# The heads' kernels for a shared part that returns the first two columns.
BEST = {"click": (2.0, 0.0), "like": (0.0, 2.0), "time": (0.0, 1.0), "age": (1.0, 0.0)}
BEST["visits"] = (0.0, 1.0)
TWO_COLUMNS = ((1, 0), (0, 1), (0, 0), (0, 0))
ONE_SUM = ((0.5,), (0.5,), (0,), (0,))


def linear_model(heads, kernels, bottom):
    """Return a model whose shared part and heads are linear, with these kernels."""
    heads = pk.TaskHeads(heads)
    units = len(bottom[0])
    block = pk.SharedBottomBlock(heads, keras.layers.Dense(units, use_bias=False))
    model = chain(block, heads, width=4)
    block.trainable_weights[0].assign(np.array(bottom, "float32"))
    for task, head in heads.items():
        head.trainable_weights[0].assign(np.array(kernels[task], "float32")[:units, None])
        head.trainable_weights[1].assign([1.0 if isinstance(head, pk.CountHead) else 0.0])
    return model


HEADS = {
    "click": pk.BinaryHead,
    "like": pk.BinaryHead,
    "time": pk.RegressionHead,
    "age": pk.RegressionHead,
    "visits": pk.CountHead,
}


def report_of(
    tasks=("click", "time"),
    y=None,
    validation_y=None,
    rows=ROWS,
    kernels=None,
    bottom=TWO_COLUMNS,
    **options,
):
    """Return the report of the best model of some tasks, with changes and options of heads."""
    heads = [HEADS[task](task, **options.get(task, {})) for task in tasks]
    model = linear_model(heads, {**BEST, **(kernels or {})}, bottom)
    labels = {head.task: {**Y, **(y or {})}[head.task][:rows] for head in heads}
    validation = validation_y and (X, {task: validation_y[task] for task in labels})
    return pk.task_report(model, X[:rows], labels, validation)


def test_the_best_model_has_no_warning():
    report = report_of(("click", "time", "visits"), validation_y=Y)
    assert report.warnings == []
    assert report.tasks["visits"].calibration == pytest.approx(1, abs=0.05)
    assert report.tasks["click"].calibration == pytest.approx(1, abs=0.1)
    assert report.tasks["time"].rmse == pytest.approx(0.5, abs=0.05)


HALF_LOST = Y["click"] * (RNG.uniform(size=ROWS) < 0.5)
STANDARDIZE = "Use RegressionHead('time', standardize=True) and heads.adapt(y)."
DOMINATES = "of the gradient on shared parts, which hardly learn from other tasks."
WARNINGS = {
    "a regression that dominates": (
        {"y": {"time": 1000 * Y["time"]}},
        ["time: its loss has 100.0%", DOMINATES, STANDARDIZE],
    ),
    "a regression in small units, not learned": (
        {"y": {"time": Y["time"] / 1000}, "kernels": {"time": (0.001, 0)}},
        ["click: its loss has 100.0%", DOMINATES, STANDARDIZE],
    ),
    "a large weight": (
        {"time": {"loss_weight": 100.0}},
        ["time: its loss has 99.", DOMINATES, "Try a lower loss_weight."],
    ),
    "no label": ({"y": {"time": np.full(ROWS, np.nan)}}, ["time: it has no labels, so there"]),
    "one class": (
        {"y": {"click": np.zeros(ROWS)}},
        ["click: its 2,048 labels do not differ, so there is nothing to learn"],
    ),
    "constant predictions": (
        {"kernels": {"click": (0, 0)}},
        ["click: the predictions are constant", "0e+00", "lower the learning rate"],
    ),
    "lost labels": (
        {"y": {"click": HALF_LOST}},
        [
            "click: the sum of the predictions is 1.97 times the sum of 2,048",
            "that missing labels are NaN",
        ],
    ),
    "lost counts": (
        {"tasks": ("time", "visits"), "y": {"visits": np.random.default_rng(2).poisson(RATE / 2)}},
        ["visits: the sum of the predictions is 1.99 times", "that missing labels are NaN"],
    ),
    "labels in another unit": (
        {"y": {"time": Y["time"] + 0.4}},
        ["time: the mean label is 0.399", "and the mean prediction 0.0", "Check that labels and x"],
    ),
    "weighted positives": (
        {"y": {"click": HALF_LOST}, "click": {"pos_weight": 2.0}},
        ["click: the sum of the predictions is 1.97", "Divide the predicted odds by"],
    ),
    "worse on validation data": (
        {"validation_y": {**Y, "click": Y["click"][::-1]}},
        ["click: the relative error is 1.", "and 0.", "Try a dropout of 0.1, then 0.3, in the"],
    ),
    "a conflict": (
        {"tasks": ("age", "time"), "bottom": ONE_SUM, "kernels": {"age": (1,), "time": (1,)}},
        [
            "age and time: their gradients",
            "conflict, with a cosine of -0.",
            "Try a HedgedBlock, in which",
        ],
    ),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_data_made_for_a_warning_have_only_this_warning(name):
    arguments, parts = WARNINGS[name]
    (warning,) = report_of(**arguments).warnings
    assert re.search(".*".join(map(re.escape, parts)), warning), warning


def test_predicted_medians_may_differ_from_the_mean_label():
    skewed = {"time": Y["time"] + np.random.default_rng(3).exponential(0.5, ROWS)}
    assert "mean label" in report_of(y=skewed).warnings[0]
    assert report_of(y=skewed, time={"loss": "mean_absolute_error"}).warnings == []


def test_a_count_in_a_hedged_model_is_told_to_be_standardized():
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.CountHead("visits")])
    model = chain(pk.HedgedBlock(heads, [4]), heads, width=4)
    *_, warning = pk.task_report(model, X, {**Y, "visits": 20 * Y["visits"]}).warnings
    assert warning.endswith("Use CountHead('visits', standardize=True) and heads.adapt(y).")


@pytest.mark.parametrize(
    ("train", "validation", "hints"),
    [(0.507, 0.680, True), (0.828, 0.927, True), (0.507, 0.640, False), (0.90, 0.94, False)],
)
def test_a_task_overfits_if_much_of_its_gain_is_lost(train, validation, hints):
    use, other = (TaskFigures(5000, relative_error=error) for error in (train, validation))
    assert len([*gap_warnings("", use, other)]) == hints


NO_CONFLICTS = {"not settled": {"bottom": ((0.1,), (0.1,), (0,), (0,))}, "few rows": {"rows": 900}}


@pytest.mark.parametrize("name", NO_CONFLICTS)
def test_conflicts_are_not_mentioned(name):
    arguments = {**WARNINGS["a conflict"][0], **NO_CONFLICTS[name]}
    assert report_of(**arguments).warnings == []


def test_few_batches_are_no_evidence_of_a_conflict():
    heads = [pk.RegressionHead("age"), pk.RegressionHead("time")]
    model = linear_model(heads, {"age": (1,), "time": (1,)}, ONE_SUM)
    y = {head.task: Y[head.task] for head in heads}
    for size, expected in ((64, 1), (128, 0)):
        assert len(pk.task_report(model, X, y, batch_size=size).warnings) == expected


@pytest.mark.parametrize("rise", [0.05, 0.15])
def test_a_rise_of_a_loss_below_zero_is_relative_to_the_deviance(rise):
    model = linear_model([pk.BinaryHead("click"), pk.CountHead("visits")], BEST, TWO_COLUMNS)
    y = {task: Y[task] for task in ("click", "visits")}
    figures = pk.task_report(model, X, y, (X, y)).validation["visits"]
    model.history = keras.callbacks.History()
    best = figures.loss - figures.deviance / 2 * rise / (1 + rise)
    model.history.history = {"val_visits_poisson": [best, figures.loss]}
    assert len(pk.task_report(model, X, y, (X, y)).warnings) == (rise > 0.1)


def test_a_task_that_was_better_in_an_earlier_epoch_is_named():
    model = linear_model([pk.BinaryHead("click"), pk.RegressionHead("time")], BEST, TWO_COLUMNS)
    y = {task: Y[task] for task in ("click", "time")}
    options = {"batch_size": 512, "epochs": 2, "verbose": 0, "validation_data": (X, y)}
    compiled(model, keras.optimizers.SGD(0.05)).fit(X, {**y, "time": -Y["time"]}, **options)
    (warning,) = pk.task_report(model, X, y, (X, y)).warnings
    start = "time: in fit, val_time_mean_squared_error was lowest in validation 1 of 2, with "
    assert warning.startswith(start)


def test_losses_of_epochs_are_means_over_labels_in_the_unit_of_the_report():
    """Keras counts the loss of a batch without labels as 0."""
    time = pk.RegressionHead("time", standardize=True, mean=0, deviation=0.5)
    model = linear_model([pk.BinaryHead("click"), time], {**BEST, "time": (0, 2)}, TWO_COLUMNS)
    y = {task: np.where(np.arange(ROWS) < ROWS / 8, Y[task], np.nan) for task in ("click", "time")}
    compiled(model).fit(X, y, 128, validation_data=(X, y), verbose=0)
    assert pk.task_report(model, X, y, (X, y)).warnings == []


def test_a_healthy_model_has_no_warning():
    model, train, validation = healthy_model(6, rows=4000, epochs=2)
    assert pk.task_report(model, *train, validation).warnings == []


@pytest.mark.nightly
@pytest.mark.parametrize("seed", HEALTHY)
def test_every_healthy_model_has_no_warning(seed):
    model, train, validation = healthy_model(seed)
    assert pk.task_report(model, *train, validation).warnings == []

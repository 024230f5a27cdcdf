"""RegressionHead: outputs, standardized labels, and their statistics from `TaskHeads.adapt`."""

from itertools import pairwise

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK, features, numpy_of, once
from tests.models import cloned, compiled, heads_alone, heads_of, loaded, of_json
from tests.refusals import all_refused, check_refused, table

NAN = float("nan")


MEAN, DEVIATION = [300.0, -7.0], [50.0, 0.02]


X = features(12, 3)


def two_numbers(loss="mse", given=True, **kwargs):
    """Return a model of a click and of two numbers in very different units."""
    if given:
        kwargs |= {"standardize": True, "mean": MEAN, "deviation": DEVIATION}
    regression = pk.RegressionHead("place", [4], units=2, loss=loss, **kwargs)
    keras.utils.set_random_seed(0)
    return heads_alone(pk.TaskHeads([pk.BinaryHead("click"), regression], name="heads"))


def labels_of_two_numbers(rows=12):
    """Return labels in units and in deviations."""
    z = features(rows, 2, seed=1)
    z[::3, 0] = z[4] = NAN
    click = np.arange(rows) % 2
    place = np.float64(z) * DEVIATION + MEAN
    return {"click": click, "place": place}, {"click": click, "place": z}


def test_metrics_are_in_units_except_those_of_other_losses():
    y, x = {"time": np.float32([100, 300, NAN, 200])}, features(4, 3)
    for loss, name in ((None, "mean_squared_error"), ("mae", "standardized_mae")):
        head = pk.RegressionHead("time", loss=loss, standardize=True, mean=200, deviation=100)
        model = compiled(heads_alone(pk.TaskHeads([head])), run_eagerly=True)
        gaps = np.ravel(numpy_of(model(x)["time"])) - y["time"]
        logs = model.evaluate(x, y, verbose=0, return_dict=True)
        assert set(logs) == {"loss", "time_loss", "rmse", name}
        squared = np.nanmean(gaps**2)
        assert logs["rmse"] == pytest.approx(squared**0.5, rel=1e-4)
        expected = squared if loss is None else np.nanmean(np.abs(gaps)) / 100
        assert logs[name] == pytest.approx(expected, rel=1e-4)


def test_predictions_are_float32_in_half_precision():
    head = pk.RegressionHead("a", standardize=True, mean=1e6, deviation=1.0, dtype="mixed_float16")
    prediction = head(np.ones((2, 3), "float16"))
    assert keras.backend.standardize_dtype(prediction.dtype) == "float32"
    z = np.ravel(numpy_of(head.logits(np.ones((2, 3), "float16"))))
    np.testing.assert_allclose(np.ravel(numpy_of(prediction)), 1e6 + z, rtol=1e-6)


def adapted(y, steps=None, **kwargs):
    model = two_numbers(given=False, standardize=True, **kwargs)
    heads_of(model).adapt(y, steps)
    return model


def batches(y, sizes):
    """Return batches `(x, y)` of several sizes."""
    ends = np.cumsum([0, *sizes])
    return [(0, {task: y[task][a:b] for task in y}) for a, b in pairwise(ends)]


@once
@pytest.mark.parametrize("kind", ["arrays", "batches", "steps", "missing_label"])
def test_adapt_reads_labeled_examples(kind):
    y, _ = labels_of_two_numbers(20 if kind == "steps" else 12)
    expected = y["place"][:12]
    if kind == "missing_label":
        y["place"] = np.nan_to_num(y["place"], nan=-1.0)
    data = y if kind in ("arrays", "missing_label") else batches(y, [1, 3, 1, 7, 8])
    steps = 4 if kind == "steps" else None
    label = {"missing_label": -1.0} if kind == "missing_label" else {}
    head = heads_of(adapted(data, steps, **label))["place"]
    np.testing.assert_allclose(head.mean, np.nanmean(expected, axis=0), rtol=2e-7)
    np.testing.assert_allclose(head.deviation, np.nanstd(expected, axis=0), rtol=2e-7)
    assert head.label_share == pytest.approx(np.isfinite(expected).mean())


@once
def test_adapt_reads_every_kind_of_head():
    tasks = [pk.BinaryHead("a"), pk.BinaryHead("b"), pk.ProductHead("p", of=("a", "b"))]
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=0)
    kind = pk.MulticlassHead("kind", num_classes=3, loss=loss)
    place = pk.RegressionHead("place", units=2, loss="cosine_similarity")
    heads = pk.TaskHeads([*tasks, kind, place])
    assert heads["a"].label_share is None
    y = {"a": [0, 1, NAN, NAN], "b": [1, 0, 1, 0], "p": [NAN, NAN, NAN, 1], "kind": [0, 1, 2, 0]}
    heads.adapt({**y, "place": [[1, NAN], [1, 2], [NAN, NAN], [0, 1]]})
    shares = {"a": 0.5, "b": 1.0, "p": 0.25, "kind": 0.5, "place": 0.5}
    assert {task: head.label_share for task, head in heads.items()} == shares
    sequences = pk.TaskHeads([pk.RegressionHead("a", standardize=True)])
    number = sequences["a"]
    assert (number.mean, number.deviation, number.label_share) == (None, None, None)
    sequences.build({"a": (None, None, 3)})
    sequences.adapt([(0, {"a": np.array([[1.0, NAN]])}), (0, {"a": np.array([[2.0], [6.0]])})])
    assert (number.mean, number.label_share) == ([3.0], 0.75)


def in_units(y, factor):
    return {**y, "place": factor * y["place"]}


def test_adapt_may_follow_compile_and_training():
    """A loss in deviations equals NumPy's with the statistics of the last `adapt`."""
    model, (y, _), x = two_numbers(given=False, standardize=True), labels_of_two_numbers(), X
    compiled(model, keras.optimizers.SGD(0.0), **QUICK)
    heads = heads_of(model)
    message = r"'place' has standardize=True.*Call adapt\(y\) of the TaskHeads.*Received: mean=None"
    batches = (batch for batch in [(x, y)])  # fit adapts heads to arrays alone
    check_refused(lambda: model.fit(batches, verbose=0), ValueError, message)
    assert np.isnan(numpy_of(model(x)["place"])).all()
    for factor in (1.0, 10.0):  # before the first step, and after it
        labels = in_units(y, factor)
        heads.adapt(labels)
        logs = model.fit(x, labels, verbose=0).history
        mean, deviation = (f(labels["place"], axis=0) for f in (np.nanmean, np.nanstd))
        np.testing.assert_allclose(heads["place"].mean, mean, rtol=1e-6)
        z = (labels["place"] - numpy_of(model(x)["place"])) / deviation
        assert logs["place_loss"][0] == pytest.approx(np.nanmean(z**2), rel=2e-4)
    given = two_numbers()
    heads_of(given).adapt(in_units(y, 10))
    np.testing.assert_allclose(heads_of(given)["place"].mean, MEAN, rtol=1e-6)


@pytest.mark.parametrize(
    "copy", [loaded, pytest.param(cloned, marks=once), pytest.param(of_json, marks=once)]
)
def test_copies_have_the_numbers_with_the_weights(copy, tmp_path):
    """Their configs contain only numbers that were given."""
    y, x = labels_of_two_numbers()[0], X
    model = two_numbers("mae", given=False, standardize=True)
    compiled(model, **QUICK)
    heads_of(model).adapt(y)
    model.fit(x, y, verbose=0)
    twin = copy(model, tmp_path)
    heads, original = heads_of(twin), heads_of(model)
    assert heads.get_config() == original.get_config()
    if copy is not loaded:
        assert heads["place"].mean is None
        twin.set_weights(model.get_weights())
        compiled(twin, **QUICK)
    assert (heads["place"].mean, heads["place"].deviation) == (
        original["place"].mean,
        original["place"].deviation,
    )
    expected = model.evaluate(x, y, verbose=0)
    assert twin.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(numpy_of(twin(x)["place"]), numpy_of(model(x)["place"]))
    heads.adapt(in_units(y, 10))
    assert model.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-5)
    assert twin.evaluate(x, in_units(y, 10), verbose=0) != pytest.approx(expected, rel=1e-2)


REFUSED = {
    "activation": ({"activation": "softplus"}, r"activation must be None"),
    "loss": ({"loss": "poisson"}, r"loss must be a squared or absolute error.*='poisson'"),
    "mean_alone": ({"mean": 1.0}, r"given together.*, units=1, mean=1\.0, deviation=None"),
    "not_used": ({"standardize": False, "mean": 1, "deviation": 1}, r"standardize=False"),
    "length": ({"mean": [1, 2], "deviation": [1, 2]}, r"for each unit.*units=1, mean=\[1, 2\]"),
    "zero": ({"mean": 1, "deviation": 0}, r"deviation must be finite and at least 1e-18"),
    "infinite": ({"mean": NAN, "deviation": 1}, r"mean must be finite"),
    "units": ({"units": 0}, r"units must be at least 1"),
    "flag": ({"standardize": 1}, TypeError, "standardize must be"),
}


test_arguments_that_do_not_fit_are_refused = all_refused(
    lambda arguments: pk.RegressionHead("a", **{"standardize": True, **arguments}), REFUSED
)


LABELS = {
    "constant": (({"a": [0.1] * 7},), r"y\['a'\] must have labels that differ.*labels=\[7\]"),
    "close": (({"a": [1.7e9 - 100, 1.7e9 + 100]},), r"that differ in float32"),
    "empty": (({"a": []},), r"labels=\[0\]$"),
    "infinite": (({"a": [1, np.inf]},), r"y\['a'\] must be finite or be missing"),
    "task": (({"b": [1, 2]},), r"missing: \['a'\]"),
}


@once
@pytest.mark.parametrize(("arguments", "message"), table(LABELS))
def test_labels_that_do_not_fit_are_refused(arguments, message):
    heads = pk.TaskHeads([pk.RegressionHead("a", standardize=True)])
    check_refused(lambda: heads.adapt(*arguments), ValueError, message)
    assert heads["a"].mean is None
    heads = pk.TaskHeads([pk.RegressionHead("a", targets=["x", "y/z"], standardize=True)])
    message = r"differ in float32 in the targets \['y/z'\] if.*deviation=\[0\.\], labels=\[1\]"
    y = {"a": np.array([[1, NAN], [2, 3]])}
    check_refused(lambda: heads.adapt(y), ValueError, message)

"""CountHead: predictions, the loss, and the bias from `TaskHeads.adapt`."""

import math

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.heads.task_heads import hedged_heads
from tests.helpers import features, numpy_of, once
from tests.models import branched, cloned, compiled, heads_alone, heads_of, loaded
from tests.refusals import NAN, check_refused, table

X = features(12, 3)
Y = {"visits": np.array([7.0, NAN, 2.0, NAN] * 3)}
BIAS = np.float32(math.log(4.5))


def count_heads(y=None, **kwargs):
    heads = pk.TaskHeads([pk.CountHead("visits", **kwargs)])
    if y is not None:
        heads.adapt(y)
    return heads


def bias_of(model):
    return numpy_of(heads_of(model)["visits"].weights[-1]).tolist()


def test_predictions_and_losses_are_those_of_a_poisson_distribution():
    model = compiled(heads_alone(count_heads(Y, tower=[4])))
    logits = numpy_of(heads_of(model)["visits"].logits(keras.ops.convert_to_tensor(X)))
    p = numpy_of(model(X)["visits"])
    np.testing.assert_allclose(p, np.exp(logits), rtol=1e-5)
    expected = np.nanmean(p[:, 0] - Y["visits"] * np.log(p[:, 0]))
    logs = model.evaluate(X, Y, verbose=0, return_dict=True)
    known = Y["visits"][~np.isnan(Y["visits"])]
    deviance = 2 * (expected - np.mean(known - known * np.log(known)))
    expected = dict.fromkeys(["loss", "visits_loss", "poisson"], expected)
    assert logs == pytest.approx({**expected, "deviance": deviance}, 1e-4)


def test_a_standardized_loss_has_no_unit_and_all_else_is_in_counts(tmp_path):
    model = compiled(branched(count_heads(Y, standardize=True, tower=[4])))
    p = numpy_of(model(X)["visits"])[:, 0]
    logs = model.evaluate(X, Y, verbose=0, return_dict=True)
    counts = np.nanmean(p - Y["visits"] * np.log(p))
    expected = np.nanmean(p - Y["visits"] * np.log(p / 4.5)) / 4.5
    assert logs["loss"] == logs["visits_loss"] == pytest.approx(expected, 1e-4)
    assert logs["poisson"] == pytest.approx(counts, 1e-4)
    report = pk.task_report(model, X, Y).tasks["visits"]
    assert logs["deviance"] == pytest.approx(report.deviance, 1e-4)
    for each in (model, loaded(model, tmp_path)):
        assert heads_of(each)["visits"].mean == [4.5]
        each.fit(X, Y, verbose=0, callbacks=[pk.FitHedge((X, Y))])
    after = [numpy_of(each(X)["visits"]) for each in (model, each)]
    np.testing.assert_allclose(*after, rtol=1e-5)


REFUSED = {
    "zeros": ([0, 0], True, r"a label above 0.*Received: mean=0 of labels=2$"),
    "no_labels": ([NAN, NAN], True, r"a label above 0.*Received: mean=0 of labels=0$"),
    "negative": ([-1, 2], False, r"at least 0 for the loss 'poisson'.*\[\.\.\., -1\]$"),
    "standardized_negative": ([-1.0, 2.0], True, r"at least 0 for.*missing_label=-1"),
}


@once
@pytest.mark.parametrize(("labels", "standardize", "message"), table(REFUSED))
def test_adapt_refuses_labels_that_are_no_counts(labels, standardize, message):
    heads = count_heads(Y, standardize=standardize)
    check_refused(lambda: heads.adapt({"visits": labels}), ValueError, message)
    assert heads["visits"].label_share == 0.5
    assert heads["visits"].mean == ([4.5] if standardize else None)


def test_adapt_sets_the_bias_until_the_model_is_trained(tmp_path):
    twice = {"visits": 2 * Y["visits"]}
    model = compiled(heads_alone(count_heads(twice, missing_label=-1)))
    heads = heads_of(model)
    assert bias_of(model) == [pytest.approx(math.log(9))]
    heads.adapt({"visits": np.nan_to_num(Y["visits"], nan=-1)})  # after `build`
    assert bias_of(model) == [BIAS]
    copy = cloned(model, tmp_path)
    assert bias_of(copy) == [0]
    copy.set_weights(model.get_weights())
    model.fit(X, Y, verbose=0)
    trained = bias_of(model)
    assert trained != [BIAS]
    for each in (model, loaded(model, tmp_path)):
        heads_of(each).adapt(twice)
        assert bias_of(each) == trained
        heads_of(each).adapt(Y)
        assert bias_of(each) == trained
    assert bias_of(copy) == [BIAS]


@once
@pytest.mark.parametrize("labels", [[0, 0], [NAN, NAN]])
def test_without_a_count_above_zero_the_bias_is_zero(labels):
    assert bias_of(heads_alone(count_heads({"visits": labels}))) == [0]


@once
@pytest.mark.parametrize("is_built", [False, True])
def test_the_heads_of_branches_have_the_bias(is_built):
    heads = count_heads(None if is_built else Y)
    model = branched(heads, [4])
    if is_built:
        heads.adapt(Y)
    biases = [numpy_of(w).tolist() for w in heads.weights if w.path.endswith("bias")]
    assert biases == [[BIAS]] * 2
    copies = [hedged_heads(heads)["visits"][b] for b in ("own", "shared")]
    rates = [np.log(numpy_of(head(np.zeros((1, 4))))) for head in copies]
    np.testing.assert_allclose(rates, np.full((2, 1, 1), BIAS), rtol=1e-6)
    assert np.isfinite(compiled(model).fit(X, Y, verbose=0).history["loss"]).all()

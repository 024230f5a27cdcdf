"""QuantileHead: pinball losses, order, start, reports, mixtures, frames, files and refusals."""

from statistics import NormalDist

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.heads.one_head import loss_of_head
from tests.helpers import QUICK, features, numpy_of, once, randomize
from tests.models import branched, cloned, compiled, heads_alone, loaded
from tests.refusals import INF, NAN, all_refused

LEVELS = [0.1, 0.5, 0.9]
RNG = np.random.default_rng(0)
Y = RNG.normal(size=400)
P = np.sort(RNG.normal(size=(2, 400, 3)), axis=-1)


def head(quantiles=LEVELS, **kwargs):
    return pk.QuantileHead("m", quantiles, **kwargs)


def pinball(y, p, levels=LEVELS):
    """Return the loss of each row."""
    errors = y[:, None] - p
    return np.where(errors > 0, levels * errors, (np.array(levels) - 1) * errors).mean(axis=1)


@pytest.mark.parametrize("axes", [1, 2])
def test_the_loss_is_that_of_scikit_learn(axes):
    y = np.where(np.arange(400) % 3, Y, NAN).astype("float32").reshape((400, 1)[:axes])
    found = loss_of_head(head(), y, P[0].astype("float32"))
    is_known = ~np.isnan(y.ravel())
    assert found == pytest.approx(pinball(Y, P[0])[is_known].mean(), rel=1e-5)
    metrics = pytest.importorskip("sklearn.metrics")
    losses = [
        metrics.mean_pinball_loss(Y[is_known], P[0][is_known, i], alpha=q)
        for i, q in enumerate(LEVELS)
    ]
    assert found == pytest.approx(np.mean(losses), rel=1e-5)


def test_large_labels_keep_their_digits():
    y = (1.7e9 + 1e6 * Y).astype("float32")
    p = (1.7e9 + 1e6 * P[0]).astype("float32")
    found = loss_of_head(head(standardize=True, mean=1.7e9, deviation=1e6), y, p)
    expected = pinball(y - np.float32(1.7e9), p - np.float32(1.7e9)).mean() / 1e6
    assert found == pytest.approx(expected, rel=1e-5)


def test_nine_quantiles_start_at_those_of_a_normal_distribution():
    levels = np.arange(1, 10) / 10
    nine = head(levels, standardize=True, mean=20.0, deviation=2.0)
    found = numpy_of(nine(keras.ops.zeros((1, 3))))[0]
    expected = [20 + 2 * NormalDist().inv_cdf(level) for level in levels]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_quantiles_of_mixtures_never_cross():
    """A million numbers, in float32 and float16."""
    heads = pk.TaskHeads([head(np.arange(1, 11) / 11, standardize=True, mean=7.0, deviation=3.0)])
    model = branched(heads)
    randomize(model, scale=2.0)
    found = model.predict(5 * features(100_000, 3), batch_size=50_000, verbose=0)["m"]
    assert found.size == 10**6
    for dtype in ("float32", "float16"):
        assert (np.diff(found.astype(dtype), axis=-1) >= 0).all()


def test_hedged_models_are_trained_and_files_continue(tmp_path):
    heads = pk.TaskHeads([head(standardize=True, tower=[4])])
    model = compiled(branched(heads), **QUICK)
    x, y = features(64, 3), {"m": (50 + 9 * features(64, seed=1)).astype("float32")}
    y["m"][::5] = NAN
    logs = model.fit(x, y, validation_data=(x, y), epochs=2, verbose=0).history
    assert {"standardized_pinball", "hedge/loss", "hedge/m/own"} <= {*logs}
    assert heads["m"].mean == pytest.approx([np.nanmean(y["m"])])
    expected = model.predict(x, verbose=0)["m"]
    copies = [copy(model, tmp_path) for copy in (loaded, cloned)]
    copies[1].set_weights(model.get_weights())
    copies.append(branched(pk.TaskHeads([head(standardize=True, tower=[4])])))
    assert not pk.transfer_weights(model, copies[2]).left_out
    for each in copies:
        np.testing.assert_allclose(each.predict(x, verbose=0)["m"], expected, rtol=1e-6)
    losses = [
        each.fit(x, y, shuffle=False, verbose=0).history["loss"] for each in (model, copies[0])
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    relative = (pinball(y["m"], expected)[~np.isnan(y["m"])]).mean()
    known = y["m"][~np.isnan(y["m"])]
    constant = np.quantile(known, LEVELS, method="inverted_cdf")
    report = pk.task_report(copies[1], x, y, new_rows=True)
    figures = report.tasks["m"]
    baseline = pinball(known, np.tile(constant, (len(known), 1))).mean()
    assert figures.relative_error == pytest.approx(relative / baseline, rel=1e-5)
    covered = (expected[:, 0] <= y["m"]) & (y["m"] <= expected[:, 2])
    assert figures.coverage == pytest.approx(covered.sum() / len(known))
    assert figures.nominal_coverage == pytest.approx(0.8)
    assert f"coverage {figures.coverage:.1%} of 0.8" in str(report)
    assert [*report.gains["m"]] == ["own", "shared"]


@once
def test_learned_weights_have_the_form_of_a_laplace_distribution():
    heads = pk.TaskHeads([head()], loss_weighting="uncertainty")
    heads_alone(heads)
    assert heads.loss_weights() == {"m": 1.0}
    loss = loss_of_head(head(), Y.astype("float32"), P[0].astype("float32"))
    total = heads.compute_loss({"m": Y.astype("float32")}, {"m": P[0].astype("float32")})
    assert float(total) == pytest.approx(loss, rel=1e-6)


@once
def test_predictions_are_compared_and_mixed():
    predictions = {name: {"m": p} for name, p in zip("ab", P)}
    gain = pk.compare_predictions({"m": Y}, predictions, {"m": head()}).gains["m"]["b"]
    means = [pinball(Y, p).mean() for p in P]
    assert [gain.loss, gain.other_loss] == pytest.approx(means)
    crossing = {"a": {"m": P[0]}, "b": {"m": P[1][:, ::-1]}}
    found, expected = (
        pk.mix_predictions({"m": Y}, each, {"m": head(standardize=True)})
        for each in (crossing, predictions)
    )
    assert found.weights == expected.weights
    mixed = found.predict(crossing)["m"]
    a, b = found.weights["m"].values()
    np.testing.assert_allclose(mixed, a * P[0] + b * P[1])
    lacking = {"a": {"m": np.where(Y[:, None] == Y[0], [[1, np.nan, 3]], P[0])}, "b": {"m": P[1]}}
    assert np.isnan(found.predict(lacking)["m"][0]).all()
    large = {name: {"m": 1e6 * p + 1.7e9} for name, p in zip("ab", P)}
    scaled = pk.mix_predictions({"m": 1e6 * Y + 1.7e9}, large, {"m": head()})
    assert scaled.weights["m"]["a"] == pytest.approx(a, abs=1e-3)


@once
def test_a_frame_has_a_column_for_each_quantile():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": Y, "m": 2 * Y + 1})
    model = pk.TabularModel({"m": head(standardize=True)}, units=(4,), seed=0)
    model = model.fit(frame, epochs=1, verbose=0)
    found = model.predict(frame)
    assert [*found] == ["m: 0.1", "m: 0.5", "m: 0.9"]
    assert (np.diff(found, axis=1) >= 0).all()
    assert np.isfinite(
        [model.score(frame), model.importance(frame, repeats=1)["m"]["x"].increase]
    ).all()


QUANTILES = {
    "empty": ([], r"quantiles must be ascending numbers"),
    "descending": ([0.5, 0.1], r"ascending numbers.*Received: quantiles=\[0\.5, 0\.1\]"),
    "repeated": ([0.5, 0.5], r"ascending numbers"),
    "zero": ([0, 0.5], r"quantiles must be finite and above 0 and below 1.*quantiles=0"),
    "one": ([0.5, 1], r"below 1"),
    "infinite": ([0.5, INF], r"must be finite"),
    "number": (0.5, TypeError, r"quantiles must be a sequence of numbers"),
    "text": ("0.5", TypeError, r"quantiles must be a sequence of numbers"),
    "none": ([None], TypeError, r"quantiles must be a number"),
}
ARGUMENTS = {
    "mean": ({"mean": 1.0}, r"mean and deviation must be given together"),
    "means": ({"standardize": True, "mean": LEVELS, "deviation": LEVELS}, r"units=1, mean="),
}
test_wrong_quantiles_are_refused = once(all_refused(head, QUANTILES))
test_wrong_arguments_are_refused = once(all_refused(lambda changed: head(**changed), ARGUMENTS))


@once
@pytest.mark.parametrize("argument", ["units", "targets", "activation", "loss"])
def test_arguments_that_the_head_sets_are_refused(argument):
    with pytest.raises(TypeError, match=f"multiple values for keyword argument '{argument}'"):
        head(**{argument: None})


@once
def test_labels_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"y\['m'\] must have a shape \(batch, 1\) or \(batch,\)"):
        pk.TaskHeads([head()]).check_labels({"m": np.ones((4, 3))})
    three = {name: {"m": np.ones((4, 2))} for name in "ab"}
    with pytest.raises(ValueError, match=r"losses\['m'\] must be a kind that allows"):
        pk.compare_predictions({"m": np.arange(4.0)}, three, {"m": head()})

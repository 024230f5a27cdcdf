"""StackedTasks against SciPy, on missing and extreme predictions, in files and exports."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.steps.trace_function import trace_function
from tests.helpers import QUICK, assert_same, numpy_of, once
from tests.integrations import serve_exported
from tests.integrations.test_export import FORMATS, export, need, suppress_output
from tests.layers.reference import sigmoid
from tests.models import branched, cloned, compiled, heads_of, loaded
from tests.processes import run_to_end
from tests.refusals import INF, NAN, all_refused

ROWS = 400
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 3)).astype("float32")
Y = {
    "like": (RNG.random(ROWS) < sigmoid(2 * X[:, 0])).astype("float32"),
    "stars": X[:, 0] + RNG.normal(size=ROWS),
    "visits": RNG.poisson(np.exp(X[:, 0])).astype("float32"),
    "spend": RNG.gamma(1, np.exp(X[:, 0])) * (RNG.random(ROWS) < 0.7),
    "genre": RNG.integers(0, 3, ROWS),
}
Y["like"][::3], Y["visits"][::4] = -1, NAN
F = {task: X[:, :1] + scale * RNG.normal(size=(ROWS, 1)) for task, scale in zip(Y, (2, 0.3, 1, 1))}
P = {"like": sigmoid(F["like"]), "visits": np.exp(F["visits"]), "spend": np.exp(F["spend"])}
P |= {"stars": F["stars"], "genre": RNG.dirichlet([1, 1, 1], ROWS)}
P = {task: p.astype("float32") for task, p in P.items()}
POWERS = {"visits": 1, "spend": 1.5}
WEIGHTS = np.arange(ROWS) % 3
SMOOTHED = keras.losses.BinaryCrossentropy(label_smoothing=0.1)


def heads(*others, like=None):
    like = like or pk.BinaryHead("like", pos_weight=2.0, missing_label=-1)
    counts = pk.CountHead("visits", standardize=True), pk.TweedieHead("spend")
    genre = pk.MulticlassHead("genre", num_classes=3)
    return pk.TaskHeads([like, pk.RegressionHead("stars"), *counts, genre, *others])


def adapted(p=P, y=Y, sample_weight=None, of=None):
    stacked = pk.StackedTasks(of or heads())
    stacked.adapt(p, y, sample_weight)
    return stacked


def by_hand(task, minimize):
    """Return the own weight, the effects, and the predictions."""
    known = (Y[task] >= 0) & (WEIGHTS > 0) if task != "stars" else WEIGHTS > 0
    y, w = Y[task][known].astype("float64"), WEIGHTS[known].astype("float64")
    means, power = (P[task][known, 0], np.average(y, weights=w)), POWERS.get(task, 0)
    ratios = [np.average((y - m) ** 2 / np.abs(m) ** power, weights=w) for m in means]
    dispersion, activation = min(ratios), np.exp
    ridge, losses = 10, lambda g: (2 * np.exp(g / 2) + 2 * y * np.exp(-g / 2)) / dispersion
    if task == "visits":
        losses = lambda g: (np.exp(g) - y * g) / dispersion  # noqa: E731
    elif task == "stars":
        ridge, activation = 10 / dispersion, np.copy
        losses = lambda g: (y - g) ** 2 / 2 / dispersion  # noqa: E731
    elif task == "like":
        w, losses, activation = w * (1 + y), lambda g: np.logaddexp(0, g) - y * g, sigmoid
    branches, slopes = [F[task][:, 0]], [1.0]
    others = [other for other in F if other != task]
    for f in (F[other][:, 0] for other in others):
        center = np.average(f[known], weights=w)
        z = (f - center) / np.average((f[known] - center) ** 2, weights=w) ** 0.5
        loss = lambda b, z=z: w @ losses(b[0] + b[1] * z[known]) + ridge / 2 * b[1] ** 2  # noqa: E731
        start, slope = minimize(loss, [0.5, 0.1], options={"gtol": 1e-6}).x
        branches, slopes = [*branches, start + slope * z], [*slopes, slope]

    def total(logits):
        shares = np.exp(logits - np.logaddexp.reduce(logits))
        mixed = shares @ np.stack(branches)[:, known]
        return w @ losses(mixed) - np.log(shares) @ [10, 0.5, 0.5, 0.5]

    logits = minimize(total, [2.0, 0, 0, 0], options={"gtol": 1e-6}).x
    shares = np.exp(logits - np.logaddexp.reduce(logits))
    return dict(zip([task, *others], shares * slopes)), activation(shares @ branches)[:, None]


def test_tasks_read_each_other_as_in_scipy():
    minimize = pytest.importorskip("scipy.optimize").minimize
    stacked = adapted(sample_weight=WEIGHTS)
    found = numpy_of(stacked({**P, "like": P["like"].astype("float16")}))
    assert found["like"].dtype == "float16"
    found = numpy_of(stacked(P))
    for task in F:
        coefficients, predictions = by_hand(task, minimize)
        assert_same(stacked.coefficients[task], coefficients, atol=1e-3)
        np.testing.assert_allclose(found[task], predictions, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(found["genre"], P["genre"])


@once
def test_weights_count_as_rows_units_and_the_order_of_tasks_change_nothing():
    repeated = [{t: np.repeat(a[t], WEIGHTS, axis=0) for t in a} for a in (P, Y)]
    expected = numpy_of(adapted(sample_weight={"like": WEIGHTS})(P))["like"]
    np.testing.assert_allclose(numpy_of(adapted(*repeated)(P))["like"], expected, rtol=1e-4)
    scales = {"stars": 1000, "visits": 1000, "spend": 1e-3}
    p, y = ({t: scales.get(t, 1) * a[t] for t in reversed(a)} for a in (P, Y))
    found = numpy_of(adapted(p, y, of={t: heads()[t] for t in p})(p))
    assert_same({t: found[t] / scales.get(t, 1) for t in P}, numpy_of(adapted()(P)), atol=1e-4)


def test_missing_and_extreme_predictions_count_as_the_mean_and_the_ends():
    stacked, p = adapted(), {task: np.repeat(x[:1], 8, axis=0) for task, x in P.items()}
    known = {task: np.copy(x) for task, x in p.items()}
    p["stars"][:6, 0] = NAN, INF, -INF, 3e38, -3e38, P["stars"].max()
    known["stars"][:6, 0] = [F["stars"][Y["visits"] >= 0].mean()] * 3 + [9e9, -9e9, 9e9]
    p["visits"][6], known["visits"][6] = 0, 2.0**-23
    found, expected = numpy_of(stacked(p)), numpy_of(stacked(known))
    np.testing.assert_array_equal(found["stars"][:3], p["stars"][:3])
    np.testing.assert_allclose(found["visits"], expected["visits"], rtol=1e-5)
    missing = {t: np.where(np.arange(ROWS)[:, None] % 7 == 0, NAN, x) for t, x in P.items()}
    assert np.isfinite(numpy_of(adapted(missing)(P))["visits"]).all()
    sequences = {task: x.reshape(4, 100, -1) for task, x in P.items()}
    labels = {task: y.reshape(4, 100) for task, y in Y.items()}
    expected = {task: x.reshape(4, 100, -1) for task, x in numpy_of(stacked(P)).items()}
    assert_same(numpy_of(adapted(sequences, labels)(sequences)), expected)


@pytest.mark.parametrize("forms", FORMATS, ids=", ".join)
def test_exports_predict_the_same(forms, tmp_path):
    few = {**Y, "visits": np.where(np.arange(ROWS) < 40, Y["visits"], NAN)}
    inputs = {task: keras.Input(x.shape[1:], name=f"in_{task}") for task, x in P.items()}
    model = keras.Model({x.name: x for x in inputs.values()}, adapted(y=few)(inputs))
    x = {f"in_{task}": p.copy() for task, p in P.items()}
    x["in_stars"][:3, 0], x["in_visits"][3:6, 0] = [NAN, INF, -INF], [NAN, INF, 0]
    expected = model.predict(x, verbose=0)
    np.testing.assert_array_equal(expected["visits"], x["in_visits"])  # with too few labels
    for form in forms:
        need(form)
        (folder := tmp_path / form).mkdir()
        with suppress_output():
            export(form, model, folder)
            (file,) = [name for name in serve_exported.LOADERS if (folder / name).exists()]
            outputs = serve_exported.LOADERS[file](folder / file)(x)
        assert_same({t: np.asarray(outputs[t]) for t in P}, expected)


LOADED = """
import sys, keras, numpy as np, ple_keras
model = keras.models.load_model(sys.argv[1] + "/model.keras")
predictions = model.predict(np.load(sys.argv[1] + "/x.npy"), verbose=0)
np.savez(sys.argv[1] + "/found.npz", **predictions)
print(model.layers[-1].coefficients)
"""


@once  # on all backends, tests/compat loads a file, and tests/tabular serves a model
def test_a_second_model_serves_a_hedged_model(tmp_path, monkeypatch):
    monkeypatch.setattr("ple_keras.steps.traced_step.MAX_GRAPHS", 0)
    model = compiled(branched(heads()), **QUICK)
    labels = {task: y.astype("float32") for task, y in Y.items()}
    model.fit(X, labels, validation_data=(X, labels), verbose=0)
    stacked = pk.StackedTasks(heads_of(model))
    served = keras.Model(model.input, stacked(model.output))
    predictions = model.predict(X, verbose=0)
    assert_same(served.predict(X, verbose=0), predictions, atol=0)
    assert stacked.coefficients == pk.task_report(served, X, labels).reads == {}
    stacked.adapt(predictions, Y)
    found = served.predict(X, verbose=0)
    assert all(np.abs(found[task] - predictions[task]).max() > 1e-3 for task in F)
    assert_same(numpy_of(stacked(predictions, training=True)), predictions, atol=0)
    report = pk.task_report(served, X, labels)
    assert report.reads == stacked.coefficients
    assert (str(report).count("stacked"), str(report).count("mixed")) == (len(F), 1)
    copy = cloned(served, tmp_path)
    copy.set_weights(served.get_weights())
    for each in (copy, loaded(served, tmp_path)):
        assert_same(each.predict(X, verbose=0), found, atol=0)
    np.save(tmp_path / "x.npy", X)
    assert run_to_end("-c", LOADED, tmp_path).strip() == str(stacked.coefficients)
    assert_same(dict(np.load(tmp_path / "found.npz")), found)


@once
def test_predictions_are_traced_on_pytorch():
    inputs, tasks = keras.Input((), dtype="int32"), heads()
    features = keras.layers.Embedding(9, 4)(inputs)
    outputs = adapted(of=tasks)(tasks(dict.fromkeys(tasks.task_names, features)))
    model, x = keras.Model(inputs, outputs), np.arange(5)
    trace_function(model, "predict")
    for _ in range(3):
        assert_same(model.predict_on_batch(x), numpy_of(model(x)))
    assert len(model.predict_function._graphs.replays) == 1


RARE = np.where(np.arange(ROWS) < 9, 1.0, 0.0)
READS_NOTHING = {
    "product": (heads(pk.BinaryHead("buy"), pk.ProductHead("both", of=("like", "buy"))), Y),
    "smoothed": (heads(like=pk.BinaryHead("like", loss=SMOOTHED)), Y),
    "custom": (heads(like=pk.BinaryHead("like", loss=lambda y, p: (y - p) ** 2)), Y),
    "soft": (heads(), {**Y, "like": np.full(ROWS, 0.5)}),
    "rare": (heads(), {**Y, "like": RARE}),
    "few": (heads(), {**Y, "like": np.where(np.arange(ROWS) < 49, RARE, NAN)}),
    "unweighted": (heads(), {**Y, "like": np.full(ROWS, NAN)}),
}


@once
@pytest.mark.parametrize(("of", "y"), READS_NOTHING.values(), ids=READS_NOTHING)
def test_tasks_that_read_nothing_pass_unchanged(of, y):
    p = {task: P.get(task, P["like"]) for task in of}
    stacked = adapted(p, y | {"buy": Y["like"]}, of=of)
    assert {"stars", "visits", "spend"} == {*stacked.coefficients}
    np.testing.assert_array_equal(numpy_of(stacked(p))["like"], p["like"])


P_1 = {task: x[:, 0] for task, x in P.items()}
test_wrong_arguments_are_refused = all_refused(
    lambda call: call(),
    {
        "heads": (lambda: pk.StackedTasks([*heads().values()]), TypeError, "heads must be a Task"),
        "key": (lambda: pk.StackedTasks({"a": heads()["like"]}), TypeError, "keyed by task"),
        "list": (lambda: adapted()([P["like"]]), TypeError, "inputs must be a dict keyed by task"),
        "unknown": (lambda: adapted()({**P, "a": P["like"]}), r"unknown: \['a'\]"),
        "missing": (lambda: adapted({"like": P["like"]}), r"predictions must .* missing: \['stars"),
        "labels": (lambda: adapted(y={"like": Y["like"]}), r"y must .* missing: \['spend"),
        "shape": (
            lambda: adapted(P_1),
            r"predictions must have the same shape \(batch, \.\.\., 1\)",
        ),
        "rows": (lambda: adapted({t: x[:0] for t, x in P.items()}), "predictions must have rows"),
        "y": (lambda: adapted(y={**Y, "like": Y["like"][:9]}), r"y\['like'\] must have a shape"),
        "weights": (lambda: adapted(sample_weight=-WEIGHTS), "sample_weight.* must be finite"),
        "counts": (lambda: adapted(y={**Y, "visits": -WEIGHTS}), r"y\['visits'\] must be at least"),
    },
)

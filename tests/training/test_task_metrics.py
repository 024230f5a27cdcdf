"""Metrics of heads: names, values over labeled examples, NaN without labels, and refusals."""

import functools
import warnings

import keras
import numpy as np
import pytest
from sklearn.metrics import f1_score, r2_score, roc_auc_score

import ple_keras as pk
from tests.helpers import QUICK, features, numpy_of, once, randomize
from tests.models import compiled, heads_alone, nested, tracked_block
from tests.pairs import fewer
from tests.refusals import table

NAN = float("nan")
ROWS = 40


@keras.saving.register_keras_serializable("test_task_metrics")
def gap(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)


def model_of(*heads, **kwargs):
    """Return a compiled model whose weights do not change."""
    return compiled(heads_alone(pk.TaskHeads(heads)), keras.optimizers.SGD(0.0), **kwargs)


def keys_of(*heads):
    return sorted(model_of(*heads).get_metrics_result())


def evaluate(model, y, batch_size=8):
    x = features(len(next(iter(y.values()))), 3)
    return model.evaluate(x, y, batch_size=batch_size, verbose=0, return_dict=True)


# Names

DEFAULTS = {
    "head": (pk.Head("a", loss="poisson"), ["poisson"]),
    "without_a_loss": (pk.Head("a"), None),
    "extra": (pk.BinaryHead("a", extra_metrics=["mae"]), ["binary_crossentropy", "auc", "mae"]),
    "as_losses": (
        pk.BinaryHead("a", metrics=[*map(keras.metrics.MeanAbsoluteError, ["loss", "a_loss"])]),
        ["loss_1", "a_loss_1"],
    ),
    "numbered": (
        pk.RegressionHead(
            "a",
            metrics=[keras.metrics.Precision(), keras.metrics.Precision(thresholds=0.9)],
            extra_metrics=["mae", keras.metrics.Precision(name="p"), "mae"],
        ),
        ["precision", "precision_1", "mae", "p", "mae_1"],
    ),
    "taken": (
        pk.BinaryHead("a", extra_metrics=["binary_crossentropy", pk.LogitAUC()]),
        ["binary_crossentropy", "auc", "binary_crossentropy_1", "auc_1"],
    ),
}


@once
@pytest.mark.filterwarnings("ignore:The task")
@pytest.mark.parametrize(("head", "names"), table(DEFAULTS))
def test_metrics_have_stable_names_and_survive_the_config(head, names):
    config, other = head.get_config(), pk.BinaryHead("b", metrics=[])
    for _ in range(2):
        head = type(head).from_config(config)
        assert head.get_config() == config
        if names is not None:
            assert keys_of(head) == sorted(["loss", "a_loss", *names])
        head = type(head).from_config(config)
        a_keys = [] if names is None else ["a_loss", *(f"a_{name}" for name in names)]
        assert keys_of(head, type(other).from_config(other.get_config())) == sorted(
            ["loss", "b_loss", *a_keys]
        )


@once
def test_every_compile_has_new_metrics_and_a_model_lists_each_once():
    mine = keras.metrics.MeanAbsoluteError()
    heads = [pk.BinaryHead("a"), pk.RegressionHead("b", metrics=[mine]), pk.Head("c")]
    model = model_of(*heads)
    names = ["loss", "task_means", "task_aucs", "b_mean_absolute_error"]
    assert [metric.name for metric in model.metrics] == names
    model.train_on_batch(features(4, 3), dict.fromkeys("ab", np.arange(4) % 2))
    first = model.metrics
    compiled(model)
    assert not {id(metric) for metric in first} & {id(metric) for metric in [*model.metrics, mine]}
    assert float(mine.result()) == float(model.metrics[-1].result()) == 0
    inner = compiled(nested(tracked_block()))
    assert [metric.name for metric in inner.metrics] == ["loss", "task_means"]


# Values

MANY = {
    "click": (pk.BinaryHead, {"extra_metrics": ["accuracy"]}),
    "time": (pk.RegressionHead, {"extra_metrics": ["mae", gap]}),
    "place": (pk.RegressionHead, {"units": 2, "loss": "mae"}),
    "kind": (pk.MulticlassHead, {"num_classes": 3}),
    "both": (pk.ProductHead, {"of": ("click", "buy")}),
    "buy": (pk.BinaryHead, {"pos_weight": 3.0}),
}


def labels_of_many(rate, missing_label):
    """Return labels with a share of examples kept for each task, and the mask of kept ones."""
    rng = np.random.default_rng(1)
    y = {
        "click": rng.integers(0, 2, ROWS),
        "time": rng.normal(size=(ROWS, 1)),
        "place": rng.normal(size=(ROWS, 2)),
        "kind": rng.integers(0, 3, (ROWS, 1)),
        "both": rng.integers(0, 2, ROWS),
        "buy": rng.integers(0, 2, (ROWS, 1)),
    }
    hidden, kept = {}, {}
    for task, labels in y.items():
        kept[task] = rng.permutation(ROWS) < max(5, rate * ROWS)
        where = kept[task].reshape((ROWS,) + (1,) * (labels.ndim - 1))
        hidden[task] = np.where(where, labels, missing_label)
    return hidden, kept


def entropy(y, p):
    return -np.where(y == 1, np.log(p), np.log1p(-p))


def expected_metrics(y, p):
    """Return the metrics of labels and predictions without missing ones, in NumPy."""
    y = {task: labels.reshape((len(labels), -1)) for task, labels in y.items()}
    time, place = p["time"] - y["time"], p["place"] - y["place"]
    kind = y["kind"].astype(int)
    buy = entropy(y["buy"], p["buy"]) * (1 + 2 * y["buy"])
    return {
        **{f"{task}_auc": roc_auc_score(y[task], p[task]) for task in ("click", "both", "buy")},
        "click_accuracy": ((p["click"] > 0.5) == y["click"]).mean(),
        "click_binary_crossentropy": entropy(y["click"], p["click"]).mean(),
        "both_binary_crossentropy": entropy(y["both"], p["both"]).mean(),
        "buy_weighted_binary_crossentropy": buy.mean(),
        "time_mean_squared_error": (time**2).mean(),
        "time_rmse": (time**2).mean() ** 0.5,
        "time_mae": np.abs(time).mean(),
        "time_gap": np.abs(time).mean(),
        "place_mae": np.abs(place).mean(),
        "place_rmse": (place**2).mean() ** 0.5,
        "kind_accuracy": (p["kind"].argmax(axis=-1) == kind[:, 0]).mean(),
        "kind_sparse_categorical_crossentropy": -np.log(
            np.take_along_axis(p["kind"], kind, -1)
        ).mean(),
    }


RATES = {"all": (1.0, -7), "some": (0.4, NAN), "few": (0.1, -7)}


@pytest.mark.parametrize(("rate", "missing_label"), fewer(RATES, "few"))
def test_metrics_are_those_of_the_labeled_examples(rate, missing_label):
    """In `fit`, its validation and `evaluate`, over batches, some of which have no label."""
    y, kept = labels_of_many(rate, missing_label)
    heads = [make(task, missing_label=missing_label, **kw) for task, (make, kw) in MANY.items()]
    is_eager = keras.backend.backend() == "torch"  # without traces
    model, x = model_of(*heads, run_eagerly=is_eager), features(ROWS, 3)
    randomize(model, seed=3, scale=1.5)
    weights = {task: np.linspace(0.5, 2, ROWS) for task in y}  # they have no effect
    fitted = model.fit(x, y, 8, sample_weight=weights, validation_data=(x, y), verbose=0).history
    p = {task: np.float64(array) for task, array in model.predict(x, verbose=0).items()}
    expected = expected_metrics(
        {task: y[task][kept[task]] for task in y}, {task: p[task][kept[task]] for task in p}
    )
    logs = evaluate(model, y)
    assert set(logs) == {*expected, "loss", *(f"{task}_loss" for task in y)}
    for key, value in expected.items():
        atol = 0.01 if key.endswith("auc") else 1e-6  # two logits in one interval count half
        for found in (fitted[key][0], fitted[f"val_{key}"][0], logs[key]):
            assert found == pytest.approx(value, rel=1e-4, abs=atol), key


def test_losses_of_batches_are_weighted_by_rows():
    """As the `loss` of Keras. A batch without a label counts as 0."""
    model = model_of(pk.RegressionHead("a", loss_weight=3.0), pk.BinaryHead("b", loss_weight=0.5))
    y = {"a": features(11, 1, seed=1)[:, 0], "b": (np.arange(11) % 2).astype("float32")}
    y["a"][[0, 3, 9]] = y["b"][8:] = NAN  # the last batch has 3 rows
    x, w = features(11, 3), np.linspace(0.5, 2, 11)
    logs = model.evaluate(x, y, 4, sample_weight=w, verbose=0, return_dict=True)
    p = numpy_of(model(x))
    losses = {
        "a": w * (p["a"][:, 0] - y["a"]) ** 2,
        "b": w * entropy(y["b"], p["b"][:, 0]) * np.where(np.isnan(y["b"]), NAN, 1),
    }
    means = {
        task: sum(len(b) * np.nansum(b) / max(np.isfinite(b).sum(), 1) for b in batches) / 11
        for task in y
        for batches in [np.split(losses[task], [4, 8])]
    }
    assert logs["a_loss"] == pytest.approx(means["a"], rel=1e-5)
    assert logs["b_loss"] == pytest.approx(means["b"], rel=1e-5)
    assert logs["loss"] == pytest.approx(3 * means["a"] + 0.5 * means["b"], rel=1e-5)


# NaN


def caught_in(call):
    """Return the result of a call and the messages of its warnings of this library."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    found = [w for w in caught if str(w.message).startswith("The task")]
    assert {w.filename for w in found} <= {__file__}
    return result, sorted(str(w.message).partition(" in these data")[0] for w in found)


def test_metrics_without_a_label_are_nan_with_one_warning_for_each_task():
    vector = keras.metrics.F1Score(average=None, threshold=0.5)
    heads = [
        *(pk.BinaryHead(task) for task in ("all", "one", "none")),
        pk.RegressionHead("number", extra_metrics=[vector]),
    ]
    model, x = model_of(*heads, **QUICK), features(8, 3)
    both = np.repeat([0, 1], 4)  # a class a batch
    y = {"all": both, "one": both, "none": both, "number": both}
    none = np.full(8, NAN)
    valid = {"all": both, "one": np.where(both, 1, NAN), "none": none, "number": none}
    fit = functools.partial(model.fit, x, y, 4, epochs=2, verbose=0, validation_data=(x, valid))
    logs, messages = caught_in(lambda: fit().history)
    assert messages == ["The task 'none' has no label", "The task 'number' has no label"]
    is_nan = {key for key in logs if np.isnan(logs[key]).all()}
    assert is_nan == {"val_one_auc", *(key for key in logs if key.startswith(("val_no", "val_nu")))}
    assert np.isfinite([np.ravel(logs[key]) for key in set(logs) - is_nan]).all()
    assert caught_in(lambda: evaluate(model, valid))[1] == []
    compiled(model, **QUICK)
    assert caught_in(lambda: evaluate(model, valid))[1] == messages


# Refusals


@keras.saving.register_keras_serializable("test_task_metrics")
class Unweighted(keras.metrics.Mean):
    """A metric that does not accept sample weights."""

    def update_state(self, y_true, y_pred):
        pass


class IncompleteConfig(keras.metrics.Mean):
    """A metric whose config lacks an argument."""

    def __init__(self, k=10, name="incomplete_config", **kwargs):
        super().__init__(name=name, **kwargs)


def total(y_true, y_pred):
    return keras.ops.sum(y_pred)


REFUSED = {
    "unweighted": (Unweighted(), ValueError, "metrics must accept labels.*unexpected keyword"),
    "not_copyable": (IncompleteConfig(k=3), TypeError, r"takes \['k'\], which its config lacks"),
    "one_number": (total, ValueError, r"a value for each example\. The update of 'total' failed"),
}


@once
@pytest.mark.parametrize(("metric", "error", "message"), table(REFUSED))
def test_metrics_are_refused(metric, error, message):
    head = pk.RegressionHead("a", extra_metrics=[metric])
    with pytest.raises(error, match=f"(?s){message}"):
        evaluate(model_of(head), {"a": np.array([1.0, NAN, 1.0])})


def test_metrics_that_create_variables_late_cover_only_labeled_rows():
    numbers = pk.RegressionHead("b", units=2, metrics=[keras.metrics.R2Score()])
    click = pk.BinaryHead("a", metrics=[keras.metrics.F1Score(threshold=0.5)])
    model, x = model_of(click, numbers), features(12, 3)
    y = {"a": np.where(np.arange(12) % 4, np.arange(12) % 2, NAN), "b": features(12, 2, seed=4)}
    y["b"][::3] = NAN
    kept = {"a": np.arange(12) % 4 > 0, "b": np.arange(12) % 3 > 0}
    p = model.predict(x, verbose=0)
    known = {task: (np.ravel(y[task][kept[task]]), np.ravel(p[task][kept[task]])) for task in y}
    expected = {
        "a_f1_score": f1_score(known["a"][0], known["a"][1] > 0.5),
        "b_r2_score": r2_score(y["b"][kept["b"]], p["b"][kept["b"]]),
    }
    logs = model.fit(x, y, batch_size=5, epochs=2, verbose=0).history
    for key, value in expected.items():
        assert np.ravel(logs[key]) == pytest.approx([value, value], rel=1e-4, abs=1e-5), key

"""TweedieHead: losses and deviances of amounts, their mixtures, and refusals."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.hedging.mixture import LabeledValues, best_mixture
from tests.helpers import QUICK, features, numpy_of, once
from tests.models import branched, cloned, compiled, heads_alone, heads_of, loaded
from tests.refusals import INF, NAN, all_refused, check_refused

POWERS = [1.5, 2.0, *(pytest.param(power, marks=once) for power in (1.1, 1.9))]
UNITS = [1e-6, 1.0, 1e9]


def amounts(power, count=60, unit=1.0):
    """Return amounts, of which a third are 0 with a power below 2, and predictions."""
    rng = np.random.default_rng(0)
    y, p = rng.gamma(2, 3, (2, count)) * unit
    y[::3] = 0.0 if power < 2 else y[::3]
    return y.astype("float32"), p.astype("float32")


def deviances(y, p, power):
    y, p = y.astype("float64"), p.astype("float64")
    if power == 2:
        return 2 * (np.log(p / y) + y / p - 1)
    a, b = 1 - power, 2 - power
    return 2 * (y**b / (a * b) - y * p**a / a + p**b / b)


def half_deviances(power, y, p):
    head = pk.TweedieHead("a", power)
    return head.example_losses(*(keras.ops.convert_to_tensor(x[:, None]) for x in (y, p)))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("power", POWERS)
def test_losses_and_the_metric_are_the_deviances_of_numpy_and_scikit_learn(power, unit):
    y, p = amounts(power, unit=unit)
    expected = deviances(y, p, power)
    found = 2 * numpy_of(half_deviances(power, y, p)).astype("float64")
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6 * expected.max())
    (metric,) = pk.TweedieHead("a", power)._default_metrics()
    metric.update_state(y, p)
    assert float(metric.result()) == pytest.approx(expected.mean(), rel=2e-6)
    metrics = pytest.importorskip("sklearn.metrics")
    reference = metrics.mean_tweedie_deviance(np.float64(y), np.float64(p), power=power)
    assert float(metric.result()) == pytest.approx(reference, rel=2e-6)
    again = type(metric).from_config(metric.get_config())
    assert (again.power, again.name) == (power, "deviance")


@pytest.mark.parametrize("power", [pytest.param(1.01, marks=once), *POWERS])
def test_amounts_far_from_their_prediction_have_exact_losses_and_finite_steps(power):
    y = np.float32([1e-6, 1e-3, 1.0, 2e5, 1e9])
    p = np.float32([1e6, 1e5, 1e8, 2e-3, 1e-3])
    found = 2 * numpy_of(half_deviances(power, y, p)).astype("float64")
    np.testing.assert_allclose(found, deviances(y, p, power), rtol=1e-4)
    for logit in (-95.0, -30.0, 30.0, 85.0):
        model = heads_alone(pk.TaskHeads([pk.TweedieHead("a", power)]), width=1)
        compiled(model, keras.optimizers.SGD(1e-30), **QUICK)
        heads_of(model)["a"]._projection.kernel.assign([[0.0]])
        heads_of(model)["a"]._projection.bias.assign([logit])
        logs = model.train_on_batch(np.ones((5, 1)), {"a": y}, return_dict=True)
        assert np.isfinite(logs["loss"])
        assert all(np.isfinite(weight).all() for weight in model.get_weights())


@pytest.mark.parametrize("power", POWERS)
def test_a_training_step_has_the_gradient_of_the_deviance(power):
    """The gradient of half a deviance with respect to the logit is m^(2 - p) - y m^(1 - p)."""
    y, _ = amounts(power, 8)
    x, rate = np.ones((8, 1), "float32"), 0.25
    model = heads_alone(pk.TaskHeads([pk.TweedieHead("a", power)]), width=1)
    compiled(model, keras.optimizers.SGD(rate), **QUICK)
    kernel, bias = (numpy_of(w).ravel()[0] for w in model.trainable_weights)
    model.train_on_batch(x, {"a": y})
    mean = np.exp(kernel + bias)
    gradient = np.mean(mean ** (2 - power) - y * mean ** (1 - power))
    found = [numpy_of(w).ravel()[0] for w in model.trainable_weights]
    np.testing.assert_allclose(found, [kernel - rate * gradient, bias - rate * gradient], rtol=1e-4)


@pytest.mark.parametrize("policy", ["float32", pytest.param("mixed_float16", marks=once)])
def test_a_standardized_loss_has_no_unit_and_files_continue(policy, tmp_path):
    y, _ = amounts(1.5, 12, unit=1e9)
    x = features(12, 3)
    heads = pk.TaskHeads([pk.TweedieHead("a", 1.5, [4], standardize=True, dtype=policy)])
    heads.adapt({"a": y})
    model = compiled(branched(heads), keras.optimizers.Adam(0.01), **QUICK)
    p = numpy_of(model(x)["a"])[:, 0]
    assert heads["a"].mean == pytest.approx([y.mean()], rel=1e-6)
    assert 0.1 < p.mean() / y.mean() < 10
    logs = model.evaluate(x, {"a": y}, return_dict=True, verbose=0)
    expected = deviances(y / y.mean(), p / y.mean(), 1.5).mean() / 2
    assert logs["loss"] == pytest.approx(expected, rel=1e-3)
    assert logs["deviance"] == pytest.approx(deviances(y, p, 1.5).mean(), rel=1e-3)
    report = pk.task_report(model, x, {"a": y}).tasks["a"]
    assert report.deviance == pytest.approx(logs["deviance"], rel=1e-3)
    constant = deviances(y, np.full_like(y, y.mean()), 1.5).mean()
    assert report.relative_error == pytest.approx(logs["deviance"] / constant, rel=1e-3)
    copies = [loaded(model, tmp_path), cloned(model, tmp_path)]
    assert [heads_of(copy)["a"].power for copy in copies] == [1.5, 1.5]
    copies[1].set_weights(model.get_weights())
    for copy in copies:
        np.testing.assert_allclose(numpy_of(copy(x)["a"])[:, 0], p, rtol=1e-5)


@once
@pytest.mark.parametrize("power", [1.5, 2.0])
def test_the_mixture_divides_by_the_dispersion_and_has_no_unit(power):
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(400, 1))
    values = truth + rng.normal(size=(2, 400, 1)) * [[[0.3]], [[1.0]]]
    labels = rng.gamma(2, np.exp(truth) / 2)
    labels[::4] = 0.0 if power < 2 else labels[::4]
    weights = rng.integers(1, 3, 400).astype("float64")

    def mixture(unit, rows=slice(None), **kwargs):
        head = pk.TweedieHead("a", power, **kwargs)
        pk.TaskHeads([head]).adapt({"a": labels[:, 0] * unit})
        head(np.zeros((1, 3), "float32"))
        found = LabeledValues(
            (labels * unit)[rows].astype("float32"),
            np.ones(len(labels[rows])),
            (values + np.log(unit))[:, rows].astype("float32"),
        )
        return best_mixture(head, found, 1.0)

    def objective(own):
        m = np.exp(own * values[0] + (1 - own) * values[1])[:, 0]
        penalty = np.log(own * (1 - own)) / 2
        return deviances(labels[:, 0], m, power).sum() / 2 / dispersion - penalty

    means = np.exp([values.mean(axis=0), *values])[:, :, 0]
    ratios = ((labels[:, 0] - means) ** 2 / means**power).mean(axis=1)
    dispersion = ratios.min() + ratios[0] / 400
    grid = np.linspace(0.001, 0.999, 999)
    expected = grid[np.argmin([objective(own) for own in grid])]
    assert mixture(1.0)[0] == pytest.approx(expected, abs=2e-3)
    for kwargs in ({}, {"standardize": True}):
        np.testing.assert_allclose(mixture(1e4, **kwargs), mixture(1.0), atol=2e-3)
    few = mixture(1.0, slice(1, 2))
    assert few.min() > 0.05
    repeated = np.repeat(np.arange(400), weights.astype(int))
    head = pk.TweedieHead("a", power)
    rows = [LabeledValues(labels, weights, values), LabeledValues(
        labels[repeated], np.ones(len(repeated)), values[:, repeated])]  # fmt: skip
    np.testing.assert_allclose(*(best_mixture(head, each, 1.0) for each in rows), atol=1e-4)


MEANT = r"y\['a'\] must be at least 0 or be missing"
REFUSED = {
    "1": (lambda: pk.TweedieHead("a", 1), ValueError, "power must be finite and above 1.*power=1$"),
    "3": (lambda: pk.TweedieHead("a", 3.0), ValueError, "at most 2. Received: power=3.0"),
    "nan": (lambda: pk.TweedieHead("a", NAN), ValueError, "power must be .*power=nan"),
    "text": (lambda: pk.TweedieHead("a", "1.5"), TypeError, "power must be a number.*power='1.5'"),
    "negative": (lambda: check(1.5, [-1.0, 2.0, 3.0]), ValueError, MEANT),
    "zero": (lambda: check(2.0, [0.0, 2.0]), ValueError, r"must be above 0 with power=2.*0\.0\]"),
    "infinite": (lambda: check(1.5, [INF, 2.0]), ValueError, r"y\['a'\] must be finite"),
}


def check(power, labels):
    pk.TaskHeads([pk.TweedieHead("a", power)]).check_labels({"a": np.array(labels)})


test_refusals = all_refused(lambda call: call(), REFUSED)


@once
def test_labels_are_checked_by_adapt_and_fit():
    heads = pk.TaskHeads([pk.TweedieHead("a", 2.0, standardize=True)])
    check_refused(lambda: heads.adapt({"a": np.zeros(3)}), ValueError, "must be above 0 with pow")
    model = compiled(heads_alone(heads))
    labels = {"a": np.array([1.0, NAN, -3.0])}
    check_refused(lambda: model.fit(features(3, 3), labels), ValueError, MEANT)

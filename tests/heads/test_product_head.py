"""ProductHead: predictions, metrics, gradients and refused arguments."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import assert_same, features, numpy_of, once, randomize
from tests.models import compiled, heads_alone
from tests.refusals import all_refused, check_refused, table


def heads_of(*products, **kwargs):
    own = [pk.BinaryHead("ctr"), pk.BinaryHead("cvr", tower=[4]), pk.BinaryHead("pay")]
    return pk.TaskHeads([*own, *products], **kwargs)


def inputs_of(heads):
    return {task: features(6, 3, seed=i) for i, task in enumerate(heads.task_names)}


def test_a_product_is_the_product_of_its_factors_probabilities():
    heads = heads_of(
        pk.ProductHead("all", of=("ctcvr", "pay")), pk.ProductHead("ctcvr", of=("ctr", "cvr"))
    )
    x = inputs_of(heads)
    heads(x)
    randomize(heads, scale=2)
    p = numpy_of(heads(x))
    assert list(p) == ["ctr", "cvr", "pay", "all", "ctcvr"]
    np.testing.assert_allclose(p["ctcvr"], p["ctr"] * p["cvr"], rtol=1e-5)
    np.testing.assert_allclose(p["all"], p["ctr"] * p["cvr"] * p["pay"], rtol=1e-5)
    assert_same({task: p[task] for task in x}, {task: numpy_of(heads[task](x[task])) for task in x})


def product_model():
    heads = [pk.BinaryHead("ctr"), pk.BinaryHead("cvr", loss_weight=0.0)]
    heads = pk.TaskHeads([*heads, pk.ProductHead("ctcvr", of=("ctr", "cvr"))])
    return compiled(heads_alone(heads), keras.optimizers.SGD(1.0))


def test_the_product_s_loss_trains_both_factors_over_the_whole_space():
    """Against the gradient in NumPy; the cvr head has no loss of its own."""
    model = product_model()
    cvr = model.layers[-1]["cvr"]
    x = features(16, 3)
    click = np.arange(16) % 2
    buy = np.where(click, np.arange(16) % 4 == 1, np.nan)
    p = {task: np.float64(y[:, 0]) for task, y in model.predict(x, verbose=0).items()}
    kernel = cvr.get_weights()[0]
    y = {"ctr": click, "cvr": buy, "ctcvr": click * np.nan_to_num(buy)}
    logs = model.train_on_batch(x, y, return_dict=True)
    z = y["ctcvr"]
    expected = -(z * np.log(p["ctcvr"]) + (1 - z) * np.log1p(-p["ctcvr"]))
    assert float(logs["ctcvr_loss"]) == pytest.approx(expected.mean(), rel=1e-5)
    # d loss / d p = (p - z) / (p (1 - p)), d p / d cvr's logit = p (1 - p_cvr)
    slope = (p["ctcvr"] - z) / (1 - p["ctcvr"]) * (1 - p["cvr"])
    gradient = (x * slope[:, None]).mean(axis=0)[:, None]
    np.testing.assert_allclose(kernel - cvr.get_weights()[0], gradient, rtol=1e-3, atol=1e-6)


def test_products_of_tiny_probabilities_have_a_gradient():
    """Below 1e-7 Keras's own cross-entropy has no gradient."""
    model = product_model()
    heads = model.layers[-1]
    for head in list(heads.values())[:2]:
        head.set_weights([np.zeros((3, 1)), np.full(1, -12.0)])
    x, y = np.ones((4, 3), "float32"), np.ones(4)
    assert model.predict(x, verbose=0)["ctcvr"].max() < 1e-10
    before = heads["cvr"].get_weights()[1]
    logs = model.train_on_batch(x, {"ctr": y, "cvr": y * np.nan, "ctcvr": y}, return_dict=True)
    assert float(logs["ctcvr_loss"]) == pytest.approx(24, rel=1e-3)
    assert heads["cvr"].get_weights()[1] - before == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize(("logit", "label"), [(-200.0, 1.0), (-200.0, 0.0), (200.0, 0.0)])
def test_certain_products_have_a_finite_loss_and_gradient(logit, label):
    model = product_model()
    for head in list(model.layers[-1].values())[:2]:
        head.set_weights([np.zeros((3, 1)), np.full(1, logit)])
    y = {"ctr": np.full(2, label), "cvr": np.full(2, np.nan), "ctcvr": np.full(2, label)}
    logs = model.train_on_batch(np.ones((2, 3)), y, return_dict=True)
    assert np.isfinite([float(logs[key]) for key in ("loss", "ctr_loss", "ctcvr_loss")]).all()
    assert all(np.isfinite(numpy_of(w)).all() for w in model.weights)


@keras.saving.register_keras_serializable("test_product_head")
class Sharpened(pk.BinaryHead):
    """A head whose prediction is not the sigmoid of its logits."""

    def call(self, inputs):
        return super().call(inputs) ** 2


REGULARIZED = pk.BinaryHead("b", activity_regularizer="l2")
REFUSED = {
    "unknown_task": (("ctr", "nope"), r"same TaskHeads .*: of=\['ctr', 'nope'\].* 'nope', None"),
    "cycle": (("y", "ctr"), r"a cycle of products\. Received: heads with of=\{'x': \['y',"),
    "regression": (("ctr", pk.RegressionHead("b")), r"or ProductHeads.*'b', <RegressionHead"),
    "own_call": (("ctr", Sharpened("b")), r"override `call`.*'b', <Sharpened"),
    "regularized": (("ctr", REGULARIZED), r"that have no activity_regularizer"),
    "targets": (("ctr", pk.BinaryHead("b", units=2)), "predict one number"),
}


@once
@pytest.mark.parametrize(("of", "message"), table(REFUSED))
def test_factors_of_other_kinds_are_refused(of, message):
    added = [factor for factor in of if isinstance(factor, pk.Head)]
    product = pk.ProductHead("x", of=[getattr(factor, "task", factor) for factor in of])
    of_product = pk.ProductHead("y", of=("x", "cvr"))
    with pytest.raises(ValueError, match=message):
        heads_of(*added, product, of_product)


BAD_ARGUMENTS = {
    "of_itself": ({"of": ("x", "ctr")}, r"two other tasks"),
    "twice": ({"of": ("ctr", "ctr")}, r"each once.*of=\('ctr', 'ctr'\)"),
    "a_string": ({"of": "ab"}, TypeError, r"sequence of.*Received: of='ab'"),
}


@once
def test_a_product_is_not_called_by_itself():
    product = pk.ProductHead("x", of=("ctr", "cvr"))
    for inputs in (features(2, 3), keras.Input((3,))):
        check_refused(lambda x=inputs: product(x), ValueError, "Call the TaskHeads, .*: inputs=")


test_invalid_arguments_are_refused = all_refused(
    lambda arguments: pk.ProductHead("x", **arguments), BAD_ARGUMENTS
)

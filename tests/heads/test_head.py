"""Head: outputs, dtypes, towers, subclasses, and what all heads refuse."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, numpy_of, once
from tests.models import compiled, heads_alone, loaded
from tests.pairs import pairs
from tests.refusals import (
    BAD_INPUTS,
    BAD_NAMES,
    RULE,
    all_refused,
    arguments_refused,
    at,
    at_least,
    check_refused,
    table,
)
from tests.templates import ScaledExpert


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_only_the_tower_computes_at_half_precision(policy):
    head = pk.BinaryHead("a", tower=[4], dtype=policy)
    x = features(2, 3)
    outputs = [head(x), head.logits(keras.ops.convert_to_tensor(x)), head(keras.Input((3,)))]
    assert {keras.backend.standardize_dtype(of.dtype) for of in outputs} == {"float32"}
    dense = [x for x in head._flatten_layers() if isinstance(x, keras.layers.Dense)]
    half = policy.removeprefix("mixed_")
    assert [layer.compute_dtype for layer in dense] == [half, "float32"]


@once
def test_towers_of_two_heads_with_one_seeded_template_differ():
    template = pk.ExpertBlock(4, kernel_initializer=keras.initializers.HeNormal(seed=1))
    kernels = []
    for task in "ab":
        head = pk.RegressionHead(task, tower=template)
        head(features(5, 4))
        kernels.append(numpy_of(head.weights[0]))
    assert not np.allclose(*kernels)


def test_training_is_passed_to_the_tower():
    head = pk.RegressionHead("a", tower=keras.layers.Dropout(0.5))
    x = np.ones((64, 8), "float32")
    predicted, trained = numpy_of(head(x, training=False)), numpy_of(head(x, training=True))
    assert np.ptp(predicted) == 0
    assert np.ptp(trained) > 0


def test_the_default_name_of_a_head_contains_its_task():
    assert [pk.Head("a").name, pk.Head("a", name="mine").name] == ["a_head", "mine"]


@keras.saving.register_keras_serializable("test_head")
class BoundedHead(pk.Head):
    """A subclass with its own constructor argument and `call`."""

    def __init__(self, task, bound, loss="mean_squared_error", **kwargs):
        super().__init__(task, loss=loss, **kwargs)
        self.bound = bound

    def call(self, inputs):
        return self.bound * keras.ops.tanh(self.logits(inputs))

    def get_config(self):
        return {**super().get_config(), "bound": self.bound}


def test_a_subclass_predicts_trains_and_loads_from_a_file(tmp_path):
    head = BoundedHead("visits", bound=2.0, tower=ScaledExpert([4], 0.5))
    copy = type(head).from_config(head.get_config())
    assert copy.get_config() == head.get_config()
    model = compiled(heads_alone(pk.TaskHeads([head])), "adam")
    x, y = features(8, 3), {"visits": np.arange(8.0)[:, None]}
    expected = 2 * np.tanh(numpy_of(head.logits(keras.ops.convert_to_tensor(x))))
    np.testing.assert_allclose(numpy_of(model(x)["visits"]), expected, rtol=1e-5)
    before = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    for _ in range(5):
        model.train_on_batch(x, y)
    assert model.evaluate(x, y, verbose=0, return_dict=True)["loss"] < before

    twin = loaded(model, tmp_path)
    np.testing.assert_array_equal(numpy_of(twin(x)["visits"]), numpy_of(model(x)["visits"]))
    assert np.isfinite(twin.train_on_batch(x, y)).all()


# Refusals.


@once
@pytest.mark.parametrize(("name", "error", "received"), table(BAD_NAMES))
def test_a_task_name_outside_the_rule_is_refused(name, error, received):
    check_refused(lambda: pk.Head(name), error, f"{RULE}. Received: task{received}")


WITHOUT_REDUCTION = keras.losses.MeanSquaredError(reduction=None)
BAD_ARGUMENTS = {
    "activation": ({"activation": "rellu"}, r"activation must be .*='rellu'$"),
    "activation_layer": ({"activation": keras.layers.PReLU()}, TypeError, "a function.*=<PReLU"),
    "loss": ({"loss": "nope"}, r"loss must be known to Keras.*: loss='nope'$"),
    "loss_of_logits": (
        {"loss": keras.losses.BinaryCrossentropy(from_logits=True), "activation": "sigmoid"},
        r"loss must have from_logits=False\. Received: loss=<.*, activation='sigmoid'$",
    ),
    "loss_without_a_reduction": ({"loss": WITHOUT_REDUCTION}, "loss=<.* with reduction=None"),
    "metric": ({"metrics": ["mae", "nope"]}, r"known to Keras.* metrics='nope'$"),
    "metrics_string": ({"metrics": "auc"}, TypeError, r"a list of metrics.* metrics='auc'$"),
    "extra_metrics": ({"extra_metrics": [3]}, r"known to Keras.*extra_metrics=3$"),
    "loss_weight": ({"loss_weight": -1}, r"at least 0\. Received: loss_weight=-1$"),
    "loss_weight_text": ({"loss_weight": "1"}, TypeError, r"a number\. .*: loss_weight='1'$"),
}


test_a_bad_argument_is_refused = all_refused(lambda given: pk.Head("a", **given), BAD_ARGUMENTS)
test_a_bad_number_is_refused = arguments_refused(
    {head: {"task": "a"} for head in (pk.Head, pk.MulticlassHead, pk.BinaryHead)},
    [
        (at("units", pk.Head), at_least(1)),
        (at("num_classes", pk.MulticlassHead), at_least(2)),
        (at("pos_weight", pk.BinaryHead), [(0, ValueError, "finite and above 0")]),
    ],
)


@once
def test_losses_of_logits_are_allowed_only_for_logits():
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for make in (
        lambda: pk.BinaryHead("a", loss=loss),
        lambda: pk.ProductHead("a", of=("b", "c"), loss=loss),
        lambda: pk.MulticlassHead("a", num_classes=3, loss=sparse),
    ):
        check_refused(make, ValueError, "loss must have from_logits=False")
    pk.Head("a", loss=loss)
    pk.Head("a", loss=loss, activation="tanh")


@once
@pytest.mark.parametrize(
    ("make_inputs", "message", "tower"), pairs(BAD_INPUTS, {"alone": None, "tower": 4})
)
def test_invalid_inputs_are_refused_and_leave_the_head_usable(make_inputs, message, tower):
    head, inputs = pk.BinaryHead("a", tower=tower), make_inputs()
    check_refused(lambda: head(inputs), ValueError, message)
    head(features(2, 5))
    for another_width in (features(2, 4), keras.Input((4,))):
        with pytest.raises(ValueError, match=rf"layer .{head.name}..*value 5.*\(\w+, 4\)"):
            head(another_width)

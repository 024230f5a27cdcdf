"""Head: outputs, dtypes, towers and subclasses."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, numpy_of, once, randomize
from tests.layers.reference import inside
from tests.models import compiled, heads_alone, loaded
from tests.templates import TEMPLATES, ScaledExpert


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_only_the_tower_computes_at_half_precision(policy):
    head = pk.BinaryHead("a", tower=[4], dtype=policy)
    x = features(2, 3)
    outputs = [head(x), head.logits(keras.ops.convert_to_tensor(x)), head(keras.Input((3,)))]
    assert {keras.backend.standardize_dtype(of.dtype) for of in outputs} == {"float32"}
    dense = [x for x in head._flatten_layers() if isinstance(x, keras.layers.Dense)]
    half = policy.removeprefix("mixed_")
    assert [layer.compute_dtype for layer in dense] == [half, "float32"]


@pytest.mark.parametrize("kind", [pytest.param("built_sequential", marks=once), "functional"])
def test_towers_are_copies_that_agree_with_their_template(kind):
    """Two heads with one template, whose initializer is seeded, differ."""
    template, x = TEMPLATES[kind](keras.initializers.HeNormal(seed=1)), features(5, 4)
    before = template.get_weights()
    heads = [pk.RegressionHead(task, tower=template) for task in "ab"]
    kernels = []
    for head in heads:
        head(x)
        kernels.append(numpy_of(head.weights[0]))
        randomize(head)
    assert not np.allclose(*kernels)
    np.testing.assert_equal(template.get_weights(), before)

    projection = ("projection/kernel", "projection/bias")
    kernel, bias = (inside(heads[0])[name] for name in projection)
    template(x)
    template.set_weights([numpy_of(w) for w in heads[0].weights if not w.path.endswith(projection)])
    expected = np.float64(numpy_of(template(x))) @ kernel + bias
    np.testing.assert_allclose(numpy_of(heads[0](x)), expected, rtol=1e-4, atol=1e-5)


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
    for _ in range(20):
        model.train_on_batch(x, y)
    assert model.evaluate(x, y, verbose=0, return_dict=True)["loss"] < before

    twin = loaded(model, tmp_path)
    np.testing.assert_array_equal(numpy_of(twin(x)["visits"]), numpy_of(model(x)["visits"]))
    assert np.isfinite(twin.train_on_batch(x, y)).all()

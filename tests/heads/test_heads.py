"""Heads: outputs, dtypes, towers and subclasses."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, numpy_of, randomize
from tests.layers.reference import softmax
from tests.models import chain, compiled, heads_alone
from tests.pairs import pairs

HALF_POLICIES = ("mixed_float16", "mixed_bfloat16")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# name: (a head for the keyword arguments, its width, its activation in NumPy)
HEADS = {
    "base": (lambda **kw: pk.Head("a", units=2, activation="tanh", **kw), 2, np.tanh),
    "base_linear": (lambda **kw: pk.Head("a", **kw), 1, lambda x: x),
    "binary": (lambda **kw: pk.BinaryHead("a", **kw), 1, sigmoid),
    "regression": (lambda **kw: pk.RegressionHead("a", **kw), 1, lambda x: x),
    "regression_softplus": (
        lambda **kw: pk.RegressionHead("a", units=3, activation="softplus", **kw),
        3,
        lambda x: np.log1p(np.exp(x)),
    ),
    "multiclass": (lambda **kw: pk.MulticlassHead("a", num_classes=4, **kw), 4, softmax),
}

every_head = pytest.mark.parametrize(
    ("make", "units", "activation"), list(HEADS.values()), ids=list(HEADS)
)


def weights_by_path(layer):
    return {w.path.split(f"{layer.name}/", 1)[1]: np.float64(numpy_of(w)) for w in layer.weights}


@every_head
@pytest.mark.parametrize("leading", [(5,), (5, 2)])
def test_output_is_the_activation_of_the_projected_features(make, units, activation, leading):
    head = make()
    x = features(*leading, 3)
    head(x)
    randomize(head)
    weights = weights_by_path(head)
    logits = np.float64(x) @ weights["projection/kernel"] + weights["projection/bias"]
    assert logits.shape == (*leading, units)
    np.testing.assert_allclose(numpy_of(head.logits(x)), logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(numpy_of(head(x)), activation(logits), rtol=1e-5, atol=1e-6)


@every_head
def test_tower_of_units_is_relu_layers_before_the_projection(make, units, activation):
    head = make(tower=[6, 4])
    x = features(5, 3)
    head(x)
    randomize(head)
    weights = weights_by_path(head)
    hidden = np.float64(x)
    for step in ("tower/dense_0", "tower/dense_1", "projection"):
        hidden = hidden @ weights[f"{step}/kernel"] + weights[f"{step}/bias"]
        hidden = hidden if step == "projection" else np.maximum(hidden, 0)
    np.testing.assert_allclose(numpy_of(head.logits(x)), hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(numpy_of(head(x)), activation(hidden), rtol=1e-5, atol=1e-6)


def test_an_int_is_a_tower_of_one_layer():
    head = pk.BinaryHead("a", tower=4)
    head(features(2, 3))
    shapes = {path: value.shape for path, value in weights_by_path(head).items()}
    assert shapes["tower/dense_0/kernel"] == (3, 4)
    assert shapes["projection/kernel"] == (4, 1)
    assert "tower/dense_1/kernel" not in shapes


def dtype_of(x):
    return keras.backend.standardize_dtype(x.dtype)


HALF = {
    "globally": (None, "mixed_float16", "globally"),
    "globally_tower": ([4], "mixed_bfloat16", "globally"),
    "tower": ([4], "mixed_float16", "as_argument"),
    "as_argument": (None, "mixed_bfloat16", "as_argument"),
}


@pytest.mark.parametrize(
    ("make", "units", "activation", "tower", "policy", "given"), pairs(HEADS, HALF)
)
def test_output_is_float32_at_half_precision(make, units, activation, tower, policy, given):
    kwargs = {"dtype": policy}
    if given == "globally":
        keras.config.set_dtype_policy(policy)
        kwargs = {}
    head = make(tower=tower, **kwargs)
    x = features(4, 3)
    assert dtype_of(head(keras.Input((3,)))) == "float32"
    assert dtype_of(head(x)) == "float32"
    assert dtype_of(head.logits(keras.ops.convert_to_tensor(x))) == "float32"
    model = chain(head)
    assert dtype_of(model.output) == "float32"
    assert dtype_of(model(x)) == "float32"


@every_head
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no float64 by default")
def test_output_is_float64_under_float64(make, units, activation):
    head = make(tower=[4], dtype="float64")
    assert dtype_of(head(keras.Input((3,), dtype="float64"))) == "float64"
    assert dtype_of(head(np.float64(features(4, 3)))) == "float64"
    assert dtype_of(head.logits(keras.ops.convert_to_tensor(np.float64(features(4, 3))))) == (
        "float64"
    )


@pytest.mark.parametrize("policy", HALF_POLICIES)
def test_the_tower_computes_at_half_precision(policy):
    head = pk.BinaryHead("a", tower=[4], dtype=policy)
    head(features(2, 3))
    half = policy.removeprefix("mixed_")
    dense = [x for x in head._flatten_layers() if isinstance(x, keras.layers.Dense)]
    assert {layer.name: layer.compute_dtype for layer in dense} == {
        "dense_0": half,
        "projection": "float32",
    }


@keras.saving.register_keras_serializable("test_heads")
class Doubling(keras.layers.Layer):
    """A custom layer with its own weights and argument."""

    def __init__(self, units, factor=2.0, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.factor = factor

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units))

    def call(self, inputs):
        return self.factor * keras.ops.matmul(inputs, self.kernel)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "factor": self.factor}


@keras.saving.register_keras_serializable("test_heads")
class ShiftedExpert(pk.ExpertBlock):
    """An ExpertBlock with its own constructor argument and `call`."""

    def __init__(self, units, shift=0.0, **kwargs):
        super().__init__(units, **kwargs)
        self.shift = shift

    def call(self, inputs, training=None):
        return super().call(inputs, training=training) + self.shift

    def get_config(self):
        return {**super().get_config(), "shift": self.shift}


def functional_tower():
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(5, activation="tanh")(inputs)
    return keras.Model(inputs, keras.layers.Dense(4)(hidden) + 1.0)


TOWERS = {
    "expert_block": lambda: pk.ExpertBlock([5, 4], activation="gelu", normalization="layer"),
    "expert_block_subclass": lambda: ShiftedExpert([5, 4], shift=0.5),
    "dense": lambda: keras.layers.Dense(4, activation="tanh"),
    "sequential": lambda: keras.Sequential([keras.layers.Dense(5), keras.layers.Dense(4)]),
    "sequential_built": lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)]),
    "functional": functional_tower,
    "custom_layer": lambda: Doubling(4, factor=3.0),
    "sequential_block": lambda: pk.SequentialBlock([keras.layers.Dense(5), Doubling(4)]),
}

every_tower = pytest.mark.parametrize("make_tower", list(TOWERS.values()), ids=list(TOWERS))


@every_tower
def test_a_tower_agrees_with_its_template_if_the_weights_are_the_same(make_tower):
    template = make_tower()
    head = pk.RegressionHead("a", tower=template)
    x = features(5, 3)
    head(x)
    randomize(head)
    projection = ("projection/kernel", "projection/bias")
    kernel, bias = (weights_by_path(head)[name] for name in projection)
    template(x)
    template.set_weights([numpy_of(w) for w in head.weights if not w.path.endswith(projection)])
    expected = np.float64(numpy_of(template(x))) @ kernel + bias
    np.testing.assert_allclose(numpy_of(head(x)), expected, rtol=1e-4, atol=1e-5)


@every_tower
def test_a_template_is_unchanged_and_can_be_used_again(make_tower):
    template = make_tower()
    was_built, config = template.built, template.get_config()
    before = [numpy_of(w) for w in template.weights]
    heads = [pk.BinaryHead(task, tower=template) for task in ("a", "b")]
    for head in heads:
        head(features(5, 3))
        randomize(head)
    assert template.built == was_built
    assert template.get_config() == config
    for weight, value in zip(template.weights, before, strict=True):
        np.testing.assert_array_equal(numpy_of(weight), value)
    owned = [{id(w) for w in layer.weights} for layer in (*heads, template)]
    assert len(set.union(*owned)) == sum(map(len, owned))


def test_heads_of_one_seeded_template_have_different_and_reproducible_weights():
    def first_kernels():
        template = keras.layers.Dense(4, kernel_initializer=keras.initializers.HeNormal(seed=1))
        heads = [pk.BinaryHead(task, tower=template) for task in ("a", "b")]
        for head in heads:
            head(features(2, 3))
        return [weights_by_path(head)["tower/kernel"] for head in heads]

    run, again = first_kernels(), first_kernels()
    assert not np.allclose(run[0], run[1])
    np.testing.assert_array_equal(run, again)


def test_training_is_passed_to_the_tower():
    head = pk.RegressionHead("a", tower=keras.layers.Dropout(0.5))
    x = np.ones((64, 8), "float32")
    predicted, trained = numpy_of(head(x, training=False)), numpy_of(head(x, training=True))
    assert np.ptp(predicted) == 0
    assert np.ptp(trained) > 0


@pytest.mark.parametrize(
    ("head", "loss"),
    [
        (pk.Head("a"), None),
        (pk.BinaryHead("a"), "binary_crossentropy"),
        (pk.RegressionHead("a"), "mean_squared_error"),
        (pk.MulticlassHead("a", num_classes=3), "sparse_categorical_crossentropy"),
    ],
    ids=["base", "binary", "regression", "multiclass"],
)
def test_each_head_has_a_default_loss(head, loss):
    assert getattr(head.loss, "name", None) == loss


def test_arguments_replace_the_default_loss():
    head = pk.BinaryHead("a", loss=keras.losses.BinaryFocalCrossentropy(gamma=3.0))
    copy = pk.BinaryHead.from_config(head.get_config())
    assert isinstance(copy.loss, keras.losses.BinaryFocalCrossentropy)
    assert copy.loss.gamma == 3.0


@pytest.mark.parametrize(("kwargs", "name"), [({}, "a_head"), ({"name": "mine"}, "mine")])
def test_the_default_name_of_a_head_is_that_of_its_task(kwargs, name):
    assert pk.BinaryHead("a", **kwargs).name == name


@keras.saving.register_keras_serializable("test_heads")
class CountHead(pk.Head):
    """A head for counts with a Poisson loss: the subclass in the docs."""

    def __init__(self, task, activation="exponential", loss="poisson", **kwargs):
        super().__init__(task, activation=activation, loss=loss, **kwargs)


@keras.saving.register_keras_serializable("test_heads")
class BoundedHead(pk.Head):
    """A subclass with its own constructor argument and `call`."""

    def __init__(self, task, bound, loss="mean_squared_error", **kwargs):
        super().__init__(task, loss=loss, **kwargs)
        self.bound = bound

    def call(self, inputs):
        return self.bound * keras.ops.tanh(self.logits(inputs))

    def get_config(self):
        return {**super().get_config(), "bound": self.bound}


SUBCLASSES = {
    "poisson": lambda: CountHead("visits", tower=[4], metrics=[keras.metrics.Poisson()]),
    "bounded": lambda: BoundedHead("visits", bound=2.0, tower=ShiftedExpert([4], shift=0.5)),
}

every_subclass = pytest.mark.parametrize("make", list(SUBCLASSES.values()), ids=list(SUBCLASSES))


@every_subclass
def test_a_subclass_is_restored_from_its_config(make):
    head = make()
    copy = type(head).from_config(head.get_config())
    assert type(copy) is type(head)
    assert copy.get_config() == head.get_config()


@every_subclass
def test_a_subclass_trains_and_loads_from_a_file(make, tmp_path):
    heads = pk.TaskHeads([make()])
    model = compiled(heads_alone(heads), "adam")
    x, y = features(8, 3), {"visits": np.arange(8.0)[:, None]}
    before = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    for _ in range(20):
        model.train_on_batch(x, y)
    assert model.evaluate(x, y, verbose=0, return_dict=True)["loss"] < before

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy_of(loaded(x)["visits"]), numpy_of(model(x)["visits"]))
    assert np.isfinite(loaded.train_on_batch(x, y)).all()


def test_the_count_head_applies_its_activation():
    head = CountHead("visits")
    x = features(5, 3)
    head(x)
    randomize(head)
    logits = numpy_of(head.logits(x))
    np.testing.assert_allclose(numpy_of(head(x)), np.exp(logits), rtol=1e-5)
    assert not np.allclose(numpy_of(head(x)), logits)

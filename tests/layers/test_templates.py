"""Templates are copied with new weights and seeds and are never changed."""

import itertools

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK, assert_same, built, every_backend, features, numpy_of, once
from tests.layers.feature_networks import TASKS, bottom
from tests.models import chain, compiled, loaded
from tests.pairs import fewer, pairs
from tests.refusals import (
    BOOLS,
    FRACTION,
    UNITS,
    Unlike,
    arguments_refused,
    at,
    check_refused,
)
from tests.templates import TEMPLATES, CopiedExpert, OwnExpert, WideningExpert

pytestmark = once

INITIALIZERS = {
    "by_name": lambda: "glorot_uniform",
    "seeded": lambda: keras.initializers.GlorotUniform(seed=7),
    "one_instance": lambda: keras.initializers.GlorotUniform(),
    "seed_generator": lambda: keras.initializers.HeNormal(seed=keras.random.SeedGenerator(3)),
}
OF_GLOBAL_SEED = {x: INITIALIZERS[x] for x in ("by_name", "seeded", "one_instance")}


def kernels_by_expert(block):
    """Return the kernels of each expert of a level, from the paths of its weights."""
    kernels = {name: [] for name in block.expert_names}
    for weight in block.trainable_weights:
        if "/experts/" not in weight.path or "kernel" not in weight.path:
            continue
        value = keras.ops.convert_to_numpy(weight)
        if value.ndim == 3:
            for name, kernel in zip(kernels, value):
                kernels[name].append(kernel)
        else:
            (name,) = (
                n for n in kernels if f"/expert-{n.replace('/expert_', '-')}/" in weight.path
            )
            kernels[name].append(value)
    return kernels


@pytest.mark.parametrize(("make", "initializer"), pairs(TEMPLATES, INITIALIZERS))
def test_all_experts_have_different_initial_weights(make, initializer):
    ple = pk.PLEBlock(2, ["a", "b"], make(initializer()))
    ple.build((None, 4))
    kernels = []
    for block in ple:
        for expert, values in kernels_by_expert(block).items():
            assert values, expert
            kernels.extend(values)
    for one, other in itertools.combinations(kernels, 2):
        assert not np.array_equal(one, other)


@pytest.mark.parametrize(("make", "initializer"), pairs(TEMPLATES, OF_GLOBAL_SEED))
def test_the_same_global_seed_gives_the_same_block(make, initializer):
    values = []
    for _ in range(2):
        keras.utils.set_random_seed(11)
        values.append(built(pk.CGCBlock(["a", "b"], make(initializer())), 4).get_weights())
    np.testing.assert_equal(*values)


def test_the_seeded_kernel_of_an_expert_does_not_depend_on_other_tasks():
    template = pk.ExpertBlock(4, kernel_initializer=keras.initializers.HeNormal(seed=1))
    few, many = (built(pk.CGCBlock(tasks, template)) for tasks in (["b"], ["a", "b", "c"]))
    kernels = [kernels_by_expert(block)["b/expert_0"][0] for block in (few, many)]
    np.testing.assert_array_equal(*kernels)


@pytest.mark.parametrize("make_template", fewer(TEMPLATES))
def test_a_template_is_unchanged_and_its_copies_are_built_with_unique_paths(make_template):
    """PyTorch and sharding rules identify weights by their paths."""
    template = make_template("glorot_uniform")
    was_built, config, weights = template.built, template.get_config(), template.get_weights()
    blocks = [
        pk.CGCBlock(["a", "b"], template, gate_block=template),
        pk.SharedBottomBlock(["a", "b"], template),
        pk.StreamFeatures(["a", "b"], template),
        pk.BinaryHead("a", tower=template),
    ]
    for block in blocks:
        block(keras.Input((4,)))
        layers = block._flatten_layers()
        assert [layer.path for layer in layers if not layer.built] == []
        assert id(template) not in {id(layer) for layer in layers}
        assert len({weight.path for weight in block.weights}) == len(block.weights)
    assert (template.built, str(template.get_config())) == (was_built, str(config))
    np.testing.assert_equal(template.get_weights(), weights)


@pytest.mark.parametrize("make_template", fewer(TEMPLATES))
def test_a_model_with_templates_can_be_trained_saved_and_loaded(make_template, tmp_path):
    heads = pk.TaskHeads([pk.BinaryHead("a"), pk.RegressionHead("b")])
    ple = pk.PLEBlock(1, heads, make_template("glorot_uniform"))
    model = compiled(chain(ple, heads, width=4), **QUICK)
    before, x = model.get_weights(), features(8, 4)
    model.train_on_batch(x, {"a": np.ones((8, 1)), "b": np.ones((8, 1))})
    assert any(not np.array_equal(w, v) for w, v in zip(model.get_weights(), before))
    again = loaded(model, tmp_path)
    assert_same(numpy_of(again(x)), numpy_of(model(x)), atol=0)


@every_backend
@pytest.mark.parametrize(
    ("normalization", "use_bias"), [(None, True), ("batch", False), ("layer", True)]
)
def test_stacked_and_copied_experts_give_the_same_results(normalization, use_bias):
    """With equal seeds, outputs, losses and moving averages are equal, in training and not."""

    def make(cls):
        init = keras.initializers.HeNormal
        return pk.CGCBlock(
            ["a", "b"],
            cls(
                [6, 4],
                activation="tanh",
                normalization=normalization,
                use_bias=use_bias,
                kernel_initializer=init(seed=5),
                bias_initializer=keras.initializers.RandomNormal(seed=6),
                kernel_regularizer=keras.regularizers.OrthogonalRegularizer(0.1),
                bias_regularizer="l2" if use_bias else None,
                activity_regularizer=keras.regularizers.L2(0.01),
            ),
            num_task_experts={"a": 2, "b": 1},
        )

    stacked, copied = make(pk.ExpertBlock), make(CopiedExpert)
    x = features(5, 2, 3)
    for block in (stacked, copied):
        block.build(x.shape)
    for training in (True, True, False):
        outputs = [numpy_of(b.expert_outputs(x, training=training)) for b in (stacked, copied)]
        assert_same(*outputs, atol=1e-6)
        losses = [float(sum(block.losses)) for block in (stacked, copied)]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert losses[0] > 0
    assert stacked.count_params() == copied.count_params()
    assert len(stacked.weights) < len(copied.weights)


@every_backend
def test_dropout_is_independent_for_each_stacked_expert_and_only_in_training():
    block = pk.CGCBlock(["a"], pk.ExpertBlock(50, activation=None, dropout=0.5))
    x = np.ones((40, 4), "float32")
    undropped = numpy_of(block(x, training=False)), numpy_of(block.expert_outputs(x))
    outputs = numpy_of(block.expert_outputs(x, training=True))
    dropped = {name: value == 0 for name, value in outputs.items()}
    for name, mask in dropped.items():
        assert 0.45 < mask.mean() < 0.55
        kept = ~mask
        np.testing.assert_allclose(outputs[name][kept], 2 * undropped[1][name][kept], rtol=1e-5)
    first, second = dropped.values()
    assert (first != second).mean() > 0.3


def test_each_slice_of_a_stack_is_initialized_with_its_own_fan_in():
    block = built(pk.CGCBlock(["a", "b"], 64, num_task_experts=4), 64)
    for kernels in kernels_by_expert(block).values():
        assert abs(kernels[0].std() - np.sqrt(2 / (64 + 64))) < 0.005


def test_each_level_may_have_a_different_expert_template():
    levels = [pk.ExpertBlock([8, 6]), WideningExpert(3), keras.layers.Dense(2)]
    ple = pk.PLEBlock(3, ["a", "b"], levels)
    assert ple(features(2, 4))["a"].shape == (2, 2)
    assert ple[1].compute_output_shape((None, 6))["a"] == (None, 9)


def test_gate_blocks_are_copied_for_every_gate():
    seeded = pk.ExpertBlock(4, kernel_initializer=keras.initializers.HeNormal(seed=3))
    block = built(pk.CGCBlock(["a", "b"], 4, gate_block=seeded))
    kernels = [numpy_of(w).tobytes() for w in block.weights if "/block/dense_0/kernel" in w.path]
    assert len({*kernels}) == len(kernels) == 3


@every_backend
def test_custom_layers_as_experts_receive_training():
    @keras.saving.register_keras_serializable(package="tests")
    class Noisy(OwnExpert):
        def call(self, inputs, training=False):
            return super().call(inputs) + (100.0 if training else 0.0)

    block = pk.CGCBlock(["a"], Noisy(3))
    x = features(2, 3)
    assert numpy_of(block(x))["a"].max() < 50
    assert numpy_of(block(x, training=True))["a"].min() > 50
    assert numpy_of(block.expert_outputs(x, training=True))["a/expert_0"].min() > 50


def test_a_template_is_copied_when_it_is_given():
    template = keras.layers.Dense(4)
    block = pk.SharedBottomBlock(["a"], template)
    config = block.get_config()
    template.units = 5
    assert block.get_config() == config
    assert block(features(2, 3))["a"].shape == (2, 4)


def test_every_expert_is_a_separate_layer():
    """One expert can have LoRA or its own regularizer."""
    cgc = built(pk.CGCBlock(["click", "buy"], [6, 4], 2, stack_experts=False))
    experts = [cgc.get_expert(name) for name in cgc.expert_names]
    assert {type(expert) for expert in experts} == {pk.ExpertBlock}
    assert len({numpy_of(expert.weights[0]).tobytes() for expert in experts}) == 5
    dense = experts[0]._dense[0]
    dense.kernel.regularizer = keras.regularizers.L2(1.0)
    expected = np.square(numpy_of(dense.kernel)).sum()
    assert float(sum(cgc.losses)) == pytest.approx(expected, rel=1e-5)
    before = len(cgc.trainable_weights)
    dense.enable_lora(2)
    assert len(cgc.trainable_weights) == before + 1  # two LoRA kernels replace one kernel


# Refusals.


@keras.saving.register_keras_serializable("test_templates")
class IncompleteConfig(pk.ExpertBlock):
    """An expert with an argument that its inherited config lacks."""

    def __init__(self, units, scale=1.0, **kwargs):
        super().__init__(units, **kwargs)


@keras.saving.register_keras_serializable("test_templates")
class Opaque(keras.layers.Layer):
    """A layer without get_config and with an argument that Keras can't serialize."""

    def __init__(self, thing, **kwargs):
        super().__init__(**kwargs)


@keras.saving.register_keras_serializable("test_templates")
class WithoutKwargs(keras.layers.Layer):
    """A layer that has get_config, but can't be given a name."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def get_config(self):
        return {**super().get_config(), "width": self.width}


NO_NAME = (
    r"must be .* an __init__ that passes \*\*kwargs on, .*"
    r"The copy failed: .*WithoutKwargs\.__init__\(\) got an unexpected keyword argument '\w+'\. R"
)
NO_CONFIG = r"takes \['scale'\], which its config lacks. Define a get_config"
NO_LAYER = "Keras layer"
UNCOPIED = [
    (keras.layers.Lambda(lambda x: x), ValueError, "must be copied.*Lambda"),
    (IncompleteConfig(3, scale=2.0), ValueError, NO_CONFIG),
    (keras.Sequential([IncompleteConfig(3)]), ValueError, NO_CONFIG),
    (Opaque(Unlike()), ValueError, "must be .*Define get_config"),
    (WithoutKwargs(3), ValueError, NO_NAME),
    (keras.Sequential([WithoutKwargs(3)]), ValueError, NO_NAME),
    (keras.layers.TimeDistributed(WithoutKwargs(3)), ValueError, NO_NAME),
    *((value, TypeError, NO_LAYER) for value in (keras.layers.Dense, "dense", len)),
]
NORMALIZATIONS = [
    (value, ValueError, r"one of \(None, 'batch', 'layer'\)")
    for value in ("instance", keras.layers.LayerNormalization(), True)
]
ACTIVATIONS = [
    *((value, ValueError, "must be known") for value in ("rellu", 3)),
    (keras.layers.PReLU(), TypeError, "must be a name, or a function"),
]
LEVELS = (pk.CGCBlock, pk.PLEBlock, pk.MMoEBlock)
REQUIRED = {
    pk.ExpertBlock: {"units": 3},
    pk.Gate: {"num_experts": 2},
    pk.CGCBlock: {"outputs": TASKS, "expert_block": 3},
    pk.PLEBlock: {"num_layers": 2, "outputs": TASKS, "expert_block": 3},
    pk.MMoEBlock: {"outputs": TASKS, "expert_block": 3, "num_experts": 2},
    pk.SharedBottomBlock: {"outputs": TASKS},
    pk.HedgedBlock: {"outputs": TASKS},
    pk.StreamFeatures: {"outputs": TASKS},
    pk.BinaryHead: {"task": "a"},
}
TOWER, BOTTOM = at("tower", pk.BinaryHead), at("bottom_block", pk.SharedBottomBlock)
EXPERTS = at("expert_block", *LEVELS)
OF_UNITS = [
    *(*at("units", pk.ExpertBlock), *EXPERTS, *at("expert_block", pk.HedgedBlock)),
    *(*at("gate_block", pk.Gate, *LEVELS), *TOWER, *BOTTOM),
]
OF_LAYERS = [
    *(*EXPERTS, *at("gate_block", pk.Gate, pk.CGCBlock), *BOTTOM, *TOWER),
    *at("feature_block", pk.StreamFeatures),
]
test_what_is_no_template_is_refused = arguments_refused(
    REQUIRED,
    [
        (OF_UNITS, UNITS),
        (TOWER, UNITS[:2]),  # they are false, but are not a missing tower
        (OF_LAYERS, UNCOPIED),
        (at("gate_block", *LEVELS), [({"units": 3}, TypeError, NO_LAYER)]),
        (at("dropout", pk.ExpertBlock), FRACTION),
        (at("use_bias", pk.ExpertBlock), BOOLS),
        (at("normalization", pk.ExpertBlock), NORMALIZATIONS),
        (at("activation", pk.ExpertBlock), ACTIVATIONS),
    ],
)


def test_an_array_has_the_units_of_a_tower():
    head = pk.BinaryHead("a", tower=np.array([6, 4]))
    assert pk.BinaryHead.from_config(head.get_config())._tower_template.layer.units == (6, 4)


def of_width_7():
    inputs = keras.Input((7,))
    return keras.Model(inputs, keras.layers.Dense(3)(inputs))


UNFIT = [
    ("expert_block", lambda x: pk.CGCBlock(TASKS, x), keras.layers.Flatten, r"to \(2, 15\)"),
    ("tower", lambda x: pk.BinaryHead("a", tower=x), bottom, r"return a tensor, .* \{'a'"),
    ("expert_block", lambda x: pk.PLEBlock(2, TASKS, x), of_width_7, r"accept <.* shape=\(2, 3, 5"),
]


@pytest.mark.parametrize(("argument", "make", "template", "message"), UNFIT)
def test_a_template_with_invalid_output_shapes_is_refused(argument, make, template, message):
    layer, x = make(template()), features(2, 3, 5)
    message = f"{argument} must .*{message}.*Received: {argument}="
    check_refused(lambda: layer(x), ValueError, message)

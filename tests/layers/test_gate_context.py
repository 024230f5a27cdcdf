"""`gate_reads` and `gate_context`: gates that read a context, or their stream and a context."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import JIT, QUICK, assert_same, features, numpy_of, randomize
from tests.layers import reference
from tests.models import TASKS, click_and_buy_heads, cloned, compiled, loaded


def model_of(reads, **kwargs):
    """Return a Functional model of heads, and its inputs."""
    heads = click_and_buy_heads()
    inputs = {"x": keras.Input((3,), name="x"), "device": keras.Input((2,), name="device")}
    ple = pk.PLEBlock(2, heads, [3], 2, gate_reads=reads, name="ple", **kwargs)
    model = pk.MultiTaskModel(inputs, heads(ple(inputs["x"], gate_context=inputs["device"])))
    randomize(model)
    return model, {"x": features(5, 3), "device": features(5, 2, seed=1)}


def expected_predictions(model, inputs):
    streams, _ = reference.ple(model.get_layer("ple"), inputs["x"], inputs["device"])
    heads = model.get_layer("heads")
    return numpy_of(heads({task: streams[task].astype("float32") for task in TASKS}))


@pytest.mark.parametrize("jit_compile", JIT)
def test_a_functional_model_predicts_by_the_equations(jit_compile):
    model, inputs = model_of("both")
    model.compile(jit_compile=jit_compile)
    assert_same(model.predict(inputs, verbose=0), expected_predictions(model, inputs))


@pytest.mark.parametrize(("reads", "copied"), [("both", loaded), ("context", cloned)])
def test_files_and_clones_read_the_same(reads, copied, tmp_path):
    model, inputs = model_of(reads)
    expected = numpy_of(model(inputs))
    copy = copied(model, tmp_path)
    assert [block.gate_reads for block in copy.get_layer("ple")] == [reads] * 2
    if copied is cloned:
        copy.set_weights(model.get_weights())
    assert [w.path for w in copy.weights] == [w.path for w in model.weights]
    assert_same(numpy_of(copy(inputs)), expected)


def test_a_block_alone_is_built_from_its_config():
    block = pk.CGCBlock(TASKS, [3], gate_reads="both")
    context = {"click": features(2, 2), "buy": features(2, 4), "shared": features(2, 1)}
    block(features(2, 3), gate_context=context)
    serialized = keras.saving.serialize_keras_object(block)
    copy = keras.saving.deserialize_keras_object(serialized)
    assert [w.shape for w in copy.weights] == [w.shape for w in block.weights]
    assert copy.get_build_config() == block.get_build_config()


def test_levels_that_read_no_context_get_none_in_a_sequential_block():
    levels = [
        pk.CGCBlock(TASKS, [3], gate_reads=reads, name=name)
        for reads, name in (("stream", "first"), ("context", "second"))
    ]
    inner = pk.SequentialBlock([levels[1]], name="inner")
    block = pk.SequentialBlock([levels[0], inner], name="outer")
    x, context = features(4, 3), features(4, 2)
    _, weights = block(x, gate_context=context, return_gate_weights=True)
    _, expected = reference.ple(levels, x, context)
    assert list(weights) == ["inner/0", "outer/0"]  # in alphabetical order
    assert list(pk.gate_weights(keras.Sequential([keras.Input((3,)), levels[0]]), x))
    assert_same(numpy_of(weights["outer/0"]), expected[0])
    assert_same(numpy_of(weights["inner/0"]), expected[1])


def test_a_dict_may_have_the_context_of_a_missing_shared_gate():
    block = pk.MMoEBlock(TASKS, [3], 2, gate_reads="context")
    context = {gate: features(4, 2, seed=i) for i, gate in enumerate([*TASKS, "shared"])}
    x = features(4, 3)
    outputs = numpy_of(block(x, gate_context=context))
    del context["shared"]
    assert_same(numpy_of(block(x, gate_context=context)), outputs)


@pytest.mark.parametrize(
    ("policy", "dtype", "reads"),
    [("float32", "int32", "both"), ("mixed_float16", "bool", "context")],
)
def test_the_context_is_cast_to_the_compute_dtype(policy, dtype, reads):
    x, context = features(4, 3), np.eye(3)[[0, 1, 2, 0]]
    ple = pk.PLEBlock(2, TASKS, [3], gate_reads=reads, dtype=policy)
    expected = ple(x, gate_context=context.astype("float32"), return_gate_weights=True)
    actual = ple(x, gate_context=context.astype(dtype), return_gate_weights=True)
    for a, b in zip(keras.tree.flatten(actual), keras.tree.flatten(expected)):
        assert keras.backend.standardize_dtype(a.dtype) == policy.removeprefix("mixed_")
        np.testing.assert_allclose(numpy_of(a), numpy_of(b), atol=1e-6)


# Masks.


@pytest.mark.parametrize("reads", ["context", "both"])
def test_positions_have_the_mask_of_the_stream_and_not_of_the_context(reads):
    mask = np.array([[True, True, False], [True, False, False]])
    masking = keras.layers.Masking()
    x = masking(features(2, 3, 4) * mask[..., None])
    context = masking(features(2, 3, 2) * ~mask[..., None])
    block = pk.CGCBlock(TASKS, [3], gate_reads=reads, enable_gate_weights_metrics=True)
    outputs, weights = block(x, gate_context=context, training=False, return_gate_weights=True)
    for tensor in [*outputs.values(), *weights.values()]:
        np.testing.assert_array_equal(numpy_of(tensor._keras_mask), mask)
    np.testing.assert_array_equal(numpy_of(context._keras_mask), ~mask)
    valid = numpy_of(weights["click"])[mask]
    statistics = block.gate_statistics()["click"]
    assert statistics["count"] == mask.sum()
    np.testing.assert_allclose(statistics["mean"], valid.mean(axis=0), atol=1e-6)


# Other tools.


def test_inspection_and_transfer_work_with_a_context():
    model, inputs = model_of("both", enable_gate_weights_metrics=True)
    compiled(model, **QUICK)
    y = {task: np.arange(5) % 2 for task in TASKS}
    logs = model.fit(inputs, y, callbacks=[pk.GateWeightsLogger()], verbose=0).history
    ple = model.get_layer("ple")
    means = [logs[f"gate/ple/0/click/{name}"][0] for name in ple[0].gate_experts["click"]]
    assert sum(means) == pytest.approx(1, rel=1e-5)
    _, expected = reference.ple(ple, inputs["x"], inputs["device"])
    weights = pk.gate_weights(model, inputs)
    for level, of_level in enumerate(expected):
        assert_same(weights[f"ple/{level}"], of_level)
    level = ple[0].gate_weights(inputs["x"], gate_context=inputs["device"])
    assert_same(numpy_of(level), expected[0])
    report = pk.gate_report(model, inputs)
    means = list(report.levels["ple/1"].gates["buy"].mean.values())
    np.testing.assert_allclose(means, expected[1]["buy"].mean(axis=0), atol=1e-5)
    other, _ = model_of("both", enable_gate_weights_metrics=True)
    randomize(other, seed=1)
    assert not pk.transfer_weights(model, other).left_out
    assert_same(numpy_of(other(inputs)), numpy_of(model(inputs)))

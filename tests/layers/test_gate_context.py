"""`gate_reads` and `gate_context`: gates that read a context, or their stream and a context."""

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st

import ple_keras as pk
from tests.helpers import JIT, QUICK, assert_same, features, numpy_of, randomize
from tests.layers import reference
from tests.models import cloned, compiled, loaded
from tests.templates import CopiedExpert

TASKS = ["click", "buy"]
STREAMS = [*TASKS, "shared"]
READS = ["context", "both"]
ROWS = [6, 600] if keras.backend.backend() == "torch" else [6]  # batched on PyTorch, and not
both_reads = pytest.mark.parametrize("reads", READS)


def expected_of(ple, x, context):
    """Return the outputs of a PLEBlock and its gate weights by level, by the equations."""
    streams = x if isinstance(x, dict) else dict.fromkeys(STREAMS, x)
    contexts = context if isinstance(context, dict) else dict.fromkeys(STREAMS, context)
    weights = {}
    for index, block in enumerate(ple):
        parts = {"stream": [streams], "context": [contexts], "both": [streams, contexts]}
        gate_inputs = {
            gate: np.concatenate([part[gate] for part in parts[block.gate_reads]], axis=-1)
            for gate in block.gate_experts
        }
        streams, weights[f"{ple.name}/{index}"] = reference.cgc_and_weights(
            streams,
            block.task_names,
            *reference.parameters(block),
            block.add_shared_gate,
            block.gate_softmax_temperature,
            gate_inputs,
        )
    return streams, weights


@st.composite
def cases(draw):
    """Draw the arguments of a PLEBlock, its inputs and a context."""
    shared = draw(st.integers(0, 2))
    counts = st.integers(0 if shared else 1, 2)
    leading = draw(st.sampled_from([(2,), (2, 3)]))
    by_gate = draw(st.booleans())
    context = features(*leading, 2, seed=9)
    if by_gate:
        context = {gate: features(*leading, 2 + i, seed=i) for i, gate in enumerate(STREAMS)}
        if not shared:
            del context["shared"]
    x = features(*leading, 3)
    if draw(st.booleans()):
        streams = STREAMS if shared else TASKS
        x = {stream: features(*leading, 3, seed=20 + i) for i, stream in enumerate(streams)}
    arguments = {
        "num_layers": draw(st.integers(1, 2)),
        "outputs": TASKS,
        "expert_block": draw(st.sampled_from([pk.ExpertBlock([3]), CopiedExpert([3])])),
        "num_task_experts": draw(counts | st.fixed_dictionaries(dict.fromkeys(TASKS, counts))),
        "num_shared_experts": shared,
        "gate_block": draw(st.sampled_from([None, [4]])),
        "gate_reads": draw(st.sampled_from(READS)),
    }
    return arguments, x, context


@hypothesis.given(cases())
def test_outputs_and_weights_equal_the_equations(case):
    arguments, x, context = case
    ple = pk.PLEBlock(**arguments, name="ple")
    ple(x, gate_context=context)
    randomize(ple)
    outputs, weights = ple(x, gate_context=context, return_gate_weights=True)
    expected, expected_weights = expected_of(ple, x, context)
    assert_same(numpy_of(outputs), expected)
    assert_same(numpy_of(ple(x, gate_context=context)), expected)
    assert set(weights) == set(expected_weights)
    for level in expected_weights:
        assert_same(numpy_of(weights[level]), expected_weights[level])


def block_of(reads="context", rows=4, context=None, **kwargs):
    """Return a built PLEBlock with random weights, features and a context."""
    x, context = features(rows, 3), features(rows, 2, seed=1) if context is None else context
    ple = pk.PLEBlock(2, TASKS, [3], 2, gate_reads=reads, name="ple", **kwargs)
    ple(x, gate_context=context)
    randomize(ple)
    return ple, x, context


@pytest.mark.parametrize("rows", ROWS)
def test_equal_contexts_give_equal_weights_whatever_the_features(rows):
    context = np.repeat(features(2, 2, seed=1), rows // 2, axis=0)
    ple, x, _ = block_of("context", rows, context)
    _, weights = ple(x, gate_context=context, return_gate_weights=True)
    for of_level in weights.values():
        for gate, of_gate in numpy_of(of_level).items():
            for half in np.split(of_gate, 2):
                np.testing.assert_allclose(half, half[:1].repeat(rows // 2, 0), atol=1e-6)
            assert np.abs(of_gate[0] - of_gate[-1]).max() > 1e-3, gate


def model_of(reads, **kwargs):
    """Return a Functional model of heads, and its inputs."""
    heads = pk.TaskHeads([pk.BinaryHead(task, metrics=[]) for task in TASKS], name="heads")
    inputs = {"x": keras.Input((3,), name="x"), "device": keras.Input((2,), name="device")}
    ple = pk.PLEBlock(2, heads, [3], 2, gate_reads=reads, name="ple", **kwargs)
    model = pk.MultiTaskModel(inputs, heads(ple(inputs["x"], gate_context=inputs["device"])))
    randomize(model)
    return model, {"x": features(5, 3), "device": features(5, 2, seed=1)}


def expected_predictions(model, inputs):
    streams, _ = expected_of(model.get_layer("ple"), inputs["x"], inputs["device"])
    heads = model.get_layer("heads")
    return numpy_of(heads({task: streams[task].astype("float32") for task in TASKS}))


@pytest.mark.parametrize("jit_compile", JIT)
def test_a_functional_model_predicts_by_the_equations(jit_compile):
    model, inputs = model_of("both")
    model.compile(jit_compile=jit_compile)
    assert_same(model.predict(inputs, verbose=0), expected_predictions(model, inputs))


class Subclassed(pk.MultiTaskTraining, keras.Model):
    def __init__(self, reads):
        super().__init__()
        self.heads = pk.TaskHeads([pk.BinaryHead(task, metrics=[]) for task in TASKS], name="heads")
        self.ple = pk.PLEBlock(2, self.heads, [3], gate_reads=reads, name="ple")

    def call(self, inputs, training=None):
        streams = self.ple(inputs["x"], training=training, gate_context=inputs["device"])
        return self.heads(streams)


def test_a_subclassed_model_trains_its_gates():
    model = compiled(Subclassed("context"), **QUICK)
    inputs = {"x": features(5, 3), "device": features(5, 2, seed=1)}
    model(inputs)
    before = [numpy_of(weight) for weight in model.ple.weights]
    logs = model.train_on_batch(
        inputs, {task: np.arange(5) % 2 for task in TASKS}, return_dict=True
    )
    assert np.isfinite(logs["loss"])
    moved = [(numpy_of(w) != b).any() for w, b in zip(model.ple.weights, before)]
    kernels = [m for m, w in zip(moved, model.ple.weights) if "projection" in w.path]
    assert len(kernels) == 5
    assert all(kernels)


@both_reads
@pytest.mark.parametrize("copied", [loaded, cloned])
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


def test_a_config_without_the_key_reads_the_stream():
    config = pk.CGCBlock(TASKS, [3]).get_config()
    del config["gate_reads"]
    assert pk.CGCBlock.from_config(config).gate_reads == "stream"


def test_levels_that_read_no_context_get_none_in_a_sequential_block():
    levels = [
        pk.CGCBlock(TASKS, [3], gate_reads=reads, name=name)
        for reads, name in (("stream", "first"), ("context", "second"))
    ]
    inner = pk.SequentialBlock([levels[1]], name="inner")
    block = pk.SequentialBlock([levels[0], inner], name="outer")
    x, context = features(4, 3), features(4, 2)
    _, weights = block(x, gate_context=context, return_gate_weights=True)
    _, expected = expected_of(pk.SequentialBlock(levels, name="ple"), x, context)
    assert list(weights) == ["inner/0", "outer/0"]  # in alphabetical order
    assert list(pk.gate_weights(keras.Sequential([keras.Input((3,)), levels[0]]), x))
    assert_same(numpy_of(weights["outer/0"]), expected["ple/0"])
    assert_same(numpy_of(weights["inner/0"]), expected["ple/1"])


def test_a_dict_may_have_the_context_of_a_missing_shared_gate():
    block = pk.MMoEBlock(TASKS, [3], 2, gate_reads="context")
    context = {gate: features(4, 2, seed=i) for i, gate in enumerate(STREAMS)}
    x = features(4, 3)
    outputs = numpy_of(block(x, gate_context=context))
    del context["shared"]
    assert_same(numpy_of(block(x, gate_context=context)), outputs)


@pytest.mark.parametrize(
    ("policy", "dtype", "reads"),
    [
        ("float32", "int32", "both"),
        ("mixed_float16", "bool", "context"),
    ],
)
def test_the_context_is_cast_to_the_compute_dtype(policy, dtype, reads):
    context = np.eye(3)[[0, 1, 2, 0]]
    ple, x, _ = block_of(reads, context=context.astype("float32"), dtype=policy)
    expected = ple(x, gate_context=context.astype("float32"), return_gate_weights=True)
    actual = ple(x, gate_context=context.astype(dtype), return_gate_weights=True)
    for tensor in keras.tree.flatten(actual):
        assert keras.backend.standardize_dtype(tensor.dtype) == policy.removeprefix("mixed_")
    for a, b in zip(keras.tree.flatten(actual), keras.tree.flatten(expected)):
        a, b = (numpy_of(keras.ops.cast(x, "float32")) for x in (a, b))
        np.testing.assert_allclose(a, b, atol=1e-3 if policy != "float32" else 1e-6)


# Masks.


@both_reads
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


@both_reads
def test_the_mask_of_a_context_alone_has_no_effect(reads):
    context = keras.layers.Masking()(np.zeros((2, 3, 2)))
    block = pk.CGCBlock(TASKS, [3], gate_reads=reads, enable_gate_weights_metrics=True)
    outputs = block(features(2, 3, 4), gate_context=context, training=False)
    assert [getattr(x, "_keras_mask", None) for x in outputs.values()] == [None] * 3
    assert block.gate_statistics()["shared"]["count"] == 6


X, C = features(4, 3), features(4, 2)

# Other tools.


def test_inspection_and_transfer_work_with_a_context():
    model, inputs = model_of("both", enable_gate_weights_metrics=True)
    compiled(model, **QUICK)
    y = {task: np.arange(5) % 2 for task in TASKS}
    logs = model.fit(inputs, y, callbacks=[pk.GateWeightsLogger()], verbose=0).history
    ple = model.get_layer("ple")
    means = [logs[f"gate/ple/0/click/{name}"][0] for name in ple[0].gate_experts["click"]]
    assert sum(means) == pytest.approx(1, rel=1e-5)
    _, expected = expected_of(ple, inputs["x"], inputs["device"])
    weights = pk.gate_weights(model, inputs)
    for level in expected:
        assert_same(weights[level], expected[level])
    level = ple[0].gate_weights(inputs["x"], gate_context=inputs["device"])
    assert_same(numpy_of(level), expected["ple/0"])
    report = pk.gate_report(model, inputs)
    conflict = pk.gradient_conflict(model, inputs, y)
    assert list(conflict["ple/0"]) == ["shared/expert_0"]
    np.testing.assert_allclose(
        list(report.levels["ple/1"].gates["buy"].mean.values()),
        expected["ple/1"]["buy"].mean(axis=0),
        atol=1e-5,
    )
    other, _ = model_of("both", enable_gate_weights_metrics=True)
    randomize(other, seed=1)
    assert not pk.transfer_weights(model, other).left_out
    assert_same(numpy_of(other(inputs)), numpy_of(model(inputs)))

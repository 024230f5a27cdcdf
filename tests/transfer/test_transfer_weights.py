"""Transfer of weights between models, matched by name."""

import re

import keras
import numpy as np
import pandas as pd
import pytest

import ple_keras as pk
from ple_keras.heads.task_heads import hedged_heads
from tests.helpers import assert_same, every_backend, features, numpy_of, once, randomize
from tests.layers.feature_networks import columns, network, symbols
from tests.models import chain, heads_of, loaded
from tests.templates import CopiedExpert

pytestmark = once


def random_model(tasks, levels=1, towers=(3,), loss_weighting=None, **kwargs):
    """A model of a Dense layer, levels and heads, with random weights."""
    heads = pk.TaskHeads([pk.BinaryHead(task, tower=towers) for task in tasks], loss_weighting)
    kwargs = {"expert_block": [5, 4], "num_task_experts": 2, "num_shared_experts": 2, **kwargs}
    front = keras.layers.Dense(6, name="front")
    model = chain(front, pk.PLEBlock(levels, tasks, name="ple", **kwargs), heads)
    randomize(model, seed=len(tasks))
    return model


def check_whole_transfer(source, target, x):
    """Transfer all weights, check that predictions are those of the source. Return the result."""
    transfer = pk.transfer_weights(source, target)
    assert (transfer.new, dict(transfer.left_out)) == ((), {})
    assert_same(numpy_of(target(x)), numpy_of(source(x)))
    return transfer


@every_backend
@pytest.mark.parametrize(
    ("old", "new", "normalization"),
    [
        ("stacked", "copied", "batch"),
        ("copied", "stacked", None),
        pytest.param("stacked", "stacked", "batch", marks=once),
        pytest.param("copied", "copied", "batch", marks=once),
        pytest.param("copied", "stacked", "batch", marks=once),
    ],
)
def test_predictions_of_old_tasks_do_not_change_in_any_task_order(old, new, normalization):
    kinds = {"stacked": pk.ExpertBlock, "copied": CopiedExpert}
    blocks = {k: kind([5, 4], normalization=normalization) for k, kind in kinds.items()}
    source = random_model(["click", "buy"], expert_block=blocks[old], gate_block=[3])
    target = random_model(["buy", "new", "click"], expert_block=blocks[new], gate_block=[3])
    x = features(7, 3)
    source(x, training=True)  # updates the statistics of batch normalization
    before = numpy_of(source(x))
    transfer = pk.transfer_weights(source, target)
    after = numpy_of(target(x))
    assert_same({task: after[task] for task in before}, before)
    assert not transfer.left_out
    assert set(transfer.new) == {
        "ple/0/new/expert_0",
        "ple/0/new/expert_1",
        *(f"ple/0/gate/new/{e}/expert_{i}" for e in ("new", "shared") for i in (0, 1)),
        "ple/0/gate/new/gate_block",
        "task_heads/new/tower",
        "task_heads/new/head",
        "task_heads/new/loss_weight",
    }
    some = {"ple/0/click/expert_1", "ple/0/gate/buy/buy/expert_0", "task_heads/click/tower"}
    assert some | {"front/kernel", "front/bias"} < set(transfer.copied)


def test_each_column_of_the_shared_gate_is_copied_with_its_expert():
    source = random_model(["click", "buy"], levels=2)
    target = random_model(["buy", "new", "click"], levels=2)
    before = columns_by_expert(target)
    pk.transfer_weights(source, target)
    expected = before | columns_by_expert(source)
    assert set(expected) - set(columns_by_expert(source)) == {"new/expert_0", "new/expert_1"}
    assert_same(columns_by_expert(target), expected, atol=0)


def columns_by_expert(model):
    """Return the columns of the shared gate of the first level."""
    block = model.get_layer("ple")[0]
    kernel = numpy_of(block._level.gates["shared"]._projection.kernel)
    return dict(zip(block.gate_experts["shared"], kernel.T.copy(), strict=True))


def test_loss_weights_are_copied_by_task():
    source, target = (
        random_model(each, loss_weighting="uncertainty") for each in (TASKS, TASKS[::-1])
    )
    heads_of(source).multiply_loss_weights({"a": 0.5, "b": 2.0})
    heads_of(source)._log_variances.assign([1.0, 0.0])
    pk.transfer_weights(source, target)
    assert heads_of(target).loss_weights() == pytest.approx(heads_of(source).loss_weights())


def test_weights_that_do_not_fit_are_left_out_with_a_reason():
    source = random_model(["click", "buy"], towers=(3,), levels=2)
    target = random_model(["click", "new"], towers=(2,), levels=1, expert_block=[7, 4])
    experts = target.get_layer("ple")[0].expert_outputs(features(2, 6))
    transfer = pk.transfer_weights(source, target)
    assert transfer.left_out["task_heads/click/tower"].startswith(
        "shapes [(4, 3), (3,)] in the source, shapes [(4, 2)"
    )
    assert transfer.left_out["task_heads/buy/head"] == "not in the target"
    assert transfer.left_out["ple/1/click/expert_0"] == "not in the target"
    assert "(6, 5)" in transfer.left_out["ple/0/click/expert_0"]
    assert "ple/0/gate/click/click/expert_0" in transfer.copied
    assert "task_heads/new/tower" in transfer.new
    assert_same(
        numpy_of(target.get_layer("ple")[0].expert_outputs(features(2, 6))), numpy_of(experts)
    )
    assert "\nleft out (" in str(transfer)
    assert max(map(len, str(transfer).splitlines())) <= 100


def bottoms(*tasks_and_names):
    """Return blocks whose weights have no task in their names."""
    return [pk.SharedBottomBlock(list(tasks), 3, name=name) for tasks, name in tasks_and_names]


def parallel(blocks):
    inputs = keras.Input((3,))
    outputs = [block(inputs) for block in blocks]
    return keras.Model(inputs, [next(iter(output.values())) for output in outputs])


@pytest.mark.parametrize(
    ("of_source", "of_target", "expected"),
    [
        ([("a", None)], [("ab", None)], {0: 0}),
        ([("ab", None), ("c", None)], [("c", None), ("abd", None)], {}),
        ([("ab", None), ("ab", None)], [("ab", None), ("ab", None)], {}),
        ([("ab", None), ("ab", None)], [("ab", None)], {}),
        ([("ab", "x")], [("ab", "y")], {}),
        ([("a", "x"), ("a", None)], [("a", None), ("a", "x")], {0: 1, 1: 0}),
    ],
)
def test_blocks_are_matched_by_name_and_one_unnamed_by_its_class(of_source, of_target, expected):
    sources, targets = bottoms(*of_source), bottoms(*of_target)
    models = [parallel(blocks) for blocks in (sources, targets)]
    for seed, model in enumerate(models):
        randomize(model, seed)
    transfer = pk.transfer_weights(*models)
    kernels = [[numpy_of(x.weights[0]) for x in blocks] for blocks in (sources, targets)]
    found = {
        j: i
        for j, target in enumerate(kernels[1])
        for i, source in enumerate(kernels[0])
        if np.array_equal(source, target)
    }
    assert found == expected
    assert bool(transfer.left_out) == (len(expected) < len(sources))


def test_branches_are_matched_by_name():
    """Not by their order: "own" is the second branch of the target."""

    def hedged(*branches):
        blocks = {x: pk.CGCBlock(["a"], 4, add_shared_gate=False) for x in branches}
        heads = pk.TaskHeads([pk.BinaryHead("a")])
        model = chain(pk.HedgedBlock(heads, branches=blocks, name="hedged"), heads)
        randomize(model, seed=len(branches[0]))
        return model

    source, target = hedged("own", "shared"), hedged("bottom", "own")
    untouched = numpy_of(target.get_layer("hedged")["bottom"].weights[0])
    transfer = pk.transfer_weights(source, target)
    blocks = [model.get_layer("hedged") for model in (source, target)]
    own = [numpy_of(block["own"].weights[0]) for block in blocks]
    np.testing.assert_array_equal(*own)
    np.testing.assert_array_equal(numpy_of(blocks[1]["bottom"].weights[0]), untouched)
    assert {"hedged/own/a/expert_0", "task_heads/a/own/head"} < set(transfer.copied)
    assert "task_heads/a/shared/head" in transfer.left_out
    assert "task_heads/a/bottom/head" in transfer.new


TASKS = ["a", "b"]
UNNAMED = {
    "hedged": lambda: pk.HedgedBlock(TASKS, [4]),
    "branches": lambda: pk.HedgedBlock(
        TASKS, branches={"x": pk.PLEBlock(1, TASKS, 4), "y": pk.SharedBottomBlock(TASKS, [4])}
    ),
}


@pytest.mark.parametrize("block", UNNAMED.values(), ids=UNNAMED)
def test_blocks_without_a_given_name_are_matched(block):
    source, target = (
        chain(block(), pk.TaskHeads([pk.BinaryHead(task) for task in TASKS])) for _ in range(2)
    )
    randomize(source)
    for name, hedged in hedged_heads(source).items():
        hedged.mixture.assign([0.1, 0.9] if name == "a" else [0.6, 0.4])
    check_whole_transfer(source, target, features(2, 3))


def test_a_source_or_target_that_is_not_a_built_model_is_refused():
    model, unbuilt = random_model(["a"]), pk.PLEBlock(1, ["a"], 4)
    for source, target, argument in ((unbuilt, model, "source"), (model, unbuilt, "target")):
        with pytest.raises(ValueError, match=f"{argument} must be built.*built=False"):
            pk.transfer_weights(source, target)
    with pytest.raises(TypeError, match="source must be a Keras layer"):
        pk.transfer_weights("a", model)


def with_two_submodels():
    """A model that starts with two models, "left" and "right", with equal layer names."""
    inputs = keras.Input((3,))
    outputs = [
        keras.Sequential([keras.layers.Dense(2, name="dense")], name=name)(inputs)
        for name in ("left", "right")
    ]
    x = keras.layers.Concatenate()(outputs)
    return keras.Model(inputs, pk.PLEBlock(1, ["a"], [4], name="ple")(x))


def test_layers_with_equal_names_in_two_submodels_are_distinguished(tmp_path):
    source, target = with_two_submodels(), with_two_submodels()
    source = loaded(source, tmp_path)  # Keras's own paths of a loaded Sequential are shorter
    transfer = check_whole_transfer(source, target, features(2, 3))
    assert {"left/dense/kernel", "right/dense/kernel"} < set(transfer.copied)


def test_blocks_that_a_model_never_calls_are_skipped():
    class WithSpare(keras.Model):
        def __init__(self):
            super().__init__()
            self.ple = pk.PLEBlock(1, ["a"], [4], name="ple")
            self.spare = pk.PLEBlock(1, ["a"], [4], name="spare")

        def call(self, x):
            return self.ple(x)

    source, target = WithSpare(), WithSpare()
    x = features(2, 3)
    source(x), target(x)
    assert "ple/0/a/expert_0" in pk.transfer_weights(source, target).copied
    assert_same(numpy_of(target(x)), numpy_of(source(x)))


def test_weights_of_subclasses_are_copied_and_gate_statistics_are_not():
    class Scaled(pk.CGCBlock):
        def build(self, shape):
            super().build(shape)
            self.scale = self.add_weight(shape=(1,), name="scale")

    source, target = (Scaled(["a"], [4], enable_gate_weights_metrics=True) for _ in "ab")
    gates = [pk.Gate(2, track_weights=True) for _ in "ab"]
    x = features(2, 3)
    for layer in (source, target, *gates):
        layer(x, training=False)
    assert "scale" in pk.transfer_weights(source, target).copied
    assert pk.transfer_weights(*gates).copied == ("projection/kernel",)


def model_of_streams(tasks, **kwargs):
    """A model with a copy of the feature network for each stream, with random weights."""
    heads = pk.TaskHeads([pk.BinaryHead(task) for task in tasks])
    streams = pk.StreamFeatures(tasks, network(), name="features", **kwargs)
    ple = pk.PLEBlock(1, tasks, [4], name="ple")
    inputs = symbols()
    model = keras.Model(inputs, heads(ple(streams(inputs))))
    randomize(model, seed=len(tasks))
    return model


@every_backend
def test_the_copies_of_old_tasks_do_not_change_when_a_task_is_added():
    source = model_of_streams(["click", "buy"])
    target = model_of_streams(["new", "buy", "click"])
    before = numpy_of(source(columns()))
    untouched = numpy_of(getattr(target.get_layer("features"), "stream-new").weights[0])
    transfer = pk.transfer_weights(source, target)
    after = numpy_of(target(columns()))
    assert_same({task: after[task] for task in before}, before)
    streams = {f"features/stream-{stream}" for stream in ("click", "buy", "shared")}
    assert streams < set(transfer.copied)
    assert "features/stream-new" in transfer.new
    assert not transfer.left_out
    new = numpy_of(getattr(target.get_layer("features"), "stream-new").weights[0])
    np.testing.assert_array_equal(new, untouched)


def test_a_task_that_had_the_common_copy_gets_a_new_one():
    source = model_of_streams(["click", "buy"], own=["click"])
    transfer = pk.transfer_weights(source, model_of_streams(["click", "buy"]))
    assert {"features/stream-click", "features/stream-shared"} < set(transfer.copied)
    assert [name for name in transfer.new if "stream" in name] == ["features/stream-buy"]


def random_level(reads, **kwargs):
    """A level with random weights, of features and a context with equal widths."""
    block = pk.CGCBlock(["gate", "buy"], [4], gate_reads=reads, name="cgc", **kwargs)
    block(features(2, 3), gate_context=None if reads == "stream" else features(2, 3, seed=1))
    randomize(block, seed=len(reads))
    return block


@pytest.mark.parametrize(
    ("of_source", "of_target"), [("stream", "context"), ("context", "stream"), ("stream", "both")]
)
def test_gates_that_read_another_input_are_left_out(of_source, of_target):
    source, target = (random_level(reads, gate_block=[2]) for reads in (of_source, of_target))
    kernels = [gate._projection.kernel for gate in target._level.gates.values()]
    before = [*map(numpy_of, kernels)]
    transfer = pk.transfer_weights(source, target)
    assert transfer.copied == ("gate/expert_0", "buy/expert_0", "shared/expert_0")
    assert len(transfer.left_out) == 7 + 3  # the columns of W, and the gate blocks
    assert {"gate/gate/gate_block", "gate/shared/buy/expert_0"} < set(transfer.left_out)
    for reason in transfer.left_out.values():
        assert reason.startswith(f"gate_reads={of_source!r} ")
        assert f" in the source, gate_reads={of_target!r} " in reason
    assert transfer.new == ()
    np.testing.assert_equal([*map(numpy_of, kernels)], before)
    same = random_level(of_target, gate_block=[2])
    assert "gate/buy/buy/expert_0" in pk.transfer_weights(same, target).copied


def model_of_times(**kwargs):
    heads = pk.TaskHeads([pk.RegressionHead("time", [3], **kwargs), pk.BinaryHead("click")])
    return chain(pk.SharedBottomBlock(heads, [3], name="bottom"), heads)


def test_the_unit_of_a_standardized_regression_is_copied_with_its_weights():
    source, target = (model_of_times(standardize=True, mean=1.0, deviation=x) for x in (2.0, 3.0))
    x = features(5, 3)
    target(x)
    check_whole_transfer(source, target, x)
    assert heads_of(target)["time"].deviation == [2.0]


def test_columns_of_targets_are_copied_by_name():
    def model_of(*targets):
        scale = {"mean": [*map(len, targets)], "deviation": [1.0] * len(targets)}
        head = pk.RegressionHead("all", [3], targets=targets, standardize=True, **scale)
        heads = pk.TaskHeads([head])
        return chain(pk.SharedBottomBlock(heads, [3], name="bottom"), heads)

    source, target = model_of("a", "b/1", "dropped"), model_of("added one", "b/1", "a")
    randomize(source)
    x = features(5, 3)
    before = target.predict(x, verbose=0)["all"]
    transfer = pk.transfer_weights(source, target)
    of_target = [f"task_heads/all/head/{name}" for name in ("a", "b/1")]
    assert set(transfer.copied) > {*of_target, "task_heads/all/tower"}
    assert transfer.new == ("task_heads/all/head/added one",)
    assert transfer.left_out == {"task_heads/all/head/dropped": "not in the target"}
    p, expected = (model.predict(x, verbose=0)["all"] for model in (target, source))
    np.testing.assert_allclose(p[:, [2, 1]], expected[:, :2], rtol=1e-5)
    assert np.abs(p - before).max() > 1e-3


@pytest.mark.parametrize("is_of_source", [True, False])
def test_a_head_of_logits_in_another_unit_is_left_out(is_of_source):
    models = model_of_times(standardize=True, mean=1.0, deviation=9.0), model_of_times()
    transfer = pk.transfer_weights(*(models if is_of_source else reversed(models)))
    ((name, reason),) = transfer.left_out.items()
    assert name == "task_heads/time/head"
    assert ("(1,), (1,), (3, 1), (1,)] in the source" in reason) == is_of_source
    assert {"task_heads/time/tower", "task_heads/click/head"} < set(transfer.copied)


@every_backend
def test_lora_weights_of_gates_are_copied():
    source, target = random_model(["a"]), random_model(["a"])
    for model in (source, target):
        for gate in model.get_layer("ple")[0]._level.gates.values():
            gate._projection.enable_lora(2)
    randomize(source, seed=5)
    check_whole_transfer(source, target, features(2, 3))


@every_backend
def test_normalization_uses_the_copied_statistics():
    def normalized():
        layer = keras.layers.Normalization(name="normalization")
        return layer, chain(layer, pk.PLEBlock(1, ["a"], [4], name="ple"))

    (layer, source), (_, target) = normalized(), normalized()
    x = features(8, 3)
    layer.adapt(7 * x + 3)
    check_whole_transfer(source, target, x)


@pytest.mark.parametrize("block", [pk.HedgedBlock, pk.SharedBottomBlock])
def test_tables_and_embeddings_of_numbers_of_other_columns_are_left_out(block):
    frames = [pd.DataFrame({"user": [n, n + 1, n], "age": [1.0, n, 9]}) for n in (3, 4)]
    models = []
    for frame in (frames[0], *frames):
        network = pk.Columns(["user"], ["age"]).fit(frame, 1).network(2, number_embedding_dim=2)
        heads, options = pk.TaskHeads([pk.BinaryHead("click")]), {"name": "block"}
        features = network.output
        if block is pk.HedgedBlock:
            features, options = network.input, {"name": "block", "features": network}
        outputs = heads(block(heads, [3], **options)(features))
        models.append(pk.MultiTaskModel(network.input, outputs))
    source, same, other = models
    assert not pk.transfer_weights(source, same).left_out
    transfer = pk.transfer_weights(source, other)
    assert transfer.copied
    assert not [name for name in transfer.copied if "user" in name or "number" in name]
    assert len(transfer.left_out) == (2 if block is pk.HedgedBlock else 4)  # networks, or weights
    for reason in transfer.left_out.values():
        assert re.search(r"digest=\w{16} .* source, columns.digest=\w{16} .* target", reason)

"""AdaTT, a block of the family in one file, against the equations of its paper."""

import keras
import numpy as np
import pytest
from adatt import AdaTTBlock

import ple_keras as pk
from tests.helpers import assert_same, features, numpy_of, once, randomize
from tests.layers.reference import inside, parameters, softmax
from tests.models import chain, loaded

pytestmark = once
TASKS = ["click", "buy"]


def adatt(streams, block):
    """Return x_k' for each stream, from the weights of a block with linear experts of one layer."""
    experts, gates = parameters(block)
    values = inside(block)
    outputs = {s: [streams[s] @ w + b for ((w, b),) in layers] for s, layers in experts.items()}
    every = np.stack([x for layers in outputs.values() for x in layers])
    found = {}
    for stream in block.gate_experts:
        weights = softmax(streams[stream] @ gates[stream][1])
        v = values.get(f"own_weights_{stream}", np.ones(1))
        found[stream] = np.einsum("...e,e...h->...h", weights, every)
        found[stream] += sum(v[i] * x for i, x in enumerate(outputs[stream]))
    return found


@pytest.mark.parametrize(("own", "shared"), [(1, 0), (2, 0), (2, 1)])
def test_a_row_of_levels_is_equal_to_the_equations(own, shared):
    options = {"num_task_experts": own, "num_shared_experts": shared}
    linear = pk.ExpertBlock(4, activation=None)
    first, last = (
        AdaTTBlock(TASKS, linear, add_shared_gate=has_gate, **options)
        for has_gate in (shared > 0, False)
    )
    levels = pk.SequentialBlock([first, last])
    x = features(6, 3)
    levels(x)
    randomize(levels)
    streams = dict.fromkeys([*TASKS, "shared"], np.float64(x))
    assert_same(numpy_of(levels(x)), adatt(adatt(streams, first), last))


def test_what_works_for_a_cgc_block_works_for_adatt(tmp_path):
    heads = pk.TaskHeads([pk.BinaryHead(task) for task in TASKS])
    options = {"num_shared_experts": 0, "add_shared_gate": False}
    block = AdaTTBlock(heads, [4], 2, enable_gate_weights_metrics=True, name="adatt", **options)
    model = chain(block, heads)
    model = pk.MultiTaskModel(model.input, model.output)
    randomize(model)
    x, y = features(8, 3), {task: np.arange(8) % 2 for task in TASKS}
    model.compile("adam", run_eagerly=keras.backend.backend() == "tensorflow")
    logs = model.fit(x, y, verbose=0, callbacks=[pk.GateWeightsLogger()]).history
    assert "gate/adatt/click/buy/expert_1" in logs
    copy = loaded(model, tmp_path)
    assert_same(numpy_of(copy(x)), numpy_of(model(x)), atol=0)
    names = [f"{task}/expert_{i}" for task in TASKS for i in (0, 1)]
    report = pk.gate_report(model, x)
    assert [*report.to_dict()["levels"]["adatt"]["experts"]] == names
    assert pk.plot_gate_weights(report).axes
    assert pk.plot_architecture(model).axes
    clone = keras.models.clone_model(model)
    transfer = pk.transfer_weights(model, clone)
    assert not transfer.left_out
    assert_same(numpy_of(clone(x)), numpy_of(model(x)), atol=0)

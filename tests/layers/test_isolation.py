"""`isolate_task_experts=True`: a task's own experts and gates learn only from its own loss.

With StreamFeatures, this holds for everything that a task owns, from its features to its head.
"""

import itertools

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.inspection.task_gradients import gradient_function
from ple_keras.transfer.transfer_weights import _level_parts, _parts
from tests.helpers import features, once, randomize
from tests.layers.feature_networks import columns, network, symbols

TASKS = ["click", "buy", "like"]
STREAMS = [*TASKS, "shared"]


def built(num_levels, x, context=None, **kwargs):
    ple = pk.PLEBlock(num_levels, TASKS, [4, 3], 2, 2, name="ple", **kwargs)
    ple(x, gate_context=context)
    randomize(ple)
    return ple


def streams():
    return {name: features(5, 4, seed=i) for i, name in enumerate(STREAMS)}


def sums_of_squares(outputs):
    return [keras.ops.sum(keras.ops.square(outputs[task])) for task in TASKS]


def largest_gradients(ple, x, context=None):
    """The largest gradient of each task's output on what each task owns, by pair of tasks.

    A task owns weights, its stream and, if there is one, the context of its gates.
    """
    own = {task: [] for task in TASKS}
    for block in ple:
        for part in _level_parts(block):
            task = part.name.removeprefix("gate/").split("/")[0]
            if task in own:
                own[task] += part.slices

    sources = {name: keras.Variable(tensor) for name, tensor in x.items()}
    contexts = {gate: keras.Variable(tensor) for gate, tensor in (context or {}).items()}

    def losses(batch):
        inputs = {stream: variable.value for stream, variable in sources.items()}
        gate_context = {gate: variable.value for gate, variable in contexts.items()} or None
        outputs = ple(inputs, gate_context=gate_context)
        return sums_of_squares(outputs)

    for task in TASKS:
        own[task] += [(of[task], ()) for of in (sources, contexts) if task in of]
    gradients = gradient_function(losses, list(own.values()), ple)({})
    largest = {}
    for (row, loss), (task, gradient) in itertools.product(enumerate(TASKS), zip(own, gradients)):
        largest[loss, task] = np.abs(gradient[row]).max()
    return largest


@pytest.mark.parametrize(
    ("num_levels", "reads", "stack_experts"),
    [(2, "both", True), pytest.param(3, "stream", False, marks=once)],
)
def test_no_other_task_has_a_gradient_on_what_a_task_owns(num_levels, reads, stack_experts):
    x, context = streams(), None
    if reads != "stream":
        context = {gate: features(5, 2, seed=9 + len(gate)) for gate in STREAMS}
    options = {"isolate_task_experts": True, "gate_reads": reads, "stack_experts": stack_experts}
    ple = built(num_levels, x, context, **options)
    for (loss, task), gradient in largest_gradients(ple, x, context).items():
        assert gradient == 0.0 if loss != task else gradient > 0


def whole_model(num_levels, own, **kwargs):
    """Return a model of features, levels, towers and heads, with random weights."""
    tower = pk.ExpertBlock([3], "tanh")  # no ReLU, whose gradients can all be 0
    expert = pk.ExpertBlock([4, 3], "tanh")
    heads = pk.TaskHeads([pk.BinaryHead(task, tower=tower) for task in TASKS])
    ple = pk.PLEBlock(num_levels, heads, expert, 2, 2, gate_block=tower, name="ple", **kwargs)
    inputs = symbols()
    streams = pk.StreamFeatures(heads, network(), own=own, name="features")
    model = keras.Model(inputs, heads(ple(streams(inputs))))
    randomize(model)
    return model


def owner_of(name):
    """Return the task or "shared" that owns the weights with a name of `transfer_weights`."""
    owners = [*TASKS, "shared"]
    parts = name.removeprefix("ple/").replace("stream-", "").split("/")
    return next((part for part in parts if part in owners), None)


# Ways to compute a step: as compiled functions, if the backend can, or operation by operation.
COMPILED = "eager" if keras.backend.backend() == "torch" else "compiled"


def gradients_by_owner(model, run):
    """Return the largest gradient of each task's prediction on each owner's weights, by kind."""
    slices = {
        name: [(v, index) for v, index in part.slices if v.trainable]
        for name, (part,) in _parts(model).items()
    }
    model.compile(jit_compile=run == "compiled", run_eagerly=run == "eager")
    call = model
    if keras.backend.backend() == "tensorflow" and run == "compiled":
        import tensorflow as tf

        call = tf.function(lambda batch: model(batch))

    batch = {key: keras.ops.convert_to_tensor(x) for key, x in columns().items()}
    slices = {name: of_name for name, of_name in slices.items() if of_name}
    gradients = gradient_function(
        lambda batch: sums_of_squares(call(batch)), list(slices.values()), model
    )(batch)
    largest = {}
    for (row, loss), (name, gradient) in itertools.product(
        enumerate(TASKS), zip(slices, gradients)
    ):
        kind = name.split("/")[-1].split("-")[0]
        key = loss, owner_of(name), kind.removesuffix("_0").removesuffix("_1")
        largest[key] = max(largest.get(key, 0.0), np.abs(gradient[row]).max())
    return largest


@pytest.mark.parametrize(
    ("num_levels", "stack_experts", "run"),
    [
        (3, True, COMPILED),
        pytest.param(2, False, "eager", marks=once),
        pytest.param(1, True, "eager", marks=once),
        pytest.param(2, True, "eager", marks=once),
    ],
)
def test_no_other_task_has_a_gradient_on_anything_that_a_task_owns(num_levels, stack_experts, run):
    model = whole_model(num_levels, None, isolate_task_experts=True, stack_experts=stack_experts)
    found = gradients_by_owner(model, run)
    kinds = {"stream", "expert", "gate_block", "tower", "head"}
    assert {(loss, owner, kind) for loss in TASKS for owner in TASKS for kind in kinds} <= set(
        found
    )
    for (loss, owner, kind), gradient in found.items():
        if owner in TASKS and owner != loss:
            assert gradient == 0.0, (loss, owner, kind)
        elif owner == loss or kind == "expert":
            assert gradient > 0, (loss, owner, kind)


@once
@pytest.mark.parametrize("own", [["buy"], []], ids=str)
def test_tasks_without_a_copy_of_their_own_train_the_common_copy_together(own):
    found = gradients_by_owner(whole_model(2, own, isolate_task_experts=True), "eager")
    for task in TASKS:
        assert found[task, "shared", "stream"] > 0
        if "buy" in own:
            assert (found[task, "buy", "stream"] > 0) == (task == "buy")


@once
def test_without_isolation_other_tasks_train_what_a_task_owns_beyond_one_level():
    found = gradients_by_owner(whole_model(2, None), "eager")
    for loss, owner in itertools.product(TASKS, TASKS):
        assert found[loss, owner, "stream"] > 0
        assert found[loss, owner, "expert"] > 0

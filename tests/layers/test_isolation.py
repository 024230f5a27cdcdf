"""`isolate_task_experts=True`: a task's own experts and gates learn only from its own loss.

With StreamFeatures, this holds for everything that a task owns, from its features to its head.
"""

import itertools
import re

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.transfer.transfer_weights import _weight_groups
from tests.helpers import numpy_of, once, randomize
from tests.layers.feature_networks import columns, network, symbols

TASKS = ["click", "buy", "like"]


def sums_of_squares(outputs):
    return [keras.ops.sum(keras.ops.square(outputs[task])) for task in TASKS]


def whole_model(num_levels, own, **kwargs):
    """Return a model of features, levels, towers and heads, with random weights.

    If gates read a context, each has its own.
    """
    tower = pk.ExpertBlock([3], "tanh")  # no ReLU, whose gradients can all be 0
    expert = pk.ExpertBlock([4, 3], "tanh")
    heads = pk.TaskHeads([pk.BinaryHead(task, tower=tower) for task in TASKS])
    ple = pk.PLEBlock(num_levels, heads, expert, 2, 2, gate_block=tower, name="ple", **kwargs)
    inputs = symbols()
    streams = pk.StreamFeatures(heads, network(), own=own, name="features")(inputs)
    contexts = None
    if "gate_reads" in kwargs:
        gates = [*TASKS, "shared"]
        contexts = {x: keras.layers.Dense(2, name=f"context-{x}")(inputs["price"]) for x in gates}
    model = keras.Model(inputs, heads(ple(streams, gate_context=contexts)))
    randomize(model)
    return model


def owner_of(name):
    """Return the task or "shared" that owns the weights with a name of `transfer_weights`."""
    owners = [*TASKS, "shared"]
    parts = re.sub("stream-|context-", "", name.removeprefix("ple/")).split("/")
    return next((part for part in parts if part in owners), None)


# Ways to compute a step: as compiled functions, if the backend can, or operation by operation.
COMPILED = "eager" if keras.backend.backend() == "torch" else "compiled"


def gradients_of(losses, variables):
    """Return the gradient of each variable, `(losses, ...)`; 0 where a loss does not depend on it.

    Args:
        losses: A function that returns a list of scalars.
        variables: The variables.
    """
    values = [variable.value for variable in variables]
    if keras.backend.backend() == "jax":
        import jax

        def stacked(values):
            with keras.StatelessScope([*zip(variables, values)]):
                return keras.ops.stack(losses())

        return [*map(numpy_of, jax.jit(jax.jacrev(stacked))(values))]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(persistent=True) as tape:
            found = losses()
        rows = [tape.gradient(loss, values, unconnected_gradients="zero") for loss in found]
    else:
        import torch

        options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        rows = [torch.autograd.grad(loss, values, **options) for loss in losses()]
    return [np.stack([*map(numpy_of, by_loss)]) for by_loss in zip(*rows)]


def gradients_by_owner(model, run):
    """Return the largest gradient of each task's prediction on each owner's weights, by kind."""
    slices = {
        name: [(v, index) for v, index in group.slices if v.trainable]
        for name, (group,) in _weight_groups(model).items()
    }
    model.compile(jit_compile=run == "compiled", run_eagerly=run == "eager")
    call = model
    if keras.backend.backend() == "tensorflow" and run == "compiled":
        import tensorflow as tf

        call = tf.function(lambda batch: model(batch))

    batch = {key: keras.ops.convert_to_tensor(x) for key, x in columns().items()}
    found = gradients_of(lambda: sums_of_squares(call(batch)), model.trainable_variables)
    gradients = dict(zip(map(id, model.trainable_variables), found))
    largest = {}
    for (row, loss), (name, parts) in itertools.product(enumerate(TASKS), slices.items()):
        kind = name.split("/")[-1].split("-")[0]
        key = loss, owner_of(name), kind.removesuffix("_0").removesuffix("_1")
        for variable, index in parts:
            gradient = np.abs(gradients[id(variable)][row][index]).max()
            largest[key] = max(largest.get(key, 0.0), gradient)
    return largest


@pytest.mark.parametrize(
    ("num_levels", "stack_experts", "run", "options"),
    [
        (2, True, COMPILED, {"gate_reads": "both"}),
        pytest.param(2, False, "eager", {}, marks=once),
        pytest.param(1, True, "eager", {}, marks=once),
        pytest.param(3, True, "eager", {}, marks=once),
    ],
)
def test_no_other_task_has_a_gradient_on_what_a_task_owns(num_levels, stack_experts, run, options):
    options = {"isolate_task_experts": True, "stack_experts": stack_experts, **options}
    found = gradients_by_owner(whole_model(num_levels, None, **options), run)
    kinds = {"stream", "expert", "gate_block", "tower", "head"}
    kinds |= {"kernel"} if "gate_reads" in options else set()  # of the context
    assert {*itertools.product(TASKS, TASKS, kinds)} <= {*found}
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

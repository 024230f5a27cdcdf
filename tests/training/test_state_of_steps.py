"""Steps that read more than variables and batches: traced and equal, or eager with a warning."""

import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import optimizers

import ple_keras as pk
from tests.helpers import numpy_of, once
from tests.training.test_traced_step import (
    Custom,
    assert_equal_steps,
    dense,
    graphs,
    numbers_and_labels,
)

torch = pytest.importorskip("torch")
pytestmark = once
RATE = "optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)"

# For each case: what the layer computes, what is created before it, and what is changed between two
# calls of `fit`. `a` is an attribute of the layer, `g.a` is none.
EAGER = {
    "a module": ("layer.a(x)", "layer.a = torch.nn.Linear(3, 3)"),
    "statistics": ("layer.a(x)", "layer.a = torch.nn.BatchNorm1d(3, affine=False)"),
    "a penalty": (
        "(x, layer.add_loss(sum((w**2).sum() for w in layer.a.module.parameters())))[0]",
        "layer.a = torch.nn.Linear(3, 3)",
    ),
    "a parameter": ("x * layer.a", "layer.a = torch.nn.Parameter(torch.ones(3))"),
    "a view": ("x * layer.a * layer.w", "layer.a = layer.w.value.detach()"),
    "default_rng": ("x * layer.a.normal()", "layer.a = np.random.default_rng(0)"),
    "RandomState": ("x if layer.a.rand() < 1 else -x", "layer.a = np.random.RandomState(0)"),
    "random.Random, global": ("x * g.a.random()", "import random; g.a = random.Random(0)"),
    "a cached Gaussian": ("x * np.random.normal()", "np.random.normal()"),
    "312 doubles": ("x * np.random.random(312)[-1]", ""),
    "a seed of NumPy": ("(x, np.random.seed(3))[0]", ""),
    "a seed": ("(torch.dropout(x, 0.5, True), torch.manual_seed(3))[0]", ""),
    "a generator": ("x + torch.rand(3, generator=g.a)", "g.a = torch.Generator()"),
    "a count": ("x * (1 + (count(layer, 'a') > 9))", "layer.a = 0"),
    "a NumPy count": ("x * (1 + (count(layer, 'a') > 9))", "layer.a = np.int64(0)"),
    "an item": ("x * (1 + (count(layer.a['b'][0], 0) > 9))", "layer.a = {'b': ([0],)}"),
    "an object": ("x * (1 + (count(layer.a, 'n') > 9))", "layer.a = SimpleNamespace(n=0)"),
    "an array": ("x * (1 + (count(layer.a, 0) > 9))", "layer.a = np.zeros(1)"),
    "a set": ("x * (layer.a.add(len(layer.a)) or len(layer.a))", "layer.a = set()"),
    "a closure, global": ("x * g.a()", "n = [0]; g.a = lambda: count(n, 0)"),
    "a kept tensor": ("setattr(layer, 'a', x) or x", "layer.a = None"),
    "kept tensors": ("layer.a.append(x) or x", "layer.a = []"),
    "a tensor in place": ("x * layer.a.add_(1).add_(x.detach().mean())", "layer.a = torch.ones(3)"),
    "a list of a tensor": ("x * layer.a.tolist()[0]", "layer.a = torch.ones(3)"),
    "a variable": ("(x * g.a, g.a.assign_add([0.1]))[0]", "g.a = keras.Variable([1.0])"),
}
TRACED = {
    "a frozen module": ("layer.a(x)", "layer.a = torch.nn.Linear(3, 3).requires_grad_(False)"),
    "a constant": ("x + layer.a.nan_to_num(2.0)", "layer.a = torch.full((3,), torch.nan)"),
    "an item of a tensor": ("x * layer.a[0].item()", "layer.a = torch.ones(3)"),
    "random numbers": ("x + torch.rand(3)", ""),
}
DENSE = "layer.a = keras.layers.Dense(3); layer.a.build((None, 3))"
CHANGES = {
    "a loss weight": ("x", "", "model.layers[-1]['click'].loss_weight = 0.0"),
    "a decay": ("x", "", "model.optimizer.weight_decay = 0.5"),
    "a number": ("x * layer.a", "layer.a = np.float32(1)", "layer.a = np.float32(3)"),
    "an item": ("x * layer.a['b'][0]", "layer.a = {'b': [1.0]}", "layer.a['b'][0] = 3.0"),
    "an activation": ("layer.a(x)", DENSE, "layer.a.activation = keras.activations.relu"),
    "a regularizer": ("layer.a(x)", DENSE, "layer.a.kernel.regularizer = keras.regularizers.L2()"),
    "a constraint": ("layer.a(x)", DENSE, "layer.a.kernel.constraint = keras.constraints.NonNeg()"),
    "a schedule": ("x", "", f"model.optimizer.learning_rate = {RATE.replace('2', '9')}"),
    "its edit": ("x", "", "model.optimizer._learning_rate.initial_learning_rate = 0.2"),
}
QUICK = "a module", "RandomState", "312 doubles", "a seed", "a generator", "an item", "statistics"
QUICK += "a frozen module", "a loss weight", "its edit", "a regularizer"


def cases(table):
    return [
        pytest.param(name, id=name, marks=[] if name in QUICK else pytest.mark.nightly)
        for name in table
    ]


def count(held, key):
    """Count in an item or an attribute, and return the number."""
    if isinstance(held, list | np.ndarray):
        held[key] += 1
        return held[key]
    setattr(held, key, getattr(held, key) + 1)
    return getattr(held, key)


def run(case, is_eager, optimizer):
    """Return what two calls of `fit` with one History leave, and the number of graphs."""
    code, setup, change = [*case, ""][:3]
    keras.utils.set_random_seed(1)
    names = {**globals(), "g": SimpleNamespace()}
    exec(compile(f"def function(layer, x):\n    return {code}", __file__, "exec"), names)
    layer = names["layer"] = Custom(names["function"])
    layer.w = layer.add_weight((3,), "ones")
    exec(setup, names)
    model = dense(before=[layer], optimizer=optimizer(), run_eagerly=is_eager)
    names["model"], history = model, keras.callbacks.History()
    logs = []
    for epochs in (4, 3):
        fit_kwargs = {"batch_size": 16, "epochs": epochs, "shuffle": False, "verbose": 0}
        model.fit(*numbers_and_labels(), callbacks=[history], **fit_kwargs)
        logs.append(history.history)
        exec(change, names)
    variables = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    return [*map(numpy_of, variables)], logs, graphs(model)


def compare(case, is_equal=True, optimizer=lambda: optimizers.AdamW(eval(RATE))):
    """Compare with eager steps, and return the number of graphs and of warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        *traced, count = run(case, False, optimizer)
    *eager, _ = run(case, True, optimizer)
    if is_equal:
        keras.tree.map_structure(np.testing.assert_array_equal, traced, eager)
    return count, len([w for w in caught if "can't be traced" in str(w.message)])


@pytest.mark.parametrize("name", cases(EAGER))
def test_what_a_graph_would_not_repeat_runs_eagerly_with_a_warning(name):
    # A trace changes what no attribute holds.
    assert compare(EAGER[name], is_equal="global" not in name) == (0, 1)


@pytest.mark.parametrize("name", cases(TRACED))
def test_what_no_step_changes_is_traced(name):
    assert compare(TRACED[name]) == (1, 0)


@pytest.mark.parametrize("name", cases(CHANGES))
def test_changes_between_two_calls_of_fit_have_an_effect(name):
    assert compare(CHANGES[name]) == (1, 0)


@pytest.mark.parametrize("rate", [np.float32(0.05), pytest.param(1, marks=pytest.mark.nightly)])
def test_a_rate_that_is_a_function_is_called_in_each_step(rate):
    calls = []
    optimizer = partial(optimizers.SGD, lambda: calls.append(1) or rate)
    assert compare(("x", ""), optimizer=optimizer) == (0, 0)
    assert len(calls) == 14


@keras.saving.register_keras_serializable("tests")
class Kept(keras.metrics.Mean):
    """A mean that keeps all values in a list."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.kept = []

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.kept.append(y_pred[0, 0])

    def reset_state(self):
        self.kept.clear()

    def result(self):
        return sum(self.kept)


@keras.saving.register_keras_serializable("tests")
class WithNumber(pk.MultiTaskModel):
    def compute_metrics(self, *args, **kwargs):
        return {**super().compute_metrics(*args, **kwargs), "one": 1.0}


def test_a_metric_with_a_list_and_a_log_without_tensor_run_eagerly_with_a_warning():
    def kept():
        return dense(heads=pk.TaskHeads([pk.BinaryHead("click", extra_metrics=[Kept()])]))

    def with_number():
        model = dense()
        own = WithNumber(model.input, model.output)
        own.compile("sgd")
        return own

    for make, cause in ((kept, "kept"), (with_number, "returns 1.0, not a tensor")):
        with pytest.warns(UserWarning, match=f"can't be traced.*{cause}"):
            assert_equal_steps(make, traced=0)


def test_a_folder_whose_name_begins_with_that_of_a_library_is_not_the_library(monkeypatch):
    file, names = f"{Path(keras.__file__).parent}_hub/layer.py", {}
    exec(compile("def call(layer, x):\n    return x if x.sum() > 0 else -x", file, "exec"), names)
    with pytest.warns(UserWarning, match="can't be traced.*_hub/layer.py"):
        assert_equal_steps(lambda: dense(before=[Custom(names["call"])]), traced=0)

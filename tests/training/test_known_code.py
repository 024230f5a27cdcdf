"""Which code in a step is known, and which attributes of known objects a step reads."""

import cProfile
import random
import sys
from collections import namedtuple
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, optimizers

import ple_keras as pk
from tests.helpers import once
from tests.models import chain

torch = pytest.importorskip("torch")
from ple_keras.steps.known_code import find_unknown_code  # noqa: E402
from ple_keras.steps.step_variables import StepVariables  # noqa: E402

pytestmark = once
Pair = namedtuple("Pair", "first second")
X = np.ones((4, 3), "float32")


def function_in(file, code="pass", names=None):
    """Return a function whose code is said to be in a file."""
    names = {} if names is None else names
    exec(compile(f"def function(*args):\n    {code}", file, "exec"), names)
    return names["function"]


def findings(function):
    with find_unknown_code() as found:
        function()
    here = {find_unknown_code.__wrapped__.__code__}
    # The `with` block is code of this file.
    return {
        getattr(each, "co_filename", each): where
        for each, where in found.items()
        if each not in here and each is not findings.__code__
    }


FOLDER, PYTHON = Path(keras.__file__).parent, Path(random.__file__).parent
DENSE, EXPERT = layers.Dense(2), pk.ExpertBlock([2], dropout=0.1)
DENSE.build(X.shape), EXPERT.build(X.shape)
KNOWN = {
    "Keras": lambda: keras.ops.relu(X),
    "a layer": lambda: DENSE(X),
    "NumPy": lambda: np.linalg.norm(X),
    "PyTorch": lambda: torch.nn.Linear(3, 2)(torch.ones(1, 3)),
    "the standard library": lambda: random.shuffle([]) or isinstance([], Path),
    "this package": lambda: EXPERT(X, training=True),
    "a named tuple": lambda: Pair(1, 2)._replace(first=3),
    "a file of Keras": function_in(f"{FOLDER}/new.py"),
    "a file of Python": function_in(f"{PYTHON}/new.py"),
}
UNKNOWN = {
    "a neighbor of Keras": f"{FOLDER}_hub/layer.py",
    "a package in the folder of Python": f"{PYTHON}/site-packages/mine/layer.py",
    "a notebook": "ipykernel_1/2.py",
    "a doctest": "<doctest keras.layers[0]>",
}


@pytest.mark.parametrize("name", KNOWN)
def test_code_of_libraries_is_known(name):
    call = KNOWN[name]
    found = findings(call)
    found.pop(getattr(call, "__code__", None) and call.__code__.co_filename, None)
    assert found == {}


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_code_is_found_with_its_file_and_line(name):
    file = UNKNOWN[name]
    assert findings(function_in(file)) == {file: f"{file}:1"}
    # The globals of a doctest are a copy of those of its module.
    copied = function_in(file, names={**vars(keras.layers)})
    assert findings(copied) == {file: f"{file}:1"}


def test_text_that_runs_in_a_module_of_a_library_is_known(monkeypatch):
    monkeypatch.setattr(keras.layers, "function", None, raising=False)
    assert findings(function_in("<string>", names=vars(keras.layers))) == {}


def test_recomputed_layers_and_modules_of_pytorch_are_found():
    module = layers.TorchModuleWrapper(torch.nn.Linear(3, 2))
    with keras.RematScope(mode="full"):
        layer = layers.Dense(2)
    layer.build((4, 3))
    x = torch.ones((4, 3), requires_grad=True)
    assert None in findings(lambda: module(x)).values()
    assert None in findings(lambda: layer(x).sum().backward()).values()


def test_a_profile_ends_after_an_error():
    def fail():
        raise KeyError

    with pytest.raises(KeyError), find_unknown_code():
        fail()
    assert sys.getprofile() is None


# Variables that change


def model_of(*before):
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.RegressionHead("stars")])
    expert = pk.ExpertBlock([4], kernel_regularizer="l2")
    model = chain(*before, pk.PLEBlock(1, heads, expert), heads)
    schedule = optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    model.compile(optimizers.Adam(schedule, clipnorm=1.0))
    model.optimizer.build(model.trainable_variables)
    return model


CHANGES = {
    "a frozen layer": lambda model: setattr(model.layers[2], "trainable", False),
    "LoRA": lambda model: model.layers[3].enable_lora(2),
    "a quantized layer": lambda model: model.layers[3].quantize("int8"),
    "an optimizer": lambda model: setattr(model, "optimizer", optimizers.SGD(0.0)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_variables_are_seen(name):
    norm = layers.BatchNormalization(center=False, scale=False)
    model = model_of(layers.Dropout(0.1), norm, layers.Dense(3, kernel_regularizer="l2"))
    state = StepVariables(model, "train")
    assert state.are_current()
    CHANGES[name](model)
    assert not state.are_current()


def test_a_step_under_a_profiler_is_watched_later():
    model, y = model_of(), {"click": np.ones(4), "stars": np.ones(4)}
    profiler = cProfile.Profile()
    profiler.enable()
    model.train_on_batch(X, y)
    is_undecided = sys.getprofile() is not None  # from Python 3.12 on, both can run
    profiler.disable()
    assert not model.train_function._graphs.findings or not is_undecided
    for _ in range(2):
        model.train_on_batch(X, y)
    assert len(model.train_function._graphs.replays) == 1
    profiler.enable()
    model.train_on_batch(X, y)
    profiler.disable()

"""Models whose steps are traced on PyTorch, and their comparison with eager steps."""

import keras
import numpy as np
from keras import layers

import ple_keras as pk
from tests.models import chain, heads_of

ROWS, BATCH = 16, 8


def data(rows=ROWS):
    """Return columns of codes and numbers, and labels, whose dicts are not in order."""
    rng = np.random.default_rng(0)
    x = {
        "numbers": rng.normal(size=(rows, 3)).astype("float32"),
        "list": rng.integers(0, 9, (rows, 4)).astype("int32"),
        "id": rng.integers(0, 9, rows).astype("int32"),
    }
    y = {
        "kind": rng.integers(0, 3, rows),
        "click": (rng.random(rows) < 0.5).astype("float32"),
        "buy": (rng.random(rows) < 0.5).astype("float32"),
        "both": (rng.random(rows) < 0.5).astype("float32"),
        "stars": rng.normal(size=rows),
        "list": rng.integers(0, 3, (rows, 3)).astype("float32"),
    }
    y["click"][::3] = np.nan
    return x, y


def numbers_and_labels(rows=ROWS):
    """Return the first rows of the numbers, and labels of two tasks."""
    x, y = data()
    return x["numbers"][:rows], {task: y[task][:rows] for task in ("click", "stars")}


def heads_of_two(**options):
    return pk.TaskHeads(
        [pk.BinaryHead("click", tower=[2]), pk.RegressionHead("stars", loss_weight=0.5)], **options
    )


def dense(block=None, heads=None, before=(), optimizer=None, **compile_kwargs):
    """Return a model of the numbers alone, which returns the traced step after `fit`."""
    heads = heads or heads_of_two()
    block = block or pk.SharedBottomBlock(heads, [4])
    model = chain(*before, block, heads)
    model.compile(optimizer or keras.optimizers.Adam(0.05), **compile_kwargs)
    return model


def with_tables(optimizer=None):
    """Return a model that reads one table twice, and another one once."""
    inputs = {
        "list": keras.Input((4,), dtype="int32", name="list"),
        "id": keras.Input((), dtype="int32", name="id"),
    }
    table = pk.SparseEmbedding(9, 4)
    rows = [
        layers.GlobalAveragePooling1D()(table(inputs["list"])),
        table(inputs["id"]),
        pk.SparseEmbedding(9, 4)(inputs["id"]),
    ]
    heads = heads_of_two()
    block = pk.PLEBlock(1, heads, [4])
    model = pk.MultiTaskModel(inputs, heads(block(layers.Concatenate()(rows))))
    model.compile(optimizer or pk.table_optimizer("adam"))
    return model


def train(make, is_eager, callbacks=(), batch_size=BATCH, epochs=2, **fit_kwargs):
    """Return a trained model, with all its variables, those of its optimizer, and the logs."""
    keras.utils.set_random_seed(1)
    model = make()
    model.run_eagerly = is_eager
    x, y = data()
    x = {tensor.name: x[tensor.name] for tensor in model.inputs if tensor.name in x}
    y = {task: y[task] for task in y if task in heads_of(model).trained_tasks}
    callbacks = [make_callback() for make_callback in callbacks]
    fit_kwargs |= {"batch_size": batch_size, "epochs": epochs, "shuffle": False, "verbose": 0}
    x = x or data()[0]["numbers"]
    history = model.fit(x, y, callbacks=callbacks, **fit_kwargs).history
    variables = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    values = [variable.value.detach().double().numpy() for variable in variables]
    return model, values, history


def graphs(model, name="train"):
    """Return the number of graphs of a model."""
    found = getattr(getattr(model, f"{name}_function"), "_graphs", None)
    return len(found.replays) if found else 0


def assert_equal_steps(make, traced=1, **fit_kwargs):
    """Assert that traced and eager steps differ by 0.0, and that so many shapes are traced."""
    model, values, logs = train(make, is_eager=False, **fit_kwargs)
    _, expected, expected_logs = train(make, is_eager=True, **fit_kwargs)
    assert graphs(model) == traced
    np.testing.assert_equal(values, expected)
    assert list(logs) == list(expected_logs)
    np.testing.assert_equal(logs, expected_logs)
    return model


class At(keras.callbacks.Callback):
    """Calls a function of the model before a step."""

    def __init__(self, step, function):
        super().__init__()
        self.step, self.function, self.steps = step, function, 0

    def on_train_batch_begin(self, batch, logs=None):
        self.steps += 1
        if self.steps == self.step:
            self.function(self.model)

"""Files are read in new processes and by other backends. A different order is refused."""

import importlib.util
from functools import partial

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK_JIT, assert_same, features, numpy_of, once
from tests.layers.feature_networks import network, symbols
from tests.models import chain, compiled
from tests.optimizers.tables import arrays, build, train
from tests.processes import run_to_end
from tests.refusals import table

BACKEND = keras.backend.backend()
THREE = ("click", "click_buy", "10th")
PREDICT = """
import sys
import keras
import numpy as np
import ple_keras
from tests.optimizers.tables import arrays, train

folder = sys.argv[1]
model = keras.models.load_model(f"{folder}/model.keras")
predictions = model.predict(np.load(f"{folder}/x.npy"), verbose=0)
model.evaluate(np.load(f"{folder}/x.npy"), dict(np.load(f"{folder}/y.npz")), verbose=0)
np.savez(f"{folder}/predictions.npz", **predictions)

# How to train a file of PyTorch under another backend, see docs/scale.md.
model = keras.models.load_model(f"{folder}/model.keras", compile=False)
model.compile("adam", run_eagerly=True)
model.optimizer.build(model.trainable_variables)
model.load_weights(f"{folder}/model.keras")
np.savez(f"{folder}/optimizer.npz", *map(keras.ops.convert_to_numpy, model.optimizer.variables))
model.train_on_batch(np.load(f"{folder}/x.npy"), dict(np.load(f"{folder}/y.npz")))
assert int(model.optimizer.iterations) == 7

# A file with a table_optimizer trains as it is.
tables = keras.models.load_model(f"{folder}/tables.keras")
train(tables, seed=10)
np.savez(f"{folder}/tables.npz", *arrays(tables))
"""


def whole_model():
    heads = pk.TaskHeads([pk.BinaryHead(task, tower=[4]) for task in THREE])
    expert = pk.ExpertBlock([6, 4], normalization="batch", dropout=0.1)
    gates = {"gate_block": [3], "gate_kwargs": {"dropout": 0.1}}
    ple = pk.PLEBlock(2, heads, expert, 2, num_shared_experts=2, **gates)
    model = compiled(chain(ple, heads, width=5), "adam", jit_compile=False)
    model.jit_compile = QUICK_JIT  # in this process, and not in its files
    return model


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder with a trained, compiled model, inputs and labels, and the predictions."""
    folder = tmp_path_factory.mktemp("trained")
    model = whole_model()
    x = features(24, 5)
    rng = np.random.default_rng(1)
    y = {task: rng.integers(0, 2, (24, 1)) for task in THREE}
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    model.save(folder / "model.keras")
    np.save(folder / "x.npy", x)
    np.savez(folder / "y.npz", **y)
    np.savez(folder / "optimizer_expected.npz", *map(numpy_of, model.optimizer.variables))
    tables = build(pk.table_optimizer())
    train(tables)
    tables.save(folder / "tables.keras")
    train(tables, seed=10)
    np.savez(folder / "tables_expected.npz", *arrays(tables))
    return folder, model.predict(x, verbose=0)


@pytest.mark.nightly
@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_a_file_loads_in_a_new_process_with_any_backend(trained, backend):
    if not importlib.util.find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    folder, expected = trained
    run_to_end("-c", PREDICT, folder, KERAS_BACKEND=backend)
    is_same = backend == BACKEND
    predictions = dict(np.load(folder / "predictions.npz"))
    assert_same(predictions, expected, atol=0 if is_same else 1e-5)
    state, expected_state, tables, expected_tables = (
        dict(np.load(folder / f"{name}{end}.npz"))
        for name in ("optimizer", "tables")
        for end in ("", "_expected")
    )
    assert_same(state, expected_state, atol=0)
    assert_same(tables, expected_tables)


def on_columns(**kwargs):
    inputs = symbols()
    arguments = {"outputs": ["a", "b"], "feature_block": network(), **kwargs}
    return keras.Model(inputs, pk.StreamFeatures(**arguments)(inputs))


def level(reads="stream", stack_experts=True):
    """Return a model of one level. The context is as wide as the features."""
    x, context = keras.Input((3,)), keras.Input((3,))
    block = pk.CGCBlock(["a", "b"], [3], gate_reads=reads, stack_experts=stack_experts, name="cgc")
    if reads == "stream":
        return keras.Model(x, block(x))
    return keras.Model([x, context], block(x, gate_context=context))


def levels(tasks=THREE, counts=2, number=2):
    return chain(pk.PLEBlock(number, tasks, [3], counts))


def mmoe(tasks=("a", "b")):
    return chain(pk.MMoEBlock(tasks, 3, num_experts=2))


def bottom_and_heads(tasks=("a", "b")):
    heads = pk.TaskHeads([pk.BinaryHead(task) for task in tasks])
    return chain(pk.SharedBottomBlock(tasks, 3), heads)


def reading(saved, other):
    message = rf"'gates read {saved}'\], in this order, but 'cgc' has .*'gates read {other}'\]"
    return partial(level, saved), partial(level, other), message


COUNTS = {"click": 1, "click_buy": 2, "10th": 3}
BY_TASKS = r"written by a layer with \['click', 'click_buy', '10th'"
BY_COPIES = r"written by a layer with \['a reads stream-a'"
KINDS = r"'cgc' has .*'(copied|stacked) experts'"
REFUSED = {
    **{
        "-".join(tasks): (levels, partial(levels, tasks), BY_TASKS)
        for tasks in (("click_buy", "click", "10th"), ("click", "click_buy", "9th"))
    },
    "counts": (levels, partial(levels, counts=COUNTS), BY_TASKS),
    "levels": (levels, partial(levels, number=1), r"'10th', 'shared', .* but .*'10th', 'click/e"),
    "mmoe": (mmoe, partial(mmoe, ("b", "a")), "in this order"),
    "heads": (bottom_and_heads, partial(bottom_and_heads, ("b", "a")), "in this order"),
    "stream_for_context": reading("stream", "context"),
    "context_for_stream": reading("context", "stream"),
    "both_for_context": reading("both", "context"),
    "stacked": (level, partial(level, stack_experts=False), KINDS),
    "copied": (partial(level, stack_experts=False), level, KINDS),
    **{
        f"features-{name}-{value}": (on_columns, partial(on_columns, **{name: value}), BY_COPIES)
        for name, value in (
            *(("outputs", ["b", "a"]), ("outputs", ["a"])),
            *(("own", ["b"]), ("own", []), ("shared", False)),
        )
    },
}


@once
@pytest.mark.parametrize(("saved", "other", "message"), table(REFUSED))
def test_weights_of_a_model_of_other_parts_are_refused(saved, other, message, tmp_path):
    saved().save_weights(tmp_path / "m.weights.h5")
    saved().load_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ValueError, match=message):
        other().load_weights(tmp_path / "m.weights.h5")


def test_skip_mismatch_never_loads_the_weights_of_another_task(tmp_path):
    """Keras ignores the error and loads the inner layers, by name or not at all."""

    def model_of(tasks, counts=1):
        ple = pk.PLEBlock(2, tasks, [4], num_task_experts=counts, num_shared_experts=1)
        return chain(ple, width=5), ple

    model, ple = model_of(["a", "b"])
    model.save_weights(tmp_path / "m.weights.h5")
    x = features(3, 5)
    saved = numpy_of(ple[0].expert_outputs(x))
    other, reordered = model_of(["b", "a"])
    before = numpy_of(reordered[0].expert_outputs(x))
    with pytest.warns(UserWarning, match="could not be loaded"):
        other.load_weights(tmp_path / "m.weights.h5", skip_mismatch=True)
    after = numpy_of(reordered[0].expert_outputs(x))
    for name in saved:
        assert np.array_equal(after[name], before[name]) or np.array_equal(after[name], saved[name])
    gates, expected = (numpy_of(each[0].gate_weights(x))["a"] for each in (reordered, ple))
    np.testing.assert_array_equal(gates, expected)


def test_files_do_not_contain_gate_statistics(tmp_path):
    """A file saved with statistics loads without them, and vice versa."""

    def model_of(track):
        return chain(pk.PLEBlock(2, ["a", "b"], 3, enable_gate_weights_metrics=track), width=4)

    x = features(5, 4)
    tracking, plain = model_of(True), model_of(False)
    tracking.predict(x, verbose=0)
    for source, target in ((tracking, plain), (plain, tracking)):
        source.save_weights(tmp_path / "m.weights.h5")
        target.load_weights(tmp_path / "m.weights.h5")
        assert_same(numpy_of(target(x)), numpy_of(source(x)), atol=0)

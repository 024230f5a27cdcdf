"""table_optimizer finds the tables of every model, even after loading."""

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import QUICK, once
from tests.models import cloned, compiled, loaded
from tests.optimizers.tables import (
    IS_JAX,
    ROWS,
    build,
    difference,
    embedding,
    ids,
    keras_embedding,
    labels,
    record_rows,
    small,
    train,
    train_small,
)
from tests.pairs import fewer
from tests.refusals import all_refused

pytestmark = pytest.mark.usefixtures("small_tables_by_rows")


@keras.saving.register_keras_serializable(package="tests_table_optimizer")
class Subclassed(pk.MultiTaskTraining, keras.Model):
    """Model whose variables have different paths after loading."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.user, self.item = embedding(), embedding()
        self.heads = pk.TaskHeads([pk.BinaryHead(task, metrics=[]) for task in ("click", "buy")])
        self.ple = pk.PLEBlock(1, self.heads, [3])

    def call(self, inputs):
        rows = [self.user(inputs["user"]), self.item(inputs["item"])]
        return self.heads(self.ple(keras.ops.concatenate(rows, axis=-1)))


def subclassed(optimizer):
    keras.utils.set_random_seed(0)
    model = Subclassed()
    model(ids())
    return compiled(model, optimizer, **QUICK)


def frozen(optimizer):
    model = build(optimizer)
    model.get_layer("of-item").trainable = False
    return compiled(model, model.optimizer, **QUICK)


MODELS = [
    pytest.param(build, 2, id="functional"),
    pytest.param(subclassed, 2, id="subclassed", marks=once),
    pytest.param(lambda optimizer: build(optimizer, shared=True), 1, id="shared", marks=once),
    pytest.param(frozen, 1, id="frozen", marks=once),
]


def trained_tables(model):
    """Return the number of tables, if the table optimizer has them and nothing else."""
    tables, rest = model.optimizer.optimizers
    states = [v for v in tables.variables if "accumulator" in v.path]
    assert {v.shape for v in states} == {(ROWS, 3)}
    velocities = [v for v in rest.variables if "velocity" in v.path]
    assert len(states) + len(velocities) == len(model.trainable_variables)
    return len(states)


@pytest.mark.parametrize(("make", "count"), MODELS)
def test_tables_are_found_and_training_continues_after_loading(make, count, tmp_path):
    model = make(pk.table_optimizer())
    train(model)
    assert trained_tables(model) == count
    copy = loaded(model, tmp_path)
    copy.run_eagerly = model.run_eagerly
    assert difference(copy, model) == 0.0
    assert trained_tables(copy) == count
    for each in (model, copy):
        train(each, seed=10)
    assert difference(copy, model) == 0.0


@pytest.mark.parametrize("copied", fewer({"loaded": loaded, "cloned": cloned}, "loaded"))
def test_copies_update_rows(copied, tmp_path, monkeypatch):
    model = build(pk.table_optimizer(), run_eagerly=not IS_JAX, jit_compile=IS_JAX)
    train(model, steps=1)
    copy = copied(model, tmp_path)
    compiled(copy, pk.table_optimizer(), run_eagerly=not IS_JAX, jit_compile=IS_JAX)
    counts = record_rows(monkeypatch)
    train(copy, steps=1)
    assert len(counts) == 2
    assert IS_JAX or max(counts) < ROWS


OTHERS = {
    "adam": lambda: "adam",
    "clipped": lambda: keras.optimizers.Adam(clipvalue=0.1),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()),
}


@pytest.mark.skipif(IS_JAX, reason="gradients of other optimizers have all rows on JAX")
@pytest.mark.parametrize(
    "other",
    [pytest.param(make, id=n, marks=() if n == "adam" else once) for n, make in OTHERS.items()],
)
def test_another_optimizer_makes_the_steps_of_an_embedding(other, monkeypatch):
    """Its model has the layers of a model that is trained with row gradients, before and after."""
    first = small(pk.table_optimizer())
    train_small(first)
    model = keras.Sequential([keras.Input((2,), dtype="int32"), *first.layers])
    reference = small(other(), keras_embedding)
    reference.set_weights(model.get_weights())
    model.compile(other(), "mse", **QUICK)
    for each in (model, reference):
        train_small(each)
    assert difference(model, reference) < 1e-6
    counts = record_rows(monkeypatch)
    train_small(first, steps=1)
    assert max(counts) < ROWS


@pytest.mark.parametrize("scaled", ["rest", "tables"])
def test_a_loss_scale_factor_scales_the_loss_for_both_optimizers(scaled):
    factors = {"rest": None, "tables": None, scaled: 1024.0}
    by_table = pk.table_optimizer(
        keras.optimizers.SGD(0.01, loss_scale_factor=factors["rest"], name="sgd"),
        pk.SparseAdagrad(loss_scale_factor=factors["tables"]),
    )
    copy = keras.optimizers.MultiOptimizer.from_config(by_table.get_config())
    assert by_table.scale_loss(2.0) == copy.scale_loss(2.0) == 2048.0
    models = [small(optimizer) for optimizer in (copy, pk.table_optimizer("sgd"))]
    for model in models:
        train_small(model)
    assert difference(*models) < 1e-6


@once
def test_a_model_without_tables_trains_with_the_optimizer_alone():
    models = [build(optimizer, keras_embedding) for optimizer in (pk.table_optimizer(), "adam")]
    for model in models:
        train(model)
    np.testing.assert_equal(*(model.get_weights() for model in models))


def test_files_name_public_classes_and_logs_have_fixed_names(tmp_path):
    """PyTorch has its own class of Adam, which no other backend has."""
    build(pk.table_optimizer())
    model = build(pk.table_optimizer())
    config = keras.saving.serialize_keras_object(model.optimizer)
    inner = config["config"]["optimizer_map"]["config"]
    assert inner["default_optimizer"]["module"] == "keras.optimizers"
    assert inner["default_optimizer"]["class_name"] == "Adam"
    assert [each.name for each in model.optimizer.optimizers] == ["sparse_adagrad", "adam"]
    stop = keras.callbacks.ReduceLROnPlateau("loss")
    logs = model.fit(ids(), labels(), callbacks=[stop], verbose=0).history
    assert {"learning_rate_sparse_adagrad", "learning_rate_adam"} <= set(logs)


ACCUMULATING = keras.optimizers.Adam(gradient_accumulation_steps=4)
REFUSED = {
    "unknown_name": ("nadamm", r"optimizer must be known to Keras: .*'nadamm'"),
    "number": ("adam", 5, r"tables must be known to Keras: .*tables=5$"),
    "none": (None, r"optimizer must be an optimizer or a name, .*: optimizer=None$"),
    "accumulating": (ACCUMULATING, r"optimizer must .* not accumulate gradients.*: optimizer=<"),
    "equal_names": ("adam", "adam", r"different names.*name='adam'$"),
}


test_invalid_optimizers_are_refused = all_refused(pk.table_optimizer, REFUSED)

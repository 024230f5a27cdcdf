"""SparseAdagrad takes the steps of Keras's Adagrad, and writes only the rows of the batch."""

import contextlib
import gc
import re

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import JIT, assert_all_close, once
from tests.optimizers.tables import (
    COUNT,
    IS_JAX,
    ROWS,
    build,
    dense_embedding,
    difference,
    embedding,
    ids,
    labels,
    record_rows,
    small,
    train_small,
)
from tests.pairs import fewer
from tests.refusals import INF, NAN, check_refused

pytestmark = pytest.mark.usefixtures("small_tables_by_rows")


BOTH = (embedding, dense_embedding)


def dense_adagrad(**kwargs):
    return keras.optimizers.Adagrad(0.1, initial_accumulator_value=0.01, epsilon=0.0, **kwargs)


def both(clipping, **kwargs):
    """Return a model with row gradients, and one with dense gradients and Keras's Adagrad."""
    return (
        small(pk.SparseAdagrad(0.1, 0.01, **clipping), **kwargs),
        small(dense_adagrad(**clipping), dense_embedding, **kwargs),
    )


@pytest.mark.parametrize(
    ("clipping", "compiled"),
    [
        pytest.param({}, True, marks=once),
        ({"clipnorm": 0.1}, False),
        ({"global_clipnorm": 0.1}, True),
    ],
    ids=str,
)
def test_steps_are_those_of_adagrad_with_dense_gradients(clipping, compiled):
    """Each batch contains ids several times."""
    model, reference = both(clipping, run_eagerly=not (compiled or IS_JAX), jit_compile=IS_JAX)
    for each in (model, reference):
        train_small(each, steps=25 if compiled else 3)
    assert difference(model, reference) < 1e-6


@pytest.mark.parametrize(("dtype", "rtol"), [("float16", 1e-2), ("float32", 1e-5)])
def test_steps_in_numpy(dtype, rtol):
    """In float16, the squares of these gradients are mostly 0."""
    table, optimizer = keras.Variable(np.zeros((4, 2)), dtype=dtype), pk.SparseAdagrad()
    x = sums = recent = 0.0
    for step, gradient in enumerate(np.random.default_rng(0).normal(0, 1e-4, (4, 4, 2))):
        gradient[step if step < 3 else ...] = 0.0  # of a row that the batch does not read, or all
        optimizer.apply([keras.ops.convert_to_tensor(gradient, dtype)], [table])
        recent = 0.99 * recent + np.array([np.sum(gradient**2), np.sum(gradient != 0)])
        sums = sums + gradient**2
        x = x - 0.1 * gradient / np.sqrt(sums + 100 * recent[0] / recent[1])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(table), x, rtol=rtol)


EAGER = {"run_eagerly": not IS_JAX, "jit_compile": IS_JAX}


@pytest.mark.parametrize(
    ("make", "dtype", "atol", "compiling"),
    [
        (embedding, "float16", 3e-4, EAGER),
        (embedding, "float32", 1e-6, EAGER),
        (dense_embedding, "float32", 1e-6, EAGER),
        # Graphs of TensorFlow turn `~(a < b)` into `a >= b`, which is False for NaN.
        *((each, "float32", 1e-6, {"jit_compile": jit}) for each in BOTH for jit in JIT),
    ],
)
def test_a_row_with_an_infinite_gradient_takes_no_step(make, dtype, atol, compiling):
    """Other rows of the batch, and later batches, have the steps of the other gradients alone."""
    model = keras.Sequential([keras.Input((), dtype="int32"), make(dtype=dtype)])
    model.compile(pk.SparseAdagrad(), "mse", **compiling)
    x = model.get_weights()[0].astype("float64")
    sums, recent = np.zeros_like(x), np.zeros(2)
    rng = np.random.default_rng(0)
    for step in range(5):
        labels = rng.normal(size=(ROWS - 2, 3))
        if step == 1:
            labels = model.get_weights()[0][: ROWS - 2]  # so that all gradients are 0
        gradient = np.zeros_like(x)
        gradient[: ROWS - 2] = 2 * (x[: ROWS - 2] - labels) / labels.size * (step != 1)
        if step == 2:
            labels[0, 1], labels[1, 2], labels[3], labels[5, 0] = INF, -INF, NAN, 1e20
            gradient[[0, 1, 3, 5]] = 0
        model.train_on_batch(np.arange(ROWS - 2, dtype="int32"), labels)
        recent = 0.99 * recent + np.array([np.sum(gradient**2), np.sum(gradient != 0)])
        sums += gradient**2
        x -= 0.1 * gradient / np.sqrt(sums + 100 * recent[0] / recent[1])
        np.testing.assert_allclose(model.get_weights()[0], x, atol=atol, err_msg=f"{step=}")


@pytest.mark.parametrize(("dtype", "sizes"), [("float16", (INF, NAN)), ("float32", (1e16, 1e30))])
def test_a_gradient_without_a_finite_square_takes_no_step(dtype, sizes):
    table, optimizer = keras.Variable(np.zeros((3, 2)), dtype=dtype), pk.SparseAdagrad()
    for size in (1.0, *sizes, 1.0):
        gradient = np.ones((3, 2)) * [[size], [-size], [1.0]]
        optimizer.apply([keras.ops.convert_to_tensor(gradient, dtype)], [table])
    steps = np.abs(keras.ops.convert_to_numpy(table)).T
    np.testing.assert_allclose(steps[:, 0], steps[:, 1])
    assert (steps[:, 2] > 1.5 * steps[:, 0]).all()
    assert (steps[:, 0] > 0.018).all()


class Reading(keras.Layer):
    """A table with several uses (see `FORMS`)."""

    def __init__(self, make, form):
        super().__init__()
        with keras.RematScope("full") if form == "recomputed" else contextlib.nullcontext():
            self.table = make(mask_zero=form == "masked")
        self.form = form
        if form == "regularized":
            self.table.embeddings_regularizer = keras.regularizers.L2(0.1)

    def call(self, ids, training=None):
        rows = self.table(ids)
        if self.form == THREE:
            rows = rows + 2 * self.table(keras.ops.flip(ids, axis=1)) + self.table((ids + 1) % ROWS)
        if self.form == WITHOUT:
            others = rows + self.table((ids + 2) % ROWS)
            rows = self.table((ids + 1) % ROWS) + keras.ops.stop_gradient(others)
        if self.form == "masked":
            return keras.layers.GlobalAveragePooling1D()(rows, mask=self.table.compute_mask(ids))
        rows = keras.ops.mean(rows, axis=1)
        if self.form == "tied to an output":
            return keras.ops.matmul(rows, keras.ops.transpose(self.table.embeddings))
        return rows

    def compute_output_shape(self, shape):
        return (shape[0], ROWS if self.form == "tied to an output" else 3)


THREE, WITHOUT = "called three times", "without a loss for two of three lookups"
FORMS = {
    **dict.fromkeys(["called once", "masked", THREE, WITHOUT], True),
    **dict.fromkeys(["regularized", "tied to an output", "recomputed"], False),
}
SOME = [THREE, WITHOUT, "tied to an output", *(["recomputed"] if IS_JAX else [])]


@pytest.mark.parametrize(
    ("form", "is_by_rows"), fewer({form: (form, by_rows) for form, by_rows in FORMS.items()}, *SOME)
)
def test_every_use_of_a_table_has_the_steps_of_dense_gradients(form, is_by_rows, monkeypatch):
    models = []
    kinds = (pk.SparseAdagrad(0.1, 0.01), embedding), (dense_adagrad(), dense_embedding)
    for optimizer, make in kinds:
        keras.utils.set_random_seed(0)
        outputs = keras.layers.Dense(1)(Reading(make, form)(x := keras.Input((4,), dtype="int32")))
        models.append(keras.Model(x, outputs))
        models[-1].compile(optimizer, "mse", run_eagerly=not IS_JAX, jit_compile=IS_JAX)
    models[1].set_weights(models[0].get_weights())
    if form == "recomputed":  # JAX reuses the symbolic trace, where weights are constants
        gc.collect()
    counts, rng = record_rows(monkeypatch), np.random.default_rng(0)
    for _ in range(10):
        x = rng.integers(-ROWS if IS_JAX else 0, ROWS, (COUNT, 4))
        y = rng.normal(size=(COUNT, 1))
        for model in models:
            model.train_on_batch(x.astype("int32"), y)
    assert_all_close(*(model.get_weights() for model in models), atol=1e-6)
    if IS_JAX:
        assert bool(counts) == is_by_rows


def test_an_empty_batch_changes_no_weight():
    model = build(pk.SparseAdagrad())
    before = model.get_weights()
    logs = model.train_on_batch(ids(0), labels(0), return_dict=True)
    assert logs["loss"] == 0.0
    np.testing.assert_equal(model.get_weights(), before)


def test_a_scaled_loss_changes_no_step():
    models = [small(pk.SparseAdagrad(clipnorm=0.1, loss_scale_factor=s)) for s in (None, 8.0)]
    for model in models:
        train_small(model)
    assert difference(*models) < 1e-6


def test_a_schedule_sets_the_learning_rate_of_rows():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.0, 0.1])
    model = small(pk.SparseAdagrad(schedule))
    before = model.get_weights()[0]
    train_small(model, steps=2)
    np.testing.assert_array_equal(model.get_weights()[0], before)
    train_small(model, steps=1)
    assert not np.array_equal(model.get_weights()[0], before)


def test_an_update_has_only_the_rows_of_the_batch(monkeypatch):
    model = small(pk.SparseAdagrad(), run_eagerly=not IS_JAX)
    counts = record_rows(monkeypatch)
    before = model.get_weights()[0]
    train_small(model, steps=1)
    changed = (model.get_weights()[0] != before).any(axis=1)
    assert changed.sum() < ROWS
    assert counts == [2 * COUNT if IS_JAX else changed.sum()]  # none for the kernel and the bias


def test_gradients_alone_are_applied_to_the_variables_of_build():
    model = small(pk.SparseAdagrad())
    train_small(model, steps=1)
    before = model.get_weights()
    model.optimizer.apply([keras.ops.ones(v.shape) for v in model.trainable_variables])
    assert all((after < start).all() for after, start in zip(model.get_weights(), before))


@once
def test_the_config_has_the_arguments_and_no_epsilon():
    optimizer = pk.SparseAdagrad(0.25, 0.5, clipnorm=2.0, name="mine")
    config = optimizer.get_config()
    assert "epsilon" not in config
    assert pk.SparseAdagrad.from_config(config).get_config() == config
    loaded = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(loaded, pk.SparseAdagrad)
    assert loaded.get_config() == config
    assert pk.SparseAdagrad().get_config()["initial_accumulator_value"] is None


REFUSED = {"weight_decay": 0.1, "clipvalue": 1.0, "use_ema": True, "gradient_accumulation_steps": 2}


@once
@pytest.mark.parametrize(("argument", "value"), REFUSED.items())
def test_arguments_that_concern_all_rows_are_refused(argument, value):
    message = rf"has no {argument}\. Received: {argument}={value}$"
    check_refused(lambda: pk.SparseAdagrad(**{argument: value}), ValueError, message)


@once
@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-1.0, ValueError), (NAN, ValueError), (INF, ValueError), ("1", TypeError)],
)
def test_an_invalid_start_of_the_sums_is_refused(value, error):
    message = rf"initial_accumulator_value must be .*Received: .*={re.escape(repr(value))}$"
    check_refused(lambda: pk.SparseAdagrad(initial_accumulator_value=value), error, message)

"""The example of large tables makes the same steps as a model that updates all rows."""

import importlib.util

import keras
import numpy as np
import pytest

from tests.helpers import once
from tests.processes import EXAMPLES, run_example_here

ROWS, BATCH = 50, 32

only_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="a way of JAX")


@pytest.fixture(scope="module")
def large():
    """Return the module of the script, with small batches and columns of similar names."""
    spec = importlib.util.spec_from_file_location("large", EXAMPLES / "large_embeddings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.COLUMNS, module.BATCH = ("user", "user_group"), BATCH
    return module


def batch(count):
    rng = np.random.default_rng(0)
    x = {c: rng.integers(0, ROWS, count).astype("int32") for c in ("user", "user_group")}
    return x, {task: rng.integers(0, 2, count).astype("float32") for task in ("click", "buy")}


@only_jax
def test_tables_with_similar_names_train_as_without_the_small_model(large):
    x, y = batch(BATCH)
    model = large.build_trainable("rows", ROWS, (x, y))
    stock = large.build("rows", ROWS)
    for each in (model, stock):
        for _ in range(2):
            each.train_on_batch(x, y)
    for weight, reference in zip(model.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_allclose(weight, reference, atol=1e-5)
    with pytest.raises(ValueError, match=r"at most 32 examples.* user of shape \(33,\)"):
        model.train_on_batch(*batch(BATCH + 1))


@pytest.mark.parametrize("end", ["/embeddings", "_embeddings_momentum"])
def test_the_rows_of_a_table_are_found_by_the_whole_name_of_its_column(large, end):
    rows = {"user": 1, "user_group": 2, "user_embeddings": 3}
    for column, found in rows.items():
        assert large.find(rows, f"features/table_{column}{end}") == found
    assert large.find(rows, f"features/table_shop{end}") is None
    assert large.find(rows, "adam/iteration") is None


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.Adafactor,
        lambda: keras.optimizers.Adam(gradient_accumulation_steps=2),
    ],
    ids=["state of another shape", "gradient accumulation"],
)
@only_jax
def test_an_optimizer_whose_step_needs_other_rows_is_refused(large, optimizer):
    model, small = (large.build("plain", rows) for rows in (ROWS, BATCH))
    for each in (model, small):
        each.compile(optimizer())
        each.optimizer.build(each.trainable_variables)
    with pytest.raises(ValueError, match=r"state of the shape of the tables.* Received: state"):
        large.train_rows(model, small, ROWS)


@once
def test_another_backend_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    message = "needs the backend tensorflow, jax or torch. Received: KERAS_BACKEND=numpy"
    with pytest.raises(SystemExit, match=message):
        run_example_here("large_embeddings.py", "--quick", cwd=tmp_path)

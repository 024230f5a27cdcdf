"""New values start with the rows of unknown ones, and no prediction changes."""

import keras
import numpy as np
import pandas as pd
import pytest

import ple_keras as pk
from ple_keras._keras.layers import find_layers
from ple_keras.columns.column_layers import ColumnTable, columns_digest
from tests.helpers import QUICK, numpy_of, once
from tests.models import cloned, loaded


def frame_of(users, films):
    rng, rows = np.random.default_rng(0), 64
    lists = [[f"film {i}" for i in rng.choice(films, n % 4)] for n in range(rows)]
    titles = [f"part {word}" for word in rng.choice(films, rows)]
    ids = {"user": rng.choice(users, rows), "film": [f"film {i}" for i in rng.choice(films, rows)]}
    return pd.DataFrame({**ids, "history": lists, "title": titles, "age": rng.normal(size=rows)})


FRAME, DAY = frame_of(range(9), range(6)), frame_of(range(5, 14), range(4, 10))
TABLES = {"lists": {"history": ("film", 3)}, "texts": {"title": ("words", 2)}}


def fitted(frame=FRAME, spare_rows=1.0):
    return pk.Columns(["user", "film"], ["age"], **TABLES).fit(frame, 2, spare_rows)


def model_of(kind, columns):
    """Return a compiled model."""
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.RegressionHead("time")])
    if kind == "ple":
        network = columns.network(4, 0.1, 3, packed=True)
        inputs = network.input
        features = pk.PLEBlock(2, heads, [4])(network(inputs))
    else:
        widths, units = {"click": 2, "time": 1}, {"shared": None, "click": 3, "time": 2}
        networks = columns.network({"shared": 4, **widths}, 0.1, units)
        inputs = networks["shared"].input
        features = pk.HedgedBlock(heads, [4], features=networks)(inputs)
    model = pk.MultiTaskModel(inputs, heads(features))
    model.compile(pk.table_optimizer("adam"), hedge=False, **QUICK)
    return model


def train(model, columns, frame):
    y = {"click": np.arange(64) % 2, "time": np.arange(64.0)}
    model.fit(columns.transform(frame, packed="ids" in model.input), y, verbose=0)
    return model


@once
@pytest.mark.parametrize(("kind", "copy"), [("ple", loaded), ("hedged", None)])
def test_predictions_are_equal_to_the_bit_and_new_rows_learn(kind, copy, tmp_path):
    columns = fitted()
    updated = columns.update(DAY, min_rows=2)
    new = {name: len(known) - len(columns.known[name]) for name, known in updated.known.items()}
    assert all(new.values())
    model = train(model_of(kind, columns), columns, FRAME)
    model = copy(model, tmp_path) if copy else model
    rows = pd.concat([FRAME, DAY])
    x, y = (each.transform(rows, packed=kind == "ple") for each in (columns, updated))
    before, state = model.predict_on_batch(x), list(map(numpy_of, model.variables))
    pk.fill_new_rows(model, columns, updated)
    after = model.predict_on_batch(y)
    for task, values in before.items():
        np.testing.assert_array_equal(after[task], values)
    tables = {table.embeddings.path: table for table in find_layers(model, ColumnTable)}
    assert len(tables) == (1 if kind == "ple" else 3)
    for variable, old in zip(model.variables, state, strict=True):
        values, start, is_kept = numpy_of(variable), 0, np.ones(old.shape, bool)
        sizes = tables[variable.path].rows if variable.path in tables else {}
        for name, size in sizes.items():
            first = start + 2 + len(columns.known[name])
            is_kept[first : first + new[name]] = False
            assert (values[first : first + new[name]] == old[start + 1]).all()
            start += size
        np.testing.assert_array_equal(values[is_kept], old[is_kept])
    again, clone = loaded(model, tmp_path), cloned(model, tmp_path)
    for each in (model, again, clone):
        assert columns_digest(each) == updated.digest
        pk.check_inputs(each, y, columns=updated)
    np.testing.assert_array_equal(again.predict_on_batch(y)["time"], after["time"])
    assert not pk.transfer_weights(model, clone).left_out
    table = find_layers(model, ColumnTable)[0].embeddings
    before, first = numpy_of(table), 2 + len(columns.known["user"])
    train(model, updated, DAY)
    assert (numpy_of(table) != before)[first : first + new["user"]].any(axis=1).all()


@once
def test_other_columns_and_models_are_refused(tmp_path):
    columns = fitted()
    model, updated = model_of("hedged", columns), columns.update(DAY, min_rows=2)
    state = list(map(numpy_of, model.variables))
    later = fitted(DAY)
    plain = keras.layers.Embedding(99, 2)(model.input["user"])
    inputs = {"columns": columns, "updated": updated}
    for wrong, error, reason in (
        ({"updated": later}, ValueError, f"updated.previous='', not '{columns.digest}'"),
        ({"updated": updated.update(DAY)}, ValueError, f"updated.previous='{updated.digest}'"),
        ({"columns": later, "updated": later.update(FRAME)}, ValueError, "network of `columns`"),
        (
            {"model": model_of("ple", fitted(spare_rows=0.0))},
            ValueError,
            "a row for each code.* 'film'",
        ),
        ({"model": keras.Model(model.input, plain)}, ValueError, "'' in the model"),
        ({"model": "model.keras"}, TypeError, "model must be a Layer. Received: model='model.k"),
        ({"columns": "columns.json"}, TypeError, "columns must be a Columns. Received: columns="),
    ):
        with pytest.raises(error, match=reason):
            pk.fill_new_rows(**{"model": model, **inputs, **wrong})
    for variable, value in zip(model.variables, state, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert columns_digest(loaded(model, tmp_path)) == columns.digest

"""streaming.py reads every row in random order, and trains on the rows."""

import itertools
import re

import keras
import numpy as np
import pytest

from tests.helpers import once
from tests.processes import EXAMPLES, load_module, run_example, run_example_here
from tests.recorded_outputs import check_form

ROWS, GROUP_ROWS, BATCH = 1000, 50, 100
streaming = load_module(EXAMPLES / "streaming.py")
streaming.GROUP_ROWS = GROUP_ROWS  # small row groups


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return streaming.write_files(tmp_path_factory.mktemp("funnel"), ROWS)


@pytest.fixture
def stream(monkeypatch):
    """Return the stream of the backend, without worker processes."""
    backend = keras.backend.backend()
    if backend == "jax":  # the script imports Grain only if it runs
        monkeypatch.setattr(streaming, "grain", pytest.importorskip("grain"), raising=False)
    return lambda groups: streaming.STREAMS[backend](groups, BATCH, int(backend == "tensorflow"))


def table(parts):
    """Join batches or row groups to one array with all columns."""
    columns = {name: [] for name in (*streaming.COLUMNS, *streaming.TASKS)}
    for x, y in parts:
        for name, values in {**x, **y}.items():
            columns[name].append(np.asarray(values, "float64"))
    return np.stack([np.concatenate(values) for values in columns.values()], axis=1)


def in_order(rows):
    return rows[np.lexsort(rows.T)]


def test_a_pass_of_the_stream_has_every_row_once_in_random_order(stream, files):
    frames = streaming.frames(files)
    columns = streaming.Columns(streaming.IDS, streaming.NUMBERS).fit(frames, min_rows=1)
    groups = streaming.RowGroups(files, columns)
    assert len(groups) == ROWS // GROUP_ROWS
    in_files = table([groups[number] for number in range(len(groups))])
    batches = [*itertools.islice(stream(groups), 2 * ROWS // BATCH)]
    assert {len(x["user"]) for x, _ in batches} == {BATCH}
    first, second = table(batches[: len(batches) // 2]), table(batches[len(batches) // 2 :])
    for rows in (first, second):
        np.testing.assert_array_equal(in_order(rows), in_order(in_files))
    assert not np.array_equal(first, second, equal_nan=True)
    inputs = len(streaming.COLUMNS)
    equal = (first[:BATCH, None, :inputs] == in_files[None, :, :inputs]).all(axis=2)
    assert len({*(equal.argmax(axis=1) // GROUP_ROWS)}) > 2  # a batch has rows of many row groups


@once
def test_a_batch_that_no_window_holds_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_example_here("streaming.py", "--rows", "1000", cwd=tmp_path)
    assert "--batch-size must be from 1 to 250 for 1,000 rows" in capsys.readouterr().err


@pytest.mark.nightly
def test_the_script_trains_on_the_rows_that_its_workers_read(tmp_path):
    """Takes 10 to 20 seconds, depending on the backend."""
    few = ("--rows", "8000", "--batch-size", "600", "--steps", "5")
    out = run_example("streaming.py", *few, cwd=tmp_path)
    check_form("streaming.py", out)
    assert "6,000 rows in 3 files for 2 epochs of 5 steps" in out
    epochs = r"^epoch \d: loss [.\d]+, [,\d]+ rows/s, resident memory [,\d]+ MB$"
    assert len(re.findall(epochs, out, re.MULTILINE)) == 2
    assert re.search(r"input pipeline alone: - rows/s; fit: [,\d]+ rows/s", out)
    # A grouped AUC is NaN if no user has both labels.
    line = r"^(\w+), (.+?) +([,\d]+) +(?:nan|[.\d]+) +(?:nan|[.\d]+)$"
    scores = re.findall(line, out, re.MULTILINE)
    labels = {task: int(count.replace(",", "")) for task, _, count in scores}
    assert 0 < labels["purchase"] < labels["cart"] == labels["watch_time"] < labels["click"] == 2000
    assert [name for _, name, _ in scores] == ["AUC", "grouped AUC"] * 3 + ["RMSE"]

"""The example that continues a killed training at the step where it was."""

import argparse
import importlib.util
import json
import os
import re
import sys

import keras
import numpy as np
import pytest

from tests.processes import EXAMPLES, ROOT
from tests.recorded_outputs import check_form

BACKEND = keras.backend.backend()
ROWS, BATCH = 40, 10
SETTINGS = {"backend": BACKEND, "rows": ROWS, "batch_size": BATCH}

pytestmark = pytest.mark.skipif(
    BACKEND == "tensorflow", reason="the example has pipelines for JAX and PyTorch"
)


@pytest.fixture(scope="module")
def resume():
    """Return the module of the script."""
    if BACKEND == "jax":
        pytest.importorskip("grain")
    spec = importlib.util.spec_from_file_location("resume", EXAMPLES / "resume.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.nightly
def test_a_killed_training_equals_an_uninterrupted_one(resume, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    args = argparse.Namespace(rows=ROWS, batch_size=BATCH, epochs=2, every=3, kills=1)
    resume.compare(tmp_path, args)
    out = capsys.readouterr().out
    check_form("resume.py", out)
    assert re.search(
        r"uninterrupted: 8 steps\nkilled after the steps \d: 8 steps, \d of them computed again",
        out,
    )
    assert re.findall(r"(?:steps?|epoch|weights): (\S+)", out)[-3:] == ["0.0", "0.0", "0.0"]
    assert "gates.csv: equal" in out
    checkpoints = sorted(path.name for path in (tmp_path / "killed").glob("epoch-*"))
    assert checkpoints == ["epoch-00001-step-0000003", "epoch-00002-step-0000000"]

    before = (tmp_path / "killed" / "gates.csv").read_bytes()
    _, history = resume.train(tmp_path / "killed", args)  # it has finished
    assert len(history) == 2
    assert (tmp_path / "killed" / "gates.csv").read_bytes() == before


@pytest.fixture
def stream(resume):
    """Return a function that makes a stream of the example's rows."""
    rows, pipeline = resume.Rows(ROWS), resume.PIPELINES[BACKEND]
    return lambda: resume.Stream(lambda position: pipeline(rows, BATCH, position))


def taken(stream, count, first=0):
    """Return the inputs of the next batches as one array, as Keras reads them."""
    return np.stack([np.asarray(stream[first + i][0]) for i in range(count)])


def test_a_stream_starts_again_after_the_last_batch_that_was_trained_on(stream):
    expected = taken(stream(), 11)
    first = stream()
    taken(first, 3)  # Keras looks at batches before it trains
    taken(first, 9)  # and reads ahead
    for _ in range(6):
        first.advance()
    other = stream()
    other.position = json.loads(json.dumps(first.position))
    for continued in (first, other):
        np.testing.assert_array_equal(taken(continued, 5), expected[6:])


def test_an_epoch_of_the_stream_has_every_row_once_in_another_order(stream, resume):
    epochs = taken(stream(), 8).reshape(2, ROWS, -1)
    for epoch in epochs:
        np.testing.assert_array_equal(
            *(np.sort(each, axis=0) for each in (epoch, resume.Rows(ROWS).x))
        )
    assert not np.array_equal(*epochs)


@pytest.fixture
def backup(resume, stream, tmp_path):
    """Return a function that makes the callback of a folder."""
    return lambda **kwargs: resume.StepBackup(tmp_path, stream(), 4, 2, {**SETTINGS, **kwargs})


def write_state(checkpoint, text=None):
    checkpoint.mkdir()
    state = {"epoch": 1, "step": 2, "history": [{}], "position": 6, "settings": SETTINGS}
    (checkpoint / "state.json").write_text(text or json.dumps(state))


def test_an_unfinished_checkpoint_is_ignored(backup, tmp_path):
    write_state(tmp_path / "epoch-00001-step-0000002")
    write_state(tmp_path / "epoch-00001-step-0000004.unfinished", "{")
    (tmp_path / "gates.csv.unfinished").touch()
    continued = backup()
    assert (continued.epoch, continued.step, continued.stream.position) == (1, 2, 6)
    assert not (tmp_path / "epoch-00001-step-0000004.unfinished").exists()


def test_other_settings_and_a_damaged_checkpoint_are_refused(backup, tmp_path):
    checkpoint = tmp_path / "epoch-00001-step-0000002"
    write_state(checkpoint)
    with pytest.raises(SystemExit, match=r"has a training with other settings: .*'rows': 40"):
        backup(rows=50)
    (checkpoint / "state.json").write_text("{")
    with pytest.raises(json.JSONDecodeError) as error:
        backup()
    (note,) = error.value.__notes__
    assert str(checkpoint) in note


def test_wrong_arguments_are_refused(resume, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["resume.py", "--rows", "10", "--batch-size", "11"])
    with pytest.raises(SystemExit, match="2"):
        resume.main()
    assert "--rows a batch or more" in capsys.readouterr().err

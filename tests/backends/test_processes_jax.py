"""Training in several processes with `keras.distribution`, compared with one process."""

import importlib
import json
import os
import re

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import assert_all_close
from tests.processes import EXAMPLES, run_to_end
from tests.recorded_outputs import check_form

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(
        keras.backend.backend() != "jax" or not hasattr(os, "fork"),
        reason="keras.distribution needs JAX, and the processes are forks",
    ),
]


@pytest.fixture(scope="module")
def run():
    """Return the module of the processes, which only JAX can import."""
    return importlib.import_module("tests.backends.processes_run_jax")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return the results of two processes."""
    folder = tmp_path_factory.mktemp("processes")
    run_to_end("-m", "tests.backends.processes_run_jax", folder)
    return [json.loads((folder / f"{p}.json").read_text()) for p in range(2)]


def test_steps_of_branches_equal_those_of_one_process(results, run):
    expected = run.fit_hedged()["weights"]
    for process in results:
        assert_all_close(process["hedged"]["weights"], expected, atol=1e-5)


def test_mixtures_are_means_over_the_processes(results, run):
    first, second = (process["hedged"] for process in results)
    assert first["logs"] == second["logs"]
    model = run.hedged_model()
    for variable, array in zip(model.trainable_variables, first["weights"], strict=True):
        variable.assign(array)
    parts = [pk.fit_hedge(model, *run.share(p, 2)) for p in range(2)]
    for task in parts[0]:
        for branch in parts[0][task]:
            expected = np.mean([mixtures[task][branch] for mixtures in parts])
            assert first["logs"][f"hedge/{task}/{branch}"] == pytest.approx([expected], abs=1e-3)


def test_the_processes_keep_the_epochs_of_one_process(results, run):
    """Validation and training rows are the same, so each branch improves as in one process."""
    first, second = (process["kept"] for process in results)
    expected = run.fit_hedged(epochs=4, learning_rate=0.1)
    assert first == second
    for key, by_epoch in expected["logs"].items():
        if key.endswith(("_loss", "_epoch")):  # mixtures are means over the processes
            assert first["logs"][key] == pytest.approx(by_epoch, abs=1e-3), key
    assert_all_close(first["weights"], expected["weights"], atol=1e-4)


def test_rows_of_tables_train_as_in_one_process(results, run):
    first, second = (process["rows"] for process in results)
    assert first == second
    assert_all_close(first, run.train_rows(), atol=1e-5)


def test_the_example_equals_one_process_and_saves(tmp_path):
    file = tmp_path / "model.keras"
    out = run_to_end(EXAMPLES / "distributed" / "jax_processes.py", file)
    check_form("distributed/jax_processes.py", out)
    differences = re.findall(r"^  (.+?) +(\d\S+)$", out, flags=re.M)
    assert len(differences) == 6
    assert max(float(value) for _, value in differences) < 1e-5
    assert keras.models.load_model(file).get_layer("ple")


def test_tables_across_processes_continue_after_a_kill_and_load_on_one_device(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    script, file = EXAMPLES / "distributed" / "jax_tables.py", tmp_path / "model.keras"
    out = run_to_end(script, tmp_path / "checkpoints", file)
    check_form("distributed/jax_tables.py", out)
    assert "user_table/embeddings: 40000 rows, 10000 on a device" in out
    begins = re.findall(r"2 processes begin with epoch (\d)", out)
    assert begins == ["1", "3"]
    differences = re.findall(r"^  (.+?) +(\d\S+)$", out, flags=re.M)
    assert len(differences) == 3
    assert max(float(value) for _, value in differences) < 1e-6
    assert keras.models.load_model(file).get_layer("user_table")

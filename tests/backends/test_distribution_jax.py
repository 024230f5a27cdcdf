"""Training on several devices with `keras.distribution`, compared with one device."""

import json
import os
import re

import keras
import numpy as np
import pytest

from tests.backends.distribution_run import assert_equal_logs, predictions
from tests.helpers import assert_all_close
from tests.processes import run_example, run_to_end
from tests.recorded_outputs import check_form

DEVICES = "--xla_force_host_platform_device_count=4"
# Virtual devices wait in threads. With one thread per core, they can deadlock.
THREADS = {"PJRT_NPROC": "32"}
DISTRIBUTIONS = ["data_2", "experts_4"]

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="keras.distribution needs JAX"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return the folder of the models, and the figures by distribution."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("one", *DISTRIBUTIONS):
        (folder / name).mkdir()
    environment = {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {DEVICES}", "JAX_PLATFORMS": "cpu"}
    command = ["-m", "tests.backends.distribution_run_jax", folder]
    run_to_end(*command, **environment, **THREADS)
    return folder, json.loads((folder / "figures.json").read_text())


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_losses_metrics_weights_and_gates_equal_those_of_one_device(runs, name):
    """Holds even with missing labels and balanced gates: one program processes the whole batch."""
    _, figures = runs
    assert_equal_logs(figures[name]["logs"], figures["one"]["logs"])


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_saved_file_predicts_the_same_on_one_device(runs, name):
    folder, figures = runs
    (file,) = (folder / name).iterdir()
    loaded = predictions(keras.models.load_model(file))
    for task, expected in figures[name]["predictions"].items():
        np.testing.assert_allclose(loaded[task], expected, rtol=1e-5, atol=1e-6)


def test_a_device_holds_its_experts_and_their_moments(runs):
    """Stacks hold two of the four experts of a level. All other variables are whole."""
    _, figures = runs
    whole, held = figures["one"]["shards"], figures["experts_4"]["shards"]
    halved = 0
    for path, shape in whole.items():
        is_stack = "/experts/" in path or "_experts_" in path
        assert held[path] == ([2, *shape[1:]] if is_stack else shape), path
        halved += is_stack
    assert halved == 3 * 4  # kernel, bias and two moments of each, in two levels
    assert figures["data_2"]["shards"]["ple/cgc_block_0/experts/kernel_0"] == [4, 3, 4]


def test_embedding_tables_equal_those_of_one_device(runs):
    alone, devices = runs[1]["tables"]
    assert_all_close(alone, devices, atol=1e-6)


KINDS = ["plain 1x4", "plain 2x2", "shared 2x2", "hedged 1x4"]


@pytest.mark.parametrize("name", KINDS)
def test_split_tables_equal_those_of_one_device(runs, name):
    """Holds for 20 steps, several lookups of one table, clipping, branches, and for files."""
    found = runs[1]["split"][name]
    assert max(found[key] for key in ("steps", "loaded", "whole")) < 1e-6
    count = 2 if "shared" in name else 4  # tables and accumulators
    for held in (found["shards"], found["of_file"]):
        assert [*held.values()] == [[16 // int(name[-1]), 3]] * count


@pytest.mark.parametrize("name", KINDS)
def test_a_step_exchanges_rows_of_the_batch_and_no_table(runs, name):
    found = runs[1]["split"][name]["collectives"]
    assert any(re.fullmatch(r"all-reduce f32\[(6|12|24),3\]", array) for array in found), found
    assert not any(re.search(r"\[(16|8|4),3\]", array) for array in found), found


def test_rows_that_do_not_divide_by_the_devices_are_refused(runs):
    assert re.search(r"\b4\b.*\b10\b", runs[1]["split"]["rows"])  # an error of JAX


def test_the_example_trains_on_two_devices():
    out = run_example("distributed/jax_devices.py", "--epochs", "1")
    check_form("distributed/jax_devices.py", out)
    assert "is held as (2, 16, 64), (2, 16, 64)" in out
    differences = re.findall(r"difference from one device (\S+)", out)
    assert len(differences) == 3
    assert max(map(float, differences)) < 1e-5

"""Ray's TorchTrainer restarts a worker that was killed, with the losses of one process."""

import importlib.util
import re

import keras
import pytest

import ple_keras as pk
from tests.processes import run_example
from tests.recorded_outputs import check_form

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(
        keras.backend.backend() != "torch" or not importlib.util.find_spec("ray"),
        reason="the example needs PyTorch and Ray",
    ),
]


def test_killed_workers_continue_with_the_losses_of_one_process(tmp_path):
    file = tmp_path / "model.keras"
    variables = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    out = run_example("distributed/ray_train.py", file, "--kill", cwd=tmp_path, **variables)
    check_form("distributed/ray_train.py", out)
    lines = re.findall(r"^epoch \d +(\S+) +(\S+)$", out, re.M)
    assert len(lines) == 12
    for workers, one in lines:
        assert float(workers) == pytest.approx(float(one), abs=1e-5)
    (processes,) = re.findall(r"process in each epoch: (\d+) (\d+) (\d+)$", out, re.M)
    assert processes[0] != processes[1] == processes[2]
    (largest,) = re.findall(r"largest difference, including loss weights: (\S+)$", out, re.M)
    assert float(largest) < 1e-5
    assert isinstance(keras.models.load_model(file).get_layer("ple"), pk.SequentialBlock)

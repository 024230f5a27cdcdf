"""Training in several workers with `MultiWorkerMirroredStrategy`, compared with one process."""

import multiprocessing
import re

import keras
import pytest

import ple_keras as pk
from tests.processes import EXAMPLES, fail_or_wait, run_to_end
from tests.recorded_outputs import check_form

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="tf.distribute needs TensorFlow"
    ),
]


def test_the_example_equals_one_process_and_saves(tmp_path):
    """Compares losses, metrics, gates, loss weights and predictions, including a loaded model's."""
    file = tmp_path / "model.keras"
    out = run_to_end(EXAMPLES / "distributed" / "tensorflow_workers.py", file)
    check_form("distributed/tensorflow_workers.py", out)
    differences = re.findall(r"^  (.+?) +(\d\S+)$", out, flags=re.M)
    assert len(differences) == 6
    assert max(float(value) for _, value in differences) < 1e-5
    assert isinstance(keras.models.load_model(file).get_layer("ple"), pk.SequentialBlock)


def fail_in_second_worker(file, config):
    fail_or_wait(config["task"]["index"] == 0)


def test_a_failed_worker_of_the_example_ends_the_others(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "distributed")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # `start` sets it
    import tensorflow_workers

    monkeypatch.setattr(tensorflow_workers, "run", fail_in_second_worker)
    with pytest.raises(SystemExit, match="A process failed, so all were ended"):
        tensorflow_workers.start("model.keras", 2)
    assert not multiprocessing.active_children()

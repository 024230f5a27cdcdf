"""Training in several workers with `MultiWorkerMirroredStrategy`, compared with one process."""

import re

import keras
import pytest

import ple_keras as pk
from tests.processes import EXAMPLES, run_to_end
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

"""Training on several replicas with `tf.distribute`, compared with one device."""

import json

import keras
import numpy as np
import pytest

from tests.backends.distribution_run import assert_equal_logs, predictions
from tests.helpers import assert_all_close
from tests.processes import run_example, run_to_end
from tests.recorded_outputs import check_form

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="tf.distribute needs TensorFlow"
    ),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return the folder of the models, and the figures by run."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("one", "two"):
        (folder / name).mkdir()
    run_to_end("-m", "tests.backends.distribution_run_tensorflow", folder)
    return folder, json.loads((folder / "figures.json").read_text())


def test_losses_metrics_weights_and_gates_equal_those_of_one_device(runs):
    """The losses divide by the batch size, and each replica has an equal share of the batch."""
    assert_equal_logs(*(runs[1][name]["logs"] for name in ("two", "one")))


def test_moved_and_learned_loss_weights_are_equal_in_all_replicas(runs):
    of_replicas = runs[1]["two"]["loss_variables"]
    assert set(of_replicas) == {"loss_multipliers", "log_variances"}
    for name, (first, second) in of_replicas.items():
        assert first == second, name


def test_means_over_labeled_examples_and_balance_losses_are_averaged_over_replicas(runs):
    """The first replica has no labeled click and the last no labeled time, so their means are 0.

    The same holds for the first and the last assay.
    """
    _, figures = runs
    (whole,), (four,), quarters = figures["whole"], figures["four"], figures["quarters"]
    assert np.isnan([quarters[0]["click_loss"], quarters[-1]["time_loss"]]).all()
    for key in ("loss", "click_loss", "time_loss", "assays_loss"):
        mean = np.mean(np.nan_to_num([quarter[key] for quarter in quarters]))
        assert four[key] == pytest.approx(mean, rel=1e-5)
        assert four[key] != pytest.approx(whole[key], rel=0.01)
    tasks = four["click_loss"] + 2 * four["time_loss"] + four["assays_loss"]
    assert four["loss"] > tasks + 0.01  # includes the balance loss of the gates


def test_metrics_equal_those_of_one_device_for_every_reduction(runs):
    (whole,), (four,) = runs[1]["whole"], runs[1]["four"]
    metrics = [key for key in whole if not key.endswith("loss")]
    assert {"click_auc", "assays_auc"} <= {*metrics}
    assert {key: four[key] for key in metrics} == pytest.approx(
        {key: whole[key] for key in metrics}
    )


def test_steps_of_branches_equal_those_of_one_device(runs):
    """Each replica holds its own branches between its predictions and its loss."""
    alone, replicas = runs[1]["hedged"]
    assert replicas["logs"].keys() == alone["logs"].keys()
    for key, values in alone["logs"].items():
        assert replicas["logs"][key] == pytest.approx(values, rel=1e-4, abs=1e-4), key
    assert_all_close(alone["weights"], replicas["weights"], atol=1e-6)


def test_embedding_tables_equal_those_of_one_device(runs):
    """Gradients of rows are added over the replicas as gradients of the whole table."""
    alone, replicas = runs[1]["tables"]
    assert_all_close(alone, replicas, atol=1e-6)


def test_the_saved_file_predicts_the_same_on_one_device(runs):
    folder, figures = runs
    (file,) = (folder / "two").iterdir()
    loaded = predictions(keras.models.load_model(file))
    for task, expected in figures["two"]["predictions"].items():
        np.testing.assert_allclose(loaded[task], expected, rtol=1e-5, atol=1e-6)


def test_gate_report_observes_every_example_once_or_is_refused(runs):
    _, figures = runs
    report, alone = figures["two"]["report"], figures["one"]["report"]
    assert report["examples"] == alone["examples"] == 32
    for level, of in alone["levels"].items():
        for gate, use in of["gates"].items():
            mean = report["levels"][level]["gates"][gate]["mean"]
            assert mean == pytest.approx(use["mean"], abs=1e-5)
    for message in figures["refusals"]:
        assert message.endswith("Received: replicas=2")


def test_the_example_trains_two_replicas():
    out = run_example("distributed/tensorflow_mirrored.py", "--epochs", "1")
    check_form("distributed/tensorflow_mirrored.py", out)
    losses = [line.split()[2:] for line in out.splitlines() if " loss " in line]
    exact = [abs(float(alone) - float(replicas)) < 1e-4 for alone, replicas in losses]
    assert exact == [True, False, True]

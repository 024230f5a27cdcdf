"""Training in several processes with DistributedDataParallel, compared with one process."""

import json
import os

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras._keras.batches import Batches
from ple_keras.hedging.branched_model import BranchedModel
from tests.backends import ddp_run
from tests.helpers import assert_all_close
from tests.processes import EXAMPLES, run_group
from tests.recorded_outputs import check_form

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(
        keras.backend.backend() != "torch" or not hasattr(os, "fork"),
        reason="DistributedDataParallel needs PyTorch, and the processes are forks",
    ),
]


def run_ddp(*command):
    """Return the output of a command.

    On a busy machine, PyTorch sometimes aborts a finished process because of a gloo thread, so the
    command runs again.
    """
    result = run_group(*command, OMP_NUM_THREADS="1")
    if result.returncode and "terminate called without an active exception" in result.stderr:
        result = run_group(*command, OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder where two processes write their results."""
    folder = tmp_path_factory.mktemp("ddp")
    run_ddp("-m", "tests.backends.ddp_run", folder)
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """Return the results of each process."""
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def assert_close(actual, expected, tolerance=1e-5):
    """Assert that lists of lists of numbers are equal up to rounding."""
    assert_all_close(actual, expected, rtol=tolerance, atol=tolerance)


def mean_losses(results, run):
    return np.mean([process[run]["losses"] for process in results], axis=0)


def equal_in_all(results, run, key="weights"):
    first, *others = (process[run][key] for process in results)
    return all(other == first for other in others)


def test_means_over_labeled_examples_are_computed_per_process_and_averaged(results):
    """An SGD step is linear in the gradient, so the weights are averages too."""
    model = ddp_run.ple_of_rank(loss_weighting=None, optimizer="sgd")
    start, losses, ends = model.get_weights(), [], []
    for rank in range(2):
        model.set_weights(start)
        losses += ddp_run.train(model, ddp_run.batches(ddp_run.data(missing=6), rank, 2, steps=1))
        ends.append([np.ravel(w) for w in ddp_run.values(model.trainable_variables)])
    assert_close([[process["missing"]["losses"][0] for process in results]], [losses])
    assert_close(results[0]["missing"]["weights"], [np.mean(pair, axis=0) for pair in zip(*ends)])
    assert np.mean(losses) != pytest.approx(
        ddp_run.train_with_missing_labels()["losses"][0], rel=1e-3
    )


def test_losses_divided_by_the_batch_size_equal_those_of_one_process(results):
    alone = ddp_run.train_divided_by_batch()
    assert_close([mean_losses(results, "exact")], [alone["losses"]])
    assert_close(results[0]["exact"]["weights"], alone["weights"], 1e-4)
    assert equal_in_all(results, "exact")  # even learned loss weights, which no forward pass reads
    assert equal_in_all(results, "exact", "optimizer")


@pytest.fixture(scope="module")
def alone():
    """Return a fit in one process, on the data of all processes."""
    return ddp_run.fit_part(ddp_run.ple_of_rank(), valid=slice(0, 13))


def test_the_gate_weights_logger_covers_all_processes(results, alone):
    """Holds even if one process validates on more examples than the other."""
    gates = [key for key in alone if "gate/" in key]
    assert any(key.startswith("val_gate/") for key in gates)
    for process in results:
        logs = process["fit"]["history"]
        assert {key for key in logs if "gate/" in key} == set(gates)
        assert_close([logs[key] for key in gates], [alone[key] for key in gates])
        assert [logs[key] for key in gates] == [results[0]["fit"]["history"][key] for key in gates]


def test_logs_of_the_example_are_those_of_one_process(results, alone):
    """Holds even if one process has no label of a task. Losses of batches differ then."""
    losses = {f"val_{key}" for key in ("loss", "click_loss", "time_loss")}
    assert {"click_auc", "val_click_auc", "val_time_rmse"} <= alone.keys() - losses
    for process in results:
        logs = process["fit"]["history"]
        assert logs.keys() == alone.keys()
        for key in alone.keys() - losses:
            np.testing.assert_allclose(logs[key], alone[key], rtol=1e-4, err_msg=key)


def test_one_process_can_validate_without_the_others(results):
    first, second = (process["validated_once"] for process in results)
    keys = [key for key in first if key.startswith("val_gate/")]
    assert keys == [key for key in second if key.startswith("val_gate/")]
    assert [first[key] for key in keys] == [second[key] for key in keys]
    assert not any(np.isnan(first[key]).any() for key in keys)
    assert "val_loss" not in second


def test_moved_and_learned_loss_weights_equal_those_of_one_process(results, alone):
    for key in ("loss", "loss_weight/click", "loss_weight/time"):
        for process in results:
            assert_close([process["fit"]["history"][key]], [alone[key]])
    first, second = alone["loss_weight/click"]
    assert 0.4 < second / first < 0.6  # half by the callback, and a learned step


def test_the_first_process_saves_a_model_that_loads_without_ddp(results, folder):
    model = keras.models.load_model(folder / "model.keras")
    x, y = ddp_run.data()
    for task, prediction in model.predict(x, verbose=0).items():
        np.testing.assert_allclose(
            prediction, results[0]["fit"]["predictions"][task], rtol=1e-5, atol=1e-6
        )
    assert not any("module" in variable.path for variable in model.variables)
    model.train_on_batch(x, y)  # the losses read the loaded loss weights


def test_embedding_tables_equal_those_of_one_process(results):
    first, second = (process["tables"] for process in results)
    assert first == second
    assert_all_close(first, ddp_run.train_tables(), atol=1e-6)


def test_steps_of_branches_equal_those_of_one_process(results):
    """They do not depend on the mixture, which each process fits on its own rows."""
    assert equal_in_all(results, "hedged", "weights")
    assert_close(results[0]["hedged"]["weights"], ddp_run.fit_hedged()["weights"])


def test_mixtures_are_means_over_the_processes(results):
    assert equal_in_all(results, "hedged", "logs")
    fitted = results[0]["hedged"]
    model = hedged_model(fitted)
    counts = [rows.stop - rows.start for rows in ddp_run.VALIDATION_ROWS]
    parts = [pk.fit_hedge(model, *ddp_run.part(ddp_run.data(), r)) for r in ddp_run.VALIDATION_ROWS]
    for task in parts[0]:
        for branch in parts[0][task]:
            expected = np.average([mixtures[task][branch] for mixtures in parts], weights=counts)
            assert fitted["logs"][f"hedge/{task}/{branch}"] == pytest.approx([expected], abs=1e-4)


def hedged_model(results):
    """Return a model with the weights of a process."""
    model = ddp_run.hedged_model()
    for variable, array in zip(model.trainable_variables, results["weights"], strict=True):
        variable.assign(np.reshape(array, variable.shape))
    return model


def test_the_processes_keep_the_epochs_that_are_best_on_the_rows_of_all(results):
    assert equal_in_all(results, "kept")
    assert equal_in_all(results, "kept", "logs")
    kept = results[0]["kept"]
    model, logs = hedged_model(kept), kept["logs"]
    rows = slice(0, ddp_run.VALIDATION_ROWS[1].stop)
    branched = BranchedModel(model)
    found = branched.read(Batches(*ddp_run.part(ddp_run.data(), rows)))
    losses = branched.losses(found)[0]
    for task, branch in [key for key in losses if key[1]]:  # without mixtures
        loss = losses[task, branch]
        key = f"hedge/{task}/{branch}"
        epoch = int(logs[f"{key}_epoch"][-1])
        assert logs[f"{key}_loss"][epoch] == pytest.approx(loss, rel=1e-5)
        assert branch == "shared" or loss <= min(logs[f"{key}_loss"]) * (1 + 1e-5)
    assert len({epochs[-1] for key, epochs in logs.items() if key.endswith("_epoch")}) > 1


def test_the_example_prints_equal_logs_of_several_processes_and_one(tmp_path):
    file = tmp_path / "model.keras"
    out = run_ddp(EXAMPLES / "distributed" / "torch_ddp.py", file)
    check_form("distributed/torch_ddp.py", out)
    lines = [line.split() for line in out.splitlines()]
    pairs = [(float(line[-2]), float(line[-1])) for line in lines if line[0] == "epoch"]
    assert len(pairs) == 12
    for several, one in pairs:
        assert several == pytest.approx(one, abs=1e-5)
    assert keras.models.load_model(file).get_layer("ple")

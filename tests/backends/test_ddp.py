"""Several processes that train one model with DistributedDataParallel are as good as one."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.backends import ddp_run
from tests.processes import EXAMPLES, ROOT

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch" or not hasattr(os, "fork"),
    reason="DistributedDataParallel is PyTorch's, and the processes are forks",
)


def finished(*command):
    """What a command prints; it can't hang, nor can the processes that it starts.

    torchrun ends its own with itself, those of `ddp_run` do not wait for ever. On a busy machine
    PyTorch now and then aborts a process that is done, over a thread of gloo: then once more.
    """
    status, out, error = _run(*command)
    if status and "terminate called without an active exception" in error:
        status, out, error = _run(*command)
    assert status == 0, error
    return out


def _run(*command):
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, **pipes) as one:
        try:
            out, error = one.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            one.terminate()
            out, error = one.communicate()
    return one.returncode, out, error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where two processes, and then four, have left what they found."""
    folder = tmp_path_factory.mktemp("ddp")
    finished("-m", "tests.backends.ddp_run", folder)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    """By the number of processes, what each of them found."""
    return {
        ranks: [json.loads((folder / f"{ranks}-{rank}.json").read_text()) for rank in range(ranks)]
        for ranks in (2, 4)
    }


def close(actual, expected, tolerance=1e-5):
    """Lists of lists of numbers."""
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def mean(found, run, key="losses"):
    return np.mean([process[run][key] for process in found], axis=0)


def equal_in_all(found, run, key="weights"):
    first, *others = (process[run][key] for process in found)
    return all(other == first for other in others)


def test_losses_of_labelled_data_are_those_of_one_process(found):
    alone = ddp_run.learn_labelled()
    for ranks in (2, 4):
        close([mean(found[ranks], "labelled")], [alone["losses"]])
        close(found[ranks][0]["labelled"]["weights"], alone["weights"], 1e-4)


@pytest.mark.parametrize("ranks", [2, 4])
def test_weights_and_moments_are_the_same_in_all_processes(found, ranks):
    """Learned loss weights among them, which no forward pass reads."""
    assert equal_in_all(found[ranks], "labelled", "weights")
    assert equal_in_all(found[ranks], "labelled", "optimizer")


def test_a_mean_over_labels_is_each_process_s_own_and_then_averaged(found):
    """A step of SGD is linear in the gradient: the weights are averages too."""
    model = ddp_run.ple_of_rank(loss_weighting=None, optimizer="sgd")
    start, losses, ends = model.get_weights(), [], []
    for rank in range(2):
        model.set_weights(start)
        losses += ddp_run.train(model, ddp_run.batches(ddp_run.data(missing=6), rank, 2, steps=1))
        ends.append([np.ravel(w) for w in ddp_run.values(model.trainable_variables)])
    close([[process["missing"]["losses"][0] for process in found[2]]], [losses])
    close(found[2][0]["missing"]["weights"], [np.mean(pair, axis=0) for pair in zip(*ends)])
    assert np.mean(losses) != pytest.approx(ddp_run.learn_missing()["losses"][0], rel=1e-3)


def test_divided_by_the_batch_it_is_exact(found):
    alone = ddp_run.learn_exactly()
    close([mean(found[2], "exact")], [alone["losses"]])
    close(found[2][0]["exact"]["weights"], alone["weights"])


@pytest.fixture(scope="module")
def alone():
    """A fit in one process, on the data of all of them."""
    return ddp_run.fit_part(ddp_run.ple_of_rank(), valid=slice(0, 13))


def test_the_logger_has_the_gates_of_all_processes(found, alone):
    """Although one of them validates on more examples than the other."""
    history = alone["history"]
    gates = [key for key in history if "gate/" in key]
    assert any(key.startswith("val_gate/") for key in gates)
    for process in found[2]:
        logs = process["fit"]["history"]
        assert {key for key in logs if "gate/" in key} == set(gates)
        close([logs[key] for key in gates], [history[key] for key in gates])
        assert [logs[key] for key in gates] == [found[2][0]["fit"]["history"][key] for key in gates]


def test_what_a_gate_has_counted_stays_its_process_s_own(found):
    for process, rows in zip(found[2], ddp_run.VALID):
        assert set(process["fit"]["counts"]) == {rows.stop - rows.start}


def test_a_process_may_validate_alone(found):
    first, second = (process["validated_once"]["history"] for process in found[2])
    keys = [key for key in first if key.startswith("val_gate/")]
    assert keys == [key for key in second if key.startswith("val_gate/")]
    assert [first[key] for key in keys] == [second[key] for key in keys]
    assert not any(np.isnan(first[key]).any() for key in keys)
    assert "val_loss" not in second


def test_loss_weights_moved_and_learned_agree(found, alone):
    history = alone["history"]
    for key in ("loss", "loss_weight/click", "loss_weight/time"):
        for process in found[2]:
            close([process["fit"]["history"][key]], [history[key]])
    first, second = history["loss_weight/click"]
    assert 0.4 < second / first < 0.6  # the callback's half, and a step of what is learned


def test_the_first_process_saves_a_plain_model(found, folder):
    model = keras.models.load_model(folder / "model.keras")
    x, y = ddp_run.data()
    for task, prediction in model.predict(x, verbose=0).items():
        np.testing.assert_allclose(
            prediction, found[2][0]["fit"]["predictions"][task], rtol=1e-5, atol=1e-6
        )
    assert not any("module" in variable.path for variable in model.variables)
    model.train_on_batch(x, y)  # its losses have found their weights again


def test_batch_normalization_keeps_each_process_s_own_statistics(found):
    assert equal_in_all(found[2], "normalized", "weights")
    assert not equal_in_all(found[2], "normalized", "moving")


@pytest.mark.parametrize("policy", ddp_run.POLICIES)
def test_half_precision_keeps_processes_equal(found, policy):
    assert equal_in_all(found[2], policy)
    losses = ddp_run.learn_mixed(policy=policy)["losses"]
    np.testing.assert_allclose(mean(found[2], policy), losses, rtol=0.02)


def test_the_example_prints_both_ways_side_by_side(tmp_path):
    file = tmp_path / "model.keras"
    out = finished(EXAMPLES / "distributed" / "torch_ddp.py", file)
    lines = [line.split() for line in out.splitlines()]
    pairs = [(float(line[-2]), float(line[-1])) for line in lines if line[0] == "epoch"]
    assert len(pairs) == 12
    for together, one in pairs:
        assert together == pytest.approx(one, abs=1e-5)
    assert keras.models.load_model(file).get_layer("ple")

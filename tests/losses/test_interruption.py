"""Interrupted joint training continues in another process with the same logs."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.losses.joint_run import backup, fit_with_decay, new_model
from tests.processes import ROOT

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def uninterrupted():
    return fit_with_decay(new_model())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a process that saved its model after two epochs and was killed."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.losses.joint_run", folder]
    assert subprocess.run(command, cwd=ROOT).returncode == 9
    return folder


def assert_continues_like(logs, uninterrupted):
    for key, values in uninterrupted.items():
        np.testing.assert_allclose(logs[key], values[2:], rtol=1e-5, err_msg=key)


def test_a_saved_model_continues_in_a_new_process_with_the_same_logs(uninterrupted, folder):
    model = keras.models.load_model(folder / "model.keras")
    assert_continues_like(fit_with_decay(model, initial_epoch=2), uninterrupted)


def test_a_killed_run_is_restored_with_the_same_logs(uninterrupted, folder):
    logs = fit_with_decay(new_model(), callbacks=[backup(folder)])
    assert_continues_like(logs, uninterrupted)

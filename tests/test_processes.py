"""The time limit of processes that tests start."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.helpers import once
from tests.processes import ROOT, run_group

pytestmark = [
    once,
    pytest.mark.nightly,
    pytest.mark.skipif(not shutil.which("timeout"), reason="timeout is part of GNU coreutils"),
]


def test_hanging_processes_end_even_if_they_ignore_sigterm_and_their_parent_has_ended():
    """The output ends when the last of them does."""
    code = "import subprocess; subprocess.run(['sh', '-c', 'trap \"\" TERM; sleep 600'])"
    assert run_group("-c", code, timeout=1).returncode < 0


def test_the_exit_status_is_that_of_the_command():
    assert run_group("-c", "raise SystemExit(3)").returncode == 3


def test_they_end_even_if_the_process_that_started_them_is_killed(tmp_path):
    os.mkfifo(pipe := tmp_path / "pipe")
    hanging = f"import signal; pipe = open({str(pipe)!r}, 'w'); signal.pause()"
    code = f"from tests.processes import run_group; run_group('-c', {hanging!r}, timeout=2)"
    starter = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    with pipe.open() as end:
        starter.kill()
        assert end.read() == ""
    starter.wait()

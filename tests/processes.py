"""Scripts and modules that tests run in separate processes."""

import contextlib
import importlib.util
import io
import multiprocessing
import os
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


# At SIGTERM, torchrun ends its processes, which are in sessions of their own. JAX ignores it, even
# in processes whose parent has ended, so all that are left in the group are killed.
END_GROUP = ["sh", "-c", 'trap "sleep 5; kill -KILL 0" TERM; "$@" & wait $!', "sh"]


def run_group(*command, cwd=ROOT, timeout=480, **environment):
    """Run a Python command. End it, and all processes that it starts, after `timeout` seconds.

    They end then even if this process is killed. Returns the completed process.
    """
    limit = ["timeout", str(timeout), *END_GROUP] if shutil.which("timeout") else []
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [*limit, sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
    )


def run_to_end(*command, **options):
    """Run a Python command, which must succeed. Return its output."""
    result = run_group(*command, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


def run_example(script, *arguments, **options):
    """Run a script of the examples. Return its output."""
    return run_to_end(EXAMPLES / script, *arguments, **options)


def run_example_here(script, *arguments, cwd):
    """Run a script of the examples in this process: imports take longer than few rows.

    Returns the output.
    """
    command = mock.patch.object(sys, "argv", [str(EXAMPLES / script), *arguments])
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.chdir(cwd), command:
        runpy.run_path(EXAMPLES / script, run_name="__main__")
    return out.getvalue()


def load_module(path):
    """Return the module in a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_forks(function, count, *arguments):
    """Run a function of an index and arguments in forks, which share the imports. Then exit."""
    sys.modules["tensorflow"] = None  # otherwise, Keras imports it in every process
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=function, args=(i, *arguments)) for i in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(any(process.exitcode for process in processes))


def free_address():
    """Return a free local address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"

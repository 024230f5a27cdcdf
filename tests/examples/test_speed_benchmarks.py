"""The speed benchmarks run and compare equivalent models. Their times are not tested."""

import json

import keras
import numpy as np
import pytest

from examples.benchmarks import (
    _step_models,
    _timing,
    small_job,
    step_time,
    targets,
    whole_job,
    wide_tables,
)
from tests.helpers import once

pytestmark = [pytest.mark.nightly, once]


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch):
    monkeypatch.setattr(_timing, "TURN_SECONDS", 0.0)  # one call per turn
    for name in _timing.ONE_THREAD:
        monkeypatch.setenv(name, "1")  # and restored
    monkeypatch.setattr(_timing, "ONE_THREAD", {})


def tiny_case(tasks=3, experts=(5, 4), levels=2, features=4, batch=8, **sizes):
    return _step_models.Case(tasks, experts, levels, features, batch, **sizes)


def copy_weights(ours, loop):
    """Copy the stacked kernels, the gates and the towers to the loop's Dense layers."""
    for level, block in enumerate(ours.get_layer("ple")):
        bank = block._level.experts
        for step, stacks in enumerate(zip(bank._kernels, bank._biases, strict=True)):
            kernels, biases = map(keras.ops.convert_to_numpy, stacks)
            for name, *weights in zip(block.expert_names, kernels, biases, strict=True):
                name = f"level_{level}-{name.replace('/', '-')}-{step}"
                loop.get_layer(name).set_weights(weights)
        for gate, layer in block._level.gates.items():
            weights = layer._projection.get_weights()
            loop.get_layer(f"level_{level}-{gate}-gate").set_weights(weights)
    for layer in ours.layers:
        if layer.name.startswith(("tower-", "output-")):
            loop.get_layer(layer.name).set_weights(layer.get_weights())


@pytest.mark.parametrize(
    "sizes",
    [{}, {"levels": 3, "experts": (4,), "tasks": 2}, {"task_experts": 1, "shared_experts": 1}],
)
def test_the_loop_predicts_the_same_as_ours_with_equal_weights(sizes):
    case = tiny_case(**sizes)
    ours, loop = _step_models.ours(case), _step_models.loop(case)
    copy_weights(ours, loop)
    x, _ = _step_models.batch(case)
    expected = loop.predict_on_batch(x)
    for task, prediction in ours.predict_on_batch(x).items():
        np.testing.assert_allclose(prediction, expected[task], rtol=1e-5)


@pytest.mark.parametrize("tasks", [1, 3])
def test_the_floor_has_the_multiply_adds_of_all_experts(tasks):
    case = tiny_case(tasks=tasks)
    model = _step_models.floor(case)
    kernels = [layer.kernel.shape for layer in model.layers if "chain" in layer.name]
    of_experts = (2 * tasks + 2) * (4 * 5 + 5 * 4) * 2  # experts, two kernels each, levels
    assert sum(rows * columns for rows, columns in kernels) == of_experts


def first_cells(printed, count):
    """Return the first cells of the last `count` lines."""
    return [line.split("  ")[0] for line in printed.splitlines()[-count:]]


def test_step_times_are_printed(monkeypatch, capsys):
    monkeypatch.setattr(step_time, "CASES", {"B": tiny_case(), "C": tiny_case(batch=1)})
    monkeypatch.setattr(step_time, "available_peers", lambda backend: [])
    step_time.main(["--rounds", "2"])
    assert first_cells(capsys.readouterr().out, 4) == [*_step_models.NETWORKS]


def test_runs_of_a_whole_job_are_kept(monkeypatch, capsys, tmp_path):
    pytest.importorskip("torch")

    runs = ["PyTorch by hand, sparse tables", "ours, PyTorch"]
    arguments = ["--run", *runs, "--steps", "3", "--json", str(tmp_path / "job.json")]
    whole_job.main(arguments)
    results = json.loads((tmp_path / "job.json").read_text())
    assert [result["run"] for result in results] == runs
    assert all(result["cpu_seconds"] > 0 and 0.3 < result["click"] < 0.7 for result in results)
    table = capsys.readouterr().out
    monkeypatch.delattr(whole_job, "run_in_new_process")
    whole_job.main(arguments)
    assert capsys.readouterr().out == table
    assert [line.split(" | ")[0] for line in table.splitlines()[-2:]] == [f"| {x}" for x in runs]


def test_small_jobs_are_compared_with_plain_keras_and_pytorch(monkeypatch, capsys):
    small_job.main(["--jobs", *small_job.JOBS, "--rounds", "1", "--steps", "2"])
    names = [*small_job.MODELS, small_job.BY_HAND]
    cells = first_cells(capsys.readouterr().out, 3 * (2 + len(names)))
    assert [cell for cell in cells if cell in names] == 3 * names
    assert [cell.split(":")[0] for cell in cells if ":" in cell] == [*small_job.JOBS]
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(small_job, "PREDICTED", (1, 2))
    small_job.main(["--predictions", "--rounds", "1"])
    names = ["small", "ours", "ours, eagerly", "exported program", "ONNX", small_job.BY_HAND]
    assert first_cells(capsys.readouterr().out, 6) == names


def test_steps_by_number_of_targets_are_compared_with_one_matrix_by_hand(monkeypatch, capsys):
    monkeypatch.setattr(targets, "MOST_HEADS", 2)
    targets.main(["--targets", "2", "3", "--rounds", "1", "--steps", "1"])
    rows = ["by hand", "head", "head + metrics"]
    expected = ["2 targets", *rows, "heads + metrics", "", "3 targets", *rows]
    assert first_cells(capsys.readouterr().out, len(expected)) == expected


def test_networks_of_many_columns_are_compared(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(wide_tables, "ROWS", 5000)
    monkeypatch.setattr(wide_tables, "BATCH", 2500)
    monkeypatch.setattr(wide_tables, "CASES", {"30 ids, 2 numbers": (30, 2)})
    file = tmp_path / "wide.json"
    wide_tables.main(["--rounds", "1", "--json", str(file)])
    names = ["a table per column", "one table", "packed", "by hand"]
    assert first_cells(capsys.readouterr().out, 6)[:4] == names
    assert [*json.loads(file.read_text())["torch"]["30 ids, 2 numbers"]] == names

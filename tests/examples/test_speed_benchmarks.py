"""The benchmarks of speed run and compare equivalent models. Their times are not tested."""

import json
import re
from dataclasses import replace
from importlib.util import find_spec

import keras
import numpy as np
import pytest

from tests.helpers import once
from tests.processes import EXAMPLES, run_example

pytestmark = [pytest.mark.nightly, once]


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    for folder in (EXAMPLES / "benchmarks", EXAMPLES / "benchmarks" / "speed"):
        monkeypatch.syspath_prepend(folder)
    import _timing

    monkeypatch.setattr(_timing, "TURN_SECONDS", 0.0)  # one call per turn


def tiny_case(**sizes):
    from _cases import Case

    return replace(Case(3, (5, 4), 2, 4, 8), **sizes)


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
    import _models

    case = tiny_case(**sizes)
    ours, loop = _models.ours(case), _models.loop(case)
    assert _models.trainable_parameters(ours) == _models.trainable_parameters(loop)
    copy_weights(ours, loop)
    x, _ = _models.batch(case)
    expected = loop.predict_on_batch(x)
    for task, prediction in ours.predict_on_batch(x).items():
        np.testing.assert_allclose(prediction, expected[task], rtol=1e-5)


@pytest.mark.parametrize("tasks", [1, 3])
def test_the_floor_has_the_multiply_adds_of_all_experts(tasks):
    import _models

    case = tiny_case(tasks=tasks)
    kernels = [layer.kernel.shape for layer in _models.floor(case).layers if "chain" in layer.name]
    of_experts = (2 * tasks + 2) * (4 * 5 + 5 * 4) * 2  # experts, two kernels each, levels
    assert sum(rows * columns for rows, columns in kernels) == of_experts


def test_a_case_with_unequal_multiply_adds_is_refused():
    import _models

    case = tiny_case(experts=(3,))
    with pytest.raises(AssertionError, match="multiply-adds"):
        _models.check_comparison(
            case, {name: getattr(_models, name)(case) for name in ("floor", "loop", "ours")}
        )


def test_step_times_are_printed_written_and_plotted(capsys, tmp_path):
    import step_time

    sizes = "--tasks 2 --experts 6 4 --features 4 --levels 2 --batch 8 --rounds 2"
    files = {"--json": tmp_path / "times.json", "--plot": tmp_path / "times.png"}
    step_time.main([*sizes.split(), *(str(x) for pair in files.items() for x in pair)])
    out = capsys.readouterr().out
    assert "compiling: loop" in out
    table = out[out.index("of floor") :].splitlines()
    assert [line.split()[0] for line in table[1:4]] == ["floor", "loop", "ours"]
    assert [line.split()[2] for line in table[1:2]] == ["1.00"]
    results = json.loads(files["--json"].read_text())["results"]
    assert all(len(result["train"]) == len(result["predict"]) == 2 for result in results)
    assert files["--plot"].read_bytes().startswith(b"\x89PNG")


def test_sizes_and_named_cases_exclude_each_other(capsys):
    import step_time

    with pytest.raises(SystemExit):
        step_time.main(["--case", "B", "--batch", "8"])
    assert "--case" in capsys.readouterr().err


def test_scaling_is_measured_in_new_processes(monkeypatch, capsys, tmp_path):
    import scaling

    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setattr(scaling, "CURVES", {"levels": {1: tiny_case(levels=1)}})
    plot, results = tmp_path / "growth.png", tmp_path / "growth.json"
    arguments = ["--curve", "levels", "--variants", "ours", "--steps", "2"]
    scaling.main([*arguments, "--plot", str(plot), "--json", str(results)])
    assert "levels: on torch" in capsys.readouterr().out
    (point,) = json.loads(results.read_text())
    assert len(point["fresh"]["step_seconds"]) == 2
    assert 0 <= point["fresh"]["peak_megabytes"] < 300  # imports are not included
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_cost_of_features_is_measured(capsys):
    import feature_cost

    seconds = feature_cost.measure(tiny_case(tasks=2, levels=1), rounds=2)
    assert set(seconds) == set(feature_cost.VARIANTS)
    assert all(len(of_variant) == 2 for of_variant in seconds.values())
    assert "compiling: masked losses" in capsys.readouterr().out


def test_the_cost_of_isolation_is_measured(monkeypatch, capsys):
    import isolation_cost

    tiny = {"A": tiny_case(tasks=2, levels=2), "census": tiny_case(tasks=2, features=0)}
    monkeypatch.setattr(isolation_cost, "MEASURED", tiny)
    isolation_cost.main(["--rounds", "1"])
    out = capsys.readouterr().out
    rows = [line.split("  ")[0] for line in out.splitlines() if " ms " in line]
    assert rows == [*isolation_cost.VARIANTS] * 2
    counts = [int(n.replace(",", "")) for n in re.findall(r"  ([\d,]+) +[\d.]+ ms", out)]
    for plain, isolated, by_stream, both in (counts[:4], counts[4:]):
        assert plain == isolated < by_stream == both


def test_the_latency_of_onnx_files_is_measured(monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    import export_latency

    monkeypatch.setattr(export_latency, "CASE", tiny_case(tasks=2, features=8, batch=1))
    monkeypatch.setattr(export_latency, "CALLS", {1: 3, 64: 2})
    monkeypatch.setattr(export_latency, "BATCHES", (1, 64))
    export_latency.main(["--rounds", "2"])
    header, *rows = capsys.readouterr().out.splitlines()[-3:]
    assert [row.split()[0] for row in rows] == ["1", "64"]
    assert "ours / chain" in header


def test_runs_of_a_whole_job_are_kept(monkeypatch, capsys, tmp_path):
    import whole_job

    runs = ["PyTorch by hand, sparse tables", "ours, PyTorch"]
    arguments = ["--run", *runs, "--steps", "3", "--json", str(tmp_path / "job.json")]
    whole_job.main(arguments)
    results = json.loads((tmp_path / "job.json").read_text())
    assert [result["run"] for result in results] == runs
    assert all(result["cpu_seconds"] > 0 and 0.3 < result["click"] < 0.7 for result in results)
    table = capsys.readouterr().out

    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(whole_job, "measure_in_new_process", fail)
    whole_job.main(arguments)
    assert capsys.readouterr().out == table
    assert [line.split("  ")[0] for line in table.splitlines()[1:]] == runs


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
def test_parts_of_a_step_are_measured_and_add_up(backend):
    if find_spec(backend) is None:
        pytest.skip(f"needs {backend}")
    arguments = ("--rounds", "1", "--steps", "1")
    result = run_example("benchmarks/speed/job_parts.py", *arguments, KERAS_BACKEND=backend)
    assert result.returncode == 0, result.stderr
    header, ours, by_hand, *others = result.stdout.splitlines()
    assert header.split()[0] == "model"
    assert [row.split("  ")[0] for row in others] == ["by hand in PyTorch"] * (backend == "torch")
    for row in (ours, by_hand):
        *parts, total = (float(cell) for cell in re.findall(r"-?[0-9]+\.[0-9]", row))
        assert len(parts) == (7 if backend == "torch" else 6)
        assert sum(parts) == pytest.approx(total, abs=0.5)  # rounded


def test_a_small_job_is_compared_with_plain_keras():
    result = run_example("benchmarks/speed/small_job.py", "--rounds", "1", "--steps", "2")
    assert result.returncode == 0, result.stderr
    _, header, *rows = result.stdout.splitlines()
    assert header.split("  ")[-1] == "of plain"
    cell = r" +(\d+\.\d\d) +(\d+\.\d\d)"
    found = [re.fullmatch(rf"([\w, ]+?)  {cell}{cell}", row).groups() for row in rows]
    names = ["ours", "plain", "ours, no metrics", "plain, no metrics"]
    assert [name for name, *_ in found] == names
    assert all(float(number) > 0 for _, *numbers in found for number in numbers)
    assert [found[1][2], found[3][4]] == ["1.00", "1.00"]


def test_the_scores_of_a_whole_job_leave_missing_labels_out():
    import _job
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    click = rng.integers(0, 2, 50).astype("float32")
    y = {"click": click, "buy": np.where(click, np.arange(50) % 2, np.nan)}
    y["seconds"] = np.where(click, 1.0, np.nan)
    predictions = {task: rng.integers(0, 9, 50) / 8 for task in y}  # with ties
    scores = _job.scores(y, predictions)
    known = click == 1
    assert scores["click"] == pytest.approx(roc_auc_score(click, predictions["click"]))
    assert scores["buy"] == pytest.approx(roc_auc_score(y["buy"][known], predictions["buy"][known]))
    errors = predictions["seconds"][known] - 1
    assert scores["seconds"] == pytest.approx(np.sqrt(np.mean(errors**2)))

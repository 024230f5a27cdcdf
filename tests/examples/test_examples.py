"""The examples run as scripts on few rows, each from a single file."""

import ast
import re

import pytest

from tests.helpers import once
from tests.processes import EXAMPLES, ROOT, run_example_here
from tests.recorded_outputs import check_form

FOLDERS = {"benchmarks", "serving"}  # of scripts that share modules
SCRIPTS = sorted(path for path in EXAMPLES.rglob("*.py") if not FOLDERS & {*path.parts})
for imported in ("_flights.py", "distributed/_local.py", "distributed/_task.py"):
    SCRIPTS.remove(EXAMPLES / imported)
FEW = ("--rows", "1500", "--epochs", "1")

pytestmark = once


def run(folder, script, *arguments):
    out = run_example_here(script, *arguments, cwd=folder)
    check_form(script, out)
    return out


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_imports_from_its_neighbors_only_what_several_share(script):
    shared = {"columns", "_flights", "_local", "_task", "torch_ddp"}
    modules = {path.stem for path in EXAMPLES.rglob("*.py")} - shared
    for node in ast.walk(ast.parse(script.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert not modules & {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_states_its_command_and_its_time(script):
    text = script.read_text()
    doc = ast.get_docstring(ast.parse(text))
    assert f"python {script.relative_to(ROOT)}" in doc
    assert re.search(r"Takes .* minutes? on two cores", doc)
    if "KERAS_BACKEND=torch" in doc:  # more threads are far slower on a busy machine
        assert "OMP_NUM_THREADS" in text or "torch.set_num_threads(1)" in text


def test_layers_train_on_missing_labels_and_are_compared_reported_drawn_and_saved(tmp_path):
    out = run(tmp_path, "census_income.py", *FEW)
    scores = re.findall(r"^(\w+) +(PLE|PLE, 0 for missing|\w+ alone) +[.\d]+ +([.\d]+)$", out, re.M)
    assert len(scores) == 6
    means = {name: float(mean) for task, name, mean in scores if task == "never_married"}
    assert means["PLE, 0 for missing"] < means["PLE"]
    assert "gate/" not in out  # the progress bar prints no gates
    assert "Gates and experts over 1,500 examples" in out
    predictions = re.findall(r"^(?:income|never_married) +(\d\.\d{4} ?){3}$", out, re.M)
    assert len(predictions) == 2
    saved = {path.name for path in (tmp_path / "census_income").iterdir()}
    assert saved == {"model.keras", "columns.json", "weights.png", "history.png"}


@pytest.mark.nightly
def test_a_custom_expert_and_a_custom_head_are_saved_and_loaded(tmp_path):
    out = run(tmp_path, "own_expert.py")
    assert "click/expert_0 of the first level: <ResidualExpert" in out
    assert len(re.findall(r"after loading 0\.0$", out, re.M)) == 2


@pytest.mark.nightly
def test_adding_a_task_changes_predictions_only_with_two_levels(tmp_path):
    out = run(tmp_path, "add_a_task.py", *FEW)
    assert "new (6): ple/0/arrival_delay/expert_0" in out
    one_level, two_levels = re.findall(r"by the transfer: (\S+)", out)
    assert float(one_level) == 0 < float(two_levels)


@pytest.mark.nightly
def test_models_on_tables_train_in_both_ways_and_are_saved(tmp_path):
    out = run(tmp_path, "large_embeddings.py", "--quick")
    lines = re.findall(r"^torch +(plain|rows) +([\d,]+) .* (\d\.\d{4}) +\d\.\d{4}$", out, re.M)
    cases = [("plain", "1,000"), ("rows", "1,000"), ("plain", "20,000"), ("rows", "20,000")]
    assert [(way, rows) for way, rows, _ in lines] == cases
    assert all(float(auc) > 0.5 for *_, auc in lines)
    assert "predictions differ by 0.0, and the optimizer state by 0." in out

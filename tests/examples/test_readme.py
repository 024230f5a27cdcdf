"""The README's code blocks run unchanged."""

import re

import numpy as np

from tests.processes import ROOT

README = (ROOT / "README.md").read_text()


def code(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_blocks_run_in_order():
    names = {}
    for block in code("python"):
        exec(block, names)
    model, ple = names["model"], names["ple"]
    predictions = model.predict(np.zeros((3, 128)), verbose=0)
    assert {task: p.shape for task, p in predictions.items()} == {
        "click": (3, 1),
        "purchase": (3, 1),
        "watch_time": (3, 1),
        "category": (3, 12),
    }
    assert ple(np.zeros((3, 128)))["visits"].shape == (3, 128)


def test_the_diff_changes_a_model_of_one_task_to_two():
    (diff,) = code("diff")
    x, labels = np.zeros((4, 128)), np.ones((4, 1))
    for sign, outputs in (("-", {None}), ("+", {"click", "purchase"})):
        lines = [line[1:] for line in diff.splitlines() if line[0] in (" ", sign)]
        names = {"x": x, "click": labels, "purchase": labels}
        exec("import keras\nimport ple_keras as pk\n" + "\n".join(lines), names)
        predictions = names["model"].predict(x, verbose=0)
        found = set(predictions) if isinstance(predictions, dict) else {None}
        assert found == outputs


def test_every_public_name_is_in_the_table():
    import ple_keras

    for name, value in vars(ple_keras).items():
        if callable(value) and not name.startswith("_"):
            assert f"`{name}" in README, name

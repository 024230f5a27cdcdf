"""The recorded outputs of the examples, which the site shows, and the results on its pages."""

import json
import re

import pytest

from examples.benchmarks import whole_job
from tests.helpers import once
from tests.processes import EXAMPLES, ROOT
from tests.recorded_outputs import OUTPUTS, recorded, run_examples

pytestmark = once

SCRIPTS = [str(script) for script in run_examples.scripts()]
RECORDED = [script for script in SCRIPTS if script not in run_examples.RESULTS]


def test_every_script_has_an_output_or_a_page_with_its_results():
    outputs = {str(path.relative_to(OUTPUTS)) for path in OUTPUTS.rglob("*.txt")}
    assert outputs == {f"{script.removesuffix('.py')}.txt" for script in RECORDED}
    for script, page in run_examples.RESULTS.items():
        assert script in SCRIPTS
        assert (ROOT / "docs" / page).exists()


def test_every_picture_is_of_a_script_and_small():
    for picture in OUTPUTS.rglob("*.png"):
        script = picture.parent.relative_to(OUTPUTS) / picture.name.split("-")[0]
        assert f"{script}.py" in RECORDED
        assert picture.stat().st_size < 150_000


@pytest.mark.parametrize("script", RECORDED)
def test_an_output_has_the_command_the_date_and_the_versions(script):
    command, versions, printed = recorded(script)
    documented = command.removeprefix("$ ").split(".py")[0]
    assert f"    {documented}.py" in (EXAMPLES / script).read_text()
    assert re.fullmatch(
        r"Printed on \d{4}-\d\d-\d\d with Keras [\d.]+ and (JAX|TensorFlow|PyTorch) .+", versions
    )
    assert printed.strip()


@pytest.mark.parametrize("script", RECORDED)
def test_an_output_has_no_path_of_the_machine_and_no_control_characters(script):
    printed = recorded(script)[2]
    assert not re.search(r"/(tmp|home|root|Users)/|site-packages|[\x00-\x09\x0b-\x1f]", printed)


def test_pages_have_the_kept_results_of_benchmarks():
    kept = json.loads((ROOT / "docs" / "results" / "whole_job.json").read_text())
    assert {(r["run"], r["seed"]) for r in kept} == {
        (x, i) for x in whole_job.SHOWN for i in range(5)
    }
    assert whole_job.format_table(kept) in (ROOT / "docs" / "performance.md").read_text()

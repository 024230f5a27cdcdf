"""The recorded outputs of the examples, which the site shows, and the results on its pages."""

import json
import re
from statistics import median

import pytest

from examples.benchmarks import whole_job
from examples.benchmarks._job import BATCH, FIRST_ROWS
from tests.helpers import once
from tests.processes import EXAMPLES, ROOT
from tests.recorded_outputs import OUTPUTS, recorded, run_examples

pytestmark = once

KEPT = ROOT / "docs" / "results"
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
    kept = json.loads((KEPT / "whole_job.json").read_text())
    page, whole = (
        (ROOT / "docs" / folder / "performance.md").read_text() for folder in (".", "maintainers")
    )
    runs = {(r["run"], r["seed"]) for r in kept}
    assert len(runs) == 5 * len({run for run, _ in runs})
    table = whole_job.format_table(kept)
    assert table in whole
    for row in table.splitlines()[2:]:
        cells = row.strip("| ").split(" | ")
        assert f"| {' | '.join(cells[i] for i in (0, 1, 3, 6, 8))} |" in page
    first, *others = json.loads((KEPT / "whole_job_options.json").read_text())
    ratios = {first["run"]: 1.0}
    for r in (first, *others):
        ratios[r["run"]] = r["cpu_seconds"] / first["cpu_seconds"]
        cells = [f"{x:.1f}" for x in (ratios[r["run"]], r["cpu_seconds"])]
        cells += [f"{r[task]:.3f}" for task in ("click", "buy", "seconds")]
        assert f"| {' | '.join([r['run'], *cells])} |" in whole
    readme = (ROOT / "README.md").read_text()
    medians = dict(re.findall(r"^\| ([^|]+) \| ([\d.]+) \(", table, re.M))
    ratios = {run: f"{ratio:.1f}" for run, ratio in ratios.items()}
    best = range_of(medians, "ours, ").split()[0]
    slowest = range_of(ratios, "ours, ").split()[-1]
    rechub = f"{medians['torch-rechub, Adagrad']} to {ratios['torch-rechub, Adagrad']}"
    assert f"|{best} to {slowest}||{ratios['DeepCTR, Adagrad']}|{rechub}|1|" in readme
    deepctr = f"{medians['DeepCTR']} to {ratios['DeepCTR']}"
    others = f"{ratios['torch-rechub']}|{ratios['PyTorch by hand, Adam']}|"
    assert f"|Adam, epoch|{range_of(ratios, 'ours, Adam, ')}||{deepctr}|{others}" in readme
    assert f"|hedged, epoch|{range_of(medians, 'ours, hedged, ')}|" in readme
    seconds = median(r["cpu_seconds"] for r in kept if r["run"] == "ours, TensorFlow")
    rows = (whole_job.STEPS * BATCH - FIRST_ROWS) / seconds
    for text in (readme, page):
        assert f"{rows / 1000:.0f},000 rows a second" in text
        assert f"{5e8 / rows / 3600:.1f}" in text


def range_of(medians, name):
    """Return the range over backends of the epochs of a network."""
    found = [medians[f"{name}{title}"] for title in run_examples.BACKENDS.values()]
    return f"{min(found)} to {max(found)}"

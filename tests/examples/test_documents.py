"""The code blocks of the README and of the guides run unchanged, and their links lead somewhere."""

import gc
import re
import sys
from collections import Counter
from itertools import pairwise

import keras
import numpy as np
import pytest
import site_pages

import ple_keras
from tests.helpers import every_backend, once
from tests.processes import ROOT

pytestmark = once

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Blocks of Python, the backends of blocks called `py`, and the output if it is shown below.
RUN = re.compile(
    r"(?:^<!-- runs on ([\w, ]+) -->\n\n)?^```(python|py)\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)
INLINE_CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
EXTERNAL = re.compile(r"[a-z]+:")

# With lines of more than 84 columns, which scroll sideways on the site.
WIDE = {"README.md", "docs/results/against_boosting.md", "docs/results/ensembles.md"}
# Each takes several seconds, and other tests cover what it shows.
LONG = {
    "docs/columns.md",
    "docs/getting_started.md",
    "docs/hedged_branches.md",
    "docs/in_your_own_model.md",
    "docs/recipes/boosting.md",
    "docs/recipes/exposure.md",
    "docs/recipes/ranking.md",
    "docs/life_of_a_model.md",
    "docs/tuning.md",
}


def name_of(page):
    return str(page.relative_to(ROOT))


all_pages = pytest.mark.parametrize("page", PAGES, ids=name_of)
with_long_ones_nightly = pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=pytest.mark.nightly if name_of(p) in LONG else []) for p in PAGES],
    ids=name_of,
)


def code(page, language):
    return [text for found, text in FENCED.findall(page.read_text()) if found == language]


def text_of(page):
    """Return the text without code blocks."""
    return FENCED.sub("", page.read_text())


def anchors(page):
    """Return the anchors of a page's headings, by GitHub's rules."""
    found, counts = set(), Counter()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", text_of(page), flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(f"{slug}-{counts[slug]}" if counts[slug] else slug)
        counts[slug] += 1
    return found


def skip_pages(page):
    """Skip pages without a block for the backend: PyTorch runs them."""
    backend = keras.backend.backend()
    of_blocks = {name for names, *_ in RUN.findall(page.read_text()) for name in names.split(", ")}
    if backend not in {"torch", *of_blocks}:
        pytest.skip("the code of this page runs on PyTorch only")


@every_backend
@with_long_ones_nightly
def test_the_python_blocks_run_in_order(page, tmp_path, monkeypatch, capsys):
    skip_pages(page)
    monkeypatch.chdir(tmp_path)  # blocks may write files
    monkeypatch.setitem(sys.modules, "examples", None)  # is no package of users
    monkeypatch.setattr(gc, "collect", lambda: 0)  # slow: Keras calls it for each quantized layer
    names = {"__name__": "__main__"}
    differing = []
    for index, (backends, language, block, shown) in enumerate(RUN.findall(page.read_text())):
        if language == "py" and keras.backend.backend() not in backends.split(", "):
            continue
        exec(compile(block, f"{page.name}, python block {index}", "exec"), names)
        printed = capsys.readouterr().out
        if shown and printed != shown:
            differing.append((index, printed))
    assert not differing
    if page == README:  # its last table is that of the report, whose numbers vary
        tables = [text.split("\n\n")[-1] for text in (code(page, "text")[-1], printed)]
        shown, printed = ([line.split()[:2] for line in table.splitlines()] for table in tables)
        assert shown[0] == printed[0]
        assert len(shown) == len(printed)


@all_pages
def test_links_lead_to_files_and_headings(page):
    lost = []
    for link in LINK.findall(INLINE_CODE.sub("", text_of(page))):
        if EXTERNAL.match(link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert not lost


@all_pages
def test_a_page_has_one_title_and_no_skipped_heading_level(page):
    levels = [len(marks) for marks in re.findall(r"^(#{1,6}) ", text_of(page), re.MULTILINE)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(next_level <= level + 1 for level, next_level in pairwise(levels))


@all_pages
def test_code_is_narrow_enough_for_the_site(page):
    wide = [
        line
        for language, text in FENCED.findall(page.read_text())
        if language != "math" and not (language == "text" and "maintainers" in page.parts)
        for line in text.splitlines()
        if len(line) > 84
    ]
    assert not wide or name_of(page) in WIDE


def test_every_page_is_in_the_list_of_pages_or_for_maintainers():
    linked = {ROOT / link for link in LINK.findall(text_of(ROOT / "CONTRIBUTING.md"))}
    listed = {ROOT / "docs" / page for of in site_pages.PAGES.values() for page in of.values()}
    assert listed <= {*PAGES}
    assert {*PAGES} - listed - linked == {README, ROOT / "docs" / "README.md"}
    assert site_pages.list_of_pages() in (ROOT / "docs" / "README.md").read_text()


def test_the_home_page_begins_as_the_readme_with_code():
    home = site_pages.home_page((ROOT / "docs" / "README.md").read_text())
    assert home.partition("\n")[0] == README.read_text().partition("\n")[0]
    assert home.index("```python") < home.index("\n## Pages\n")


def test_the_diff_changes_a_model_of_one_task_to_two():
    (diff,) = code(ROOT / "docs" / "getting_started.md", "diff")
    x, labels = np.zeros((4, 128)), np.ones((4, 1))
    for sign, outputs in (("-", {None}), ("+", {"click", "purchase"})):
        lines = [line[1:] for line in diff.splitlines() if line[0] in (" ", sign)]
        names = {"x": x, "click": labels, "purchase": labels}
        exec("import keras\nimport ple_keras as pk\n" + "\n".join(lines), names)
        predictions = names["model"].predict(x, verbose=0)
        found = set(predictions) if isinstance(predictions, dict) else {None}
        assert found == outputs


def test_the_list_of_pages_names_every_public_name():
    text = (ROOT / "docs" / "README.md").read_text()
    missing = [name for name in ple_keras.__all__ if f"`{name}" not in text]
    assert not missing

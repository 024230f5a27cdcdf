"""Files of the project that must be kept in step with the package."""

import importlib.util
import inspect
import re
from pathlib import Path

import ple_keras as pk
from ple_keras._keras import internals
from tests.helpers import once
from tests.processes import ROOT

pytestmark = once

PACKAGE = Path(pk.__file__).parent
MAINTAINERS = ROOT / "docs" / "maintainers"


def test_the_changelog_has_a_section_for_the_version():
    assert f"\n## [{pk.__version__}] - " in (ROOT / "CHANGELOG.md").read_text()


def test_the_citation_has_the_version():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.*)$", citation, flags=re.MULTILINE) == [pk.__version__]


def test_every_use_of_keras_internals_is_documented():
    page = (MAINTAINERS / "keras_internals.md").read_text()
    functions = [
        name
        for name, function in inspect.getmembers(internals, inspect.isfunction)
        if function.__module__ == internals.__name__ and not name.startswith("_")
    ]
    assert functions
    assert [name for name in functions if f"| `{name}` |" not in page] == []


def test_every_subpackage_is_in_the_layout():
    page = (MAINTAINERS / "layout.md").read_text()
    folders = [path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("__init__.py")]
    subpackages = [folder for folder in folders if folder != "."]
    assert subpackages
    assert [folder for folder in subpackages if f"| `{folder}/` |" not in page] == []


def test_the_site_has_few_words():
    path = ROOT / "docs" / "count_words.py"
    spec = importlib.util.spec_from_file_location("count_words", path)
    count_words = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(count_words)
    words = count_words.words_by_page()
    assert words["README.md"] > 100
    assert sum(words.values()) <= count_words.LIMIT

"""Files of the project that must be kept in step with the package."""

import ast
import inspect
import re
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

import ple_keras as pk
from ple_keras._keras import internals
from tests.helpers import once
from tests.processes import EXAMPLES, ROOT, load_module

pytestmark = once

PACKAGE = Path(pk.__file__).parent
MAINTAINERS = ROOT / "docs" / "maintainers"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMAND = re.compile(r'pip install -e "\.\[([\w,-]+)\]"')
PACKAGES = {"prometheus_client": "prometheus-client", "sklearn": "scikit-learn"}  # of modules
PACKAGES |= {"orbax": "orbax-checkpoint", "scipy": "scikit-learn"}
PACKAGES |= dict.fromkeys(("pydantic", "starlette", "typing_extensions"), "fastapi")
# A comment with such a first word is no sentence without its line of code.
CONTINUED = re.compile(
    r"(?:^| )#\W*(about|after|also|among|and|as|at|before|between|but|by|during|except|for|from|in"
    r"|into|its?|like|near|not|of|on|or|over|per|since|such|than|that|their|them|these|they|this"
    r"|those|through|to|under|unlike|until|which|whose?|with|within|without)\b",
    re.IGNORECASE,
)


def test_the_changelog_and_the_citation_have_the_released_version():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    released, *_ = re.findall(r"^## \[(\d.*)\] - ", changelog, flags=re.MULTILINE)
    if ".dev" in pk.__version__:  # between two releases
        assert "\n## [Unreleased]\n" in changelog
        assert pk.__version__.partition(".dev")[0] != released
    else:
        assert pk.__version__ == released
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.*)$", citation, flags=re.MULTILINE) == [released]


def test_no_text_tells_users_to_install_a_package_that_is_not_published():
    text = "".join(path.read_text() for path in [*PACKAGE.rglob("*.py"), *ROOT.rglob("docs/*.md")])
    assert not re.findall(r"ple[-_]keras\[|pip install ple", text)


def test_the_description_on_an_index_has_absolute_links():
    pytest.importorskip("hatchling")
    hook = load_module(ROOT / "hatch_build.py")
    text = "![a](docs/a.png) [b](docs/b.md#c) [d](#d) [e](https://e.org)"
    assert hook.absolute(text, "https://x.org/r") == (
        "![a](https://x.org/r/raw/main/docs/a.png) [b](https://x.org/r/blob/main/docs/b.md#c) "
        "[d](#d) [e](https://e.org)"
    )


def test_every_use_of_keras_internals_names_the_versions_that_were_tested():
    functions = [
        function
        for name, function in inspect.getmembers(internals, inspect.isfunction)
        if function.__module__ == internals.__name__ and not name.startswith("_")
    ]
    assert functions
    versions = re.compile(r"\b(Keras|JAX|PyTorch)\s+\d")
    assert [f.__name__ for f in functions if not versions.search(f.__doc__)] == []


def packages(extras):
    """Return the packages that extras name, without their dependencies."""
    found = set()
    for extra in extras.split(","):
        for requirement in PROJECT["optional-dependencies"][extra]:
            name, inner = re.match(r"([\w-]+)(?:\[([\w,-]+)\])?", requirement).groups()
            found |= packages(inner) if name == PROJECT["name"] else {name}
    return found


def test_the_extras_of_a_command_name_what_its_script_imports():
    scripts = [path for path in EXAMPLES.rglob("*.py") if COMMAND.search(path.read_text())]
    assert len(scripts) > 10
    # Scripts without Keras import `columns` as a file of the package.
    stems = {path.stem for path in EXAMPLES.rglob("*")}
    known = {"ple_keras", "columns", *sys.stdlib_module_names, *stems}
    for script in scripts:
        text = script.read_text()
        needed = {*re.findall(r'distribution\("([\w-]+)"\)', text)}
        for node in ast.parse(text).body:  # not of functions, which import optional packages
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            modules = {name.partition(".")[0] for name in names} - known
            needed |= {PACKAGES.get(name, name) for name in modules}
        missing = needed - {"h5py", "keras", "numpy"} - packages(COMMAND.search(text)[1])
        assert not missing, (script.name, missing)


def test_every_subpackage_is_in_the_layout():
    page = (MAINTAINERS / "layout.md").read_text()
    folders = [path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("__init__.py")]
    subpackages = [folder for folder in folders if folder != "."]
    assert subpackages
    assert [folder for folder in subpackages if f"| `{folder}/` |" not in page] == []


def test_no_comment_begins_with_a_preposition_or_a_pronoun():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        lines = ["", *path.read_text().splitlines()]
        for before, line in pairwise(lines):
            follows = all(each.lstrip().startswith("#") for each in (before, line))
            if CONTINUED.search(line) and not follows:
                found.append((path.relative_to(PACKAGE).as_posix(), line.strip()))
    assert found == []

"""Signatures have specific types: `Any` is an exception."""

import ast
from contextlib import suppress
from pathlib import Path

import ple_keras as pk
from tests.helpers import once

pytestmark = once

PACKAGE = Path(pk.__file__).parent
MAX_SHARE = 0.10  # of all parameters


def names_in(node):
    """Yield the names in an annotation, including those in strings."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            with suppress(SyntaxError):  # a string that is not a type
                yield from names_in(ast.parse(part.value, mode="eval"))


def aliases_of_any(trees):
    """Return `Any` and the type aliases that contain it. `Tensor` alone is exempt."""
    aliases = {
        target.id: {*names_in(node.value)}
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    del aliases["Tensor"]
    found = {"Any"}
    while more := {name for name, parts in aliases.items() if parts & found} - found:
        found |= more
    return found


def parameters(tree):
    """Yield the annotation of every parameter except `self` and `cls`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            arguments = node.args
            several = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            for argument in [*several, arguments.vararg, arguments.kwarg]:
                if argument and argument.arg not in ("self", "cls"):
                    yield argument.annotation


def test_less_than_ten_percent_of_parameters_are_any():
    trees = [ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")]
    any_names = aliases_of_any(trees)
    found = [annotation for tree in trees for annotation in parameters(tree)]
    assert all(found), "every parameter must have an annotation"
    count = sum(not any_names.isdisjoint(names_in(annotation)) for annotation in found)
    print(f"{count} of {len(found)} parameters")  # with -s
    assert count / len(found) < MAX_SHARE
    assert count > 0


def test_an_alias_of_any_counts_as_any():
    tree = ast.parse(
        "Tensor = Any\nRow = dict[str, Any]\nRows: TypeAlias = 'list[Row]'\nx = [Tensor]\ny = '!'"
    )
    assert aliases_of_any([tree]) == {"Any", "Row", "Rows"}

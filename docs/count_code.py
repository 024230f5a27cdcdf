"""Print the lines of code and the modules of each subpackage, the tests and the examples.

    python docs/count_code.py

Docstrings, comments and empty lines do not count.
"""

import ast
import io
import tokenize
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
WITH_DOCSTRINGS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def count_lines(text: str) -> int:
    """Return the number of lines with code."""
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, WITH_DOCSTRINGS)
            and ast.get_docstring(node) is not None
        ):
            docstrings.update(
                range(node.body[0].lineno, node.body[0].end_lineno + 1)
            )
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def main() -> None:
    """Print a row for each folder, and one for the whole package."""
    counts = defaultdict(lambda: [0, 0])
    for folder in ("ple_keras", "tests", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            lines, inside = (
                count_lines(path.read_text()),
                path.relative_to(ROOT).parts,
            )
            names = {folder}
            if folder == "ple_keras":
                names.add(
                    "/".join(inside[:2]) if len(inside) > 2 else "ple_keras/*.py"
                )
            for name in names:
                counts[name][0] += lines
                counts[name][1] += 1
    for name, (lines, modules) in sorted(counts.items()):
        print(f"{name:24}{lines:8,} lines{modules:5} modules")


if __name__ == "__main__":
    main()

"""Extension of griffe, which parses the docstrings for the site."""

import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import griffe

sys.path.append(str(Path(__file__).parent))  # griffe loads only this file
from equations import to_latex

INDENTED = r"((?:    .*\n?|\n(?=    ))+)"
CALL_ARGUMENTS = re.compile(rf"^Call arguments:\n{INDENTED}", re.MULTILINE)
ARGUMENTS = re.compile(r"^Args:$", re.MULTILINE)
RETURNS = re.compile(rf"^Returns:\n{INDENTED}", re.MULTILINE)
ARGUMENT = re.compile(r"^(\S+): ", re.MULTILINE)
SYMBOL = re.compile(r"\b([A-Za-z])_(\w{1,2})\b")
DOCTEST_OPTION = re.compile(r"\s*# doctest: .*")
TITLES = ("Reference:", "Example:")
CODE = (">>> ", "    ")  # starts of paragraphs of code: examples and equations


class KerasDocstrings(griffe.Extension):
    """Mark up the parts of Keras-style docstrings that griffe does not support.

    Examples and references are not indented. A description of the result can contain a colon,
    before which griffe expects a type. Griffe has no section for call arguments. Equations and
    symbols such as w_k are plain text. Public names become links to their pages.
    """

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Change the docstrings of all modules, classes and functions."""
        public = {str(name) for name in pkg.exports or ()}
        for obj in _walk(pkg):
            if obj.docstring:
                page = obj.parent if obj.parent and obj.parent.is_class else obj
                text = _link_names(obj.docstring.value, public - {page.name})
                obj.docstring.value = _mark_up(text)


def _walk(obj: griffe.Object) -> Iterator[griffe.Object]:
    yield obj
    for member in obj.members.values():
        if not isinstance(member, griffe.Alias):
            yield from _walk(member)


def _link_names(text: str, names: Collection[str]) -> str:
    """Link names in backticks, and names such as PLEBlock that are not words, outside code.

    A name without backticks that is a word, such as Gate, can have a different meaning.
    """
    no_words = [name for name in names if sum(map(str.isupper, name)) > 1]
    plain = re.compile(rf"\b({'|'.join(no_words)})\b(?!\w)")
    paragraphs = text.split("\n\n")
    for i, paragraph in enumerate(paragraphs):
        if not paragraph.startswith(CODE):
            parts = re.split(r"(`[^`]*`)", paragraph)
            parts[::2] = [
                plain.sub(r"[\1][ple_keras.\1]", part) for part in parts[::2]
            ]
            parts[::2] = [
                SYMBOL.sub(r"*\1*<sub>\2</sub>", part) for part in parts[::2]
            ]
            parts[1::2] = [
                f"[{part}][ple_keras.{part[1:-1]}]" if part[1:-1] in names else part
                for part in parts[1::2]
            ]
            paragraphs[i] = "".join(parts)
    return "\n\n".join(paragraphs)


def _mark_up(text: str) -> str:
    text = ARGUMENTS.sub("Args: Arguments:", text)
    text = CALL_ARGUMENTS.sub(_mark_call_arguments, text)
    text = RETURNS.sub(
        lambda section: f"**Returns:**\n\n{dedent(section[1])}", text
    )
    return "\n\n".join(map(_mark_paragraph, text.split("\n\n")))


def _mark_call_arguments(section: re.Match[str]) -> str:
    """Return a list like the list of the constructor's arguments."""
    arguments = ARGUMENT.sub(r"- **`\1`** &ndash; ", dedent(section[1]))
    return f"**Call arguments:**\n\n{arguments}"


def _mark_paragraph(paragraph: str) -> str:
    if paragraph in TITLES:
        return f"**{paragraph}**"
    if paragraph.startswith(">>> "):
        code = DOCTEST_OPTION.sub("", paragraph)
        return f"```pycon\n{code}\n```"
    if paragraph.startswith("    "):
        return f"```math\n{to_latex(paragraph)}\n```"
    return paragraph

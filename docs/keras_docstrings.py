"""Extension of griffe, which reads the docstrings for the site."""

import re
from textwrap import dedent
from typing import Any

import griffe

RETURNS = re.compile(r"^Returns:\n((?:    .*\n?|\n(?=    ))+)", re.MULTILINE)


class KerasDocstrings(griffe.Extension):
    """Mark up what docstrings in the form of Keras's have, and griffe reads otherwise.

    Examples are not indented. A description of what is returned may contain a colon, before which
    griffe expects a type.
    """

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of a function, class or module."""
        if obj.docstring:
            text = RETURNS.sub(_mark_returns, obj.docstring.value)
            obj.docstring.value = "\n\n".join(map(_mark_example, text.split("\n\n")))


def _mark_returns(section: re.Match[str]) -> str:
    return f"**Returns:**\n\n{dedent(section[1])}"


def _mark_example(paragraph: str) -> str:
    if paragraph == "Example:":
        return "**Example:**"
    return f"```pycon\n{paragraph}\n```" if paragraph.startswith(">>> ") else paragraph

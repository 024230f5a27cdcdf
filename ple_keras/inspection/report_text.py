"""Parts of reports: tables and other text, and dicts for JSON."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

WIDTH = 100  # characters
HARD_SPACE = "\N{NO-BREAK SPACE}"
Row = Sequence[str]


@dataclass(frozen=True)
class Report:
    """A result that becomes JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Return the result as dicts, lists, strings and numbers, ready for JSON."""
        return dict(to_json(self))


def table(rows: Iterable[Row]) -> str:
    """Return a table with the first column left-aligned, the last wrapped, others right-aligned."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in rows))]
    lines = []
    for first, *middle, last in rows:
        cells = [first.ljust(widths[0]), *map(str.rjust, middle, widths[1:])]
        start = f"  {'  '.join(cells)}  "
        wrap = textwrap.TextWrapper(WIDTH, start, " " * len(start), break_on_hyphens=False)
        wrap.break_long_words = False
        lines += wrap.wrap(last) or [start.rstrip()]
    return "\n".join(lines).replace(HARD_SPACE, " ")


def join_items(items: Iterable[str]) -> str:
    """Join items with commas. A table does not break lines within an item."""
    return ", ".join(item.replace(" ", HARD_SPACE) for item in items)


def cells(figures: object, **forms: str) -> list[str]:
    """Return attributes of an object as text, in the given formats; "-" for NaN."""
    values = [(getattr(figures, name), form) for name, form in forms.items()]
    return ["-" if math.isnan(value) else f"{value:{form}}" for value, form in values]


def to_json(value: object) -> Any:
    """Return nested dicts and dataclasses as dicts, with None for NaN and infinity."""
    value = vars(value) if is_dataclass(value) else value
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value

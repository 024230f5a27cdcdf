"""Kinds of command line arguments, for argparse's `type`."""

import argparse
from collections.abc import Callable
from pathlib import Path


def at_least(minimum: int) -> Callable[[str], int]:
    """An integer from `minimum` on."""

    def integer(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, not {value}")
        return value

    return integer


def correlation(text: str) -> float:
    """A number in [-1, 1]."""
    value = float(text)
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in [-1, 1], not be {value}")
    return value


def file(suffix: str = "") -> Callable[[str], Path]:
    """A file in a folder that exists: better to hear of it before a long run than after it."""

    def path(text: str) -> Path:
        value = Path(text)
        if not value.parent.is_dir():
            raise argparse.ArgumentTypeError(f"there is no folder {value.parent}")
        if suffix and value.suffix != suffix:
            raise argparse.ArgumentTypeError(f"must end in {suffix}, not be {value.name}")
        return value

    return path

"""Argument types for `argparse`, and the arguments that all comparisons share."""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def at_least(minimum: int) -> Callable[[str], int]:
    """Return a type that accepts integers of at least `minimum`."""

    def integer(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}. Received: {value}")
        return value

    return integer


def correlation(text: str) -> float:
    """Parse a number in [-1, 1]."""
    value = float(text)
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in [-1, 1]. Received: {value}")
    return value


def file(suffix: str = "") -> Callable[[str], Path]:
    """Return a type that accepts a file in an existing folder.

    Checking the folder here prevents a failure after a long run.
    """

    def path(text: str) -> Path:
        value = Path(text)
        if not value.parent.is_dir():
            raise argparse.ArgumentTypeError(
                f"the folder {value.parent} must exist. Received: {value}"
            )
        if suffix and value.suffix != suffix:
            raise argparse.ArgumentTypeError(f"must end in {suffix}. Received: {value}")
        return value

    return path


def share(text: str) -> float:
    """Parse a number in (0, 1]."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in (0, 1]. Received: {value}")
    return value


def shares(text: str) -> list[float]:
    """Parse comma-separated numbers in (0, 1]."""
    return [share(part) for part in text.split(",")]


def comparison_parser(description: str, models: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser with the arguments that every comparison of models takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=models, default=list(models), help="default: all")
    add("--seeds", type=at_least(1), default=1, help="number of seeds per model, default 1")
    add("--epochs", type=at_least(1))
    add("--batch-size", type=at_least(1))
    add("--rows", type=at_least(1000), help="number of training rows; fewer test rows")
    add("--plot", type=file(".png"), metavar="FILE.png", help="plot the metrics to this file")
    add("--json", type=file(), metavar="FILE", help="write all results and histories to this file")
    return parser


def missing_packages(needed: list[str], extras: str = "examples") -> list[str]:
    """Return the packages that are not installed, and print them to stderr."""
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        print(f"Missing packages: {', '.join(missing)}.", file=sys.stderr)
        print(f'Install them with: pip install -e ".[{extras}]"', file=sys.stderr)
    return missing

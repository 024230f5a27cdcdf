"""Command-line options of the comparisons of models."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence

from _options import at_least, benchmark_parser


def comparison_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every comparison of models takes."""
    parser = benchmark_parser(description)
    add = parser.add_argument
    add("--seeds", type=at_least(1), default=1, help="number of seeds per model, default 1")
    add("--epochs", type=at_least(1))
    add("--batch-size", type=at_least(1))
    add("--rows", type=at_least(1000), help="number of training rows; fewer test rows")
    return parser


def correlation(text: str) -> float:
    """Parse a number in [-1, 1]."""
    value = float(text)
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in [-1, 1]. Received: {value}")
    return value


def shares(text: str) -> list[float]:
    """Parse comma-separated numbers in (0, 1]."""
    return [_share(part) for part in text.split(",")]


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in (0, 1]. Received: {value}")
    return value


def missing_packages(needed: Sequence[str]) -> list[str]:
    """Return the packages that are not installed, and print them to stderr."""
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        print(f"Missing packages: {', '.join(missing)}.", file=sys.stderr)
        print('Install them with: pip install -e ".[examples]"', file=sys.stderr)
    return missing

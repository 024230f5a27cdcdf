"""Command-line options that all benchmarks share.

This module does not import Keras: a backend may not be selected yet.
"""

import argparse
from collections.abc import Callable
from pathlib import Path


def benchmark_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with options for the files that a benchmark writes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--json", type=file(), metavar="FILE", help="write all results to this file")
    add("--plot", type=file(".png"), metavar="FILE.png", help="plot the results to this file")
    return parser


def at_least(minimum: int) -> Callable[[str], int]:
    """Return a type that accepts integers of at least `minimum`."""

    def integer(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}. Received: {value}")
        return value

    return integer


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

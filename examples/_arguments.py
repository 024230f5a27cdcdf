"""Command lines: kinds of arguments, for argparse's `type`, and what the comparisons share."""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
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


def share(text: str) -> float:
    """A number above 0 and up to 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in (0, 1], not be {value}")
    return value


def shares(text: str) -> list[float]:
    """Such numbers, with commas between them."""
    return [share(part) for part in text.split(",")]


def comparison_parser(description: str, models: Sequence[str]) -> argparse.ArgumentParser:
    """The arguments that every comparison of models takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=models, default=list(models), help="default: all")
    add("--seeds", type=at_least(1), default=1, help="how many seeds a model, default 1")
    add("--epochs", type=at_least(1))
    add("--batch-size", type=at_least(1))
    add("--rows", type=at_least(1000), help="train on so many rows, test on fewer")
    add("--plot", type=file(".png"), metavar="FILE.png", help="draw the metrics")
    add("--json", type=file(), metavar="FILE", help="write all results and histories")
    return parser


def missing_packages(needed: list[str], extras: str = "examples") -> list[str]:
    """Which of the packages the interpreter lacks; they are named on stderr too."""
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        print(f"Missing: {', '.join(missing)}.", file=sys.stderr)
        print(f'Install them with: pip install -e ".[{extras}]"', file=sys.stderr)
    return missing

"""What the benchmarks' command lines share.

Nothing here imports Keras: its backend is yet to be chosen.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from _cases import CASES, Case

sys.path.append(str(Path(__file__).parents[1]))  # the examples
from _arguments import at_least, file

BACKENDS = ("tensorflow", "jax", "torch")
# The options that give a size, and what each is called in a Case.
SIZES = {
    "tasks": 1,
    "task-experts": 0,
    "shared-experts": 0,
    "levels": 1,
    "features": 1,
    "batch": 1,
}


def benchmark_parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments of every benchmark."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--backend", choices=BACKENDS, help="of Keras; default: KERAS_BACKEND, or what Keras has")
    add("--xla", action="store_true", help="compile with XLA on TensorFlow, also without a GPU")
    add("--json", type=file(), metavar="FILE", help="write all results")
    add("--plot", type=file(".png"), metavar="FILE.png", help="draw them")
    return parser


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Options for the cases, and for every size of a case of one's own."""
    parser.add_argument("--case", nargs="+", choices=list(CASES), help="default: all")
    sizes = parser.add_argument_group("sizes of a case of your own; case B has what is not given")
    sizes.add_argument("--experts", type=at_least(1), nargs="+", metavar="UNITS")
    for name, minimum in SIZES.items():
        sizes.add_argument(f"--{name}", type=at_least(minimum), metavar="N")


def chosen_cases(parser: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, Case]:
    """The named cases, or the one that the sizes make."""
    names = [name.replace("-", "_") for name in SIZES]
    sizes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.experts:
        sizes["experts"] = tuple(args.experts)
    if not sizes:
        return {name: CASES[name] for name in args.case or CASES}
    if args.case:
        parser.error("--case: name cases or give sizes, not both")
    return {"custom": replace(CASES["B"], **sizes)}


def choose_backend(args: argparse.Namespace) -> None:
    """Must be called before Keras is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if args.backend:
        os.environ["KERAS_BACKEND"] = args.backend


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns: the first and the last to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    last = len(widths) - 1
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in (0, last) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )

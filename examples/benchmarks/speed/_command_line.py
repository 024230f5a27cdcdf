"""Command-line options of the benchmarks of speed.

This module does not import Keras: its backend is not selected yet.
"""

import argparse
import os
from dataclasses import replace

from _cases import CASES, Case
from _options import at_least, benchmark_parser

BACKENDS = ("tensorflow", "jax", "torch")
# Options for the sizes of a case, with their minimum.
SIZES = {
    "tasks": 1,
    "task-experts": 0,
    "shared-experts": 0,
    "levels": 1,
    "features": 1,
    "batch": 1,
}


def speed_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of `step_time.py` and `scaling.py`."""
    parser = benchmark_parser(description)
    add = parser.add_argument
    add(
        "--backend",
        choices=BACKENDS,
        help="Keras backend; default: KERAS_BACKEND, or Keras's default",
    )
    add("--xla", action="store_true", help="compile with XLA on TensorFlow, also without a GPU")
    return parser


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Add options for the named cases, and for every size of a custom case."""
    parser.add_argument("--case", nargs="+", choices=list(CASES), help="default: all")
    sizes = parser.add_argument_group("sizes of a custom case; defaults are those of case B")
    sizes.add_argument("--experts", type=at_least(1), nargs="+", metavar="UNITS")
    for name, minimum in SIZES.items():
        sizes.add_argument(f"--{name}", type=at_least(minimum), metavar="N")


def select_cases(parser: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, Case]:
    """Return the named cases, or the case with the given sizes."""
    names = [name.replace("-", "_") for name in SIZES]
    sizes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.experts:
        sizes["experts"] = tuple(args.experts)
    if not sizes:
        return {name: CASES[name] for name in args.case or CASES}
    if args.case:
        parser.error("argument --case: must not be combined with sizes")
    return {"custom": replace(CASES["B"], **sizes)}


def select_backend(args: argparse.Namespace) -> None:
    """Select the backend. Must be called before Keras is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if args.backend:
        os.environ["KERAS_BACKEND"] = args.backend

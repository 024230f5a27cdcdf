"""Measure whether hedged branches are equivalent to the better of two baselines, or better.

    pip install -e ".[jax,census]"
    KERAS_BACKEND=jax python -m examples.benchmarks.never_worse
    KERAS_BACKEND=jax python -m examples.benchmarks.never_worse --run

The baselines are single-task networks and a shared bottom. The rules are in
docs/maintainers/never_worse.md, and the fits are kept in docs/results/never_worse.json.
Without `--run`, nothing is trained: the tables are printed from the kept fits, and that of real
tables from the kept gains of against_boosting.py and retail.py.

`--run` first runs the missing fits. All kept fits are of earlier releases, and took eight hours on
one core, without compiling equal networks again. You can stop a run after any fit, and continue
later. Set JAX_COMPILATION_CACHE_DIR to a folder in which JAX keeps compiled networks.

`--write` also writes the tables into the pages of docs/ that show them, and draws the chart.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from ._fits import Store, run
from ._plan import plan
from ._regrets import draw, report
from ._tables import make_parser

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "results" / "never_worse.md"
KEPT = DOCS / "results" / "never_worse.json"
TABLE = re.compile(r"<!-- (.*?) -->\n\n```text\n(.*?)\n```\n", re.DOTALL)  # of a page


def write(tables: dict[str, str], page: Path) -> None:
    """Replace the tables of a page, which follow their names in comments. Others remain."""

    def replace(found: re.Match[str]) -> str:
        name, before = found.groups()
        return f"<!-- {name} -->\n\n```text\n{tables.get(name, before)}\n```\n"

    page.write_text(TABLE.sub(replace, page.read_text()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the missing fits, and print the tables."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--run", action="store_true", help="run the fits that are missing")
    add("--json", type=Path, default=KEPT, help="the kept fits; default: in docs/results")
    add("--write", action="store_true", help="write the tables of pages, and the chart")
    args = parser.parse_args(arguments)
    fits, store = plan(), Store(args.json)
    if args.run:
        run(fits, store)
    if any(fit not in store for fit in fits):
        parser.exit(1, f"Fits are missing in {args.json}. Use --run.\n")
    tables = report(store)
    print("\n\n".join(tables.values()))
    if args.write:
        write(tables, PAGE)
        draw(store, KEPT.with_suffix(".png"))


if __name__ == "__main__":
    main()

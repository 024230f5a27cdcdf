"""Compare blocks on the data of the recommender, each with the stop that suits it best.

    pip install -e ".[jax,examples]"
    KERAS_BACKEND=jax python -m examples.benchmarks.films  # the table of the stored runs
    KERAS_BACKEND=jax python -m examples.benchmarks.films --json films.json --run

The tasks, columns, tables and the split are from examples/recommender.py. All blocks have experts
[64, 32], a dropout rate of 0.1, and a learning rate that decays to 0 within 12 epochs. Branches of
hedged networks stop by themselves, and each single-task network at the best epoch of its loss. A
network with one branch for several tasks trains to the end: "own stops" are its scores with an
epoch for each task, for which it has to be trained once for each task. `stop_rules` defines both
rules, and keeps the fits.

Each row has the scores on the test rows, as means over the seeds ± the standard deviation: the AUC
of "like" and "hate", and the root of the mean squared error of "rating" over its deviation. Below
are gains over single-task networks, as means ± half of a 95% interval of Student's t, with a star
if it excludes 0. `--run` takes ten minutes on one core.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from ._networks import NETWORKS
from ._regrets import Estimate
from ._tables import align_columns, make_parser
from .never_worse import DOCS, write
from .stop_rules import BEST, KEPT, LAST, Records, compare, run_missing

CASE, SETTING = "films", (True, 0.1, 2)
ONE_BRANCH = ["bottom", "mmoe", "ple"]
KINDS = ["single", *ONE_BRANCH, "hedged"]
TASKS = {"like": "auc", "rating": "rmse", "hate": "auc"}


def tables(records: Records) -> str:
    """Return a table of scores, and one of gains over single-task networks."""
    rows = {NETWORKS[kind].title: (kind, LAST if kind in ONE_BRANCH else BEST) for kind in KINDS}
    rows |= {f"{NETWORKS[kind].title}, own stops": (kind, BEST) for kind in ONE_BRANCH}
    rows["hedged branches, no stop"] = ("hedged", LAST)
    scores = [["", "seeds", *map(", ".join, TASKS.items())]]
    gains = [["gain", *TASKS]]
    for name, (kind, rule) in rows.items():
        found = compare(records, CASE, [(kind, rule), ("single", BEST)], SETTING)
        found |= {"rating": -(found["rating"] ** 0.5)}
        means = [f"{abs(x[0].mean()):.4f} ± {x[0].std(ddof=1):.4f}" for x in map(found.get, TASKS)]
        scores.append([name, f"{len(found['rating'][0])}", *means])
        of_gains = [Estimate.of(ours - alone) for ours, alone in map(found.get, TASKS)]
        gains.append([name, *(gain.format("+") + gain.mark for gain in of_gains)])
    return f"{align_columns(scores)}\n\n{align_columns(gains[:1] + gains[2:])}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the missing fits, and print the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("--json", type=Path, default=KEPT, help="the kept fits")
    parser.add_argument("--run", action="store_true", help="run the fits that are missing")
    parser.add_argument("--seeds", type=int, nargs=2, default=(7, 12), help="first, and end; 7 12")
    parser.add_argument("--write", action="store_true", help="write the tables of the page")
    args = parser.parse_args(arguments)
    records: Records = json.loads(args.json.read_text()) if args.json.exists() else {}
    if args.run:
        (decays, dropout, length), seeds = SETTING, range(*args.seeds)
        jobs = [(CASE, kind, decays, dropout, (length,), s) for s in seeds for kind in KINDS]
        run_missing(args.json, records, jobs)
    found = tables(records)
    print(found)
    if args.write:
        write({"films": found}, DOCS / "results.md")


if __name__ == "__main__":
    main()

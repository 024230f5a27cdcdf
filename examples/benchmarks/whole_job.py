"""Measure a few epochs of a ranking model with large embedding tables, in several libraries.

    pip install -e ".[bench,tensorflow,jax,torch]"
    python -m examples.benchmarks.whole_job --json job.json
    python -m examples.benchmarks.whole_job --json job.json --run "ours, PyTorch" --seeds 0 1

The job: 300,032 simulated rows, 12 columns of codes with tables of 100 to 200,000 rows of 16, 8
numbers, a PLE of two levels with experts [128, 64] and towers [64], 3 tasks, and batches of 1024
(`_job`). Purchases and seconds have labels only after a click.

    PyTorch by hand   a PLE in plain PyTorch: with Adam, or with sparse gradients and
                      the steps of SparseAdagrad for the tables
    torch-rechub      its PLE, trained by our loop, which does the same as its trainer: with Adam,
                      or with Adagrad
    DeepCTR           its PLE, trained by `fit`: with Adam, or with Adagrad and no penalty
    ours, Adam        ple_keras with Adam for its tables too
    ours              ple_keras with table_optimizer; next to its PLE, a shared bottom, and hedged
                      branches with own tables of the full width

Each run is a new process with one thread. In each round, all runs take turns with a new seed, and
times are compared with the run by hand of the same round, by medians over rounds. "Epoch" is the
CPU time of the first of two epochs, without its first two batches; "first step" is the CPU time
from the model's creation until these are done, without imports, and "total" the CPU time until the
end of the best epoch. Times of hedged branches include the validation rows that their mixtures
need. "One row" is the CPU time of a prediction of one row. "Peak" is the largest memory of the
process, of which the libraries take most. The scores are from 50,000 later rows, at the best epoch
on 50,000 validation rows in between: the AUC of clicks and purchases, and the RMSE of seconds.

`--json FILE` keeps every finished run, and a later call with the same file skips these runs. A run
takes half a minute to two minutes on one core. Without `--run`, all runs are measured: with five
seeds, an hour of CPU time.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from ._job import RUNS, STEPS, TASKS, is_installed, make_data, train
from ._tables import make_parser
from ._timing import ONE_THREAD, peak_megabytes, run_in_new_process

Result = dict[str, Any]
EPOCHS = 2
BASELINE = "PyTorch by hand, sparse tables"


def measure(name: str, seed: int, steps: int) -> Result:
    """Measure a run in this process."""
    import keras

    keras.utils.set_random_seed(seed)
    trained = train(name, make_data(seed, steps), EPOCHS, time.process_time)
    return {
        "run": name,
        "seed": seed,
        "steps": steps,
        "first_step_seconds": round(trained.first_step, 2),
        "cpu_seconds": round(trained.epoch, 2),
        "total_seconds": round(trained.total, 2),
        "one_row_ms": round(1000 * trained.one_row, 2),
        "peak_megabytes": round(peak_megabytes()),
        "epoch": trained.best,
        **{task: round(score, 4) for task, score in trained.scores.items()},
    }


def format_table(results: Sequence[Result]) -> str:
    """Return a table of Markdown: medians over seeds, ratios with their range, and mean scores."""
    titles = "epoch | epoch, s | first step, s | total, s | one row, ms | peak, MB | best epoch"
    table = [f"| | {titles} | {' | '.join(TASKS)} |", "|" + "---|" * (8 + len(TASKS))]
    baseline = {r["seed"]: r["cpu_seconds"] for r in results if r["run"] == BASELINE}
    for name in RUNS:
        of_run = [result for result in results if result["run"] == name]
        if not of_run:
            continue
        ratios = [r["cpu_seconds"] / baseline[r["seed"]] for r in of_run if r["seed"] in baseline]
        cells = ["-"]
        if ratios:
            cells = [f"{median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"]
        digits = {"cpu_seconds": 1, "first_step_seconds": 1, "total_seconds": 1, "one_row_ms": 1}
        digits |= {"peak_megabytes": 0, "epoch": 0}
        cells += [f"{median(r[key] for r in of_run):,.{digits[key]}f}" for key in digits]
        cells += [f"{mean(r[task] for r in of_run):.3f}" for task in TASKS]
        table.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the selected runs that the file lacks, and print the table of all in the file."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--run", nargs="+", choices=list(RUNS), help="default: all that are installed")
    add("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    add("--steps", type=int, default=STEPS, help=f"batches of the epoch, default {STEPS}")
    add("--json", type=Path, metavar="FILE", help="keep results in this file")
    add("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.measure:
        print(json.dumps(measure(*json.loads(args.measure))))
        return
    results = json.loads(args.json.read_text()) if args.json and args.json.exists() else []
    finished = {(r["run"], r["seed"], r["steps"]) for r in results}
    for seed in args.seeds:
        names = args.run or [name for name in RUNS if is_installed(name)]
        start = seed % len(names)
        for name in names[start:] + names[:start]:
            if (name, seed, args.steps) in finished:
                continue
            print(f"measuring: {name}, seed {seed}", file=sys.stderr, flush=True)
            environment = {**ONE_THREAD, "KERAS_BACKEND": RUNS[name][1]}
            request = [name, seed, args.steps]
            results.append(run_in_new_process("whole_job", request, environment))
            if args.json:
                args.json.write_text(json.dumps(results, indent=1))
    print(format_table([r for r in results if r["steps"] == args.steps]))


if __name__ == "__main__":
    main()

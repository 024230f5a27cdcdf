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
    ours, Adam        ple_keras with keras.layers.Embedding and Adam
    ours              ple_keras with SparseEmbedding and table_optimizer; next to its PLE, a shared
                      bottom, and hedged branches whose own tables have a quarter of the width

Each run is a new process with one thread. "CPU, s" is the CPU time of an epoch, the first of three,
without its first two batches; "first step" is the CPU time from the model's creation until these
are done, without imports. "One row" is the CPU time of a prediction of one row. "Peak" is the
largest memory of the process, of which the libraries take most. The scores are from 50,000 later
rows, at the best of three epochs on 50,000 validation rows in between: the AUC of clicks and
purchases, and the RMSE of seconds.

`--json FILE` keeps every finished run, and a later call with the same file skips these runs. A run
takes one to four minutes on one core. Without `--run`, all runs whose libraries are
installed are measured.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ._job import RUNS, STEPS, TASKS, is_installed, make_data, train
from ._tables import align_columns, make_parser
from ._timing import ONE_THREAD, peak_megabytes, run_in_new_process

Result = dict[str, Any]
EPOCHS = 3


def measure(name: str, seed: int, steps: int) -> Result:
    """Measure a run in this process."""
    backend = RUNS[name][1]
    if backend == "torch":
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(seed)
    import keras

    keras.utils.set_random_seed(seed)
    trained = train(name, make_data(seed, steps), EPOCHS, time.process_time)
    return {
        "run": name,
        "seed": seed,
        "steps": steps,
        "first_step_seconds": round(trained.first_step, 2),
        "cpu_seconds": round(trained.epoch, 2),
        "one_row_ms": round(1000 * trained.one_row, 2),
        "peak_megabytes": round(peak_megabytes()),
        "epoch": trained.best,
        **{task: round(score, 4) for task, score in trained.scores.items()},
    }


def format_table(results: Sequence[Result]) -> str:
    """Return a row for each run: means over its seeds, ± the standard deviation of five or more."""
    titles = ("seeds", "CPU, s", "first step, s", "one row, ms", "peak, MB", "epoch")
    table = [("", *titles, *TASKS)]
    for name in RUNS:
        of_run = [result for result in results if result["run"] == name]
        if not of_run:
            continue
        keys = {"cpu_seconds": 1, "first_step_seconds": 1, "one_row_ms": 1, "peak_megabytes": 0}
        cells = [_cell([r[key] for r in of_run], digits) for key, digits in keys.items()]
        cells.append(_cell([r["epoch"] for r in of_run], 1))
        quality = [_cell([r[task] for r in of_run], 3, spread=True) for task in TASKS]
        table.append((name, str(len(of_run)), *cells, *quality))
    return align_columns(table)


def _cell(values: Sequence[float], digits: int, spread: bool = False) -> str:
    text = f"{mean(values):,.{digits}f}"
    return f"{text} ± {stdev(values):.{digits}f}" if spread and len(values) > 4 else text


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
        for name in args.run or filter(is_installed, RUNS):
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

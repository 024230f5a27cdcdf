"""Compare blocks on the data of the recommender, each with the stop that users would choose.

    pip install -e ".[jax,examples]"
    KERAS_BACKEND=jax python -m examples.benchmarks.films  # the table of the stored runs
    KERAS_BACKEND=jax python -m examples.benchmarks.films --json films.json --run

The tasks, columns, tables and the split are from examples/recommender.py. All blocks have experts
[64, 32], a dropout rate of 0.1, and a learning rate that decays to 0 within 12 epochs. Networks of
several tasks train to the end. With EarlyStopping, a single-task network stops at the best epoch of
its loss.

Each row has the scores on the test rows, as means over the seeds ± the standard deviation: the AUC
of "like" and "hate", and the root of the mean squared error of "rating" over its deviation. Below
are gains over single-task networks, as means ± half of a 95% interval of Student's t, with a star
if it excludes 0. "CPU, s" are the CPU seconds of an epoch, without the first. `--run` takes 15
minutes on one core.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

import ple_keras as pk

from ._fits import _alone
from ._regrets import Estimate
from ._stop_fits import MOVIES, build_movies, load_movies
from ._tables import align_columns, make_parser

MODELS = {
    "single networks": "single",
    "shared bottom": "bottom",
    "MMoE": "mmoe",
    "PLE": "ple",
    "hedged branches": "hedged",
}
METRICS = {"like": "auc", "rating": "rmse", "hate": "auc"}
KEPT = Path(__file__).parents[2] / "docs" / "results" / "films.json"
Record = dict[str, float]  # test metrics by task, and seconds
Records = dict[str, dict[str, Record]]  # by model and seed


class EpochEnds(keras.callbacks.Callback):
    """Callback that keeps the CPU time at the end of each epoch."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.times: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.times.append(time.process_time())


def fit(kind: str, seed: int) -> Record:
    """Return the test metrics of a block, or of a network for each task, and the seconds."""
    data = load_movies("by time", 0, seed)
    groups = [(data, MOVIES)]
    if kind == "single":
        groups = [_alone(data, MOVIES, task) for task in data.tasks]
    record: Record = {"seconds": 0.0}
    for part, sizes in groups:
        keras.utils.set_random_seed(seed)
        model = build_movies(kind, part, sizes, decays=True)
        validation, ends = (part.validation.inputs, part.validation.labels), EpochEnds()
        callbacks = [ends]
        if kind == "hedged":
            callbacks.append(pk.FitHedge(validation))
        if kind == "single":
            stop = keras.callbacks.EarlyStopping(
                "val_loss", patience=sizes.epochs, restore_best_weights=True
            )
            callbacks.append(stop)
        model.fit(
            part.train.inputs,
            part.train.labels,
            batch_size=sizes.batch_size,
            epochs=sizes.epochs,
            validation_data=validation,
            callbacks=callbacks,
            verbose=0,
        )
        record["seconds"] += (ends.times[-1] - ends.times[0]) / (sizes.epochs - 1)
        scores = model.evaluate(
            part.test.inputs, part.test.labels, batch_size=8192, verbose=0, return_dict=True
        )
        for task in part.tasks:
            metric = METRICS[task]
            record[task] = scores[metric if len(part.tasks) == 1 else f"{task}_{metric}"]
    return {key: round(value, 5) for key, value in record.items()}


def tables(records: Records) -> str:
    """Return a table of scores, and one of gains over single-task networks."""
    scores = [["", *(f"{task}, {metric}" for task, metric in METRICS.items()), "CPU, s"]]
    gains = [["gain", *METRICS]]
    base = records["single networks"]
    for name in MODELS:
        of_seeds = records[name]
        found = {
            key: [record[key] for record in of_seeds.values()] for key in (*METRICS, "seconds")
        }
        cells = [f"{np.mean(found[t]):.4f} ± {np.std(found[t], ddof=1):.4f}" for t in METRICS]
        scores.append([name, *cells, f"{np.mean(found['seconds']):.1f}"])
        if of_seeds is base:
            continue
        row = [name]
        for task, metric in METRICS.items():
            sign = -1 if metric == "rmse" else 1
            gain = Estimate.of([sign * (r[task] - base[s][task]) for s, r in of_seeds.items()])
            row.append(gain.format("+") + gain.mark)
        gains.append(row)
    return f"{align_columns(scores)}\n\n{align_columns(gains)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the missing fits, and print the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("--json", type=Path, default=KEPT, help="the kept fits")
    parser.add_argument("--run", action="store_true", help="run the fits that are missing")
    parser.add_argument("--seeds", type=int, default=5, help="5 by default")
    args = parser.parse_args(arguments)
    records: Records = json.loads(args.json.read_text()) if args.json.exists() else {}
    for seed in map(str, range(args.seeds if args.run else 0)):
        for name, kind in MODELS.items():
            of_model = records.setdefault(name, {})
            if seed not in of_model:
                of_model[seed] = fit(kind, int(seed))
                args.json.write_text(json.dumps(records, indent=1))
                print(f"{name}, seed {seed}: {of_model[seed]}", flush=True)
    print(tables(records))


if __name__ == "__main__":
    main()

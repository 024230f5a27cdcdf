"""Compare ways to train a recommender on the rows of each new day, with new users.

    pip install -e ".[torch,examples]"
    KERAS_BACKEND=torch python -m examples.benchmarks.every_day              # from kept scores
    KERAS_BACKEND=torch python -m examples.benchmarks.every_day --seeds 2    # adds a seed
    KERAS_BACKEND=torch python -m examples.benchmarks.every_day --rows 10_000_000

The data and the hedged branches are those of examples/recommender.py, with all labels, in the order
of time. The first training has 64% of the ratings, and each of five days has 6%, of which the last
15% are for validation. The script prints the scores on the day after as means ± the standard
deviation over seeds, and the CPU time of a day. A seed takes six minutes on one core.

With `--rows`, it prints the time and the peak memory of `update` and `fill_new_rows` for a frame of
so many rows, in which 30% of the users are new, and a table with so many rows.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ._tables import align_columns, make_parser

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "docs" / "results" / "every_day.json"
METRICS = {"like": "auc", "rating": "rmse", "hate": "auc"}
DAYS, FIRST_SHARE, DAY_SHARE, VALIDATION = 5, 0.64, 0.06, 0.15
WAYS = {
    "never": "not trained again",
    "same": "the same columns, `fit` on the day",
    "anew": "columns and model anew, on all rows",
    "transfer": "new columns, `transfer_weights`",
    "fill": "`update`, `fill_new_rows`, `fit` on the day",
    "patient": "the same, with `FitHedge(patience=3)`",
}
Scores = dict[str, dict[str, float]]  # by way, then by task, and "seconds"
State = tuple[Any, Any]  # a model and its columns


def fit(model: Any, columns: Any, frame: Any, epochs: int, patience: int) -> None:
    """Train a model on the rows of a frame. The last ones are for validation."""
    import ple_keras as pk

    cut = int(len(frame) * (1 - VALIDATION))
    train, valid = (
        (columns.transform(rows), {task: rows[task].to_numpy() for task in METRICS})
        for rows in (frame[:cut], frame[cut:])
    )
    options = {"callbacks": [pk.FitHedge(patience=patience)], "verbose": 0}
    model.fit(*train, validation_data=valid, epochs=epochs, batch_size=1024, **options)


def next_day(way: str, state: State, past: Any, day: Any, new: Callable[[Any], State]) -> State:
    """Return the model and the columns after a day."""
    import keras

    import ple_keras as pk

    if way == "never":
        return state
    if way == "anew":
        model, columns = new(past)
        fit(model, columns, past, 30, 3)
        return model, columns
    with tempfile.TemporaryDirectory() as folder:  # as in a new process
        state[0].save(f"{folder}/model.keras")
        model, columns = keras.models.load_model(f"{folder}/model.keras"), state[1]
    if way in ("fill", "patient"):
        columns = columns.update(day)
        pk.fill_new_rows(model, state[1], columns)
    elif way == "transfer":
        trained, (model, columns) = model, new(past)
        pk.transfer_weights(trained, model)
    fit(model, columns, day, 20, 3 if way == "patient" else 1)
    return model, columns


def measure(seed: int, data: Path) -> Scores:
    """Return the mean scores of all ways on the days after, with a seed."""
    sys.path.append(str(ROOT / "examples"))
    import keras
    import recommender as example

    import ple_keras as pk

    frame = example.load(data)
    frame["hate"] = (frame["rating"] <= 2).astype("float32")  # all labels

    def new(past: Any) -> State:
        columns = pk.Columns(example.IDS, example.NUMBERS, example.LISTS).fit(past, spare=1.0)
        options: dict[str, Any] = {"tower": [16], "reduction": "label_root"}
        rating = pk.RegressionHead("rating", standardize=True, **options)
        like, hate = (pk.BinaryHead(task, **options) for task in ("like", "hate"))
        heads = pk.TaskHeads([like, rating, hate])
        model = example.build(pk.HedgedBlock, heads, columns)
        model.compile(pk.table_optimizer(keras.optimizers.Adam(1e-3)))
        return model, columns

    ends = ((FIRST_SHARE + DAY_SHARE * np.arange(DAYS + 2)) * len(frame)).astype(int)
    keras.utils.set_random_seed(seed)
    first, found = next_day("anew", (None, None), frame[: ends[0]], None, new), {}
    for way in WAYS:
        state, rows = first, []
        for start, end, last in zip(ends, ends[1:], ends[2:]):
            keras.utils.set_random_seed(seed)
            began = time.process_time()
            state = next_day(way, state, frame[:end], frame[start:end], new)
            seconds, after = time.process_time() - began, frame[end:last]
            predictions = state[0].predict(state[1].transform(after), 4096, verbose=0)
            scores = [example.score(t, after[t], predictions[t][:, 0]) for t in METRICS]
            rows.append([*scores, seconds])
        means = np.mean(rows, axis=0).round(5).tolist()
        found[way] = dict(zip([*METRICS, "seconds"], means))
    return found


def format_table(kept: dict[str, Scores]) -> str:
    """Return the mean scores, and the CPU time of a day."""
    table = [("", *(f"{task}, {metric}" for task, metric in METRICS.items()), "CPU s a day")]
    for way, text in WAYS.items():
        scores = {key: [seed[way][key] for seed in kept.values()] for key in (*METRICS, "seconds")}
        cells = [f"{np.mean(scores[t]):.3f} ± {np.std(scores[t], ddof=1):.3f}" for t in METRICS]
        table.append((text, *cells, f"{np.mean(scores['seconds']):.0f}"))
    return align_columns(table)


def measure_rows(count: int) -> None:
    """Print the time and the peak memory of `update` and `fill_new_rows`."""
    import pandas as pd

    import ple_keras as pk

    rng, half = np.random.default_rng(0), count // 2
    first = pd.DataFrame({"user": np.arange(half), "age": rng.normal(size=half)})
    columns = pk.Columns(["user"], ["age"]).fit(first, min_rows=1, spare=1.0)
    network, heads = columns.network(width=8), pk.TaskHeads([pk.BinaryHead("click")])
    block = pk.SharedBottomBlock(heads, [8])
    model = pk.MultiTaskModel(network.input, heads(block(network.output)))
    day = pd.DataFrame({"user": rng.integers(0, half * 10 // 7, count), "age": 0.0})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"frames, columns and model: a peak of {peak:.1f} GiB")
    for name in ("update", "fill_new_rows"):
        began = time.process_time()
        if name == "update":
            updated = columns.update(day, min_rows=1)
        else:
            pk.fill_new_rows(model, columns, updated)
        seconds = time.process_time() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name}: {seconds:.1f} CPU s, with a peak of {peak:.1f} GiB in the process")
    print(f"{len(updated.known['user']) - half:,} new values in {columns.rows['user']:,} rows")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the seeds that are not kept, and print the table of all."""
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="seeds to add")
    parser.add_argument("--rows", type=int, help="measure time and memory with so many rows")
    parser.add_argument("--data", type=Path, default=ROOT / "ml-100k", help="the data folder")
    args = parser.parse_args(arguments)
    if args.rows:
        return measure_rows(args.rows)
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for seed in args.seeds:
        if str(seed) not in kept:
            kept[str(seed)] = measure(seed, args.data)
            KEPT.write_text(json.dumps(kept, indent=1))
    print(format_table(kept))


if __name__ == "__main__":
    main()

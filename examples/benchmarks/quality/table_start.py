"""Compare initial values and learning rates of embedding tables.

    pip install -e ".[torch]"
    KERAS_BACKEND=torch OMP_NUM_THREADS=1 python examples/benchmarks/quality/table_start.py
    KERAS_BACKEND=torch python examples/benchmarks/quality/table_start.py --data users

A PLE with `SparseEmbedding` and `table_optimizer` learns the job of `whole_job.py`, with smaller
experts, or simulated clicks of 50,000 users on 10,000 items, whose effects are sums and products of
hidden numbers. The cases differ in the initial values of the tables, the rate of `SparseAdagrad`
and the `reduction` of the losses. The scores are those of 50,000 later rows: the AUC of clicks and
purchases, and the error of seconds. The differences are to the defaults, by seed.

Takes two minutes per seed on one core, for either data.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

os.environ.setdefault("KERAS_BACKEND", "torch")  # before Keras is imported
sys.path.append(str(Path(__file__).parents[1]))  # folder of the modules that all benchmarks share

import keras
import numpy as np
from _job import (
    BATCH,
    COLUMNS,
    STEPS,
    TASKS,
    TEST_ROWS,
    WIDTH,
    Arrays,
    first,
    labels_of,
    last,
    make_data,
    scores,
)
from _tables import align_columns

import ple_keras as pk

USERS, ITEMS, FACTORS = 50_000, 10_000, 4
STARTS = {
    "uniform, 0.05": keras.initializers.RandomUniform(-0.05, 0.05),
    "normal, 0.01": keras.initializers.RandomNormal(stddev=0.01),
    "normal, 0.0001": keras.initializers.RandomNormal(stddev=0.0001),
}
Case = tuple[str, float, str | None]  # the start, the rate and the reduction
DEFAULTS: Case = ("normal, 0.01", 0.1, None)
CASES: list[Case] = [
    DEFAULTS,
    ("uniform, 0.05", 0.05, None),
    ("uniform, 0.05", 0.1, None),
    ("normal, 0.01", 0.05, None),
    ("normal, 0.01", 0.2, None),
    ("normal, 0.0001", 0.05, None),
    ("normal, 0.0001", 0.1, None),
    ("normal, 0.01", 0.1, "sum_over_batch_size"),
]


def make_users(seed: int, steps: int) -> tuple[Arrays, Arrays, Arrays, Arrays]:
    """Return users, items and labels for training, and those of later rows for the test."""
    rng = np.random.default_rng(seed)
    count = steps * BATCH + TEST_ROWS
    x, effects, factors = {}, np.zeros((count, len(TASKS))), []
    for column, rows in (("user", USERS), ("item", ITEMS)):
        x[column] = (rows * rng.random(count) ** 2).astype("int32")
        effects += 0.7 * rng.normal(size=(rows, len(TASKS)))[x[column]]
        factors.append(rng.normal(size=(rows, FACTORS))[x[column]])
    effects += (factors[0] * factors[1]) @ rng.normal(0, 0.4, (FACTORS, len(TASKS)))
    y, train = labels_of(effects, rng), steps * BATCH
    return first(x, train), first(y, train), last(x, train), last(y, train)


def train(case: Case, seed: int, data: tuple[Arrays, Arrays, Arrays, Arrays]) -> list[float]:
    """Return the scores of the tasks."""
    start, rate, reduction = case
    x, y, x_test, y_test = data
    keras.utils.set_random_seed(seed)
    rows = COLUMNS if "code_0" in x else {"user": USERS, "item": ITEMS}
    inputs = {
        name: keras.Input(array.shape[1:], dtype=array.dtype.name, name=name)
        for name, array in x.items()
    }
    features = [
        pk.SparseEmbedding(rows[name], WIDTH, embeddings_initializer=STARTS[start].clone())(column)
        if name in rows
        else column
        for name, column in inputs.items()
    ]
    heads = pk.TaskHeads(
        [
            kind(task, tower=[32], reduction=reduction, metrics=[])
            for task, kind in zip(TASKS, (pk.BinaryHead, pk.BinaryHead, pk.RegressionHead))
        ]
    )
    ple = pk.PLEBlock(2, heads, [64, 32])
    model = pk.MultiTaskModel(inputs, heads(ple(keras.layers.Concatenate()(features))))
    optimizer = pk.table_optimizer(tables=pk.SparseAdagrad(rate))
    model.compile(optimizer)
    model.fit(x, y, BATCH, shuffle=False, verbose=0)
    found = scores(y_test, model.predict(x_test, batch_size=8192, verbose=0))
    return [found[task] for task in TASKS]


def format_table(results: dict[Case, list[list[float]]]) -> str:
    """Return a row for each case: means, and differences to the defaults ± their deviation."""
    header = [part for task in TASKS for part in (task, "difference")]
    table = [["start", "rate", "reduction", "seeds", *header]]
    for case, values in results.items():
        start, rate, reduction = case
        row = [start, str(rate), str(reduction), str(len(values))]
        for of_case, defaults in zip(zip(*values), zip(*results[DEFAULTS])):
            differences = [a - b for a, b in zip(of_case, defaults)]
            spread = f" ± {stdev(differences):.4f}" if len(differences) > 1 else ""
            row += [f"{mean(of_case):.4f}", f"{mean(differences):+.4f}{spread}"]
        table.append(row)
    return align_columns(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train all cases with each seed, and print the table after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=["job", "users"], default="job", help="default: job")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, default 5")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"batches, default {STEPS}")
    args = parser.parse_args(arguments)
    make = {"job": make_data, "users": make_users}[args.data]
    results: dict[Case, list[list[float]]] = {case: [] for case in CASES}
    for seed in range(args.seeds):
        data = make(seed, args.steps)
        for case in CASES:
            results[case].append(train(case, seed, data))
        print(format_table(results), flush=True)


if __name__ == "__main__":
    main()

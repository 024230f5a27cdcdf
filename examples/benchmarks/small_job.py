"""Measure a training step of a small job next to the same network in plain Keras and PyTorch.

    KERAS_BACKEND=torch python -m examples.benchmarks.small_job  # or jax, tensorflow

The job: 7 columns of codes with tables of 7 to 2,000 rows of 16 (keras.layers.Embedding), a shared
bottom [64, 32], 3 tasks, batches of 512, and Adam. On such a job, most of a step is not the
arithmetic of layers, but losses, metrics and other overhead. The models have equal layers:

    ours                MultiTaskModel with the default metrics, including two AUCs; 20% of the
                        labels of two tasks are missing
    plain               Dense layers, Keras's losses and `keras.metrics.AUC()` for two tasks; no
                        label is missing
    ..., no metrics     the same without metrics
    by hand             on PyTorch, the network without Keras and without metrics

They take turns in one process with one thread, in rounds of `--steps` batches: first all rounds
with `train_on_batch`, then rounds with one epoch of `fit`. The table has the CPU milliseconds of a
step (time.process_time, which includes the backend's threads): medians over the rounds, and the
median of the ratios to the plain model in the same round. Takes about two minutes. Compare only
ratios, and only within one run.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ._tables import align_columns, at_least, make_parser
from ._timing import ONE_THREAD, Seconds, measure_interleaved, median_ms, median_ratio

BATCH, WIDTH, UNITS = 512, 16, [64, 32]
ROWS = (2000, 1000, 500, 100, 50, 24, 7)
COLUMNS = {f"code_{i}": rows for i, rows in enumerate(ROWS)}  # the rows of the tables
BINARY, MISSING = ("click", "buy"), 0.2
BASELINES = {"ours": "plain", "ours, no metrics": "plain, no metrics"}
BY_HAND = "by hand, no metrics"

Arrays = dict[str, np.ndarray]


def make_data(rows: int) -> tuple[Arrays, Arrays]:
    """Return random columns, and random labels, of which some are missing for two tasks."""
    rng = np.random.default_rng(0)
    x = {name: rng.integers(0, size, rows).astype("int32") for name, size in COLUMNS.items()}
    y = {"rating": rng.normal(size=rows).astype("float32")}
    for task in BINARY:
        y[task] = (rng.random(rows) < 0.3).astype("float32")
        y[task][rng.random(rows) < MISSING] = np.nan
    return x, y


def build(name: str) -> Any:
    """Return a compiled model: a key or a value of BASELINES."""
    import keras
    from keras import layers

    import ple_keras as pk

    keras.utils.set_random_seed(0)
    inputs = {column: keras.Input((), dtype="int32", name=column) for column in COLUMNS}
    rows = [layers.Embedding(size, WIDTH)(inputs[column]) for column, size in COLUMNS.items()]
    features = layers.Concatenate()(rows)
    has_metrics = "no metrics" not in name
    if name in BASELINES:
        options = {} if has_metrics else {"metrics": []}
        heads = pk.TaskHeads(
            [*(pk.BinaryHead(t, **options) for t in BINARY), pk.RegressionHead("rating", **options)]
        )
        block = pk.SharedBottomBlock(heads, UNITS)
        model = pk.MultiTaskModel(inputs, heads(block(features)))
        model.compile("adam")
        return model
    for units in UNITS:
        features = layers.Dense(units, "relu")(features)
    outputs = {task: layers.Dense(1, "sigmoid", name=task)(features) for task in BINARY}
    outputs["rating"] = layers.Dense(1, name="rating")(features)
    model = keras.Model(inputs, outputs)
    losses = {task: keras.losses.BinaryCrossentropy() for task in BINARY}
    losses["rating"] = keras.losses.MeanSquaredError()
    metrics = {task: [keras.metrics.AUC()] for task in BINARY} if has_metrics else None
    model.compile("adam", losses, metrics=metrics)
    return model


def steps_of(model: Any, x: Arrays, y: Arrays) -> dict[str, Callable[[], Any]]:
    """Return functions that train a model on all batches: by `train_on_batch`, and by `fit`."""
    parts = [slice(start, start + BATCH) for start in range(0, len(y["rating"]), BATCH)]
    batches = [
        tuple({n: a[part] for n, a in arrays.items()} for arrays in (x, y)) for part in parts
    ]

    def train_on_batches() -> None:
        for batch in batches:
            model.train_on_batch(*batch)

    def fit() -> None:
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)

    return {"step": train_on_batches, "fit": fit}


def steps_by_hand(x: Arrays, y: Arrays) -> dict[str, Callable[[], Any]]:
    """Return functions like those of `steps_of` for the network in PyTorch alone."""
    import torch
    from torch import nn
    from torch.nn import functional

    torch.manual_seed(0)
    tables = nn.ModuleList(nn.Embedding(rows, WIDTH) for rows in ROWS)
    first, second = UNITS
    bottom = [nn.Linear(WIDTH * len(ROWS), first), nn.ReLU(), nn.Linear(first, second), nn.ReLU()]
    network = nn.Sequential(*bottom, nn.Linear(second, 1 + len(BINARY)))
    optimizer = torch.optim.Adam([*tables.parameters(), *network.parameters()])
    codes = torch.from_numpy(np.stack([*x.values()])).split(BATCH, dim=1)
    ratings = torch.from_numpy(y["rating"]).split(BATCH)
    binary = torch.from_numpy(np.stack([y[task] for task in BINARY], axis=1)).split(BATCH)

    def train() -> None:
        for columns, rating, labels in zip(codes, ratings, binary, strict=True):
            rows = [table(column) for table, column in zip(tables, columns, strict=True)]
            outputs = network(torch.cat(rows, dim=-1))
            loss = functional.mse_loss(outputs[:, 0], rating)
            for logits, task in zip(outputs[:, 1:].T, labels.T, strict=True):
                loss = loss + functional.binary_cross_entropy_with_logits(logits, task)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return {"step": train, "fit": train}


def measure(models: dict[str, Any], steps: int, rounds: int) -> dict[str, dict[str, Seconds]]:
    """Return the CPU seconds of a step by way and model, in each round. The models take turns."""
    import keras

    x, y = make_data(steps * BATCH)
    complete = {task: np.nan_to_num(labels) for task, labels in y.items()}
    calls = {
        name: steps_of(model, x, y if name in BASELINES else complete)
        for name, model in models.items()
    }
    if keras.backend.backend() == "torch":
        calls[BY_HAND] = steps_by_hand(x, complete)
    found = {}
    for way in ("step", "fit"):
        of_way = {name: of_model[way] for name, of_model in calls.items()}
        seconds = measure_interleaved(of_way, rounds, time.process_time)
        found[way] = {name: [each / steps for each in taken] for name, taken in seconds.items()}
    return found


def format_table(seconds: dict[str, dict[str, Seconds]]) -> str:
    """Return a row for each model."""
    table = [["", "train_on_batch, ms", "of plain", "fit, ms", "of plain"]]
    for name in seconds["step"]:
        row = [name]
        for of_way in seconds.values():
            baseline = "plain, no metrics" if name == BY_HAND else BASELINES.get(name, name)
            ratio = median_ratio(of_way[name], of_way[baseline])
            row += [f"{median_ms(of_way[name]):.2f}", f"{ratio:.2f}"]
        table.append(row)
    return align_columns(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the models in turns, and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=at_least(1), default=50, help="of a turn, default 50")
    parser.add_argument("--rounds", type=at_least(1), default=10, help="default: 10")
    args = parser.parse_args(arguments)
    os.environ.update(ONE_THREAD)
    import keras

    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        torch.set_num_threads(1)
    models = {name: build(name) for pair in BASELINES.items() for name in pair}
    sizes = {sum(np.prod(w.shape) for w in model.trainable_weights) for model in models.values()}
    assert len(sizes) == 1, f"the models must have equal numbers of parameters: {sizes}"
    print(f"Keras {keras.__version__} on {backend}, {sizes.pop():,} parameters, batches of {BATCH}")
    print(format_table(measure(models, args.steps, args.rounds)))


if __name__ == "__main__":
    main()

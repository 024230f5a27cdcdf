"""Measure networks of tables with many columns: an input or a table for each column, or packed.

    KERAS_BACKEND=torch python -m examples.benchmarks.wide_tables  # or jax, tensorflow
    KERAS_BACKEND=torch python -m examples.benchmarks.wide_tables --json results.json

The models are hedged branches [64, 32] for a binary task and a regression, with the default
metrics, on 7,000 random rows in batches of 500. Ids have 2 to 2,000 values. Each branch has its own
tables, of width 8, and Adam trains all other weights. The models have equal numbers of parameters:

    a table per column   a table and an input for each column
    one table            `columns.network(8)`: an input for each column
    packed               `columns.network(8, packed=True)`: one input for ids, one for numbers
    by hand              on PyTorch, for 30 ids: the packed model in plain PyTorch, without metrics,
                         with `nn.Embedding(sparse=True)` and Adagrad for the tables

They take turns in one process with one thread. The table has the CPU seconds of the first epoch,
which includes compilation, the CPU milliseconds of a later epoch in `fit`, and those of
`predict_on_batch` of one row: medians over the rounds, and the median of the ratios, in the same
round, to a table per column. Below are milliseconds of `columns.transform(rows, packed=True)` for
200 numbers. The CPU time is 0.06 hours. Compare only ratios, and only within one
run.
"""

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ._tables import align_columns, make_parser
from ._timing import measure_interleaved, median_ms, median_ratio, start_backend

ROWS, BATCH, WIDTH, UNITS, EPOCHS = 7000, 500, 8, [64, 32], 3  # EPOCHS: of a turn
CASES = {"200 numbers": (0, 200), "10 ids, 30 numbers": (10, 30), "30 ids, 30 numbers": (30, 30)}
FIRST, ONE_TABLE, PACKED, BY_HAND = "a table per column", "one table", "packed", "by hand"
KEYS = ["first_epoch_seconds", "epoch_ms", "epoch_ratio", "one_row_ms", "one_row_ratio"]
Arrays = dict[str, np.ndarray]
Measured = dict[str, dict[str, float]]


def make_rows(ids: int, numbers: int) -> tuple[pd.DataFrame, Any, Arrays]:
    """Return random rows, their fitted columns, and labels."""
    import ple_keras as pk

    rng = np.random.default_rng(0)
    sizes = np.geomspace(2, 2000, ids).astype(int)
    frame = {f"id_{i}": rng.integers(0, size, ROWS) for i, size in enumerate(sizes)}
    frame |= {f"number_{i}": rng.normal(size=ROWS) for i in range(numbers)}
    names = [*frame]
    columns = pk.Columns(names[:ids], names[ids:]).fit(pd.DataFrame(frame))
    y = {"click": rng.integers(0, 2, ROWS), "rating": rng.normal(size=ROWS)}
    return pd.DataFrame(frame), columns, {task: each.astype("float32") for task, each in y.items()}


def network_by_column(columns: Any) -> Any:
    """Return the network that `columns.network` made in version 0.6.0."""
    import keras
    from keras import ops

    import ple_keras as pk

    inputs = {name: keras.Input((), dtype="int32", name=name) for name in columns.ids}
    inputs |= {name: keras.Input((), name=name) for name in columns.numbers}
    sizes = {name: len(columns.known[name]) + 2 for name in columns.ids}  # missing and unknown
    features = [pk.SparseEmbedding(sizes[name], WIDTH)(inputs[name]) for name in sizes]
    values = ops.stack([inputs[name] for name in columns.numbers], axis=-1)
    features.append(ops.minimum(ops.maximum(ops.nan_to_num(values), -5.0), 5.0))
    features.append(ops.cast(ops.isnan(values), "float32"))
    return keras.Model(inputs, keras.layers.Concatenate()(features))


def train_with_keras(network: Any, x: Arrays, y: Arrays) -> tuple[list[Callable], int]:
    """Return functions that train for some epochs and predict one row, and the parameters."""
    import keras

    import ple_keras as pk

    keras.utils.set_random_seed(0)
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.RegressionHead("rating")])
    block = pk.HedgedBlock(heads, UNITS, features=network)
    model = pk.MultiTaskModel(network.input, heads(block(network.input)))
    model.compile(pk.table_optimizer("adam"), hedge=False)
    one = {name: each[:1] for name, each in x.items()}
    size = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    train = partial(model.fit, x, y, BATCH, verbose=0)
    return [lambda epochs: train(epochs=epochs), partial(model.predict_on_batch, one)], size


def train_by_hand(columns: Any, x: Arrays, y: Arrays) -> tuple[list[Callable], int]:
    """Return the same for the packed model in plain PyTorch."""
    import torch
    from torch import nn

    from ._step_pairs import torch_mlp

    torch.manual_seed(0)
    sizes = [len(columns.known[name]) + 2 for name in columns.ids]
    offsets = torch.tensor(np.cumsum([0, *sizes[:-1]]))
    outputs = [2, 1, 1]  # of the shared branch and those of the tasks
    tables = nn.ModuleList(nn.Embedding(sum(sizes), WIDTH, sparse=True) for _ in outputs)
    features = len(sizes) * WIDTH + 2 * len(columns.numbers)
    branches = nn.ModuleList(torch_mlp(features, UNITS, each) for each in outputs)
    optimizers = [torch.optim.Adagrad(tables.parameters()), torch.optim.Adam(branches.parameters())]
    ids, numbers = map(torch.from_numpy, x.values())
    labels = torch.from_numpy(np.stack([*y.values()], axis=1))

    def forward(ids: Any, numbers: Any) -> list[Any]:
        scaled = [numbers.nan_to_num().clamp(-5, 5), numbers.isnan().float()]
        rows = [table(ids + offsets).flatten(1) for table in tables]
        found = zip(branches, rows, strict=True)
        shared, *own = [branch(torch.cat([each, *scaled], dim=1)) for branch, each in found]
        return [shared, torch.cat(own, dim=1)]

    def loss_of(z: Any, y: Any) -> Any:
        loss = nn.functional.binary_cross_entropy_with_logits(z[:, 0], y[:, 0])
        return loss + nn.functional.mse_loss(z[:, 1], y[:, 1])

    def train(epochs: int) -> None:
        for rows in torch.cat([torch.randperm(ROWS) for _ in range(epochs)]).split(BATCH):
            loss = sum(loss_of(z, labels[rows]) for z in forward(ids[rows], numbers[rows]))
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()

    def predict() -> Any:
        with torch.no_grad():
            z = sum(forward(ids[:1], numbers[:1])) / 2
            return z[:, 0].sigmoid().numpy(), z[:, 1].numpy()

    weights = [*tables.parameters(), *branches.parameters()]
    return [train, predict], sum(weight.numel() for weight in weights)


def measure(ids: int, numbers: int, rounds: int, is_by_hand: bool) -> Measured:
    """Return the times of the first epoch, of a later one and of a row, by variant."""
    frame, columns, y = make_rows(ids, numbers)
    x, packed = columns.transform(frame), columns.transform(frame, packed=True)
    made = {
        FIRST: train_with_keras(network_by_column(columns), x, y),
        ONE_TABLE: train_with_keras(columns.network(WIDTH), x, y),
        PACKED: train_with_keras(columns.network(WIDTH, packed=True), packed, y),
        **({BY_HAND: train_by_hand(columns, packed, y)} if is_by_hand else {}),
    }
    assert len({size for _, size in made.values()}) == 1, "equal numbers of parameters"
    results: dict[str, list[float]] = {}
    for name, ((train, _), _) in made.items():
        start = time.process_time()
        train(1)
        results[name] = [time.process_time() - start]
    epochs = {name: partial(train, EPOCHS) for name, ((train, _), _) in made.items()}
    predictions = {name: predict for name, ((_, predict), _) in made.items()}
    for calls, per_call in ((epochs, EPOCHS), (predictions, 1)):
        seconds = measure_interleaved(calls, rounds, time.process_time)
        for name, taken in seconds.items():
            results[name] += [median_ms(taken) / per_call, median_ratio(taken, seconds[FIRST])]
    rounded = {name: [round(value, 4) for value in each] for name, each in results.items()}
    return {name: dict(zip(KEYS, each, strict=True)) for name, each in rounded.items()}


def measure_transform(rounds: int) -> dict[str, float]:
    """Return the milliseconds of a transform of one row and of all, with 200 numbers."""
    frame, columns, _ = make_rows(0, 200)
    rows = {"one row in a list": frame.head(1).to_dict("records"), f"a frame of {ROWS:,}": frame}
    calls = {name: partial(columns.transform, each, packed=True) for name, each in rows.items()}
    seconds = measure_interleaved(calls, rounds, time.process_time)
    return {name: round(median_ms(taken), 3) for name, taken in seconds.items()}


def format_table(case: str, results: Measured) -> str:
    """Return a row for each variant."""
    rows = [[case, "first epoch, s", "epoch, ms", "ratio", "one row, ms", "ratio"]]
    for name, each in results.items():
        rows.append([name, *(f"{each[key]:.{d}f}" for key, d in zip(KEYS, (1, 0, 2, 2, 2)))])
    return align_columns(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the variants in turns, and print a table for each case."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="default: 10")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep results by backend")
    args = parser.parse_args(arguments)
    backend = start_backend()
    measure(1, 1, 1, False)  # starts the backend
    results: dict[str, Any] = {}
    for case, (ids, numbers) in CASES.items():
        results[case] = measure(ids, numbers, args.rounds, backend == "torch" and ids == 30)
        print(format_table(case, results[case]), flush=True)
    results["transform_ms"] = measure_transform(args.rounds)
    for name, each in results["transform_ms"].items():
        print(f"transform of 200 numbers, {name}: {each:.2f} ms")
    if args.json:
        kept = json.loads(args.json.read_text()) if args.json.exists() else {}
        args.json.write_text(json.dumps({**kept, backend: results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

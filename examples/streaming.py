"""Train a PLE from Parquet files with more rows than memory should hold.

    pip install -e ".[jax,examples,ecosystem]"
    KERAS_BACKEND=jax python examples/streaming.py --folder funnel

Takes two minutes on two cores. The rows are impressions of a simulated shop, whose users and items
have latent factors. After an impression, a user can click, put the item into the cart, and purchase
it. `cart` and `watch_time` have a label only after a click, and `purchase` only after the cart.
Missing labels are null in the files, which NumPy reads as NaN. The first run writes the files (51
MB) to the folder, and later runs read them.

Each backend has its own input pipeline: Grain for JAX, tf.data for TensorFlow, a DataLoader for
PyTorch. Several workers read row groups in random order and shuffle windows of ten row groups. The
stream is endless, so `fit` needs `steps_per_epoch`. The script prints the rows per second of the
pipeline alone (if it reads a million rows) and of `fit`, and the resident memory of all processes
after each epoch. On the rows of a held-out file, it prints the AUC and the AUC within users, next
to the scores of the simulation's own probabilities (best).

Before training, a pass over the files fits `Columns`. The workers encode the rows
that they read.

To reuse: `frames`, `RowGroups`, `shuffled_window`, and the stream of your backend.
"""

import argparse
import itertools
import os
import statistics
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

# The file of `Columns` needs NumPy alone: worker processes import it without Keras.
sys.path.append(f"{find_spec('ple_keras').submodule_search_locations[0]}/columns")
from columns import Columns

if __name__ == "__main__":
    import keras

    import ple_keras as pk

    if keras.backend.backend() == "jax":
        import grain

USERS, ITEMS, HOURS, FACTORS = 10_000, 2_000, 24, 4
BINARY = ["click", "cart", "purchase"]
TASKS = [*BINARY, "watch_time"]
IDS, NUMBERS = ["user", "item", "hour"], ["price"]
COLUMNS = [*IDS, *NUMBERS]
FILE_ROWS, GROUP_ROWS, WINDOW_GROUPS = 250_000, 10_000, 10


# The simulated funnel, and its files


def expected(user, item, hour):
    """Return the logits of the binary tasks, the mean watch time and the price."""
    world = np.random.default_rng(0)  # the same users and items for all files
    users, items = (world.normal(size=(n, FACTORS + 1)) for n in (USERS, ITEMS))
    match = users[user, 1:] * items[item, 1:] @ world.normal(size=(FACTORS, len(TASKS)))
    activity, quality, evening = users[user, 0], items[item, 0], np.cos((hour - 20) * np.pi / 12)
    price = 0.6 * quality + 0.8 * world.normal(size=ITEMS)[item]
    return {
        "click": -2.2 + 0.5 * activity + 0.6 * quality + 0.4 * evening + 0.3 * match[:, 0],
        "cart": -1.2 + 0.5 * quality - 0.7 * price + 0.3 * match[:, 1],
        "purchase": -0.3 + 0.5 * activity - 0.5 * price + 0.3 * match[:, 2],
        "watch_time": 0.5 * quality + 0.3 * evening + 0.3 * match[:, 3],
    }, price


def simulate(rows, seed):
    """Return a table of impressions, in which a missing label is null."""
    rng = np.random.default_rng(seed)
    user, hour = rng.integers(0, USERS, rows), rng.integers(0, HOURS, rows)
    item = (ITEMS * rng.random(rows) ** 2).astype(int)  # some items are more popular
    means, price = expected(user, item, hour)
    y = {task: rng.random(rows) < 1 / (1 + np.exp(-means[task])) for task in BINARY}
    y["watch_time"] = means["watch_time"] + rng.normal(size=rows)
    observed = {"click": True, "cart": y["click"], "watch_time": y["click"]}
    observed["purchase"] = y["click"] & y["cart"]
    ids = {"user": user, "item": item, "hour": hour}
    labels = {task: np.where(observed[task], y[task], np.nan) for task in TASKS}
    return pa.table(
        {name: pa.array(values.astype("int32")) for name, values in ids.items()}
        | {"price": pa.array(price.astype("float32"))}
        | {t: pa.array(v.astype("float32"), from_pandas=True) for t, v in labels.items()}
    )


def write_files(folder, rows):
    """Write the files that the folder lacks. Return the paths of all."""
    count = max(4, rows // FILE_ROWS)
    folder = folder / f"{rows}_rows"
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"part-{index:04}.parquet" for index in range(count)]
    for seed, file in enumerate(files, start=1):
        if not file.exists():
            unfinished = file.with_suffix(f".{os.getpid()}.unfinished")
            pq.write_table(simulate(rows // count, seed), unfinished, row_group_size=GROUP_ROWS)
            unfinished.replace(file)
    return files


# The input pipelines


def frames(files):
    """Yield the columns of each row group as a frame."""
    for file in files:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(GROUP_ROWS, columns=COLUMNS):
                yield to_frame(batch)


def to_frame(table):
    return table.to_pandas(integer_object_nulls=True)  # floats don't hold all integers


def labels(table):
    return {task: table[task].to_numpy() for task in TASKS}  # a null is NaN


class RowGroups:
    """The row groups of Parquet files, as `(inputs, labels)` by number.

    One row group is read at a time.
    """

    def __init__(self, files, columns):
        self.columns = columns
        self.places = [
            (file, index)
            for file in files
            for index in range(pq.ParquetFile(file).metadata.num_row_groups)
        ]

    def __len__(self):
        return len(self.places)

    def __getitem__(self, number):
        file, index = self.places[number]
        with pq.ParquetFile(file) as parquet:
            table = parquet.read_row_group(index, use_threads=False)
        return self.columns.transform(to_frame(table)), labels(table)


def shuffled_window(groups):
    """Return the rows of several row groups in random order."""
    rows = sum(len(x["user"]) for x, _ in groups)
    order = np.random.default_rng().permutation(rows)  # workers draw different orders
    columns = (
        {name: np.concatenate([group[place][name] for group in groups])[order] for name in names}
        for place, names in enumerate((COLUMNS, TASKS))
    )
    return tuple(columns)


def grain_stream(groups, batch_size, workers):
    """Return endless batches of a Grain dataset, whose worker processes shuffle windows."""
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # Grain's workers read flags, which absl.app.run would parse
    windows = (
        grain.MapDataset.source(groups)
        .seed(0)  # orders row groups; the rows of a window differ in order in each run
        .shuffle()
        .repeat()
        .batch(WINDOW_GROUPS, batch_fn=shuffled_window)
        # By default, each worker would read 500 windows ahead.
        .to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    )
    batches = grain.experimental.RebatchIterDataset(windows, batch_size)
    return batches.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=4))


def tf_data_stream(groups, batch_size, workers):
    """Return endless batches of a tf.data dataset, whose threads read row groups."""
    import tensorflow as tf

    columns = [tf.TensorSpec((None,), "int32")] * 3 + [tf.TensorSpec((None,), "float32")] * 5

    def read(number):
        values = tf.numpy_function(
            lambda n: [column for arrays in groups[n] for column in arrays.values()],
            [number],
            [spec.dtype for spec in columns],
        )
        values = [tf.ensure_shape(value, spec.shape) for value, spec in zip(values, columns)]
        return dict(zip(COLUMNS, values)), dict(zip(TASKS, values[len(COLUMNS) :]))

    def shuffle_rows(x, y):
        order = tf.random.shuffle(tf.range(tf.shape(x["user"])[0]))
        return tf.nest.map_structure(lambda column: tf.gather(column, order), (x, y))

    numbers = tf.data.Dataset.range(len(groups)).shuffle(len(groups)).repeat()
    windows = (
        numbers.map(read, num_parallel_calls=workers, deterministic=False)
        .rebatch(WINDOW_GROUPS * GROUP_ROWS)
        .map(shuffle_rows)
    )
    return windows.rebatch(batch_size, drop_remainder=True).prefetch(4)


def data_loader_stream(groups, batch_size, workers):
    """Yield endless batches of a DataLoader, whose worker processes shuffle windows."""
    import torch

    def numbers_of_windows():
        order = itertools.chain.from_iterable(
            torch.randperm(len(groups)).tolist() for _ in itertools.count()
        )
        while True:
            yield [*itertools.islice(order, WINDOW_GROUPS)]

    windows = torch.utils.data.DataLoader(
        groups,
        batch_sampler=numbers_of_windows(),
        collate_fn=shuffled_window,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,  # a fork would copy threads' locks
    )
    for x, y in windows:
        for start in range(0, len(x["user"]) - batch_size + 1, batch_size):
            rows = slice(start, start + batch_size)
            yield tuple({name: arrays[name][rows] for name in arrays} for arrays in (x, y))


# The model


def build(columns):
    """Return a compiled PLE. Each stream has a copy of the tables."""
    network = columns.network()
    heads = pk.TaskHeads(
        [
            *(pk.BinaryHead(task, tower=[16], metrics=[]) for task in BINARY),
            pk.RegressionHead("watch_time", tower=[16], metrics=[]),
        ]
    )
    features = pk.StreamFeatures(heads, network)(network.input)
    model = pk.MultiTaskModel(network.input, heads(pk.PLEBlock(2, heads, [32])(features)))
    model.compile(pk.table_optimizer(keras.optimizers.Adam(3e-3)))
    return model


# Measurements


def resident():
    """Return the resident memory of this process and its workers in MB."""
    process = psutil.Process()
    everyone = [process, *process.children(recursive=True)]
    return sum(each.memory_info().rss for each in everyone) / 1e6


def rate_of_pipeline(stream, steps, batch_size):
    """Return the rows per second of a second pass as text, or "-" for less than ten windows.

    Batches that were read ahead hardly affect the second pass, unless it is short.
    """
    if steps * batch_size < 10 * WINDOW_GROUPS * GROUP_ROWS:
        return "-"
    batches = iter(stream)
    for _ in range(2):
        start = time.perf_counter()
        for _ in range(steps):
            next(batches)
    return f"{steps * batch_size / (time.perf_counter() - start):,.0f}"


def fit(model, stream, epochs, steps, batch_size):
    """Train, print a line for each epoch, and return the median rows per second after the first."""
    rates, started = [], [0.0]

    def begin(epoch, logs):
        started[0] = time.perf_counter()

    def end(epoch, logs):
        rates.append(steps * batch_size / (time.perf_counter() - started[0]))
        line = f"epoch {epoch + 1}: loss {logs['loss']:.4f}, {rates[-1]:,.0f} rows/s"
        print(f"{line}, resident memory {resident():,.0f} MB", flush=True)

    progress = keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end)
    options = {"callbacks": [progress], "shuffle": False, "verbose": 0}
    model.fit(stream, steps_per_epoch=steps, epochs=epochs, **options)
    return statistics.median(rates[1:] or rates)


def print_scores(model, file, columns):
    """Print the scores on the rows of a file, next to the scores of the true probabilities."""
    table = pq.read_table(file)
    ids, y = {name: table[name].to_numpy() for name in IDS}, labels(table)
    best, _ = expected(**ids)
    predictions = model.predict(columns.transform(to_frame(table)), batch_size=10_000, verbose=0)
    one_group = np.zeros(len(table), int)
    print(f"\n{len(one_group):,} held-out rows{'labels':>12} {'PLE':>8} {'best':>8}")
    for task in TASKS:
        labeled = np.sum(~np.isnan(y[task]))
        both = (predictions[task][:, 0], best[task])
        if task in BINARY:
            scores = {
                "AUC": [pk.grouped_auc(y[task], each, one_group) for each in both],
                "grouped AUC": [pk.grouped_auc(y[task], each, ids["user"]) for each in both],
            }
        else:
            scores = {"RMSE": [np.sqrt(np.nanmean((y[task] - each) ** 2)) for each in both]}
        for name, (of_model, of_best) in scores.items():
            label = f"{task}, {name}"
            print(f"{label:24} {labeled:9,} {of_model:8.4f} {of_best:8.4f}")


STREAMS = {"jax": grain_stream, "tensorflow": tf_data_stream, "torch": data_loader_stream}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("funnel"), help="funnel by default")
    parser.add_argument("--rows", type=int, default=5_000_000, help="5,000,000 by default")
    parser.add_argument("--batch-size", type=int, default=4000, help="4000 by default")
    parser.add_argument("--steps", type=int, default=100, help="steps per epoch, 100 by default")
    parser.add_argument("--workers", type=int, default=2, help="2 by default")
    args = parser.parse_args()
    largest = min(args.rows // 4, WINDOW_GROUPS * GROUP_ROWS)  # a window holds a batch
    if not 1 <= args.batch_size <= largest:
        parser.error(f"--batch-size must be from 1 to {largest:,} for {args.rows:,} rows")

    held_out, *files = write_files(args.folder, args.rows)
    columns = Columns(IDS, NUMBERS).fit(frames(files), min_rows=2)
    groups = RowGroups(files, columns)
    rows = sum(pq.ParquetFile(file).metadata.num_rows for file in files)
    epochs = max(1, rows // (args.batch_size * args.steps))  # about one pass over the rows
    print(f"{rows:,} rows in {len(files)} files for {epochs} epochs of {args.steps} steps")
    stream = STREAMS[keras.backend.backend()]

    def new_stream():
        return stream(groups, args.batch_size, args.workers)

    print(f"resident memory at the start: {resident():,.0f} MB", flush=True)
    pipeline = rate_of_pipeline(new_stream(), epochs * args.steps, args.batch_size)
    model = build(columns)
    training = fit(model, new_stream(), epochs, args.steps, args.batch_size)
    print(f"input pipeline alone: {pipeline} rows/s; fit: {training:,.0f} rows/s")
    print_scores(model, held_out, columns)


if __name__ == "__main__":
    main()

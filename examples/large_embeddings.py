"""Train a PLE on embedding tables of a million rows, and update only the rows that a batch reads.

    pip install -e ".[tensorflow]"
    KERAS_BACKEND=tensorflow python examples/large_embeddings.py

Takes 5 minutes on two cores with TensorFlow or JAX, and 15 with PyTorch; `--quick` takes one.

Adam updates every row of a table at each step. With `SparseEmbedding` and `table_optimizer`, a step
updates only the rows of the batch.

The data are simulated: users click on items in shops, and can purchase after a click. Each column
has a million ids, some frequent and most never drawn. With a small table, ids share rows. The
script trains four models, and prints the CPU time of a step and the AUC on other rows. Then it
saves and loads the model with large tables and sparse updates.
"""

import argparse
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

import ple_keras as pk

COLUMNS = ("user", "item", "shop")
IDS = 1_000_000
WIDTH = 16
BATCH = 1024
SMALL = 1000  # rows of a small table


def build(way, rows):
    """Return a compiled PLE on three tables."""
    keras.utils.set_random_seed(0)
    embedding = pk.SparseEmbedding if way == "rows" else keras.layers.Embedding
    inputs = {column: keras.Input((), dtype="int32", name=column) for column in COLUMNS}
    features = [embedding(rows, WIDTH, name=f"table_{c}")(ids) for c, ids in inputs.items()]
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.BinaryHead("buy")], name="heads")
    ple = pk.PLEBlock(2, heads, [64, 32], name="ple")
    model = pk.MultiTaskModel(inputs, heads(ple(keras.layers.Concatenate()(features))))
    if way == "rows":
        optimizer = pk.table_optimizer(keras.optimizers.Adam(0.003))
    else:
        optimizer = keras.optimizers.Adam(0.01)
    model.compile(optimizer)
    return model


def make_data(count, seed):
    """Return ids by column, and labels by task. Without a click, "buy" has no label."""
    factors = np.random.default_rng(0).normal(size=(len(COLUMNS), IDS, 2)).astype("float32")
    rng = np.random.default_rng(seed)
    x = {column: (IDS * rng.random(count) ** 6).astype("int32") for column in COLUMNS}
    liking, need = sum(table[ids] for table, ids in zip(factors, x.values(), strict=True)).T
    click = rng.random(count) < sigmoid(1.2 * liking - 1)
    buy = rng.random(count) < sigmoid(need + 0.5 * liking - 1)
    return x, {
        "click": click.astype("float32"),
        "buy": np.where(click, buy, np.nan).astype("float32"),
    }


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def fold(x, rows):
    """Return ids of a table with `rows` rows."""
    return {column: ids % rows for column, ids in x.items()}


def train(model, x, y, rows):
    """Train for an epoch. Return the mean CPU time of a step in ms, without the first three."""
    x, seconds = fold(x, rows), []
    for steps in (slice(0, 3 * BATCH), slice(3 * BATCH, None)):
        ids, labels = ({name: each[steps] for name, each in of.items()} for of in (x, y))
        start = time.process_time()
        model.fit(ids, labels, batch_size=BATCH, shuffle=False, verbose=0)
        seconds.append(time.process_time() - start)
    return 1000 * seconds[1] / (len(y["click"]) // BATCH - 3)


def save_and_load(model, x):
    """Print the largest differences in predictions and in the optimizer state after loading."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.keras"
        model.save(path)
        loaded = keras.models.load_model(path)
        print(f"\nThe file size is {path.stat().st_size / 1e6:.0f} MB.", end=" ")
    before, after = (each.predict(x, batch_size=8192, verbose=0) for each in (model, loaded))
    off = max(np.abs(after[task] - before[task]).max() for task in before)
    pairs = zip(model.optimizer.variables, loaded.optimizer.variables, strict=True)
    state = max(np.abs(keras.ops.convert_to_numpy(a - b)).max() for a, b in pairs)
    print(f"After loading, predictions differ by {off}, and the optimizer state by {state}.")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="10 steps, 20,000 rows")
    is_quick = parser.parse_args().quick
    large, steps, test_rows = (20_000, 10, 5000) if is_quick else (IDS, 195, 50_000)
    cases = [(way, rows) for rows in (SMALL, large) for way in ("plain", "rows")]
    x, y = make_data(steps * BATCH, seed=1)
    x_test, y_test = make_data(test_rows, seed=2)
    print(f"{'backend':12}{'way':8}{'rows':>10}{'step, ms':>10}{'click, AUC':>12}{'buy, AUC':>10}")
    for way, rows in cases:
        model = build(way, rows)
        milliseconds = train(model, x, y, rows)
        scores = model.evaluate(
            fold(x_test, rows), y_test, batch_size=8192, verbose=0, return_dict=True
        )
        print(f"{keras.config.backend():12}{way:8}{rows:10,}{milliseconds:10.1f}", end="")
        print(f"{scores['click_auc']:12.4f}{scores['buy_auc']:10.4f}", flush=True)
    save_and_load(model, fold(x_test, large))


if __name__ == "__main__":
    main()

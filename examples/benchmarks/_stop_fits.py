"""Networks of `stop_rules`, and the predictions of their branches after each epoch."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

import ple_keras as pk

from ._cases import Case
from ._data import Dataset
from ._fits import _alone, learning_rate
from ._networks import (
    NETWORKS,
    Recipe,
    build_block,
    build_network,
    hedged_features,
    scale_shared_gradients,
)
from ._stop_cases import BINARY_TASKS, COUNTS, TABLES, draw, recipe

PEAK = 2e-3  # the highest rate of cases with tables
WIDTH = 16  # of tables
FEW_ROWS = 100  # of the tables that own branches read with `own_ids="few"`
LENGTHS = (1, 2, 4)  # times the epochs of a case
Values = dict[str, dict[str, list[np.ndarray]]]  # by task and branch, of validation and test rows


def new_head(task: str, **kwargs: Any) -> pk.Head:
    """Return the head of a task."""
    if task in COUNTS:
        return pk.Head(task, activation="exponential", loss="poisson", **kwargs)
    return (pk.BinaryHead if task in BINARY_TASKS else pk.RegressionHead)(task, **kwargs)


def build_columns(kind: str, data: Dataset, sizes: Recipe, optimizer: Any) -> Any:
    """Return a compiled network with the tables and experts of the recommender."""
    described = NETWORKS[kind]
    options = {"tower": sizes.tower, "metrics": [], "reduction": described.reduction}
    heads = pk.TaskHeads([new_head(task, **options) for task in data.tasks])
    x = data.train.inputs
    columns = pk.Columns(
        [name for name in x if x[name].ndim == 1 and name in data.cardinalities],
        [name for name in x if name not in data.cardinalities],
        {name: (name, x[name].shape[1]) for name in x if x[name].ndim == 2},
    )
    columns.known = {name: [*range(count)] for name, (count,) in data.cardinalities.items()}
    is_hedged, width = described.block == "hedged", int(WIDTH * described.own_tables)
    own = dict.fromkeys(data.tasks, width) if is_hedged and width else {}
    networks = columns.network({"shared": WIDTH, **own}, sizes.dropout)
    inputs = networks["shared"].input
    features = {stream: network(inputs) for stream, network in networks.items()}
    if described.own_ids != "all":
        fewer, x = fewer_ids(columns, inputs, described.own_ids)
        networks = fewer.network(dict.fromkeys(data.tasks, WIDTH), sizes.dropout)
        features |= {task: network(x) for task, network in networks.items()}
    features = features if own else features["shared"]
    if is_hedged:
        features = hedged_features(described, data.tasks, features, sizes)
        features = scale_shared_gradients(described, features, data)
    else:
        widths = sizes.widths[described.block]
        features = build_block(described, data.tasks, widths, sizes.dropout)(features)
    model = pk.MultiTaskModel(inputs, heads(features))
    model.compile(optimizer, hedge=False)
    return model


def fewer_ids(columns: Any, inputs: dict[str, Any], kind: str) -> tuple[Any, dict[str, Any]]:
    """Return the columns and inputs of own branches with few or hashed ids."""
    rows = {table: len(known) for table, known in columns.known.items()}
    if kind == "few":
        rows = {table: count for table, count in rows.items() if count <= FEW_ROWS}
    else:
        rows = {table: max(1, count // 10) for table, count in rows.items()}
    tables = {name: name for name in columns.ids}
    tables |= {name: table for name, (table, _) in columns.lists.items()}
    tables = {name: table for name, table in tables.items() if table in rows}
    lists = {name: each for name, each in columns.lists.items() if name in tables}
    fewer = pk.Columns([name for name in columns.ids if name in tables], columns.numbers, lists)
    fewer.known = {table: [*range(count)] for table, count in rows.items()}
    # Codes 0 and 1 are missing and unknown values.
    hashed = {name: inputs[name] % (2 + rows[table]) for name, table in tables.items()}
    return fewer, {**{name: inputs[name] for name in columns.numbers}, **hashed}


def build(kind: str, case: Case, decays: bool, data: Dataset, sizes: Recipe) -> Any:
    """Return a compiled network for a case, without metrics."""
    if case.data == TABLES:
        steps = sizes.epochs * -(-len(data.train) // sizes.batch_size)
        rate = keras.optimizers.schedules.CosineDecay(PEAK, steps) if decays else PEAK / 2
        tables = pk.SparseAdagrad(initial_accumulator_value=1e-7)  # of all kept fits
        optimizer = pk.table_optimizer(keras.optimizers.Adam(rate), tables)
        return build_columns(kind, data, sizes, optimizer)
    rate = learning_rate(case.data, kind)
    model = build_network(kind, data, sizes, rate, dict(case.weights), metrics=[])
    if not decays:
        model.compile(keras.optimizers.Adam(rate / 4), hedge=False)
    return model


@dataclass
class Run:
    """The predictions of a trained network's branches after each epoch, and the labels.

    Attributes:
        data: The data.
        weights: Loss weights that are not 1, by task.
        values: Logits, logarithms of counts or predictions, by epoch.
    """

    data: Dataset
    weights: dict[str, float]
    values: list[Values] = field(default_factory=list)


class Snapshots(keras.callbacks.Callback):
    """Callback that keeps the predictions of a model's branches after each epoch."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run, self.parts = run, (run.data.validation, run.data.test)
        self.x = {
            name: np.concatenate([part.inputs[name] for part in self.parts])
            for name in run.data.test.inputs
        }

    def on_train_begin(self, logs: Any = None) -> None:
        self.observed = BranchValues(self.model)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        _ = self.model  # on JAX, this updates the variables
        self.run.values.append(self.predict())

    def predict(self) -> Values:
        """Return the predictions for the validation and test rows."""
        split, rows = [len(self.parts[0])], sum(map(len, self.parts))
        found = self.observed.predict(self.x, batch_size=rows, verbose=0)
        return {
            task: {b: np.split(np.float64(x[:, 0]), split) for b, x in branches.items()}
            for task, branches in found.items()
        }


class BranchValues(keras.Model):
    """Model of the predictions by task and branch, before the activations."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        *_, self.heads = model.layers
        (call,) = self.heads._inbound_nodes
        self.features = keras.Model(model.input, call.arguments.args[0])

    def call(self, inputs: Any) -> Any:
        found, features = {}, self.features(inputs)
        for task, head in self.heads.items():
            x = features[task]
            if head.branches:
                stack = head.branches.value(x, with_branches=True)
                found[task] = {b: stack[i] for i, b in enumerate(head.branches.names, start=1)}
            else:
                found[task] = {"only": head.logits(x)}
        return found


def train(
    kind: str, case: Case, length: int, decays: bool, dropout: float, seed: int
) -> Iterator[Run]:
    """Train a network, or one for each task, and yield the predictions of its branches."""
    data, sizes = draw(case, seed), recipe(case)
    sizes = replace(
        sizes,
        epochs=length * sizes.epochs,
        dropout=dropout,
        input_dropout=dropout if data.cardinalities else 0.0,
    )
    groups = [(data, sizes)]
    if kind == "single":
        groups = [_alone(data, sizes, task) for task in data.tasks]
    for of_group, sizes_of_group in groups:
        keras.utils.set_random_seed(seed)
        model = build(kind, case, decays, of_group, sizes_of_group)
        run = Run(of_group, dict(case.weights))
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

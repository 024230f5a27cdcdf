"""Predictions, losses and training steps of random models equal NumPy's in float64.

The models have a table, a PLEBlock or a HedgedBlock, and heads. Ids are repeated in a batch, and
labels are missing. `STEPS_IN_NUMPY=0:600` runs these seeds.
"""

import os

import keras
import numpy as np
import pytest

import ple_keras as pk
from ple_keras.heads.task_heads import hedged_heads
from tests.helpers import QUICK, numpy_of, randomize
from tests.layers import reference
from tests.models import compiled

keras_rs = pytest.importorskip("keras_rs")
pytestmark = pytest.mark.usefixtures("small_tables_by_rows")

# Others than PyTorch compile each model.
FEW = "11:16" if keras.backend.backend() == "torch" else "11:13"
SEEDS = range(*map(int, os.environ.get("STEPS_IN_NUMPY", FEW).split(":")))
TOLERANCE, ENTRIES = 1e-5, 4  # ENTRIES: of each weight but the table
TABLE_ROWS, RATE, TABLE_RATE, START = 6, 0.02, 0.1, 0.01  # START: of the sums of Adagrad
RANKING = keras_rs.losses.ListMLELoss, keras_rs.losses.PairwiseLogisticLoss


@keras.saving.register_keras_serializable("test_steps_in_numpy")
def fourth_power(y_true, y_pred):
    return keras.ops.mean((y_true - y_pred) ** 4, axis=-1)


LOSSES = "mean_squared_error", "mean_absolute_error", "huber", fourth_power


def random_head(pick, task, may_rank):
    """Return a head, and a function of a generator and a shape to labels."""
    units = pick(1, 3)
    arguments = {
        "tower": pick(None, 2, [3, 2]),
        "loss_weight": pick(1.0, 0.5),
        "reduction": pick(None, "sum_over_batch_size", "label_root"),
    }

    def bits(rng, *shape):
        return rng.integers(0, 2, (*shape, units))

    def indices(rng, *shape):
        return rng.integers(0, 3, shape)

    def numbers(rng, *shape):
        return rng.normal(40, 8, (*shape, units))

    if may_rank and pick(True, False):
        return pk.RankingHead(task, pick(*RANKING)(), **arguments), indices
    kind = pick("binary", "classes", "bits", "soft", "regression", "softplus", "standardized")
    if kind == "binary":
        units = 1
        return pk.BinaryHead(task, pos_weight=pick(None, 3.0), **arguments), bits
    if kind == "classes":
        return pk.MulticlassHead(task, num_classes=3, **arguments), indices
    if kind == "bits":
        return pk.Head(task, units, "sigmoid", "binary_crossentropy", **arguments), bits
    if kind == "soft":
        units = 3
        return pk.Head(task, units, "softmax", "categorical_crossentropy", **arguments), bits
    if kind == "standardized":
        arguments |= {"standardize": True, "mean": [40.0] * units, "deviation": [8.0] * units}
        return pk.RegressionHead(task, units=units, loss=pick(*LOSSES), **arguments), numbers
    arguments["activation"] = "softplus" if kind == "softplus" else None
    return pk.RegressionHead(task, units=units, loss=pick(*LOSSES), **arguments), bits


class Case:
    """A random model, its parts and its batches."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)

        def pick(*values):
            return values[rng.integers(len(values))]

        shape = pick((5,), (3, 4))  # rows, or lists of items
        self.is_hedged = pick(True, False)
        tasks = ["a", "b", "c"][: pick(1, 2, 3)]
        may_rank = len(shape) > 1 and not self.is_hedged
        heads, labels = zip(*(random_head(pick, task, may_rank) for task in tasks))
        self.heads, self.table = pk.TaskHeads(heads), pk.SparseEmbedding(TABLE_ROWS, 2)
        expert = pk.ExpertBlock(pick([3], [3, 2]))
        options = {"gate_softmax_temperature": pick(1.0, 0.5), "gate_block": pick(None, 2)}
        counts = pick(1, 2), pick(1, 2)
        self.block = pk.PLEBlock(pick(1, 2), tasks, expert, *counts, **options)
        if self.is_hedged:
            self.block = pk.HedgedBlock(tasks, expert)
        inputs = {c: keras.Input(shape[1:], dtype="int32", name=c) for c in ("user", "item")}
        rows = keras.layers.Concatenate()([self.table(inputs[c]) for c in inputs])
        self.model = pk.MultiTaskModel(inputs, self.heads(self.block(rows)))
        randomize(self.model, seed)
        self.multipliers = {task: pick(1.0, 2.0, 0.5, 0.0) for task in tasks}
        self.heads.multiply_loss_weights(self.multipliers)
        for task in tasks if self.is_hedged else ():
            share = rng.uniform()
            hedged_heads(self.heads)[task].mixture.assign([share, 1 - share])
        self.batches = []
        for _ in range(2):
            x = {c: rng.integers(0, TABLE_ROWS, shape).astype("int32") for c in inputs}
            y = {t: np.float32(make(rng, *shape)) for t, make in zip(tasks, labels)}
            for task, of in y.items():
                y[task] = np.where(rng.random(of.shape) < pick(0.2, 0.7), np.nan, of)
            self.batches.append((x, y))

    def predictions(self, x, values):
        """Return the result of `reference.prediction` for each task."""
        table = values[self.table.embeddings.path]
        rows = np.concatenate([table[x["user"]], table[x["item"]]], axis=-1)
        if self.is_hedged:
            features = reference.hedged(self.block, rows, values)
        else:
            features, _ = reference.ple(self.block, rows, values=values)
        heads = {**dict(self.heads.items()), **hedged_heads(self.heads)}
        return {t: reference.prediction(heads[t], features[t], values) for t in heads}

    def loss(self, x, y, values, trained=False):
        """Return the loss, or the loss whose gradient trains the model."""
        total = 0.0
        for task, (prediction, branches) in self.predictions(x, values).items():
            head = self.heads[task]
            weight, reduction = head.loss_weight * self.multipliers[task], head.reduction
            if trained and self.is_hedged:
                weight, reduction = float(weight > 0), "label_root"
            for each in branches if trained and self.is_hedged else [prediction]:
                losses = reference.losses(head, y[task], each, values)
                total += weight * reference.reduced(losses, reduction)
        return total


def differences(seed):
    """Return the largest differences from NumPy, relative to numbers above 1."""
    case, rng = Case(seed), np.random.default_rng(seed)
    optimizer = pk.table_optimizer(keras.optimizers.SGD(RATE), pk.SparseAdagrad(TABLE_RATE, START))
    compiled(case.model, optimizer, **QUICK)
    found = {"predictions": 0.0, "losses": 0.0, "weights": 0.0}
    sums = np.full(case.table.embeddings.shape, START)

    def compare(kind, actual, expected):
        gaps = np.abs(actual - expected) / np.maximum(1, np.abs(expected))
        found[kind] = np.maximum(found[kind], np.max(gaps))  # or NaN

    for x, y in case.batches:
        values = reference.values_of(case.model)
        for task, prediction in numpy_of(case.model(x)).items():
            compare("predictions", prediction, case.predictions(x, values)[task][0])
        expected = {}
        for path in [weight.path for weight in case.model.trainable_weights]:
            array, is_table = values[path], path == case.table.embeddings.path
            entries = rng.permutation(array.size)[: None if is_table else ENTRIES]
            for index in zip(*np.unravel_index(entries, array.shape)):
                slope = reference.derivative(lambda: case.loss(x, y, values, True), array, index)  # noqa: B023
                if is_table:
                    sums[index] += slope**2
                step = TABLE_RATE / np.sqrt(sums[index]) if is_table else RATE
                expected[path, index] = array[index] - step * slope
        case.model.reset_metrics()
        logs = case.model.train_on_batch(x, y, return_dict=True)
        compare("losses", float(logs["loss"]), case.loss(x, y, values))
        after = reference.values_of(case.model)
        for (path, index), weight in expected.items():
            compare("weights", after[path][index], weight)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_random_models_have_the_steps_of_numpy(seed):
    found = differences(seed)
    assert all(difference < TOLERANCE for difference in found.values()), found

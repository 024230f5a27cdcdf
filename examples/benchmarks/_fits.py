"""Fits of `never_worse`: training and scoring of a network, and the file that keeps the results."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

import ple_keras as pk
from ple_keras.heads.task_heads import hedged_heads

from ._cases import Case
from ._data import Arrays, Dataset
from ._networks import (
    BINARY,
    MIXTURES,
    NETWORKS,
    WITHOUT_TABLES,
    Recipe,
    build_network,
    count_parameters,
)

DEFAULT_ROWS = {"census": 60_000, "synthetic": 24_000}
EVALUATION_BATCH = 8192
CANDIDATES = (0.0025, 0.005, 0.01, 0.02, 0.04)
STEEP_CANDIDATES = (0.01, 0.03, 0.1, 0.3, 1.0)  # of Adagrad and SGD
# The best candidates with a seed that no other fit uses. Other networks use their base's rate.
RATES: dict[str, dict[str, float]] = {
    "single": {"census": 0.02, "synthetic": 0.04},
    "bottom": {"census": 0.005, "synthetic": 0.02},
    "mmoe": {"census": 0.01, "synthetic": 0.02},
    "mmoe-levels": {"census": 0.02, "synthetic": 0.01},
    "cgc": {"census": 0.01, "synthetic": 0.01},
    "ple": {"census": 0.01, "synthetic": 0.02},
    "ple-isolated": {"census": 0.01, "synthetic": 0.02},
    "cgc-streams": {"census": 0.01},
    "ple-streams": {"census": 0.02},
    "hedged": {"census": 0.005, "synthetic": 0.02},
    "hedged-bottoms": {"census": 0.02, "synthetic": 0.04},
    "hedged-ple": {"census": 0.01, "synthetic": 0.02},
    "hedged-quarter": {"census": 0.01},
    "hedged-stopped": {"census": 0.02},
    "single-pair": {"census": 0.04, "synthetic": 0.04},
    "single-adamw": {"synthetic": 0.02},
    "bottom-adamw": {"synthetic": 0.02},
    "hedged-adamw": {"synthetic": 0.04},
    "single-adagrad": {"synthetic": 0.3},
    "bottom-adagrad": {"synthetic": 0.3},
    "hedged-adagrad": {"synthetic": 0.3},
    "single-sgd": {"synthetic": 0.3},
    "bottom-sgd": {"synthetic": 0.3},
    "hedged-sgd": {"synthetic": 0.3},
}
Record = dict[str, Any]


class Score(keras.callbacks.Callback):
    """Callback that logs a weighted sum of metrics, `{key of logs: weight}`, as `val_mtl_score`."""

    def __init__(self, weights: dict[str, float]) -> None:
        super().__init__()
        self.weights = weights

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        terms = [weight * float(logs[key]) for key, weight in self.weights.items()]
        logs["val_mtl_score"] = sum(terms)


def candidates(kind: str) -> tuple[float, ...]:
    """Return the learning rates to compare for a network."""
    return STEEP_CANDIDATES if NETWORKS[kind].optimizer in ("Adagrad", "SGD") else CANDIDATES


def learning_rate(data: str, kind: str) -> float:
    """Return the learning rate of a network on "census" or "synthetic" data."""
    of_kind = RATES.get(kind, {})
    if data not in of_kind:
        equal = WITHOUT_TABLES.get(kind, "") if data == "synthetic" else ""
        return learning_rate(data, equal or NETWORKS[kind].base)
    return of_kind[data]


@dataclass(frozen=True)
class Fit:
    """Training of one model on one case with one seed.

    Attributes:
        case: The case.
        kind: A key of `NETWORKS`.
        seed: Seed of the model, and of the data if the case draws them.
        rate: A learning rate that replaces the result of `learning_rate`, or None.
        rows: The number of training rows, or None for the default of the data.
        epochs: The number of epochs, or None for the number in the recipe.
        validation: The number of validation rows, or None for all.
    """

    case: Case
    kind: str
    seed: int
    rate: float | None = None
    rows: int | None = None
    epochs: int | None = None
    validation: int | None = None

    @property
    def key(self) -> str:
        """Name of the fit in a file of results. Equal fits of several cases have one name."""
        words = [self.case.setting, self._case_name, self._trained_kind, f"seed {self.seed}"]
        options = ("rows", "epochs", "rate", "validation")
        words += [f"{name} {getattr(self, name):g}" for name in options if getattr(self, name)]
        return " | ".join(words)

    @property
    def mixture(self) -> str:
        """Name of the mixture of branches that is scored with the trained network, or ""."""
        network = NETWORKS[self.kind]
        return network.mixture if network.base else ""

    @property
    def _case_name(self) -> str:
        network = NETWORKS[self.kind]
        if self.case.alone and network.is_alone:
            return self.case.alone
        if self.case.weights and network.block == "hedged":
            return f"{self.case.group}, any weight"  # loss weights do not change these fits
        return self.case.name

    @property
    def _trained_kind(self) -> str:
        network = NETWORKS[self.kind]
        is_base = network.reduction and not self.case.has_missing_labels
        kind = network.base if self.mixture or is_base else self.kind
        return kind if self.case.data == "census" else WITHOUT_TABLES.get(kind, kind)

    def run(self) -> Record:
        """Return the metrics on the test rows, the numbers of parameters and the seconds."""
        case, kind = self.case, self._trained_kind
        dataset = case.draw(self.rows or DEFAULT_ROWS[case.data], self.seed)
        if self.validation:
            order = np.random.default_rng([self.seed, 4]).permutation(len(dataset.validation))
            validation = dataset.validation.take(order[: self.validation])
            dataset = replace(dataset, validation=validation)
        recipe = replace(case.recipe, epochs=self.epochs or case.recipe.epochs)
        rate = self.rate or learning_rate(case.data, self.kind)
        if NETWORKS[kind].is_alone:
            alone = [_alone(dataset, recipe, task) for task in case.tasks]
            return _join([train(kind, *each, rate, self.seed, case) for each in alone])
        try:
            return train(kind, dataset, recipe, rate, self.seed, case)
        except ValueError as error:
            if "must be finite to fit its mixture" not in str(error):
                raise
            return {"test": {}, "seconds": 0.0, "validation": -math.inf}  # the training diverged


def _alone(dataset: Dataset, recipe: Recipe, task: str) -> tuple[Dataset, Recipe]:
    """Return the data and the recipe of one task.

    With few labels, an epoch goes through the labeled rows several times in small batches, so that
    it has as many steps as an epoch of all rows.
    """
    dataset = dataset.with_tasks([task])
    labeled = np.flatnonzero(~np.isnan(dataset.train.labels[task]))
    if len(labeled) == len(dataset.train):
        return dataset, recipe
    steps = -(-len(dataset.train) // recipe.batch_size)
    batch_size = min(recipe.batch_size, max(32, len(labeled) // 10))
    repeated = dataset.train.take(labeled[np.arange(steps * batch_size) % len(labeled)])
    return replace(dataset, train=repeated), replace(recipe, batch_size=batch_size)


def _join(records: list[Record]) -> Record:
    """Return the record of a model that consists of several networks."""
    sums = ("seconds", "parameters", "embeddings", "validation")
    joined = {key: round(sum(record[key] for record in records), 6) for key in sums}
    return {"test": {k: x for record in records for k, x in record["test"].items()}, **joined}


def train(
    kind: str, dataset: Dataset, recipe: Recipe, rate: float, seed: int, case: Case
) -> Record:
    """Train a network for all tasks of the data, and return its record.

    It keeps the weights of the epoch with the best sum of the validation metrics of the measured
    tasks. One epoch is chosen for all tasks: an epoch per task would result in one model per task.
    """
    start, network = time.perf_counter(), NETWORKS[kind]
    keras.utils.set_random_seed(seed)
    model = build_network(kind, dataset, recipe, rate, dict(case.weights))
    validation = dataset.validation.inputs, dataset.validation.labels
    # With one task, the keys of logs do not contain it.
    prefix = (lambda task: "val_") if len(dataset.tasks) == 1 else (lambda task: f"val_{task}_")
    measured = [task for task in dataset.tasks if task in case.tasks]
    signs = {f"{prefix(task)}{metric_name(task)}": 1 if task in BINARY else -1 for task in measured}
    best = keras.callbacks.EarlyStopping(
        "val_mtl_score", mode="max", patience=recipe.epochs, restore_best_weights=True
    )
    is_fitted = network.block == "hedged" and not network.mixture
    last_epoch = pk.FitHedge(validation, EVALUATION_BATCH, restore_best_weights=False)
    hedge = [last_epoch] if is_fitted else []
    history = model.fit(
        dataset.train.inputs,
        dataset.train.labels,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        validation_data=validation,
        validation_batch_size=EVALUATION_BATCH,
        callbacks=[*hedge, Score(signs), best],
        verbose=0,
    ).history
    parameters, embeddings = count_parameters(model)
    record: Record = {
        "test": score(dataset, predict(model, dataset), 6),
        "parameters": parameters,
        "embeddings": embeddings,
        "validation": round(max(history["val_mtl_score"]), 6),
    }
    if is_fitted:
        record["hedge"] = {
            task: {branch: round(a, 2) for branch, a in of_task.items()}
            for task, of_task in model.layers[-1].branch_weights().items()
        }
        record["mixtures"] = {
            mixture: score(dataset, predictions, 5)
            for mixture, predictions in other_mixtures(kind, model, dataset)
        }
    keras.utils.clear_session(free_memory=False)  # garbage collection took a quarter of a small fit
    return {**record, "seconds": round(time.perf_counter() - start, 1)}


def other_mixtures(kind: str, model: keras.Model, dataset: Dataset) -> Iterator[tuple[str, Arrays]]:
    """Yield other mixtures of the branches of a trained network, and their test predictions.

    "equal" has equal weights, "train" is fitted on the training rows, and any other has one branch.
    """
    hedged = hedged_heads(model)
    names = next(iter(hedged.values())).branch_names
    for mixture in [net.mixture for net in MIXTURES.values() if net.base == kind]:
        if mixture == "train":
            pk.fit_hedge(model, dataset.train.inputs, dataset.train.labels, EVALUATION_BATCH)
        else:
            weights = [1 / len(names) if mixture == "equal" else mixture == b for b in names]
            for each in hedged.values():
                each.mixture.assign(np.array(weights, "float32"))
        yield mixture, predict(model, dataset)


def predict(model: keras.Model, dataset: Dataset) -> Arrays:
    """Return the predictions for the test rows, by task."""
    predictions = model.predict(dataset.test.inputs, batch_size=EVALUATION_BATCH, verbose=0)
    return {task: predictions[task][:, 0] for task in dataset.tasks}


def metric_name(task: str) -> str:
    """Return the name of a task's metric in logs and records."""
    return "auc" if task in BINARY else "mean_squared_error"


def score(dataset: Dataset, predictions: Arrays, digits: int) -> dict[str, float]:
    """Return the AUC of binary tasks, and the squared error over the variance of the labels."""
    from sklearn.metrics import roc_auc_score

    scores = {}
    for task, predicted in predictions.items():
        y = dataset.test.labels[task]
        if task in BINARY:
            value = roc_auc_score(y, predicted)
        else:
            value = np.mean((y - predicted) ** 2) / np.var(y)
        scores[f"{task}_{metric_name(task)}"] = round(float(value), digits)
    return scores


class Store:
    """Finished fits in a file, to which new ones are added.

    Args:
        path: A JSON file, which can be missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        new = {"versions": {"keras": keras.version(), "backend": keras.backend.backend()}}
        kept = json.loads(path.read_text()) if path.exists() else {**new, "fits": {}}
        self._versions: dict[str, str] = kept["versions"]
        self._fits: dict[str, Record] = kept["fits"]

    def __contains__(self, fit: Fit) -> bool:
        return fit.key in self._fits

    def __getitem__(self, fit: Fit) -> Record:
        record = self._fits[fit.key]
        return {**record, "test": record["mixtures"][fit.mixture]} if fit.mixture else record

    def add(self, fit: Fit, record: Record) -> None:
        """Add a fit and write the file."""
        self._fits[fit.key] = record
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in self._fits.items()]
        text = f'{{\n "versions": {json.dumps(self._versions)},\n "fits": {{\n'
        partial = self._path.with_suffix(".partial")
        partial.write_text(text + ",\n".join(lines) + "\n }\n}\n")
        partial.replace(self._path)


def run(fits: list[Fit], store: Store) -> None:
    """Run the fits that the store lacks. Print the result of each."""
    missing = list({fit.key: fit for fit in fits if fit not in store}.values())
    for done, fit in enumerate(missing, start=1):
        store.add(fit, fit.run())
        scores = ", ".join(f"{name} {x:.4f}" for name, x in store[fit]["test"].items())
        print(f"[{done}/{len(missing)}] {fit.key}: {scores}", flush=True)

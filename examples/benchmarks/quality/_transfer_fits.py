"""Fits of the benchmark of negative transfer, and the file that keeps them."""

import json
import math
import platform
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
from _data import labeled_rows, take_rows
from _networks import ALL_NETWORKS, WITHOUT_TABLES
from _training import Result, Setting, train_networks, train_trees
from _transfer_cases import Case
from _transfer_rates import learning_rate

DEFAULT_ROWS = {"census": 60_000, "synthetic": 24_000}
Record = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """Sizes of the fits. None takes the default of the data."""

    rows: int | None = None
    epochs: int | None = None


@dataclass(frozen=True)
class Fit:
    """Training of one model on one case with one seed.

    Attributes:
        case: The case.
        kind: A key of `ALL_NETWORKS`, or "trees".
        seed: Seed of the model, and of the data if the case draws them.
        sizes: Sizes from the command line.
        rate: A learning rate that replaces that of `learning_rate`.
    """

    case: Case
    kind: str
    seed: int
    sizes: Sizes
    rate: float | None = None

    @property
    def key(self) -> str:
        """Name of the fit in a file of results. Equal fits of several cases have one name."""
        parts = [self.case.setting, self._case_name, self._kind, f"seed {self.seed}"]
        parts += [f"{name} {value}" for name, value in vars(self.sizes).items() if value]
        return " | ".join([*parts, *([f"rate {self.rate:g}"] if self.rate else [])])

    @property
    def mixture(self) -> str:
        """Name of the mixture of branches that is scored with the trained network, or ""."""
        network = ALL_NETWORKS.get(self.kind)
        return network.mixture if network and network.base else ""

    @property
    def _case_name(self) -> str:
        network = ALL_NETWORKS.get(self.kind)
        if self.case.alone and (network is None or network.is_alone):
            return self.case.alone
        if self.case.weights and network and network.block == "hedged":
            return f"{self.case.group}, any weight"  # loss weights do not change these fits
        return self.case.name

    @property
    def _kind(self) -> str:
        network = ALL_NETWORKS.get(self.kind)
        is_base = network and network.reduction and not self.case.has_missing_labels
        kind = network.base if self.mixture or is_base else self.kind
        return kind if self.case.data == "census" else WITHOUT_TABLES.get(kind, kind)

    def run(self) -> Record:
        """Return the metrics on the test rows, the numbers of parameters and the seconds."""
        setting = self.case.draw(self.sizes.rows or DEFAULT_ROWS[self.case.data], self.seed)
        if self.kind == "trees":
            return _record(train_trees(_with_tasks(setting, self.case.tasks), self.seed, False))
        rate = self.rate or learning_rate(self.case.data, self.kind)
        recipe = replace(setting.recipe, learning_rate=rate).with_overrides(self.sizes.epochs, None)
        setting = replace(setting, recipe=recipe)
        if ALL_NETWORKS[self._kind].is_alone:
            networks = [_alone(setting, task) for task in self.case.tasks]
            return _record(*(_train(self._kind, network, self.seed) for network in networks))
        try:
            return _record(_train(self._kind, setting, self.seed))
        except ValueError as error:
            if "must be finite to fit its mixture" not in str(error):
                raise
            return {"test": {}, "seconds": 0.0, "validation": -math.inf}  # the training diverged


def _train(kind: str, setting: Setting, seed: int) -> Result:
    return train_networks(
        kind, [setting.dataset.tasks], setting, seed, show_epochs=False, score_mixtures=True
    )


def _with_tasks(setting: Setting, tasks: list[str]) -> Setting:
    """Return the setting with some of the tasks."""
    dataset = setting.dataset
    train, validation, test = (
        replace(part, labels={task: part.labels[task] for task in tasks})
        for part in (dataset.train, dataset.validation, dataset.test)
    )
    metrics = [metric for metric in setting.metrics if metric.task in tasks]
    dataset = replace(dataset, train=train, validation=validation, test=test)
    return replace(setting, dataset=dataset, metrics=metrics)


def _alone(setting: Setting, task: str) -> Setting:
    """Return the setting of one task.

    With few labels, an epoch goes through the labeled rows several times in small batches, so that
    it has as many steps as an epoch of all rows.
    """
    setting = _with_tasks(setting, [task])
    all_rows, labeled = setting.dataset.train, labeled_rows(setting.dataset.train, [task])
    if len(labeled) == len(all_rows):
        return setting
    steps = -(-len(all_rows) // setting.recipe.batch_size)
    batch_size = min(setting.recipe.batch_size, max(32, len(labeled) // 10))
    repeated = take_rows(labeled, np.arange(steps * batch_size) % len(labeled))
    return replace(
        setting,
        dataset=replace(setting.dataset, train=repeated),
        recipe=setting.recipe.with_overrides(None, batch_size),
    )


def _record(*results: Result) -> Record:
    """Return the record of one model, which may be several networks."""
    test = {name: round(x, 6) for result in results for name, x in result.test.items()}
    record: Record = {"test": test, "seconds": round(sum(r.seconds for r in results), 1)}
    if results[0].parameters is not None:
        record["parameters"] = sum(result.parameters or 0 for result in results)
        record["embeddings"] = sum(result.embeddings for result in results)
        scores = [max(h["val_mtl_score"]) for result in results for h in result.history]
        record["validation"] = round(sum(scores), 6)
    for result in results:
        if result.mixtures:
            record["mixtures"] = {
                mixture: {name: round(x, 5) for name, x in test.items()}
                for mixture, test in result.mixtures.items()
            }
        if result.hedge:
            record["hedge"] = {
                task: {branch: round(a, 2) for branch, a in weights.items()}
                for task, weights in result.hedge.items()
            }
    return record


class Store:
    """Finished fits in files. New ones are added to the first file.

    Args:
        paths: JSON files. They may be missing.
    """

    def __init__(self, paths: list[Path]) -> None:
        self._path = paths[0] if paths else None
        self._fits: dict[str, Record] = {}
        for path in reversed(paths):
            self._own = json.loads(path.read_text())["fits"] if path.exists() else {}
            self._fits |= self._own

    def __contains__(self, fit: Fit) -> bool:
        return fit.key in self._fits

    def __getitem__(self, fit: Fit) -> Record:
        record = self._fits[fit.key]
        return {**record, "test": record["mixtures"][fit.mixture]} if fit.mixture else record

    def add(self, fit: Fit, record: Record) -> None:
        """Add a fit and write the file."""
        self._fits[fit.key] = record
        if self._path is None:
            return
        self._own[fit.key] = record
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in self._own.items()]
        text = f'{{\n "versions": {json.dumps(versions())},\n "fits": {{\n'
        partial = self._path.with_suffix(".partial")
        partial.write_text(text + ",\n".join(lines) + "\n }\n}\n")
        partial.replace(self._path)


def versions() -> dict[str, str]:
    """Return the versions of the packages and of Python."""
    backend = keras.backend.backend()
    packages = ["keras", backend, "numpy", "scikit-learn"]
    found = {name: version(name) for name in packages if name != "tensorflow"}
    return {"backend": backend, "python": platform.python_version(), **found}


def run(fits: list[Fit], store: Store) -> None:
    """Run the fits that the store lacks. Print the result of each and the time left."""
    missing = list({fit.key: fit for fit in fits if fit not in store}.values())
    start = time.perf_counter()
    for done, fit in enumerate(missing, start=1):
        store.add(fit, fit.run())
        left = (time.perf_counter() - start) / done * (len(missing) - done) / 60
        scores = ", ".join(f"{name} {x:.4f}" for name, x in store[fit]["test"].items())
        print(f"[{done}/{len(missing)}, {left:.0f} min left] {fit.key}: {scores}", flush=True)

"""Train models on a data set, score them on its test rows, and keep what came out."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
from _data import Arrays, Dataset, Split, labelled
from _metrics import Metric, judging, listed
from _networks import MODELS, Recipe, build_network

import ple_keras as pk

EVALUATION_BATCH = 8192


@dataclass(frozen=True)
class Setting:
    """What the models are compared on.

    Attributes:
        dataset: The data.
        metrics: What they are judged by, and what is reported beside it.
        head: From a task's name and tower to its head.
        trees: From a task and a seed to a scikit-learn model.
        recipe: How the networks are made and trained.
    """

    dataset: Dataset
    metrics: list[Metric]
    head: Callable[..., pk.Head]
    trees: Callable[[str, int], Any]
    recipe: Recipe


@dataclass
class Result:
    """What one model did with one seed.

    Attributes:
        model: The model's name.
        seed: Its seed.
        parameters: The number of its trainable parameters; None for trees.
        test: The metrics on the test rows, by task and key: `income_auc`.
        seconds: How long building, training and predicting took.
        history: Keras's logs by epoch, one history a network.
        best_epochs: The epoch, from 1, that each network's weights are from.
        predictions: Of the test rows, by task.
    """

    model: str
    seed: int
    parameters: int | None
    test: dict[str, float]
    seconds: float
    history: list[dict[str, list[float]]] = field(default_factory=list)
    best_epochs: list[int] = field(default_factory=list)
    predictions: Arrays = field(default_factory=dict, repr=False)


class PrintProgress(keras.callbacks.Callback):
    """Prints a line an epoch."""

    def __init__(self, label: str, metrics: list[Metric], tasks: list[str]) -> None:
        super().__init__()
        self.label, self.metrics, self.tasks = label, metrics, tasks

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        values = [float((logs or {})[m.log_key(self.tasks)]) for m in self.metrics]
        print(
            f"{self.label}, epoch {epoch + 1}/{self.params['epochs']}: "
            f"val {listed(self.metrics, values)}, {time.perf_counter() - self.start:.0f} s",
            flush=True,
        )


def compare(models: list[str], seeds: int, setting: Setting) -> list[Result]:
    """Train and score every model with every seed."""
    tasks = setting.dataset.tasks
    results = []
    for seed in range(seeds):
        for kind in models:
            if kind == "trees":
                results.append(train_trees(setting, seed))
                continue
            groups = [[task] for task in tasks] if kind == "single" else [tasks]
            results.append(train_networks(kind, groups, setting, seed))
    return results


def train_networks(
    kind: str, task_groups: list[list[str]], setting: Setting, seed: int, name: str | None = None
) -> Result:
    """Train a network for each group of tasks and score them together.

    A network trains on the rows that have a label of any of its tasks, and keeps the weights of
    the epoch with the best sum of its tasks' validation metrics. One epoch serves every task: one
    a task would be as many models.

    Args:
        kind: The networks' kind, a key of `MODELS`.
        task_groups: All tasks in one group for a multi-task model, one a group for single tasks.
        setting: What to train on, and how.
        seed: Seed of the weights, the order of the rows and the dropout.
        name: The model's name, that of its kind by default.
    """
    start = time.perf_counter()
    dataset, recipe = setting.dataset, setting.recipe
    result = Result(name or MODELS[kind], seed, 0, {}, 0.0)
    for tasks in task_groups:
        keras.utils.set_random_seed(seed)
        own = replace(dataset, train=labelled(dataset.train, tasks))
        model = build_network(kind, tasks, own, setting.head, recipe)
        metrics = [metric for metric in judging(setting.metrics) if metric.task in tasks]
        of_task = f" ({tasks[0]})" if len(task_groups) > 1 else ""
        progress = PrintProgress(f"{result.model}{of_task}, seed {seed}", metrics, tasks)
        best = _keep_best(recipe.epochs)
        history = model.fit(
            own.train.inputs,
            _labels(own.train, tasks),
            batch_size=recipe.batch_size,
            epochs=recipe.epochs,
            validation_data=(own.validation.inputs, _labels(own.validation, tasks)),
            validation_batch_size=EVALUATION_BATCH,
            callbacks=[_score(metrics, tasks), best, progress],
            verbose=0,
        )
        predictions = model.predict(dataset.test.inputs, batch_size=EVALUATION_BATCH, verbose=0)
        result.predictions |= {task: predictions[task][:, 0] for task in tasks}
        result.parameters += sum(int(np.prod(w.shape)) for w in model.trainable_weights)
        result.history.append({key: [float(v) for v in x] for key, x in history.history.items()})
        result.best_epochs.append(best.best_epoch + 1)
        keras.utils.clear_session()
    return _scored(result, setting, start)


def train_trees(setting: Setting, seed: int) -> Result:
    """Fit one scikit-learn model a task, on the rows that have a label of it."""
    start = time.perf_counter()
    dataset = setting.dataset
    result = Result(MODELS["trees"], seed, None, {}, 0.0)
    for task in dataset.tasks:
        train = labelled(dataset.train, [task])
        model = setting.trees(task, seed).fit(tree_inputs(train), train.labels[task])
        predict = getattr(model, "predict_proba", model.predict)
        predictions = predict(tree_inputs(dataset.test))
        result.predictions[task] = predictions[:, 1] if predictions.ndim > 1 else predictions
    result = _scored(result, setting, start)
    metrics = judging(setting.metrics)
    scores = listed(metrics, [result.test[metric.full_key] for metric in metrics])
    print(f"{result.model}, seed {seed}: test {scores}, {result.seconds:.0f} s", flush=True)
    return result


def tree_inputs(split: Split) -> np.ndarray:
    """The categories and numbers side by side: trees find bins of their own."""
    names = [name for name in ("categories", "numbers") if name in split.inputs]
    return np.concatenate([split.inputs[name] for name in names], axis=1, dtype="float32")


def _keep_best(epochs: int) -> keras.callbacks.EarlyStopping:
    """Puts the weights of the best epoch back when training ends, which it does not hasten."""
    return keras.callbacks.EarlyStopping(
        "val_mtl_score", mode="max", patience=epochs, restore_best_weights=True
    )


def _score(metrics: list[Metric], tasks: list[str]) -> pk.MultiTaskScore:
    return pk.MultiTaskScore({m.log_key(tasks): m.sign * m.weight for m in metrics})


def _labels(split: Split, tasks: list[str]) -> Arrays:
    return {task: split.labels[task] for task in tasks}


def _scored(result: Result, setting: Setting, start: float) -> Result:
    labels = setting.dataset.test.labels
    result.test = {
        metric.full_key: metric.of(labels[metric.task], result.predictions[metric.task])
        for metric in setting.metrics
    }
    result.seconds = time.perf_counter() - start
    return result

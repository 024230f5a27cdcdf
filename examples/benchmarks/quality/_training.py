"""Training and scoring of several models on one data set."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
from _compiled_networks import compiled_like
from _data import Arrays, Dataset, Split, labeled_rows
from _metrics import Metric, format_values, selection_metrics
from _networks import ALL_NETWORKS, MIXTURES, TREES, Recipe, build_network, count_parameters

import ple_keras as pk

EVALUATION_BATCH = 8192


@dataclass(frozen=True)
class Setting:
    """Data, metrics and recipe of a comparison.

    Attributes:
        dataset: The data.
        metrics: Metrics for model selection, and metrics that are only reported.
        head: `(task, tower=...) -> Head`.
        trees: `(task, seed) -> scikit-learn model`.
        recipe: Sizes and training arguments of the networks.
        loss_weights: Loss weights that are not 1, by task.
    """

    dataset: Dataset
    metrics: list[Metric]
    head: Callable[..., pk.Head]
    trees: Callable[[str, int], Any]
    recipe: Recipe
    loss_weights: dict[str, float] = field(default_factory=dict)


@dataclass
class Result:
    """Result of one model with one seed.

    Attributes:
        model: The model's name.
        seed: Its seed.
        parameters: The number of its trainable parameters, embedding tables not counted. None for
            trees.
        test: The metrics on the test rows, by task and key: `income_auc`.
        seconds: Time for building, training and predicting.
        embeddings: The number of parameters of its embedding tables.
        history: Keras's logs by epoch, one history per network.
        best_epochs: The epoch, counted from 1, whose weights each network keeps.
        predictions: Predictions for the test rows, by task.
        mixtures: The test metrics of other mixtures of the branches, by mixture.
        hedge: The weights of the branches, by task.
    """

    model: str
    seed: int
    parameters: int | None
    test: dict[str, float]
    seconds: float
    embeddings: int = 0
    history: list[dict[str, list[float]]] = field(default_factory=list)
    best_epochs: list[int] = field(default_factory=list)
    predictions: Arrays = field(default_factory=dict, repr=False)
    mixtures: dict[str, dict[str, float]] = field(default_factory=dict)
    hedge: dict[str, dict[str, float]] = field(default_factory=dict)


class PrintProgress(keras.callbacks.Callback):
    """Callback that prints a line per epoch."""

    def __init__(self, label: str, metrics: list[Metric], tasks: list[str]) -> None:
        super().__init__()
        self.label, self.metrics, self.tasks = label, metrics, tasks

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        values = [float((logs or {})[m.log_key(self.tasks)]) for m in self.metrics]
        print(
            f"{self.label}, epoch {epoch + 1}/{self.params['epochs']}: "
            f"val {format_values(self.metrics, values)}, {time.perf_counter() - self.start:.0f} s",
            flush=True,
        )


def train_models(models: list[str], seeds: int, setting: Setting) -> list[Result]:
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
    kind: str,
    task_groups: list[list[str]],
    setting: Setting,
    seed: int,
    name: str | None = None,
    show_epochs: bool = True,
    score_mixtures: bool = False,
) -> Result:
    """Train a network for each group of tasks and score them together.

    A network trains on the rows that have a label for at least one of its tasks. It keeps the
    weights of the epoch with the best sum of its tasks' validation metrics. One epoch is chosen for
    all tasks: an epoch per task would result in one model per task.

    Args:
        kind: The networks' kind, a key of `ALL_NETWORKS`.
        task_groups: One group of all tasks for a multi-task model, or a group per task.
        setting: The data, metrics and recipe.
        seed: Seed of the weights, the order of the rows and the dropout.
        name: The model's name. Defaults to the name of its kind.
        show_epochs: Whether to print a line per epoch.
        score_mixtures: Whether to score other mixtures of fitted branches too.
    """
    start = time.perf_counter()
    dataset, recipe = setting.dataset, setting.recipe
    result = Result(name or ALL_NETWORKS[kind].title, seed, 0, {}, 0.0)
    for tasks in task_groups:
        keras.utils.set_random_seed(seed)
        group_data = replace(dataset, train=labeled_rows(dataset.train, tasks))
        model = build_network(kind, tasks, group_data, setting.head, recipe)
        model = compiled_like(model, group_data.train)
        metrics = [metric for metric in selection_metrics(setting.metrics) if metric.task in tasks]
        of_task = f" ({tasks[0]})" if len(task_groups) > 1 else ""
        progress = [PrintProgress(f"{result.model}{of_task}, seed {seed}", metrics, tasks)]
        # A schedule, and not the heads, sets the weights: JAX then compiles a network only once.
        weights = pk.LossWeightSchedule(lambda task, epoch: setting.loss_weights.get(task, 1.0))
        best = _restore_best_weights(recipe.epochs)
        validation = group_data.validation.inputs, _labels(group_data.validation, tasks)
        network = ALL_NETWORKS[kind]
        is_fitted = network.block == "hedged" and not network.mixture
        history = model.fit(
            group_data.train.inputs,
            _labels(group_data.train, tasks),
            batch_size=recipe.batch_size,
            epochs=recipe.epochs,
            validation_data=validation,
            validation_batch_size=EVALUATION_BATCH,
            callbacks=[
                weights,
                *([pk.FitHedge(validation, EVALUATION_BATCH)] if is_fitted else []),
                _selection_score(metrics, tasks),
                best,
                *(progress if show_epochs else []),
            ],
            verbose=0,
        )
        predictions = model.predict(dataset.test.inputs, batch_size=EVALUATION_BATCH, verbose=0)
        result.predictions |= {task: predictions[task][:, 0] for task in tasks}
        if is_fitted and score_mixtures:
            result.hedge |= {task: model.layers[-1][task].branch_weights() for task in tasks}
            for mixture, of_mixture in other_mixtures(kind, model, group_data):
                result.mixtures[mixture] = _scores(setting, of_mixture)
        parameters, embeddings = count_parameters(model)
        result.parameters += parameters
        result.embeddings += embeddings
        result.history.append({key: [float(v) for v in x] for key, x in history.history.items()})
        result.best_epochs.append(best.best_epoch + 1)
        keras.utils.clear_session(free_memory=False)  # a collection took a quarter of a small fit
    return _score_result(result, setting, start)


def other_mixtures(kind: str, model: keras.Model, dataset: Dataset) -> Iterator[tuple[str, Arrays]]:
    """Yield other mixtures of the branches of a trained network, and their test predictions.

    "equal" has equal weights, "train" is fitted on the training rows, and any other has one branch.
    """
    heads = model.layers[-1]
    names = heads[heads.task_names[0]].branch_names
    others = {net.mixture: net for net in MIXTURES.values() if net.base == kind}
    for mixture in others:
        if mixture == "train":
            pk.fit_hedge(model, dataset.train.inputs, dataset.train.labels, EVALUATION_BATCH)
        else:
            weights = [1 / len(names) if mixture == "equal" else mixture == b for b in names]
            for task in heads.task_names:
                heads[task].mixture.assign(np.array(weights, "float32"))
        predictions = model.predict(dataset.test.inputs, batch_size=EVALUATION_BATCH, verbose=0)
        yield mixture, {task: predictions[task][:, 0] for task in heads.task_names}


def train_trees(setting: Setting, seed: int, show_result: bool = True) -> Result:
    """Fit one scikit-learn model per task, on the rows that have a label for it."""
    start = time.perf_counter()
    dataset = setting.dataset
    result = Result(TREES, seed, None, {}, 0.0)
    for task in dataset.tasks:
        train = labeled_rows(dataset.train, [task])
        model = setting.trees(task, seed).fit(tree_inputs(train), train.labels[task])
        predict = getattr(model, "predict_proba", model.predict)
        predictions = predict(tree_inputs(dataset.test))
        result.predictions[task] = predictions[:, 1] if predictions.ndim > 1 else predictions
    result = _score_result(result, setting, start)
    metrics = selection_metrics(setting.metrics)
    scores = format_values(metrics, [result.test[metric.full_key] for metric in metrics])
    if show_result:
        print(f"{result.model}, seed {seed}: test {scores}, {result.seconds:.0f} s", flush=True)
    return result


def tree_inputs(split: Split) -> np.ndarray:
    """Return categories and numbers side by side. Trees choose their own bins."""
    names = [name for name in ("categories", "numbers") if name in split.inputs]
    return np.concatenate([split.inputs[name] for name in names], axis=1, dtype="float32")


def _restore_best_weights(epochs: int) -> keras.callbacks.EarlyStopping:
    """Return a callback that restores the best epoch's weights and never stops early."""
    return keras.callbacks.EarlyStopping(
        "val_mtl_score", mode="max", patience=epochs, restore_best_weights=True
    )


def _selection_score(metrics: list[Metric], tasks: list[str]) -> pk.MultiTaskScore:
    return pk.MultiTaskScore({m.log_key(tasks): m.sign * m.weight for m in metrics})


def _labels(split: Split, tasks: list[str]) -> Arrays:
    return {task: split.labels[task] for task in tasks}


def _score_result(result: Result, setting: Setting, start: float) -> Result:
    result.test = _scores(setting, result.predictions)
    result.seconds = time.perf_counter() - start
    return result


def _scores(setting: Setting, predictions: Arrays) -> dict[str, float]:
    labels = setting.dataset.test.labels
    return {
        metric.full_key: metric.evaluate(labels[metric.task], predictions[metric.task])
        for metric in setting.metrics
    }

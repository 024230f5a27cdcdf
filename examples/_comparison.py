"""Train models on a data set, score them on its test rows, and keep what came out."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from _data import Arrays, Dataset, Split
from _networks import Recipe

EVALUATION_BATCH = 8192


@dataclass(frozen=True)
class Metric:
    """What a comparison is about.

    Attributes:
        name: The metric's name in the table.
        key: Its name in Keras's logs.
        sign: 1 where more is better, -1 where less is.
        score: `(labels, predictions) -> float`, exact; Keras's own works batch by batch.
    """

    name: str
    key: str
    sign: int
    score: Callable[[np.ndarray, np.ndarray], float]

    def from_logs(self, logs: dict[str, Any], tasks: list[str]) -> dict[str, float]:
        """The metric of each task on the validation rows. With one task Keras drops its name."""
        if len(tasks) == 1:
            return {tasks[0]: float(logs[f"val_{self.key}"])}
        return {task: float(logs[f"val_{task}_{self.key}"]) for task in tasks}


@dataclass
class Result:
    """What one model did with one seed.

    Attributes:
        model: The model's name.
        seed: Its seed.
        parameters: The number of its trainable parameters; None for trees.
        test: The metric by task on the test rows.
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


class KeepBest(keras.callbacks.Callback):
    """Keeps the weights of the best epoch, and puts them back when training ends.

    Keras's ModelCheckpoint follows one key of the logs; a multi-task model has to be judged by
    all of its tasks, here by the mean of their validation metrics. One checkpoint serves every
    task: one a task would be as many models.
    """

    def __init__(self, metric: Metric, tasks: list[str]) -> None:
        super().__init__()
        self.metric, self.tasks = metric, tasks
        self.best, self.epoch, self.weights = -np.inf, 0, None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        values = self.metric.from_logs(logs or {}, self.tasks)
        score = self.metric.sign * float(np.mean(list(values.values())))
        if self.weights is None or score > self.best:
            self.best, self.epoch, self.weights = score, epoch + 1, self.model.get_weights()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.model.set_weights(self.weights)


class PrintProgress(keras.callbacks.Callback):
    """Prints a line an epoch."""

    def __init__(self, label: str, metric: Metric, tasks: list[str]) -> None:
        super().__init__()
        self.label, self.metric, self.tasks = label, metric, tasks

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        values = self.metric.from_logs(logs or {}, self.tasks)
        scores = ", ".join(f"{task} {value:.4f}" for task, value in values.items())
        print(
            f"{self.label}, epoch {epoch + 1}/{self.params['epochs']}: "
            f"val {self.metric.name} {scores}, {time.perf_counter() - self.start:.0f} s",
            flush=True,
        )


def train_networks(
    name: str,
    build: Callable[[list[str]], keras.Model],
    task_groups: list[list[str]],
    dataset: Dataset,
    metric: Metric,
    recipe: Recipe,
    seed: int,
) -> Result:
    """Train a network for each group of tasks and score them together.

    Args:
        name: The model's name.
        build: From a group's tasks to its compiled network.
        task_groups: All tasks in one group for a multi-task model, one a group for single tasks.
        dataset: The data.
        metric: What to judge checkpoints by, and to report.
        recipe: How long to train, in batches of which size.
        seed: Seed of the weights, the order of the rows and the dropout.
    """
    start = time.perf_counter()
    result = Result(name, seed, 0, {}, 0.0)
    for tasks in task_groups:
        keras.utils.set_random_seed(seed)
        model = build(tasks)
        best = KeepBest(metric, tasks)
        of_task = f" ({tasks[0]})" if len(task_groups) > 1 else ""
        history = model.fit(
            dataset.train.inputs,
            _labels(dataset.train, tasks),
            batch_size=recipe.batch_size,
            epochs=recipe.epochs,
            validation_data=(dataset.validation.inputs, _labels(dataset.validation, tasks)),
            validation_batch_size=EVALUATION_BATCH,
            callbacks=[best, PrintProgress(f"{name}{of_task}, seed {seed}", metric, tasks)],
            verbose=0,
        )
        predictions = model.predict(dataset.test.inputs, batch_size=EVALUATION_BATCH, verbose=0)
        result.predictions |= {task: predictions[task][:, 0] for task in tasks}
        result.parameters += sum(int(np.prod(w.shape)) for w in model.trainable_weights)
        result.history.append({key: [float(v) for v in x] for key, x in history.history.items()})
        result.best_epochs.append(best.epoch)
        keras.utils.clear_session()
    return _scored(result, dataset, metric, start)


def train_trees(
    name: str, build: Callable[..., Any], dataset: Dataset, metric: Metric, seed: int
) -> Result:
    """Fit one scikit-learn model a task; `build` makes it from its `random_state`."""
    start = time.perf_counter()
    result = Result(name, seed, None, {}, 0.0)
    for task, labels in dataset.train.labels.items():
        model = build(random_state=seed).fit(tree_inputs(dataset.train), labels)
        predict = getattr(model, "predict_proba", model.predict)
        predictions = predict(tree_inputs(dataset.test))
        result.predictions[task] = predictions[:, 1] if predictions.ndim > 1 else predictions
    result = _scored(result, dataset, metric, start)
    scores = ", ".join(f"{task} {value:.4f}" for task, value in result.test.items())
    print(f"{name}, seed {seed}: test {metric.name} {scores}, {result.seconds:.0f} s", flush=True)
    return result


def tree_inputs(split: Split) -> np.ndarray:
    """The categories and numbers side by side: trees find bins of their own."""
    names = [name for name in ("categories", "numbers") if name in split.inputs]
    return np.concatenate([split.inputs[name] for name in names], axis=1, dtype="float32")


def _labels(split: Split, tasks: list[str]) -> Arrays:
    return {task: split.labels[task] for task in tasks}


def _scored(result: Result, dataset: Dataset, metric: Metric, start: float) -> Result:
    result.test = {
        task: float(metric.score(dataset.test.labels[task], result.predictions[task]))
        for task in dataset.tasks
    }
    result.seconds = time.perf_counter() - start
    return result

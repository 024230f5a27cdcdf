"""Measure the parts of a training step of `whole_job.py`, in CPU milliseconds.

    KERAS_BACKEND=torch python examples/benchmarks/speed/job_parts.py  # or tensorflow

The models train in turns, in one thread and on the same batches: ours and a PLE by hand in Keras,
both with SparseEmbedding and table_optimizer, and on PyTorch, one in plain PyTorch as a whole.
Medians over rounds.

On PyTorch, a clock is read between the parts of Keras's step, and "rest" is what Keras does between
them. A step on TensorFlow is compiled as a whole. There, functions are compiled that end after each
part, and a part is the difference to the one before. Batches are tensors already.
"""

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # folder of the modules that all benchmarks share

import numpy as np
from _job import BATCH, Arrays, make_data
from _job_runs import model_by_hand, model_of_ple_keras, torch_sparse, weighted
from _options import at_least
from _tables import align_columns
from whole_job import ONE_THREAD

PARTS = ("model", "losses", "backward", "tables", "Adam", "metrics", "rest")
Parts = dict[str, float]
Batch = tuple[Any, Any, Any]  # columns, labels, weights or None


def batches(x: Arrays, y: Arrays, weights: Arrays | None) -> list[Batch]:
    """Return the batches of arrays, as tensors."""
    import keras

    count = len(next(iter(x.values())))

    def part(arrays: Arrays | None, start: int) -> Any:
        return arrays and {
            name: keras.ops.convert_to_tensor(array[start : start + BATCH])
            for name, array in arrays.items()
        }

    return [
        (part(x, start), part(y, start), part(weights, start)) for start in range(0, count, BATCH)
    ]


def clocked(model: Any, steps: list[Batch]) -> Callable[[], Parts]:
    """Return a function that makes steps on PyTorch, and returns the seconds of their parts."""
    import ple_keras as pk

    seconds: Parts = defaultdict(float)
    last = 0.0

    def end(part: str) -> None:
        nonlocal last
        now = time.process_time()
        seconds[part] += now - last
        last = now

    def clock(owner: Any, method: str, before: str, part: str) -> None:
        """Count the time until a method as `before`, and that of the method as `part`."""
        call = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            end(before)
            result = call(*args, **kwargs)
            end(part)
            return result

        setattr(owner, method, timed)

    def measure() -> Parts:
        end("rest")
        seconds.clear()
        for batch in steps:
            model.train_on_batch(*batch)
        end("rest")
        return dict(seconds)

    model.train_on_batch(*steps[0])
    clock(model, "train_step", "rest", "rest")
    clock(model, "zero_grad", "model", "rest")
    clock(model, "_compute_loss", "rest", "losses")
    if isinstance(model, pk.MultiTaskModel):
        clock(model._task_metrics.value, "update", "losses", "metrics")  # a part of its loss
    clock(model.optimizer, "apply", "backward", "rest")
    for part, optimizer in zip(("tables", "Adam"), model.optimizer.optimizers, strict=True):
        clock(optimizer, "apply", "rest", part)
    clock(model, "compute_metrics", "rest", "metrics")
    return measure


def compiled(model: Any, steps: list[Batch]) -> Callable[[], Parts]:
    """Return a function as `clocked` does, for TensorFlow."""
    import tensorflow as tf

    import ple_keras as pk

    model.train_on_batch(*steps[0])
    variables = model.trainable_variables
    heads = [layer for layer in model.layers if isinstance(layer, pk.TaskHeads)]

    def compute_loss(end: str, x: Any, y: Any, predictions: Any, weights: Any) -> Any:
        """Return the loss. That of a MultiTaskModel updates the metrics, that of heads does not."""
        if heads and end != "metrics":
            return heads[0].compute_loss(y, predictions)
        return model.compute_loss(x, y, predictions, weights, training=True)

    def step(end: str, batch: Batch) -> Any:
        x, y, weights = batch
        with tf.GradientTape() as tape:
            predictions = model(x, training=True)
            if end == "model":
                return predictions
            loss = compute_loss(end, x, y, predictions, weights)
        if end == "losses":
            return loss
        gradients = tape.gradient(loss, variables)
        if end == "tables":
            pairs = [(g, v) for g, v in zip(gradients, variables) if v.name == "embeddings"]
            model.optimizer.optimizers[0].apply(*map(list, zip(*pairs)))
        if end in ("backward", "tables"):
            return gradients
        model.optimizer.apply(gradients, variables)
        return model.compute_metrics(x, y, predictions, weights) if end == "metrics" else loss

    functions = {end: tf.function(partial(step, end), autograph=False) for end in PARTS[:-1]}

    def measure() -> Parts:
        seconds, before = {}, 0.0
        for end, function in functions.items():
            start = time.process_time()
            for batch in steps:
                function(batch)
            until = time.process_time() - start
            seconds[end], before = until - before, until
        return seconds

    measure()
    return measure


def whole(fit: Callable[[Arrays, Arrays], None], x: Arrays, y: Arrays) -> Callable[[], Parts]:
    """Return a function as `clocked` does, that measures a step as a whole."""

    def measure() -> Parts:
        start = time.process_time()
        fit(x, y)
        return {"rest": time.process_time() - start}

    measure()
    return measure


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the models in turns, and print a row for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=at_least(1), default=15, help="default: 15")
    parser.add_argument("--steps", type=at_least(1), default=20, help="of a round, default 20")
    args = parser.parse_args(arguments)
    os.environ.update(ONE_THREAD)
    import keras

    import ple_keras as pk

    is_torch = keras.backend.backend() == "torch"
    parts_of = clocked if is_torch else compiled
    x, y, _, _ = make_data(0, args.steps)
    ours = model_of_ple_keras(pk.SparseEmbedding, pk.table_optimizer())
    measured = {
        "ours": parts_of(ours, batches(x, y, None)),
        "by hand in Keras": parts_of(model_by_hand(), batches(x, *weighted(y))),
    }
    if is_torch:
        measured["by hand in PyTorch"] = whole(torch_sparse()[0], x, y)
    rounds: dict[str, list[Parts]] = {name: [] for name in measured}
    for _ in range(args.rounds):
        for name, measure in measured.items():
            rounds[name].append(measure())
    table = [("", *PARTS, "sum")]
    for name, of_model in rounds.items():
        cells = [
            f"{1000 * np.median([parts[part] for parts in of_model]) / args.steps:.1f}"
            if part in of_model[0]
            else ""
            for part in PARTS
        ]
        total = np.median([sum(parts.values()) for parts in of_model])
        table.append((name, *cells, f"{1000 * total / args.steps:.1f}"))
    print(align_columns(table))


if __name__ == "__main__":
    main()

"""Measure the parameters, step time and memory of hedged branches next to other networks.

    KERAS_BACKEND=torch OMP_NUM_THREADS=1 python examples/benchmarks/speed/hedged_cost.py

Two tasks read an embedding table of 100,000 rows, through ten columns, and ten numbers. All
networks have experts of the same size. Times are CPU times of a training step, measured in turns:
the best of several rounds. Memory is that of parameters with two moments of Adam each.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import ple_keras as pk

TASKS = ["first", "second"]
ROWS, WIDTH, COLUMNS, NUMBERS = 100_000, 8, 10, 10
UNITS = [128, 64]


def columns() -> dict[str, Any]:
    """Return new inputs."""
    return {
        "ids": keras.Input((COLUMNS,), dtype="int32", name="ids"),
        "numbers": keras.Input((NUMBERS,), name="numbers"),
    }


def feature_network() -> keras.Model:
    """Return the table and the numbers as one layer."""
    inputs = columns()
    embedded = keras.layers.Flatten()(keras.layers.Embedding(ROWS, WIDTH)(inputs["ids"]))
    return keras.Model(inputs, keras.layers.Concatenate()([embedded, inputs["numbers"]]))


def with_block(tasks: list[str], block: Callable[[Any], keras.Layer], streams: bool) -> keras.Model:
    """Return a compiled model of a block, with a copy of the features for each stream or one."""
    heads = pk.TaskHeads([pk.BinaryHead(task, tower=[32], metrics=[]) for task in tasks])
    inputs = columns()
    features = pk.StreamFeatures(heads, feature_network()) if streams else feature_network()
    model = pk.MultiTaskModel(inputs, heads(block(heads)(features(inputs))))
    model.compile("adam", jit_compile=keras.backend.backend() == "jax")
    return model


def networks() -> dict[str, list[keras.Model]]:
    """Return the models of each network."""
    return {
        "shared bottom": [with_block(TASKS, lambda h: pk.SharedBottomBlock(h, UNITS), False)],
        "CGC, features by stream": [
            with_block(TASKS, lambda h: pk.CGCBlock(h, UNITS, add_shared_gate=False), True)
        ],
        "two separate networks": [
            with_block([task], lambda h: pk.SharedBottomBlock(h, UNITS), False) for task in TASKS
        ],
        "hedged": [with_block(TASKS, lambda h: pk.HedgedBlock(h, UNITS), True)],
        "hedged, common features": [with_block(TASKS, lambda h: pk.HedgedBlock(h, UNITS), False)],
    }


def step(models: list[keras.Model], data: tuple[Any, Any]) -> float:
    """Train each model on a batch and return the CPU seconds."""
    x, y = data
    start = time.process_time()
    for model in models:
        model.train_on_batch(x, {task: y[task] for task in model.output})
    return time.process_time() - start


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    x = {
        "ids": rng.integers(0, ROWS, (args.batch, COLUMNS)).astype("int32"),
        "numbers": rng.normal(size=(args.batch, NUMBERS)).astype("float32"),
    }
    data = x, {task: rng.integers(0, 2, (args.batch, 1)).astype("float32") for task in TASKS}
    found = networks()
    for models in found.values():
        step(models, data)  # compiles
    seconds = {name: min(step(models, data) for _ in range(3)) for name, models in found.items()}
    for _ in range(args.rounds):
        for name, models in found.items():
            seconds[name] = min(seconds[name], step(models, data))
    print("| network | parameters | in tables | step, ms | memory, MB |\n|---|---|---|---|---|")
    for name, models in found.items():
        weights = [w for model in models for w in model.trainable_weights]
        sizes = [(int(np.prod(w.shape)), "embedding" in w.path) for w in weights]
        tables = sum(size for size, is_table in sizes if is_table)
        total = sum(size for size, _ in sizes)
        print(
            f"| {name} | {total - tables:,} | {tables:,} | {1000 * seconds[name]:.0f} | "
            f"{12 * total / 1e6:.1f} |"
        )


if __name__ == "__main__":
    main()

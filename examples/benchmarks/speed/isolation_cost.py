"""Measure the time and the parameters that isolation adds to a training step.

    KERAS_BACKEND=jax python examples/benchmarks/speed/isolation_cost.py

Takes a few minutes on two cores. Four models take turns, for a few steps on one fixed batch, in
many rounds: a PLE, with isolated experts, with features by stream, and with both. The script prints
medians over the rounds: milliseconds per step, and the ratio to the PLE in the same round.

    A        3 tasks, 2 + 2 experts [256, 128], 2 levels, 128 features, batch 4096
    B        8 tasks, 2 + 2 experts [64, 32], 3 levels, 32 features, batch 512
    census   2 tasks, 1 + 1 experts, 2 levels of 96 and 64 units, batch 1024; 38 columns of codes in
             a table of 1,500 rows of width 8, and 7 numbers

The feature network is the embedding table, or, in A and B, one Dense layer that keeps the width.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.append(str(Path(__file__).parents[1]))  # folder of the modules that all benchmarks share

import keras
import numpy as np
from _cases import CASES, Case
from _options import at_least
from _timing import measure_interleaved, median_ms, median_ratio

import ple_keras as pk

Inputs = dict[str, np.ndarray]
COLUMNS, ROWS, WIDTH, NUMBERS = 38, 1500, 8, 7
CENSUS = Case(2, (96,), 2, 0, 1024, task_experts=1, shared_experts=1)
LEVEL_UNITS = {"census": [96, 64]}  # of cases whose levels have experts of different units
MEASURED = {"A": CASES["A"], "B": CASES["B"], "census": CENSUS}


@dataclass(frozen=True)
class Variant:
    """Options of one of the models."""

    isolate_task_experts: bool
    features_by_stream: bool


VARIANTS = {
    "PLE": Variant(False, False),
    "isolated experts": Variant(True, False),
    "features by stream": Variant(False, True),
    "both": Variant(True, True),
}


def make_batch(case: Case) -> tuple[Inputs, dict[str, np.ndarray]]:
    """Return the fixed batch: inputs by name and labels by task."""
    rng = np.random.default_rng(0)
    if case.features:
        x = {"x": rng.standard_normal((case.batch, case.features), "float32")}
    else:
        codes = rng.integers(ROWS, size=(case.batch, COLUMNS)).astype("int32")
        x = {"codes": codes, "numbers": rng.standard_normal((case.batch, NUMBERS), "float32")}
    labels = (rng.random((case.batch, 1)) < 0.3).astype("float32")
    return x, dict.fromkeys(case.task_names, labels)


def feature_network(case: Case, inputs: dict[str, Any]) -> Any:
    """Return the features of symbolic inputs."""
    if case.features:
        return keras.layers.Dense(case.features, "relu")(inputs["x"])
    embedded = keras.layers.Flatten()(keras.layers.Embedding(ROWS, WIDTH)(inputs["codes"]))
    return keras.layers.Concatenate()([embedded, inputs["numbers"]])


def build(name: str, variant: Variant) -> keras.Model:
    """Return a compiled model with towers [64] and a probability per task."""
    keras.utils.set_random_seed(0)
    case = MEASURED[name]
    heads = pk.TaskHeads([pk.BinaryHead(task, tower=[64], metrics=[]) for task in case.task_names])
    units = LEVEL_UNITS.get(name)
    ple = pk.PLEBlock(
        case.levels,
        heads,
        [pk.ExpertBlock(width) for width in units] if units else list(case.experts),
        case.task_experts,
        case.shared_experts,
        isolate_task_experts=variant.isolate_task_experts,
    )
    x, _ = make_batch(case)
    inputs = {key: keras.Input(v.shape[1:], dtype=v.dtype.name, name=key) for key, v in x.items()}
    features = feature_network(case, inputs)
    if variant.features_by_stream:
        features = pk.StreamFeatures(heads, keras.Model(inputs, features))(inputs)
    model = pk.MultiTaskModel(inputs, heads(ple(features)))
    model.compile("adam")
    return model


def measure(name: str, rounds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return the seconds per step of each variant, by round, and its number of parameters."""
    x, y = make_batch(MEASURED[name])
    models = {key: build(name, variant) for key, variant in VARIANTS.items()}
    steps: dict[str, Callable[[], Any]] = {
        key: partial(model.train_on_batch, x, y) for key, model in models.items()
    }
    parameters = {key: count_trainable(model) for key, model in models.items()}
    return measure_interleaved(steps, rounds), parameters


def count_trainable(model: keras.Model) -> int:
    """Return the number of trainable parameters."""
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def main(argv: list[str] | None = None) -> None:
    """Measure the selected cases and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=[*MEASURED], nargs="+", default=[*MEASURED])
    parser.add_argument(
        "--rounds", type=at_least(1), default=15, help="number of rounds, default 15"
    )
    args = parser.parse_args(argv)
    for name in args.case:
        print(f"\ncase {name}, on {keras.backend.backend()}", flush=True)
        seconds, parameters = measure(name, args.rounds)
        for variant, taken in seconds.items():
            ratio = median_ratio(taken, seconds["PLE"])
            print(f"{variant:20} {parameters[variant]:10,} {median_ms(taken):8.2f} ms {ratio:6.3f}")


if __name__ == "__main__":
    main()

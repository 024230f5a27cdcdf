"""What masked losses and gate statistics add to the time of a training step.

    KERAS_BACKEND=jax python examples/benchmarks/feature_cost.py

Models that differ in one feature take turns, a few steps on one fixed batch each, in many rounds.
Printed are medians over the rounds: milliseconds of a step, and the ratio to the plain model in
the same round. Every label is present. Sizes: case A has 3 tasks, 2 + 2 experts [256, 128], 2
levels, 128 features and a batch of 4096; B 8 tasks, 2 + 2 experts [64, 32], 3 levels, 32 features
and a batch of 512. Both are compiled where Keras compiles by default: not on PyTorch.

    plain losses              binary cross-entropy of Keras, no metrics
    masked losses             those of the heads, by `compile_kwargs(metrics={})`
    plain losses, metrics     and Keras's own metrics: LogitAUC and the cross-entropy, unmasked
    masked losses, metrics    all that `compile_kwargs()` gives
    masked losses, statistics as "masked losses", with `enable_gate_weights_metrics=True`
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import ple_keras as pk
from ple_keras.metrics import LogitAUC

STEPS = 4  # in a row, a round


@dataclass(frozen=True)
class Case:
    """The sizes of a model and its batch."""

    tasks: int
    experts: tuple[int, ...]
    levels: int
    features: int
    batch: int


CASES = {"A": Case(3, (256, 128), 2, 128, 4096), "B": Case(8, (64, 32), 3, 32, 512)}


def build(case: Case, tracks: bool = False) -> tuple[keras.Model, pk.TaskHeads]:
    """A PLE with towers [64] and a probability a task."""
    keras.utils.set_random_seed(0)
    heads = pk.TaskHeads([pk.BinaryHead(f"task_{i}", tower=[64]) for i in range(case.tasks)])
    block = pk.PLEBlock(
        case.levels, heads, list(case.experts), 2, 2, enable_gate_weights_metrics=tracks
    )
    inputs = keras.Input((case.features,))
    return keras.Model(inputs, heads(block(inputs))), heads


def plain(case: Case, has_metrics: bool = False) -> keras.Model:
    """With Keras's own losses and metrics."""
    model, heads = build(case)

    def metrics() -> list[keras.Metric]:
        return [LogitAUC(), keras.metrics.BinaryCrossentropy()] if has_metrics else []

    tasks = heads.task_names
    losses = {task: keras.losses.BinaryCrossentropy() for task in tasks}
    model.compile("adam", losses, metrics={task: metrics() for task in tasks})
    return model


def masked(case: Case, has_metrics: bool = False, tracks: bool = False) -> keras.Model:
    """With the losses and metrics of the heads."""
    model, heads = build(case, tracks)
    model.compile("adam", **heads.compile_kwargs(**({} if has_metrics else {"metrics": None})))
    return model


VARIANTS: dict[str, tuple[str, Callable[[Case], keras.Model]]] = {
    "plain losses": ("plain losses", plain),
    "masked losses": ("plain losses", masked),
    "plain losses, metrics": ("plain losses, metrics", lambda case: plain(case, True)),
    "masked losses, metrics": ("plain losses, metrics", lambda case: masked(case, True)),
    "masked losses, statistics": ("masked losses", lambda case: masked(case, tracks=True)),
}


def measure(case: Case, rounds: int) -> dict[str, list[float]]:
    """Seconds of a step of each variant, by round."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((case.batch, case.features), "float32")
    labels = (rng.random((case.batch, 1)) < 0.3).astype("float32")
    y = {f"task_{i}": labels for i in range(case.tasks)}
    models = {}
    for name, (_, make) in VARIANTS.items():
        print(f"compiling: {name}", flush=True)
        models[name] = make(case)
        for _ in range(2):
            models[name].train_on_batch(x, y)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for number in range(rounds):
        names = list(models)[number % len(models) :] + list(models)[: number % len(models)]
        for name in names:
            start = time.perf_counter()
            for _ in range(STEPS):
                models[name].train_on_batch(x, y)
            seconds[name].append((time.perf_counter() - start) / STEPS)
    return seconds


def main() -> None:
    """Measure the cases asked for, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=list(CASES), nargs="+", default=list(CASES))
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    for name in args.case:
        print(f"\ncase {name}: {CASES[name]}, on {keras.backend.backend()}", flush=True)
        seconds = measure(CASES[name], args.rounds)
        for variant, (baseline, _) in VARIANTS.items():
            ratio = np.median(np.array(seconds[variant]) / np.array(seconds[baseline]))
            of = "" if variant == baseline else f"  {ratio:.3f} of {baseline}"
            print(f"{variant:26} {1000 * np.median(seconds[variant]):8.2f} ms{of}", flush=True)


if __name__ == "__main__":
    main()

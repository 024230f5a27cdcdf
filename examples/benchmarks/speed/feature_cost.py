"""Measure the time that masked losses and gate statistics add to a training step.

    KERAS_BACKEND=jax python examples/benchmarks/speed/feature_cost.py

Models that differ in one feature take turns, for a few steps on one fixed batch, in many rounds.
The script prints medians over the rounds: milliseconds per step, and the ratio to the baseline
model in the same round. All labels are present. Case A has 3 tasks, 2 + 2 experts [256, 128], 2
levels, 128 features and a batch of 4096. Case B has 8 tasks, 2 + 2 experts [64, 32], 3 levels, 32
features and a batch of 512. Both are compiled if Keras compiles by default: not on PyTorch.

    plain losses              binary cross-entropy of Keras, no metrics
    masked losses             losses of the heads, with `metrics=[]`
    plain losses, metrics     plus unmasked LogitAUC and Keras's cross-entropy
    masked losses, metrics    losses and default metrics of the heads
    masked losses, statistics as "masked losses", with `enable_gate_weights_metrics=True`
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.append(str(Path(__file__).parents[1]))  # folder of the modules that all benchmarks share

import keras
from _cases import CASES, Case
from _models import batch
from _options import at_least
from _timing import measure_interleaved, median_ms, median_ratio

import ple_keras as pk

MEASURED = ("A", "B")


def build(
    case: Case, has_metrics: bool, track_gates: bool = False, model_class: Any = pk.MultiTaskModel
) -> keras.Model:
    """Return a PLE with towers [64] and a probability per task."""
    keras.utils.set_random_seed(0)
    metrics = None if has_metrics else []
    heads = pk.TaskHeads(
        [pk.BinaryHead(task, tower=[64], metrics=metrics) for task in case.task_names]
    )
    block = pk.PLEBlock(
        case.levels,
        heads,
        list(case.experts),
        case.task_experts,
        case.shared_experts,
        enable_gate_weights_metrics=track_gates,
    )
    inputs = keras.Input((case.features,))
    return model_class(inputs, heads(block(inputs)))


def build_plain(case: Case, has_metrics: bool = False) -> keras.Model:
    """Return a model with Keras's own losses and metrics."""
    model = build(case, has_metrics, model_class=keras.Model)

    def metrics() -> list[keras.Metric]:
        return [pk.LogitAUC(), keras.metrics.BinaryCrossentropy()] if has_metrics else []

    losses = {task: keras.losses.BinaryCrossentropy() for task in case.task_names}
    model.compile("adam", losses, metrics={task: metrics() for task in case.task_names})
    return model


def build_masked(case: Case, has_metrics: bool = False, track_gates: bool = False) -> keras.Model:
    """Return a model with the losses and metrics of the heads."""
    model = build(case, has_metrics, track_gates)
    model.compile("adam")
    return model


VARIANTS: dict[str, tuple[str, Callable[[Case], keras.Model]]] = {
    "plain losses": ("plain losses", build_plain),
    "masked losses": ("plain losses", build_masked),
    "plain losses, metrics": ("plain losses, metrics", lambda case: build_plain(case, True)),
    "masked losses, metrics": ("plain losses, metrics", lambda case: build_masked(case, True)),
    "masked losses, statistics": (
        "masked losses",
        lambda case: build_masked(case, track_gates=True),
    ),
}


def measure(case: Case, rounds: int) -> dict[str, list[float]]:
    """Return the seconds per step of each variant, by round."""
    x, labels = batch(case)
    y = dict.fromkeys(case.task_names, labels)
    models = {name: make(case) for name, (_, make) in VARIANTS.items()}
    return measure_interleaved(
        {name: partial(model.train_on_batch, x, y) for name, model in models.items()}, rounds
    )


def main() -> None:
    """Measure the selected cases and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=MEASURED, nargs="+", default=MEASURED)
    parser.add_argument(
        "--rounds", type=at_least(1), default=15, help="number of rounds, default 15"
    )
    args = parser.parse_args()
    for name in args.case:
        print(f"\ncase {name}: {CASES[name]}, on {keras.backend.backend()}", flush=True)
        seconds = measure(CASES[name], args.rounds)
        for variant, (baseline, _) in VARIANTS.items():
            ratio = median_ratio(seconds[variant], seconds[baseline])
            of = "" if variant == baseline else f"  {ratio:.3f} of {baseline}"
            print(f"{variant:26} {median_ms(seconds[variant]):8.2f} ms{of}", flush=True)


if __name__ == "__main__":
    main()

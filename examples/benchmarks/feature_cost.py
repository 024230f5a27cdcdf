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
from collections.abc import Callable
from functools import partial

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from _cases import CASES, Case
from _models import batch
from _timing import interleaved, median_ms, median_ratio

import ple_keras as pk

MEASURED = ("A", "B")


def build(case: Case, tracks: bool = False) -> tuple[keras.Model, pk.TaskHeads]:
    """A PLE with towers [64] and a probability a task."""
    keras.utils.set_random_seed(0)
    heads = pk.TaskHeads([pk.BinaryHead(task, tower=[64]) for task in case.task_names])
    block = pk.PLEBlock(
        case.levels,
        heads,
        list(case.experts),
        case.task_experts,
        case.shared_experts,
        enable_gate_weights_metrics=tracks,
    )
    inputs = keras.Input((case.features,))
    return keras.Model(inputs, heads(block(inputs))), heads


def plain(case: Case, has_metrics: bool = False) -> keras.Model:
    """With Keras's own losses and metrics."""
    model, heads = build(case)

    def metrics() -> list[keras.Metric]:
        return [pk.LogitAUC(), keras.metrics.BinaryCrossentropy()] if has_metrics else []

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
    x, labels = batch(case)
    y = dict.fromkeys(case.task_names, labels)
    models = {name: make(case) for name, (_, make) in VARIANTS.items()}
    return interleaved(
        {name: partial(model.train_on_batch, x, y) for name, model in models.items()}, rounds
    )


def main() -> None:
    """Measure the cases asked for, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=MEASURED, nargs="+", default=MEASURED)
    parser.add_argument("--rounds", type=int, default=15)
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

"""Measure training steps by number of binary targets, next to the same network by hand.

    KERAS_BACKEND=torch python -m examples.benchmarks.targets  # or jax, tensorflow
    KERAS_BACKEND=torch python -m examples.benchmarks.targets --targets 617 --rounds 5

The network is a bottom [128, 64] on 64 numbers, and a logit for each target, in batches of 256 rows
with Adam. 70% of the labels are missing:

    by hand             on PyTorch, without Keras and without metrics; with other backends, plain
                        Keras layers with a masked loss
    head                one BinaryHead with units, without metrics; "+ metrics": the default ones
    heads + metrics     a BinaryHead for each target, with the default metrics

They take turns in one process with one thread, in rounds of an epoch of `--steps` batches in
`fit`. The table has the CPU milliseconds of a step (time.process_time), with the median of the
ratios to the model by hand in the same round, and the CPU seconds of the first epoch, which
includes compilation. The CPU time is 0.05 hours per backend. Compare only ratios, and only within
one run.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ._tables import align_columns, make_parser
from ._timing import measure_interleaved, median_ms, median_ratio, start_backend

BATCH, FEATURES, HIDDEN = 256, 64, (128, 64)
HAND = "by hand"
MOST_HEADS = 128  # of "heads + metrics", whose first epoch takes minutes with more

Array = np.ndarray


def train_in_pytorch(x: Array, y: Array) -> Callable[[], None]:
    """Return a function that trains a network on all batches, without Keras."""
    import torch
    from torch import nn

    widths = [FEATURES, *HIDDEN]
    hidden = [each for pair in zip(widths, HIDDEN) for each in (nn.Linear(*pair), nn.ReLU())]
    network = nn.Sequential(*hidden, nn.Linear(HIDDEN[-1], y.shape[1]))
    optimizer = torch.optim.Adam(network.parameters())
    batches = [*zip(torch.from_numpy(x).split(BATCH), torch.from_numpy(y).split(BATCH))]
    cross_entropy = nn.functional.binary_cross_entropy_with_logits

    def train() -> None:
        for features, labels in batches:
            optimizer.zero_grad()
            weights = labels.isfinite().float()
            losses = cross_entropy(network(features), labels.nan_to_num(), weights, reduction="sum")
            (losses / weights.sum()).backward()
            optimizer.step()

    return train


def plain_model(targets: int) -> Any:
    """Return a compiled model of plain Keras layers with a masked loss."""
    import keras
    from keras import ops

    def masked(y: Any, logits: Any) -> Any:
        known = ops.logical_not(ops.isnan(y))
        weights = ops.cast(known, logits.dtype)
        losses = ops.binary_crossentropy(ops.where(known, y, 0.0), logits, from_logits=True)
        return ops.sum(losses * weights) / ops.sum(weights) * ops.ones_like(y[:, 0])

    layers = [keras.layers.Dense(units, "relu") for units in HIDDEN]
    model = keras.Sequential([keras.Input((FEATURES,)), *layers, keras.layers.Dense(targets)])
    model.compile("adam", loss=masked)
    return model


def our_model(heads: Sequence[Any]) -> Any:
    """Return a compiled model of heads on a shared bottom."""
    import keras

    import ple_keras as pk

    inputs, outputs = keras.Input((FEATURES,)), pk.TaskHeads(heads)
    model = pk.MultiTaskModel(inputs, outputs(pk.SharedBottomBlock(outputs, HIDDEN)(inputs)))
    model.compile("adam")
    return model


def measure(targets: int, steps: int, rounds: int) -> str:
    """Return a table with a row for each model. The models take turns."""
    import keras

    import ple_keras as pk

    rng = np.random.default_rng(0)
    x = rng.normal(size=(steps * BATCH, FEATURES)).astype("float32")
    y = (rng.uniform(size=(len(x), targets)) < 0.2).astype("float32")
    y[rng.uniform(size=y.shape) < 0.7] = np.nan
    y[0] = 1
    by_task = {f"t{k}": y[:, k : k + 1] for k in range(targets)}
    one = {"all": y}
    models = {
        "head": (our_model([pk.BinaryHead("all", units=targets, metrics=[])]), one),
        "head + metrics": (our_model([pk.BinaryHead("all", units=targets)]), one),
    }
    if targets <= MOST_HEADS:
        models["heads + metrics"] = (our_model([*map(pk.BinaryHead, by_task)]), by_task)
    is_torch = keras.backend.backend() == "torch"
    if not is_torch:
        models = {HAND: (plain_model(targets), y), **models}
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    calls: dict[str, Callable[[], Any]] = {HAND: train_in_pytorch(x, y)} if is_torch else {}
    calls |= {
        name: partial(model.fit, x, labels, **options) for name, (model, labels) in models.items()
    }
    first = {}
    for name, call in calls.items():
        start = time.process_time()
        call()
        first[name] = time.process_time() - start
    seconds = measure_interleaved(calls, rounds, time.process_time)
    table = [[f"{targets} targets", "ms", f"of {HAND}", "first epoch, s"]]
    for name, taken in seconds.items():
        ratio = f"{median_ratio(taken, seconds[HAND]):.2f}"
        table.append([name, f"{median_ms(taken) / steps:.2f}", ratio, f"{first[name]:.1f}"])
    return align_columns(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the models of each number of targets, and print a table."""
    parser = make_parser(__doc__)
    parser.add_argument("--targets", nargs="+", type=int, default=[3, 8, 32, 128, 617])
    parser.add_argument("--steps", type=int, default=50, help="of a turn, default 50")
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    args = parser.parse_args(arguments)
    start_backend()
    for targets in args.targets:
        print(f"\n{measure(targets, args.steps, args.rounds)}", flush=True)


if __name__ == "__main__":
    main()

"""Measure a training step next to the same network in plain Keras and in PyTorch by hand.

    KERAS_BACKEND=torch python -m examples.benchmarks.small_job  # or jax, tensorflow
    KERAS_BACKEND=torch python -m examples.benchmarks.small_job --jobs small PLE hedged

The jobs (`_step_pairs`) have 7 columns of codes with tables of 7 to 2,000 rows of 16, 3 tasks,
batches of 512, and Adam. The default one, "small", is a shared bottom [64, 32]. On such a job, most
of a step is not the arithmetic of layers, but losses, metrics and other overhead. The models have
equal layers:

    ours                MultiTaskModel with the default metrics, including two AUCs; 20% of the
                        labels of two tasks are missing
    ours, eagerly       on PyTorch, the same with `run_eagerly=True`
    ours, compiled      with `--compiled`, the same with `jit_compile=True`
    plain               Dense layers, Keras's losses and `keras.metrics.AUC()` for two tasks; no
                        label is missing
    ..., no metrics     the same without metrics
    by hand             on PyTorch, the network without Keras and without metrics

They take turns in one process with one thread, in rounds of `--steps` batches: first all rounds
with `train_on_batch`, then rounds with one epoch of `fit`. The table has the CPU milliseconds of a
step (time.process_time, which includes the backend's threads): medians over the rounds, and the
median of the ratios, in the same round, to the plain model and to the model by hand. Takes about
two minutes per job. Compare only ratios, and only within one run.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ._step_pairs import JOBS, TASKS, Arrays, by_hand, make_data, ours, plain, plain_labels
from ._tables import align_columns, at_least, make_parser
from ._timing import ONE_THREAD, Seconds, measure_interleaved, median_ms, median_ratio

BATCH = 512
BASELINES = {
    "ours": "plain",
    "ours, eagerly": "plain",
    "ours, compiled": "plain",
    "plain": "plain",
    "ours, no metrics": "plain, no metrics",
    "plain, no metrics": "plain, no metrics",
}
BY_HAND = "by hand, no metrics"
Calls = dict[str, Callable[[], Any]]


def steps_of(model: Any, x: Arrays, y: Arrays) -> Calls:
    """Return functions that train a model on all batches: by `train_on_batch`, and by `fit`."""
    parts = [slice(start, start + BATCH) for start in range(0, len(x["code_0"]), BATCH)]
    batches = [
        tuple({n: a[part] for n, a in arrays.items()} for arrays in (x, y)) for part in parts
    ]

    def train_on_batches() -> None:
        for batch in batches:
            model.train_on_batch(*batch)

    def fit() -> None:
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)

    return {"step": train_on_batches, "fit": fit}


def steps_by_hand(job: str, x: Arrays, y: Arrays) -> tuple[Calls, int]:
    """Return functions like those of `steps_of` for PyTorch, and the number of parameters."""
    import torch

    step, parameters = by_hand(job)
    codes = torch.from_numpy(np.stack([*x.values()])).split(BATCH, dim=1)
    labels = torch.from_numpy(np.stack([y[task] for task in TASKS], axis=1)).split(BATCH)

    def train() -> None:
        for batch in zip(codes, labels, strict=True):
            step(*batch)

    return {"step": train, "fit": train}, parameters


def measure(
    job: str, steps: int, rounds: int, compiled: bool = False
) -> dict[str, dict[str, Seconds]]:
    """Return the CPU seconds of a step by way and model, in each round. The models take turns."""
    import keras

    x, y = make_data(steps * BATCH)
    _, complete = make_data(steps * BATCH, complete=True)
    is_torch = keras.backend.backend() == "torch"
    calls, sizes = {}, set()
    settings: dict[str, dict[str, bool]] = {
        "ours, eagerly": {"run_eagerly": True},
        "ours, compiled": {"jit_compile": True},
    }
    for name in BASELINES:
        if name in settings and not (compiled if "compiled" in name else is_torch):
            continue
        has_metrics = "no metrics" not in name
        if name.startswith("ours"):
            model = ours(job, has_metrics, **settings.get(name, {}))
            calls[name] = steps_of(model, x, y)
        else:
            model = plain(job, has_metrics)
            calls[name] = steps_of(model, x, plain_labels(model, complete))
        sizes.add(sum(int(np.prod(weight.shape)) for weight in model.trainable_weights))
    if is_torch:
        calls[BY_HAND], parameters = steps_by_hand(job, x, complete)
        sizes.add(parameters)
    assert len(sizes) == 1, f"the models must have equal numbers of parameters: {sizes}"
    print(f"{job}: {sizes.pop():,} parameters, batches of {BATCH}")
    found = {}
    for way in ("step", "fit"):
        of_way = {name: of_model[way] for name, of_model in calls.items()}
        seconds = measure_interleaved(of_way, rounds, time.process_time)
        found[way] = {name: [each / steps for each in taken] for name, taken in seconds.items()}
    return found


def format_table(seconds: dict[str, dict[str, Seconds]]) -> str:
    """Return a row for each model."""
    of_hand = ["of by hand"] if BY_HAND in seconds["fit"] else []
    table = [["", *(c for w in ("train_on_batch", "fit") for c in (f"{w}, ms", "of plain"))]]
    table[0] += of_hand
    for name in seconds["step"]:
        row = [name]
        for of_way in seconds.values():
            baseline = of_way[BASELINES.get(name, "plain, no metrics")]
            ratio = median_ratio(of_way[name], baseline)
            row += [f"{median_ms(of_way[name]):.2f}", f"{ratio:.2f}"]
        if of_hand:
            row.append(f"{median_ratio(seconds['fit'][name], seconds['fit'][BY_HAND]):.2f}")
        table.append(row)
    return align_columns(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the models in turns, and print a table per job."""
    parser = make_parser(__doc__)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=["small"], help="default: small")
    parser.add_argument("--compiled", action="store_true", help="with jit_compile=True, too")
    parser.add_argument("--steps", type=at_least(1), default=50, help="of a turn, default 50")
    parser.add_argument("--rounds", type=at_least(1), default=10, help="default: 10")
    args = parser.parse_args(arguments)
    os.environ.update(ONE_THREAD)
    import keras

    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        torch.set_num_threads(1)
    print(f"Keras {keras.__version__} on {backend}")
    for job in args.jobs:
        print(format_table(measure(job, args.steps, args.rounds, args.compiled)))


if __name__ == "__main__":
    main()

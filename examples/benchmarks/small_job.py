"""Measure a training step next to the same network in plain Keras and in PyTorch by hand.

    KERAS_BACKEND=torch python -m examples.benchmarks.small_job  # or jax, tensorflow
    KERAS_BACKEND=torch python -m examples.benchmarks.small_job --jobs small PLE hedged
    KERAS_BACKEND=torch python -m examples.benchmarks.small_job --predictions  # with ".[export]"

The jobs (`_step_pairs`) have 7 columns of codes with tables of 7 to 2,000 rows of 16, 3 tasks,
batches of 512, and Adam. The default one, "small", is a shared bottom [64, 32]. On such a job, most
of a step is not the arithmetic of layers, but losses, metrics and other overhead. The models have
equal layers:

    ours                MultiTaskModel with the default metrics, including two AUCs; 20% of the
                        labels of two tasks are missing
    ours, eagerly       on PyTorch, the same with `run_eagerly=True`
    plain               Dense layers, Keras's losses and `keras.metrics.AUC()` for two tasks; no
                        label is missing
    by hand             on PyTorch, the network without Keras and without metrics

They take turns in one process with one thread, in rounds of an epoch of `--steps` batches in
`fit`. The table has the CPU milliseconds of a step (time.process_time, which includes the backend's
threads): medians over the rounds, and the median of the ratios, in the same round, to the plain
model and to the model by hand. The CPU time is 0.01 hours per job. Compare only ratios, and only
within one run.

`--predictions`, on PyTorch, compares `predict_on_batch` of ours instead, for batches of 1 to 4,096
rows, with the exported program, the ONNX file in one thread, and the forward pass by hand.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ._step_pairs import JOBS, TASKS, Arrays, by_hand, make_data, ours, plain, plain_labels
from ._tables import align_columns, make_parser
from ._timing import Seconds, measure_interleaved, median_ms, median_ratio, start_backend

BATCH = 512
MODELS: dict[str, dict[str, bool]] = {  # with arguments of `compile`
    "ours": {},
    "ours, eagerly": {"run_eagerly": True},
    "plain": {},
}
BY_HAND = "by hand"
PREDICTED = (1, 32, 512, 4096)  # rows


def train_by_hand(job: str, x: Arrays, y: Arrays) -> tuple[Callable[[], None], int]:
    """Return a function that trains on all batches in PyTorch, and the number of parameters."""
    import torch

    step, _, parameters = by_hand(job)
    codes = torch.from_numpy(np.stack([*x.values()])).split(BATCH, dim=1)
    labels = torch.from_numpy(np.stack([y[task] for task in TASKS], axis=1)).split(BATCH)

    def train() -> None:
        for batch in zip(codes, labels, strict=True):
            step(*batch)

    return train, parameters


def measure(job: str, steps: int, rounds: int) -> dict[str, Seconds]:
    """Return the CPU seconds of a step by model, in each round. The models take turns."""
    import keras

    x, y = make_data(steps * BATCH)
    _, complete = make_data(steps * BATCH, complete=True)
    is_torch = keras.backend.backend() == "torch"
    calls: dict[str, Callable[[], Any]] = {}
    sizes = set()
    for name, settings in MODELS.items():
        if name == "ours, eagerly" and not is_torch:
            continue
        model = plain(job) if name == "plain" else ours(job, **settings)
        labels = plain_labels(model, complete) if name == "plain" else y
        calls[name] = partial(model.fit, x, labels, batch_size=BATCH, shuffle=False, verbose=0)
        sizes.add(sum(int(np.prod(weight.shape)) for weight in model.trainable_weights))
    if is_torch:
        calls[BY_HAND], parameters = train_by_hand(job, x, complete)
        sizes.add(parameters)
    assert len(sizes) == 1, f"the models must have equal numbers of parameters: {sizes}"
    print(f"{job}: {sizes.pop():,} parameters, batches of {BATCH}")
    seconds = measure_interleaved(calls, rounds, time.process_time)
    return {name: [each / steps for each in taken] for name, taken in seconds.items()}


def measure_predictions(job: str, rounds: int) -> str:
    """Return a table with CPU milliseconds of a prediction, by model and number of rows."""
    import onnxruntime
    import torch

    import ple_keras as pk

    x, _ = make_data(max(PREDICTED))
    model = ours(job)
    with tempfile.TemporaryDirectory() as folder:
        batch = {0: torch.export.Dim("batch")}
        shapes = dict.fromkeys(x, batch)
        model.export(f"{folder}/model.pt2", format="torch", dynamic_shapes=shapes, verbose=False)
        program = torch.export.load(f"{folder}/model.pt2").module()
        pk.export_onnx(model, f"{folder}/model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(f"{folder}/model.onnx", options)

    def run_program(x: Arrays) -> list[Any]:
        with torch.no_grad():
            outputs = program({name: torch.from_numpy(codes) for name, codes in x.items()})
        return [tensor.numpy() for tensor in outputs.values()]

    models: dict[str, Callable[[Arrays], Any]] = {
        "ours": model.predict_on_batch,
        "ours, eagerly": ours(job, run_eagerly=True).predict_on_batch,
        "exported program": run_program,
        "ONNX": partial(session.run, None),
        BY_HAND: by_hand(job)[1],
    }
    cells = {name: [name] for name in models}
    for rows in PREDICTED:
        first = {name: codes[:rows] for name, codes in x.items()}
        calls = {name: partial(predict, first) for name, predict in models.items()}
        seconds = measure_interleaved(calls, rounds, time.process_time)
        for name, taken in seconds.items():
            ratio = median_ratio(taken, seconds[BY_HAND])
            cells[name].append(f"{median_ms(taken):.2f} ({ratio:.2f})")
    return align_columns([[job, *map(str, PREDICTED)], *cells.values()])


def format_table(seconds: dict[str, Seconds]) -> str:
    """Return a row for each model."""
    baselines = [name for name in ("plain", BY_HAND) if name in seconds]
    table = [["", "fit, ms", *(f"of {name}" for name in baselines)]]
    for name, taken in seconds.items():
        ratios = [f"{median_ratio(taken, seconds[baseline]):.2f}" for baseline in baselines]
        table.append([name, f"{median_ms(taken):.2f}", *ratios])
    return align_columns(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the models in turns, and print a table per job."""
    parser = make_parser(__doc__)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=["small"], help="default: small")
    parser.add_argument("--predictions", action="store_true", help="compare predictions instead")
    parser.add_argument("--steps", type=int, default=50, help="of a turn, default 50")
    parser.add_argument("--rounds", type=int, default=10, help="default: 10")
    args = parser.parse_args(arguments)
    start_backend()
    for job in args.jobs:
        if args.predictions:
            print(measure_predictions(job, args.rounds))
            continue
        print(format_table(measure(job, args.steps, args.rounds)))


if __name__ == "__main__":
    main()

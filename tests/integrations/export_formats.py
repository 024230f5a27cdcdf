"""Export a PLE to every format of the backend, and run the files without Keras.

    pip install -e ".[export-tensorflow,tensorflow]"
    KERAS_BACKEND=tensorflow python -m tests.integrations.export_formats

    saved_model   TensorFlow; JAX, if TensorFlow is installed                run by TensorFlow
    onnx          TensorFlow, PyTorch; JAX, if jax2onnx is installed         run by onnxruntime
    torch         PyTorch: an ExportedProgram                                run by PyTorch
    litert        TensorFlow                                                 run by ai-edge-litert

Each file is exported once, for any batch size. A process without Keras and ple_keras
(`serve_exported.py`) runs it on batches of 1, 7 and 64. The script prints the largest difference
from `model.predict` over all tasks. `--all` repeats this for every kind of model: blocks, experts,
inputs, dtype policies. `--keep FOLDER` keeps the files.
"""

import argparse
import contextlib
import importlib.util
import io
import itertools
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # must be set before the import

import keras
import numpy as np

import ple_keras as pk
from tests.integrations.export_cases import Case, build, cases, make_inputs

BATCHES = (1, 7, 64)
BACKEND = keras.backend.backend()


def export_saved_model(model: keras.Model, folder: Path) -> None:
    """Export a SavedModel. `tf.saved_model.load(path).serve(x)` returns a dict by task."""
    model.export(folder / "saved_model", format="tf_saved_model", verbose=False)


def export_onnx(model: keras.Model, folder: Path) -> None:
    """Export an ONNX file whose outputs have the tasks' names."""
    pk.export_onnx(model, folder / "model.onnx")


def export_torch(model: keras.Model, folder: Path) -> None:
    """Export an ExportedProgram for any batch size.

    `torch.export.load(path).module()(x)` returns a dict by task.
    """
    import torch

    batch = {0: torch.export.Dim("batch")}
    names = [x.name for x in model.inputs]
    model.export(
        folder / "model.pt2",
        format="torch",
        verbose=False,
        dynamic_shapes=dict.fromkeys(names, batch) if len(names) > 1 else batch,
    )


def export_litert(model: keras.Model, folder: Path) -> None:
    """Export a LiteRT file. Only its signature has the tasks' names; output order is arbitrary."""
    model.export(folder / "model.tflite", format="litert", verbose=False)


EXPORTERS: dict[str, Callable[[keras.Model, Path], None]] = {
    "saved_model": export_saved_model,
    "onnx": export_onnx,
    "torch": export_torch,
    "litert": export_litert,
}
REQUIRED_PACKAGES = {  # additional packages by format and backend
    "saved_model": {"tensorflow": [], "jax": ["tensorflow"]},
    "onnx": {
        "tensorflow": ["onnxruntime", "tf2onnx"],
        "torch": ["onnx", "onnxruntime"],
        "jax": ["jax2onnx", "onnxruntime"],
    },
    "torch": {"torch": []},
    "litert": {"tensorflow": ["ai_edge_litert"]},
}


def to_call_argument(inputs: dict[str, Any]) -> Any:
    """Return the tensor itself for a model with one input, and the dict for several."""
    return inputs if len(inputs) > 1 else next(iter(inputs.values()))


def available_formats() -> list[str]:
    """Return the formats that this backend exports. Print formats with missing packages."""
    formats = []
    for name, needs in REQUIRED_PACKAGES.items():
        if BACKEND in needs:
            missing = [x for x in needs[BACKEND] if importlib.util.find_spec(x) is None]
            formats += [] if missing else [name]
            if missing:
                print(f"{name}: needs {' and '.join(missing)}", flush=True)
    return formats


def export(case: Case, formats: list[str], folder: Path) -> None:
    """Write a model's files, inputs and predictions for `serve` and `largest_difference`."""
    model = build(case)
    for name in formats:
        here = folder / name
        here.mkdir(parents=True)
        try:
            with suppress_output():
                EXPORTERS[name](model, here)
        except Exception as error:
            (here / "error.txt").write_text(f"export: {type(error).__name__}: {error}")
    inputs = make_inputs(model, max(BATCHES))
    np.savez(folder / "predictions.npz", **model.predict(to_call_argument(inputs), max(BATCHES), 0))
    for rows, name in itertools.product(BATCHES, formats):
        first = {key: x[:rows] for key, x in inputs.items()}
        np.savez(folder / name / f"inputs_{rows}.npz", **first)


@contextlib.contextmanager
def suppress_output() -> Iterator[None]:
    """Suppress the output of exporters."""
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def serve(folders: list[Path]) -> None:
    """Run all files in one process without Keras."""
    script = Path(__file__).with_name("serve_exported.py")
    whole = [folder for folder in folders if not (folder / "error.txt").exists()]
    subprocess.run([sys.executable, "-I", script, *whole], check=True, stderr=subprocess.DEVNULL)


def largest_difference(folder: Path) -> str:
    """Return the largest difference from `predict`, or the error."""
    if (folder / "error.txt").exists():
        return (folder / "error.txt").read_text()
    predictions, largest = np.load(folder.parent / "predictions.npz"), 0.0
    for rows in BATCHES:
        outputs = np.load(folder / f"outputs_{rows}.npz")
        if set(outputs) != set(predictions):
            return f"other names: {list(outputs)}"
        errors = [abs(outputs[task] - predictions[task][:rows]) for task in predictions]
        largest = max(largest, *(error.max() for error in errors))
    return f"{largest:.0e}"


def main(argv: list[str] | None = None) -> int:
    """Export, run and compare. Return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="export every kind of model")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="new folder that keeps the files"
    )
    args = parser.parse_args(argv)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    formats, chosen = available_formats(), list(cases()) if args.all else [Case()]
    if not formats:
        return 2
    with contextlib.ExitStack() as stack:
        root = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folders = [root / f"{index:02}" for index, _ in enumerate(chosen)]
        for case, folder in zip(chosen, folders):
            export(case, formats, folder)
        serve([folder / name for folder in folders for name in formats])
        found = [[largest_difference(folder / name) for name in formats] for folder in folders]
    print_table(formats, chosen, found)
    return 0


def print_table(formats: list[str], chosen: list[Case], found: list[list[str]]) -> None:
    """Print a line per model, then each error once, without file and node names."""
    found = [[" ".join(x for x in cell.split() if "/" not in x) for cell in row] for row in found]
    errors = list(dict.fromkeys(cell for row in found for cell in row if ":" in cell))
    width = max(len(case.describe()) for case in chosen)
    print(" " * width + "".join(f"{name:>13}" for name in formats))
    for case, row in zip(chosen, found):
        cells = [f"error {errors.index(cell) + 1}" if cell in errors else cell for cell in row]
        print(case.describe().ljust(width) + "".join(f"{cell:>13}" for cell in cells))
    for number, error in enumerate(errors, 1):
        print(f"\nerror {number}: {error[:400]}")


if __name__ == "__main__":
    sys.exit(main())

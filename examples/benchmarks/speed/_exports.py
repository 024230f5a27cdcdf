"""Export of models for serving: exported, loaded again, and called without Keras.

SavedModel  on TensorFlow
ONNX        on TensorFlow and PyTorch, run by onnxruntime, if Keras's export packages are
            installed: pip install -e ".[bench]"
"""

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

ONNX_PACKAGES = {"tensorflow": ("onnxruntime", "tf2onnx"), "torch": ("onnxruntime", "onnx")}


def available_formats() -> dict[str, Callable[[keras.Model, np.ndarray, Path], Callable[[], Any]]]:
    """Return the backend's export formats: functions of a model, its input and a new folder."""
    backend = keras.backend.backend()
    formats = {"SavedModel": _saved_model} if backend == "tensorflow" else {}
    if backend not in ONNX_PACKAGES:
        return formats
    missing = [name for name in ONNX_PACKAGES[backend] if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f'ONNX is skipped, it needs {", ".join(missing)}: pip install -e ".[bench]"', flush=True
        )
        return formats
    return {**formats, "ONNX": _onnx}


def _saved_model(model: keras.Model, x: np.ndarray, folder: Path) -> Callable[[], Any]:
    import tensorflow as tf

    with _suppress_output():
        model.export(folder / "saved_model", format="tf_saved_model", verbose=False)
    served = tf.saved_model.load(folder / "saved_model")
    inputs = keras.tree.map_structure(lambda _: x, model.input)  # DeepCTR's input is a list of one
    return lambda: keras.tree.map_structure(np.asarray, served.serve(inputs))


def _onnx(model: keras.Model, x: np.ndarray, folder: Path) -> Callable[[], Any]:
    import onnxruntime

    folder.mkdir()
    with _suppress_output():
        model.export(folder / "model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(
        folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, feed)


@contextlib.contextmanager
def _suppress_output() -> Any:
    """Suppress the output of exporters."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)

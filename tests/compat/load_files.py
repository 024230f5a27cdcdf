"""Load the files of released versions with the current backend.

For each file, `check` returns the differences from the results that `write_files.py` of its version
recorded.
"""

import importlib.util
import json
import sys
import tempfile
import traceback
import zipfile
from pathlib import Path

import keras
import numpy as np

FOLDER = Path(__file__).parent
BACKEND = keras.backend.backend()
TOLERANCE = 1e-5
# Compiled programs keep intermediate bfloat16 results in float32. Eager programs round them. The
# gradient of a bias before a batch normalization is a rounding error, which Adam makes a step of.
LOOSE_TOLERANCES = {"mixed_bfloat16": 3e-2, "experts_by_level": 1e-4}


def archives():
    """Return the archive of each model of each released version."""
    return sorted(FOLDER.glob("*/**/*.zip"))


class Files:
    """The files of one model, unpacked into a folder."""

    def __init__(self, archive, folder):
        version, *_, self.backend, _ = archive.relative_to(FOLDER).parts
        self.name = archive.stem
        self.tolerance = LOOSE_TOLERANCES.get(self.name, TOLERANCE)
        self.writer = _writer(version)
        self.case = self.writer.CASES[self.name]
        with zipfile.ZipFile(archive) as files:
            files.extractall(folder)
        self.model = Path(folder, f"{self.name}.keras")
        self.weights = Path(folder, f"{self.name}.weights.h5")
        with np.load(Path(folder, f"{self.name}.npz"), allow_pickle=False) as results:
            self.results = dict(results)
        with zipfile.ZipFile(self.model) as parts:
            self.keras_version = json.loads(parts.read("metadata.json"))["keras_version"]
            config = parts.read("config.json")
            self._names_class_of_torch = b"keras.src.backend.torch.optimizers" in config

    def result(self, key):
        """Return a recorded array, or a dict of the arrays under "{key}/..."."""
        if key in self.results:
            return self.results[key]
        names = [name for name in self.results if name.startswith(f"{key}/")]
        return {name.removeprefix(f"{key}/"): self.results[name] for name in names}

    @property
    def names_optimizer_of_torch(self):
        """Whether the file names an optimizer class of PyTorch under another backend.

        On PyTorch, Keras writes `keras.src.backend.torch.optimizers.torch_adam>Adam`. Even a model
        of one Dense layer then does not load on JAX or TensorFlow without torch. With torch,
        `evaluate` works and a training step raises TypeError. The model is then loaded without it
        and compiled again, as docs/backends.md says.
        """
        return self._names_class_of_torch and BACKEND != "torch"

    def reason_to_skip(self, ending):
        """Return why the current Keras cannot read a file, or None if it can.

        An older Keras refuses arguments of layers from a newer one, even of a Dense layer. Weights
        files have no such arguments, except for quantized layers.
        """
        is_newer = _minor(self.keras_version) > _minor(keras.__version__)
        if is_newer and (ending == ".keras" or self.case.quantize):
            return f"written by Keras {self.keras_version}, which is newer than {keras.__version__}"
        return None


def _minor(version):
    return [int(number) for number in version.split(".")[:2]]


def _writer(version):
    """Return the module `write_files` of a version."""
    name = f"{__package__}.write_files_{version.replace('.', '_')}"
    if name not in sys.modules:
        path = FOLDER / version / "write_files.py"
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def check_model(files):
    """Return the differences in the results of a `.keras` file, and in the paths of its weights."""
    writer, inputs = files.writer, files.result("inputs")
    model = keras.models.load_model(files.model, compile=not files.names_optimizer_of_torch)
    if files.names_optimizer_of_torch:
        writer.compile_model(files.name, model)
        model.optimizer.build(model.trainable_variables)
        model.load_weights(files.model)  # with the optimizer's state
    _run_eagerly(model)
    trainable = np.array([weight.trainable for weight in model.weights])
    found = _differences(files, "weights/trainable", trainable)
    recorded = {key.split("/")[0] for key in files.results}
    # Keras cannot train a quantized model with the optimizer of its file.
    if "optimizer" in recorded:  # the loaded state, before any step
        state, iterations = writer.optimizer_state(model), int(model.optimizer.iterations)
        found += _differences(files, "optimizer", state, tolerance=0)
        found += _differences(files, "iterations", iterations, tolerance=0)
    found += _differences(files, "predictions", writer.predictions_of(model, inputs))
    evaluation = writer.evaluation_of(model, inputs, files.result("labels"))
    found += _differences(files, "evaluate", evaluation)
    if "step_logs" in recorded:
        logs = writer.training_step(model, inputs, files.result("labels"))
        found += _differences(files, "step_logs", logs)
        found += _differences(files, "step_predictions", writer.predictions_of(model, inputs))
    return found, _moved_paths(files, model)


def check_weights(files):
    """Return the differences in the results of a `.weights.h5` file, loaded into a new model.

    The weights of a quantized model quantize the new model.
    """
    keras.utils.set_random_seed(1)
    model = _run_eagerly(files.case.build())
    model.load_weights(files.weights)
    predictions = files.writer.predictions_of(model, files.result("inputs"))
    found = _differences(files, "predictions", predictions)
    if files.case.quantize:  # load them into a quantized model too
        model = _run_eagerly(files.case.build())
        model.quantize(files.case.quantize)
        model.load_weights(files.weights)
        predictions = files.writer.predictions_of(model, files.result("inputs"))
        found += _differences(files, "predictions", predictions)
    return found, []


def _run_eagerly(model):
    """Set a model to eager mode. A few eager steps are faster than compiling a small model."""
    model.run_eagerly = True
    model.jit_compile = False
    return model


def _moved_paths(files, model):
    """Return the changed paths of weights.

    Keras itself drops the name of a subclassed model from the paths of its weights, even for a
    model of one Dense layer.
    """
    prefix = f"{model.name}/"
    saved = [str(path).removeprefix(prefix) for path in files.result("weights/path")]
    paths = [weight.path.removeprefix(prefix) for weight in model.weights]
    if len(paths) != len(saved):
        return [f"there were {len(saved)} weights, there are {len(paths)}"]
    return [f"{old} became {new}" for old, new in zip(saved, paths) if old != new]


def _differences(files, key, actual, tolerance=None):
    """Return the differences of an array, or of each array of a dict, from the recorded one."""
    saved = files.result(key)
    tolerance = files.tolerance if tolerance is None else tolerance
    if not isinstance(saved, dict):
        text = _difference(saved, np.asarray(actual), tolerance)
        return [f"{key}: {text}"] if text else []
    if set(saved) != set(actual):
        return [f"{key}: the keys were {sorted(saved)}, they are {sorted(actual)}"]
    texts = {
        name: _difference(saved[name], np.asarray(actual[name]), tolerance)
        for name in saved
        # The AUC of one class was 0 in 0.1.0.
        if not (name.endswith("auc") and saved[name] == 0 and np.isnan(actual[name]))
    }
    return [f"{key} {name!r}: {text}" for name, text in texts.items() if text]


def _difference(saved, actual, tolerance):
    if saved.shape != actual.shape:
        return f"the shape was {saved.shape}, it is {actual.shape}"
    saved, actual = saved.astype("float64"), actual.astype("float64")
    if np.allclose(actual, saved, rtol=tolerance, atol=tolerance, equal_nan=True):
        return ""
    largest = np.abs(actual - saved).max()
    return f"was {_short(saved)}, is {_short(actual)}, the largest difference is {largest:.2g}"


def _short(array):
    text = ", ".join(f"{value:.6g}" for value in array.ravel()[:4])
    return f"[{text}, ...]" if array.size > 4 else f"[{text}]"


FORMATS = {".keras": check_model, ".weights.h5": check_weights}


def check(archive, ending):
    """Return the differences of the file of an archive with an ending. So is an exception."""
    reason, results, paths = None, [], []
    with tempfile.TemporaryDirectory() as folder:
        try:
            files = Files(archive, folder)
            reason = files.reason_to_skip(ending)
            if reason is None:
                results, paths = FORMATS[ending](files)
        except Exception:
            results = [traceback.format_exc()]
    return {"skipped": reason, "results": results, "paths": paths}

"""The folder that training writes and serve.py reads: versions of a model and its columns.

    service/
        20270131-101500-123456/
            columns.json    the encoding
            model.onnx      returns the predictions, and the gate weights if they are outputs
            model.keras

A version is written elsewhere and renamed when it is complete, so a service never sees a part of
it. The newest version that works is served. To go back to the previous one, delete it.
"""

import datetime
import re
import shutil
import sys
import tempfile
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np

# The file of `Columns` needs NumPy alone. Importing ple_keras would import Keras and a backend.
if package := find_spec("ple_keras"):  # without it, a copy of the file is next to this folder
    sys.path.append(f"{package.submodule_search_locations[0]}/columns")
from columns import Columns

GATE = "gate/"  # prefix of the names of outputs that are gate weights
PART = ".part-"  # prefix of the folder of a version that is being written
DAY = 24 * 3600


def publish(folder, model, columns):
    """Write a new version of a model and its columns, which running services soon load.

    Without a package of the exporter, or if it fails, there is no ONNX file, and services run
    Keras. What a killed `publish` left in the folder is removed after a day.
    """
    import ple_keras as pk

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for part in folder.glob(f"{PART}*"):
        if part.stat().st_mtime < time.time() - DAY:
            shutil.rmtree(part)
    now = datetime.datetime.now(datetime.UTC)
    with tempfile.TemporaryDirectory(dir=folder, prefix=PART) as part:
        version = Path(part, now.strftime("%Y%m%d-%H%M%S-%f"))
        version.mkdir()
        columns.save(version / "columns.json")
        model.save(version / "model.keras")
        check_digest(version, columns)
        try:
            pk.export_onnx(model, version / "model.onnx")
        except (ImportError, RuntimeError, ValueError) as error:  # all errors of a valid model
            print(f"{folder} has no ONNX file, so the service needs Keras. {error}")
        return version.rename(folder / version.name)


def check_digest(version, columns):
    """Check that the network of the model in a version was built by the columns.

    A network of `Columns` has the digest of the columns in the name of a layer. Other networks, and
    those of earlier versions, are not checked.
    """
    with zipfile.ZipFile(version / "model.keras") as file:
        found = {*re.findall(r"\bcolumns_([0-9a-f]{16})\b", file.read("config.json").decode())}
    if found - {columns.digest}:
        raise ValueError(
            "The model and the columns must be of one training: their digests differ. "
            f"Received: {columns.digest} of the columns, {', '.join(found)} of the model"
        )


def versions(folder):
    """Return the paths of the versions, the newest first. Their names begin with a digit."""
    return sorted((path for path in Path(folder).iterdir() if path.name[0].isdigit()), reverse=True)


class Model:
    """Version of a model with its columns, which has already predicted rows of known values.

    Attributes:
        columns: The encoding.
        widths: The width of each prediction by task.
    """

    def __init__(self, version):
        self.version = version.name
        self.columns = Columns.load(version / "columns.json")
        if (version / "model.keras").exists():
            check_digest(version, self.columns)
        self._run = load_onnx(version) if (version / "model.onnx").exists() else load_keras(version)
        for rows in (1, 2, 3):  # with the last codes, to check that they fit
            _, outputs = self.predict([self.columns.example()] * rows)
            for name, values in outputs.items():
                if len(values) != rows or not np.isfinite(values).all():
                    raise ValueError(f"{name} must be finite, in {rows=}. Received: {values}")
        self.widths = {k: v.shape[1] for k, v in outputs.items() if not k.startswith(GATE)}

    def predict(self, rows):
        """Return the inputs and the outputs of a list of rows."""
        x = self.columns.transform(rows)
        return x, self._run(x)


def load_onnx(version):
    """Return a function that maps inputs to outputs by name, without Keras."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # batches are small
    session = onnxruntime.InferenceSession(
        version / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return lambda x: dict(zip(names, session.run(None, x)))


def load_keras(version):
    """Return a function that maps inputs to outputs by name."""
    import keras

    import ple_keras  # noqa: F401, registers the layers

    model = keras.models.load_model(version / "model.keras", compile=False)
    return model.predict_on_batch

"""The folder that training writes and serve.py reads: versions of a model and its columns.

    service/
        00000001/
            manifest.json   the number of the version, and the SHA-256 of each other file
            columns.json    the encoding
            model.onnx      returns the predictions, and the gate weights if they are outputs
            model.keras

A version is written elsewhere and renamed when it is complete, so a service never sees a part of
it. The version with the largest number that works is served. No clock is read. To go back to the
previous one, call `rollback`.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np

# The file of `Columns` needs NumPy alone. Importing ple_keras would import Keras and a backend.
if package := find_spec("ple_keras"):  # without it, a copy of the file is next to this folder
    sys.path.append(f"{package.submodule_search_locations[0]}/columns")
from columns import Columns

GATE = "gate/"  # prefix of the names of outputs that are gate weights
PART = ".part-"  # prefix of the folder of a version that is being written or removed
MARK = "rolled-back"  # file in a version that services do not use
DAY = 24 * 3600


def publish(folder, model, columns=None):
    """Write a new version of a model and its columns, which running services soon load.

    Without a package of the exporter, or if it fails, there is no ONNX file, and services run
    Keras. What a killed `publish` left in the folder is removed after a day.

    Args:
        folder: The folder. Write to it from one process at a time.
        model: A TabularModel, or a model whose inputs are the columns.
        columns: The columns that encoded the training data; None for a TabularModel.

    Returns:
        The path of the version.
    """
    import ple_keras as pk

    names = {}
    if columns is None:
        names = {task: column for column, task in model.task_names.items()}
        model, columns = model.keras_model, model.columns
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for unfinished in folder.glob(f"{PART}*"):
        if unfinished.stat().st_mtime < time.time() - DAY:
            shutil.rmtree(unfinished)
    packed = not {x.name for x in model.inputs} >= {*columns.transform([])}
    pk.check_inputs(model, columns.transform([columns.example()], packed), columns=columns)
    with tempfile.TemporaryDirectory(dir=folder, prefix=PART) as unfinished:
        version = Path(unfinished, "version")
        version.mkdir()
        columns.save(version / "columns.json")
        model.save(version / "model.keras")
        try:
            pk.export_onnx(model, version / "model.onnx")
        except (ImportError, RuntimeError, ValueError) as error:  # all errors of a valid model
            print(f"{folder} has no ONNX file, so the service needs Keras. {error}")
        hashes = {path.name: sha256(path) for path in version.iterdir()}
        number = 1 + max((int(path.name) for path in all_versions(folder)), default=0)
        manifest = {"number": number, "packed": packed, "names": names, "sha256": hashes}
        (version / "manifest.json").write_text(json.dumps(manifest))
        for path in (*version.iterdir(), version):
            write_to_disk(path)
        version = version.rename(folder / f"{number:08}")
        write_to_disk(folder)
        return version


def by_column(columns, x, packed):
    """Return the inputs as a dict keyed by column."""
    names = {input_name: name for name, input_name in columns.inputs.items()}
    blocks = {"ids": columns.ids, "numbers": columns.numbers} if packed else {}
    pairs = [zip(blocks[k], v.T) if k in blocks else [(names.get(k, k), v)] for k, v in x.items()]
    return dict(chain(*pairs))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_to_disk(path):
    """Wait until a file or a folder will survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def all_versions(folder):
    """Return the paths of all versions, the newest first."""
    found = [path for path in Path(folder).iterdir() if re.fullmatch(r"\d{8}", path.name)]
    return sorted(found, reverse=True)


def versions(folder):
    """Return the paths of the versions that are not rolled back, the newest first."""
    return [path for path in all_versions(folder) if not (path / MARK).exists()]


def rollback(folder):
    """Mark the newest version, so that services go back to the one before it, which is returned.

    The version stays in the folder, and its number is not used again. To use it again, remove the
    file "rolled-back".
    """
    found = versions(folder)
    if len(found) < 2:
        names = [path.name for path in found]
        raise ValueError(f"folder must have a version to go back to. Received: {names}")
    (found[0] / MARK).touch()
    write_to_disk(found[0])
    return found[1]


def prune(folder, keep):
    """Remove all versions before the newest `keep` ones that are not rolled back."""
    if keep < 1:
        raise ValueError(f"keep must be at least 1. Received: keep={keep}")
    kept = versions(folder)[:keep]
    for path in all_versions(folder):
        if kept and path < kept[-1]:
            shutil.rmtree(path.rename(path.with_name(PART + path.name)))


def read_manifest(version):
    """Return the manifest of a version, whose number and files it describes."""
    manifest = json.loads((version / "manifest.json").read_text())
    wrong = [name for name, each in manifest["sha256"].items() if sha256(version / name) != each]
    if wrong or manifest["number"] != int(version.name):
        raise ValueError(
            f"{version} must have the number and the files of its manifest, which publish wrote. "
            f"Received: number={manifest['number']}, and other contents of {wrong}"
        )
    return manifest


class Model:
    """Version of a model with its columns, which has already predicted rows of known values.

    Args:
        version: The path of the version.

    Attributes:
        columns: The encoding.
        widths: The width of each prediction by task.
    """

    def __init__(self, version):
        self.version = version.name
        manifest = read_manifest(version)
        self.columns = Columns.load(version / "columns.json")
        self._packed = manifest["packed"]
        self._names = manifest["names"]  # of the columns of labels, by task
        load = load_onnx if "model.onnx" in manifest["sha256"] else load_keras
        self._run = load(version, self.columns, self._packed)
        for rows in (1, 2, 3):  # with the last codes, to check that they fit
            _, outputs = self.predict([self.columns.example()] * rows)
            for name, values in outputs.items():
                if len(values) != rows or not np.isfinite(values).all():
                    raise ValueError(f"{name} must be finite, in {rows=}. Received: {values}")
        self.widths = {k: v.shape[1] for k, v in outputs.items() if not k.startswith(GATE)}

    def predict(self, rows):
        """Return the encoded columns and the outputs of a list of rows."""
        x = self.columns.transform(rows, self._packed)
        outputs = {self._names.get(name, name): each for name, each in self._run(x).items()}
        return by_column(self.columns, x, self._packed), outputs


def load_onnx(version, columns, packed):
    """Return a function that maps inputs to outputs by name, without Keras."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # batches are small
    session = onnxruntime.InferenceSession(
        version / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    digest = session.get_modelmeta().custom_metadata_map.get("columns_digest")
    if digest not in ("", columns.digest):  # empty without a network of Columns
        raise ValueError(
            "The model and the columns must be of one training: their digests differ. "
            f"Received: {columns.digest} of the columns, {digest} of model.onnx"
        )
    names = [output.name for output in session.get_outputs()]
    return lambda x: dict(zip(names, session.run(None, x)))


def load_keras(version, columns, packed):
    """Return a function that maps inputs to outputs by name."""
    import keras

    import ple_keras as pk

    model = keras.models.load_model(version / "model.keras", compile=False)
    pk.check_inputs(model, columns.transform([columns.example()], packed), columns=columns)
    return model.predict_on_batch

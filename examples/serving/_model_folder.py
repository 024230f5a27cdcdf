"""The folder that train.py writes and serve.py reads: a model, its encoding and their hashes.

    census_service/
        model-5d41a0c2e8f1.onnx      outputs: the predictions, and the weights of each gate
        columns-0cc175b9c0f1.json    the known categories of each column
        manifest.json                the SHA-256 of both files

The names of files contain their hashes, so the files of a new model lie next to those in use. The
manifest is replaced last, in one step: it changes both files at once. An older manifest, put back,
brings the older model back.
"""

import hashlib
import json
import os

import numpy as np
import onnxruntime

TASKS = "income", "never_married"
NUMBERS = "age", "wage_per_hour", "capital_gains", "dividends", "employer_size", "weeks_worked"
CATEGORIES = "class_of_worker", "education", "industry", "occupation", "citizenship"
UNKNOWN = 1  # 0 is a missing category, which the service refuses; the known ones start at 2
GATE = "gate/"  # begins the names of outputs that are the weights of a gate
MODEL, COLUMNS, MANIFEST = "model.onnx", "columns.json", "manifest.json"


def codes_of(known):
    """Return the codes of the known categories by column."""
    return {name: {v: i for i, v in enumerate(each, UNKNOWN + 1)} for name, each in known.items()}


def encode(codes, columns):
    """Return the inputs of the model. `columns` has the values of each column."""
    inputs = {name: np.asarray(columns[name], "float32") for name in NUMBERS}
    for name, known in codes.items():
        inputs[name] = np.array([known.get(value, UNKNOWN) for value in columns[name]], "int32")
    return inputs


def publish(folder, model, known):
    """Write the bytes of an ONNX file and the known categories. Services load them soon."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {MODEL: model, COLUMNS: json.dumps(known).encode()}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    for name, content in files.items():
        write(path_of(folder, name, hashes[name]), content)
    write(folder / MANIFEST, json.dumps(hashes, indent=1).encode())


def write(path, content):
    """Write a file in one step: readers see the old content or the new one."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def path_of(folder, name, digest):
    stem, suffix = name.split(".")
    return folder / f"{stem}-{digest[:12]}.{suffix}"


def version_of(manifest):
    """Return a name of the model that the bytes of a manifest describe."""
    return hashlib.sha256(manifest).hexdigest()[:12]


class Model:
    """A model that fits the service, and its encoding.

    Raises:
        ValueError: If a file has another hash than in the manifest, or the columns or the tasks are
            not those of the service, or a prediction is not finite.
        OSError: If a file can't be read.
    """

    def __init__(self, folder):
        manifest = (folder / MANIFEST).read_bytes()
        self.version, hashes = version_of(manifest), json.loads(manifest)
        model, known = (read(folder, name, hashes[name]) for name in (MODEL, COLUMNS))
        self._codes = codes_of(json.loads(known))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the rows of a batch are few
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(model, options, providers=providers)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._check()

    def predict(self, rows):
        """Return the inputs and the outputs of a list of rows."""
        names = (*NUMBERS, *CATEGORIES)
        inputs = encode(self._codes, {name: [row[name] for row in rows] for name in names})
        return inputs, self._run(inputs)

    def _run(self, inputs):
        return dict(zip(self._outputs, self._session.run(None, inputs)))

    def _check(self):
        check_equal("encoded columns", sorted(self._codes), sorted(CATEGORIES))
        expected = dict.fromkeys(NUMBERS, "tensor(float)")
        expected |= dict.fromkeys(CATEGORIES, "tensor(int32)")
        check_equal("inputs", {i.name: i.type for i in self._session.get_inputs()}, expected)
        # ONNX Runtime refuses a code that a table does not have. The last one is tried.
        ends = {name: [UNKNOWN, UNKNOWN + len(known)] for name, known in self._codes.items()}
        inputs = {name: np.zeros(2, "float32") for name in NUMBERS}
        outputs = self._run(inputs | {name: np.array(each, "int32") for name, each in ends.items()})
        shapes = {name: v.shape for name, v in outputs.items() if not name.startswith(GATE)}
        check_equal("predictions", shapes, dict.fromkeys(TASKS, (2, 1)))
        for name, values in outputs.items():
            if not np.isfinite(values).all():
                raise ValueError(f"{name} must be finite. Received: {values}")


def read(folder, name, digest):
    """Return the content of a file of the manifest."""
    path = path_of(folder, name, digest)
    content = path.read_bytes()
    check_equal(f"SHA-256 of {path.name}", hashlib.sha256(content).hexdigest(), digest)
    return content


def check_equal(name, received, expected):
    if received != expected:
        raise ValueError(f"The {name} must be {expected}. Received: {received}")

"""Run exported models without Keras: `python -I serve_exported.py FOLDER...`.

Each folder holds an artifact and files `inputs_*.npz`, arrays by the names of the model's inputs.
For each of these files, `outputs_*.npz` is written, arrays by the artifact's output names, or
`error.txt`. An import finder that hides Keras and ple_keras simulates a machine without them.
"""

import sys
import warnings
from collections.abc import Callable
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


class FinderWithoutKeras(PathFinder):
    """Import finder that hides Keras and ple_keras."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname.partition(".")[0] in ("keras", "ple_keras"):
            return None
        return super().find_spec(fullname, path, target)


def load_saved_model(path: Path) -> Callable[[Arrays], Any]:
    import tensorflow as tf

    served = tf.saved_model.load(path)
    return lambda inputs: served.serve(to_call_argument(inputs))


def load_onnx(path: Path) -> Callable[[Arrays], Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs)))


def load_torch(path: Path) -> Callable[[Arrays], Any]:
    import torch

    module = torch.export.load(path).module()

    def run(inputs: Arrays) -> Any:
        tensors = {name: torch.from_numpy(x) for name, x in inputs.items()}
        with torch.no_grad():
            return module(to_call_argument(tensors))

    return run


def load_litert(path: Path) -> Callable[[Arrays], Any]:
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path)).get_signature_runner("serving_default")
    return lambda inputs: run(**inputs)


LOADERS = {
    "saved_model": load_saved_model,
    "model.onnx": load_onnx,
    "model.pt2": load_torch,
    "model.tflite": load_litert,
}


def to_call_argument(inputs: dict[str, Any]) -> Any:
    """Return the tensor itself for a model with one input, and the dict for several."""
    return inputs if len(inputs) > 1 else next(iter(inputs.values()))


def serve(folder: Path) -> None:
    """Run the artifact in a folder on all inputs there."""
    (artifact,) = [name for name in LOADERS if (folder / name).exists()]
    run = LOADERS[artifact](folder / artifact)
    for file in sorted(folder.glob("inputs_*.npz")):
        outputs = run(dict(np.load(file)))
        arrays = {name: np.asarray(output) for name, output in outputs.items()}
        np.savez(folder / file.name.replace("inputs", "outputs"), **arrays)


def main(folders: list[str]) -> None:
    """Run the artifact in each folder. If one fails, write its error and continue."""
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, FinderWithoutKeras]
    warnings.simplefilter("ignore")
    for folder in map(Path, folders):
        try:
            serve(folder)
        except Exception as error:
            (folder / "error.txt").write_text(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])

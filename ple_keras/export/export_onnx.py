"""Export of a model to an ONNX file with the names of the model's inputs and outputs."""

import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, SupportsIndex

import keras

from ple_keras._checks import check_int, short_repr
from ple_keras._keras.internals import functional_outputs
from ple_keras._keras.walking import find_layers
from ple_keras.export._onnx_file import check_predictions, name_values

Struct = Any  # a tensor, a list or a dict of tensors
LOCK = Lock()  # exporters, and the filters of warnings, belong to the whole process
NEEDED = {"tensorflow": ["onnx", "tf2onnx"], "torch": ["onnx"], "jax": ["onnx", "jax2onnx"]}


def export_onnx(model: keras.Model, path: str | Path, opset: SupportsIndex | None = None) -> None:
    """Write a model to an ONNX file, which runs without Keras.

    The inputs and outputs of the file have the names and the order of the model's: the keys of a
    dict, and otherwise the names of the inputs and of the layers of the outputs. The batch may have
    any size. `model.export` gives the outputs no names under PyTorch and JAX, and another order.

    Where `onnxruntime` is installed, the file is run on random inputs and compared with
    `model.predict`. The file replaces an older one only if it passes.

    Args:
        model: A Functional model, or a Sequential model that is built. It computes in float32 or
            float16. Its weights and its state do not change.
        path: The file to write. Its folder must exist.
        opset: The version of the ONNX operators. None chooses the exporter's default.

    Raises:
        TypeError: If `model` is not a Keras model, `path` not a path, or `opset` not an integer.
        ValueError: If the model is of another kind, if its inputs or outputs are nested, strings
            or without names of their own, if an output has the name of an input, if no output reads
            an input, or if the model is quantized or computes in bfloat16. If `opset` is below 1.
        ImportError: If a package of the exporter is not installed.
        RuntimeError: If the exporter fails, or the file predicts other values than the model.

    Example:

    >>> inputs = {"price": keras.Input((1,), name="price"), "x": keras.Input((3,), name="x")}
    >>> features = keras.layers.Concatenate()(list(inputs.values()))
    >>> heads = TaskHeads([BinaryHead("click"), BinaryHead("buy")])
    >>> model = keras.Model(inputs, heads(PLEBlock(1, heads, [4])(features)))
    >>> export_onnx(model, "model.onnx")  # doctest: +SKIP

    ONNX Runtime takes the inputs, and returns the outputs, by name:

    >>> session = onnxruntime.InferenceSession("model.onnx")  # doctest: +SKIP
    >>> click, buy = session.run(["click", "buy"], {"price": price, "x": x})  # doctest: +SKIP
    """
    model = _to_functional(model)
    inputs, outputs = _named_tensors(model)
    path = _check_path(path)
    version = None if opset is None else check_int(opset, "opset", minimum=1)
    _check_packages()
    with LOCK, tempfile.TemporaryDirectory(dir=path.parent) as folder:
        file = Path(folder) / "model.onnx"
        _export(list(inputs.values()), list(outputs.values()), file, version)
        name_values(file, inputs, outputs)
        if find_spec("onnxruntime"):
            check_predictions(model, file, inputs, list(outputs))
        file.replace(path)


def _to_functional(model: keras.Model) -> Any:
    """Return a Functional model itself, and a Sequential model as a Functional one."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a Keras model. Received: model={short_repr(model)}")
    if isinstance(model, keras.Sequential) and model.built:
        first = model.inputs[0]
        inputs = outputs = keras.Input(first.shape[1:], dtype=first.dtype, name=first.name)
        for layer in model.layers:
            outputs = layer(outputs)
        return keras.Model(inputs, outputs)
    if functional_outputs(model) is None:
        raise ValueError(
            "model must be a Functional model, or a Sequential model that is built. From another "
            "model, make one: inputs = keras.Input(shape, dtype=dtype, name=name), "
            f"keras.Model(inputs, model(inputs)). Received: model={short_repr(model)}"
        )
    return model


def _named_tensors(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the symbolic inputs and outputs of a Functional model by name."""
    inputs = _by_name(model.input, [tensor.name for tensor in model.inputs], "input")
    outputs = _by_name(model.output, model.output_names, "output")
    both = [name for name in outputs if name in inputs]
    if both:
        raise ValueError(
            "The outputs of model must not have names of inputs, since ONNX has one space of "
            f"names. Rename the keras.Input. Received: model.input={both}, model.output={both}"
        )
    strings = [name for name, tensor in inputs.items() if tensor.dtype == "string"]
    if strings:
        raise ValueError(
            "The inputs of model must be numbers, since exporters take no strings. Encode them "
            f"before the model. Received: model.input={strings} of the dtype string"
        )
    _check_layers(model)
    return inputs, outputs


def _by_name(struct: Struct, names: list[str], what: str) -> dict[str, Any]:
    """Return tensors by name: the keys of a dict, or the given names."""
    if isinstance(struct, Mapping):
        named = dict(struct)
        if not all(isinstance(name, str) and name for name in named):
            raise ValueError(
                f"The keys of model.{what} must be strings of one character or more. "
                f"Received: model.{what}={list(named)}"
            )
    else:
        tensors = struct if isinstance(struct, (list, tuple)) else [struct]
        named = dict(zip(names, tensors))
        if len(named) < len(tensors):
            raise ValueError(
                f"model.{what} must have names of their own: make the model with a dict. "
                f"Received: model.{what}={names}"
            )
    nested = [name for name, tensor in named.items() if not isinstance(tensor, keras.KerasTensor)]
    if nested:
        raise ValueError(
            f"model.{what} must be a tensor, a list or a dict of tensors. "
            f"Received: model.{what}={list(named)}, with tensors inside of {nested}"
        )
    if len({id(tensor) for tensor in named.values()}) < len(named):
        raise ValueError(
            f"The tensors of model.{what} must differ, since ONNX has one name for a tensor. "
            f"Received: model.{what}={list(named)}, two of which are one tensor"
        )
    return named


def _check_layers(model: keras.Model) -> None:
    for layer in find_layers(model, keras.Layer):
        mode = layer.quantization_mode
        if mode is not None:
            raise ValueError(
                "model must not be quantized. Export the float model, and quantize the file with "
                f"onnxruntime.quantization. Received: {layer.name}.quantization_mode={mode!r}"
            )
        if layer.compute_dtype == "bfloat16":
            raise ValueError(
                "model must compute in float32 or float16, since ONNX Runtime has no bfloat16 on "
                "CPUs. Load its weights into such a model. "
                f"Received: {layer.name}.compute_dtype='bfloat16'"
            )


def _check_path(path: str | Path) -> Path:
    try:
        file = Path(path)
    except TypeError:
        raise TypeError(f"path must be a path. Received: path={short_repr(path)}") from None
    if not file.parent.is_dir() or file.is_dir():
        raise ValueError(f"path must be a file in an existing folder. Received: path={path!r}")
    return file


def _check_packages() -> None:
    backend = keras.backend.backend()
    if backend not in NEEDED:
        raise ValueError(
            "export_onnx needs the backend tensorflow, jax or torch. "
            f"Received: KERAS_BACKEND={backend}"
        )
    missing = [name for name in NEEDED[backend] if not find_spec(name)]
    if missing:
        command = 'pip install "ple-keras[export]"' + " jax2onnx" * ("jax2onnx" in missing)
        raise ImportError(f"export_onnx requires {' and '.join(missing)}: {command}")


def _export(inputs: list[Any], outputs: list[Any], file: Path, opset: int | None) -> None:
    """Export the model from lists to lists of tensors, whose order every exporter keeps."""
    model = keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs)
    with _quiet(), _constant_statistics(model):
        model(keras.tree.map_structure(_zeros, model.input))  # Keras refuses uncalled models
        try:
            model.export(file, format="onnx", verbose=False, opset_version=opset)
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            reason = f"{type(error).__name__}: {lines[0][:200]}"
            raise RuntimeError(f"The exporter of Keras failed. {reason}") from error


def _zeros(tensor: keras.KerasTensor) -> Any:
    return keras.ops.zeros([size or 1 for size in tensor.shape], tensor.dtype)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence exporters. They warn of code of Keras, and PyTorch prints graphs if it fails."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def _constant_statistics(model: keras.Model) -> Iterator[None]:
    """Hold the statistics of Normalization layers as arrays.

    Under TensorFlow they are eager tensors, which tf2onnx makes inputs of the file.
    """
    layers = find_layers(model, keras.layers.Normalization)
    kept = [(layer, layer.mean, layer.variance) for layer in layers]
    for layer, mean, variance in kept:
        layer.mean, layer.variance = map(keras.ops.convert_to_numpy, (mean, variance))
    try:
        yield
    finally:
        for layer, mean, variance in kept:
            layer.mean, layer.variance = mean, variance

"""The inputs and outputs of a model by name, and checks that it can be exported to ONNX."""

from collections.abc import Mapping
from typing import Any

import keras

from ple_keras._checks import short_repr
from ple_keras._keras.internals import functional_outputs
from ple_keras._keras.walking import find_layers

Struct = Any  # a tensor, a list or a dict of tensors


def to_functional(model: keras.Model) -> Any:
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


def named_tensors(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
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

"""A check of features before training."""

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from ple_keras._checks import check_keys, short_repr, warn_user
from ple_keras._keras.batches import Batches, first_batches, is_dataset, refuse_steps
from ple_keras._keras.internals import functional_outputs
from ple_keras._keras.layers import BaseLayer
from ple_keras._keras.tensors import is_number, to_numpy
from ple_keras._typing import Nested
from ple_keras.labels.sample_space import check_dtype, format_shape, shapes_match
from ple_keras.layers.stream_features import StreamFeatures
from ple_keras.models.multi_task_model import check_adapted
from ple_keras.models.observed_model import naming_input

LARGE = 100  # mean or standard deviation of a column of numbers
SCALE_ROWS = 100_000  # for means and deviations
FIRST_ROWS = 1000  # of the call of the model, together with rows with an extreme value
MAX_COLUMNS = 1000  # of an array whose extreme values are found
# Layers and operations of Keras that keep all values.
RESHAPES = {"Cast", "Concatenate", "ExpandDims", "Flatten", "Identity", "Permute", "Reshape"}
RESHAPES |= {"Squeeze", "Stack", "Transpose"}
Calls = list[tuple[Any, list[Any], list[Any]]]  # layers with their symbolic inputs and outputs
Arrays = dict[str, np.ndarray]  # by name, such as "x['city']"
Outputs = list[tuple[keras.Layer, np.ndarray]]  # of layers, and of the model


def check_inputs(model: keras.Model, x: Nested, steps: int | None = None) -> None:
    """Check the features before `fit`, and name the input, row and value that is wrong.

    The model is called without training, on the first 1000 rows and the rows with the smallest and
    largest value of each column. Its weights and statistics do not change.

    Keys, shapes, dtypes, ids and scales are checked for the inputs of a Functional model. Any other
    model is only called, and ids are checked only if its call does.

    Args:
        model: The model, compiled or not. If it is not built, the call builds it.
        x: As for `fit`: arrays, or dicts or lists of arrays. Or batches of `(x, y)`: a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a torch DataLoader, a Grain dataset or
            another iterable, but not an iterator or a generator.
        steps: The number of batches to read; None for 100. Arrays are read in full.

    Raises:
        TypeError: If `x` contains strings where the model needs numbers, or is neither arrays nor
            batches.
        ValueError: If an input is missing or unknown, or its shape is wrong, or the model fails. If
            an integer input gets fractions, or numbers that its dtype can't represent. If ids are
            not in the table of an `Embedding` that reads an input, directly or through reshapes.
            If the predictions of a row are NaN or infinite because a number of `x` is, or if a
            layer returns such values for a finite row. If a standardized head needs `adapt`.
            If `x` is an iterator or has no row, or `steps` is given for arrays.

    Warns:
        UserWarning: If a column with an absolute mean or a standard deviation above 100 reaches a
            Dense layer or a block, directly or through reshapes, or a `Normalization` returns one.

    Example:

    >>> city = keras.Input((), dtype="int32", name="city")
    >>> model = keras.Model(city, keras.layers.Embedding(4, 2)(city))
    >>> check_inputs(model, {"city": np.array([0, 3, 4])})
    Traceback (most recent call last):
    ...
    ValueError: x['city'] must be ids from 0 to 3 for the Embedding 'embedding'. \
    Received: x['city'][2]=4
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"model must be a Keras model. Received: model={short_repr(model)}")
    check_adapted(model)
    if not is_dataset(x):
        refuse_steps(steps, "x")
    batches = first_batches(x, steps, "x") if is_dataset(x) else Batches(x, default=None)
    warnings: dict[str, str] = {}
    for batch, _ in batches:
        if len(keras.tree.flatten(batch)[0]):  # an empty batch trains nothing
            warnings |= _check_batch(model, batch)
    for warning in warnings.values():
        warn_user(warning)


@np.errstate(all="ignore")  # of NaN and infinity
def _check_batch(model: keras.Model, x: Nested) -> dict[str, str]:
    """Check arrays, and return warnings keyed by the name of the large array."""
    graph, calls = _calls_in(model) if functional_outputs(model) is not None else (model, [])
    inputs = _inputs_by_key(graph, x) if calls else {}
    arrays: Arrays = {}
    names: dict[int, list[str]] = {}
    for path, array in keras.tree.flatten_with_path(x):
        name = "x" + "".join(f"[{key!r}]" for key in path)
        tensor = inputs.get(path[0] if path else 0)
        if tensor is not None:
            _check_array(name, array, tensor)
        arrays[name], names[id(tensor)] = array, [name]
    readers = [*_readers(calls, names)]
    for layer, read in readers:
        if isinstance(layer, keras.layers.Embedding):
            rule = f"be ids from 0 to {layer.input_dim - 1} for the Embedding {layer.name!r}"
            for name in read:
                ids = arrays[name]
                _refuse((ids < 0) | (ids >= layer.input_dim) | (ids % 1 != 0), name, ids, rule)
    numbers = {name: array for name, array in arrays.items() if is_number(str(array.dtype))}
    found = [np.arange(min(FIRST_ROWS, len(keras.tree.flatten(x)[0])))]
    for numeric in numbers.values():
        columns = _flat(numeric)[:, :MAX_COLUMNS]
        found += [columns.argmin(axis=0), columns.argmax(axis=0)]  # NaN is an extreme value
    rows = np.unique(np.concatenate(found))
    some = keras.tree.map_structure(lambda array: array[rows], x)
    with naming_input(some):
        if calls:
            layers = [(layer, t) for layer, _, tensors in calls for t in tensors]
            layers += [(model, tensor) for tensor in graph.outputs]
            values = keras.Model(graph.input, [tensor for _, tensor in layers])(some)
        else:
            values = keras.tree.flatten(model(some))
            layers = [(model, value) for value in values]
    outputs = [(layer, to_numpy(value)) for (layer, _), value in zip(layers, values)]
    _check_finite(numbers, rows, outputs, model)
    return dict(_scale_warnings(arrays, readers, outputs))


def _inputs_by_key(model: Any, x: Nested) -> dict[Any, Any]:
    """Return the symbolic inputs of a Functional model, keyed by name and by position."""
    if not isinstance(model.input, Mapping):
        return {tensor.name: tensor for tensor in model.inputs} | dict(enumerate(model.inputs))
    if not isinstance(x, Mapping):  # whose columns Keras would swap
        raise TypeError(
            f"x must be a dict with the inputs of the model, {list(model.input)}. "
            f"Received: x={short_repr(x)}"
        )
    check_keys(x, list(model.input), "x")
    return {k: t for k, t in model.input.items() if isinstance(t, keras.KerasTensor)}


def _check_array(name: str, array: np.ndarray, tensor: keras.KerasTensor) -> None:
    """Check an array for a symbolic input."""
    if tensor.dtype != "string":
        check_dtype(array, name)
    # Keras adds or removes a last axis of length 1, and can broadcast other axes.
    shapes = [s[:-1] if s[-1:] == (1,) else s for s in (array.shape[1:], tensor.shape[1:])]
    if not shapes_match(*shapes):
        raise ValueError(
            f"{name} must have a shape {format_shape(tensor.shape)}, like the input of the model. "
            f"Received: {name}.shape={array.shape}"
        )
    if "int" in tensor.dtype:
        wrong = array != array.astype(tensor.dtype)
        _refuse(wrong, name, array, f"have values of {tensor.dtype}, like the input of the model")


def _refuse(wrong: np.ndarray, name: str, array: np.ndarray, rule: str) -> None:
    """Raise an error for the first wrong value, if there is one."""
    if wrong.any():
        index = tuple(np.argwhere(wrong)[0])
        place = ", ".join(map(str, index))
        raise ValueError(f"{name} must {rule}. Received: {name}[{place}]={array[index]}")


def _calls_in(model: Any) -> tuple[Any, Calls]:
    """Return a Functional or Sequential model of the same layers, and their calls in order."""
    calls: Calls = []

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = layer(*args, **kwargs)
        tensors = [
            x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)
        ]
        calls.append((layer, tensors, keras.tree.flatten(outputs)))
        return outputs

    is_sequential = isinstance(model, keras.Sequential)  # `output` can be that of a call
    ends = (model.inputs, model.outputs) if is_sequential else (model.input, model.output)
    model = keras.Model(*ends)  # not compiled, unlike a copy of the model
    graph = keras.models.clone_model(model, clone_function=lambda x: x, call_function=call)
    return graph, calls


def _readers(calls: Calls, names: dict[int, list[str]]) -> Iterator[tuple[Any, list[str]]]:
    """Yield the layers that read inputs, directly or through reshapes, and these inputs.

    Args:
        calls: The calls of a model.
        names: The names of inputs, keyed by the `id` of the symbolic tensor with their values.
    """
    for layer, inputs, outputs in calls:
        input_names = [names.get(id(tensor), []) for tensor in inputs]
        read = [name for found in input_names for name in found]
        if type(layer).__name__ in RESHAPES:
            names.update({id(tensor): read for tensor in outputs})
            continue
        for part in layer.layers if isinstance(layer, StreamFeatures) else [layer]:
            if functional_outputs(part) is not None or isinstance(part, keras.Sequential):
                graph, inside = _calls_in(part)
                yield from _readers(inside, dict(zip(map(id, graph.inputs), input_names)))
            elif read:
                yield part, read


def _check_finite(numbers: Arrays, rows: np.ndarray, outputs: Outputs, model: keras.Model) -> None:
    """Check that predictions are finite, and that layers return finite values for finite rows."""
    is_finite = np.ones(len(rows), bool)
    for array in numbers.values():
        is_finite &= np.isfinite(_flat(array)[rows]).all(axis=1)
    for layer, values in outputs:
        if values.shape[:1] != rows.shape or not is_number(str(values.dtype)):
            continue
        is_wrong = ~np.isfinite(_flat(values).astype("float64")).all(axis=1)
        if (is_wrong & is_finite).any():
            row = rows[is_wrong & is_finite][0]
            found = {name: array[row].tolist() for name, array in numbers.items()}
            raise ValueError(
                f"x must have values that stay finite in the model, but the layer {layer.name!r} "
                f"returns NaN or infinity for row {row}. Received: {short_repr(found)}"
            )
        if layer is model:
            for name, array in numbers.items():
                wrong = np.zeros(array.shape, bool)
                wrong[rows[is_wrong]] = ~np.isfinite(array[rows[is_wrong]])
                _refuse(wrong, name, array, "be finite, or be replaced in the model")


def _scale_warnings(
    arrays: Arrays, readers: list[tuple[Any, list[str]]], outputs: Outputs
) -> Iterator[tuple[str, str]]:
    """Yield the names of arrays with a large mean or deviation, with warnings."""
    scaled = [
        (f"the output of {layer.name!r}", values)
        for layer, values in outputs
        if isinstance(layer, keras.layers.Normalization)
    ]
    for layer, names in readers:
        if isinstance(layer, keras.layers.Dense | BaseLayer):
            scaled += [(name, arrays[name]) for name in names]
    for name, array in scaled:
        sample = _flat(array[:SCALE_ROWS])
        means, deviations = (f(sample, axis=0, dtype="float64") for f in (np.mean, np.std))
        for i in np.flatnonzero((np.abs(means) > LARGE) | (deviations > LARGE))[:1]:
            column = f"{name}[:, {i}]" if sample.shape[1] > 1 else name
            text = (
                f"{column} has a mean of {means[i]:.3g} and a standard deviation of "
                f"{deviations[i]:.3g}. Scale it with keras.layers.Normalization, adapted to these "
                "data"
            )
            yield name, text


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1)

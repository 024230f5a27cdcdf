"""All uses of undocumented parts of Keras.

The rest of the package uses only documented names of Keras. A test checks this. Each function
states its reason and the versions of Keras on which it was tested.
`tests/_keras/test_internals.py` fails if Keras changes the behavior that a function relies on.
"""

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, TypeVar, cast

import keras
from keras.src.backend.common import global_state
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.backend.common.tensor_attributes import get_tensor_attr, set_tensor_attr
from keras.src.utils import module_utils

from ple_keras._typing import Config, LossLike, Nested, Store, Tensor

T = TypeVar("T")
BUILD_KEYS = frozenset({"build_config", "build_input_shape"})
SHARED_ID_KEY = "shared_object_id"


def children(layer: keras.Layer) -> list[keras.Layer]:
    """Return the direct inner layers of a layer, in the order in which they were added.

    Only models have `layers`, which omits layers in attributes of a Functional subclass. Names of
    levels, frozen layers and transferred weights require all of them. Keras 3.15.
    """
    return cast(list[keras.Layer], layer._flatten_layers(include_self=False, recursive=False))


def tracked_lists(thing: object) -> list[list[object]]:
    """Return the lists of the variables and layers of a layer, a metric or an optimizer.

    They show within microseconds whether one was added, unlike `variables`, which creates a list of
    all layers. Keras 3.15.
    """
    names = ("_layers", "_trainable_variables", "_non_trainable_variables", "_variables")
    return [vars(thing)[name] for name in names if name in vars(thing)]


def stored_values(variables: Iterable[keras.Variable]) -> Iterator[Tensor]:
    """Yield the tensors of variables, which have values.

    `value` takes ten times as long, since it looks for scopes. Keras 3.15.
    """
    return map(attrgetter("_value"), variables)


def get_mask(tensor: Tensor) -> Tensor | None:
    """Return the mask that Keras attached to a tensor, or None.

    Losses, and layers that read several tensors, do not get a mask as an argument. Reading
    `_keras_mask` fails for JAX tracers, which have no attributes. Keras 3.15.
    """
    return get_keras_mask(tensor)


def set_mask(tensor: Tensor, mask: Tensor | None) -> None:
    """Attach a mask to a tensor, or remove the mask with None.

    Keras attaches masks only to the outputs of layers. A gate that reads a context uses the mask of
    its stream. A loss with `ignore_class` attaches a mask to its values, which Keras would apply to
    the mean. Keras 3.15.
    """
    set_keras_mask(tensor, mask)


def attached(tensor: Tensor, name: str) -> Any:
    """Return what `set_attached` has attached to a tensor, or None. Keras 3.15."""
    return get_tensor_attr(tensor, name)


def set_attached(tensor: Tensor, name: str, value: object) -> None:
    """Attach a value to a tensor, as Keras attaches masks.

    A prediction carries the values of the branches that it mixes, which its loss trains. Other
    outputs of a layer would be outputs of the model. Keras 3.15.
    """
    set_tensor_attr(tensor, name, value)


def call_keeping_masks(layer: Callable[[Nested], T], inputs: Nested) -> T:
    """Call a layer with tensors that other layers read too, and restore their masks afterwards.

    MultiHeadAttention removes the masks of its inputs. A layer that returns its input attaches its
    own mask to it. Keras 3.15.
    """
    tensors = keras.tree.flatten(inputs)
    masks = [*map(get_mask, tensors)]
    outputs = layer(inputs)
    for tensor, mask in zip(tensors, masks):
        if get_mask(tensor) is not mask and tensor is not outputs:
            set_mask(tensor, mask)
    return outputs


def outermost_layer() -> keras.Layer | None:
    """Return the layer or model whose call contains the current one; None outside of all calls.

    On PyTorch, the optimizer of the called model might not support sparse gradients. On JAX,
    `stateless_call` of a model is not a call. Keras 3.15.
    """
    return getattr(global_state.get_global_attribute("current_call_ctx"), "entry_layer", None)


def have_one_trace(*tensors: Tensor) -> bool:
    """Return whether all tensors are tracers of the same JAX trace.

    A lookup within `jax.checkpoint`, `jax.lax.scan` or an inner `jax.jit` has its own trace, whose
    gradients do not reach the optimizer unchanged. JAX has no public name for it. JAX 0.6 to 0.10.
    """
    first, *others = (getattr(tensor, "_trace", None) for tensor in tensors)
    return first is not None and all(trace is first for trace in others)


@contextmanager
def tensorflow_not_imported() -> Iterator[None]:
    """Prevent Keras from importing TensorFlow when it serializes objects.

    To check whether objects are from TensorFlow, Keras imports it if it is installed, which takes
    about five seconds and 500 MB. Before TensorFlow is imported, no object can be from it. Keras
    3.15.
    """
    lazy = vars(module_utils.tensorflow)
    if "tensorflow" in sys.modules or lazy.get("_available", False) is not None:
        yield
        return
    lazy["_available"] = False
    try:
        yield
    finally:
        lazy["_available"] = None


def functional_outputs(model: keras.Layer) -> Nested:
    """Return the symbolic outputs of a Functional model; None for other models.

    The `output` of any other model is a flat list, or the output of its first call. Only a
    Functional model has `output_names`. A subclass can override its `call`. Keras 3.15.
    """
    is_functional = hasattr(model, "output_names") and is_from_keras(type(model).call)
    return model.output if is_functional else None


def tensor_source(tensor: keras.KerasTensor) -> tuple[keras.Operation, int]:
    """Return the layer that created a symbolic tensor, and the tensor's index in its flat outputs.

    A MultiTaskModel checks that its heads created its outputs. Keras 3.15.
    """
    history = tensor._keras_history
    return history.operation, history.tensor_index


def run_graph(model: keras.Model, inputs: Nested, operation_fn: Callable[..., Tensor]) -> Nested:
    """Call a Functional model, with the function that `operation_fn` returns for each operation.

    `check_inputs` names the table that reads a wrong id. Keras 3.15.
    """
    return model._run_through_graph(model._standardize_inputs(inputs), operation_fn)


def serialize_loss(loss: LossLike | None) -> Config:
    """Serialize a loss, with the arguments that the configs of some Keras losses lack.

    Without them, `Huber(0.1)` would be `Huber(1.0)` in a file. Keras 3.15.
    """
    serialized: Config = keras.saving.serialize_keras_object(loss)
    if isinstance(loss, keras.Loss) and is_from_keras(type(loss)):
        parameters = inspect.signature(type(loss)).parameters
        options = {k: v for k, v in getattr(loss, "_fn_kwargs", {}).items() if k in parameters}
        serialized["config"] = {**serialized["config"], **options}
    return serialized


def set_compiled_metrics(model: keras.Model, metrics: object) -> None:
    """Make Keras call `compute_metrics` of a model on symbolic tensors before the first step.

    Keras does so if the compiled metrics are not `built`, so that metrics create their variables.
    On JAX, Keras also removes the values of all variables before a step, so a model would lose its
    weights if the step refuses labels. Compiled steps free the values anyway. Keras 3.15.
    """
    model._compile_metrics = metrics
    model._purge_model_variables = lambda **kwargs: None


def load_error(layer: keras.Layer, store: Store, reason: str) -> ValueError:
    """Return the error to raise if a layer does not match a file.

    After an error, Keras tries to load the layer again, even from an empty store, and shows the
    last error. All attempts therefore raise the first error. Keras 3.15.
    """
    if list(store.keys()):
        layer._load_error = reason
    return ValueError(getattr(layer, "_load_error", reason))


def is_functional_config(config: Mapping[str, object]) -> bool:
    """Return whether a serialized layer is a Functional model.

    Keras restores a Functional model from the inbound nodes of its layers, so it is always built.
    Keras 3.15.
    """
    inner = config.get("config")
    return isinstance(inner, Mapping) and {"input_layers", "output_layers"} <= set(inner)


def without_build_keys(config: Mapping[str, Any]) -> Config:
    """Return a layer's config, or its serialized form, without the shapes that it was built with.

    Keras builds a layer with such shapes, or a Sequential with an InputLayer, when it deserializes
    it, before it has a parent. An InputLayer of integers or strings is kept, since a Sequential
    would cast them to floats without it. Keras 3.15.
    """
    unbuilt = {key: value for key, value in config.items() if key not in BUILD_KEYS}
    if "build_input_shape" in config:
        unbuilt["layers"] = [
            x
            for x in unbuilt["layers"]
            if x.get("class_name") != "InputLayer"
            or not keras.backend.is_float_dtype(x["config"]["dtype"])
        ]
    return unbuilt


def is_from_keras(thing: object) -> bool:
    """Return whether a class or function is part of Keras.

    Only its module shows this. Keras 3.15.
    """
    return str(getattr(thing, "__module__", "")).startswith("keras.")


def variable_index(optimizer: keras.Optimizer, variable: keras.Variable) -> int:
    """Return the index of a variable in an optimizer's variables.

    `update_step` gets a TensorFlow variable on TensorFlow, and a Keras variable on PyTorch. The
    example in Keras's documentation of `Optimizer` uses this method. Keras 3.15.
    """
    return cast(int, optimizer._get_variable_index(variable))


def has_rate_function(optimizer: keras.Optimizer) -> bool:
    """Return whether the learning rate is a function, without calling it.

    A graph can't call it. `learning_rate` calls it, and returns its result. Keras 3.15.
    """
    rate = optimizer._learning_rate
    is_fixed = isinstance(rate, keras.Variable | keras.optimizers.schedules.LearningRateSchedule)
    return callable(rate) and not is_fixed

"""Arguments of gates in the calls of blocks: `gate_context` and `return_gate_weights`."""

import inspect
from typing import Any

import keras

from ple_keras._keras.internals import largest_outputs
from ple_keras._typing import NestedShape
from ple_keras.layers._level.gate_context import check_context


class TakesGateArguments(keras.Layer):
    """Mixin of blocks whose `call` takes `gate_context` and `return_gate_weights`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Adapt a subclass whose `call` takes no context.

        Keras requires that each argument of `build` and `compute_output_shape` belongs to an
        argument of `call`, unless there is only one.
        """
        super().__init_subclass__(**kwargs)
        if "gate_context" in inspect.signature(cls.call).parameters:
            return
        for method in ("build", "compute_output_shape"):
            if "gate_context_shape" in inspect.signature(getattr(cls, method)).parameters:
                setattr(cls, method, _with_one_shape(getattr(cls, method)))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        check_context(kwargs.get("gate_context"))
        return super().__call__(*args, **kwargs)

    def _takes(self, argument: str) -> bool:
        """Return whether the block uses an argument of its call."""
        raise NotImplementedError

    @property
    def output(self) -> Any:
        """The outputs of a symbolic call, as in Keras: of the first one with the most outputs.

        With those of the first call, Keras would refuse a model of a layer that has returned gate
        weights in a later call only.
        """
        return largest_outputs(self)


def _with_one_shape(method: Any) -> Any:
    """Return a method that takes the shape of the inputs only."""

    def with_one_shape(self: keras.Layer, input_shape: NestedShape) -> Any:
        return method(self, input_shape)

    with_one_shape.__name__ = method.__name__
    return with_one_shape


def takes(layer: keras.Layer, argument: str) -> bool:
    """Return whether a layer takes "gate_context" or "return_gate_weights" in its calls.

    A container takes an argument if one of its layers does. A level takes a context if its gates
    read it.
    """
    if argument not in inspect.signature(layer.call).parameters:
        return False
    if isinstance(layer, TakesGateArguments):
        return layer._takes(argument)
    return True

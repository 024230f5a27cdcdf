"""The constants of a graph: the variables of a step, and attributes of known objects."""

from collections.abc import Iterable, Sequence
from itertools import chain
from operator import is_
from typing import Any, TypeVar

import keras
import numpy as np

from ple_keras._keras.internals import has_hooks, stored_values, tracked_lists
from ple_keras._keras.layers import walk
from ple_keras._typing import Tensor
from ple_keras.steps.trace_function import TracedModel

T = TypeVar("T")
SIMPLE = (bool, int, float, str, np.generic)  # compared by value, other attributes by identity
NEVER_CHANGED = (type, keras.Initializer, keras.DTypePolicy)  # users can only replace the object


class StepConstants:
    """The variables of a step, and the attributes of layers, metrics, losses and optimizers.

    A graph is valid until one of them changes. They belong to classes of Keras and of this package.
    Steps with code of users, which can read anything, have a graph only on demand.

    Args:
        model: The model.
        kind: "train", "test" or "predict".

    Attributes:
        variables: The variables of the model and of its metrics, and in training of its optimizer.
        values: Their tensors.
        optimizers: The optimizers in training; those inside a MultiOptimizer come last.
        are_readable: Whether all attributes can be compared, and no hook of PyTorch runs.
    """

    def __init__(self, model: keras.Model, kind: str) -> None:
        self._traced = model
        self.optimizers = _optimizers(model) if kind == "train" else []
        metrics = [] if kind == "predict" else model.metrics
        others = [*metrics, *self.optimizers]
        self._inner = [path[-1] for path in walk(model)]
        self._store_variables(others)
        # Keras's trainer changes attributes of the models that it trains in each run.
        self._models = [x for x in self._inner if isinstance(x, TracedModel)]
        layers = [x for x in self._inner if not isinstance(x, TracedModel)]
        self._objects = _with_held_objects([*layers, *others, *self.variables])
        self._store_attributes()

    def _store_variables(self, others: Sequence[Any]) -> None:
        """Store the variables, with those of metrics and optimizers."""
        of_others = chain.from_iterable(each.variables for each in others)
        self.variables = _distinct([*self._traced.variables, *of_others])
        self.values: list[Tensor] = [variable.value for variable in self.variables]
        self._were_trainable = [layer.trainable for layer in self._inner]
        self._lists = [*chain.from_iterable(map(tracked_lists, [*self._inner, *others]))]
        self._items = [*chain.from_iterable(self._lists)]

    def _store_attributes(self) -> None:
        """Store the types and attributes of the objects, if they can be read."""
        has_attributes = all(hasattr(each, "__dict__") for each in self._objects)
        self.are_readable = has_attributes and not has_hooks(self._inner, self.values)
        self._types = [*map(type, self._objects)]
        self._attributes = [vars(each) for each in self._objects] if self.are_readable else []
        self._before = [*map(dict, self._attributes)]
        self._read, self._methods = self._read_attributes(), self._replaced_methods()

    def have_same_variables(self) -> bool:
        """Return whether the step has the same variables, tensors and optimizer. This is fast."""
        return (
            (not self.optimizers or self._traced.optimizer is self.optimizers[0])
            and _are_identical(chain.from_iterable(self._lists), self._items)
            and _are_identical(stored_values(self.variables), self.values)
            and [layer.trainable for layer in self._inner] == self._were_trainable
        )

    def have_same_attributes(self) -> bool:
        """Return whether no attribute has changed."""
        read = self._read_attributes()
        if not _are_identical(read, self._read):
            if any(map(_has_changed, self._before, self._attributes)):
                return False
            self._read = read
        return (
            not (self.are_readable and has_hooks(self._inner, self.values))
            and _are_identical(map(type, self._objects), self._types)
            and _are_identical(self._replaced_methods(), self._methods)
        )

    def _read_attributes(self) -> list[object]:
        return [*chain.from_iterable(attributes.values() for attributes in self._attributes)]

    def _replaced_methods(self) -> list[object]:
        """Return the methods that were assigned to a model and replace those of its class."""
        own = [(type(model), *item) for model in self._models for item in vars(model).items()]
        return [value for cls, name, value in own if callable(getattr(cls, name, None))]


def _optimizers(model: keras.Model) -> list[keras.Optimizer]:
    """Return the optimizer of a model, and those inside a MultiOptimizer."""
    return [model.optimizer, *getattr(model.optimizer, "optimizers", [])]


def _with_held_objects(objects: Sequence[object]) -> list[object]:
    """Return objects, and those with a config in their attributes, each once."""
    held = []
    for each in objects:
        for value in getattr(each, "__dict__", {}).values():
            if hasattr(value, "get_config") and not isinstance(value, NEVER_CHANGED):
                held.append(value)
    return _distinct([*objects, *held])


def _distinct(things: Iterable[T]) -> list[T]:
    return [*{id(thing): thing for thing in things}.values()]


def _are_identical(ones: Iterable[object], others: Iterable[object]) -> bool:
    ones, others = [*ones], [*others]
    return len(ones) == len(others) and all(map(is_, ones, others))


def _has_changed(before: dict[str, object], attributes: dict[str, object]) -> bool:
    """Return whether the values of attributes differ."""
    pairs = [(before.get(name), attributes.get(name)) for name in before.keys() | attributes.keys()]
    return any(
        old is not new and not (isinstance(old, SIMPLE) and type(old) is type(new) and old == new)
        for old, new in pairs
    )

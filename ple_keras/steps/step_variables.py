"""The variables of a step, and whether its graphs are still valid."""

from collections.abc import Iterable
from itertools import chain
from operator import is_

import keras

from ple_keras._keras.internals import stored_values, tracked_lists
from ple_keras._keras.layers import walk
from ple_keras._typing import Tensor


class StepVariables:
    """The variables of a step.

    Args:
        model: The model.
        kind: "train", "test" or "predict".

    Attributes:
        variables: The variables of the model and of its metrics, and in training of its optimizer.
        values: Their tensors.
        optimizers: The optimizers in training; those inside a MultiOptimizer come last.
    """

    def __init__(self, model: keras.Model, kind: str) -> None:
        self._traced = model
        self.optimizers: list[keras.Optimizer] = []
        if kind == "train":
            self.optimizers = [model.optimizer, *getattr(model.optimizer, "optimizers", [])]
        others = [*([] if kind == "predict" else model.metrics), *self.optimizers]
        self._inner = [path[-1] for path in walk(model)]
        of_others = chain.from_iterable(each.variables for each in others)
        distinct = {id(variable): variable for variable in (*model.variables, *of_others)}
        self.variables: list[keras.Variable] = [*distinct.values()]
        self.values: list[Tensor] = [variable.value for variable in self.variables]
        self._were_trainable = [layer.trainable for layer in self._inner]
        self._lists = [*chain.from_iterable(map(tracked_lists, [*self._inner, *others]))]
        self._items = [*chain.from_iterable(self._lists)]

    def are_current(self) -> bool:
        """Return whether the step still has these variables, tensors and optimizers.

        Graphs are invalid otherwise. They read all other attributes as constants.
        """
        return (
            (not self.optimizers or self._traced.optimizer is self.optimizers[0])
            and _are_identical(chain.from_iterable(self._lists), self._items)
            and _are_identical(stored_values(self.variables), self.values)
            and [layer.trainable for layer in self._inner] == self._were_trainable
        )


def _are_identical(ones: Iterable[object], others: Iterable[object]) -> bool:
    ones, others = [*ones], [*others]
    return len(ones) == len(others) and all(map(is_, ones, others))

"""A wrapper of a model that returns values that its levels and heads compute."""

from collections.abc import Callable
from typing import Any

import keras

from ple_keras._keras.batches import naming_input
from ple_keras._keras.layers import Untracked
from ple_keras._keras.tensors import at_least_float32
from ple_keras._typing import ByName, Nested
from ple_keras.layers.levels import find_levels
from ple_keras.layers.observer import Observer
from ple_keras.steps.trace_function import TracedModel


class ObservingModel(TracedModel, keras.Model):
    """Wrapper of a model, whose gate statistics do not change.

    As a Keras model, it is compiled on every backend.

    Args:
        model: The inner model.
        results: A function that computes the outputs, nested tensors, from the outputs of the inner
            model and its observer.
    """

    def __init__(self, model: keras.Layer, results: Callable[[Any, Observer], Nested]) -> None:
        super().__init__(name="observed")
        self.inner = model
        self._results = results
        self._names = Untracked({id(block): key for key, block in find_levels(model).items()})
        # XLA compilation of TensorFlow takes longer than most runs.
        self.jit_compile = keras.backend.backend() == "jax" and getattr(model, "jit_compile", True)
        self.run_eagerly = getattr(model, "run_eagerly", False)
        self._trace = getattr(model, "_trace", "auto")
        self._warns_of_eager_steps = False  # the inner model warns

    def call(self, inputs: Nested, training: bool | None = None) -> Nested:
        with Observer(self._names.value) as observer:
            results = self._results(self.inner(inputs, training=training), observer)
        return keras.tree.map_structure(at_least_float32, results)

    def run_batch(self, batch: Nested) -> ByName:
        """Return the outputs for a batch as arrays.

        Raises:
            ValueError: If the inner model fails on the batch.
        """
        with naming_input(batch):
            return dict(self.predict_on_batch(batch))

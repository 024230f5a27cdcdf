"""A model that returns figures of its levels instead of its outputs."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from ple_keras._checks import check_known_value, short_repr
from ple_keras._keras.batches import Batches
from ple_keras._keras.tensors import at_least_float32
from ple_keras._keras.walking import Untracked
from ple_keras._typing import ByName, Nested, Streams
from ple_keras.inspection._errors import empty_data_error, failed_batch_error, repeated_run_error
from ple_keras.inspection.levels import built_levels
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.observation import Observer

ByLevel = dict[str, Any]
# Of the inputs of a level, of gate weights and of expert outputs by name.
Summarize = Callable[[Streams, ByName, ByName], Nested]
MAX_QUIET_BATCHES = 50  # more batches show a progress bar


def observe_model(
    model: keras.Layer,
    batches: Batches,
    summarize: Summarize,
    summarize_outputs: Callable[[Nested], ByName],
    verbose: str | int,
) -> tuple[ByLevel, dict[str, np.ndarray], list[Any]]:
    """Return figures of every level that runs, and of the outputs, concatenated over batches.

    The last element of the result is the list of the batches' labels, which may be None. Batches
    are read once.

    Args:
        model: As for `gate_weights`.
        batches: Batches of `(x, y)`.
        summarize: A function from a level's inputs, its gate weights and expert outputs by name,
            to tensors.
        summarize_outputs: A function from the model's outputs to tensors by name.
        verbose: As for `gate_weights`.

    Raises:
        TypeError, ValueError: As `gate_weights`.
    """
    levels = built_levels(model)
    check_known_value(verbose, ("auto", 0, 1), "verbose")
    observed = _ObservedModel(model, levels, summarize, summarize_outputs)
    progress = _progress_bar(batches, verbose)
    observed_batches, labels = [], []
    for number, (batch, y) in enumerate(batches, start=1):
        observed_batches.append(_run_batch(observed, batch))
        labels.append(y)
        progress(number)
    if not observed_batches:
        raise empty_data_error(batches.given)
    try:
        joined = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *observed_batches)
    except ValueError as error:
        raise ValueError(
            f"x must have batches that differ only in their number of examples: {error} "
            f"Received: x={short_repr(batches.given)}"
        ) from error
    by_level, outputs = joined
    return {level: by_level[level] for level in levels if level in by_level}, outputs, labels


def _run_batch(observed: "_ObservedModel", batch: Nested) -> Any:
    try:
        figures = observed.predict_on_batch(batch)
    except Exception as error:
        raise failed_batch_error(batch, error) from error
    if not figures[0]:
        raise ValueError(
            "model must run at least one of its blocks in `predict`. "
            f"Received: model={observed.inner!r}, which runs none"
        )
    if observed.repeated.value:
        raise repeated_run_error(observed.inner, observed.repeated.value)
    return figures


def _progress_bar(batches: Batches, verbose: str | int) -> Callable[[int], None]:
    """Return a function that takes the number of finished batches."""
    try:
        count = len(batches)
    except TypeError:
        count = None
    if verbose == 0 or (verbose == "auto" and (count or 0) <= MAX_QUIET_BATCHES):
        return lambda number: None
    update: Callable[[int], None] = keras.utils.Progbar(count).update
    return update


class _ObservedModel(keras.Model):
    """Model that runs another model and returns `summarize` of its levels and of its outputs.

    As a Keras model, it is compiled on every backend.
    """

    def __init__(
        self,
        model: keras.Layer,
        levels: Mapping[str, CGCBlock],
        summarize: Summarize,
        summarize_outputs: Callable[[Nested], ByName],
    ) -> None:
        super().__init__(name="observed")
        self.inner, self._summarize = model, summarize
        self._summarize_outputs = summarize_outputs
        self._names = Untracked({id(block): level for level, block in levels.items()})
        self.repeated: Untracked[set[str]] = Untracked(set())
        # On TensorFlow, XLA compilation takes longer than most runs.
        compiles_fast = keras.backend.backend() == "jax"
        self.jit_compile = compiles_fast and getattr(model, "jit_compile", True)
        self.run_eagerly = getattr(model, "run_eagerly", False)

    def call(self, inputs: Nested, training: bool | None = None) -> tuple[ByLevel, ByName]:
        by_level: ByLevel = {}

        def summarize(level: str, inputs: Streams, weights: ByName, experts: ByName) -> None:
            figures = self._summarize(inputs, weights, experts)
            by_level[level] = keras.tree.map_structure(at_least_float32, figures)

        with Observer(self._names.value, receive=summarize) as observer:
            outputs = self.inner(inputs, training=training)
        self.repeated.value |= observer.repeated
        return by_level, self._summarize_outputs(outputs)

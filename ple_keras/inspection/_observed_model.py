"""A model that returns what is observed of its levels."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from ple_keras._checks import check_known_value
from ple_keras._keras.building import Untracked
from ple_keras._keras.dtypes import at_least_float32
from ple_keras._typing import ByStream, Nested
from ple_keras.inspection._counting_observer import CountingObserver
from ple_keras.inspection._refusals import no_batch, not_taken, runs_repeatedly
from ple_keras.inspection.batches import Batches
from ple_keras.inspection.levels import built_levels
from ple_keras.layers._level.observer import observed_by
from ple_keras.layers.cgc_block import CGCBlock

ByLevel = dict[str, Any]
Summarize = Callable[[ByStream, ByStream], Nested]  # of gate weights and expert outputs, by name
MAX_QUIET_BATCHES = 50  # batches; more of them get a progress bar


def observe_levels(
    model: keras.Layer,
    x: Nested,
    summarize: Summarize,
    batch_size: int | None,
    verbose: str | int,
) -> ByLevel:
    """Return the result of `summarize` for every level that runs, all batches along the first axis.

    Args:
        model: As for `gate_weights`.
        x: As for `gate_weights`.
        look: From a level's gate weights and expert outputs, by name, to tensors to keep.
        batch_size: As for `gate_weights`.
        verbose: As for `gate_weights`.

    Raises:
        TypeError, ValueError: as `gate_weights`.
    """
    levels = built_levels(model)
    check_known_value(verbose, ("auto", 0, 1), "verbose")
    batches = Batches(x, batch_size=batch_size)
    observed = _ObservedModel(model, levels, summarize)
    progress = _progress_bar(batches, verbose)
    observed_batches = []
    for number, (batch, _) in enumerate(batches, start=1):
        observed_batches.append(_run_batch(observed, batch))
        progress(number)
    if not observed_batches:
        raise no_batch(x)
    try:
        joined = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *observed_batches)
    except ValueError as error:
        raise ValueError(
            f"x must have batches that differ in their number of examples alone: {error} "
            f"Received: x={x!r}"
        ) from error
    return {level: joined[level] for level in levels if level in joined}


def _run_batch(observed: "_ObservedModel", batch: Nested) -> Any:
    try:
        figures = observed.predict_on_batch(batch)
    except Exception as error:
        raise not_taken(batch, error) from error
    if not figures:
        raise ValueError(
            "model must run one of its blocks when it predicts. Received: a model that runs none"
        )
    if observed.repeated.value:
        raise runs_repeatedly(observed.inner, observed.repeated.value)
    return figures


def _progress_bar(batches: Batches, verbose: str | int) -> Callable[[int], None]:
    """Takes the number of the batch that is done."""
    try:
        count = len(batches)
    except TypeError:
        count = None
    if verbose == 0 or (verbose == "auto" and (count or 0) <= MAX_QUIET_BATCHES):
        return lambda number: None
    update: Callable[[int], None] = keras.utils.Progbar(count).update
    return update


class _ObservedModel(keras.Model):
    """Runs a model, and returns what was seen of its levels in place of the model's outputs.

    As a model itself it is compiled as Keras compiles models, on every backend.
    """

    def __init__(
        self, model: keras.Layer, levels: Mapping[str, CGCBlock], summarize: Summarize
    ) -> None:
        super().__init__(name="observed")
        self.inner, self._summarize = model, summarize
        self._names = Untracked({id(block): level for level, block in levels.items()})
        self.repeated: Untracked[set[str]] = Untracked(set())
        # XLA on TensorFlow takes longer to compile than most looks take.
        is_quick = keras.backend.backend() == "jax"
        self.jit_compile = is_quick and getattr(model, "jit_compile", True)
        self.run_eagerly = getattr(model, "run_eagerly", False)

    def call(self, inputs: Nested, training: bool | None = None) -> ByLevel:
        observer = _RecordingObserver(self._summarize, self._names.value)
        with observed_by(observer):
            self.inner(inputs, training=training)
        self.repeated.value |= observer.repeated
        return observer.by_level


class _RecordingObserver(CountingObserver):
    """Keeps the result of a function of each level."""

    def __init__(self, summarize: Summarize, names: Mapping[int, str]) -> None:
        super().__init__(names)
        self.by_level: ByLevel = {}
        self._summarize = summarize

    def on_outputs(self, block: keras.Layer, weights: ByStream, outputs: ByStream) -> None:
        level, _ = self.meet(block)
        figures = self._summarize(weights, outputs)
        self.by_level[level] = keras.tree.map_structure(at_least_float32, figures)

"""Models that return figures of another model instead of its outputs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np

from ple_keras._checks import check_known_value, short_repr
from ple_keras._keras.batches import Batches
from ple_keras._keras.tensors import at_least_float32
from ple_keras._keras.walking import Untracked, find_layers
from ple_keras._typing import ByName, Nested, Streams
from ple_keras.heads.task_heads import Branches, TaskHeads
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
    verbose: str | int,
) -> ByLevel:
    """Return figures of every level that runs, concatenated over batches, which are read once.

    Args:
        model: As for `gate_weights`.
        batches: Batches of `(x, y)`, whose labels have no effect.
        summarize: A function from a level's inputs, its gate weights and expert outputs by name,
            to tensors.
        verbose: As for `gate_weights`.

    Raises:
        TypeError, ValueError: As `gate_weights`.
    """
    levels = built_levels(model)
    check_known_value(verbose, ("auto", 0, 1), "verbose")
    observed = _ObservedModel(model, levels, summarize)
    progress = _progress_bar(batches, verbose)
    observed_batches = []
    for number, (batch, _) in enumerate(batches, start=1):
        observed_batches.append(_run_batch(observed, batch))
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
    return {level: joined[level] for level in levels if level in joined}


def _run_batch(observed: "_ObservedModel", batch: Nested) -> Any:
    figures = observed.run_batch(batch)
    if not figures:
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


@contextmanager
def holding_branches(model: keras.Layer) -> Iterator[Callable[[], Branches]]:
    """Let calls of a model hold the branches of hedged tasks, as in training.

    Yields:
        A function that returns those of the last call.
    """
    layers = find_layers(model, TaskHeads)
    with ExitStack() as stack:
        for heads in layers:
            stack.enter_context(heads._holding_branches())
        yield lambda: {
            task: held for heads in layers for task, held in heads._take_branches().items()
        }


class OuterModel(keras.Model):
    """Model around another model. As a Keras model, it is compiled on every backend.

    Args:
        model: The inner model.
    """

    def __init__(self, model: keras.Layer) -> None:
        super().__init__(name="outer")
        self.inner = model
        # On TensorFlow, XLA compilation takes longer than most runs.
        compiles_fast = keras.backend.backend() == "jax"
        self.jit_compile = compiles_fast and getattr(model, "jit_compile", True)
        self.run_eagerly = getattr(model, "run_eagerly", False)

    def run_batch(self, batch: Nested) -> Any:
        """Return the outputs for a batch as arrays.

        Raises:
            ValueError: If the inner model fails on the batch.
        """
        try:
            return self.predict_on_batch(batch)
        except Exception as error:
            raise failed_batch_error(batch, error) from error


class _ObservedModel(OuterModel):
    """Model that runs another model and returns `summarize` of its levels."""

    def __init__(
        self, model: keras.Layer, levels: Mapping[str, CGCBlock], summarize: Summarize
    ) -> None:
        super().__init__(model)
        self._summarize = summarize
        self._names = Untracked({id(block): level for level, block in levels.items()})
        self.repeated: Untracked[set[str]] = Untracked(set())

    def call(self, inputs: Nested, training: bool | None = None) -> ByLevel:
        by_level: ByLevel = {}

        def summarize(level: str, inputs: Streams, weights: ByName, experts: ByName) -> None:
            figures = self._summarize(inputs, weights, experts)
            by_level[level] = keras.tree.map_structure(at_least_float32, figures)

        with Observer(self._names.value, receive=summarize) as observer:
            self.inner(inputs, training=training)
        self.repeated.value |= observer.repeated
        return by_level

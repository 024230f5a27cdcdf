"""What the gates of a model do with given examples."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from ple_keras._checks import check_known_value
from ple_keras._keras.building import Untracked
from ple_keras._keras.dtypes import at_least_float32
from ple_keras.inspection.batches import Batches
from ple_keras.inspection.levels import built_levels, find_levels
from ple_keras.layers._level.observer import Observer, observed_by
from ple_keras.layers.cgc_block import CGCBlock

ByLevel = dict[str, Any]
QUICK = 50  # batches; more of them get a progress bar


def gate_weights(
    model: Any, x: Any, batch_size: int | None = None, verbose: str | int = "auto"
) -> dict[str, dict[str, np.ndarray]]:
    """The weights that every gate of a model gives its experts, example by example.

    The model runs as in `predict`: without dropout, gate dropout among it, and leaving statistics
    alone. It need not keep any. Positions that a mask leaves out are among the examples. Where
    several processes train one model, any of them may look, at its own `x`.

    Args:
        model: A built model that holds PLEBlocks, MMoEBlocks or CGCBlocks, at any depth; or such a
            block itself.
        x: What the model's `predict` takes: arrays, or a dict or list of them; or batches, such as
            a `tf.data.Dataset`, a `keras.utils.PyDataset` or a torch DataLoader.
        batch_size: The number of examples to run at once, 1024 by default; for arrays only.
        verbose: 0 for silence, 1 for a progress bar, "auto" for one where there are more than 50
            batches.

    Returns:
        `{level: {gate: (N, ..., experts)}}`, in at least float32: the levels under the keys that
        `GateWeightsLogger` has, a level's experts in the order of its `gate_experts`.

    Raises:
        TypeError: if `model` is no Keras layer, or `x` neither arrays nor batches.
        ValueError: if `model` holds no such block or isn't built, runs none or one twice in one
            pass, or doesn't take `x`; or if `x` is empty, or its batches differ beyond their size;
            or within the scope of a `tf.distribute` strategy, where each replica would run all.

    Example:

    >>> ple = PLEBlock(2, ["click", "buy"], [8], num_task_experts=2, name="ple")
    >>> inputs = keras.Input((3,))
    >>> model = keras.Model(inputs, ple(inputs))
    >>> weights = gate_weights(model, np.ones((5, 3)))
    >>> {level: {gate: w.shape for gate, w in gates.items()} for level, gates in weights.items()}
    {'ple/0': {'click': (5, 3), 'buy': (5, 3), 'shared': (5, 5)}, 'ple/1': {'click': (5, 3), \
'buy': (5, 3)}}
    >>> ple[0].gate_experts["click"]
    ['click/expert_0', 'click/expert_1', 'shared/expert_0']
    """
    weights = watch(model, x, lambda weights, outputs: weights, batch_size, verbose)
    levels = find_levels(model)
    return {level: {g: of[g] for g in levels[level].gate_experts} for level, of in weights.items()}


def watch(
    model: Any,
    x: Any,
    look: Callable[[Mapping[str, Any], Mapping[str, Any]], Any],
    batch_size: int | None,
    verbose: str | int,
) -> ByLevel:
    """What `look` makes of every level that runs, all batches along the first axis.

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
    watched = _Watched(model, levels, look)
    progress = _progress_bar(batches, verbose)
    seen = []
    for number, (batch, _) in enumerate(batches, start=1):
        seen.append(_look_at(watched, batch))
        progress(number)
    if not seen:
        raise ValueError(f"x must hold at least one batch. Received: x={x!r}")
    try:
        joined = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *seen)
    except ValueError as error:
        raise ValueError(
            f"x must have batches that differ in their number of examples alone: {error} "
            f"Received: x={x!r}"
        ) from error
    return {level: joined[level] for level in levels if level in joined}


def _look_at(watched: "_Watched", batch: Any) -> Any:
    try:
        seen = watched.predict_on_batch(batch)
    except Exception as error:
        shapes = keras.tree.map_structure(np.shape, batch)
        raise ValueError(
            f"x must be what the model takes, which can't run on a batch of it: {error} "
            f"Received: x.shape={shapes}"
        ) from error
    if not seen:
        raise ValueError(
            "model must run one of its blocks when it predicts. Received: a model that runs none"
        )
    if watched.repeated.value:
        raise ValueError(
            "model must run each block once, since the weights of several runs can't be told "
            f"apart. Received: a model that runs {sorted(watched.repeated.value)} more than once"
        )
    return seen


def _progress_bar(batches: Batches, verbose: str | int) -> Callable[[int], None]:
    """Takes the number of the batch that is done."""
    try:
        count = len(batches)
    except TypeError:
        count = None
    if verbose == 0 or (verbose == "auto" and (count or 0) <= QUICK):
        return lambda number: None
    update: Callable[[int], None] = keras.utils.Progbar(count).update
    return update


class _Watched(keras.Model):
    """Runs a model, and returns what was seen of its levels in place of the model's outputs.

    As a model itself it is compiled as Keras compiles models, on every backend.
    """

    def __init__(
        self, model: Any, levels: Mapping[str, CGCBlock], look: Callable[..., Any]
    ) -> None:
        super().__init__(name="watched")
        self.inner, self._look = model, look
        self._names = Untracked({id(block): level for level, block in levels.items()})
        self.repeated = Untracked(set())
        # XLA on TensorFlow takes longer to compile than most looks take.
        is_quick = keras.backend.backend() == "jax"
        self.jit_compile = is_quick and getattr(model, "jit_compile", True)
        self.run_eagerly = getattr(model, "run_eagerly", False)

    def call(self, inputs: Any, training: bool | None = None) -> ByLevel:
        seen = _Seen(self._look, self._names.value)
        with observed_by(seen):
            self.inner(inputs, training=training)
        self.repeated.value |= seen.repeated
        return seen.by_level


class _Seen(Observer):
    """Keeps what is looked at of each level."""

    def __init__(self, look: Callable[..., Any], names: Mapping[int, str]) -> None:
        self.by_level: ByLevel = {}
        self.repeated: set[str] = set()
        self._look, self._names = look, names

    def ran(self, block: Any, weights: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        level = self._names[id(block)]
        if level in self.by_level:
            self.repeated.add(level)
        seen = self._look(weights, outputs)
        self.by_level[level] = keras.tree.map_structure(at_least_float32, seen)

"""The weights of a model's gates, and a report on them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from ple_keras._keras.batches import Batches
from ple_keras._keras.internals import get_mask
from ple_keras._keras.tensors import flatten_positions
from ple_keras._typing import ByName, Nested
from ple_keras.inspection.report_text import Report, Row, cells, join_items, table
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.levels import built_levels
from ple_keras.steps.observing_model import ObservingModel

UNREAD_SHARE = 0.1  # share of a uniform weight: no gate reads an expert if all of them give it less


def gate_weights(
    model: keras.Layer, x: Nested, batch_size: int | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Return the weights of every gate of a model for each example.

    The model runs as in `predict`: without dropout and gate dropout. Gate statistics do not change
    and need not be enabled. Masked positions are included. If several processes train one model,
    each can call this function with its own `x`. If a block runs twice, the first run counts.

    Args:
        model: A built model that contains PLEBlocks, MMoEBlocks or CGCBlocks at any depth, except
            inside an expert, or such a block.
        x: Input as for `predict`: arrays, a dict or list of arrays, or batches, such as a
            `tf.data.Dataset`, a `keras.utils.PyDataset` or a torch DataLoader.
        batch_size: The number of examples per batch, only for arrays; by default 1024.

    Returns:
        `{level: {gate: (N, ..., experts)}}`, in at least float32. The levels are named as in
        `GateWeightsLogger`, and the experts have the order of `gate_experts`.

    Raises:
        TypeError: If `model` is not a Keras layer, or `x` is neither arrays nor batches.
        ValueError: If `model` has no such block, is not built, or fails on `x`, if `x` is empty or
            its batches differ in more than their size, or in the scope of a `tf.distribute`
            strategy with several replicas.

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
    _, found = _observe_levels(model, x, batch_size, lambda weights: weights)
    return {
        level: {gate: weights[gate] for gate in block.gate_experts}
        for level, (block, weights) in found.items()
    }


def _observe_levels(
    model: keras.Layer, x: Nested, batch_size: int | None, summarize: Callable[[ByName], ByName]
) -> tuple[int, dict[str, tuple[CGCBlock, Any]]]:
    """Return the number of examples, and the blocks and gate weights of all levels that run.

    Args:
        model: As for `gate_weights`.
        x: As for `gate_weights`.
        batch_size: As for `gate_weights`.
        summarize: A function of the gate weights of a level, whose tensors are concatenated over
            the batches.
    """
    levels, batches = built_levels(model), Batches(x, batch_size=batch_size)
    observed = ObservingModel(
        model, lambda _, observer: {x: summarize(found) for x, found in observer.levels.items()}
    )
    examples, by_batch = 0, []
    for batch, *_ in batches:
        by_batch.append(observed.run_batch(batch))
        examples += len(keras.tree.flatten(batch)[0])
    joined = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *by_batch)
    return examples, {key: (levels[key], joined[key]) for key in levels if key in joined}


@dataclass(frozen=True)
class GateUse:
    """Weights of a gate over the examples; NaN if a weight of any example is NaN.

    Attributes:
        mean: The mean weight of each expert.
        entropy: The mean entropy divided by its maximum, in [0, 1]; 0 with one expert.
    """

    mean: dict[str, float]
    entropy: float


@dataclass(frozen=True)
class LevelUse:
    """Use of a level's gates and experts.

    Attributes:
        gates: `{gate: GateUse}`.
        experts: The names of the experts.
        unread: The experts to which each gate assigns less than a tenth of a uniform weight.
    """

    gates: dict[str, GateUse]
    experts: list[str]
    unread: list[str]


@dataclass(frozen=True)
class GateReport(Report):
    """Result of `gate_report`; prints as tables.

    Attributes:
        examples: The number of examples.
        levels: `{level: LevelUse}`. A LevelUse has `gates`, `experts` and `unread`.
    """

    examples: int
    levels: dict[str, LevelUse]

    def __str__(self) -> str:
        paragraphs = [f"Gates and experts over {self.examples:,} examples"]
        for name, level in self.levels.items():
            paragraph = f"{name}\n{table(_rows(level.gates))}"
            if level.unread:
                paragraph += "\n" + table([("read by no gate:", join_items(level.unread))])
            paragraphs.append(paragraph)
        return "\n\n".join(paragraphs)


def gate_report(model: keras.Layer, x: Nested, batch_size: int | None = None) -> GateReport:
    """Report the mean weights of a model's gates over examples.

    For tasks, use `task_report`. In sequences, each unmasked position counts as an example. If
    several processes train one model, the report covers the examples passed in this process.

    Args:
        model: As for `gate_weights`.
        x: As for `gate_weights`.
        batch_size: As for `gate_weights`.

    Returns:
        A GateReport: print it, or use `levels` and `to_dict()`.

    Raises:
        TypeError, ValueError: As for `gate_weights`.

    Example:

    >>> ple = PLEBlock(1, ["click", "buy"], [8], gate_softmax_temperature=1e9, name="ple")
    >>> _ = ple(np.ones((1, 3)))
    >>> report = gate_report(ple, np.eye(3))
    >>> round(report.levels["ple/0"].gates["click"].mean["shared/expert_0"], 4)
    0.5
    >>> report.levels["ple/0"].unread
    []
    """
    examples, found = _observe_levels(model, x, batch_size, _flat_weights)
    levels = {}
    for level, (block, weights) in found.items():
        gates = {g: _gate_use(weights[g], experts) for g, experts in block.gate_experts.items()}
        limits = [(use.mean, UNREAD_SHARE / len(use.mean)) for use in gates.values()]
        names = block.expert_names
        unread = [x for x in names if all(mean.get(x, 0) < limit for mean, limit in limits)]
        levels[level] = LevelUse(gates, names, unread)
    return GateReport(examples, levels)


def _flat_weights(weights: ByName) -> ByName:
    """Return weights as `(positions, experts)`, with -1 at masked positions."""
    return {gate: flatten_positions(w, get_mask(w), -1) for gate, w in weights.items()}


def _gate_use(weights: np.ndarray, experts: list[str]) -> GateUse:
    """Return the figures of a gate with weights `(positions, experts)`."""
    weights = weights[~(weights < 0).any(axis=-1)].astype("float64")
    entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=-1).mean()
    mean = dict(zip(experts, weights.mean(axis=0).tolist()))
    return GateUse(mean, float(entropy / np.log(len(experts))) if len(experts) > 1 else 0.0)


def _rows(gates: Mapping[str, GateUse]) -> Iterator[Row]:
    yield "gate", "entropy", "mean weight"
    for name, gate in gates.items():
        weights = join_items(f"{expert} {mean:.2f}" for expert, mean in gate.mean.items())
        yield name, *cells(gate, entropy=".2f"), weights

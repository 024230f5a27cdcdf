"""The search for the weights of each branch, and copies of weights."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._checks import warn_user
from ple_keras._keras.layers import find_layers
from ple_keras._keras.tensors import sum_over_processes, to_numpy
from ple_keras._typing import Nested, TaskName, WeightSlice
from ple_keras.callbacks.branched_model import Branch, BranchedModel, Unit
from ple_keras.heads.head import Head
from ple_keras.layers.experts import StackedExperts
from ple_keras.layers.hedged_block import OWN

LARGE_CHANGE = 1e-3  # of a prediction, relative to it: more than rounding on a GPU


def find_weights(model: keras.Layer, x: Nested) -> dict[Unit, list[WeightSlice]]:
    """Return the variables, and the slices of stacked experts, of each unit of branches.

    A part belongs to the only unit whose predictions become NaN, or change, if it is NaN. What
    no unit reads, such as mixtures and statistics of gates, belongs to none.

    Args:
        model: A built model with a HedgedBlock.
        x: A batch of validation data.

    Warns:
        UserWarning: If several units read a trainable variable, which belongs to none.
    """
    branched = BranchedModel(model)
    if keras.backend.backend() == "tensorflow":  # whose compiled Dense with ReLU turns NaN into 0
        branched.observed.run_eagerly = True
    expected = branched.observed.run_batch(x)
    units = _find_units(branched.heads, expected)
    weights: dict[Unit, list[WeightSlice]] = {unit: [] for unit in units.values()}
    stacks = find_layers(model, StackedExperts)
    parts = [part for stack in stacks for e in stack._streams.value for part in stack.slices(e)]
    known = {id(variable) for variable, _ in parts}
    parts += [(v, ()) for v in model.weights if id(v) not in known]
    parts = [part for part in parts if keras.backend.is_float_dtype(part[0].dtype)]
    changes = [_changes(part, branched, x, expected, units) for part in parts]
    common = []
    # Summed so that all processes keep the same parts.
    for part, row in zip(parts, sum_over_processes(np.array(changes))):
        found = {unit for unit, count in zip(units.values(), row) if count}
        if len(found) == 1:
            weights[found.pop()].append(part)
        elif part[0].trainable and any(unit.branch for unit in found):
            common.append(part[0].path)
    if common:
        warn_user(
            "FitHedge keeps the best epoch of each branch, but several branches read the "
            f"weights {[*dict.fromkeys(common)]}, which stay as in the last epoch. Give each "
            "branch its own features with StreamFeatures, or set keep_best=False"
        )
    return {unit: of_unit for unit, of_unit in weights.items() if unit.branch}


def _find_units(heads: dict[TaskName, Head], branches: Any) -> dict[Branch, Unit]:
    joined = {task: {task} for task in heads}  # products and their factors
    for task, head in heads.items():
        tasks = set().union(*(joined[each] for each in (task, *getattr(head, "of", ()))))
        joined.update(dict.fromkeys(tasks, tasks))
    units = {}
    for task, branch in [(t, b) for t in heads for b in branches[t]]:
        alike = {each for each in heads if branch in branches[each]}
        tasks = joined[task] if branch in (OWN, "") else alike
        units[task, branch] = Unit(branch, tuple(sorted(tasks)))
    return units


def _changes(
    part: Any, branched: BranchedModel, x: Nested, expected: Any, branches: Iterable[Branch]
) -> list[float]:
    """Return the number of predictions of each branch that become NaN or change with a NaN."""
    variable, index = part
    value = ops.copy(variable)
    # No new array, which processes of JAX would compare: NaN differs from itself.
    whole = ops.convert_to_tensor(variable)
    spoiled = whole * np.nan
    for i in index:
        spoiled = ops.concatenate([whole[:i], spoiled[i : i + 1], whole[i + 1 :]])
    try:
        variable.assign(spoiled)
        actual = branched.observed.run_batch(x)
    finally:
        variable.assign(value)
    counts = []
    for task, branch in branches:
        old, new = expected[task][branch], actual[task][branch]
        is_close = np.isclose(new, old, LARGE_CHANGE, LARGE_CHANGE)
        counts.append((~is_close & np.isfinite(old)).sum(dtype="float64"))
    return counts


def read_part(part: WeightSlice) -> np.ndarray:
    """Return a copy of a variable, or of a slice of it."""
    variable, index = part
    value = variable.value
    if not getattr(value, "is_fully_addressable", True) and not value.is_fully_replicated:
        raise ValueError(
            "keep_best must be False if weights are split across processes. "
            f"Received: keep_best=True, and {variable.path!r} of {value.sharding}"
        )
    return np.array(to_numpy(value)[index])


def assign_parts(parts: Iterable[tuple[WeightSlice, np.ndarray]]) -> None:
    """Assign variables and slices of variables."""
    for (variable, index), value in parts:
        whole = read_part((variable, ()))
        whole[index] = value
        variable.assign(whole)

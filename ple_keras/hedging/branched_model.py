"""The branches of a model: their values and losses on held-out rows, and their weights."""

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
from keras import ops

from ple_keras._checks import warn_user
from ple_keras._keras.layers import find_layers
from ple_keras._keras.tensors import sum_over_processes, to_numpy
from ple_keras._typing import ByName, Nested, TaskName, Tensor, WeightSlice
from ple_keras.heads.binary_heads import ProductHead
from ple_keras.heads.task_heads import find_heads, hedged_heads
from ple_keras.hedging.mixture import best_mixture, label_losses
from ple_keras.labels.sample_space import SAFE_PREDICTION
from ple_keras.layers.experts import StackedExperts
from ple_keras.layers.gate import Observer
from ple_keras.layers.hedged_block import OWN
from ple_keras.steps.observing_model import ObservingModel, check_model, task_labels
from ple_keras.steps.trace_function import trace_function

Branch: TypeAlias = tuple[TaskName, str]
# The values that a head mixes, `(examples, units)` for each branch; for a product, the logits of
# its factors. ALL has the labels, `(examples, width)`, without missing ones. Some numbers are NaN.
BranchValues: TypeAlias = dict[Branch, np.ndarray]
ALL = ""  # of a task, instead of a branch: its labels, or its mixture
LARGE_CHANGE = 1e-3  # of a prediction, relative to it: more than rounding on a GPU


class Unit(NamedTuple):
    """Branches that losses train together, and that stop together.

    The own branch of a task is a unit, and so are the own branches of all factors of a product. Any
    other branch is one unit over all tasks.

    Attributes:
        branch: The name of the branch; "" for a task without branches.
        tasks: The tasks.
    """

    branch: str
    tasks: tuple[TaskName, ...]


class BranchedModel:
    """The branches of a model.

    Args:
        model: A built model.

    Attributes:
        model: The model.
        heads: Its heads.
        mixed_heads: The heads that mix branches and have a loss.
        observed: The model with the values of all branches as outputs.

    Raises:
        TypeError, ValueError: As for `check_model`, and if there are no heads that mix branches.
    """

    def __init__(self, model: keras.Layer) -> None:
        check_model(model)
        self.model, self.heads = model, find_heads(model)
        self.mixed_heads = {t: head for t, head in hedged_heads(model).items() if head.has_loss}
        if not self.mixed_heads:
            raise ValueError(
                "model must have a HedgedBlock before heads with losses, since FitHedge and "
                "fit_hedge are for its branches. "
                f"Received: model={model!r}"
            )
        self.observed = ObservingModel(model, self._values)
        trace_function(self.observed, "predict")

    def _values(self, outputs: ByName, observer: Observer) -> dict[str, dict[str, Tensor]]:
        values = {task: {"": outputs[task]} for task in self.heads}
        for task, stack in observer.branches.items():
            names = self.heads[task].branch_names
            values[task] = {branch: stack[i] for i, branch in enumerate(names, start=1)}
        return values

    def read(self, batches: Iterable[tuple[Nested, Nested]]) -> BranchValues:
        """Return the labels and values of hedged tasks with a loss. Products can lack labels."""
        found: dict[Branch, list[np.ndarray]] = {}
        for x, y in batches:
            outputs, labels = self.observed.run_batch(x), task_labels(y, self.mixed_heads)
            for task, head in self.heads.items():
                if head.has_loss and head.branch_names and labels.get(task) is not None:
                    present, is_labeled = head._present_labels(labels[task])
                    head._check_values(present)
                    found.setdefault((task, ALL), []).append(present)
                    for branch in head.branch_names:
                        values = [outputs[f][branch][is_labeled] for f in self._factors(task)]
                        found.setdefault((task, branch), []).append(np.concatenate(values, -1))
        return {key: np.concatenate(arrays) for key, arrays in found.items()}

    def _factors(self, task: TaskName) -> list[TaskName]:
        """Return the factors of a product that are no products, or the task itself."""
        of = getattr(self.heads[task], "of", ())
        return [factor for each in of for factor in self._factors(each)] or [task]

    def losses(self, found: BranchValues) -> tuple[dict[Branch, float], dict[Branch, float]]:
        """Return the mean losses over the labels of all processes, and relative losses.

        They are keyed by task and branch, which is ALL for the mixture. The relative loss is
        divided by the loss of a constant prediction, the mean label or the frequencies of classes,
        both minus the loss of labels as predictions. If labels are no predictions in any form, it
        is divided by the loss of logits of 0. Tasks without labels or training have none.
        """
        losses: dict[Branch, float] = {}
        relative: dict[Branch, float] = {}
        for task in [task for task, branch in found if branch == ALL]:
            head, labels = self.heads[task], found[task, ALL]
            values = [found[task, branch] for branch in head.branch_names]
            mixtures = [to_numpy(self.heads[each].mixture) for each in self._factors(task)]
            mixed = np.einsum("ub,bnu->nu", mixtures, values)
            tensors = [*map(ops.convert_to_tensor, [mixed, *values])]
            if isinstance(head, ProductHead):
                tensors = [ops.sum(ops.log_sigmoid(x), -1, keepdims=True) for x in tensors]
            are_classes = head.activation is keras.activations.softmax and labels.shape[-1] == 1
            exact = np.eye(head.units)[labels[:, 0].astype(int)] if are_classes else labels
            are_predictions = exact.shape[-1] == head.units
            constants = 2 * [head._predict(ops.zeros_like(tensors[0]))]
            if are_predictions:
                mean = np.ma.masked_invalid(exact).mean(axis=0).filled(SAFE_PREDICTION)
                mean = np.broadcast_to(mean, exact.shape)
                constants = [np.where(np.isnan(exact), mean, exact), mean]
            predictions = [*map(head._predict, tensors), *constants]
            arrays = [label_losses(head, labels, each) for each in predictions]
            sums = np.array([*(each.sum(dtype="float64") for each in arrays), arrays[0].size])
            *totals, least, constant, count = sum_over_processes(sums).tolist()
            least *= are_predictions
            scale = abs(constant - least)
            for branch, total in zip((ALL, *head.branch_names), totals):
                losses[task, branch] = total / count if count else np.nan
                if count and head.loss_weight:
                    scale = scale if 0 < scale < np.inf else count
                    relative[task, branch] = (total - least) / scale
        return losses, relative

    def fit_mixtures(self, found: BranchValues, prior: float, allows_nan: bool = False) -> float:
        """Fit and assign the mixtures, and return the mean of their relative losses.

        Args:
            found: The values of the branches.
            prior: The weight of the prior.
            allows_nan: Whether a mixture stays as it is if the values of a branch are not finite.
        """
        for task, head in self.mixed_heads.items():
            labels = found[task, ALL]
            values = np.stack([found[task, branch] for branch in head.branch_names])
            mixture, count = to_numpy(head.mixture), 0
            if not allows_nan or np.isfinite(values).all():
                mixture, count = best_mixture(head, labels, values, prior), len(labels)
            sums = sum_over_processes(np.append(mixture, 1.0) * count)
            mixture = sums[:-1] / sums[-1] if sums[-1] else mixture
            head.mixture.assign(mixture.astype("float32"))
        relative = [loss for (_, branch), loss in self.losses(found)[1].items() if branch == ALL]
        return sum(relative) / len(relative) if relative else np.nan

    def find_weights(self, x: Nested) -> dict[Unit, list[WeightSlice]]:
        """Return the variables, and the slices of stacked experts, of each unit of branches.

        A part belongs to the only unit whose predictions become NaN, or change, if it is NaN. What
        no unit reads, such as mixtures and statistics of gates, belongs to none.

        Args:
            x: A batch of validation data.

        Warns:
            UserWarning: If several units read a trainable variable, which belongs to none.
        """
        if keras.backend.backend() == "tensorflow":
            self.observed.run_eagerly = True  # a compiled Dense with ReLU turns NaN into 0
        expected = self.observed.run_batch(x)
        units = self._find_units(expected)
        weights: dict[Unit, list[WeightSlice]] = {unit: [] for unit in units.values()}
        stacks = find_layers(self.model, StackedExperts)
        parts = [part for stack in stacks for e in stack._streams.value for part in stack.slices(e)]
        known = {id(variable) for variable, _ in parts}
        parts += [(v, ()) for v in self.model.weights if id(v) not in known]
        parts = [part for part in parts if keras.backend.is_float_dtype(part[0].dtype)]
        changes = [self._changes(part, x, expected, units) for part in parts]
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

    def _find_units(self, branches: Any) -> dict[Branch, Unit]:
        heads = self.heads
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
        self, part: Any, x: Nested, expected: Any, branches: Iterable[Branch]
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
            actual = self.observed.run_batch(x)
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
    return np.array(to_numpy(variable.value)[index])


def assign_parts(parts: Iterable[tuple[WeightSlice, np.ndarray]]) -> None:
    """Assign variables and slices of variables."""
    for (variable, index), value in parts:
        whole = read_part((variable, ()))
        whole[index] = value
        variable.assign(whole)

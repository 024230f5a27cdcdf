"""The branches of a model on held-out rows: their values, losses and weights."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
from keras import ops

from ple_keras._checks import warn_user
from ple_keras._keras.layers import find_layers
from ple_keras._keras.tensors import sum_over_processes, to_numpy
from ple_keras._typing import Nested, TaskName, Tensor, WeightSlice
from ple_keras.heads.hedged_head import HedgedHead, plain_head
from ple_keras.heads.task_heads import Branches, find_heads, hedged_heads
from ple_keras.labels.label_arrays import CLASS_INDICES, loss_name
from ple_keras.labels.sample_space import SAFE_LABEL, SAFE_PREDICTION
from ple_keras.layers.experts import StackedExperts
from ple_keras.layers.hedged_block import OWN
from ple_keras.models.observed_model import ObservedModel, check_model, task_labels

LARGE_CHANGE = 1e-3  # of a prediction, relative to it: more than rounding on a GPU

Branch: TypeAlias = tuple[TaskName, str]


class BranchValues(NamedTuple):
    """The labels of a task, and the values of its branches for these labels.

    Attributes:
        labels: `(examples, width)`, without missing labels. Single numbers can be NaN.
        values: The values that the head mixes, `{branch: (examples, units)}`.
    """

    labels: np.ndarray
    values: dict[str, np.ndarray]


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
        self._observed = ObservedModel(model, self._values)

    def _values(self, outputs: Any, levels: Any, held: Branches) -> dict[str, dict[str, Tensor]]:
        values = {task: {"": outputs[task]} for task in self.heads if task not in held}
        for task, branches in held.items():
            head: Any = self.heads[task]
            while not isinstance(head, HedgedHead):  # a product
                head = self.heads[head.of[0]]
            values[task] = dict(zip(head.branch_names, branches.values))
        return values

    def read(self, batches: Iterable[tuple[Nested, Nested]]) -> dict[TaskName, BranchValues]:
        """Return the labels and values of hedged tasks with a loss. Products can lack labels."""
        found: dict[TaskName, list[BranchValues]] = {}
        for x, y in batches:
            values, labels = self._observed.run_batch(x), task_labels(y, self.mixed_heads)
            for task, head in self.heads.items():
                if head.has_loss and "" not in values[task] and labels.get(task) is not None:
                    present, is_labeled = plain_head(head)._present_labels(labels[task])
                    plain_head(head)._check_values(present)
                    of_labels = {b: array[is_labeled] for b, array in values[task].items()}
                    found.setdefault(task, []).append(BranchValues(present, of_labels))
        joined = {}
        for task, batch in found.items():
            parts, values = zip(*batch)
            by_branch = {b: np.concatenate([each[b] for each in values]) for b in values[0]}
            joined[task] = BranchValues(np.concatenate(parts), by_branch)
        return joined

    def losses(
        self, found: Mapping[TaskName, BranchValues]
    ) -> tuple[dict[Branch, float], dict[Branch, float]]:
        """Return the mean losses of branches over the labels of all processes, and relative losses.

        The latter are divided by the loss of the mean label, both minus the loss of labels as
        predictions. Without them, as for custom losses of several numbers for one label, they are
        divided by the loss of logits of 0. Tasks without labels or training have none.
        """
        sums = [_loss_sums(self.heads[task], *of_task) for task, of_task in found.items()]
        ends = np.cumsum([*map(len, sums)])[:-1]
        sums = np.split(sum_over_processes(np.concatenate(sums)), ends)
        losses, relative = {}, {}
        for (task, (_, values)), (*totals, least, constant, count) in zip(found.items(), sums):
            scale = abs(constant - least)
            scale = scale if 0 < scale < np.inf else count
            for branch, total in zip(values, totals):
                losses[task, branch] = float(total / count) if count else np.nan
                if count and self.heads[task].loss_weight:
                    relative[task, branch] = float((total - least) / scale)
        return losses, relative

    def find_weights(self, x: Nested) -> dict[Unit, list[WeightSlice]]:
        """Return the variables, and the slices of stacked experts, of each unit of branches.

        A part belongs to the only unit whose predictions become NaN, or change, if it is NaN. What
        no unit reads, such as mixtures and statistics of gates, belongs to none.

        Args:
            x: A batch of validation data.

        Warns:
            UserWarning: If several units read a trainable variable, which belongs to none.
        """
        expected = self._observed.run_batch(x)
        units = self._find_units(expected)
        weights: dict[Unit, list[WeightSlice]] = {unit: [] for unit in units.values()}
        names, common = list(weights), {}
        layers = find_layers(self.model, StackedExperts)
        stacks = {id(v) for layer in layers for v in (*layer._kernels, *layer._biases)}
        variables = [v for v in self.model.weights if keras.backend.is_float_dtype(v.dtype)]
        parts: list[Any] = []
        for variable in variables:
            value = read_part((variable, ()))
            slices = [(i,) for i in range(len(value))] if id(variable) in stacks else [()]
            parts += [(variable, value, index) for index in slices]
        readers = np.zeros((len(parts), len(names)))
        try:
            for row, (variable, value, index) in zip(readers, parts):
                # No new array, which processes of JAX would compare: NaN differs from itself.
                whole = ops.convert_to_tensor(variable)
                spoiled = whole * np.nan
                if index:
                    (i,) = index
                    spoiled = ops.concatenate([whole[:i], spoiled[i : i + 1], whole[i + 1 :]])
                variable.assign(spoiled)
                actual = self._observed.run_batch(x)
                variable.assign(value)
                for (task, branch), unit in units.items():
                    old, new = expected[task][branch], actual[task][branch]
                    is_close = np.abs(new - old) <= LARGE_CHANGE * (1 + np.abs(old))
                    row[names.index(unit)] += (~is_close & np.isfinite(old)).any()
        finally:
            for variable, value, _ in parts:
                variable.assign(value)
        # Summed so that all processes keep the same parts.
        for row, (variable, _, index) in zip(sum_over_processes(readers), parts):
            found = [unit for unit, count in zip(names, row) if count]
            if len(found) == 1:
                weights[found[0]].append((variable, index))
            elif variable.trainable and any(unit.branch for unit in found):
                common[variable.path] = found
        weights = {unit: of_unit for unit, of_unit in weights.items() if unit.branch}
        if common:
            warn_user(
                "FitHedge keeps the best epoch of each branch, but several branches read the "
                f"weights {list(common)}, which stay as in the last epoch. Give each branch its "
                "own features with StreamFeatures, or set keep_best=False"
            )
        return weights

    def _find_units(self, branches: Mapping[TaskName, Any]) -> dict[Branch, Unit]:
        joined = {task: {task} for task in self.heads}
        for task, head in self.heads.items():
            joined_tasks = set().union(*(joined[each] for each in (task, *getattr(head, "of", ()))))
            joined.update(dict.fromkeys(joined_tasks, joined_tasks))
        units = {}
        for task, branch in [(t, b) for t in self.heads for b in branches[t]]:
            alike = [each for each in self.heads if branch in branches[each]]
            tasks = joined[task] if branch in (OWN, "") else alike
            units[task, branch] = Unit(branch, tuple(sorted(tasks)))
        return units


def label_losses(head: Any, labels: np.ndarray, predictions: Tensor) -> np.ndarray:
    """Return the loss of each label, or of each number if single numbers can be missing."""
    if not np.isfinite(to_numpy(predictions)).all():  # which PyTorch can refuse
        return np.full(len(labels), np.nan)
    known = np.nan_to_num(labels, nan=SAFE_LABEL)
    y_true, y_pred = (ops.convert_to_tensor(x, keras.config.floatx()) for x in (known, predictions))
    losses = to_numpy(plain_head(head).example_losses(y_true, y_pred))
    return losses if losses.ndim == 1 else losses[~np.isnan(labels)]


def _loss_sums(head: Any, labels: np.ndarray, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return sums of the losses of each branch, of labels and of the mean label, and the count."""
    plain, best = plain_head(head), labels

    def total(predictions: Tensor) -> float:
        return float(label_losses(head, labels, predictions).sum(dtype="float64"))

    sums = [*map(total, head.branch_predictions([*map(ops.convert_to_tensor, values.values())]))]
    if loss_name(plain.loss) in CLASS_INDICES:
        best = np.eye(plain.units)[labels[:, 0].astype(int)]
    zeros = plain._prediction(ops.zeros((len(labels), plain.units), keras.config.floatx()))
    if best.shape[-1] == plain.units:
        mean = np.ma.masked_invalid(best).mean(axis=0).filled(SAFE_PREDICTION)
        best = np.where(np.isnan(best), mean, best)
        sums += [total(best), total(np.broadcast_to(mean, best.shape))]
    else:
        sums += [0.0, total(zeros)]
    return np.array([*sums, label_losses(head, labels, zeros).size])


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
    """Assign variables and slices of variables, each variable once."""
    wholes: dict[int, Any] = {}
    for (variable, index), value in parts:
        _, whole = wholes.setdefault(id(variable), (variable, read_part((variable, ()))))
        whole[index] = value
    for variable, whole in wholes.values():
        variable.assign(whole)

"""The branches of a model on held-out rows: their values and losses."""

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import keras
import numpy as np
from keras import ops

from ple_keras._keras.tensors import sum_over_processes, to_numpy
from ple_keras._typing import ByName, Nested, TaskName, Tensor
from ple_keras.heads.binary_heads import ProductHead
from ple_keras.heads.mixture import best_mixture, label_losses
from ple_keras.heads.task_heads import find_heads, hedged_heads
from ple_keras.labels.sample_space import SAFE_PREDICTION
from ple_keras.layers.gate import Observer
from ple_keras.models.multi_task_model import trace_function
from ple_keras.models.observing_model import ObservingModel, check_model, task_labels

Branch: TypeAlias = tuple[TaskName, str]
# The values that a head mixes, `(examples, units)` for each branch; for a product, the logits of
# its factors. ALL has the labels, `(examples, width)`, without missing ones. Some numbers are NaN.
BranchValues: TypeAlias = dict[Branch, np.ndarray]
ALL = ""  # of a task, instead of a branch: its labels, or its mixture


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

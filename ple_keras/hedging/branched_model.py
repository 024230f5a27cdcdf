"""The branches of a model: their values and losses on held-out rows, and their weights."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from ple_keras._keras.building import check_model
from ple_keras._keras.processes import sum_over_processes
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import ByName, Nested, TaskName, Tensor
from ple_keras.heads.binary_heads import ProductHead
from ple_keras.heads.task_heads import find_heads, hedged_heads
from ple_keras.hedging.branch_weights import Branch
from ple_keras.hedging.mixture import best_mixture, label_losses, missing_values
from ple_keras.labels.label_arrays import task_labels
from ple_keras.labels.sample_space import SAFE_PREDICTION
from ple_keras.layers.observer import Observer
from ple_keras.steps.observing_model import ObservingModel
from ple_keras.steps.trace_function import trace_function


class LabeledValues(NamedTuple):
    """Labels, and the values that heads mix for them.

    Attributes:
        labels: `(examples, width)` by task, without missing labels. Some numbers are NaN.
        values: `(examples, units)` by branch; for a product, the logits of its factors.
    """

    labels: dict[TaskName, np.ndarray]
    values: dict[Branch, np.ndarray]


class Losses(NamedTuple):
    """Mean losses over the labels of all processes.

    A relative loss is divided by the loss of a constant prediction, the mean label or the
    frequencies of classes, both minus the loss of labels as predictions. If labels are no
    predictions in any form, it is divided by the loss of logits of 0. Tasks without labels or
    training have none.

    Attributes:
        by_branch: The loss of each branch.
        relative: The relative loss of each branch.
        relative_mixtures: The relative loss of the mixture of each task.
    """

    by_branch: dict[Branch, float]
    relative: dict[Branch, float]
    relative_mixtures: dict[TaskName, float]


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
        return {
            task: {branch: stack[i] for i, branch in enumerate(self.heads[task].branch_names, 1)}
            for task, stack in observer.branches.items()
        }

    def read(self, batches: Iterable[tuple[Nested, Nested]]) -> LabeledValues:
        """Return the labels and values of hedged tasks with a loss. Products can lack labels."""
        all_labels: dict[TaskName, list[np.ndarray]] = defaultdict(list)
        all_values: dict[Branch, list[np.ndarray]] = defaultdict(list)
        for x, y in batches:
            outputs, given = self.observed.run_batch(x), task_labels(y, self.mixed_heads)
            for task, head in self.heads.items():
                if head.has_loss and head.branch_names and given.get(task) is not None:
                    present, is_labeled = head._present_labels(given[task])
                    head._check_values(present)
                    all_labels[task].append(present)
                    for branch in head.branch_names:
                        values = [outputs[f][branch][is_labeled] for f in self._factors(task)]
                        all_values[task, branch].append(np.concatenate(values, -1))
        labels = {task: np.concatenate(arrays) for task, arrays in all_labels.items()}
        return LabeledValues(labels, {b: np.concatenate(x) for b, x in all_values.items()})

    def _factors(self, task: TaskName) -> list[TaskName]:
        """Return the factors of a product that are no products, or the task itself."""
        of = getattr(self.heads[task], "of", ())
        return [factor for each in of for factor in self._factors(each)] or [task]

    def losses(self, found: LabeledValues) -> Losses:
        """Return the losses of the branches and mixtures."""
        losses = Losses({}, {}, {})
        for task, labels in found.labels.items():
            head = self.heads[task]
            values = np.stack([found.values[task, branch] for branch in head.branch_names])
            mixtures = [to_numpy(self.heads[each].mixture) for each in self._factors(task)]
            missing = missing_values(head, values)
            mixed = np.einsum("ub,bnu->nu", mixtures, np.where(missing, 0, values))
            if missing.any():
                mixed /= np.einsum("ub,bnu->nu", mixtures, ~missing)
                values = np.where(missing, mixed, values)
            stack = ops.convert_to_tensor(np.stack([mixed, *values]))
            if isinstance(head, ProductHead):
                stack = ops.sum(ops.log_sigmoid(stack), -1, keepdims=True)
            are_classes = head.activation is keras.activations.softmax and labels.shape[-1] == 1
            exact = np.eye(head.units)[labels[:, 0].astype(int)] if are_classes else labels
            are_predictions = exact.shape[-1] == head.units
            if are_predictions:
                mean = np.ma.masked_invalid(exact).mean(axis=0).filled(SAFE_PREDICTION)
                mean = np.broadcast_to(mean, exact.shape)
                constants = np.stack([np.where(np.isnan(exact), mean, exact), mean])
            else:
                constants = to_numpy(head._predict(ops.zeros_like(stack[:2])))
            predictions = np.concatenate([to_numpy(head._predict(stack)), constants])
            arrays = label_losses(head, labels, predictions)
            sums = np.append(arrays.sum(axis=1), arrays.shape[1])
            *totals, least, constant, count = sum_over_processes(sums).tolist()
            least *= are_predictions
            scale = abs(constant - least)
            is_counted = count and head.loss_weight
            scale = scale if 0 < scale < np.inf else count
            if is_counted:
                losses.relative_mixtures[task] = (totals[0] - least) / scale
            for branch, total in zip(head.branch_names, totals[1:]):
                losses.by_branch[task, branch] = total / count if count else np.nan
                if is_counted:
                    losses.relative[task, branch] = (total - least) / scale
        return losses

    def relative_loss(self, found: LabeledValues) -> float:
        """Return the mean of the relative losses of the mixtures."""
        relative = self.losses(found).relative_mixtures.values()
        return sum(relative) / len(relative) if relative else np.nan

    def fit_mixtures(self, found: LabeledValues, prior: float, allows_nan: bool = False) -> None:
        """Fit and assign the mixtures.

        Args:
            found: The values of the branches.
            prior: The weight of the prior.
            allows_nan: Whether a mixture stays as it is if the values of a branch are not finite.
        """
        for task, head in self.mixed_heads.items():
            labels = found.labels[task]
            values = np.stack([found.values[task, branch] for branch in head.branch_names])
            mixture, count = to_numpy(head.mixture), 0
            if not allows_nan or np.isfinite(values[~missing_values(head, values)]).all():
                mixture, count = best_mixture(head, labels, values, prior), len(labels)
            sums = sum_over_processes(np.append(mixture, 1.0) * count)
            mixture = sums[:-1] / sums[-1] if sums[-1] else mixture
            head.mixture.assign(mixture.astype("float32"))

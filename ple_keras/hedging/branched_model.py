"""The branches of a model: their values and losses on held-out rows, and their weights."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
from keras import ops

from ple_keras._keras.batches import Batch
from ple_keras._keras.building import check_model
from ple_keras._keras.processes import sum_over_processes
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import ByName, TaskName, Tensor
from ple_keras.heads.binary_heads import ProductHead
from ple_keras.heads.hedged_head import mix
from ple_keras.heads.task_heads import branch_names, find_heads, hedged_heads
from ple_keras.hedging.branch_weights import Branch
from ple_keras.hedging.mixture import LabeledValues, best_mixture, total_losses
from ple_keras.labels.label_arrays import check_total_weight, labeled_weights, task_labels
from ple_keras.labels.sample_space import SAFE_PREDICTION
from ple_keras.layers.observer import Observer
from ple_keras.steps.observing_model import ObservingModel
from ple_keras.steps.trace_function import trace_function

ValuesByTask: TypeAlias = dict[TaskName, LabeledValues]


class Losses(NamedTuple):
    """Mean losses over the labels of all processes.

    A relative loss is divided by the loss of a constant prediction, the mean label or the
    frequencies of classes, both minus the loss of labels as predictions. If labels can't be
    predictions, it is divided by the loss of logits of 0. Tasks without labels or training have
    none.

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
        self.branch_names = branch_names(model)
        self.hedged = hedged_heads(model)
        self.mixed_heads = {t: self.heads[t] for t in self.hedged if self.heads[t].has_loss}
        if not self.mixed_heads:
            raise ValueError(
                f"model must have a HedgedBlock before heads with losses. Received: {model=}"
            )
        self.observed = ObservingModel(model, self._values)
        trace_function(self.observed, "predict")

    def _values(self, outputs: ByName, observer: Observer) -> dict[str, Tensor]:
        return {task: ops.stack([*values.values()]) for task, values in observer.branches.items()}

    def read(self, batches: Iterable[Batch]) -> ValuesByTask:
        """Return the labels and values of hedged tasks with a loss. Products can lack labels."""
        arrays_by_task: dict[TaskName, list[tuple[np.ndarray, ...]]] = defaultdict(list)
        trained = [task for task, head in self.heads.items() if head.has_loss]
        for x, y, sample_weight in batches:
            outputs, of_batch = self.observed.run_batch(x), task_labels(y, self.mixed_heads)
            for task, head in self.heads.items():
                if head.has_loss and self.branch_names[task] and of_batch.get(task) is not None:
                    present, is_labeled = head._present_labels(of_batch[task])
                    head._check_values(present)
                    weights = labeled_weights(sample_weight, trained, task, is_labeled)
                    factors = [outputs[factor][:, is_labeled] for factor in self._factors(task)]
                    arrays_by_task[task].append((present, weights, np.concatenate(factors, -1)))
        found = {}
        for task, of_batches in arrays_by_task.items():
            pairs = zip(zip(*of_batches), (0, 0, 1))  # arrays, and the axis of examples
            labels, weights, values = (np.concatenate(arrays, axis) for arrays, axis in pairs)
            check_total_weight(len(weights), weights.sum(), task)
            counts = weights > 0
            found[task] = LabeledValues(labels[counts], weights[counts], values[:, counts])
        return found

    def _factors(self, task: TaskName) -> list[TaskName]:
        """Return the factors of a product that are not products, or the task itself."""
        of = getattr(self.heads[task], "of", ())
        return [factor for each in of for factor in self._factors(each)] or [task]

    def losses(self, found: ValuesByTask) -> Losses:
        """Return the losses of the branches and mixtures."""
        losses = Losses({}, {}, {})
        for task, of_task in found.items():
            head, labels = self.heads[task], of_task.labels
            mixtures = [to_numpy(self.hedged[each].mixture) for each in self._factors(task)]
            mixed = mix(of_task.values, np.transpose(mixtures))
            stack = ops.convert_to_tensor(np.stack([mixed, *of_task.values]))
            if isinstance(head, ProductHead):
                stack = ops.sum(ops.log_sigmoid(stack), -1, keepdims=True)
            are_classes = head.activation is keras.activations.softmax and labels.shape[-1] == 1
            exact = np.eye(head.units)[labels[:, 0].astype(int)] if are_classes else labels
            are_predictions = exact.shape[-1] == head.units
            if are_predictions:
                weights = np.broadcast_to(of_task.weights[:, None], exact.shape)
                mean: Any = np.ma.average(np.ma.masked_invalid(exact), axis=0, weights=weights)
                mean = np.broadcast_to(mean.filled(SAFE_PREDICTION), exact.shape)
                constants = np.stack([np.where(np.isnan(exact), mean, exact), mean])
            else:
                constants = to_numpy(head._predict(ops.zeros_like(stack[:2])))
            predictions = np.concatenate([to_numpy(head._predict(stack)), constants])
            sums = np.append(*total_losses(head, of_task, predictions))
            *totals, least, constant, count = sum_over_processes(sums).tolist()
            least *= are_predictions
            scale = abs(constant - least)
            is_counted = count and head.loss_weight
            scale = scale if 0 < scale < np.inf else count
            if is_counted:
                losses.relative_mixtures[task] = (totals[0] - least) / scale
            for branch, total in zip(self.branch_names[task], totals[1:]):
                losses.by_branch[task, branch] = total / count if count else np.nan
                if is_counted:
                    losses.relative[task, branch] = (total - least) / scale
        return losses

    def relative_loss(self, found: ValuesByTask) -> float:
        """Return the mean of the relative losses of the mixtures."""
        relative = self.losses(found).relative_mixtures.values()
        return sum(relative) / len(relative) if relative else np.nan

    def fit_mixtures(self, found: ValuesByTask, prior: Any, allows_nan: bool = False) -> None:
        """Fit and assign the mixtures.

        Args:
            found: The values of the branches.
            prior: The weight of the prior, or `{task: weights}` (see `best_mixture`), with which
                the mixture of a task without labels stays as it is.
            allows_nan: Whether a mixture stays as it is if the values of a branch are not finite.
        """
        for task, head in self.mixed_heads.items():
            variable = self.hedged[task].mixture
            mixture, count = to_numpy(variable), 0.0
            is_finite = np.isfinite(found[task].values).all()
            of_task = prior[task] if isinstance(prior, Mapping) else prior
            is_kept = of_task is not prior and not len(found[task].labels)
            if not is_kept and (is_finite or not allows_nan):
                mixture = best_mixture(head, found[task], of_task)
                count = found[task].weights.sum()
            sums = sum_over_processes(np.append(mixture, 1.0) * count)
            mixture = sums[:-1] / sums[-1] if sums[-1] else mixture
            variable.assign(mixture.astype("float32"))

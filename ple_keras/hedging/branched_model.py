"""The branches of a model: their values and losses on held-out rows, and their weights."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
from keras import ops

from ple_keras._keras.batches import Batch
from ple_keras._keras.building import check_model
from ple_keras._keras.internals import get_mask
from ple_keras._keras.processes import sum_over_processes
from ple_keras._keras.tensors import to_numpy
from ple_keras._typing import ByName, TaskName, Tensor
from ple_keras.heads.hedged_head import mix
from ple_keras.heads.task_heads import branch_names, find_heads, hedged_heads
from ple_keras.hedging.branch_weights import Branch
from ple_keras.hedging.mixture import LabeledValues, best_mixture, total_losses
from ple_keras.labels.label_arrays import labeled_weights, task_labels
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

    def _values(self, outputs: ByName, observer: Observer) -> dict[str, list[Tensor]]:
        """Return the values of the branches of each task, and its mask if there is one."""
        found: dict[str, list[Tensor]] = {}
        by_task = outputs if isinstance(outputs, Mapping) else {}
        for task, values in observer.branches.items():
            mask = get_mask(by_task.get(task))
            found[task] = [ops.stack([*values.values()]), *([] if mask is None else [mask])]
        return found

    def read(self, batches: Iterable[Batch]) -> ValuesByTask:
        """Return the labels and values of hedged tasks with a loss. Products can lack labels."""
        arrays_by_task: dict[TaskName, list[tuple[np.ndarray, ...]]] = defaultdict(list)
        trained = [task for task, head in self.heads.items() if head.has_loss]
        for x, y, sample_weight in batches:
            outputs, of_batch = self.observed.run_batch(x), task_labels(y, self.mixed_heads)
            for task, head in self.heads.items():
                if head.has_loss and self.branch_names[task] and of_batch.get(task) is not None:
                    present, is_labeled = head._present_labels(of_batch[task])
                    for mask in outputs[task][1:]:
                        present = present[mask[is_labeled] > 0]
                        is_labeled = is_labeled & (mask > 0)
                    head._check_values(present)
                    weights = labeled_weights(sample_weight, trained, task, is_labeled)
                    factors = [outputs[factor][0][:, is_labeled] for factor in self._factors(task)]
                    arrays_by_task[task].append((present, weights, np.concatenate(factors, -1)))
        found = {}
        for task, of_batches in arrays_by_task.items():
            pairs = zip(zip(*of_batches), (0, 0, 1))  # arrays, and the axis of examples
            labels, weights, values = (np.concatenate(arrays, axis) for arrays, axis in pairs)
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
            sums = self._summed_losses(task, of_task)
            *totals, least, constant, count = sum_over_processes(sums).tolist()
            branches = [(task, branch) for branch in self.branch_names[task]]
            for branch, total in zip(branches, totals[1:]):
                losses.by_branch[branch] = total / count if count else np.nan
            if count and self.heads[task].loss_weight:
                scale = abs(constant - least)
                scale = scale if 0 < scale < np.inf else count
                mixture, *relative = [(total - least) / scale for total in totals]
                losses.relative_mixtures[task] = mixture
                losses.relative.update(zip(branches, relative))
        return losses

    def _summed_losses(self, task: TaskName, found: LabeledValues) -> np.ndarray:
        """Return sums over the labels of a task, and the sum of their weights.

        They are the losses of the mixture, of each branch, of labels as predictions, and of a
        constant (see `Losses`).
        """
        head = self.heads[task]
        mixtures = [to_numpy(self.hedged[factor].mixture) for factor in self._factors(task)]
        mixed = mix(found.values, np.transpose(mixtures))
        values = ops.convert_to_tensor(np.stack([mixed, *found.values]))
        if task not in self.hedged:  # a product, from the logits of its factors
            values = ops.sum(ops.log_sigmoid(values), -1, keepdims=True)
        exact = head._family().indicators(found.labels, head.units)
        if exact is None:
            constants = to_numpy(head._predict(ops.zeros_like(values[:2])))
        else:
            constant = head._family().constant(exact, found.weights)
            constant = np.broadcast_to(constant, exact.shape)
            constants = np.stack([np.where(np.isnan(exact), constant, exact), constant])
        predictions = np.concatenate([to_numpy(head._predict(values)), constants])
        losses, weight = total_losses(head, found, predictions)
        losses[-2] *= exact is not None
        return np.append(losses, weight)

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

"""Mixtures of the predictions of several models."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import keras
import numpy as np

from ple_keras._checks import check_keys, check_number, short_repr
from ple_keras._typing import ByName, Nested, TaskName
from ple_keras.families.family import Family
from ple_keras.heads.head import Head
from ple_keras.heads.kinds import new_head, row_family
from ple_keras.hedging.mixture import LabeledValues, best_mixture
from ple_keras.inspection.compare_predictions import read_by_task, row_losses
from ple_keras.inspection.report_text import Report, to_json
from ple_keras.labels.label_arrays import labeled_weights


@dataclass(frozen=True)
class Mixture(Report):
    """Result of `mix_predictions`.

    `Mixture.from_dict` restores it from the result of `to_dict`, which has the configs of heads.

    Attributes:
        weights: `{task: {model: weight}}`: above 0, with a sum of 1 for each task.
        losses: `{task: kind}`.
    """

    weights: dict[TaskName, dict[str, float]]
    losses: dict[TaskName, str | Head]

    def predict(self, predictions: Mapping[str, ByName]) -> dict[TaskName, np.ndarray]:
        """Return the mixtures of predictions, `{task: array}`.

        Args:
            predictions: `{model: {task: array}}`, as for `mix_predictions`.

        Returns:
            Arrays `(rows,)`, or `(rows, classes)`, with NaN where the prediction of a model is NaN.

        Raises:
            TypeError, ValueError: As for `mix_predictions`, and if a model is missing or unknown.
        """
        mixtures = {}
        for task, arrays in read_by_task(self.losses, predictions).items():
            family, weights = new_head(self.losses[task])._family(), self.weights[task]
            check_keys(predictions, [*weights], "predictions")
            mixed: Any = sum(weights[m] * family.link(p) for m, p in zip(predictions, arrays))
            mixtures[task] = family.inverse(mixed)
        return mixtures

    def to_dict(self) -> dict[str, Any]:
        losses = {t: keras.saving.serialize_keras_object(kind) for t, kind in self.losses.items()}
        return dict(to_json({"weights": self.weights, "losses": losses}))

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Return the mixture whose `to_dict` returned `value`."""
        kinds = value["losses"].items()
        losses = {task: keras.saving.deserialize_keras_object(kind) for task, kind in kinds}
        return cls(value["weights"], losses)


def mix_predictions(
    y: ByName, predictions: ByName, losses: ByName, sample_weight: Nested = None, prior: float = 1.0
) -> Mixture:
    """Return a mixture of the predictions of several models, such as boosting and a network.

        f_k = sum_m a_km f_km
        a_k = argmin sum_i w_i loss(f_k(x_i), y_i) - prior / 2 sum_m log a_km

    f_km is the logit of a probability of model m for task k, the logarithm of a probability of a
    class, of a count or of an amount, or a number. The weights a_k are above 0 and have a sum of 1.
    `FitHedge` fits the weights of branches in the same way, with the same sums for squared errors
    and overdispersed counts. Without labels, or if all weights of rows are 0, they are equal.

    The rows must be new to all models: neither their training nor their stops may have used them. A
    model that has seen the rows looks better than it is, and gets too much weight.

    Args:
        y: `{task: labels}`, each `(B,)` or `(B, 1)`, with NaN for missing ones (see
            `compare_predictions`). Any string is a name of a task.
        predictions: `{model: {task: array}}` of at least two models. Arrays are `(B,)` or `(B, 1)`;
            for classes, probabilities `(B, classes)`. Rows where a prediction of a model is NaN are
            left out for this task. Probabilities are limited to 2^-23 and 1 - 2^-23, and counts and
            amounts to at least 2^-23.
        losses: `{task: kind}`: "binary", "regression", "count", "amount" or "multiclass" (see
            `compare_predictions`), or an unbuilt head of the task with the activation of its kind,
            such as `TweedieHead("claim", power=1.7)`. Its loss is used, without its `standardize`.
        sample_weight: Weights of the rows, `(B,)`, or `{task: weights}`: a row with a weight of 2
            is two rows.
        prior: The weight of the prior, at least 0. With a larger one, the weights are more equal.

    `y` and the predictions of a model can be frames of pandas or polars with a column for each
    task. Other columns are ignored.

    Returns:
        A Mixture with `weights`, `{task: {model: weight}}`, and `predict(predictions)`, which
        returns `{task: array}`. `to_dict()` is ready for JSON, and `from_dict` restores the
        mixture.

    Raises:
        TypeError: If an argument is not a dict as described, or arrays are not numbers.
        ValueError: If there are fewer than two models, a task is missing or unknown, a kind is
            unknown, a head has another task, activation or loss, an array has a wrong shape or
            value, or `prior` is negative.

    Example:

    >>> late = np.arange(400) % 4 == 0
    >>> boosting, network = np.where(late, 0.6, 0.2), np.where(late, 0.5, 0.3)
    >>> predictions = {"boosting": {"late": boosting}, "network": {"late": network}}
    >>> mixture = mix_predictions({"late": late}, predictions, {"late": "binary"})
    >>> mixture.weights["late"]["boosting"] > 0.9
    True
    >>> mixture.predict(predictions)["late"].shape
    (400,)
    >>> copy = type(mixture).from_dict(mixture.to_dict())
    """
    check_number(prior, "prior", minimum=0)
    weights_by_task = {}
    for task, (labels, *arrays) in read_by_task(losses, predictions, y=y).items():
        family = _mixed_family(losses[task], task)
        is_known = ~np.isnan(np.column_stack([labels, *arrays])).any(axis=1)
        labels, *arrays = (each[is_known] for each in (labels, *arrays))
        weights = labeled_weights(sample_weight, losses, task, is_known)
        for each in arrays if len(labels) else ():
            row_losses(family, labels, each, task)  # checks the labels and the predictions
        values = np.atleast_3d([family.link(each) for each in arrays])
        are_numbers = not (family.is_rate or family.has_classes)
        if are_numbers and len(labels):  # float32 lacks the digits of large numbers
            labels, values = ((x - labels.mean()) / (labels.std() or 1) for x in (labels, values))
        counts = weights > 0
        found = LabeledValues(labels[counts, None], weights[counts], values[:, counts])
        mixture = best_mixture(_unscaled_head(losses[task], values.shape[-1]), found, prior)
        weights_by_task[task] = dict(zip(predictions, mixture.tolist()))
    return Mixture(weights_by_task, dict(losses))


def _mixed_family(kind: Any, task: TaskName) -> Family:
    """Return the family of a kind, whose predictions must be the inverse of its link."""
    argument = f"losses[{task!r}]"
    family = row_family(kind, task, argument)
    if new_head(kind).activation is not keras.activations.get(family.activation):
        raise ValueError(
            f"{argument} must have the activation {family.activation!r} to mix predictions. "
            f"Received: {argument}={short_repr(kind)}"
        )
    return family


def _unscaled_head(kind: str | Head, width: int) -> Head:
    """Return a head of a kind that needs no statistics of labels."""
    head, scale = new_head(kind, num_classes=width), ("standardize", "mean", "deviation")
    return type(head).from_config({k: x for k, x in head.get_config().items() if k not in scale})

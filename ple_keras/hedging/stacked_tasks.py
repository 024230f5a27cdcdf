"""A layer after which each task reads the predictions of the others."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from ple_keras._checks import check_by_task, check_keys
from ple_keras._keras.layers import BaseLayer, Untracked, find_layers
from ple_keras._keras.saving import register
from ple_keras._keras.tensors import at_least_float32, clip, fill, to_numpy
from ple_keras._typing import ByName, Config, Nested, Shape, TaskName, Tensor
from ple_keras.heads.binary_heads import BinaryHead, ProductHead
from ple_keras.heads.branches import LARGEST_PREDICTION, mixed_value
from ple_keras.heads.head import Head
from ple_keras.heads.regression_heads import CountHead, RegressionHead, TweedieHead, variance_power
from ple_keras.heads.task_heads import TaskHeads
from ple_keras.labels.label_arrays import labeled_weights, task_labels
from ple_keras.labels.sample_space import shapes_match, to_number_array
from ple_keras.losses.loss_kinds import loss_name

SIGMOID, LINEAR, EXPONENTIAL = map(keras.activations.get, ("sigmoid", "linear", "exponential"))
KINDS: dict[type[Head], Any] = {  # of tasks that read each other
    BinaryHead: (1, SIGMOID, "binary_crossentropy"),
    RegressionHead: (1, LINEAR, "mean_squared_error"),
    CountHead: (1, EXPONENTIAL, "poisson"),
    TweedieHead: (1, EXPONENTIAL, ""),
}
MIN_LABELS, MIN_RARE = 50, 10  # the latter differ from the most frequent label
RIDGE = 10.0  # in labels
PRIOR, OWN_PRIOR = 0.5, 10.0  # of the weights of another prediction and of the own one
MIN_DEVIATION = 1e-6  # of a prediction, relative to its mean: float32 has 7 digits
MAX_STEPS, MIN_DECREASE = 100, 1e-10  # of Newton's method, the latter of a log-likelihood

Derivatives = Callable[[np.ndarray], Any]  # the first and the second ones at a point


@register
class StackedTasks(BaseLayer):
    """Stacking of tasks: each reads the predictions of the others, `{task: (..., units)}`.

    One task's prediction can be the best one for another task: a predicted rating can rank films
    that a user hates better than a network for this rare label. With f_j, the prediction of task j
    as a logit of a probability, as the logarithm of a count or an amount, or as a number, the
    prediction of task k becomes

        g_k = a_kk f_k + sum_j a_kj h_kj
        h_kj = alpha_kj + beta_kj (f_j - m_kj) / s_kj

    m and s are the mean and the deviation of f_j on the rows with a label of k. `adapt` fits alpha
    and beta to these labels, with a ridge of 10 labels on beta, and then the weights a, which are
    above 0 and have a sum of 1:

        a_k = argmin sum_i loss(g_k, y_ik) / phi_k - 10 log a_kk - sum_j log a_kj / 2

    phi is the dispersion, 1 for probabilities, else the mean of `(y - p)^2`, divided by `p^power`
    for counts and amounts, where p is the prediction, or the mean label if that is better. So the
    result does not depend on units. Predictions that say nothing about a task hardly change it.

    Tasks read each other if they have a BinaryHead, a RegressionHead without an activation, a
    CountHead or a TweedieHead, one unit, and the default loss. All others pass unchanged: classes,
    rankings, subclasses of heads, and the factors of a ProductHead. So do tasks with fewer than 50
    labels, with fewer than 10 that differ from the most frequent one, or with soft labels, and all
    tasks before `adapt`, or with `training=True`.

    NaN and infinite predictions stay as they are. For other tasks, such a prediction counts as m,
    and a prediction beyond the range of the rows of `adapt` as its end. Probabilities and counts
    are limited as for given branches (see `TaskHeads`).

    The layer comes after any model, and changes neither its training nor its heads. Its weights are
    not trainable. Files and exports contain them.

    Args:
        heads: The TaskHeads of the tasks, or a dict of heads keyed by task.
        **kwargs: Keras's layer arguments.

    Call arguments:
        inputs: The predictions of all tasks, `{task: (..., units)}`.
        training: Whether predictions pass unchanged.

    Returns:
        The predictions of all tasks, `{task: (..., units)}`, in the dtype of the inputs.

    Raises:
        TypeError: If `heads` contains anything other than heads, or inputs are not a dict.
        ValueError: If a task is missing or unknown, or tasks that read each other have predictions
            of different shapes.

    Reference:

    - Breiman, Friedman, "Predicting Multivariate Responses in Multiple Linear Regression", Journal
      of the Royal Statistical Society B 59, 1997.
    - Spyromitros-Xioufis, Tsoumakas, Groves, Vlahavas, "Multi-Target Regression via Input Space
      Expansion: Treating Targets as Inputs", Machine Learning 104, 2016.
      [arXiv:1211.6581](https://arxiv.org/abs/1211.6581)

    Example:

    >>> heads = TaskHeads([BinaryHead("like"), RegressionHead("rating")])
    >>> rating = np.linspace(1, 5, 500)[:, None]
    >>> predictions = {"like": np.full((500, 1), 0.5), "rating": rating}
    >>> stacked = StackedTasks(heads)
    >>> stacked.adapt(predictions, {"like": rating > 3 + np.sin(9 * rating), "rating": rating})
    >>> like = keras.ops.convert_to_numpy(stacked(predictions)["like"])
    >>> bool(like[0, 0] < 0.2), bool(like[-1, 0] > 0.8)
    (True, True)
    >>> stacked.coefficients["like"]["rating"] > 1
    True

    After a model with these heads, a second model serves the predictions:
    `served = keras.Model(model.input, stacked(model.output))`.
    """

    def __init__(self, heads: TaskHeads | Mapping[TaskName, Head], **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.supports_masking, self.autocast = True, False  # float16 lacks the digits
        self._tasks, copies = _copies(heads)
        self._heads = Untracked(copies)
        self._coefficients: keras.Variable = None

    @property
    def coefficients(self) -> dict[TaskName, dict[TaskName, float]]:
        """The effects on each task that reads others: its own weight a_kk, and a_kj beta_kj."""
        effects = [] if self._coefficients is None else to_numpy(self._coefficients)[0].tolist()
        heads = self._heads.value
        return {task: dict(zip(heads, row)) for task, row in zip(heads, effects) if any(row)}

    def build(self, input_shape: Mapping[TaskName, Shape]) -> None:
        if size := len(self._heads.value):
            options = {"trainable": False, "autocast": False, "name": "coefficients"}
            self._coefficients = self.add_weight((6, size, size), "zeros", "float32", **options)

    def call(self, inputs: ByName, training: bool | None = None) -> dict[str, Tensor]:
        """Return the predictions of all tasks."""
        self._check(inputs, "inputs")
        outputs = dict(inputs)
        if training or not self._heads.value:
            return outputs
        x, values, missing = self._values(inputs)
        coefficients = ops.cast(self._coefficients, x.dtype)
        effects, slopes, centers, intercepts, low, high = (coefficients[i] for i in range(6))
        terms = ops.minimum(ops.maximum(ops.expand_dims(values, -2), low), high) - centers
        terms = fill(terms, ops.expand_dims(missing, -2), 0) * slopes
        mixed = ops.sum(terms + intercepts, axis=-1)
        # Infinite and NaN predictions are added, since `where` is a product in files of tf2onnx.
        own = clip(x, -LARGEST_PREDICTION, LARGEST_PREDICTION)
        heads = self._heads.value
        columns = [head.activation(mixed[..., i : i + 1]) for i, head in enumerate(heads.values())]
        read = ops.where(ops.diagonal(effects) > 0, ops.concatenate(columns, axis=-1), own)
        for i, task in enumerate(heads):
            outputs[task] = ops.cast((read + (x - own))[..., i : i + 1], inputs[task].dtype)
        return outputs

    def _check(self, predictions: ByName, argument: str) -> None:
        check_keys(check_by_task(predictions, self._tasks, argument), self._tasks, argument)
        # Sizes in a PyTorch trace are unknown, and not integers.
        shapes = {
            task: tuple(n if isinstance(n, int) else None for n in predictions[task].shape)
            for task in self._heads.value
        }
        for shape in shapes.values():
            first = next(iter(shapes.values()))
            if len(shape) < 2 or shape[-1] not in (1, None) or not shapes_match(shape, first):
                raise ValueError(
                    f"{argument} must have the same shape (batch, ..., 1) for all of {[*shapes]}. "
                    f"Received: {argument}.shape={shapes}"
                )

    def _values(self, predictions: ByName) -> list[Tensor]:
        """Return predictions, the values f, and where these are missing, `(..., tasks)`."""
        heads = self._heads.value
        columns = [at_least_float32(predictions[task]) for task in heads]
        found = [mixed_value(x, head.activation) for x, head in zip(columns, heads.values())]
        return [ops.concatenate([*each], axis=-1) for each in (columns, *zip(*found))]

    def adapt(self, predictions: ByName, y: Nested, sample_weight: Nested = None) -> None:
        """Fit the coefficients to the labels of rows that no part of the model was trained on.

        It can be called at any time, repeatedly, such as on the validation data of `fit`. A weight
        of 2 is two rows. With several processes, each must read the same rows.

        Args:
            predictions: `{task: (..., units)}`, as `model.predict` returns them.
            y: `{task: labels}`, `(...)` or `(..., 1)`, NaN or the `missing_label` of the head where
                they are missing. Labels of tasks that read no others are ignored.
            sample_weight: `{task: weights}`, or weights for all tasks.

        Raises:
            TypeError: If predictions or labels are not a dict of numbers.
            ValueError: If a task is missing or unknown, a shape does not match, there are no rows,
                or a label or a weight has a value that is not allowed.
        """
        check_by_task(predictions, self._tasks, "predictions")
        arrays = {t: to_number_array(x, f"predictions[{t!r}]") for t, x in predictions.items()}
        self._check(arrays, "predictions")
        labels, heads = task_labels(y, self._heads.value), self._heads.value
        if not heads:
            return
        if not self.built:
            self.build({task: x.shape for task, x in arrays.items()})
        _, *found = self._values({task: ops.convert_to_tensor(arrays[task]) for task in heads})
        values, missing = (to_numpy(x).reshape(-1, len(heads)) for x in found)
        if not len(values):
            raise ValueError(f"predictions must have rows. Received: rows={len(values)}")
        rows_by_task = []
        for k, (task, head) in enumerate(heads.items()):
            head._leading_axes = arrays[task].shape[:-1]
            present, is_labeled = head._present_labels(labels[task])
            weights = labeled_weights(sample_weight, self._tasks, task, is_labeled)
            rows = np.flatnonzero(is_labeled)
            used = (weights > 0) & ~missing[rows, k]
            f: Any = np.ma.array(values[rows[used]], "float64", mask=missing[rows[used]])
            rows_by_task.append(_fit(head, k, f, present[used, 0].astype("float64"), weights[used]))
        self._coefficients.assign(np.stack(rows_by_task, axis=1))

    def compute_mask(self, inputs: ByName, previous_mask: ByName) -> ByName:
        return previous_mask

    def compute_output_spec(self, inputs: ByName, training: bool | None = None) -> ByName:
        self._check(inputs, "inputs")
        return {task: keras.KerasTensor(x.shape, dtype=x.dtype) for task, x in inputs.items()}

    def get_config(self) -> Config:
        heads = dict.fromkeys(self._tasks) | self._heads.value
        serialize = keras.saving.serialize_keras_object
        return {**super().get_config(), "heads": {t: x and serialize(x) for t, x in heads.items()}}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        heads = keras.saving.deserialize_keras_object(config["heads"])
        return super().from_config({**config, "heads": heads})


def find_effects(model: keras.Layer) -> dict[TaskName, dict[TaskName, float]]:
    """Return the `coefficients` of the tasks of a model that read others."""
    found = find_layers(model, StackedTasks)
    return {task: effects for each in found for task, effects in each.coefficients.items()}


def _copies(heads: Any) -> tuple[tuple[TaskName, ...], dict[TaskName, Head]]:
    """Return all tasks, and copies without towers of the heads of those that read each other.

    Args:
        heads: The heads. In a config, it is None for tasks that pass unchanged.
    """
    known = dict(heads.items()) if isinstance(heads, TaskHeads | Mapping) else {"": heads}
    if not known or any(x is not None and getattr(x, "task", 0) != t for t, x in known.items()):
        raise TypeError(
            f"heads must be a TaskHeads, or a dict of heads keyed by task. Received: {heads=}"
        )
    factors = {task for x in known.values() if isinstance(x, ProductHead) for task in x.of}
    copies: dict[TaskName, Head] = {}
    unused: Config = {"tower": None, "metrics": [], "extra_metrics": None}
    for task, head in sorted(known.items()):  # weights in files have this order
        kind = head and (head.units, head.activation, loss_name(head.loss))
        is_soft = getattr(getattr(head, "loss", None), "label_smoothing", 0)
        if task not in factors and KINDS.get(type(head), 0) == kind and not is_soft:
            copies[task] = type(head).from_config({**head.get_config(), **unused})
    return tuple(known), copies if len(copies) > 1 else {}


def _fit(head: Head, k: int, f: Any, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the effects, slopes, centers, intercepts and ranges of task k, `(6, tasks)`.

    Args:
        head: The head of the task.
        k: Its index.
        f: The values of all tasks, `(labels, tasks)`, some of which are missing.
        y: The labels.
        weights: Their weights, above 0.
    """
    is_binary, is_log = head.activation is SIGMOID, head.activation is EXPONENTIAL
    own, power = np.asarray(f[:, k]), variance_power(head) or 0
    rare = len(y) - np.unique(y, return_counts=True)[1].max(initial=0)
    is_soft = is_binary and not np.isin(y, (0, 1)).all()
    predicted = np.exp(own) if is_log else own
    if len(y) < MIN_LABELS or rare < MIN_RARE or is_soft or (y == predicted).all():
        return np.zeros((6, f.shape[1]))
    weights = weights * np.where(y == 1, getattr(head, "pos_weight", None) or 1, 1)
    mean, dispersion = np.average(y, weights=weights), 1.0
    if not is_binary:  # of a constant, if the predictions are worse
        ratios = [(y - m) ** 2 / m**power for m in (predicted, mean)]
        dispersion = min(np.average(ratio, weights=weights) for ratio in ratios)

    def derivatives(g: np.ndarray) -> np.ndarray:
        """Return the first and the second derivative of the loss of each label."""
        if is_log:
            rise, fall = np.exp((2 - power) * g), y * np.exp((1 - power) * g)
            both = rise - fall, (2 - power) * rise + (power - 1) * fall
        else:
            p = 1 / (1 + np.exp(-g)) if is_binary else g
            both = p - y, p * (1 - p) if is_binary else np.ones_like(g)
        return np.stack(both) * (weights / dispersion)

    def ridge(line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        strengths = np.array([0, RIDGE if is_binary or is_log else RIDGE / dispersion])
        return strengths * line, np.diag(strengths)

    def prior(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shares, share = np.maximum(shares, 0), max(1 - shares.sum(), 0)
        slope, curvature = np.divide(OWN_PRIOR, [share, share**2])
        return slope - PRIOR / shares, curvature + np.diag(PRIOR / shares**2)

    centers: Any = np.ma.average(f, axis=0, weights=weights)
    deviations: Any = np.ma.average((f - centers) ** 2, axis=0, weights=weights) ** 0.5
    centers, deviations = centers.filled(0), deviations.filled(0)
    deviations[deviations <= MIN_DEVIATION * np.abs(centers)] = np.inf
    z = ((f - centers) / deviations).filled(0)
    others = np.delete(np.arange(f.shape[1]), k)
    start = np.log(mean / (1 - mean)) if is_binary else np.log(mean) if is_log else mean
    with np.errstate(all="ignore"):  # of steps that are too large
        columns = [np.stack([np.ones_like(y), z[:, j]], axis=1) for j in others]
        lines = [_minimize(derivatives, ridge, x, 0, np.array([start, 0])) for x in columns]
        alpha, beta = np.transpose(lines)
        shares = np.full(len(others), PRIOR / (OWN_PRIOR + PRIOR * len(others)))
        columns = alpha + beta * z[:, others] - own[:, None]
        shares = _minimize(derivatives, prior, columns, own, shares)
    effects, intercepts = np.insert([shares * beta, shares * alpha], k, 0, axis=1)
    slopes, effects[k] = effects / deviations, 1 - shares.sum()
    ends = f.min(axis=0).filled(0), f.max(axis=0).filled(0)
    numbers: np.ndarray = np.stack([effects, slopes, centers, intercepts, *ends])
    numbers[:, k] = effects[k], effects[k], 0, 0, -LARGEST_PREDICTION, LARGEST_PREDICTION
    return numbers


def _minimize(
    derivatives: Derivatives, penalty: Derivatives, x: np.ndarray, offset: Any, point: np.ndarray
) -> np.ndarray:
    """Return the point that minimizes `sum_i loss_i(offset + x @ point) + penalty(point)`.

    Args:
        derivatives: Returns the first and the second derivative of convex losses.
        penalty: Returns the gradient and the second derivatives of a convex penalty. They are not
            finite outside of its domain.
        x: `(labels, size)`.
        offset: A number, or `(labels,)`.
        point: The start, `(size,)`.
    """

    def total(point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (first, second), (slope, curvature) = derivatives(offset + x @ point), penalty(point)
        return first @ x + slope, (x.T * second) @ x + curvature

    slope, curvature = total(point)
    for _ in range(MAX_STEPS):
        step = np.linalg.lstsq(curvature, slope)[0]  # without directions lost to rounding
        if slope @ step < MIN_DECREASE:
            break
        for size in 0.5 ** np.arange(30):  # the slope decreases along the step at first
            found = total(point - size * step)
            if np.linalg.norm(found[0]) < np.linalg.norm(slope):
                break
        else:
            break
        point, (slope, curvature) = point - size * step, found
    return point

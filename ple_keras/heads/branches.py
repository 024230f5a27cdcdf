"""All that a head does for branches: its copies, given predictions, and their mixture."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import add

import keras
from keras import ops

from ple_keras._checks import check_keys, short_repr
from ple_keras._keras.copying import checked_copy
from ple_keras._keras.internals import get_mask, set_mask
from ple_keras._keras.tensors import clip, fill
from ple_keras._typing import Activation, ByName, Shape, Tensor
from ple_keras.heads.head import LOGIT_ACTIVATIONS, Head
from ple_keras.heads.ranking_head import RankingHead
from ple_keras.labels.sample_space import SAFE_PREDICTION, check_shape
from ple_keras.labels.task_names import NAME_RULE, SHARED, is_valid_name
from ple_keras.layers.hedged_block import OWN

MIN_PREDICTION = 2.0**-23  # of probabilities and counts; 1 - 2**-23 is exact in float32
LARGEST_PREDICTION = 3e38  # close to the largest float32


def mix(values: Sequence[Tensor], shares: Iterable[Tensor], known: Sequence[Tensor] = ()) -> Tensor:
    """Return the mixture of the values of branches, tensors or NumPy arrays.

        f = sum_b a_b d_b f_b / sum_b a_b d_b

    Args:
        values: The finite values f of each branch, `(..., units)`.
        shares: The weight a of each branch. It can have leading axes, of candidates.
        known: For each branch, d is 1 where its value is known, and 0 where it is missing. If
            empty, all values are known.
    """
    shares = [a * d for a, d in zip(shares, known)] if known else [*shares]
    mixed = reduce(add, [a * f for a, f in zip(shares, values)])
    return mixed / reduce(add, shares) if known else mixed


class Branches:
    """The branches of a head, whose values it mixes.

    Values are the logits of probabilities and counts. For other heads, and for heads that override
    `call`, they are predictions, whose mixture keeps a squared error convex. A branch of features
    has a copy of the head. A given branch has no weights: its features are predictions.

    This is a plain object that sets `branch-{name}` and `mixture` as attributes of the head. As a
    layer, it would change these names in files.

    Args:
        head: The head. A ProductHead has the branches of its factors, without copies.
        names: The names of the branches.
        given: The names of given branches, of any task.

    Attributes:
        names: The names of the branches, sorted, since the order of a dict depends on the backend.
        given: The given branches among them.
        copies: The copy of the head for each other branch.
    """

    def __init__(self, head: Head, names: Iterable[str], given: Sequence[str]) -> None:
        self._head = head
        self.names = tuple(sorted(names))
        self.given = tuple(name for name in self.names if name in given)
        self.copies: dict[str, Head] = {}

    def build(self, shapes: Mapping[str, Shape]) -> None:
        """Create the copies and the mixture, instead of `build` of the head.

        Args:
            shapes: The shape of the features of each branch.
        """
        head = self._head
        argument = f"inputs[{head.task!r}]"
        if isinstance(head, RankingHead) or head.built or head.activity_regularizer is not None:
            raise ValueError(
                "A head for the branches of a HedgedBlock must be unbuilt, without an "
                "activity_regularizer, and not a RankingHead. Pass its features separately: "
                f"heads({{**hedged(x), {head.task!r}: features}}). Received: {head=}"
            )
        if len(self.given) == len(self.names):
            raise ValueError(
                f"{argument} must have a branch of features next to given predictions, "
                f"not only {[*self.names]}. Received: given={[*self.given]}"
            )
        with keras.name_scope(head.name, caller=head):
            for branch in (name for name in self.names if name not in self.given):
                name = f"{head.name}-{branch}"
                copy: Head = checked_copy(head, f"heads[{head.task!r}]", name, branch)
                setattr(head, f"branch-{branch}", copy)  # a name in the file format
                self.copies[branch] = copy
                if head._statistics.value:
                    copy._adapt(head._statistics.value)
                copy.build(shapes[branch])
            equal = keras.initializers.Constant(1 / len(self.names))
            options = {"trainable": False, "autocast": False, "name": "mixture"}
            # `mixture` is a name in the file format.
            head.mixture = head.add_weight((len(self.names),), equal, "float32", **options)
        head._leading_axes = copy._leading_axes
        head._restore_frozen()
        head.built = True

    def value(self, features: ByName, training: bool | None, with_branches: bool) -> Tensor:
        """Return the mixture of the values of the branches.

        Where a given prediction is NaN or infinite, it is the mixture of the other branches.

        Args:
            features: The features, or the predictions, of each branch.
            training: Passed to the copies.
            with_branches: Whether to return the stack `(1 + branches, ..., units)` of the mixture,
                without a gradient, and the values that it mixes. In training, missing ones are the
                mixture, else NaN.
        """
        self._check(features)
        by_name = {
            b: copy._logits_or_prediction(features[b], training) for b, copy in self.copies.items()
        }
        like, missing = next(iter(by_name.values())), {}
        for name in self.given:
            by_name[name], missing[name] = self._given_value(features[name], like)
        known = {b: ops.cast(ops.logical_not(x), like.dtype) for b, x in missing.items()}
        values = [by_name[branch] for branch in self.names]
        factors = [known.get(branch, 1) for branch in self.names] if missing else ()
        mixture = ops.cast(self._head.mixture, like.dtype)
        mixed = mix(values, [mixture[i] for i in range(len(values))], factors)
        if not with_branches:
            return mixed
        mixed = ops.stop_gradient(mixed)
        for i, name in enumerate(self.names):
            if name in missing:
                fill_value = mixed if training else ops.full_like(mixed, math.nan)
                values[i] = ops.where(missing[name], fill_value, values[i])
        return ops.stack([mixed, *values])

    def _check(self, features: ByName) -> None:
        """Check the features, or predictions, of all branches."""
        argument, rank, units = f"inputs[{self._head.task!r}]", self._rank(), self._head.units
        if not isinstance(features, Mapping):
            raise TypeError(
                f"{argument} must be a dict keyed by branch, {[*self.names]}, as a HedgedBlock "
                f"returns. Received: {argument}={short_repr(features)}"
            )
        check_keys(features, self.names, argument)
        if any(len(features[branch].shape) != rank for branch in self.copies):
            raise ValueError(
                f"{argument} must have {rank} axes. Received: {argument}={short_repr(features)}"
            )
        for branch in self.given:
            shape, prediction = features[branch].shape, (*self._head._leading_axes, units)
            check_shape(tuple(shape), prediction, units, f"{argument}[{branch!r}]")

    def _rank(self) -> int:
        return len(self._head._leading_axes) + 1  # of features and predictions

    def _given_value(self, prediction: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value of a given prediction, without a gradient, and where it is missing.

        Args:
            prediction: `(..., units)`, or `(...)` if `units` is 1.
            like: The value of another branch.
        """
        value = ops.stop_gradient(ops.cast(prediction, like.dtype))
        value = value if len(value.shape) == len(like.shape) else ops.expand_dims(value, -1)
        activation = self._head.activation if self._head._mixes_logits() else None
        value, is_missing = mixed_value(value, activation)
        return value, ops.any(is_missing, axis=-1, keepdims=True)

    def output_spec(self, features: ByName) -> keras.KerasTensor:
        """Return the symbolic prediction for the symbolic features of each branch."""
        self._check(features)
        specs = [copy.compute_output_spec(features[b]) for b, copy in self.copies.items()]
        return specs[0]

    def is_stack(self, y_pred: Tensor) -> bool:
        """Return whether an output of TaskHeads is the stack that trains branches."""
        return len(ops.convert_to_tensor(y_pred).shape) == self._rank() + 1

    def prediction_in(self, y_pred: Tensor) -> Tensor:
        """Return the prediction of an output of TaskHeads, a stack or the prediction."""
        if not self.is_stack(y_pred):
            return y_pred
        prediction = self._head._predict(y_pred[0])
        set_mask(prediction, get_mask(y_pred))
        return prediction


def mixed_value(prediction: Tensor, activation: Activation) -> tuple[Tensor, Tensor]:
    """Return the finite value that is mixed for a prediction, and where the latter is missing.

    Args:
        prediction: `(..., units)`, with NaN or infinity where it is missing.
        activation: The activation of the logits that are mixed. For any but the sigmoid, the
            softmax and the exponential, predictions are mixed.
    """
    is_nan = ops.isnan(prediction)
    is_missing = ops.logical_or(is_nan, ops.abs(prediction) > LARGEST_PREDICTION)
    # `where` of a comparison is a product in ONNX files of tf2onnx, which is NaN for infinity.
    value = fill(prediction, is_nan, SAFE_PREDICTION)
    value = clip(value, -LARGEST_PREDICTION, LARGEST_PREDICTION)
    if activation in LOGIT_ACTIVATIONS:
        is_count = activation is keras.activations.exponential
        value = clip(value, MIN_PREDICTION, None if is_count else 1 - MIN_PREDICTION)
        # tf2onnx has no log1p. Of small probabilities, the logarithm of 1 - p is hardly used.
        odds = -ops.log(1 - value) if activation is keras.activations.sigmoid else 0.0
        value = ops.log(value) + odds
    return value, is_missing


def check_given(given: Sequence[str]) -> list[str]:
    """Return the names of branches, if they are valid, different, and not of a HedgedBlock."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise TypeError(f"given must be a sequence of branch names. Received: given={given!r}")
    invalid = [name for name in given if not is_valid_name(name) or name in (OWN, SHARED)]
    if invalid or len(set(given)) < len(given):
        raise ValueError(
            f"given must contain different names of {NAME_RULE}, and not {OWN!r} or {SHARED!r}. "
            f"Received: given={given!r}"
        )
    return list(given)

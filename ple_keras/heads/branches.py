"""All that a head does for branches: its copies and their mixture."""

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import add

import keras
from keras import ops

from ple_keras._checks import check_keys, short_repr
from ple_keras._keras.copying import checked_copy
from ple_keras._keras.internals import get_mask, set_mask
from ple_keras._typing import ByName, Shape, Tensor
from ple_keras.heads.head import Head
from ple_keras.heads.ranking_head import RankingHead


def mix(values: Iterable[Tensor], shares: Iterable[Tensor]) -> Tensor:
    """Return the mixture `sum_b a_b f_b` of the values of branches, tensors or NumPy arrays.

    Args:
        values: The values f of each branch, `(..., units)`.
        shares: The weight a of each branch. It can have leading axes, of candidates.
    """
    return reduce(add, [a * f for a, f in zip(shares, values, strict=True)])


class Branches:
    """The branches of a head, whose values it mixes.

    Values are the logits of probabilities and counts. For other heads, and for heads that override
    `call`, they are predictions, whose mixture keeps a squared error convex. Each branch has a copy
    of the head.

    This is a plain object that sets `branch-{name}` and `mixture` as attributes of the head. As a
    layer, it would change these names in files.

    Args:
        head: The head. A ProductHead has the branches of its factors, without copies.
        names: The names of the branches.

    Attributes:
        names: The names of the branches, sorted, since the order of a dict depends on the backend.
        copies: The copy of the head for each branch.
    """

    def __init__(self, head: Head, names: Iterable[str]) -> None:
        self._head = head
        self.names = tuple(sorted(names))
        self.copies: dict[str, Head] = {}

    def build(self, shapes: Mapping[str, Shape]) -> None:
        """Create the copies and the mixture, instead of `build` of the head.

        Args:
            shapes: The shape of the features of each branch.
        """
        head = self._head
        if isinstance(head, RankingHead) or head.built or head.activity_regularizer is not None:
            raise ValueError(
                "A head for the branches of a HedgedBlock must be unbuilt, without an "
                "activity_regularizer, and not a RankingHead. Pass its features separately: "
                f"heads({{**hedged(x), {head.task!r}: features}}). Received: {head=}"
            )
        with keras.name_scope(head.name, caller=head):
            for branch in self.names:
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

        Args:
            features: The features of each branch.
            training: Passed to the copies.
            with_branches: Whether to return the stack `(1 + branches, ..., units)` of the mixture,
                without a gradient, and the values that it mixes.
        """
        self._check(features)
        values = [
            copy._logits_or_prediction(features[b], training) for b, copy in self.copies.items()
        ]
        mixture = ops.cast(self._head.mixture, values[0].dtype)
        mixed = mix(values, [mixture[i] for i in range(len(values))])
        return ops.stack([ops.stop_gradient(mixed), *values]) if with_branches else mixed

    def _check(self, features: ByName) -> None:
        """Check the features of all branches."""
        argument, rank = f"inputs[{self._head.task!r}]", self._rank()
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

    def _rank(self) -> int:
        return len(self._head._leading_axes) + 1  # of features and predictions

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

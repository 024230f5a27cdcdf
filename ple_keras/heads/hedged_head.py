"""The heads of the branches of a task, and the mixture of their values."""

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import add
from typing import Any

import keras
from keras import ops

from ple_keras._checks import check_keys
from ple_keras._keras.copying import checked_copy
from ple_keras._keras.layers import BaseLayer, Untracked
from ple_keras._keras.tensors import to_numpy
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


class HedgedHead(BaseLayer):
    """A head for each branch of a task: `{branch: (..., H)} -> (..., units)`.

        f = sum_b a_b f_b,  prediction = activation(f)

    The values f_b are the logits of probabilities and counts. For other heads, and for heads that
    override `call`, they are predictions, whose mixture keeps a squared error convex.

    TaskHeads creates it in `build`. It has the name of the head, and no config.

    Args:
        head: The unbuilt head of the first branch. The other branches have copies, which follow it
            in `adapt` and `trainable`.
        names: The names of the branches.

    Attributes:
        task: The task.
        branch_names: The branches, sorted, since the order of a dict depends on the backend.
        mixture: The weights a of the branches.
    """

    def __init__(self, head: Head, names: Iterable[str]) -> None:
        if isinstance(head, RankingHead) or head.built or head.activity_regularizer is not None:
            raise ValueError(
                "A head for the branches of a HedgedBlock must be unbuilt, have no "
                "activity_regularizer, and not be a RankingHead. Pass its features separately: "
                f"heads({{**hedged(x), {head.task!r}: features}}). Received: {head=}"
            )
        super().__init__(name=head.name, dtype=head.dtype_policy)
        self.task, self.branch_names = head.task, tuple(sorted(names))
        argument, others = f"heads[{head.task!r}]", self.branch_names[1:]
        copies: Any = [checked_copy(head, argument, f"{head.name}-{b}", b) for b in others]
        head._add_copies(copies)
        self._heads: Untracked[dict[str, Head]] = Untracked({})
        for branch, each in zip(self.branch_names, (head, *copies)):
            self._heads.value[branch] = each
            setattr(self, f"branch-{branch}", each)  # names in the file format

    def __getitem__(self, branch: str) -> Head:
        """Return the head of a branch."""
        return self._heads.value[branch]

    def build(self, shapes: Mapping[str, Shape]) -> None:
        """Build the heads.

        Args:
            shapes: The shape of the features of each branch.
        """
        for branch, head in self._heads.value.items():
            head.build(shapes[branch])
        equal = keras.initializers.Constant(1 / len(self.branch_names))
        options = {"trainable": False, "autocast": False, "name": "mixture"}
        self.mixture = self.add_weight((len(self.branch_names),), equal, "float32", **options)

    def branch_weights(self) -> dict[str, float]:
        """Return the weights of the mixture, which sum to 1."""
        return dict(zip(self.branch_names, to_numpy(self.mixture).tolist()))

    def branch_values(self, features: ByName, training: bool | None = None) -> dict[str, Tensor]:
        """Return the value of each branch, which is mixed."""
        check_keys(features, self.branch_names, f"inputs[{self.task!r}]")
        heads = self._heads.value.items()
        return {b: head._logits_or_prediction(features[b], training) for b, head in heads}

    def mix(self, values: ByName) -> Tensor:
        """Return the mixture of the values of the branches."""
        found = [values[branch] for branch in self.branch_names]
        mixture = ops.cast(self.mixture, found[0].dtype)
        return mix(found, [mixture[i] for i in range(len(found))])

    def compute_output_spec(self, inputs: ByName, training: bool | None = None) -> Tensor:
        check_keys(inputs, self.branch_names, f"inputs[{self.task!r}]")
        specs = [head.compute_output_spec(inputs[b]) for b, head in self._heads.value.items()]
        return specs[0]

"""The branches of the last call that trains, which the loss of the same step takes."""

import threading
from typing import NamedTuple, TypeAlias

import keras

from ple_keras._typing import TaskName, Tensor


class HeldBranches(NamedTuple):
    """A prediction of a hedged task, and the values of its branches.

    Attributes:
        prediction: The prediction.
        values: The logits or predictions of its branches; for a product, logarithms of
            probabilities.
    """

    prediction: Tensor
    values: list[Tensor]


Branches: TypeAlias = dict[TaskName, HeldBranches]


class LastBranches:
    """The branches of a TaskHeads in its last call that trains.

    The loss of a hedged task trains its branches, but a model returns one prediction per task.

    Attributes:
        holds_always: Whether branches are held even in calls without training.
    """

    def __init__(self) -> None:
        self._by_thread: dict[int, Branches] = {}
        self.holds_always = False

    def hold(self, branches: Branches, training: bool | None) -> None:
        """Hold the branches of a call until the loss of the same step takes them."""
        if branches and (training or self.holds_always):
            self._by_thread[_thread()] = branches

    def take(self) -> Branches:
        """Return and forget the branches of the last call."""
        return self._by_thread.pop(_thread(), {})


def _thread() -> int:
    """Return the key of the current thread, since TensorFlow runs replicas in alternating threads.

    On other backends, return 0: torch.compile can't trace a call that asks for the thread.
    """
    return threading.get_ident() if keras.backend.backend() == "tensorflow" else 0

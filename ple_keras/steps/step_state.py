"""The state of a model that its steps read."""

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

Mixin: Any = object  # mypy treats it as the base class keras.Model


@dataclass(frozen=True)
class StepState:
    """The state of a model that its steps read.

    Attributes:
        trace: The argument of `compile`.
        reads_logs: Whether callbacks or a progress bar can show the logs of batches.
        runs: The number of epochs, evaluations and predictions so far, each of which reads
            attributes anew; None if each step reads them.
        warns: Whether a warning of eager steps is still to come.
    """

    trace: bool | Literal["auto"] = "auto"
    reads_logs: bool = True
    runs: int | None = 0
    warns: bool = True

    def next_run(self) -> Self:
        """Return the state in the next epoch, evaluation or prediction."""
        return replace(self, runs=(self.runs or 0) + 1)


class TracedModel(Mixin):
    """A model whose steps PyTorch can trace (see `trace_function`)."""

    _steps = StepState()

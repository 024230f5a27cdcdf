"""The choice between traced and eager steps of a model, and the state that they read."""

from dataclasses import dataclass, replace
from typing import Any, Self

import keras

Mixin: Any = object  # mypy treats it as the base class keras.Model


@dataclass(frozen=True)
class StepState:
    """The state of a model that its steps read.

    Attributes:
        trace: The argument of `compile`: "auto", True or False.
        reads_logs: Whether callbacks or a progress bar can show the logs of batches.
        runs: The number of epochs, evaluations and predictions so far, each of which reads
            attributes anew; None if each step reads them.
        warns: Whether a warning of eager steps is still to come.
    """

    trace: bool | str = "auto"
    reads_logs: bool = True
    runs: int | None = 0
    warns: bool = True

    def next_run(self) -> Self:
        """Return the state in the next epoch, evaluation or prediction."""
        return replace(self, runs=(self.runs or 0) + 1)


class TracedModel(Mixin):
    """A model whose steps PyTorch can trace."""

    _steps = StepState()


def trace_function(model: TracedModel, kind: str) -> Any:
    """Replace the "train", "test" or "predict" function of a model with a traced one on PyTorch."""
    function, trace = f"{kind}_function", model._steps.trace
    if keras.backend.backend() == "torch" and trace is not False and not model.run_eagerly:
        from ple_keras.steps.traced_step import TracedStep

        setattr(model, function, TracedStep(model, kind, traces_all=trace is True))
    return getattr(model, function)

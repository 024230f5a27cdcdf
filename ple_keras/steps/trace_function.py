"""The choice between traced and eager steps of a model."""

from typing import Any

import keras

from ple_keras.steps.step_state import TracedModel


def trace_function(model: TracedModel, kind: str) -> Any:
    """Replace the "train", "test" or "predict" function of a model with a traced one on PyTorch."""
    function, trace = f"{kind}_function", model._steps.trace
    if keras.backend.backend() == "torch" and trace is not False and not model.run_eagerly:
        from ple_keras.steps.traced_step import TracedStep

        setattr(model, function, TracedStep(model, kind, traces_all=trace is True))
    return getattr(model, function)

"""The choice between traced and eager steps of a model."""

from typing import Any

import keras


def trace_function(model: Any, kind: str) -> Any:
    """Replace the "train", "test" or "predict" function of a model by a traced one, on PyTorch."""
    function, step = f"{kind}_function", f"{kind}_step"
    is_inherited = getattr(type(model), step) is getattr(keras.Model, step)
    if is_inherited and keras.backend.backend() == "torch" and not model.run_eagerly:
        from ple_keras.steps.traced_step import TracedStep

        setattr(model, function, TracedStep(model, kind))
    return getattr(model, function)

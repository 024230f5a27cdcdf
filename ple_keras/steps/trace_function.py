"""The choice between traced and eager steps of a model, and the state that they read."""

from typing import Any

import keras

Mixin: Any = object  # mypy treats it as the base class keras.Model


class TracedModel(Mixin):
    """A model whose steps PyTorch can trace."""

    _trace: bool | str = "auto"  # the argument of `compile`
    _reads_logs = True  # whether callbacks or a progress bar can show the logs of batches
    _warns_of_eager_steps = True


def trace_function(model: TracedModel, kind: str) -> Any:
    """Replace the "train", "test" or "predict" function of a model with a traced one on PyTorch."""
    function, trace = f"{kind}_function", model._trace
    if keras.backend.backend() == "torch" and trace is not False and not model.run_eagerly:
        from ple_keras.steps.traced_step import TracedStep

        setattr(model, function, TracedStep(model, kind, traces_all=trace is True))
    return getattr(model, function)

"""Training steps on PyTorch as flat graphs of operations, without the Python between them.

Only `MultiTaskTraining.make_train_function` imports this module, and only on PyTorch.
"""

import os
import traceback
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import torch
from keras import ops

from ple_keras._checks import warn_user
from ple_keras._keras.internals import get_mask, has_rate_function
from ple_keras._keras.layers import walk
from ple_keras._keras.tensors import has_several_processes
from ple_keras._typing import Tensor
from ple_keras.models.step_graph import (
    Graph,
    Recorder,
    StepScope,
    UntraceableError,
    gradient_of,
    trace,
)
from ple_keras.models.step_state import StepState
from ple_keras.models.torch_internals import TreeSpec, to_function, tree_flatten, tree_unflatten

MAX_GRAPHS = 16  # of batches with different shapes
PACKAGES = (Path(torch.__file__).parent, Path(keras.__file__).parent, Path(__file__).parents[1])
LIBRARIES = (*(f"{path}{os.sep}" for path in PACKAGES), "<string>")  # the last: code from PyTorch


class TracedStep:
    """A training function that replays the operations of an eager step.

    The first batch of a shape runs eagerly. When the shape comes again, Keras's step is traced as a
    pure function of the variables and the batch. The graph has the operations of the eager step in
    the same order, so its results are equal to the bit. Numbers and strings in attributes of layers
    are constants until the next `fit`. If a step reads the value of a tensor, or changes such an
    attribute, all steps run eagerly.

    Args:
        model: The compiled model. With `jit_compile=True`, torch.compile compiles its graphs.
    """

    def __init__(self, model: Any) -> None:
        self._trained = model
        self._graphs: dict[Any, Graph | None] = {}
        self._is_traceable = not has_several_processes()
        self._fits: int | None = None
        self._read: StepState | None = None

    def _begin(self) -> None:
        """Prepare for a new `fit`, in which changed attributes have an effect."""
        model = self._trained
        self._optimizers = getattr(model.optimizer, "optimizers", [model.optimizer])
        variables = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
        self._state = [*{id(variable): variable for variable in variables}.values()]
        self._values = [variable.value for variable in self._state]
        layers = [path[-1] for path in walk(model)]
        self._roots = [*layers, *model.metrics, *self._optimizers, *self._state]
        is_changed = self._read is None or self._read.change() is not None
        if is_changed or len(self._graphs) == MAX_GRAPHS:
            self._read, self._graphs = StepState(self._roots), {}
            self._is_traceable &= not any(map(has_rate_function, self._optimizers))

    def _eager_step(self, data: Sequence[Any]) -> Any:
        return self._trained.train_step(data[0])

    def __call__(self, data: Sequence[Any]) -> Any:
        """Train on a batch, and return the logs."""
        model, batch = self._trained, data[0]
        if self._fits != model._fits:
            self._fits = model._fits
            self._begin()
        leaves, structure = tree_flatten(batch)
        leaves = [ops.convert_to_tensor(x) if isinstance(x, np.ndarray) else x for x in leaves]
        has_autocast = torch.is_autocast_enabled(self._values[0].device.type)
        if has_autocast or not (self._is_traceable and all(map(_is_plain, leaves))):
            return self._eager_step(data)
        key = (
            structure,
            tuple([x is None or (x.shape, x.stride(), x.dtype, x.device) for x in leaves]),
            tuple([parameter.requires_grad for parameter in self._values]),
            (model.training, model._reads_logs, keras.config.floatx()),
        )
        graph = self._graphs.get(key)
        if graph is None and key in self._graphs:
            graph = self._graphs[key] = self._trace_or_warn(leaves, structure)
        elif len(self._graphs) < MAX_GRAPHS:
            self._graphs.setdefault(key)
        if graph is None:
            return self._eager_step(data)
        with torch.no_grad():
            try:
                logs, gradients = graph.run(*self._values, *leaves)
            except (IndexError, RuntimeError) as error:
                error.add_note(
                    "A traced step does not name the layer. check_inputs names ids that are not in "
                    "a table, and check_labels wrong labels. run_eagerly=True names the layer."
                )
                raise
            for (optimizer, variables), found in zip(graph.tables, gradients):
                optimizer.apply([*map(gradient_of, found, variables)], variables)
        return dict.fromkeys(graph.keys) if logs is None else dict(zip(graph.keys, logs.tolist()))

    def _trace_or_warn(self, leaves: list[Any], structure: TreeSpec) -> Graph | None:
        """Return the graph of a step; None if it can't be traced."""
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # eager steps have the same warnings
                return self._trace(leaves, structure)
        except Exception as error:
            self._is_traceable = False
            cause: BaseException = error
            while cause.__context__ is not None:  # Keras adds the arguments of layers to messages
                cause = cause.__context__
            frames = traceback.extract_tb(cause.__traceback__)
            outside = [f for f in frames if not f.filename.startswith(LIBRARIES)]
            # Users can't change what Keras reads: seeds, and the state of some optimizers.
            if outside or isinstance(cause, UntraceableError):
                where = f" ({outside[-1].filename}:{outside[-1].lineno})" if outside else ""
                warn_user(
                    f"A training step of {self._trained.name!r} can't be traced: all steps run "
                    "eagerly, which takes longer. In a step, layers, losses and metrics must not "
                    "read values of tensors, change attributes, draw random numbers without "
                    "PyTorch, train its modules, or update variables that no layer tracks. "
                    "run_eagerly=True prevents this warning. "
                    f"Received: {type(cause).__name__}: {f'{cause}'.partition(chr(10))[0]}{where}"
                )
            return None

    def _trace(self, leaves: list[Any], structure: TreeSpec) -> Graph:
        """Return the graph of a step.

        Raises:
            Exception: If it can't be traced.
        """
        tables: list[Any] = []
        keys: list[str] = []
        trained = [parameter.requires_grad for parameter in self._values]

        def step(*arguments: Any) -> tuple[Tensor | None, list[Any]]:
            values = [x.detach().requires_grad_(is_on) for x, is_on in zip(arguments, trained)]
            data = tree_unflatten(arguments[len(trained) :], structure)
            recorder = Recorder([value for value in values if value.requires_grad])
            for optimizer in self._optimizers:
                vars(optimizer)["apply"] = partial(recorder.apply, optimizer, optimizer.apply)
            scope = StepScope([*zip(self._state, values)], True, False)
            with torch.enable_grad(), scope, recorder:
                logs = self._trained.train_step(data)
            for optimizer in self._optimizers:
                del vars(optimizer)["apply"]
            keys[:], tables[:] = logs, recorder.tables
            if not self._trained._reads_logs:
                return None, recorder.gradients
            for key, value in logs.items():
                if not isinstance(value, torch.Tensor):
                    raise UntraceableError(f"compute_metrics returns {key}={value!r}, not a tensor")
            return torch.cat([x.reshape(1) for x in logs.values()]), recorder.gradients

        module, constants = trace(step, self._values, leaves, self._roots)
        if self._trained.jit_compile:
            module.recompile()
            return Graph(torch.compile(module), tables, keys)
        return Graph(to_function(module, constants), tables, keys)


def _is_plain(leaf: Any) -> bool:
    """Return whether a graph can do the same with a part of a batch as an eager step."""
    is_tensor = type(leaf) is torch.Tensor and not leaf.requires_grad
    return leaf is None or (is_tensor and get_mask(leaf) is None)

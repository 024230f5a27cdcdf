"""Steps on PyTorch as flat graphs of operations, without the Python between them.

Only `trace_function` imports this module, and only on PyTorch.
"""

import os
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any

import keras
import numpy as np
import torch
from keras import ops

from ple_keras._checks import warn_user
from ple_keras._keras.internals import get_mask, has_rate_function
from ple_keras._keras.layers import walk
from ple_keras._keras.tensors import has_several_processes
from ple_keras.models.step_graph import Recorder, StepScope, UntraceableError, gradient_of, trace
from ple_keras.models.step_state import StepState
from ple_keras.models.torch_internals import TreeSpec, to_function, tree_flatten, tree_unflatten

MAX_GRAPHS = 16  # of batches with different shapes
PACKAGES = (Path(torch.__file__).parent, Path(keras.__file__).parent, Path(__file__).parents[1])
Replay = Callable[[list[Any], list[Any]], Any]  # of a step, with values of variables and a batch
LIBRARIES = (*(f"{path}{os.sep}" for path in PACKAGES), "<string>")  # the last: code from PyTorch


class TracedStep:
    """A training, test or predict function that replays the operations of an eager step.

    The first batch of a shape runs eagerly. When the shape comes again, Keras's step is traced as a
    pure function of the variables and the batch. The graph has the operations of the eager step in
    the same order. It reads attributes and items of containers as constants, until the next `fit`,
    or for predictions until they change. If a step changes them, or reads the value of a tensor,
    all steps run eagerly.

    Args:
        model: The model. With `jit_compile=True`, torch.compile compiles its graphs.
        kind: "train", "test" or "predict".
    """

    def __init__(self, model: Any, kind: str) -> None:
        self._traced, self._kind, self._is_training = model, kind, kind == "train"
        self._graphs: dict[Any, Replay | None] = {}
        self._is_traceable = not has_several_processes()
        self._fits, self._changes = -1, 0
        self._optimizers: list[Any] = []
        self._read: StepState | None = None
        # A trace changes live layers for a moment, for which steps in other threads wait.
        self._guard = vars(model).setdefault("_trace_lock", RLock())

    def _begin(self) -> None:
        """Make changed attributes have an effect."""
        model, parts = self._traced, []
        if self._kind != "predict":
            parts += model.metrics
        if self._is_training:
            self._optimizers = getattr(model.optimizer, "optimizers", [model.optimizer])
            self._is_traceable &= not any(map(has_rate_function, self._optimizers))
            parts += [model.optimizer, *self._optimizers]
        variables = [*model.variables, *(each for part in parts for each in part.variables)]
        self._state = [*{id(variable): variable for variable in variables}.values()]
        self._values = [variable.value for variable in self._state]
        self._roots = [*(path[-1] for path in walk(model)), *parts, *self._state]
        self._read, self._graphs = StepState(self._roots), {}
        self._changes += 1
        self._is_traceable &= self._is_training or self._changes <= MAX_GRAPHS

    def _eager_step(self, data: Sequence[Any]) -> Any:
        with torch.set_grad_enabled(self._is_training):
            return getattr(self._traced, f"{self._kind}_step")(data[0])

    def __call__(self, data: Sequence[Any]) -> Any:
        """Return the logs or the predictions of a batch."""
        if not self._is_traceable:
            return self._eager_step(data)
        leaves, structure = tree_flatten(data[0])
        leaves = [ops.convert_to_tensor(x) if isinstance(x, np.ndarray) else x for x in leaves]
        with self._guard:
            is_due = not self._is_training or self._fits != self._traced._fits
            is_full = self._is_training and len(self._graphs) == MAX_GRAPHS
            if is_due and (self._read is None or is_full or not self._read.is_same()):
                self._begin()
            self._fits = getattr(self._traced, "_fits", 0)
            graph, values = self._find_graph(leaves, structure), self._values
            if graph is None:
                return self._eager_step(data)
        try:
            return graph(values, leaves)
        except (IndexError, RuntimeError) as error:
            error.add_note(
                "check_inputs names ids that are not in a table, and check_labels wrong labels. "
                "Lower the learning rate if numbers are NaN. run_eagerly=True names the layer."
            )
            raise

    def _find_graph(self, leaves: list[Any], structure: TreeSpec) -> Replay | None:
        """Return the graph of a step; None if the step has to run eagerly."""
        has_autocast = any(map(torch.is_autocast_enabled, ("cpu", "cuda")))
        if has_autocast or not (self._is_traceable and all(map(_is_plain, leaves))):
            return None
        modes = self._traced.training, getattr(self._traced, "_reads_logs", True)
        key = (
            structure,
            tuple([x is None or (x.shape, x.stride(), x.dtype, x.device) for x in leaves]),
            tuple([value.requires_grad for value in self._values]),
            (*modes, keras.config.floatx()),
        )
        if self._graphs.get(key) is None and key in self._graphs:
            self._graphs[key] = self._trace_or_warn(leaves, structure)
        elif len(self._graphs) < MAX_GRAPHS:
            self._graphs.setdefault(key)
        return self._graphs.get(key)

    def _trace_or_warn(self, leaves: list[Any], structure: TreeSpec) -> Replay | None:
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
                    f"The {self._kind} step of {self._traced.name!r} can't be traced: all steps "
                    "run eagerly, which takes longer. Layers, losses and metrics must not "
                    "read values of tensors, change attributes, draw random numbers without "
                    "PyTorch, train its modules, or update variables that no layer tracks. "
                    "run_eagerly=True prevents this warning. "
                    f"Received: {type(cause).__name__}: {f'{cause}'.partition(chr(10))[0]}{where}"
                )
            return None

    def _trace(self, leaves: list[Any], structure: TreeSpec) -> Replay:
        """Return the graph of a step.

        Raises:
            Exception: If it can't be traced.
        """
        tables: list[Any] = []
        structures: list[TreeSpec] = []
        trained = [parameter.requires_grad for parameter in self._values]

        def step(*arguments: Any) -> tuple[Any, list[Any]]:
            values = [*arguments[: len(trained)]]
            if self._is_training:
                values = [x.detach().requires_grad_(is_on) for x, is_on in zip(values, trained)]
            data = tree_unflatten(arguments[len(trained) :], structure)
            recorder = Recorder([value for value in values if value.requires_grad])
            for optimizer in self._optimizers:
                vars(optimizer)["apply"] = partial(recorder.apply, optimizer, optimizer.apply)
            with StepScope([*zip(self._state, values)], True, False), recorder:
                results = self._eager_step([data])
            if self._kind != "predict" and not self._traced._reads_logs:
                results = dict.fromkeys(results)
            found, whole = tree_flatten(results)
            structures[:], tables[:] = [whole], recorder.tables
            for value in found:
                if not isinstance(value, torch.Tensor | None):
                    raise UntraceableError(f"{self._kind}_step returns {value!r}, not a tensor")
            if self._is_training and self._traced._reads_logs:  # for a single read
                found = torch.cat([value.reshape(1) for value in found])
            return found, recorder.gradients

        module, constants = trace(step, self._values, leaves, self._roots)
        module.recompile()
        is_jit = self._traced.jit_compile
        run = torch.compile(module) if is_jit else to_function(module, constants)

        def replay(values: list[Any], leaves: list[Any]) -> Any:
            with torch.no_grad():
                results, gradients = run(*values, *leaves)
                for (optimizer, variables), found in zip(tables, gradients):
                    optimizer.apply([*map(gradient_of, found, variables)], variables)
            results = results if isinstance(results, list) else results.tolist()
            return tree_unflatten(results, structures[0])

        return replay


def _is_plain(leaf: Any) -> bool:
    """Return whether a part of a batch is None, or a tensor without a gradient and a mask."""
    is_tensor = type(leaf) is torch.Tensor and not leaf.requires_grad
    return leaf is None or (is_tensor and get_mask(leaf) is None)

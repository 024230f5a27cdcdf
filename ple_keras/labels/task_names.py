"""Task names: their rule, and their forms as `outputs`."""

import re
from collections.abc import Iterable, Mapping, Sequence

from ple_keras._checks import short_repr
from ple_keras._typing import HasFactors, HasTask, HasTaskNames, Outputs

SHARED = "shared"
# File names of loggers and names of layers contain a task's name and more letters, and file systems
# limit names to 255.
NAME_RULE = "at most 128 ASCII letters, digits, '_' and '-', starting with a letter or digit"
TASK_NAME_RULE = f"a task's name must be {NAME_RULE}, and not '{SHARED}'"


def is_valid_name(name: object) -> bool:
    """Return whether a name is valid for a task, or is "shared"."""
    pattern = r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}"
    return isinstance(name, str) and re.fullmatch(pattern, name) is not None


def check_task_name(name: object, argument: str, names: object = None) -> str:
    """Return a task's name if it is valid.

    Args:
        name: The name.
        argument: The name of the caller's argument, for messages.
        names: The value of the argument, if it contains several names.
    """
    if isinstance(name, str) and name != SHARED and is_valid_name(name):
        return name
    invalid, value = ("", name) if names is None else (f"; invalid: {name!r}", names)
    error = ValueError if isinstance(name, str) else TypeError
    raise error(f"{TASK_NAME_RULE}{invalid}. Received: {argument}={value!r}")


def check_targets(targets: Iterable[str] | None, units: int) -> tuple[list[str] | None, int]:
    """Return the names of the targets of a head, and their number, or the units without names."""
    if targets is None:
        return None, units
    is_list = isinstance(targets, Iterable) and not isinstance(targets, str)
    names = [*targets] if is_list else []
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"targets must be a list of strings. Received: {targets=}")
    if len(set(names)) < len(names) or units not in (1, len(names)):
        raise ValueError(
            "targets must be distinct, and as many as units if both are given. Received: "
            f"{units=}, {len(names)} targets={short_repr(names)}"
        )
    return [str(name) for name in names], len(names)


def task_names(outputs: Outputs, argument: str = "outputs") -> list[str]:
    """Return the tasks' names, in order, from any of the four forms of `outputs`.

    ProductHeads are omitted, since they read no features.
    """
    if isinstance(outputs, HasTaskNames):
        return list(outputs.task_names)
    items = outputs
    if isinstance(outputs, Mapping):
        for name, head in outputs.items():
            if not isinstance(head, HasTask) or head.task != name:
                raise ValueError(
                    f"{argument} must map each task to the head of the task if it is a dict, but "
                    f"{name!r} has {head!r}. Received: {argument}={outputs!r}"
                )
        items = list(outputs.values())
    if isinstance(items, str | bytes) or not isinstance(items, Sequence):
        raise TypeError(
            f"{argument} must be a sequence of task names, a sequence of heads, a TaskHeads "
            f"or a dict of heads keyed by task. Received: {argument}={outputs!r}"
        )
    own = [item for item in items if not isinstance(item, HasFactors)]
    own = [item.task if isinstance(item, HasTask) else item for item in own]
    names = [check_task_name(name, argument, outputs) for name in own]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{argument} must have tasks, each once. Received: {argument}={outputs!r}")
    return names

"""The heads of a TaskHeads as a mapping by task."""

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any

import keras

from ple_keras._typing import TaskName
from ple_keras.heads.head import Head


class HeadsByTask(keras.Layer):
    """A base class that owns heads and gives access to them by task, as a dict does.

    It is no `collections.abc.Mapping`: Keras and TensorFlow would take the layer for a nested
    structure.
    """

    _task_names: tuple[TaskName, ...]

    def _set_heads(self, heads: list[Head]) -> None:
        self._task_names = tuple(head.task for head in heads)
        for head in heads:
            setattr(self, _head_attribute(head.task), head)

    def _heads(self) -> list[Head]:  # not a property: Keras's saving would read it
        return [getattr(self, _head_attribute(task)) for task in self._task_names]

    def __getitem__(self, task: TaskName) -> Head:
        """Return the head of a task.

        Raises:
            KeyError: If the task is unknown.
        """
        if task not in self:
            raise KeyError(f"task must be one of {list(self._task_names)}. Received: task={task!r}")
        head: Head = getattr(self, _head_attribute(task))
        return head

    def __contains__(self, task: object) -> bool:
        return task in self._task_names

    def __iter__(self) -> Iterator[TaskName]:
        return iter(self._task_names)

    def __reversed__(self) -> Iterator[TaskName]:
        return reversed(self._task_names)

    def __len__(self) -> int:
        return len(self._task_names)

    def __bool__(self) -> bool:
        return True  # as for every layer, also before it has heads

    # Methods and not properties, which Keras's saving would read.

    def get(self, task: TaskName, default: Any = None) -> Any:
        """Return the head of a task.

        Args:
            task: The name of the task.
            default: The result for an unknown task.
        """
        return self._by_task().get(task, default)

    def keys(self) -> KeysView[TaskName]:
        """Return the tasks of all heads, in order, as a view."""
        return self._by_task().keys()

    def values(self) -> ValuesView[Head]:
        """Return all heads, in order, as a view."""
        return self._by_task().values()

    def items(self) -> ItemsView[TaskName, Head]:
        """Return all tasks and their heads, in order, as a view."""
        return self._by_task().items()

    def _by_task(self) -> dict[TaskName, Head]:
        return dict(zip(self._task_names, self._heads()))


def _head_attribute(task: TaskName) -> str:
    """Return the attribute of a head, part of the file format, see `sublayer_name`."""
    return f"head-{task}"

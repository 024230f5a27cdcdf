"""Classes that 0.8.0 removed, whose names files of 0.7.0 contain."""

from typing import Any, Never

import keras

from ple_keras._keras.saving import register

REMOVED = {  # what to use instead
    "HiddenIds": "a network of Columns without hidden_ids",
    "StackedTasks": "a regression of each task on model.predict(valid)",
}


def removed_error(what: str, instead: str, received: str) -> ValueError:
    """Return the error for a file that contains something that 0.8.0 removed.

    Args:
        what: The class or the argument.
        instead: What to use instead.
        received: The end of the message, such as `"name='stacked_tasks'"`.
    """
    return ValueError(
        f"The file contains {what}, which ple_keras 0.8.0 removed. Use {instead} instead, or read "
        f"the file with ple_keras 0.7.0. Received: {received}"
    )


def _register_stub(name: str, instead: str) -> None:
    def from_config(config: dict[str, Any]) -> Never:
        raise removed_error(name, instead, f"name={config.get('name')!r}")

    register(type(name, (keras.Layer,), {"from_config": staticmethod(from_config)}))


for removed, instead in REMOVED.items():
    _register_stub(removed, instead)

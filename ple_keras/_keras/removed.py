"""Classes that 0.8.0 removed, whose names files of 0.7.0 contain."""

from typing import Any, Never

import keras

from ple_keras._keras.saving import register


def removed_error(what: str, received: str) -> ValueError:
    """Return the error for a file that contains something that 0.8.0 removed.

    Args:
        what: The class or the argument.
        received: The end of the message, such as `"name='stacked_tasks'"`.
    """
    return ValueError(
        f"The file contains {what}, which ple_keras 0.8.0 removed. Use mix_predictions (given), a "
        "regression on model.predict (stacked), a MultiTaskModel (block), or a model without "
        f"hidden_ids instead, or read the file with ple_keras 0.7.0. Received: {received}"
    )


for removed in ("HiddenIds", "StackedTasks"):

    def _refuse(config: dict[str, Any], removed: str = removed) -> Never:
        raise removed_error(removed, f"name={config.get('name')!r}")

    register(type(removed, (keras.Layer,), {"from_config": staticmethod(_refuse)}))

"""Layers that remember in their config which of the layers inside them are frozen."""

from typing import Any

import keras

from ple_keras._building import Untracked
from ple_keras._layers_inside import layers_inside


def freeze_if_frozen(layer: Any) -> None:
    """Freeze the layers inside a layer that was made with `trainable=False`.

    Keras does so when `trainable` is assigned, not when it is given to the constructor: a layer
    loaded from a file that holds it frozen would train. It is assigned to the layers inside one by
    one, since TensorFlow ignores the assignment of a value that an attribute already has.
    """
    if not layer.trainable:
        for inside in layer._flatten_layers(include_self=False, recursive=False):
            inside.trainable = False


class FreezableLayer(keras.Layer):
    """A layer whose config lists the frozen layers inside it.

    The layers that a layer makes in `build` have no place in its config, so that a frozen one would
    train after loading or cloning. The list is left out where every layer inside is as the layer
    itself: all frozen, or none.

    Args:
        frozen_layers: The names of the frozen layers inside, as `layers_inside` has them, to be
            frozen once they are built. With None, `trainable` holds for all.
        **kwargs: Keras's own layer arguments.
    """

    def __init__(self, *, frozen_layers: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._frozen_layers = Untracked(frozen_layers)

    def _restore_frozen(self) -> None:
        """Freeze and thaw the layers inside; to be called at the end of `build`."""
        frozen = self._frozen_layers.value
        if frozen is None:
            freeze_if_frozen(self)
            return
        for name, inside in layers_inside(self):  # outer ones first, since they set inner ones
            if inside.trainable == (name in frozen):
                inside.trainable = name not in frozen

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        frozen = _frozen_names(self) if self.built else self._frozen_layers.value
        return config if frozen is None else {**config, "frozen_layers": frozen}


def _frozen_names(layer: Any) -> list[str] | None:
    """Return the names of the frozen layers inside; None if all are as the layer itself."""
    inside = list(layers_inside(layer))
    if all(each.trainable == layer.trainable for _, each in inside):
        return None
    return [name for name, each in inside if not each.trainable]

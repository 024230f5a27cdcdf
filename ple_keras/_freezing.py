"""Layers that remember in their config which of the layers inside them are frozen."""

from typing import Any

import keras

from ple_keras._building import Untracked
from ple_keras._layers_inside import layers_inside


def freeze_if_frozen(layer: Any) -> None:
    """Freeze what the build of a layer made, if the layer itself was made with `trainable=False`.

    Keras does so when `trainable` is assigned, not when it is given to the constructor: a layer
    loaded from a file that holds it frozen would train. Assigned to the layers inside one by one,
    since on TensorFlow an attribute given the value that it has is not assigned again.
    """
    if not layer.trainable:
        for inside in layer._flatten_layers(include_self=False, recursive=False):
            inside.trainable = False


class FreezableLayer(keras.Layer):
    """A layer that builds layers inside, any of which may be frozen or thawed on its own.

    Its config has no place for the layers inside, nor would it tell that one of them is frozen:
    loaded or cloned, that one would train. So the config lists the frozen ones, whenever they are
    not simply all of them in a frozen layer or none in another.

    Args:
        frozen_layers: The names of the frozen layers inside, as `layers_inside` has them, to be
            frozen once they are built. None: as `trainable` says.
        **kwargs: Keras's own layer arguments.
    """

    def __init__(self, *, frozen_layers: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._frozen_layers = Untracked(frozen_layers)

    def _restore_frozen(self) -> None:
        """Freeze and thaw what the build has made; to be called at its end."""
        frozen = self._frozen_layers.value
        if frozen is None:
            freeze_if_frozen(self)
            return
        for name, inside in layers_inside(self):  # outer ones first: they pass it on
            if inside.trainable == (name in frozen):
                inside.trainable = name not in frozen

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        frozen = _frozen_names(self) if self.built else self._frozen_layers.value
        return config if frozen is None else {**config, "frozen_layers": frozen}


def _frozen_names(layer: Any) -> list[str] | None:
    """The names of the frozen layers inside; None if all are as the layer itself is."""
    inside = list(layers_inside(layer))
    if all(each.trainable == layer.trainable for _, each in inside):
        return None
    return [name for name, each in inside if not each.trainable]

"""Layers that remember in their config which of the layers inside them are frozen."""

from typing import Any

import keras

from ple_keras._keras.building import Untracked
from ple_keras._keras.internals import children
from ple_keras._keras.walking import layers_inside


def freeze_if_frozen(layer: keras.Layer) -> None:
    """Freeze the layers inside a layer that was made with `trainable=False`.

    Keras does so when `trainable` is assigned, not when it is given to the constructor: a layer
    loaded from a file that holds it frozen would train. It is assigned to the layers inside one by
    one, since TensorFlow ignores the assignment of a value that an attribute already has.
    """
    if not layer.trainable:
        for inside in children(layer):
            inside.trainable = False


class FreezableLayer(keras.Layer):
    """A layer whose config lists the frozen layers inside it.

    The layers that a layer makes in `build` have no place in its config, so that a frozen one would
    train after loading or cloning. The list, "frozen_layers", has names as of `layers_inside`. It
    is left out where every layer inside is as the layer itself: all frozen, or none.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._frozen_layers: Any = Untracked(None)  # the names of a config, until `build`

    @property
    def trainable(self) -> bool:
        """Whether the layer's weights are trained, as in Keras."""
        is_trainable: bool = keras.Layer.trainable.fget(self)
        return is_trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        if hasattr(self, "_frozen_layers"):
            self._frozen_layers.value = None  # the assignment is for all layers inside
        keras.Layer.trainable.fset(self, value)

    def _layers_with_config(self) -> list[keras.Layer]:
        """The layers inside whose configs are in this one's, and say themselves what is frozen."""
        return []

    def _restore_frozen(self) -> None:
        """Freeze and thaw the layers inside; to be called at the end of `build`."""
        frozen = self._frozen_layers.value
        if frozen is None:
            freeze_if_frozen(self)
            return
        known = {id(layer): layer for layer in self._layers_with_config()}
        done: tuple[str, ...] = ()
        for name, inside in layers_inside(self):  # outer ones first, since they set inner ones
            if name.startswith(done):
                continue
            if id(inside) not in known:
                if inside.trainable == (name in frozen):
                    inside.trainable = name not in frozen
            elif isinstance(inside, FreezableLayer):
                done = (*done, f"{name}/")

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        frozen = _frozen_names(self) if self.built else self._frozen_layers.value
        return config if frozen is None else {**config, "frozen_layers": frozen}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Set the list beside the constructor, which a subclass may have without `**kwargs`."""
        frozen = config.get("frozen_layers")
        arguments = {key: value for key, value in config.items() if key != "frozen_layers"}
        layer = super().from_config(arguments)
        layer._frozen_layers.value = frozen
        return layer


def _frozen_names(layer: keras.Layer) -> list[str] | None:
    """Return the names of the frozen layers inside; None if all are as the layer itself."""
    inside = list(layers_inside(layer))
    if all(each.trainable == layer.trainable for _, each in inside):
        return None
    return [name for name, each in inside if not each.trainable]

"""The base of all layers: its config is true, of frozen inner layers and of arguments."""

import inspect
from typing import Any, ClassVar

import keras

from ple_keras._checks import check_layer_name
from ple_keras._keras.internals import children
from ple_keras._keras.walking import Untracked, layers_inside


def freeze_if_frozen(layer: keras.Layer) -> None:
    """Freeze the layers inside a layer that was created with `trainable=False`.

    Keras does so when `trainable` is assigned, but not when it is a constructor argument. Without
    this, a frozen layer would train after loading. `trainable` is assigned to each inner layer,
    because TensorFlow ignores the assignment of a value that the attribute already has.
    """
    if not layer.trainable:
        for inside in children(layer):
            inside.trainable = False


class BaseLayer(keras.Layer):
    """A layer with read-only arguments, whose config lists the frozen layers inside it.

    The config of a layer does not contain the layers that it creates in `build`. Without the list,
    a frozen one would train after loading or cloning. The list, "frozen_layers", has the names of
    `layers_inside`. It is omitted if all inner layers have the `trainable` of the layer itself.

    A layer passes its arguments on to inner layers, losses and metrics. An argument assigned later
    would be saved, without an effect on the model. The arguments of the constructors of this
    package are therefore read-only once the layer is built, or after `_make_read_only`.
    """

    _arguments: ClassVar[frozenset[str]] = frozenset()  # of this package's classes
    # How to change an argument of a layer that exists, by argument.
    _other_ways: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls) and cls.__module__.startswith("ple_keras."):
            _, *parameters = inspect.signature(cls.__init__).parameters.values()
            names = [p.name for p in parameters if p.kind != p.VAR_KEYWORD]
            cls._arguments = cls._arguments.union(names)

    def __init__(self, **kwargs: Any) -> None:
        check_layer_name(kwargs.get("name"))
        super().__init__(**kwargs)
        self._frozen_layers: Any = Untracked(None)  # from the config, used in `build`

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._arguments and self._is_read_only():
            raise AttributeError(
                f"{name} of {self.name!r} is read-only, since an assigned value would have no "
                f"effect. {self._other_ways.get(name, '')}Create a new layer with this argument: "
                f"`{type(self).__name__}(...)`, or `type(layer).from_config({{**layer.get_config()"
                f', "{name}": ...}})` to keep the other arguments. `transfer_weights` copies the '
                f"weights. Received: {name}={value!r}"
            )
        super().__setattr__(name, value)

    def _make_read_only(self) -> None:
        """Refuse further assignments of the arguments, even if the layer is not built."""
        self._has_read_only_arguments = True

    def _is_read_only(self) -> bool:
        attributes = vars(self)  # Keras has not created `built` before its constructor
        return bool(attributes.get("built") or attributes.get("_has_read_only_arguments"))

    @property
    def trainable(self) -> bool:
        """Whether the layer's weights are trained."""
        is_trainable: bool = keras.Layer.trainable.fget(self)
        return is_trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        if hasattr(self, "_frozen_layers"):
            self._frozen_layers.value = None  # the assignment applies to all inner layers
        keras.Layer.trainable.fset(self, value)

    def _serialized_layers(self) -> list[keras.Layer]:
        """Return the inner layers whose configs, with frozen layers, are part of this config."""
        return []

    def _restore_frozen(self) -> None:
        """Set `trainable` of the inner layers from the config. Call it at the end of `build`."""
        frozen = self._frozen_layers.value
        if frozen is None:
            freeze_if_frozen(self)
            return
        with_config = {id(layer) for layer in self._serialized_layers()}
        restored: tuple[str, ...] = ()
        for name, inside in layers_inside(self):  # outer layers first, since they set inner ones
            if name.startswith(restored):
                continue
            if id(inside) not in with_config:
                if inside.trainable == (name in frozen):
                    inside.trainable = name not in frozen
            elif isinstance(inside, BaseLayer):
                restored = (*restored, f"{name}/")

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        frozen = _frozen_names(self) if self.built else self._frozen_layers.value
        return config if frozen is None else {**config, "frozen_layers": frozen}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Create a layer. The list is set after `__init__`, which may lack `**kwargs`."""
        frozen = config.get("frozen_layers")
        arguments = {key: value for key, value in config.items() if key != "frozen_layers"}
        layer = super().from_config(arguments)
        layer._frozen_layers.value = frozen
        return layer


def _frozen_names(layer: keras.Layer) -> list[str] | None:
    """Return the names of the frozen inner layers, or None if all are like the layer itself."""
    inside = list(layers_inside(layer))
    if all(each.trainable == layer.trainable for _, each in inside):
        return None
    return [name for name, each in inside if not each.trainable]

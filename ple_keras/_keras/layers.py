"""The base class of all layers, and the layers inside a layer, at any depth."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Generic, Self, TypeVar

import keras

from ple_keras._keras.internals import children
from ple_keras._typing import Config

T = TypeVar("T")
Path = tuple[keras.Layer, ...]  # the outermost layer first


class Untracked(Generic[T]):
    """Container for a value that Keras must neither wrap nor track.

    A tracked layer that is never built would slow down every step.
    """

    def __init__(self, value: T) -> None:
        self.value = value


def walk(layer: keras.Layer) -> Iterator[Path]:
    """Yield the paths of a layer and its inner layers, outer ones first, each layer once."""
    yield (layer,)
    yield from _walk_inside((layer,), {id(layer)})


def find_layers(layer: keras.Layer, kind: type[T]) -> list[T]:
    """Return the instances of a class among a layer and its inner layers, each once."""
    return [path[-1] for path in walk(layer) if isinstance(path[-1], kind)]


def layers_inside(layer: keras.Layer) -> Iterator[tuple[str, keras.Layer]]:
    """Yield the inner layers, outer ones first, with names that are the same in every copy.

    Keras numbers automatic names globally, so they differ in a copy. Here, layers whose names
    differ only in the number are numbered within their outer layer:
    "experts.0/expert-click.0/dense.1". The names are part of the file format. A layer inside two
    other layers has two names.
    """
    # Keyed by id, since layers can define `__eq__`.
    prefixes: dict[tuple[int, ...], str] = {(id(layer),): ""}
    counts: Counter[str] = Counter()
    for path in _walk_inside((layer,)):
        *outer, inside = map(id, path)
        stem = prefixes[tuple(outer)] + re.sub(r"_\d+$", "", path[-1].name)
        name = f"{stem}.{counts[stem]}"
        counts[stem] += 1
        prefixes[(*outer, inside)] = f"{name}/"
        yield name, path[-1]


def _walk_inside(path: Path, seen: set[int] | None = None) -> Iterator[Path]:
    """Yield the paths of the inner layers of a path's last layer, without those already seen."""
    for layer in children(path[-1]):
        if seen is not None:
            if id(layer) in seen:
                continue
            seen.add(id(layer))
        yield (*path, layer)
        yield from _walk_inside((*path, layer), seen)


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
    """A layer whose config describes it, even after it was built.

    Arguments in `_fixed` are read only in `__init__` or `build`. If they were assigned later, the
    config would change, but not the layer. The constructor of a subclass can assign them.

    The config of a layer does not contain the layers that it creates in `build`. The list
    "frozen_layers" in the config contains the frozen ones, by their names from `layers_inside`.
    Without it, they would train after loading or cloning. The list is omitted if all inner layers
    have the `trainable` of the layer itself.
    """

    _fixed: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: object) -> None:
        is_fixed = name in self._fixed and name in vars(self)
        if is_fixed and (vars(self).get("built") or type(self).__module__.startswith("ple_keras.")):
            raise AttributeError(f"{name} can be set only at creation. Received: {name}={value!r}")
        super().__setattr__(name, value)

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._frozen_layers: tuple[str, ...] | None = None  # the config's names, for `build`

    def _restore_frozen(self) -> None:
        """Set `trainable` of the inner layers from the config. Call it at the end of `build`."""
        frozen = self._frozen_layers
        if frozen is None:
            freeze_if_frozen(self)
            return
        for name, inside in list(layers_inside(self)):  # outer layers set inner ones
            if inside.trainable == (name in frozen):
                inside.trainable = name not in frozen

    def get_config(self) -> Config:
        config: Config = super().get_config()
        fixed = {name: getattr(self, name) for name in self._fixed}
        serialize = keras.saving.serialize_keras_object  # initializers become dicts
        config |= {name: serialize(x) if callable(x) else x for name, x in fixed.items()}
        inside = list(layers_inside(self))
        for name, layer in inside:
            if layer.quantization_mode:
                raise ValueError(
                    "A quantized model can't be saved or cloned. Quantize the file of export_onnx. "
                    f"Received: {self.name}/{name}.quantization_mode={layer.quantization_mode!r}"
                )
        frozen = None if self.built else self._frozen_layers
        if self.built and any(layer.trainable != self.trainable for _, layer in inside):
            frozen = tuple(name for name, layer in inside if not layer.trainable)
        return config if frozen is None else {**config, "frozen_layers": list(frozen)}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Create a layer, then set its frozen layers, since its `__init__` can lack `**kwargs`."""
        arguments = dict(config)
        frozen = arguments.pop("frozen_layers", None)
        layer: Self = super().from_config(arguments)
        layer._frozen_layers = None if frozen is None else tuple(frozen)
        return layer

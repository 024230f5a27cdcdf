"""A copy of the feature network for each stream."""

from collections import UserList
from collections.abc import Mapping, Sequence
from typing import Any, cast

import keras

from ple_keras._checks import check_bool, short_repr
from ple_keras._keras.building import build_copy, symbolic
from ple_keras._keras.copying import Template, check_adapted_layers
from ple_keras._keras.internals import call_keeping_masks
from ple_keras._keras.layers import BaseLayer, Untracked
from ple_keras._keras.saving import check_names, register, save_names
from ple_keras._keras.slices import whole_slices
from ple_keras._keras.tensors import fixed_dtypes
from ple_keras._typing import (
    Config,
    Nested,
    NestedShape,
    Outputs,
    Shape,
    Store,
    Tensor,
    WeightSlice,
)
from ple_keras.labels.task_names import SHARED, task_names
from ple_keras.layers.template import as_stream_templates, is_by_stream


@register
class StreamFeatures(BaseLayer):
    """A copy of the feature network for each stream of a PLEBlock or CGCBlock.

    Tasks that read the same embeddings train them together, even if they have separate experts.
    With a copy for each stream, and with `isolate_task_experts=True` in the block, the gradient of
    a task's loss is zero for all weights of other tasks.

    K tasks and the shared stream have K + 1 copies by default: K + 1 times the weights, optimizer
    state and computation of the feature network. `own` limits this to the tasks that need it. With
    a dict of different networks, tasks can have smaller tables than the shared stream. A
    HedgedBlock copies its `features` itself.

    The layers of every copy have new weights. Adapted layers, such as `keras.layers.Normalization`
    and `keras.layers.StringLookup`, have the same state in every copy. They must be layers of a
    Functional or Sequential model.

    Args:
        outputs: The tasks, as for CGCBlock.
        feature_block: The feature network: a layer or model that maps a tensor, or a dict of
            columns, to a tensor. It is copied and never used itself. A dict has such a network for
            every stream. Their output widths can differ.
        own: The tasks that have their own copy; by default, every task. All other tasks and
            "shared" read one common copy. With `[]`, all streams do. It must be None with a dict.
        shared: Whether the outputs contain the stream "shared". A level with neither shared
            experts nor a shared gate refuses it.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: A tensor or a dict of columns, as for `feature_block`. Integers and strings are not
            cast.
        training: Passed to the copies.

    Returns:
        `{task: (..., D)}`, and "shared" with `shared=True`. D is the output width of the network.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a task in `outputs` is repeated or invalid, `own` is not a list of tasks, or
            `feature_block` can't be copied, contains a layer that is not adapted, does not return
            one tensor, or is a dict that lacks a stream.

    Reference:

    - Embeddings by task: Su et al., "STEM: Unleashing the Power of Embeddings for Multi-task
      Recommendation", AAAI 2024. [arXiv:2308.13537](https://arxiv.org/abs/2308.13537)

    Example:

    >>> inputs = {"item": keras.Input((), dtype="int32"), "price": keras.Input((1,))}
    >>> item = keras.layers.Embedding(1000, 8)(inputs["item"])
    >>> network = keras.Model(inputs, keras.layers.Concatenate()([item, inputs["price"]]))
    >>> features = StreamFeatures(["click", "buy"], network)(inputs)
    >>> {name: tuple(x.shape) for name, x in features.items()}
    {'click': (None, 9), 'buy': (None, 9), 'shared': (None, 9)}
    >>> ple = PLEBlock(2, ["click", "buy"], [4], isolate_task_experts=True)
    >>> model = keras.Model(inputs, ple(features))
    """

    def __init__(
        self,
        outputs: Outputs,
        feature_block: keras.Layer | Mapping[str, keras.Layer],
        own: Sequence[str] | None = None,
        shared: bool = True,
        **kwargs: Any,
    ) -> None:
        dtypes = kwargs.pop("input_dtypes", None)  # a key of configs
        super().__init__(**kwargs)
        self.supports_masking = True
        self.autocast = False  # the layers of the copies cast their inputs, or need all digits
        self._task_names = tuple(task_names(outputs))
        tasks = self._task_names
        if own is not None and not (isinstance(own, list | tuple) and {*own} <= {*tasks}):
            raise ValueError(
                f"own must be None or a list of tasks among {list(tasks)}. Received: {own=}"
            )
        self._own = None if own is None else tuple(own)
        self._shared = check_bool(shared, "shared")
        # The attribute of the copy that each stream reads, part of the file format. No other
        # attribute contains a "-". The common copy is "stream-shared", even without the stream.
        streams = [*self._task_names, *([SHARED] if self._shared else [])]
        has_own = self._task_names if own is None else own
        self._copy_of = Untracked({s: f"stream-{s if s in has_own else SHARED}" for s in streams})
        if is_by_stream(feature_block) and own is not None:
            raise ValueError(f"own must be None if feature_block is a dict. Received: {own=}")
        dtype = self.dtype_policy
        self._templates = as_stream_templates(feature_block, streams, "feature_block", dtype)
        self._dtypes = Untracked(dtypes)

    @property
    def task_names(self) -> list[str]:
        """The tasks, in order."""
        return list(self._task_names)

    @property
    def layers(self) -> Sequence[keras.Layer]:
        """The copies, in order, once the layer is built. `summary(expand_nested=True)` shows them.

        They are not a list, since files would then store the copies by position, not by attribute.
        """
        names = dict.fromkeys(self._copy_of.value.values() if self.built else ())
        return UserList(getattr(self, name) for name in names)

    def _streams(self) -> list[str]:
        """The streams, in order."""
        return [*self._copy_of.value]

    def _slices(self, stream: str) -> list[WeightSlice]:
        """Return the weights of the copy that a stream reads."""
        return whole_slices(getattr(self, self._copy_of.value[stream]).weights)

    def __call__(self, inputs: Nested, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """Record the dtypes of the columns, and call the layer."""
        self._record_dtypes(inputs)
        return cast(dict[str, Tensor], super().__call__(inputs, *args, **kwargs))

    def _record_dtypes(self, inputs: Nested) -> None:
        """Record the dtypes of the columns, which `build` does not receive."""
        if inputs is None or isinstance(inputs, list | tuple):
            raise TypeError(
                f"inputs must be a tensor or dict of columns. Received: inputs={short_repr(inputs)}"
            )
        if not self.built:
            self._dtypes.value = fixed_dtypes(inputs, self._dtypes.value)

    def build(self, input_shape: NestedShape) -> None:
        inputs = symbolic(input_shape, self.compute_dtype, self._dtypes.value)
        template_of = {name: self._templates.value[s] for s, name in self._copy_of.value.items()}
        for name, template in template_of.items():
            copy = template.copy(name, name)
            setattr(self, name, copy)
            build_copy(copy, inputs, template.argument)
            check_adapted_layers(copy, template.argument)  # `build` can create such layers
        self._restore_frozen()

    def call(self, inputs: Nested, training: bool | None = None) -> dict[str, Tensor]:
        """Compute every copy once."""
        features = {copy.name: call_keeping_masks(copy, inputs) for copy in self.layers}
        return {stream: features[name] for stream, name in self._copy_of.value.items()}

    def compute_mask(self, inputs: Nested, previous_mask: Nested) -> None:
        """Return None, since every copy sets the mask of its output."""
        return None

    def compute_output_spec(self, inputs: Nested, **kwargs: object) -> dict[str, keras.KerasTensor]:
        # Keras stores the origin of a symbolic tensor in it. The copy therefore reads new tensors,
        # and every stream has its own.
        inputs = keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape, x.dtype), inputs)
        outputs: dict[Template, keras.KerasTensor] = {}
        for stream, template in self._templates.value.items():
            if template not in outputs:
                name = self._copy_of.value[stream]
                copy = getattr(self, name) if self.built else template.copy(template.layer.name)
                outputs[template] = build_copy(copy, inputs, template.argument)
        by_stream = {stream: outputs[x] for stream, x in self._templates.value.items()}
        return {s: keras.KerasTensor(x.shape, x.dtype) for s, x in by_stream.items()}

    def compute_output_shape(self, input_shape: NestedShape) -> dict[str, Shape]:
        inputs = symbolic(input_shape, self.compute_dtype, self._dtypes.value)
        return {stream: spec.shape for stream, spec in self.compute_output_spec(inputs).items()}

    def save_own_variables(self, store: Store) -> None:
        save_names(store, self._names())

    def load_own_variables(self, store: Store) -> None:
        check_names(store, self._names(), self)

    def _names(self) -> list[str]:
        """Return the streams, in order, with their copies, as a file must contain them."""
        return [f"{stream} reads {name}" for stream, name in self._copy_of.value.items()]

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "outputs": self.task_names,
            "feature_block": keras.saving.serialize_keras_object(self._templates.layer),
            "own": None if self._own is None else list(self._own),
            "shared": self._shared,
            "input_dtypes": self._dtypes.value,
        }

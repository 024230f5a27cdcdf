"""All tasks' heads as one layer, and what they tell `Model.compile`."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from ple_keras._building import Shape, freeze_if_frozen
from ple_keras._registration import register
from ple_keras._saving import check_names, save_names
from ple_keras._validation import SHARED, check_keys, task_names
from ple_keras.heads import Head


@register
class TaskHeads(keras.Layer):
    """All tasks' heads: `{task: (..., H)} -> {task: (..., units)}`.

    A task's name is ASCII letters, digits, "_" and "-", starts with a letter or digit, and is not
    "shared".

    Args:
        heads: A sequence of heads, one a task, or heads by task.
        **kwargs: Keras's own layer arguments.

    Raises:
        TypeError: if `heads` holds anything but heads.
        ValueError: if it is empty, a task is repeated, or two heads have one layer name.

    Example:

    >>> heads = TaskHeads([BinaryHead("click"), RegressionHead("watch_time", loss_weight=0.1)])
    >>> inputs = keras.Input((16,))
    >>> features = {"click": inputs, "watch_time": inputs}
    >>> model = keras.Model(inputs, heads(features))
    >>> model.compile("adam", **heads.compile_kwargs())
    """

    def __init__(self, heads: Sequence[Head] | Mapping[str, Head], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        heads = _check_heads(heads)
        self._task_names = tuple(head.task for head in heads)
        for head in heads:
            setattr(self, _head_attribute(head.task), head)

    @property
    def task_names(self) -> list[str]:
        """The tasks, in order."""
        return list(self._task_names)

    def _heads(self) -> list[Any]:
        return [getattr(self, _head_attribute(task)) for task in self._task_names]

    def build(self, input_shape: Any) -> None:
        shapes = self._by_task(input_shape)
        for head in self._heads():
            if not head.built:  # a head from a file comes built
                head.build(shapes[head.task])
        freeze_if_frozen(self)

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> dict[str, Any]:
        """Predict every task.

        Args:
            inputs: `{task: (..., H)}`; a key "shared" is ignored.
            training: As in Keras; the heads hear of it.

        Returns:
            `{task: (..., units)}`, at least float32.
        """
        features = self._by_task(inputs)
        return {head.task: head(features[head.task], training=training) for head in self._heads()}

    def _by_task(self, inputs: Any) -> dict[str, Any]:
        if not isinstance(inputs, Mapping):
            raise TypeError(
                f"inputs must be a dict by task, {self.task_names}. Received: inputs={inputs!r}"
            )
        features = {key: value for key, value in inputs.items() if key != SHARED}
        check_keys(features, self.task_names, "inputs")
        return features

    def compile_kwargs(self, **overrides: Any) -> dict[str, Any]:
        """Keyword arguments of `Model.compile`: the heads' losses, loss weights and metrics.

        The metrics are new objects at every call, under explicit names, so that the keys of
        `logs` are the same in every run: `{task}_{metric}`, such as `click_auc`, and
        `{task}_loss`. With one task Keras leaves out the task: `auc`, `loss`.

        Args:
            **overrides: Further arguments of `Model.compile`; one that the heads set too
                replaces what they would say, whole.

        Returns:
            A dict with `loss`, `loss_weights` and `metrics`, each by task, and the overrides.
        """
        heads = self._heads()
        return {
            "loss": {head.task: head.loss for head in heads},
            "loss_weights": {head.task: head.loss_weight for head in heads},
            "metrics": {head.task: head.new_metrics() for head in heads},
            **overrides,
        }

    def compute_mask(self, inputs: Any, previous_mask: Any) -> dict[str, Any] | None:
        masks = self._by_task(previous_mask)
        if all(mask is None for mask in masks.values()):
            return None
        return {task: masks[task] for task in self._task_names}

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        features = self._by_task(inputs)
        return {head.task: head.compute_output_spec(features[head.task]) for head in self._heads()}

    def compute_output_shape(self, input_shape: Any) -> dict[str, Shape]:
        shapes = self._by_task(input_shape)
        return {head.task: head.compute_output_shape(shapes[head.task]) for head in self._heads()}

    def save_own_variables(self, store: Any) -> None:
        save_names(store, self._task_names)

    def load_own_variables(self, store: Any) -> None:
        check_names(store, self._task_names, self)

    def get_config(self) -> dict[str, Any]:
        heads = [keras.saving.serialize_keras_object(head) for head in self._heads()]
        return {**super().get_config(), "heads": heads}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        heads = [keras.saving.deserialize_keras_object(head) for head in config["heads"]]
        return super().from_config({**config, "heads": heads})


def _check_heads(heads: Any) -> list[Head]:
    if isinstance(heads, Mapping):
        task_names(heads, "heads")
        heads = list(heads.values())
    if not isinstance(heads, Sequence) or not all(isinstance(head, Head) for head in heads):
        raise TypeError(f"heads must be a sequence of heads. Received: heads={heads!r}")
    if not heads:
        raise ValueError("heads must hold at least one head. Received: heads=[]")
    for kind, names in (
        ("tasks", [head.task for head in heads]),
        ("layer names", [head.name for head in heads]),
    ):
        if len(set(names)) < len(names):
            raise ValueError(
                f"heads must have different {kind}, not {names}. Received: heads={heads!r}"
            )
    return list(heads)


def _head_attribute(task: str) -> str:
    """The attribute of a head, see `expert_bank.sublayer_name`."""
    return f"head-{task}"

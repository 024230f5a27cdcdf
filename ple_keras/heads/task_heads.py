"""All tasks' heads as one layer, and what they tell `Model.compile`."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from ple_keras._checks import SHARED, check_keys
from ple_keras._keras.children import built_names, deserialize_children, serialize_children
from ple_keras._keras.freezing import FreezableLayer
from ple_keras._keras.registration import register
from ple_keras._keras.saving import check_names, save_names
from ple_keras._typing import ByStream, Shape, Store, TaskName, Tensor
from ple_keras.heads._compile_arguments import compile_arguments
from ple_keras.heads._given_heads import check_heads, sort_products
from ple_keras.heads._loss_weighting import LossWeighting
from ple_keras.heads.head import Head
from ple_keras.heads.product_head import ProductHead


@register
class TaskHeads(LossWeighting, FreezableLayer):
    """All tasks' heads: `{task: (..., H)} -> {task: (..., units)}`.

    A task's name is ASCII letters, digits, "_" and "-", starts with a letter or digit, and is not
    "shared".

    Args:
        heads: A sequence of heads, one a task, or heads by task.
        loss_weighting: None, or "uncertainty" to learn the weights of the tasks' losses: a task's
            loss becomes `c exp(-s) L + a s`, with s its log-variance, a trainable weight that
            starts at 0; `c = a = 1/2` for squared errors, `c = 1, a = 1/2` for cross-entropies,
            `c = a = 1` for absolute errors (Kendall, Gal, Cipolla, "Multi-Task Learning Using
            Uncertainty to Weigh Losses", CVPR 2018). An example without a label adds nothing. The
            head's `loss_weight` multiplies all of it.
        **kwargs: Keras's own layer arguments.

    Raises:
        TypeError: if `heads` holds anything but heads.
        ValueError: if it is empty, a task is repeated, two heads have one layer name, a ProductHead
            is made of tasks that are not there, have no probability or lead back to it, or
            `loss_weighting` is unknown.

    Example:

    >>> heads = TaskHeads([BinaryHead("click"), RegressionHead("watch_time", loss_weight=0.1)])
    >>> inputs = keras.Input((16,))
    >>> features = {"click": inputs, "watch_time": inputs}
    >>> model = keras.Model(inputs, heads(features))
    >>> model.compile("adam", **heads.compile_kwargs())
    """

    def __init__(
        self,
        heads: Sequence[Head] | Mapping[str, Head],
        loss_weighting: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        heads = check_heads(heads)
        self._init_loss_weights(loss_weighting)
        self._product_names = tuple(head.task for head in sort_products(heads))
        self._task_names = tuple(head.task for head in heads)
        self._came_built = built_names(heads)
        for head in heads:
            setattr(self, _head_attribute(head.task), head)

    @property
    def task_names(self) -> list[str]:
        """The tasks that have features, in order: all but those of ProductHeads."""
        return [head.task for head in self._heads() if not isinstance(head, ProductHead)]

    def _heads(self) -> list[Head]:
        return [getattr(self, _head_attribute(task)) for task in self._task_names]

    def _products(self) -> list[Any]:  # no property: Keras's saving would walk into it
        return [getattr(self, _head_attribute(task)) for task in self._product_names]

    def build(self, input_shape: Mapping[TaskName, Shape]) -> None:
        shapes = self._by_task(input_shape)
        for head in self._heads():
            if not head.built:
                head.build(shapes.get(head.task, ()))  # a ProductHead reads no features
        for product in self._products():
            product.adopt_rank(getattr(self, _head_attribute(product.of[0])))
        self._build_loss_weights()
        self._restore_frozen()

    def _layers_with_config(self) -> list[keras.Layer]:
        return self._heads()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        predictions = super().__call__(*args, **kwargs)
        self._loss_weights.mark(keras.tree.flatten(predictions))  # also those of a subclass
        return predictions

    def call(self, inputs: ByStream, training: bool | None = None) -> dict[str, Tensor]:
        """Predict every task.

        Args:
            inputs: `{task: (..., H)}`; a key "shared" is ignored.
            training: As in Keras; the heads hear of it.

        Returns:
            `{task: (..., units)}`, at least float32.
        """
        features = self._by_task(inputs)
        factors = {task for product in self._products() for task in product.of}
        predictions, logs = {}, {}
        for task in self.task_names:
            head = getattr(self, _head_attribute(task))
            if task in factors:  # the logits serve twice
                logits = head.logits(features[task])
                predictions[task] = head.activation(logits)
                logs[task] = keras.ops.log_sigmoid(logits)
            else:
                predictions[task] = head(features[task], training=training)
        for product in self._products():
            of = [logs[task] for task in product.of]
            predictions[product.task] = product(of)
            logs[product.task] = product.log_probability(of)
        return {task: predictions[task] for task in self._task_names}

    def _by_task(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
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
        `{task}_loss`, unweighted. With one task Keras leaves out the task: `auc`.

        Each task has two losses: one that is trained, by the weight in force, and one that is
        shown. Given `loss` or `loss_weights`, each has one, and Keras applies the weights, which
        then stand still.

        Args:
            **overrides: Further arguments of `Model.compile`; one that the heads set too
                replaces what they would say, whole, but tasks that `loss_weights` leave out keep
                their heads'.

        Returns:
            A dict with `loss`, `loss_weights` and `metrics`, each by task, and the overrides.

        Raises:
            ValueError: if `loss` or `loss_weights` is given and the weights are learned,
                `loss_weights` name a task without a loss, or Keras's logs could not tell two tasks
                apart: a task is called "val", or one "x" and another "val_x".
        """
        return compile_arguments(self._heads(), self._loss_weights, self.loss_weighting, overrides)

    def check_labels(self, y: Mapping[TaskName, Tensor]) -> None:
        """Look at the arrays of labels before `fit` does, whose own errors say little.

        Keras trains silently, or to NaN, on a class index that is out of range.

        Args:
            y: `{task: labels}`, as `fit` takes them, one for each head.

        Raises:
            TypeError: if `y` is no dict, or labels are no numbers.
            ValueError: if a task is missing or unknown, or labels have the wrong shape, another
                number of rows than others, or values that their task can't have.

        Warns:
            UserWarning: if a task has no label at all.

        Example:

        >>> heads = TaskHeads([BinaryHead("click"), MulticlassHead("kind", num_classes=3)])
        >>> heads.check_labels({"click": [0, 1], "kind": [0, 3]})
        Traceback (most recent call last):
        ...
        ValueError: y['kind'] must be class indices from 0 to 2 or be missing; 1 are not. \
        Received: y['kind']=[..., 3]
        """
        if not isinstance(y, Mapping):
            raise TypeError(
                f"y must be a dict by task, {list(self._task_names)}. Received: y={y!r}"
            )
        check_keys(y, self._task_names, "y")
        for head in self._heads():
            head.check_labels(y[head.task])
        rows = {task: len(labels) for task, labels in y.items()}
        if len(set(rows.values())) > 1:
            raise ValueError(f"y must have as many labels for each task. Received: rows={rows}")

    def compute_mask(
        self, inputs: Mapping[TaskName, Tensor], previous_mask: Mapping[TaskName, Tensor]
    ) -> dict[str, Tensor] | None:
        masks = self._by_task(previous_mask)
        if all(mask is None for mask in masks.values()):
            return None
        for product in self._products():
            masks[product.task] = masks[product.of[0]]
        return {task: masks[task] for task in self._task_names}

    def compute_output_spec(
        self, inputs: Mapping[TaskName, Tensor], training: bool | None = None
    ) -> dict[str, Any]:
        features = self._by_task(inputs)
        heads = {head.task: head for head in self._heads()}
        specs = {task: heads[task].compute_output_spec(features[task]) for task in self.task_names}
        for product in self._products():
            specs[product.task] = product.compute_output_spec([specs[task] for task in product.of])
        return {task: specs[task] for task in self._task_names}

    def compute_output_shape(self, input_shape: Mapping[TaskName, Shape]) -> dict[str, Shape]:
        tensors = {key: keras.KerasTensor(x) for key, x in self._by_task(input_shape).items()}
        return {task: spec.shape for task, spec in self.compute_output_spec(tensors).items()}

    def save_own_variables(self, store: Store) -> None:
        save_names(store, self._task_names)
        self._loss_weights.save(store)

    def load_own_variables(self, store: Store) -> None:
        check_names(store, self._task_names, self)
        self._loss_weights.load(store)

    def get_config(self) -> dict[str, Any]:
        heads = serialize_children(self._heads(), self._came_built)
        config = {**super().get_config(), "heads": heads, "loss_weighting": self.loss_weighting}
        key = self._loss_weights.key  # without losses there is none, and equal layers are equal
        return {**config, "loss_key": key} if key else config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        key = config.get("loss_key")
        kwargs = {name: value for name, value in config.items() if name != "loss_key"}
        layer = super().from_config({**kwargs, "heads": deserialize_children(config["heads"])})
        if key:
            layer._loss_weights.set_key(key)
        return layer


def _head_attribute(task: str) -> str:
    """The attribute of a head, part of the file format, see `expert_bank.sublayer_name`."""
    return f"head-{task}"

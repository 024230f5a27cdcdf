"""The heads of all tasks as one layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from ple_keras._checks import SHARED, check_by_task, check_keys
from ple_keras._keras.freezing import FreezableLayer
from ple_keras._keras.registration import register
from ple_keras._keras.saving import (
    built_names,
    check_names,
    deserialize_children,
    save_names,
    serialize_children,
)
from ple_keras._typing import ByName, MetricLike, Shape, Store, TaskName, Tensor
from ple_keras.heads._compile_arguments import compile_arguments
from ple_keras.heads._given_heads import check_heads, sort_products
from ple_keras.heads._loss_weighting import LossWeighting
from ple_keras.heads.head import Head
from ple_keras.heads.product_head import ProductHead


@register
class TaskHeads(LossWeighting, FreezableLayer):
    """The heads of all tasks: `{task: (..., H)} -> {task: (..., units)}`.

    A task's name consists of ASCII letters, digits, "_" and "-", starts with a letter or digit, and
    is not "shared". The layer gives access to its heads by task: `heads["click"]`, `get`, `in`,
    `len`, iteration over the tasks, `keys`, `values` and `items`.

    Args:
        heads: A sequence of heads, one for each task, or a dict of heads by task.
        loss_weighting: None, or "uncertainty" to learn the weights of the tasks' losses. A task's
            loss is then `c exp(-s) L + a s`. The log-variance s is a trainable weight that starts
            at 0. `c = a = 1/2` for squared errors, `c = 1, a = 1/2` for cross-entropies, and
            `c = a = 1` for absolute errors. An example without a label adds nothing. The head's
            `loss_weight` multiplies both terms.
        **kwargs: Keras's layer arguments.

    Call arguments:
        inputs: The features of each task, `{task: (..., H)}`. A key "shared" is ignored.
        training: Passed to the heads.

    Returns:
        The predictions of all heads, `{task: (..., units)}`, at least float32.

    Raises:
        TypeError: If `heads` contains anything other than heads.
        ValueError: If `heads` is empty, a task is repeated, two heads have the same layer name, or
            `loss_weighting` is unknown. Also if a factor of a ProductHead is missing or has no
            probability, or if ProductHeads form a cycle.

    Reference:

    - Learned weights: Kendall, Gal, Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses
      for Scene Geometry and Semantics", CVPR 2018.
      [arXiv:1705.07115](https://arxiv.org/abs/1705.07115)

    Example:

    >>> heads = TaskHeads([BinaryHead("click"), RegressionHead("watch_time", loss_weight=0.1)])
    >>> inputs = keras.Input((16,))
    >>> features = {"click": inputs, "watch_time": inputs}
    >>> model = keras.Model(inputs, heads(features))
    >>> model.compile("adam", **heads.compile_kwargs())
    >>> list(heads), heads["watch_time"].loss_weight
    (['click', 'watch_time'], 0.1)
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
        self._came_built = built_names(heads)
        self._set_heads(heads)

    @property
    def task_names(self) -> list[str]:
        """Names of the tasks that have features, in order: all except those of ProductHeads."""
        return [head.task for head in self._heads() if not isinstance(head, ProductHead)]

    def _products(self) -> list[Any]:  # not a property: Keras's saving would read it
        return [self[task] for task in self._product_names]

    def build(self, input_shape: Mapping[TaskName, Shape]) -> None:
        shapes = self._inputs_by_task(input_shape)
        for head in self._heads():
            if not head.built:
                head.build(shapes.get(head.task, ()))  # a ProductHead has no features
        for product in self._products():
            product.copy_leading_axes(self[product.of[0]])
        self._build_loss_weights()
        self._restore_frozen()

    def _serialized_layers(self) -> list[keras.Layer]:
        return self._heads()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        predictions = super().__call__(*args, **kwargs)
        self._loss_weights.mark(keras.tree.flatten(predictions))  # also in subclasses
        return predictions

    def call(self, inputs: ByName, training: bool | None = None) -> dict[str, Tensor]:
        """Return the predictions of all tasks."""
        features = self._inputs_by_task(inputs)
        factors = {task for product in self._products() for task in product.of}
        predictions, logs = {}, {}
        for task in self.task_names:
            head = self[task]
            if task in factors:  # a product uses the logits too
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

    def _inputs_by_task(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        check_by_task(inputs, self.task_names, "inputs")
        features = {key: value for key, value in inputs.items() if key != SHARED}
        check_keys(features, self.task_names, "inputs")
        return features

    def compile_kwargs(
        self,
        *,
        extra_metrics: Mapping[TaskName, Sequence[MetricLike]] | None = None,
        **overrides: Any,
    ) -> dict[str, Any]:
        """Return keyword arguments of `Model.compile`: losses, loss weights and metrics.

        The metrics are new objects at every call. Their names are explicit, so that the keys of
        `logs` are the same in every run: `{task}_{metric}`, such as `click_auc`, and
        `{task}_loss`, unweighted. With one task, Keras omits the task: `auc`.

        Each task has two losses: one is trained, with the current weight, and one is logged. If
        `loss` or `loss_weights` is given, each task has one loss, and Keras applies constant
        weights.

        Args:
            extra_metrics: Metrics in addition to those of the heads, a sequence by task, as for
                `Head`. They exclude missing labels too.
            **overrides: Further arguments of `Model.compile`. They replace those of the heads
                entirely, except that tasks omitted in `loss_weights` keep the weights of their
                heads.

        Returns:
            A dict with `loss`, `loss_weights` and `metrics`, each by task, and the overrides.

        Raises:
            TypeError: If `extra_metrics` is not a dict of sequences of metrics.
            ValueError: If `loss` or `loss_weights` is given and the weights are learned, or if
                `loss_weights` has a task without a loss. If `extra_metrics` has an unknown task, or
                is given with `metrics`. Also if keys of Keras's logs would be ambiguous: a task is
                named "val", or one "x" and another "val_x".

        Warns:
            UserWarning: If `metrics` has Keras's AUC under the name of a head's exact one, "auc".

        Example:

        >>> heads = TaskHeads([BinaryHead("click")])
        >>> kwargs = heads.compile_kwargs(extra_metrics={"click": ["accuracy"]})
        >>> [metric.name for metric in kwargs["metrics"]["click"]]
        ['auc', 'binary_crossentropy', 'accuracy']
        """
        return compile_arguments(
            self._heads(), self._loss_weights, self.loss_weighting, extra_metrics, overrides
        )

    def check_labels(self, y: Mapping[TaskName, Tensor]) -> None:
        """Check the labels before `fit`, with clearer errors than those of Keras.

        Keras trains silently, or to NaN, on class indices that are out of range.

        Args:
            y: `{task: labels}`, as for `fit`, with labels for each head.

        Raises:
            TypeError: If `y` is not a dict, or labels are not numbers.
            ValueError: If a task is missing or unknown, if labels have a wrong shape or values that
                their task or its loss does not allow, or if the tasks' numbers of rows differ.

        Warns:
            UserWarning: If a task has no labels.

        Example:

        >>> heads = TaskHeads([BinaryHead("click"), MulticlassHead("kind", num_classes=3)])
        >>> heads.check_labels({"click": [0, 1], "kind": [0, -1]})
        Traceback (most recent call last):
        ...
        ValueError: y['kind'] must be class indices from 0 to 2 or missing; invalid: 1. \
        If -1 marks missing labels, create the head with missing_label=-1. \
        Received: y['kind']=[..., -1]
        """
        check_by_task(y, self._task_names, "y")
        check_keys(y, self._task_names, "y")
        for head in self._heads():
            head.check_labels(y[head.task])
        rows = {task: len(labels) for task, labels in y.items()}
        if len(set(rows.values())) > 1:
            raise ValueError(
                f"y must have the same number of rows for all tasks. Received: rows={rows}"
            )

    def compute_mask(
        self, inputs: Mapping[TaskName, Tensor], previous_mask: Mapping[TaskName, Tensor]
    ) -> dict[str, Tensor] | None:
        masks = self._inputs_by_task(previous_mask)
        if all(mask is None for mask in masks.values()):
            return None
        for product in self._products():
            masks[product.task] = masks[product.of[0]]
        return {task: masks[task] for task in self._task_names}

    def compute_output_spec(
        self, inputs: Mapping[TaskName, Tensor], training: bool | None = None
    ) -> dict[str, Any]:
        features = self._inputs_by_task(inputs)
        specs = {task: self[task].compute_output_spec(features[task]) for task in self.task_names}
        for product in self._products():
            specs[product.task] = product.compute_output_spec([specs[task] for task in product.of])
        return {task: specs[task] for task in self._task_names}

    def compute_output_shape(self, input_shape: Mapping[TaskName, Shape]) -> dict[str, Shape]:
        tensors = {
            key: keras.KerasTensor(x) for key, x in self._inputs_by_task(input_shape).items()
        }
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
        key = self._loss_weights.key  # None without losses, so that equal layers have equal configs
        return {**config, "loss_key": key} if key else config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        key = config.get("loss_key")
        kwargs = {name: value for name, value in config.items() if name != "loss_key"}
        layer = super().from_config({**kwargs, "heads": deserialize_children(config["heads"])})
        if key:
            layer._loss_weights.set_key(key)
        return layer

"""The heads of all tasks as one layer."""

from collections import UserList
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from functools import reduce
from typing import Any

import keras
from keras import ops

from ple_keras._checks import (
    check_by_task,
    check_keys,
    check_known_keys,
    check_not_negative,
    short_repr,
)
from ple_keras._keras.base_layer import BaseLayer
from ple_keras._keras.registration import register
from ple_keras._keras.saving import (
    built_names,
    check_names,
    deserialize_children,
    save_names,
    serialize_children,
)
from ple_keras._keras.tensors import all_valid, is_constant_in_jax_trace
from ple_keras._typing import (
    ByName,
    DType,
    LearnedWeighting,
    MetricLike,
    Nested,
    Shape,
    Store,
    TaskName,
    Tensor,
)
from ple_keras.heads._compile_arguments import compile_arguments
from ple_keras.heads.head import Head, first_branch
from ple_keras.heads.product_head import ProductHead, sort_products
from ple_keras.labels.label_arrays import check_labels
from ple_keras.labels.label_statistics import read_labels
from ple_keras.labels.task_names import SHARED, task_names
from ple_keras.losses.joint_losses import LossWeights, TrainedLoss, mark_predictions


@register
class TaskHeads(BaseLayer):
    """The heads of all tasks: `{task: (..., H)} -> {task: (..., units)}`.

    A task's name consists of at most 128 ASCII letters, digits, "_" and "-", starts with a letter
    or digit, and is not "shared". Four keys of Keras's configs, such as "class_name", are refused
    too. The layer gives access to its heads by task: `heads["click"]`, `get`, `in`, `len`,
    iteration over the tasks, `keys`, `values` and `items`. It is no
    `collections.abc.Mapping`: Keras and TensorFlow would take the layer for a nested structure.

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
        ValueError: If `heads` is empty, a task is repeated, two heads have the same layer name,
            `loss_weighting` is unknown, a factor of a ProductHead is missing or has no probability,
            or ProductHeads form a cycle.

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
        loss_weighting: LearnedWeighting | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        heads = _check_heads(heads)
        if loss_weighting not in (None, "uncertainty"):
            raise ValueError(
                'loss_weighting must be None or "uncertainty". '
                f"Received: loss_weighting={loss_weighting!r}"
            )
        self.loss_weighting = loss_weighting
        self._loss_weights = LossWeights()
        self._multipliers_before_build: Mapping[str, float] = {}
        self._task_names = tuple(head.task for head in heads)
        self._product_names = tuple(head.task for head in sort_products(heads))
        self._came_built = built_names(heads)
        for head in heads:
            setattr(self, _head_attribute(head.task), head)
        self._make_read_only()

    def _heads(self) -> list[Head]:  # not a property: Keras's saving would read it
        return [self[task] for task in self._task_names]

    def __getitem__(self, task: TaskName) -> Head:
        """Return the head of a task.

        Raises:
            KeyError: If the task is unknown.
        """
        if task not in self:
            raise KeyError(f"task must be one of {list(self._task_names)}. Received: task={task!r}")
        head: Head = getattr(self, _head_attribute(task))
        return head

    def __contains__(self, task: object) -> bool:
        return task in self._task_names

    def __iter__(self) -> Iterator[TaskName]:
        return iter(self._task_names)

    def __reversed__(self) -> Iterator[TaskName]:
        return reversed(self._task_names)

    def __len__(self) -> int:
        return len(self._task_names)

    def __bool__(self) -> bool:
        return True  # as for every layer, also before it has heads

    # Methods and not properties, which Keras's saving would read.

    def get(self, task: TaskName, default: object = None) -> Any:
        """Return the head of a task.

        Args:
            task: The name of the task.
            default: The result for an unknown task.
        """
        return self._by_task().get(task, default)

    def keys(self) -> KeysView[TaskName]:
        """Return the tasks of all heads, in order, as a view."""
        return self._by_task().keys()

    def values(self) -> ValuesView[Head]:
        """Return all heads, in order, as a view."""
        return self._by_task().values()

    def items(self) -> ItemsView[TaskName, Head]:
        """Return all tasks and their heads, in order, as a view."""
        return self._by_task().items()

    def _by_task(self) -> dict[TaskName, Head]:
        return dict(zip(self._task_names, self._heads()))

    @property
    def layers(self) -> Sequence[keras.Layer]:
        """All heads, in order. `summary(expand_nested=True)` shows them.

        It is not a list, since files would then hold the heads by position, not by attribute.
        """
        return UserList(self._heads())

    @property
    def task_names(self) -> list[str]:
        """Names of the tasks that have features, in order: all except those of ProductHeads."""
        return [head.task for head in self._heads() if not isinstance(head, ProductHead)]

    @property
    def trained_tasks(self) -> list[str]:
        """The tasks that have a loss, in order."""
        return [head.task for head in self._heads() if head.has_loss]

    def _products(self) -> list[Any]:  # not a property: Keras's saving would read it
        return [self[task] for task in self._product_names]

    def build(self, input_shape: Mapping[TaskName, Shape]) -> None:
        shapes = self._inputs_by_task(input_shape)
        for task in self.task_names:
            if isinstance(shapes[task], Mapping) and not self[task].branch_names:
                self[task]._hedge(shapes[task])
            if not self[task].built:
                self[task].build(shapes[task])
        for product in self._products():
            shapes[product.task] = shapes[product.of[0]]
            if not product.built:
                product.build([(*first_branch(shapes[task])[:-1], 1) for task in product.of])
        self._find_hedged(shapes)
        weights = self._loss_weights
        options = {"shape": (len(self),), "dtype": "float32", "autocast": False}
        weights.multipliers = self.add_weight(
            **options,
            initializer=self._initial_multipliers,
            trainable=False,
            name="loss_multipliers",
        )
        if self.loss_weighting:
            weights.log_variances = self.add_weight(
                **options, initializer="zeros", name="log_variances"
            )
        self._restore_frozen()

    def _find_hedged(self, shapes: Mapping[TaskName, Any]) -> None:
        """Find the tasks that mix branches, which are trained by branch."""
        hedged = [task for task in self._task_names if isinstance(shapes[task], Mapping)]
        if hedged and self.loss_weighting:
            raise ValueError(
                "loss_weighting must be None for the branches of a HedgedBlock, whose gradients do "
                f"not depend on loss weights. Received: loss_weighting={self.loss_weighting!r}"
            )
        for product in self._products():
            of_factors = {task: _branches_of(shapes[task]) for task in product.of}
            if len(set(of_factors.values())) > 1:
                raise ValueError(
                    f"The factors of {product.task!r} must have the same branches. "
                    f"Received: inputs={of_factors}, with the branches of each"
                )
        self._loss_weights.hedged = {self._task_names.index(task): self[task] for task in hedged}

    def _initial_multipliers(self, shape: Shape, dtype: DType = None) -> Tensor:
        """Return the initial multipliers. A graph can't assign them after `build`."""
        values = [self._multipliers_before_build.get(task, 1.0) for task in self._task_names]
        return keras.ops.convert_to_tensor(values, dtype)

    def _serialized_layers(self) -> list[keras.Layer]:
        return self._heads()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        predictions = super().__call__(*args, **kwargs)
        # Here and not in `call`, which a subclass may override.
        mark_predictions(keras.tree.flatten(predictions), self._loss_weights)
        return predictions

    def call(self, inputs: ByName, training: bool | None = None) -> dict[str, Tensor]:
        """Return the predictions of all tasks."""
        features = self._inputs_by_task(inputs)
        factors = {task for product in self._products() for task in product.of}
        predictions, logs = {}, {}
        branch_logs: dict[TaskName, list[Tensor]] = {}  # of factors with branches
        for task in self.task_names:
            head = self[task]
            if task not in factors:
                predictions[task] = head(features[task], training=training)
            elif head.branch_names:
                by_branch = head._branch_logits(features[task])
                predictions[task] = head._mix(by_branch)
                logs[task] = ops.log_sigmoid(head._mixed(by_branch))
                branch_logs[task] = [ops.log_sigmoid(x) for x in by_branch]
            else:  # a product uses the logits too
                logits = head.logits(features[task])
                predictions[task] = head.activation(logits)
                logs[task] = ops.log_sigmoid(logits)
        for product in self._products():
            of = [logs[task] for task in product.of]
            predictions[product.task] = product(of)
            logs[product.task] = product.log_probability(of)
            if product.of[0] in branch_logs:
                by_branch = [*zip(*(branch_logs[task] for task in product.of))]
                branch_logs[product.task] = [*map(product.log_probability, by_branch)]
                branches = [*map(product.activation, branch_logs[product.task])]
                product._mark_branches(predictions[product.task], branches)
        return {task: predictions[task] for task in self._task_names}

    def _inputs_by_task(self, inputs: Mapping[str, object]) -> dict[str, Any]:
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
            **overrides: Further arguments of `Model.compile`. `loss`, `loss_weights`, `metrics` and
                `weighted_metrics` are dicts by task, or None. They replace those of the heads
                entirely, except that tasks omitted in `loss_weights`, or with None, keep the
                weights of their heads. A task may have a list of losses, and of as many weights.
                Losses and metrics exclude missing labels too: they are wrapped in a MaskedLoss or
                MaskedMetric, with the `missing_label` of the head, unless they are one. A metric
                object is wrapped itself, not copied.

        Returns:
            A dict with `loss`, `loss_weights` and `metrics`, each by task, and the overrides.

        Raises:
            TypeError: If one of these arguments is not a dict by task, or has a loss or metric of
                a wrong type.
            ValueError: If one of them has an unknown task, loss or metric. If `loss` or
                `loss_weights` is given and the weights are learned, or if `loss_weights` has a task
                without a loss, or a weight that is negative or not finite. If `extra_metrics` is
                given with `metrics`. If keys of Keras's logs would be ambiguous, since a task is
                named "val", or one "x" and another "val_x".

        Warns:
            UserWarning: If the metric "auc" of a binary task is Keras's in place of LogitAUC.

        Example:

        >>> heads = TaskHeads([BinaryHead("click")])
        >>> kwargs = heads.compile_kwargs(extra_metrics={"click": ["accuracy"]})
        >>> [metric.name for metric in kwargs["metrics"]["click"]]
        ['auc', 'binary_crossentropy', 'accuracy']
        """
        arguments = compile_arguments(
            self._heads(), self._loss_weights, self.loss_weighting, extra_metrics, overrides
        )
        for head in self._heads():
            head._make_read_only()
        return arguments

    def loss_weights(self) -> dict[str, float]:
        """Return the current weight of each task's loss; the layer must be built.

        The weight is `w_{k,0}`, the head's `loss_weight`, times the multiplier from a callback such
        as `LossWeightDecay`. If learned by uncertainty, it is also multiplied by `c exp(-s)`.

        Returns:
            A dict with a float for each task that has a loss.
        """
        self._check_built()
        return {
            head.task: head.loss_weight * self._loss_weights.current_factor(index, head.loss)
            for index, head in enumerate(self._heads())
            if head.has_loss
        }

    def _check_built(self) -> None:
        if not self.built:
            raise ValueError(f"{self.name!r} must be built. Received: built=False")

    def multiply_loss_weights(self, multipliers: Mapping[str, float]) -> None:
        """Multiply the fixed weight of each task's loss by a multiplier, from now on.

        Callbacks call this in `on_epoch_begin`. The multipliers are saved with the model.

        Args:
            multipliers: Finite numbers of at least 0, by task. An omitted task has the multiplier
                1.

        Raises:
            TypeError: If a multiplier is not a number.
            ValueError: If a multiplier is negative or not finite, or a task is unknown or has no
                loss.
        """
        check_known_keys(multipliers, self.trained_tasks, "multipliers")
        multipliers = {
            task: check_not_negative(multiplier, f"multipliers[{task!r}]")
            for task, multiplier in multipliers.items()
        }
        if self._loss_weights.multipliers is None:  # TensorFlow builds after `on_epoch_begin`
            self._multipliers_before_build = multipliers
            return
        values = [multipliers.get(task, 1.0) for task in self._task_names]
        self._loss_weights.multipliers.assign(values)

    def compute_loss(
        self, y: ByName, y_pred: ByName, sample_weight: ByName | None = None
    ) -> Tensor:
        """Return the training loss of all tasks, for a custom training loop.

        The loss is the sum of `w_k(t) L_k` over the tasks, with the current weights and the means
        over labelled examples. It is the loss that `fit` minimizes with `compile_kwargs()`, without
        regularization: add `sum(model.losses)`. The model need not be compiled.

        In a function that JAX transforms, such as by `jax.grad` or `jax.jit`, call it in a
        `keras.StatelessScope` with the values of the model's variables. Otherwise, variables are
        constants: a compiled step ignores later multipliers, and learned weights are refused.

        Args:
            y: `{task: labels}`, with each task that has a loss.
            y_pred: `{task: predictions}`, as returned by the layer. Other keys are ignored.
            sample_weight: `{task: weights of the examples}`. An omitted task has the weight 1.

        Returns:
            A scalar.

        Raises:
            TypeError: If an argument is not a dict by task, or labels are not numbers.
            ValueError: If the layer is not built, no task has a loss, a task is missing or unknown,
                a shape does not match, the predictions are of another TaskHeads, or learned weights
                are constants of a JAX trace.

        Example:

        >>> heads = TaskHeads([RegressionHead("a"), RegressionHead("b", loss_weight=0.5)])
        >>> predictions = heads({"a": np.zeros((2, 3)), "b": np.zeros((2, 3))})
        >>> y = {"a": [1.0, float("nan")], "b": [2.0, 2.0]}
        >>> float(heads.compute_loss(y, predictions))
        3.0
        """
        losses = self.compute_losses(y, y_pred, sample_weight)
        return reduce(ops.add, losses.values())

    def compute_losses(
        self, y: ByName, y_pred: ByName, sample_weight: ByName | None = None
    ) -> dict[str, Tensor]:
        """Return the training loss of each task, for a custom training loop.

        `compute_loss` returns their sum. A loop that differentiates them separately can combine the
        tasks' gradients itself, for example by gradient surgery.

        Args:
            y: As for `compute_loss`.
            y_pred: As for `compute_loss`.
            sample_weight: As for `compute_loss`.

        Returns:
            `{task: w_k(t) L_k}`, a scalar for each task that has a loss, in the order of
            `trained_tasks`. Learned weights add their term `a s` to the loss of their task. The
            scalars may have different dtypes.

        Raises:
            TypeError, ValueError: See `compute_loss`.

        Example:

        >>> heads = TaskHeads([RegressionHead("a"), RegressionHead("b", loss_weight=0.5)])
        >>> predictions = heads({"a": np.zeros((2, 3)), "b": np.zeros((2, 3))})
        >>> losses = heads.compute_losses({"a": [1.0, float("nan")], "b": [2.0, 2.0]}, predictions)
        >>> {task: float(loss) for task, loss in losses.items()}
        {'a': 1.0, 'b': 2.0}
        """
        self._check_built()
        sample_weight = {} if sample_weight is None else sample_weight
        self._check_loss_arguments({"y": y, "y_pred": y_pred, "sample_weight": sample_weight})
        weights = self._loss_weights
        if weights.are_learned and is_constant_in_jax_trace(weights.log_variances, y_pred.values()):
            raise ValueError(
                "Learned loss weights are constants of a JAX trace, so they would have no "
                "gradient. Compute losses in `with keras.StatelessScope(pairs):`, where `pairs` "
                "has each variable of the model and its value. "
                f"Received: y_pred={short_repr(dict(y_pred))}"
            )
        try:
            return {
                head.task: head.new_joint_losses(weights, index)[0](
                    y[head.task], y_pred[head.task], sample_weight.get(head.task)
                )
                for index, head in enumerate(self._heads())
                if head.has_loss
            }
        finally:
            weights.discard_losses()  # nothing is logged

    def _check_loss_arguments(self, arguments: Mapping[str, ByName]) -> None:
        trained = self.trained_tasks
        if not trained:
            raise ValueError(
                "compute_loss and compute_losses need a task with a loss. "
                f"Received: heads={[*self._task_names]}, all with loss=None"
            )
        for argument, value in arguments.items():
            check_by_task(value, trained, argument)
            missing = [task for task in trained if task not in value]
            if missing and argument != "sample_weight":
                raise ValueError(
                    f"{argument} must have the tasks {trained}; missing: {missing}. "
                    f"Received: {argument}={{{', '.join(map(repr, value))}}}"
                )
            if argument != "y_pred":  # a model may have other outputs
                check_known_keys(value, self._task_names, argument)

    def is_used_by(self, loss: object) -> bool:
        """Return whether a `loss` of `Model.compile` reads its weights from this layer.

        Args:
            loss: The argument of `compile`, such as `model.loss`.
        """
        return any(
            isinstance(part, TrainedLoss) and part.belongs_to(self._loss_weights)
            for part in keras.tree.flatten(loss)
        )

    def check_labels(self, y: Nested, steps: int | None = None) -> None:
        """Check the labels before `fit`, with clearer errors than those of Keras.

        Keras trains silently, or to NaN, on class indices that are out of range.

        Args:
            y: `{task: labels}`, as for `fit`, with labels for each head. Or batches of `(x, y)`: a
                `tf.data.Dataset`, a `keras.utils.PyDataset`, a torch DataLoader, Grain's datasets
                or another iterable, but no iterator or generator.
            steps: The number of batches to read; None for 100. Arrays are read whole.

        Raises:
            TypeError: If the labels are not in a dict, or not numbers.
            ValueError: If a task is missing or unknown, if labels have a wrong shape or values that
                their task or its loss does not allow, or if the tasks' numbers of rows differ. If
                `y` is an iterator or has no batch, or `steps` is given for arrays.

        Warns:
            UserWarning: If a task has no labels, or all of them are equal. If a squared or absolute
                error is the loss of labels with a standard deviation below 0.1 or above 10, and
                `standardize` of the head is False.

        Example:

        >>> heads = TaskHeads([BinaryHead("click"), MulticlassHead("kind", num_classes=3)])
        >>> heads.check_labels({"click": [0, 1], "kind": [0, -1]})
        Traceback (most recent call last):
        ...
        ValueError: y['kind'] must be class indices from 0 to 2 or missing; invalid: 1. \
        If -1 marks missing labels, create the head with missing_label=-1. \
        Received: y['kind']=[..., -1]
        """
        check_labels(y, self._by_task(), steps)

    def adapt(self, y: Nested, steps: int | None = None) -> None:
        """Read the labels of training once, before the first step.

        A `RegressionHead` with `standardize=True` takes the mean and the standard deviation of its
        labels, unless they were given or come from a file or a clone. Each head takes the share of
        rows with a label, its `label_share`, for reports. Missing labels are excluded. Files and
        clones of the model contain these numbers. `adapt` may follow `compile`. With several
        processes, each must read the same labels.

        Args:
            y: `{task: labels}`, as for `fit`, with labels for each head. Or batches of `(x, y)`, as
                for `check_labels`.
            steps: The number of batches to read; None for all. Arrays are read whole.

        Raises:
            TypeError: If the labels are not in a dict, or not numbers.
            ValueError: If a task is missing or unknown, labels have a wrong shape or are infinite,
                or `y` is an iterator or has no rows. If labels to be standardized do not vary, or
                the model has already computed a step with another mean or deviation.

        Example:

        >>> heads = TaskHeads([BinaryHead("click"), RegressionHead("seconds", standardize=True)])
        >>> heads.adapt({"click": [0, 1, 1, 0], "seconds": [20, 40, float("nan"), float("nan")]})
        >>> heads["seconds"].mean, heads["seconds"].deviation, heads["seconds"].label_share
        ([30.0], [10.0], 0.5)
        """
        statistics = read_labels(y, self._by_task(), steps)
        for task, head in self.items():
            head._adapt(statistics[task])

    def compute_mask(
        self, inputs: Mapping[TaskName, Tensor], previous_mask: Mapping[TaskName, Tensor]
    ) -> dict[str, Tensor] | None:
        masks = {
            task: all_valid(mask.values()) if isinstance(mask, Mapping) else mask
            for task, mask in self._inputs_by_task(previous_mask).items()
        }
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
            key: keras.KerasTensor(first_branch(x))
            for key, x in self._inputs_by_task(input_shape).items()
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
        return {**super().get_config(), "heads": heads, "loss_weighting": self.loss_weighting}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return super().from_config({**config, "heads": deserialize_children(config["heads"])})


def _branches_of(value: Any) -> tuple[str, ...]:
    return tuple(sorted(value)) if isinstance(value, Mapping) else ()


def _head_attribute(task: TaskName) -> str:
    """Return the attribute of a head, part of the file format, see `sublayer_name`."""
    return f"head-{task}"


def _check_heads(heads: Sequence[Head] | Mapping[TaskName, Head]) -> list[Head]:
    """Return the heads as a list; check that their tasks and layer names differ."""
    if isinstance(heads, TaskHeads):
        raise TypeError(
            "heads must not be a TaskHeads, which owns its heads: use it itself, or create new "
            f"heads. Received: heads={heads!r}"
        )
    if isinstance(heads, Mapping):
        task_names(heads, "heads")
        heads = list(heads.values())
    if not isinstance(heads, Sequence) or not all(isinstance(head, Head) for head in heads):
        raise TypeError(
            f"heads must be a sequence of heads or a dict by task. Received: heads={heads!r}"
        )
    if not heads:
        raise ValueError("heads must contain at least one head. Received: heads=[]")
    for kind, names in (
        ("tasks", [head.task for head in heads]),
        ("layer names", [head.name for head in heads]),
    ):
        if len(set(names)) < len(names):
            raise ValueError(
                f"heads must have unique {kind}, not {names}. Received: heads={heads!r}"
            )
    return list(heads)

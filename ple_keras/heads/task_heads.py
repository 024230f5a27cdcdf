"""The heads of all tasks as one layer."""

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from contextlib import suppress
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from ple_keras._checks import check_keys, check_known_value, check_number, short_repr
from ple_keras._keras.building import symbolic
from ple_keras._keras.internals import attached, set_attached
from ple_keras._keras.layers import BaseLayer, Untracked, find_layers
from ple_keras._keras.processes import replica_count
from ple_keras._keras.saving import check_names, register, save_names, serialize_layers
from ple_keras._keras.tensors import all_valid, to_numpy
from ple_keras._typing import ByName, LearnedWeighting, Nested, Shape, Store, TaskName, Tensor
from ple_keras.heads.binary_heads import ProductHead, sort_products
from ple_keras.heads.head import Head
from ple_keras.heads.hedged_head import HedgedHead
from ple_keras.heads.regression_heads import check_adapted
from ple_keras.heads.task_losses import batch_loss, total_loss
from ple_keras.labels.label_arrays import check_task_labels, read_labels
from ple_keras.labels.task_names import SHARED, task_names
from ple_keras.layers.observer import active_observer
from ple_keras.losses.example_losses import BatchLoss, uncertainty_form

# The name of what a prediction carries: its task, the mixture, and the value of each branch.
VALUES = "_branch_values"


@register
class TaskHeads(BaseLayer):
    """The heads of all tasks: `{task: (..., H)} -> {task: (..., units)}`.

    A task's name consists of at most 128 ASCII letters, digits, "_" and "-", starts with a letter
    or digit, and is not "shared". The layer works like a dict of its heads: `heads["click"]`, `in`,
    `len`, iteration over the tasks, `keys`, `values` and `items`. It is not a
    `collections.abc.Mapping`, which Keras and TensorFlow would treat as a nested structure.

    Args:
        heads: A sequence of heads, one for each task, or a dict of heads keyed by task.
        loss_weighting: None, or "uncertainty" to learn the weights of the tasks' losses. A task's
            loss is then `c exp(-s) L + a s`. The log-variance s is a trainable weight that starts
            at 0. `c = a = 1/2` for squared errors, `c = a = 1` for absolute errors, and
            `c = 1, a = 1/2` for all other losses. An example without a label adds nothing. The
            head's `loss_weight` multiplies both terms.
        **kwargs: Keras's layer arguments.

    Call arguments:
        inputs: The features of each task, `{task: (..., H)}`. A key "shared" is ignored.
        training: Passed to the heads.

    Returns:
        The predictions of all heads, `{task: (..., units)}`, at least float32. The prediction of a
        task with branches of a HedgedBlock carries the values of the branches, for `compute_loss`.

    Raises:
        TypeError: If `heads` is an empty list, or contains anything other than heads.
        ValueError: If a dict is empty, a task is repeated, named "val", or named like another task
            after "val_", two heads have the same layer name, `loss_weighting` is unknown, a factor
            of a ProductHead is missing or not a probability, or ProductHeads form a cycle.

    Reference:

    - Learned weights: Kendall, Gal, Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses
      for Scene Geometry and Semantics", CVPR 2018.
      [arXiv:1705.07115](https://arxiv.org/abs/1705.07115)

    Example:

    >>> heads = TaskHeads([BinaryHead("click"), RegressionHead("watch_time", loss_weight=0.1)])
    >>> inputs = keras.Input((16,))
    >>> features = {"click": inputs, "watch_time": inputs}
    >>> model = MultiTaskModel(inputs, heads(features))
    >>> model.compile("adam")
    >>> list(heads), heads["watch_time"].loss_weight
    (['click', 'watch_time'], 0.1)
    """

    _fixed = ("loss_weighting",)

    def __init__(
        self,
        heads: Sequence[Head] | Mapping[str, Head],
        loss_weighting: LearnedWeighting | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        heads = _check_heads(heads)
        check_known_value(loss_weighting, (None, "uncertainty"), "loss_weighting")
        self.loss_weighting = loss_weighting
        self._multipliers_before_build: Mapping[str, float] = {}
        self._product_names = tuple(sort_products(heads))
        self._by_task = Untracked({head.task: head for head in heads})
        self._hedged: Untracked[dict[TaskName, HedgedHead]] = Untracked({})
        self._multipliers: keras.Variable = None
        self._log_variances: keras.Variable | None = None

    def __getitem__(self, task: TaskName) -> Head:
        """Return the head of a task.

        Raises:
            KeyError: If the task is unknown.
        """
        if task not in self:
            raise KeyError(f"task must be one of {list(self)}. Received: task={task!r}")
        return self._by_task.value[task]

    def __iter__(self) -> Iterator[TaskName]:
        return iter(self._by_task.value)

    def __len__(self) -> int:
        return len(self._by_task.value)

    # Keras's saving would read properties, so these are methods.

    def keys(self) -> KeysView[TaskName]:
        """Return the tasks of all heads, in order, as a view."""
        return self._by_task.value.keys()

    def values(self) -> ValuesView[Head]:
        """Return all heads, in order, as a view."""
        return self._by_task.value.values()

    def items(self) -> ItemsView[TaskName, Head]:
        """Return all tasks and their heads, in order, as a view."""
        return self._by_task.value.items()

    @property
    def task_names(self) -> list[str]:
        """The tasks that have features, in order: all except the tasks of ProductHeads."""
        return [task for task in self if task not in self._product_names]

    @property
    def trained_tasks(self) -> list[str]:
        """The tasks that have a loss, in order."""
        return [*self._trained_heads()]

    def _products(self) -> list[ProductHead]:
        return [self[task] for task in self._product_names]

    def build(self, input_shape: Mapping[TaskName, Shape]) -> None:
        shapes = self._inputs_by_task(input_shape)
        for task, head in self.items():
            layer: Head | HedgedHead = head
            if task not in self._product_names and isinstance(shapes[task], Mapping):
                layer = self._hedged.value[task] = HedgedHead(head, shapes[task])
            setattr(self, f"head-{task}", layer)  # a name in the file format
            if task in self.task_names and not layer.built:
                layer.build(shapes[task])
        for product in self._products():
            self._build_product(product)
        unusable = self.loss_weighting or self.activity_regularizer
        if unusable and self._hedged.value:
            raise ValueError(
                "loss_weighting and activity_regularizer must be None with a HedgedBlock. "
                f"Received: loss_weighting={self.loss_weighting!r}, {self.activity_regularizer!r}"
            )
        self._add_loss_weights()
        self._restore_frozen()

    def _build_product(self, product: ProductHead) -> None:
        """Build a product, and check that its factors have the same branches."""
        first = product.of[0]
        product.build((*self[first]._leading_axes, 1))
        names = {factor: [*self._branch_names(factor)] for factor in product.of}
        if any(branches != names[first] for branches in names.values()):
            raise ValueError(
                f"Factors of {product.task!r} must have the same branches. Received: {names=}"
            )

    def _add_loss_weights(self) -> None:
        """Add the variables of the loss.

        Multipliers from before `build` are initial values, since a graph can't assign them.
        """
        tasks = self.trained_tasks
        options = {"shape": (len(tasks),), "dtype": "float32", "autocast": False}
        values = [self._multipliers_before_build.get(task, 1.0) for task in tasks]
        initial = keras.initializers.Constant(np.array(values))
        self._multipliers = self.add_weight(
            initializer=initial, trainable=False, name="loss_multipliers", **options
        )
        if self.loss_weighting:
            self._log_variances = self.add_weight(
                **options, initializer="zeros", name="log_variances"
            )

    def call(self, inputs: ByName, training: bool | None = None) -> dict[str, Tensor]:
        """Return the predictions of all tasks."""
        features = self._inputs_by_task(inputs)
        values: dict[TaskName, Tensor] = {}  # logits, or predictions if a head mixes them
        branches: dict[TaskName, dict[str, Tensor]] = {}
        outputs: dict[TaskName, Tensor] = {}
        for task in self.task_names:
            head, hedged = self[task], self._hedged.value.get(task)
            if hedged is not None:
                branches[task] = hedged.branch_values(features[task], training)
                values[task] = hedged.mix(branches[task])
            elif type(head).call is Head.call and head.activity_regularizer is None:
                # `__call__` of a layer takes longer than a small head.
                values[task] = head._logits_or_prediction(features[task])
            else:
                outputs[task] = head(features[task], training=training)
        for product in self._products():
            values[product.task] = self._log_probability(product, values)
            for branch in self._branch_names(product.task):
                factors = {factor: branches[factor][branch] for factor in product.of}
                of_product = branches.setdefault(product.task, {})
                of_product[branch] = self._log_probability(product, factors)
        for task, value in values.items():
            outputs[task] = self[task]._predict(value)
        # A loss has nothing but the predictions. Reports and FitHedge have an observer: a model
        # can process its predictions after the heads, which removes what is attached.
        for task, by_branch in branches.items():
            set_attached(outputs[task], VALUES, (task, [values[task], *by_branch.values()]))
        observer = active_observer()
        if observer is not None:
            observer.branches |= branches
        return {task: outputs[task] for task in self}

    def _log_probability(self, product: ProductHead, values: Mapping[TaskName, Tensor]) -> Tensor:
        """Return the logarithm of a product, from logits, and the logarithms of inner products."""
        logs = []
        for factor in product.of:
            is_log = factor in self._product_names
            logs.append(values[factor] if is_log else ops.log_sigmoid(values[factor]))
        return product.log_probability(logs)

    def branch_weights(self) -> dict[str, dict[str, float]]:
        """Return the weights of the mixtures, `{task: {branch: weight}}`, of hedged tasks."""
        return {task: hedged.branch_weights() for task, hedged in self._hedged.value.items()}

    def _branch_names(self, task: TaskName) -> tuple[str, ...]:
        """Return the branches of a task, sorted; a product has those of its factors."""
        if task in self._product_names:
            return self._branch_names(self[task].of[0])
        return self._hedged.value[task].branch_names if task in self._hedged.value else ()

    def _inputs_by_task(self, inputs: ByName) -> dict[str, Tensor]:
        """Return inputs keyed by task, where a product has the inputs of its first factor."""
        check_keys(inputs, self.task_names, "inputs", has_only=False)
        features = {key: value for key, value in inputs.items() if key != SHARED}
        check_keys(features, self.task_names, "inputs")
        for product in self._products():
            features[product.task] = features[product.of[0]]
        return features

    def loss_weights(self) -> dict[str, float]:
        """Return the current weight of each task's loss; the layer must be built.

        The weight is the head's `loss_weight` times the multiplier from a callback such as
        `LossWeightSchedule`. Weights learned by uncertainty are also multiplied by `c exp(-s)`.

        Returns:
            A dict with a float for each task that has a loss.
        """
        if not self.built:
            raise ValueError(f"{self.name!r} must be built. Received: built=False")
        heads = self._trained_heads()
        weights = to_numpy(self._multipliers) * [head.loss_weight for head in heads.values()]
        if self._log_variances is not None:
            scales = [uncertainty_form(head.loss)[0] for head in heads.values()]
            weights = weights * scales * np.exp(-to_numpy(self._log_variances))
        return dict(zip(heads, weights.tolist()))

    def _trained_heads(self) -> dict[TaskName, Head]:
        return {task: head for task, head in self.items() if head.has_loss}

    def multiply_loss_weights(self, multipliers: Mapping[str, float]) -> None:
        """Multiply the fixed weight of each task's loss by a multiplier, from now on.

        Callbacks call this in `on_epoch_begin`. The multipliers are saved with the model.

        Args:
            multipliers: Finite numbers of at least 0, keyed by task. An omitted task has the
                multiplier 1.

        Raises:
            TypeError: If a multiplier is not a number.
            ValueError: If a multiplier is negative or not finite, or a task is unknown or has no
                loss. On JAX, between the steps of an epoch, unless a callback has read `self.model`
                since the last step.
        """
        check_keys(multipliers, self.trained_tasks, "multipliers", has_all=False)
        multipliers = {t: check_number(x, f"multipliers[{t!r}]", 0) for t, x in multipliers.items()}
        if not self.built:  # TensorFlow builds after `on_epoch_begin`
            self._multipliers_before_build = multipliers
            return
        if getattr(self._multipliers.value, "is_deleted", bool)():  # compiled steps delete it
            raise ValueError(
                "multipliers would be lost. On JAX, read `self.model` in the callback first. "
                f"Received: multipliers={multipliers!r}"
            )
        self._multipliers.assign([multipliers.get(task, 1.0) for task in self.trained_tasks])

    def compute_loss(
        self, y: ByName, y_pred: ByName, sample_weight: ByName | None = None
    ) -> Tensor:
        """Return the loss of all tasks, for a custom training loop.

            L = sum_k w_k(t) L_k

        This is the loss that `fit` of a MultiTaskModel minimizes, with the current weights, except
        for regularization, `sum(model.losses)`. With learned weights, the terms of the sum are
        `w_k(t) (c exp(-s_k) L_k + a s_k)`, where `a s_k` is multiplied by the share of the rows
        that the reduction counts. Loss weights do not scale the gradients of the branches of a
        HedgedBlock.

        In a function that JAX transforms, for example with `jax.grad` or `jax.jit`, call it in a
        `keras.StatelessScope` with the values of the model's variables. Otherwise, variables are
        constants: a compiled step ignores later multipliers, and learned weights are refused.

        Args:
            y: `{task: labels}`, with exactly the tasks that have a loss.
            y_pred: `{task: predictions}`, the tensors that the layer returned, or arrays. Other
                keys are ignored.
            sample_weight: `{task: weights of the examples}`. An omitted task has the weight 1.

        Returns:
            A scalar.

        Raises:
            TypeError: If an argument is not a dict keyed by task, or labels are not numbers.
            ValueError: If the layer is not built, no task has a loss, a task is missing or unknown,
                a shape does not match, `y_pred` of a task with branches is not the tensor that the
                layer returned for it, a standardized head has no mean, or learned weights are
                constants of a JAX trace.

        Example:

        >>> heads = TaskHeads([RegressionHead("a"), RegressionHead("b", loss_weight=0.5)])
        >>> predictions = heads({"a": np.zeros((2, 3)), "b": np.zeros((2, 3))})
        >>> y = {"a": [1.0, float("nan")], "b": [2.0, 2.0]}
        >>> float(heads.compute_loss(y, predictions))
        3.0
        """
        self._check_means()
        return self._total_loss(self._batch_losses(y, y_pred, sample_weight).values())

    def compute_losses(
        self, y: ByName, y_pred: ByName, sample_weight: ByName | None = None
    ) -> dict[str, Tensor]:
        """Return the loss of each task, without its weight, for a custom training loop.

        A loop that differentiates the losses separately can combine the tasks' gradients itself,
        for example by gradient surgery.

        Args:
            y: As for `compute_loss`.
            y_pred: As for `compute_loss`.
            sample_weight: As for `compute_loss`.

        Returns:
            `{task: L_k}`, a scalar for each task that has a loss, in the order of `trained_tasks`.

        Raises:
            TypeError, ValueError: As for `compute_loss`.

        Example:

        >>> heads = TaskHeads([RegressionHead("a"), RegressionHead("b", loss_weight=0.5)])
        >>> predictions = heads({"a": np.zeros((2, 3)), "b": np.zeros((2, 3))})
        >>> losses = heads.compute_losses({"a": [1.0, float("nan")], "b": [2.0, 2.0]}, predictions)
        >>> {task: float(loss) for task, loss in losses.items()}
        {'a': 1.0, 'b': 4.0}
        """
        self._check_means()
        losses = self._batch_losses(y, y_pred, sample_weight)
        return {task: batch.with_gradient() / replica_count() for task, batch in losses.items()}

    def _check_means(self) -> None:
        """Check that standardized heads have a mean, except in traces, which have no values."""
        with suppress(TypeError, NotImplementedError):
            check_adapted(self._trained_heads())

    def _batch_losses(
        self, y: ByName, y_pred: ByName, sample_weight: ByName | None, with_branches: bool = True
    ) -> dict[TaskName, BatchLoss]:
        """Return the loss of each task in a batch, with the labeled examples.

        Args:
            y: As for `compute_loss`.
            y_pred: As for `compute_loss`.
            sample_weight: As for `compute_loss`.
            with_branches: Whether the loss trains branches.
        """
        trained, weights = self.trained_tasks, {} if sample_weight is None else sample_weight
        if not self.built or not trained:
            raise ValueError(
                f"{self.name!r} must be built with a loss. Received: built={self.built}, {trained=}"
            )
        check_keys(y, trained, "y")
        check_keys(weights, trained, "sample_weight", has_all=False)
        check_keys(y_pred, trained, "y_pred", has_only=False)
        losses = {}
        for task in trained:
            predicted = y_pred[task]
            source, values = attached(predicted, VALUES) or (None, None)
            needs_values = with_branches and self._branch_names(task) and ops.is_tensor(predicted)
            if source not in (task, None) or (needs_values and source is None):
                received = f"the prediction of {source!r}" if source else short_repr(predicted)
                raise ValueError(
                    f"y_pred[{task!r}] must be the tensor that {self.name!r} returned for "
                    f"{task!r}. A copy or a cast of it lacks the values of the branches. "
                    f"Received: y_pred[{task!r}]={received}"
                )
            values = values if with_branches else None
            losses[task] = batch_loss(self[task], y[task], predicted, weights.get(task), values)
        return losses

    def _total_loss(self, losses: Iterable[BatchLoss]) -> Tensor:
        heads = self._trained_heads().values()
        return total_loss([*losses], heads, self._multipliers, self._log_variances)

    def check_labels(self, y: Nested, steps: int | None = None) -> None:
        """Check the labels before `fit`, with clearer errors than Keras's.

        Keras trains silently, or to NaN, on class indices that are out of range.

        Args:
            y: `{task: labels}`, with exactly the tasks that have a loss. Or batches of `(x, y)`: a
                `tf.data.Dataset`, a `keras.utils.PyDataset`, a torch DataLoader, a Grain dataset or
                another iterable, but not an iterator or a generator.
            steps: The number of batches to read; None for 100. Arrays are read in full.

        Raises:
            TypeError: If the labels are not in a dict, or not numbers.
            ValueError: If a task is missing or unknown, labels have a wrong shape or values that
                their task or its loss does not allow, `y` is an iterator or has no batch.

        Warns:
            UserWarning: If a task has no labels, or all of them are equal. If a squared or absolute
                error is the loss of labels that are only 0 and 1, or whose standard deviation is
                below 0.1 or above 10, and `standardize` of the head is False.

        Example:

        >>> heads = TaskHeads([BinaryHead("click"), MulticlassHead("kind", num_classes=3)])
        >>> heads.check_labels({"click": [0, 1], "kind": [0, -1]})
        Traceback (most recent call last):
        ...
        ValueError: y['kind'] must be class indices from 0 to 2 or be missing; invalid: 1. \
        If -1 marks missing labels, create the head with missing_label=-1. \
        Received: y['kind']=[..., -1]
        """
        check_task_labels(y, self._trained_heads(), steps)

    def adapt(self, y: Nested, steps: int | None = None, *, sample_weight: Nested = None) -> None:
        """Compute statistics of the training labels.

        With `standardize=True`, a `RegressionHead` stores the mean and the standard deviation of
        its labels, unless they are its arguments, and a `CountHead` or `TweedieHead` the mean. The
        latter two set their bias to the logarithm of the mean, if it is not trained yet. Each head
        stores the share of rows with a label as `label_share`, for reports. `adapt` can be called
        again at any time. With several processes, each must read the same labels. Labels at
        positions that a mask excludes must be NaN, since `adapt` does not know the mask.

        Args:
            y: `{task: labels}`, with exactly the tasks that have a loss. Or batches of `(x, y)` or
                `(x, y, sample_weight)`, as for `check_labels`.
            steps: The number of batches to read; None for all. Arrays are read in full.
            sample_weight: Weights of the examples of arrays: `{task: weights}`, or weights for all
                tasks. The mean and the deviation are weighted, `label_share` is not.

        Raises:
            TypeError: If the labels are not in a dict, or labels or weights are not numbers.
            ValueError: If a task is missing or unknown, labels have a wrong shape or are infinite,
                counts or amounts are negative, labels of a standardized head do not vary or have no
                number above 0, or `y` is an iterator or has no batch. If weights of labeled
                examples are negative or not finite, or are given next to batches.

        Example:

        >>> heads = TaskHeads([BinaryHead("click"), RegressionHead("seconds", standardize=True)])
        >>> heads.adapt({"click": [0, 1, 1, 0], "seconds": [20, 40, float("nan"), float("nan")]})
        >>> heads["seconds"].mean, heads["seconds"].deviation, heads["seconds"].label_share
        ([30.0], [10.0], 0.5)
        """
        found = read_labels(y, self._trained_heads(), steps, sample_weight)
        for task, statistics in found.items():
            self[task]._adapt(statistics)

    def compute_mask(self, inputs: ByName, previous_mask: ByName) -> dict[str, Tensor | None]:
        masks = self._inputs_by_task(previous_mask)
        by_branch = {t: m.values() if isinstance(m, Mapping) else [m] for t, m in masks.items()}
        return {task: all_valid(by_branch[task]) for task in self}

    def compute_output_spec(self, inputs: ByName, training: bool | None = None) -> ByName:
        features = self._inputs_by_task(inputs)
        specs = {}
        for task, head in self.items():
            x = features[task]
            layer = self._hedged.value.get(task, head)
            if isinstance(x, Mapping) and layer is head:  # a product, or a head before `build`
                x = next(iter(x.values()))
            specs[task] = layer.compute_output_spec(x)
        return specs

    def compute_output_shape(self, input_shape: Mapping[TaskName, Shape]) -> dict[str, Shape]:
        specs = self.compute_output_spec(symbolic(input_shape, "float32"))
        return {task: spec.shape for task, spec in specs.items()}

    def _own_variables(self) -> dict[str, keras.Variable]:
        own = {"loss_multipliers": self._multipliers, "log_variances": self._log_variances}
        return {name: variable for name, variable in own.items() if variable is not None}

    def save_own_variables(self, store: Store) -> None:
        save_names(store, [*self])
        for name, variable in self._own_variables().items():
            store[name] = to_numpy(variable)

    def load_own_variables(self, store: Store) -> None:
        check_names(store, [*self], self)
        for name, variable in self._own_variables().items():
            variable.assign(store[name])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "heads": serialize_layers(self.values())}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        heads = keras.saving.deserialize_keras_object(config["heads"])
        return super().from_config({**config, "heads": heads})


def find_heads(model: keras.Layer) -> dict[TaskName, Head]:
    """Return a dict of the heads in a model or layer, without the copies for branches."""
    found = {task: head for x in find_layers(model, TaskHeads) for task, head in x.items()}
    for head in find_layers(model, Head):  # some are outside of TaskHeads
        found.setdefault(head.task, head)
    return found


def branch_names(model: keras.Layer) -> dict[TaskName, tuple[str, ...]]:
    """Return the branches of each task of the TaskHeads in a model or layer."""
    return {task: x._branch_names(task) for x in find_layers(model, TaskHeads) for task in x}


def hedged_heads(model: keras.Layer) -> dict[TaskName, HedgedHead]:
    """Return a dict of the heads in a model or layer that mix branches."""
    return {t: h for x in find_layers(model, TaskHeads) for t, h in x._hedged.value.items()}


def trained_heads(model: keras.Layer) -> dict[TaskName, Head]:
    """Return the heads that have a loss, in task order.

    Raises:
        ValueError: If there is none.
    """
    heads = {t: h for x in find_layers(model, TaskHeads) for t, h in x._trained_heads().items()}
    if not heads:
        raise ValueError(f"model must have TaskHeads with losses. Received: model={model!r}")
    return heads


def _check_heads(heads: Sequence[Head] | Mapping[TaskName, Head]) -> list[Head]:
    """Return the heads as a list; check that their tasks, names and keys of logs differ."""
    if isinstance(heads, Mapping):
        task_names(heads, "heads")  # checks that each key is the head's task
        heads = list(heads.values())
    if not isinstance(heads, Sequence) or not heads or not all(isinstance(x, Head) for x in heads):
        raise TypeError(
            f"heads must be a sequence or dict of at least one head. Received: {heads=}"
        )
    for kind in ("task", "name"):
        names = [getattr(head, kind) for head in heads]
        if len(set(names)) < len(names):
            raise ValueError(f"heads must have unique {kind}s. Received: {kind}s={names}")
    tasks = {head.task for head in heads}
    if tasks & {"val", *(f"val_{task}" for task in tasks)}:
        raise ValueError(
            "task names must not be 'val' or 'val_{task}', since their logs would be ambiguous. "
            f"Received: {tasks=}"
        )
    return list(heads)

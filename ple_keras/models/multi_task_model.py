"""Models that are trained with the losses and metrics of their heads."""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from ple_keras._checks import check_bool, check_keys, short_repr, warn_user
from ple_keras._keras.internals import set_compiled_metrics
from ple_keras._keras.layers import Untracked, find_layers
from ple_keras._keras.saving import register
from ple_keras._typing import Config, Nested, TaskName, Tensor
from ple_keras.heads.regression_heads import check_adapted
from ple_keras.heads.task_heads import TaskHeads, find_heads, hedged_heads
from ple_keras.hedging.fit_hedge import FitHedge
from ple_keras.labels.label_arrays import read_targets
from ple_keras.layers.hedged_block import HedgedBlock
from ple_keras.losses.example_losses import BatchLoss
from ple_keras.models.fit_call import FitCall, adapt_heads, check_columns, first_labels
from ple_keras.models.graph_checks import check_graph, only_task_heads, outputs_error
from ple_keras.models.task_metrics import TaskMetrics
from ple_keras.steps.trace_function import TracedModel, trace_function

# Arguments of `Model.compile` that belong to the heads.
HEAD_ARGUMENTS = ("loss", "loss_weights", "metrics", "weighted_metrics")
FIRST_ROWS = 10_000  # rows whose labels `fit` and `evaluate` check
MANY_TASKS = 50  # tasks above which `fit` suggests heads with several units


class MultiTaskTraining(TracedModel):
    """A mixin for models that are trained with the losses and metrics of their TaskHeads.

    `class Mine(MultiTaskTraining, keras.Model)` is a subclassed model: its `__init__` creates one
    TaskHeads, at any depth, and its `call` returns the predictions of this layer. For a functional
    model, use MultiTaskModel, whose docstring explains the training.

    `call` must take and pass on the argument `training` if the heads read the branches of a
    HedgedBlock.

    Example:

    >>> @keras.saving.register_keras_serializable()
    ... class Mine(MultiTaskTraining, keras.Model):
    ...     def __init__(self, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.heads = TaskHeads([BinaryHead("click"), BinaryHead("buy")])
    ...         self.block = PLEBlock(1, self.heads, [8])
    ...
    ...     def call(self, inputs, training=None):
    ...         return self.heads(self.block(inputs, training=training), training=training)
    >>> model = Mine()
    >>> model.compile("adam")
    >>> y = {"click": np.array([0, 1]), "buy": np.array([0, float("nan")])}
    >>> sorted(model.fit(np.ones((2, 3)), y, verbose=0).history)[:3]
    ['buy_auc', 'buy_binary_crossentropy', 'buy_loss']
    """

    _task_metrics: Any = None  # TaskMetrics after `compile`
    _hedges = True  # see `compile`
    _fit_hedge: FitHedge | None = None  # kept for the next `fit`, since it compiles the model

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if cls.compile is keras.Model.compile:
            raise TypeError(
                "MultiTaskTraining must come before keras.Model in the bases of a class, or its "
                f"heads would not train. Received: {cls.__name__} with bases={cls.__bases__}"
            )

    def compile(
        self,
        optimizer: str | keras.Optimizer = "rmsprop",
        *,  # the second argument of Keras's compile is a loss
        trace: bool | Literal["auto"] = "auto",
        hedge: bool = True,
        **kwargs: object,
    ) -> None:
        """Configure the model for training.

        Args:
            optimizer: As for `keras.Model.compile`.
            trace: Which steps PyTorch traces (other backends ignore it): with "auto", steps in
                which only code of Keras, PyTorch and this package runs; with False, none. With
                True, also steps with your own code, which then runs once for each shape of a batch,
                as on TensorFlow and JAX: attributes are constants until the next `compile`.
            hedge: Whether `fit` fits the mixtures of a HedgedBlock and keeps best epochs.
            **kwargs: `jit_compile`, `run_eagerly`, `steps_per_execution` and `auto_scale_loss`, as
                for `keras.Model.compile`.

        Raises:
            TypeError: If an argument is given that belongs to the heads: `loss`, `loss_weights`,
                `metrics` or `weighted_metrics`. If `hedge` is not a bool.
            ValueError: If `trace` has another value, the model does not have exactly one TaskHeads,
                or a metric can't be copied.
        """
        for argument in HEAD_ARGUMENTS:
            if kwargs.get(argument) is not None:
                raise TypeError(
                    f"{argument} must be passed to heads, not to compile, as loss, loss_weight, "
                    f"metrics or extra_metrics. Received: {argument}={short_repr(kwargs[argument])}"
                )
        if not isinstance(trace, bool) and trace != "auto":
            raise ValueError(f"trace must be 'auto', True or False. Received: {trace=}")
        heads = only_task_heads(self)
        self._trace, self._warns_of_eager_steps = trace, True
        self._hedges, self._fit_hedge = check_bool(hedge, "hedge"), None
        super().compile(optimizer, **kwargs)
        # Keras would find metrics in attributes of layers once per enclosing layer.
        self._task_metrics = TaskMetrics(heads)
        self._shown_warnings: Untracked[set[str]] = Untracked(set())
        set_compiled_metrics(self, self._task_metrics)

    def get_compile_config(self) -> Config | None:
        """Return the arguments of `compile`, ready for JSON."""
        config: Config | None = super().get_compile_config()
        return config and {**config, "trace": self._trace, "hedge": self._hedges}

    def compile_from_config(self, config: Config) -> None:
        """Compile the model as before it was saved or cloned.

        Args:
            config: As returned by `get_compile_config`.
        """
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def fit(self, x: Nested = None, y: Nested = None, *args: Any, **kwargs: Any) -> Any:
        """Train the model, like `keras.Model.fit`.

        Standardized heads without a mean are adapted to the labels, as by `TaskHeads.adapt`. This
        reads a dataset for one epoch. A generator can't be read twice. To check its labels, the
        first batch of a dataset is read once more than by Keras.

        With validation data, `fit` of a model with a HedgedBlock adds `FitHedge()` as the last
        callback, unless there is one. It fits the mixtures on these rows in every epoch, even if
        `validation_freq` is above 1, and restores the best epoch of each branch at the end. With
        `validation_steps`, the rows are the first batches. With `epochs=0`, `fit` only fits the
        mixtures. Each call begins with the weights that the previous call kept, and can keep them
        again.

        Args:
            x: The features, or batches.
            y: `{task: labels}`, with exactly the tasks that have a loss; or the labels of the only
                task; None with batches. A data frame must have the columns of the head's `targets`.
            *args: As for `keras.Model.fit`.
            **kwargs: As for `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            TypeError, ValueError: As for `TaskHeads.check_labels`, for the first 10,000 rows of
                NumPy arrays, or the first batch of a dataset or a generator, if the model is built.
                If a standardized head has no mean and `x` is a generator. If an EarlyStopping that
                restores weights comes after a FitHedge.

        Warns:
            UserWarning: Before the first step, once after `compile`, if the model has a
                HedgedBlock, but its mixtures can't be fitted, or has more than 50 tasks.
        """
        y, data = self._read_targets(y), kwargs.get("validation_data")
        if isinstance(data, tuple) and len(data) > 1:
            kwargs["validation_data"] = (data[0], self._read_targets(data[1]), *data[2:])
        check_columns(x, y)
        if self.compiled and len(self._task_heads()) > MANY_TASKS:
            self._warn_once(
                f"Models of more than {MANY_TASKS} tasks start slowly and have long logs. Tasks of "
                "one kind can be one head, whose labels are a matrix: BinaryHead('name', units=n)"
            )
        x, labels = first_labels(x, y)
        self._check_labels(labels)
        call = FitCall(x, y, *args, **kwargs)
        adapt_heads(self._task_heads(), call)
        for hedge in call.hedges:
            hedge.read_from_fit(call.validation, call.arguments)
        call.check_callbacks()
        added = None if call.hedges else self._prepared_hedge(call)
        if added is not None:
            call.arguments["callbacks"] = [*call.callbacks, added]
        self._reads_logs = call.reads_logs() or self._changes_logs()
        try:
            return super().fit(**call.arguments)
        finally:
            self._reads_logs = True
            if added is not None:
                added.release()
                self._fit_hedge = added

    def _changes_logs(self) -> bool:
        """Return whether a subclass has its own logs."""
        names = ("compute_metrics", "get_metrics_result")
        return any(getattr(type(self), x) is not getattr(MultiTaskTraining, x) for x in names)

    def _prepared_hedge(self, call: FitCall) -> FitHedge | None:
        """Return a FitHedge for `fit` without one; None if there is nothing to fit, or it can't."""
        heads, tasks = self._task_heads(), [*hedged_heads(self)]
        if not self.built:
            tasks = heads.task_names if find_layers(self, HedgedBlock) else []
        has_loss = any(heads[task].has_loss for task in tasks)
        if not (self._hedges and self.compiled and has_loss):
            return None
        # A callback can call `fit`, which then has another one.
        hedge, self._fit_hedge = self._fit_hedge or FitHedge(), None
        try:
            hedge.prepare(self, call.validation, call.arguments)
        except (TypeError, ValueError) as error:
            self._warn_once(
                "fit does not fit the mixtures of the HedgedBlock, and keeps the last epoch, not "
                f"the best: {error} Pass validation_data, or call fit_hedge on held-out rows after "
                "fit. compile(hedge=False) turns this warning off."
            )
            return None
        return hedge

    def _warn_once(self, message: str) -> None:
        cause, *_ = message.partition("Received:")  # objects have other addresses in a later call
        if cause not in self._shown_warnings.value:
            self._shown_warnings.value.add(cause)
            warn_user(message)

    def evaluate(self, x: Nested = None, y: Nested = None, *args: Any, **kwargs: Any) -> Any:
        """Return the loss and the metrics, like `keras.Model.evaluate`.

        Args:
            x: As for `fit`.
            y: As for `fit`.
            *args: As for `keras.Model.evaluate`.
            **kwargs: As for `keras.Model.evaluate`.

        Returns:
            A list, or a dict with `return_dict=True`.

        Raises:
            TypeError, ValueError: As for `fit`, for arrays. If a standardized head has no mean.
        """
        y = self._read_targets(y)
        self._check_labels(y)
        return super().evaluate(x, y, *args, **kwargs)

    def _read_targets(self, y: Nested) -> Nested:
        return read_targets(y, self._task_heads()._trained_heads())

    def _check_labels(self, y: Any) -> None:
        heads = self._task_heads()
        if hasattr(y, "keys") and len(heads.trained_tasks) > 1:  # Keras would join a data frame
            check_keys(y, heads.trained_tasks, "y", has_all=False, has_only=False)
        if len(heads.trained_tasks) == 1 and isinstance(y, np.ndarray):
            y = dict.fromkeys(heads.trained_tasks, y)
        # Unbuilt heads do not know the rank of labels.
        is_by_task = heads.built and isinstance(y, Mapping)
        if is_by_task and all(isinstance(labels, np.ndarray) for labels in y.values()):
            with warnings.catch_warnings():  # warnings need all rows
                warnings.simplefilter("ignore", UserWarning)
                heads.check_labels({task: labels[:FIRST_ROWS] for task, labels in y.items()})

    @property
    def metrics(self) -> list[keras.Metric]:
        """The metrics of the model: the loss, the tasks' metrics, and metrics of other layers."""
        found, own = super().metrics, self._task_metrics
        return [*(metric for metric in found if metric is not own), *(own.all if own else [])]

    def compute_loss(
        self,
        x: Nested = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        """Return the loss of all tasks, and update the metrics.

        Labeled examples are found once, for both the loss and the metrics.

        Args:
            x: The features, which have no effect.
            y: `{task: labels}`, with exactly the tasks that have a loss; or the labels of the only
                task.
            y_pred: `{task: predictions}`, as returned by the TaskHeads.
            sample_weight: Weights of the examples: `{task: weights}`, or weights for all tasks.
            training: Whether the loss trains the model.

        Returns:
            A scalar, including the losses of `add_loss` and regularizers.

        Raises:
            TypeError, ValueError: As for `TaskHeads.compute_loss`.
        """
        heads = self._task_heads()
        losses = self._update(heads, y, y_pred, sample_weight, training)
        loss = heads._total_loss(losses.values())
        if self.losses:
            loss = loss + ops.cast(super().compute_loss(x, None, y_pred, None), loss.dtype)
        return loss

    def _task_heads(self) -> TaskHeads:
        return self._task_metrics.heads if self._task_metrics else only_task_heads(self)

    def _update(
        self, heads: TaskHeads, y: Tensor, y_pred: Tensor, sample_weight: Tensor, training: bool
    ) -> dict[TaskName, BatchLoss]:
        """Return the losses of a batch, and update the metrics."""
        if len(heads) == 1 and not isinstance(y, Mapping):
            y = dict.fromkeys(heads.trained_tasks, y)
        if sample_weight is not None and not isinstance(sample_weight, Mapping):
            sample_weight = dict.fromkeys(heads.trained_tasks, sample_weight)
        if not isinstance(y_pred, Mapping) or set(y_pred) != set(heads):
            raise outputs_error(self, heads, y_pred)
        losses = heads._batch_losses(y, y_pred, sample_weight, training)
        if self._task_metrics is not None:
            self._task_metrics.update(losses)
        return losses

    def compute_metrics(
        self, x: Nested, y: Nested, y_pred: Nested, sample_weight: Nested = None
    ) -> dict[str, Tensor]:
        """Return the metrics, which `compute_loss` has updated.

        The arguments only build the metrics before the first step.

        Args:
            x: The features.
            y: The labels.
            y_pred: The predictions.
            sample_weight: Weights of the examples.
        """
        if not self._task_metrics.built:
            # Keras passes symbolic tensors before the first step (see `set_compiled_metrics`).
            self._update(self._task_heads(), y, y_pred, sample_weight, training=False)
        return self._metrics_result()

    def get_metrics_result(self) -> dict[str, Tensor]:
        """Return a dict of metrics. Keras calls it at the end of epochs and of `evaluate`.

        Warns:
            UserWarning: If a task has no label, so that its metrics are NaN, once after `compile`.
        """
        for task in self._task_metrics.unlabeled_tasks():
            self._warn_once(
                f"The task {task!r} has no label in these data, so its metrics are NaN, which "
                "EarlyStopping and ModelCheckpoint treat as an improvement in the first epoch."
            )
        return self._metrics_result()

    def _metrics_result(self) -> dict[str, Tensor]:
        metrics: TaskMetrics = self._task_metrics
        return metrics.mark_unlabeled(super().get_metrics_result())

    def make_train_function(self, force: bool = False) -> Any:
        """Create the training function. Keras calls it at the beginning of `fit`.

        Args:
            force: As for `keras.Model`.

        Raises:
            ValueError: If the mean of the labels of a standardized head is unknown.
        """
        return self._make_traced("train", force)

    def make_test_function(self, force: bool = False) -> Any:
        """Create the test function. Keras calls it at the beginning of `evaluate`.

        Args:
            force: As for `keras.Model`.

        Raises:
            ValueError: As for `make_train_function`.
        """
        return self._make_traced("test", force)

    def make_predict_function(self, force: bool = False) -> Any:
        """Create the predict function. Keras calls it at the beginning of `predict`.

        Args:
            force: As for `keras.Model`.
        """
        return self._make_traced("predict", force)

    def _make_traced(self, kind: str, force: bool) -> Any:
        name = f"{kind}_function"
        is_new = getattr(self, name) is None or force
        if is_new and kind != "predict":
            check_adapted(find_heads(self))
        getattr(super(), f"make_{name}")(force)
        return trace_function(self, kind) if is_new else getattr(self, name)


@register
class MultiTaskModel(MultiTaskTraining, keras.Model):
    """A functional model that is trained with the losses and metrics of its TaskHeads.

        L = sum_k w_k(t) L_k,  L_k = sum_i d_k^i w_i loss_k(y_k^i) / sum_i d_k^i

    d_k^i is 1 if example i has a label of task k, else 0, w_i is its sample weight, and w_k(t) is
    the current loss weight. The labels `y` of `fit` and `evaluate` are a dict with exactly the
    tasks that have a loss. A missing label is NaN or the `missing_label` of the head. The loss, the
    metrics and their options are arguments of the heads, such as `BinaryHead("click",
    loss_weight=2.0, extra_metrics=["accuracy"])`. A plain `keras.Model` with TaskHeads does not
    compute their losses: `fit` raises an error, but on JAX it silently trains nothing.

    The logs contain `loss`, and for each task the unweighted `{task}_loss` and `{task}_{metric}`.
    Metrics count each labeled example once, regardless of its sample weight. With one task, metric
    keys omit the task. All metrics of a task without a label are NaN.

    A subclass of this class is functional too. For a subclassed model with `call`, use
    MultiTaskTraining.

    Args:
        inputs: The inputs, as for `keras.Model`.
        outputs: The predictions of one TaskHeads, as it returns them. It can be in an inner
            functional model.
        name: The name of the model.
        **kwargs: `trainable`, as for `keras.Model`.

    Raises:
        ValueError: If the outputs are not the predictions of the only TaskHeads of the model.

    Reference:

    - Tang, Liu, Zhao, Gong, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning
      (MTL) Model for Personalized Recommendations", RecSys 2020, equations 8 to 10.
      [doi:10.1145/3383313.3412236](https://doi.org/10.1145/3383313.3412236)

    Example:

    >>> heads = TaskHeads([BinaryHead("click"), RegressionHead("stars", standardize=True)])
    >>> inputs = keras.Input((3,))
    >>> model = MultiTaskModel(inputs, heads(PLEBlock(1, heads, [8])(inputs)))
    >>> x = np.eye(4)[:, :3]
    >>> y = {"click": np.array([0, 1, 1, 0]), "stars": np.array([3.0, 5.0, np.nan, np.nan])}
    >>> heads.adapt(y)
    >>> model.compile("adam")
    >>> sorted(model.fit(x, y, verbose=0).history)[:4]
    ['click_auc', 'click_binary_crossentropy', 'click_loss', 'loss']
    """

    def __init__(
        self, inputs: Nested, outputs: Tensor, name: str | None = None, **kwargs: object
    ) -> None:
        super().__init__(inputs, outputs, name=name, **kwargs)
        check_graph(self, only_task_heads(self), outputs)

"""The fit of the mixtures of branches on held-out rows, and their best epochs."""

import math
from collections.abc import Mapping
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np

from ple_keras._checks import check_bool, check_int, check_number
from ple_keras._keras.batches import Batches, is_dataset, refuse_batches
from ple_keras._keras.processes import replica_count
from ple_keras._keras.slices import assign_slices, read_slice
from ple_keras._typing import Logs, Nested, TaskName, WeightSlice
from ple_keras.heads.task_heads import hedged_heads
from ple_keras.hedging.branch_weights import StoppingGroup, find_weights
from ple_keras.hedging.branched_model import BranchedModel, ValuesByTask

FitArguments: TypeAlias = Mapping[str, Any]


class KeptWeights(NamedTuple):
    """The weights of branches in their best epoch.

    Attributes:
        epoch: The epoch, from 0; -1 is before the first one.
        loss: The sum of the relative validation losses of the tasks.
        weights: An array for each weight or slice.
    """

    epoch: int
    loss: float
    weights: list[np.ndarray]


class FitHedge(keras.callbacks.Callback):
    """Callback that fits the mixtures of a HedgedBlock, and keeps the best epoch of each branch.

    `fit` of a MultiTaskModel with `validation_data` and without this callback does the same as with
    `FitHedge()` as its last callback.

    Each validation in `fit` first fits the mixtures, and `val_` metrics then use them. Without
    validation, the fit runs at the end of an epoch. Every epoch, FitHedge copies the weights of the
    branches whose validation loss is the lowest so far. At the end, it restores these copies, and
    fits the mixtures again. Other weights, such as a table before the block, stay as in the last
    epoch. `docs/hedged_branches.md` has the equations and the weights that a branch owns.

    The logs get `hedge/{task}/{branch}` (the weight of the branch), the same with `_loss` (its mean
    validation loss) and `_epoch` (the epoch that is kept, from 0, or -1 for the weights before
    `fit`), and `hedge/loss`, one number to tune by: the mean relative loss of the tasks.

    Args:
        validation_data: None for the validation data of `fit` of a MultiTaskModel. Or `(x, y)` or
            `(x, y, sample_weight)` of arrays, or batches of them, as for `fit`. y is a dict of
            labels keyed by task, or an array in a model with one task. Missing labels do not count,
            and a row with a sample weight of 2 counts as two. Training rows would lead to a worse
            mixture. All batches are read, so they must have an end. For an endless iterable, pass
            `list(itertools.islice(batches, steps))`.
        batch_size: The number of rows per batch, only for arrays; by default
            `validation_batch_size` of `fit` without `validation_data`, else 1024.
        prior: The weight of the prior, at least 0.
        restore_best_weights: Whether each branch ends with the weights of its best epoch, instead
            of the last.
        patience: The number of epochs in which no branch improves, after which `fit` ends; None
            for all epochs.

    Attributes:
        kept: The weights of the best epochs so far, as numbers and arrays. To continue an
            interrupted run with `initial_epoch`, pickle them at the end of each epoch, and assign
            them to a new FitHedge.

    Raises:
        TypeError: If an argument has a type that is not listed above.
        ValueError: If `validation_data` is empty, an iterator, or a `tf.data.Dataset` or PyDataset
            without an end, or its numbers of rows differ, `batch_size` or `patience` is below 1,
            `prior` is negative or not finite, or `restore_best_weights` is False with `patience`.
            In `fit`, if the model has no HedgedBlock, `y` lacks a task, or there are no rows. With
            `restore_best_weights`, if the optimizer averages weights (`use_ema`).

    Warns:
        UserWarning: Before the first step, if a trainable weight before the heads, such as a common
            table, belongs to no branch, with `restore_best_weights`.

    Example:

    >>> heads = TaskHeads([BinaryHead("click"), BinaryHead("buy")])
    >>> inputs = keras.Input((2,))
    >>> model = MultiTaskModel(inputs, heads(HedgedBlock(heads, [4])(inputs)))
    >>> model.compile("adam")
    >>> x = np.eye(4)[:, :2]
    >>> y = {"click": np.array([0, 1, 1, 0]), "buy": np.array([0, np.nan, 1, 1])}
    >>> hedge = FitHedge(patience=3)
    >>> fitted = model.fit(x, y, validation_data=(x, y), callbacks=[hedge], verbose=0)
    >>> weights = [fitted.history[f"hedge/click/{branch}"][0] for branch in ("shared", "own")]
    >>> round(sum(weights), 6)
    1.0
    """

    def __init__(
        self,
        validation_data: Nested = None,
        batch_size: int | None = None,
        prior: float = 1.0,
        restore_best_weights: bool = True,
        patience: int | None = None,
    ) -> None:
        super().__init__()
        self._batches: Any = None  # a Batches, at the latest from `fit`
        self._batch_size = None if batch_size is None else check_int(batch_size, "batch_size", 1)
        self._reads_fit = validation_data is None
        if not self._reads_fit:
            is_arrays = isinstance(validation_data, tuple) and len(validation_data) in (2, 3)
            self._set_rows(validation_data if is_arrays else (validation_data,), batch_size)
        self._branched: BranchedModel | None = None
        self._compiled: tuple[object, ...] = ()  # the model, and what `compile` gave it
        self._weights: dict[StoppingGroup, list[WeightSlice]] = {}
        self.prior = check_number(prior, "prior", minimum=0)
        self._starts: dict[TaskName, np.ndarray] = {}
        self.restore_best_weights = check_bool(restore_best_weights, "restore_best_weights")
        self.patience = None if patience is None else check_int(patience, "patience", minimum=1)
        if patience is not None and not restore_best_weights:
            raise ValueError(
                "patience must be None with restore_best_weights=False. "
                f"Received: {patience=}, {restore_best_weights=}"
            )
        self.kept: dict[StoppingGroup, KeptWeights] = {}
        self._logged: dict[str, float] = {}
        self._due: int | None = None  # the epoch, until the mixtures are fitted

    def _set_rows(self, data: Nested, size: int | None, steps: int | None = None) -> None:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        refuse_batches(x, "validation_data", endless=steps is None)
        self._batches = Batches(x, y, size, steps=steps, sample_weight=sample_weight)

    def read_from_fit(self, validation: Nested, fit_arguments: FitArguments) -> None:
        """Read the validation data of `fit`, unless the callback has rows of its own.

        Args:
            validation: `(x, y, sample_weight)`, or None.
            fit_arguments: The arguments of `fit`.
        """
        if not self._reads_fit:
            return
        self._batches = None
        if validation is not None:
            steps, size = map(fit_arguments.get, ("validation_steps", "validation_batch_size"))
            if steps and not size:  # the number of rows depends on the size of a batch
                size = fit_arguments.get("batch_size") or 32  # Keras's default
            x, *_ = validation
            size = self._batch_size or (None if is_dataset(x) else size)
            self._set_rows(validation, size, steps)

    def start_from(self, mixtures: Mapping[TaskName, Mapping[str, float]], labels: float) -> None:
        """Fit mixtures that stay close to others, and that do not change without labels.

        Args:
            mixtures: The weights of the branches of each task.
            labels: The number of labels that these weights count for.
        """
        pairs = mixtures.items()
        self._starts = {task: 2 * labels * np.array([*each.values()]) for task, each in pairs}

    def _prior(self) -> float | dict[TaskName, np.ndarray]:
        return self._starts or self.prior

    def prepare(self, model: keras.Model, validation: Nested, fit_arguments: FitArguments) -> None:
        """Prepare for `fit` of a model, and raise an error if the rows can't be read.

        Args:
            model: The model.
            validation: As for `read_from_fit`.
            fit_arguments: As for `read_from_fit`.
        """
        self.set_model(model)
        self.read_from_fit(validation, fit_arguments)
        self._check()
        if model.built or replica_count() > 1:  # replicas are an error
            self._find_branches().read(islice(self._batches, 1))

    def release(self) -> None:
        """Forget the rows, and the copies of weights."""
        self._batches, self.kept = None, {}

    def _check(self) -> None:
        if self._batches is None:
            raise ValueError(
                "validation_data must be given to fit of a MultiTaskModel, or to FitHedge. "
                "Received: validation_data=None"
            )
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        optimizers = getattr(optimizer, "optimizers", [optimizer])
        if self.restore_best_weights and any(each.use_ema for each in optimizers):
            raise ValueError(
                "restore_best_weights must be False if the optimizer has use_ema=True, since Keras "
                "replaces the weights by their averages. "
                "Received: restore_best_weights=True, use_ema=True"
            )

    def on_train_begin(self, logs: Logs = None) -> None:
        self._check()
        self._logged = {}
        if self.model.built:  # raises errors before the training
            self._find_branches()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self.kept = {group: k for group, k in self.kept.items() if epoch and k.epoch < epoch}
        if self.restore_best_weights and not self.kept and self.model.built:
            self._due = epoch - 1  # the epoch of weights before the first one
            self._validate()
        self._due = epoch

    def on_test_begin(self, logs: Logs = None) -> None:
        self._validate()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._validate()  # nothing is due after a validation
        logs = {} if logs is None else logs
        for task, hedged in hedged_heads(self.model).items():
            logs |= {f"hedge/{task}/{b}": weight for b, weight in hedged.branch_weights().items()}
        logs |= self._logged
        for group in self._weights:
            kept = self.kept[group].epoch if group in self.kept else epoch
            logs |= {f"hedge/{task}/{group.branch}_epoch": kept for task in group.tasks}
        best = max((kept.epoch for kept in self.kept.values()), default=-1)
        if self.patience is not None and epoch - best >= self.patience:
            self.model.stop_training = True

    def on_train_end(self, logs: Logs = None) -> None:
        branched = self._find_branches()
        self._restore()
        branched.fit_mixtures(branched.read(self._batches), self._prior(), allows_nan=True)

    def _restore(self) -> None:
        """Assign the weights of the best epochs."""
        for group, kept in self.kept.items():
            assign_slices(zip(self._weights[group], kept.weights, strict=True))

    def _validate(self) -> None:
        """Keep the weights of branches that have improved, and fit the mixtures."""
        epoch, self._due = self._due, None
        if epoch is None:  # `evaluate` must not change a model
            return
        branched = self._find_branches()
        found = branched.read(self._batches)
        losses, relative, _ = branched.losses(found)
        self._logged |= {f"hedge/{t}/{b}_loss": loss for (t, b), loss in losses.items()}
        for group, slices in self._weights.items():
            branches = [(task, group.branch) for task in group.tasks]
            terms = [relative[branch] for branch in branches if branch in relative]
            least = self.kept[group].loss if group in self.kept else math.inf
            if terms and sum(terms) < least:  # NaN is not less
                self.kept[group] = KeptWeights(epoch, sum(terms), [*map(read_slice, slices)])
        epochs = {kept.epoch for kept in self.kept.values()} or {epoch}
        if epoch in epochs or "hedge/loss" not in self._logged:
            best = found if epochs == {epoch} else self._best_values()
            branched.fit_mixtures(best, self._prior(), allows_nan=True)
            self._logged["hedge/loss"] = branched.relative_loss(best)
        if epochs != {epoch}:
            branched.fit_mixtures(found, self._prior(), allows_nan=True)

    def _best_values(self) -> ValuesByTask:
        """Return the values of the branches in their best epochs."""
        current = [(each, read_slice(each)) for group in self.kept for each in self._weights[group]]
        self._restore()
        best = self._find_branches().read(self._batches)
        assign_slices(current)
        return best

    def _find_branches(self) -> BranchedModel:
        """Return the branches of the model, which are found again after `compile`."""
        compiled = self.model, getattr(self.model, "_task_metrics", None)
        if self._branched is None or compiled != self._compiled:
            self._compiled = compiled
            self._branched = BranchedModel(self.model)
            self._weights = find_weights(self.model) if self.restore_best_weights else {}
        return self._branched


def fit_hedge(
    model: keras.Layer,
    x: Nested,
    y: Nested = None,
    batch_size: int | None = None,
    prior: float = 1.0,
    *,
    sample_weight: Nested = None,
) -> dict[TaskName, dict[str, float]]:
    """Fit the mixtures of a HedgedBlock once, like FitHedge, for custom loops.

    On TensorFlow, call it outside of the scope of a strategy. Several processes of TensorFlow must
    pass the same rows.

    Args:
        model: A built model with a HedgedBlock and a TaskHeads.
        x: Arrays, or a dict or list of arrays; or, with `y=None`, batches of `(x, y)` that end.
            They should be rows that the model was not trained on.
        y: `{task: labels}`, or an array in a model with one task.
        batch_size: The number of rows per batch, only for arrays; by default 1024.
        prior: The weight of the prior (see `FitHedge`).
        sample_weight: Weights of the rows of arrays, `{task: weights}`, or weights for all tasks.
            Batches `(x, y, sample_weight)` contain theirs.

    Returns:
        `{task: {branch: weight}}`.

    Raises:
        TypeError, ValueError: As for FitHedge.

    Example:

    >>> heads = TaskHeads([BinaryHead("click"), BinaryHead("buy")])
    >>> inputs = keras.Input((2,))
    >>> model = keras.Model(inputs, heads(HedgedBlock(heads, [4])(inputs)))
    >>> x = np.eye(4)[:, :2]
    >>> y = {"click": np.array([0, 1, 1, 0]), "buy": np.full(4, np.nan)}
    >>> mixtures = fit_hedge(model, x, y)
    >>> mixtures["buy"]
    {'own': 0.5, 'shared': 0.5}
    """
    refuse_batches(x, "x", iterators=False)
    prior = check_number(prior, "prior", minimum=0)
    batches = Batches(x, y, batch_size, sample_weight=sample_weight)
    branched = BranchedModel(model)
    branched.fit_mixtures(branched.read(batches), prior)
    return {task: hedged.branch_weights() for task, hedged in branched.hedged.items()}

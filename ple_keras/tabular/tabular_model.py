"""A model of the columns of a frame."""

import json
import random
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import RLock
from types import NoneType
from typing import Any, Self

import keras
import numpy as np

from ple_keras._checks import check_int, check_keys, check_number, short_repr, warn_user
from ple_keras._keras.slices import read_slice
from ple_keras._typing import LayerLike
from ple_keras.columns.column_layers import columns_digest
from ple_keras.columns.columns import BLOCKS, Columns, Rows, check_frame, column_values, to_rows
from ple_keras.heads.head import Head
from ple_keras.heads.task_heads import TaskHeads
from ple_keras.hedging.fit_hedge import FitHedge
from ple_keras.inspection.task_figures import labels_by_position, relative_losses
from ple_keras.inspection.task_report import TaskReport, task_report
from ple_keras.labels.task_names import SHARED
from ple_keras.layers.expert_block import ExpertBlock
from ple_keras.layers.hedged_block import HedgedBlock
from ple_keras.models.multi_task_model import MultiTaskModel
from ple_keras.optimizers.sparse_adagrad import SparseAdagrad
from ple_keras.optimizers.table_optimizer import table_optimizer
from ple_keras.tabular.importance import Arrays, ImportanceReport, Losses, column_importance
from ple_keras.tabular.row_split import check_names, split_rows, value_ranks
from ple_keras.tabular.task_columns import TaskColumns
from ple_keras.transfer.fill_new_rows import fill_new_rows, set_digest

BATCH_SIZE = 4096  # rows of a batch of predictions
MODEL, COLUMNS, TASKS = "model.keras", "columns.json", "tasks.json"
# Arguments with other names in folders and pickles of 0.8.
OLD_NAMES = {
    "width": "embedding_dim",
    "number_units": "number_embedding_dim",
    "spare": "spare_rows",
}
PRIOR_LABELS = 50  # labels that a mixture counts for in `continue_fit`


class TabularModel:
    """A model of several tasks, from a frame to predictions.

    It encodes the columns of the frame (`Columns`), trains hedged branches (`HedgedBlock`) of all
    tasks until no branch has improved on validation rows for some epochs, and fits their mixtures
    on these rows. Labels can be missing. For everything else, `keras_model`, `columns` and `heads`
    are objects of this library.

    Args:
        tasks: `{column: kind}` of the columns with labels. Kinds are "binary", "regression",
            "count", "amount" (at least 0, with many zeros or a long tail) and "multiclass", or an
            unbuilt head. Strings and booleans of binary tasks and classes become classes. For a
            binary task, predictions are the probability of 1, True, or the second class in order. A
            factor of a `ProductHead` can have no column: its labels are missing.
        ids: Names of columns of integers that are ids. Strings and booleans are ids anyway (see
            `Columns.infer`).
        columns: A Columns instead of `ids`. `fit` fits a copy of it, unless it is fitted.
        embedding_dim: The width of tables.
        units: The units of the experts of branches.
        tower: The units of the tower of each task, or None.
        activation: The activation of the experts.
        dropout: The dropout rate of the experts.
        learning_rate: The learning rate of Adam, which trains all weights except tables.
        number_embedding_dim: The width of the embedding next to each number in the own branches of
            tasks, or None (see `Columns.network`). The shared branch reads numbers alone.
        table_rate: The learning rate of tables; None for the default of `SparseAdagrad`.
        table_dropout: The dropout rate of the rows of tables.
        spare_rows: The free rows of tables for the new values of `continue_fit`, relative to the
            known ones.
        seed: The seed of the split, the initial weights and the order of rows, in `fit` and
            `continue_fit`; None for new ones each time.

    Attributes:
        keras_model: The MultiTaskModel, after `fit`.
        columns: The fitted Columns, after `fit`.
        heads: The TaskHeads, after `fit`.
        task_names: The task of each column with labels in `keras_model`, after `fit`: the name of
            the column if a task can have it.
        feature_names_in_: The names of the columns that `predict` reads, after `fit`.
        n_features_in_: Their number.

    Raises:
        TypeError: If `tasks` is not a dict with strings as keys.
        ValueError: If a kind is unknown, a head is built, or both `ids` and `columns` are given.

    Example:

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"city": ["Rome", "Oslo"] * 20, "age": range(40)})
    >>> frame = frame.assign(like=frame["age"] > 20, spent=frame["age"] * 2.0)
    >>> model = TabularModel({"like": "binary", "spent": "regression"}, seed=0)
    >>> model = model.fit(frame, epochs=1, verbose=0)
    >>> list(model.predict(frame)), list(model.predict([{"city": "Rome", "age": 7}])[0])
    (['like', 'spent'], ['like', 'spent'])
    """

    def __init__(
        self,
        tasks: Mapping[str, str | Head],
        ids: Iterable[str] = (),
        columns: Columns | None = None,
        embedding_dim: int = 8,
        units: Sequence[int] = (64, 32),
        tower: LayerLike | None = (16,),
        activation: str = "silu",
        dropout: float = 0.02,
        learning_rate: float = 2e-3,
        number_embedding_dim: int | None = 8,
        table_rate: float | None = None,
        table_dropout: float = 0.0,
        spare_rows: float = 0.5,
        seed: int | None = None,
    ) -> None:
        arguments = locals().copy()
        del arguments["self"]
        self._arguments: dict[str, Any] = {}
        self._columns: Any = None  # a Columns and a TaskColumns, after `fit`
        self._tasks: Any = None
        self.keras_model: Any = None
        self._group: str | None = None  # the group of `fit`
        self._busy = RLock()
        self._set(arguments)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_busy": None}  # pickles and deep copies can't have it

    def __setstate__(self, state: dict[str, Any]) -> None:
        arguments = _with_new_names(state["_arguments"])
        vars(self).update(state, _arguments=arguments, _busy=RLock())

    def _set(self, arguments: Mapping[str, Any]) -> None:
        arguments = {**self._arguments, **arguments}
        TaskColumns(arguments["tasks"])  # the constructor checks the tasks
        ids = arguments["ids"]
        if isinstance(ids, str | Iterator):
            raise TypeError(f"ids must be a list of names. Received: {ids=}")
        if arguments["columns"] is not None and ids:
            raise ValueError(f"ids must be empty if columns are given. Received: {ids=}")
        self._arguments = arguments

    def _set_fitted(self, columns: Columns, tasks: TaskColumns, model: keras.Model) -> None:
        self._columns, self._tasks, self.keras_model = columns, tasks, model
        self.feature_names_in_ = np.array(columns.names, object)
        self.n_features_in_ = len(columns.names)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments of the constructor, as scikit-learn needs them.

        Args:
            deep: Not used.
        """
        return dict(self._arguments)

    def set_params(self, **params: Any) -> Self:
        """Set arguments of the constructor, for the next `fit`.

        Args:
            **params: The arguments.

        Returns:
            The model itself.

        Raises:
            TypeError: As for the constructor.
            ValueError: As for the constructor, and if an argument is unknown.
        """
        if unknown := params.keys() - self._arguments.keys():
            raise ValueError(
                f"params must be among {[*self._arguments]}. Received: {sorted(unknown)}"
            )
        self._set(params)
        return self

    @property
    def columns(self) -> Any:
        return self._columns or self._arguments["columns"]

    @property
    def heads(self) -> Any:
        layers = self.keras_model.layers if self.keras_model else []
        return next((layer for layer in layers if isinstance(layer, TaskHeads)), None)

    @property
    def task_names(self) -> dict[str, str]:
        return dict(self._fitted().names)

    def fit(
        self,
        frame: Rows,
        y: Any = None,
        *,
        validation: float | Rows | tuple[Rows, Any] = 0.15,
        time: str | None = None,
        group: str | None = None,
        sample_weight: str | Mapping[str, str] | None = None,
        epochs: int = 100,
        batch_size: int = 500,
        patience: int = 5,
        callbacks: Iterable[keras.callbacks.Callback] | None = None,
        verbose: str | int = "auto",
    ) -> Self:
        """Train a new model on a frame, until nothing improves on its validation rows.

        If it fails, an earlier model stays as it was.

        The validation rows stop the training, choose the best epoch of each branch, and fit the
        mixtures. They must differ from the training rows as the rows to predict will: use `time` if
        the model predicts later rows, and `group` if it predicts new users.

        Args:
            frame: A frame of pandas or polars with all columns. Columns that are neither tasks nor
                named below are inputs. It is not changed.
            y: The labels, if they are not columns of the frame: a frame or a dict of arrays with a
                column for each task, an array with columns in the order of `tasks`, or for one task
                a series. Row i belongs to row i of the frame. They replace columns of the frame.
            validation: The share of the validation rows, a frame, or a tuple `(frame, y)`.
            time: A column such as a day: the validation rows have its last values. It has numbers,
                dates, texts with ISO dates, or ordered categories. By default, they are random
                rows.
            group: A column, such as a user. All rows with the same value are on one side of the
                split. With `time`, the groups with the last times are the validation rows. If most
                rows have one value, they are training rows. `time` and `group` are not inputs, even
                if they are in `ids`.
            sample_weight: The column with the weights of rows, or `{task: column}`.
            epochs: The largest number of epochs.
            batch_size: The number of rows of a batch.
            patience: The number of epochs without an improvement after which the training ends.
            callbacks: Callbacks for Keras.
            verbose: As for `keras.Model.fit`.

        Returns:
            The model itself.

        Raises:
            TypeError: If `frame` is not a frame, or a column has values of a wrong type.
            ValueError: If a column is missing or repeated, a task is one of `columns`, a task has
                fewer than two labels that differ in the training or validation rows, `time` or
                `group` lacks a value, `time` has texts that are not ISO dates, a weight is negative
                or missing, `y` has a different number of rows, or there are too few rows.

        Warns:
            UserWarning: If the index of `y` differs from the index of the frame.
        """
        frame, weights = self._join(frame, y, sample_weight)
        frames = self._split(frame, validation, time, group)
        tasks = TaskColumns(self._arguments["tasks"])
        columns = self._fit_columns(frames[0], [*tasks.tasks, time, group, *weights.values()])
        tasks.fit(frame, {*columns.names, *columns._input_names(packed=True).values(), *BLOCKS})
        (x, labels, row_weights), valid = (tasks.read(x, columns, weights) for x in frames)
        tasks.check_differ(labels, "training")
        tasks.check_differ(valid[1], "validation")
        callbacks = [*(callbacks or ()), FitHedge(valid, BATCH_SIZE, patience=patience)]
        options = {"epochs": epochs, "batch_size": batch_size, "verbose": verbose}
        with self._busy, _seeded(self._arguments["seed"]):
            model = self._new_model(columns, tasks)
            model.fit(x, labels, sample_weight=row_weights, callbacks=callbacks, **options)
            self._set_fitted(columns, tasks, model)
            self._group = group
        return self

    def continue_fit(
        self,
        frame: Rows,
        y: Any = None,
        *,
        validation: float | Rows | tuple[Rows, Any] = 0.15,
        time: str | None = None,
        group: str | None = None,
        sample_weight: str | Mapping[str, str] | None = None,
        epochs: int = 100,
        batch_size: int = 500,
        patience: int = 5,
        callbacks: Iterable[keras.callbacks.Callback] | None = None,
        verbose: str | int = "auto",
    ) -> Self:
        """Train the model on new rows, such as rows of the next day, with new values of ids.

        New values get free rows of the tables (see `spare_rows`, `Columns.update` and
        `fill_new_rows`). Training continues from the current weights and the state of the
        optimizer. A branch keeps the weights that it had before if no epoch is better on the
        validation rows. A mixture counts as 50 labels, so that small days hardly change it. If the
        call fails or is interrupted, the model stays as it was.

        Args:
            frame: A frame with the columns of `fit`.
            y: As for `fit`.
            validation: As for `fit`, of the new rows.
            time: As for `fit`.
            group: As for `fit`.
            sample_weight: As for `fit`.
            epochs: As for `fit`.
            batch_size: As for `fit`.
            patience: As for `fit`.
            callbacks: As for `fit`.
            verbose: As for `fit`.

        Returns:
            The model itself.

        Raises:
            TypeError: As for `fit`.
            ValueError: As for `fit`, and if the tables have too few free rows for the new values.
                Then call `fit` on all rows.

        Warns:
            UserWarning: If no epoch improved a branch, so that nothing was learned, or all labels
                of a task are equal in the training rows.
        """
        options = {"epochs": epochs, "batch_size": batch_size, "verbose": verbose}
        with self._busy, ExitStack() as undo:
            tasks, model, before = self._fitted(), self.keras_model, self._columns
            frame, weights = self._join(frame, y, sample_weight)
            frames = self._split(frame, validation, time, group)
            columns = before.update(frames[0])
            columns._check_finite(frames[0])
            (x, labels, row_weights), valid = (tasks.read(x, columns, weights) for x in frames)
            tasks.warn_of_equal(labels)
            hedge = FitHedge(valid, BATCH_SIZE, patience=patience)
            hedge.start_from(self.heads.branch_weights(), PRIOR_LABELS)
            for variable in (*model.variables, *model.optimizer.variables):
                undo.callback(variable.assign, read_slice((variable, ())))
            undo.callback(set_digest, model, before.digest)
            fill_new_rows(model, before, columns)
            _build_metrics(model, x, labels)
            callbacks = [*(callbacks or ()), hedge]
            with _seeded(self._arguments["seed"]):
                model.fit(x, labels, sample_weight=row_weights, callbacks=callbacks, **options)
            self._columns = columns
            undo.pop_all()
        if _best_epoch(model) < 0:
            warn_user("No epoch improved a branch on the validation rows, so nothing was learned")
        return self

    def _join(self, frame: Rows, y: Any, sample_weight: Any) -> tuple[Rows, dict[str, str]]:
        """Return the frame with labels and weights, and the column of weights of each task."""
        tasks, frame = [*self._arguments["tasks"]], self._labeled(frame, y, "frame")
        is_dict = isinstance(sample_weight, Mapping)
        columns = sample_weight if is_dict else dict.fromkeys(tasks, sample_weight)
        check_keys(columns, tasks, "sample_weight", has_all=False)
        if wrong := {t: x for t, x in columns.items() if not isinstance(x, str | None)}:
            raise TypeError(
                "sample_weight must be a column, or a dict of columns keyed by task. "
                f"Received: sample_weight={short_repr(wrong)}"
            )
        return frame, {task: name for task, name in columns.items() if name}

    def _split(
        self, frame: Rows, validation: Any, time: str | None, group: str | None
    ) -> tuple[Rows, Rows]:
        """Return the training rows and the validation rows."""
        check_names(time=time, group=group)
        if hasattr(validation, "columns"):
            validation = validation, None
        if isinstance(validation, tuple) and len(validation) == 2:
            return frame, self._labeled(*validation, "validation")
        share = check_number(validation, "validation", above=0, below=1)
        train, valid = split_rows(frame, share, time, group, self._arguments["seed"])
        taken: Any = getattr(frame, "iloc", frame)
        return taken[train], taken[valid]

    def _fit_columns(self, frame: Rows, others: Sequence[str | None]) -> Columns:
        """Return the columns of the inputs, fitted to a frame."""
        columns: Columns | None = self._arguments["columns"]
        if columns is None:
            left_out = [name for name in others if name]
            names = [name for name in frame.columns if name not in left_out]
            empty = [n for n in names if {*map(type, column_values(frame, n))} <= {NoneType}]
            if empty:
                warn_user(f"Columns without a value are left out: {empty}")
            used = [name for name in frame.columns if name not in empty]
            no_ids = (*left_out, *empty)
            ids = [name for name in self._arguments["ids"] if name not in no_ids]
            if not {*used} - {*left_out}:
                raise ValueError("frame must have columns of inputs. Received: no other column")
            columns = Columns.infer(frame[used], left_out, ids)
        elif both := [name for name in columns.names if name in others]:
            raise ValueError(
                "columns must not contain tasks, `time`, `group` or the weights of rows. "
                f"Received: columns with {both}"
            )
        elif columns.known or columns.scales:
            return columns
        else:
            columns = columns._unfitted()
        return columns.fit(frame, spare_rows=self._arguments["spare_rows"])

    def _new_model(self, columns: Columns, tasks: TaskColumns) -> MultiTaskModel:
        """Return a compiled model."""
        arguments = self._arguments
        dropout = check_number(arguments["table_dropout"], "table_dropout", minimum=0, below=1)
        heads = TaskHeads(tasks.heads(arguments["tower"]))
        units = {SHARED: None} | dict.fromkeys(heads.task_names, arguments["number_embedding_dim"])
        networks = columns.network(arguments["embedding_dim"], dropout, units, packed=True)
        expert = ExpertBlock(arguments["units"], arguments["activation"], arguments["dropout"])
        inputs = networks[SHARED].input
        features = HedgedBlock(heads, expert, features=networks)(inputs)
        model = MultiTaskModel(inputs, heads(features))
        rate = arguments["table_rate"]
        tables = None
        if rate is not None:
            tables = SparseAdagrad(check_number(rate, "table_rate", above=0))
        adam = keras.optimizers.Adam(arguments["learning_rate"])
        model.compile(table_optimizer(adam, tables))
        return model

    def predict(self, rows: Rows) -> Any:
        """Return predictions as a frame or a list of dicts. Binary tasks have probabilities.

        A frame has the kind and the index of `rows`. Several threads can call it. It waits while
        another thread trains or uses the model, which is not true for `keras_model.predict`.

        Args:
            rows: A frame, or a list of dicts with a value or None for each column.

        Returns:
            A column for each task: values, counts, amounts, or the probability of 1, True, or the
            second class; and for each class of a multiclass task, "{task}: {class}".

        Raises:
            TypeError, ValueError: As for `Columns.transform`, and if the model is not fitted.
        """
        rows = to_rows(rows)
        with self._busy:
            tasks, x = self._fitted(), self._columns.transform(rows, packed=True)
            predictions = tasks.predictions(self._predict(x))
        if hasattr(rows, "columns"):
            index = {"index": rows.index} if hasattr(rows, "index") else {}
            frame = next(x for x in type(rows).__mro__ if x.__name__ == "DataFrame")
            return frame(predictions, **index)
        lists = (each.tolist() for each in predictions.values())
        return [dict(zip(predictions, row)) for row in zip(*lists)]

    def _predict(self, x: Arrays) -> Arrays:
        count = len(next(iter(x.values())))
        if not count:
            return {task: np.empty((0, head.units)) for task, head in self.heads.items()}
        if count <= BATCH_SIZE:  # the loop of `predict` takes longer than a row
            return dict(self.keras_model.predict_on_batch(x))
        return dict(self.keras_model.predict(x, batch_size=BATCH_SIZE, verbose=0))

    def _labeled(self, rows: Rows, y: Any, argument: str = "rows") -> Rows:
        """Return a frame with labels."""
        check_frame(rows, argument)
        return TaskColumns(self._arguments["tasks"]).join(rows, y)

    def _groups(self, rows: Rows, group: str | None) -> np.ndarray | None:
        """Return the group of each row by a column, or by the column of `fit`."""
        check_names(group=group)
        name = group or self._group
        if group is None and name is not None and name not in rows.columns:
            warn_user(f"rows lack {name!r}, the group of `fit`, so they count as independent")
            return None
        return None if name is None else value_ranks(rows, name)

    def _fitted(self) -> TaskColumns:
        if self.keras_model is None:
            raise ValueError("Call fit first, or load a model. Received: a model without fit")
        tasks: TaskColumns = self._tasks
        return tasks

    def score(self, rows: Rows, y: Any = None) -> float:
        """Return minus the mean relative loss of the tasks, since scikit-learn maximizes scores.

        A relative loss is 1 for the best constant prediction, and 0 at best (see `task_report`).

        Args:
            rows: A frame.
            y: As for `fit`.

        Raises:
            TypeError, ValueError: As for `predict`, and if no task has a label.

        Warns:
            UserWarning: If a task does not count, since it has no labels that differ.
        """
        with self._busy:
            x, losses = self._relative_losses(rows, y)
            return -float(np.mean([np.nanmean(each) for each in losses(x).values()]))

    def _relative_losses(self, rows: Rows, y: Any) -> tuple[Arrays, Losses]:
        """Return encoded rows, and a function of such rows.

        It returns the relative loss of each row, with NaN for rows without a label, by the columns
        of the tasks that have labels that differ.
        """
        rows, tasks = self._labeled(rows, y), self._fitted()
        labels = tasks.labels(rows)
        counts = tasks.different(labels)
        names = {column: name for column, name in tasks.names.items() if counts[column] > 1}
        if not names:
            raise ValueError("rows must have labels of a task. Received: no labels that differ")
        others = [*tasks.names.keys() - names - tasks.factors]
        if others:
            warn_user(f"Tasks without labels that differ in these rows do not count: {others}")

        def losses(x: Arrays) -> Arrays:
            predictions, found = self._predict(x), {}
            for column, name in names.items():
                head, p = self.heads[name], predictions[name]
                y_true = labels_by_position(head, labels[name], p)
                found[column] = relative_losses(head._family(), p, y_true)
            return found

        return self._columns.transform(rows, packed=True), losses

    def importance(
        self, rows: Rows, y: Any = None, *, repeats: int = 5, seed: int | None = None
    ) -> ImportanceReport:
        """Return the increase of the relative loss of each task if a column is permuted.

        The values of one column are permuted among the rows, with one permutation for all tasks. A
        value is a whole cell: a list with all its entries, or a missing value. The mean of a column
        over tasks is how much lower `score` becomes.

        The rows must be new to the model, neither trained nor validated. Otherwise, columns that it
        has overfitted seem important. If columns are correlated, each can seem unimportant, since
        the model reads the others, and permuted rows can be unlike all real rows. Importance is not
        the effect of a change of the column. The columns `time` and `group` of `fit` are not
        inputs, even if they are in `ids`, so they are not listed.

        Args:
            rows: A frame.
            y: As for `fit`.
            repeats: The number of permutations of each column.
            seed: The seed of the permutations; None for other ones each time.

        Returns:
            `{task: {column: Importance}}`, a dict that prints as a table, with `plot()` and
            `to_dict()`. An Importance has `increase` and `error`, its standard error over rows and
            permutations. The error is too small if rows depend on each other, such as rows of one
            user. Columns have the order of their mean over tasks, with the largest first.

        Raises:
            TypeError, ValueError: As for `score`, and if `repeats` is below 1.

        Warns:
            UserWarning: As for `score`.
        """
        repeats = check_int(repeats, "repeats", minimum=1)
        with self._busy:
            x, losses = self._relative_losses(rows, y)
            return column_importance(self._columns, x, losses, repeats, seed)

    def report(self, rows: Rows, y: Any = None, *, group: str | None = None) -> TaskReport:
        """Report the tasks, with the gains of the mixture over each branch (see `task_report`).

        The rows must be like the rows that the model will predict. It must not have been trained or
        validated on them.

        Args:
            rows: A frame.
            y: As for `fit`.
            group: The name of a column, such as a user, if rows with the same value are not
                independent. By default, it is the group of `fit`.

        Returns:
            A TaskReport keyed by column: print it, or use `tasks`, `branches`, `gains` and
            `to_dict()`.

        Raises:
            TypeError, ValueError: As for `predict`, and if `rows` is not a frame, or has no row, or
                `group` lacks a value.

        Warns:
            UserWarning: If the rows lack the group of `fit`.
        """
        rows = self._labeled(rows, y)
        groups = self._groups(rows, group)
        with self._busy:
            tasks = self._fitted()
            x, y = self._columns.transform(rows, packed=True), tasks.labels(rows)
            report = task_report(self.keras_model, x, y, BATCH_SIZE, groups, new_rows=True)
        unlabeled = [task for task in tasks.factors if np.isnan(y[task]).all()]
        columns = {n: column for column, n in tasks.names.items() if n not in unlabeled}
        by_column: Any = {}
        for key, by_task in vars(report).items():
            if isinstance(by_task, dict):
                by_column[key] = {columns[t]: x for t, x in by_task.items() if t in columns}
        return replace(report, **by_column)

    def save(self, folder: str | Path) -> None:
        """Write the model to a folder, which stays as it was before if an error occurs.

        It contains model.keras, with the optimizer, columns.json and tasks.json. If the process is
        killed while it replaces a folder, the old one can be in the folder `.{name}-{text}/old`
        next to it, with the name of the folder and a random text.

        Args:
            folder: The folder. One of an earlier `save` is replaced.

        Raises:
            ValueError: If the model is not fitted, or the folder contains something else.
        """
        folder = Path(folder).resolve()  # the path can be "."
        files = {path.name for path in folder.glob("*")}
        if folder.exists() and (TASKS not in files or files - {MODEL, COLUMNS, TASKS}):
            raise ValueError(
                f"folder must be new, or contain only a model. Received: {folder} with {files}"
            )
        arguments = {**self._arguments, "ids": [*self._arguments["ids"]]}
        arguments["columns"] = self._arguments["columns"] is not None
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        new, old = temporary / "new", temporary / "old"
        try:
            new.mkdir()
            with self._busy:
                tasks = self._fitted()
                self.keras_model.save(new / MODEL)
                self._columns.save(new / COLUMNS)
            text = {
                "arguments": keras.saving.serialize_keras_object(arguments),
                "names": tasks.names,
                "classes": tasks.classes,
                "group": self._group,
            }
            (new / TASKS).write_text(json.dumps(text))
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
        finally:
            if old.exists() and not folder.exists():
                old.rename(folder)
            shutil.rmtree(temporary)  # one of the two folders is in its place

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Return a model from a folder. No code of the folder runs.

        Args:
            folder: A folder that `save` has written.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If the model has a network of other columns.
        """
        folder = Path(folder).resolve()
        text = json.loads((folder / TASKS).read_text())
        columns = Columns.load(folder / COLUMNS)
        arguments = _with_new_names(keras.saving.deserialize_keras_object(text["arguments"]))
        arguments["columns"] = columns._unfitted() if arguments["columns"] else None
        model = cls(**arguments)
        model._group = text.get("group")  # files of 0.8.0 have none
        tasks = TaskColumns(arguments["tasks"])
        tasks.names, tasks.classes = text["names"], text["classes"]
        trained = keras.models.load_model(folder / MODEL)
        if columns_digest(trained) != columns.digest:
            raise ValueError(f"{folder} must have files of one model. Received: other {COLUMNS}")
        model._set_fitted(columns, tasks, trained)
        return model

    def __sklearn_tags__(self) -> Any:
        utils: Any = import_module("sklearn.utils")
        return utils.Tags(estimator_type=None, target_tags=utils.TargetTags(required=False))


def _with_new_names(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of the constructor by their names in this version."""
    return {OLD_NAMES.get(name, name): value for name, value in arguments.items()}


def _build_metrics(model: MultiTaskModel, x: Arrays, y: Arrays) -> None:
    """Build the metrics of a loaded model. Otherwise, Keras does so with a shuffled batch."""
    first = {key: array[:1] for key, array in x.items()}
    model.compute_loss(None, {task: labels[:1] for task, labels in y.items()}, model(first))


def _best_epoch(model: MultiTaskModel) -> int:
    """Return the last epoch that a branch keeps, or -1 if each keeps the weights before `fit`."""
    logs = model.history.history.items()
    return max((epochs[-1] for key, epochs in logs if key.endswith("_epoch")), default=0)


def _seeded(seed: int | None) -> ExitStack:
    """Set a seed, and restore the states of the generators of Python and NumPy at the end."""
    stack = ExitStack()
    if seed is not None:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        keras.utils.set_random_seed(seed)
    return stack

"""The columns of a frame with the labels of tasks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ple_keras._checks import check_keys, short_repr, warn_user
from ple_keras._typing import LayerLike
from ple_keras.columns.columns import Rows, Value, column_values, free_name, read_numbers, safe_name
from ple_keras.heads.head import Head
from ple_keras.heads.kinds import KINDS, is_kind, new_head
from ple_keras.labels.label_arrays import labeled_weights
from ple_keras.labels.task_names import SHARED, is_valid_name


class TaskColumns:
    """The columns of labels, as tasks of a model.

    Args:
        tasks: `{column: kind or head}`.

    Attributes:
        tasks: As above.
        families: The family of the labels of each column.
        factors: The tasks of which a ProductHead is the product. They can have no labels.
        names: The name of the task of each column, after `fit`.
        classes: The classes of columns whose labels are not numbers, in the order of predictions.
    """

    def __init__(self, tasks: Mapping[str, str | Head]) -> None:
        is_dict = isinstance(tasks, Mapping) and tasks
        if not is_dict or not all(isinstance(column, str) for column in tasks):
            raise TypeError(
                "tasks must be a dict with the kind or the head of at least one column of labels, "
                f"whose name is a string. Received: tasks={short_repr(tasks)}"
            )
        for column, kind in tasks.items():
            if not is_kind(kind) or new_head(kind)._family().is_list:
                raise ValueError(
                    f"tasks[{column!r}] must be one of {[*KINDS]}, or an unbuilt head that is not "
                    f"a RankingHead. Received: tasks[{column!r}]={kind!r}"
                )
        self.tasks = dict(tasks)
        self.families = {column: new_head(kind)._family() for column, kind in tasks.items()}
        self.factors = {task for kind in tasks.values() for task in getattr(kind, "of", ())}
        self.names: dict[str, str] = {}
        self.classes: dict[str, list[Value]] = {}

    def join(self, frame: Rows, y: Any) -> Rows:
        """Return a frame with the columns of `y`, and of missing labels of factors without them."""
        names = y if isinstance(y, Mapping) else self.tasks
        known = frame.columns if y is None else getattr(y, "columns", names)
        absent = [task for task in self.tasks if task in self.factors and task not in known]
        frame = join_columns(frame, y, [task for task in self.tasks if task not in absent])
        empty = {task: np.full(len(frame), np.nan) for task in absent if task not in frame.columns}
        return join_columns(frame, empty, [*empty]) if empty else frame

    def fit(self, frame: Rows, taken: Iterable[str]) -> None:
        """Find the classes of labels, and names of the tasks that are not `taken`."""
        self.names, self.classes = {}, {}
        for column, kind in self.tasks.items():
            name = safe_name(column, "task")
            is_free = is_valid_name(name) and name not in (SHARED, "val")
            name = name if is_free and not name.startswith("val_") else f"task_{name}"
            used = {*taken, *self.names.values()}
            self.names[column] = kind.task if isinstance(kind, Head) else free_name(name, used)
            if self.families[column].has_classes:
                self._find_classes(frame, column)
        predictions = [name for column in self.tasks for name in self._prediction_names(column)]
        if len({*predictions}) < len(predictions):
            raise ValueError(
                f"tasks must have predictions with different names. Received: {predictions}"
            )

    def _prediction_names(self, column: str) -> list[str]:
        if self.families[column].axes == 1:
            return [column]
        # A softmax of a plain Head has no classes in files of 0.8.
        kind: Any = self.tasks[column]
        names = getattr(kind, "quantiles", None) or self.classes.get(column) or range(kind.units)
        return [f"{column}: {each}" for each in names]

    def _find_classes(self, frame: Rows, column: str) -> None:
        kind = self.tasks[column]
        values = [value for value in column_values(frame, column) if value is not None]
        types = {*map(type, values)}
        is_binary = self.families[column].axes == 1
        if is_binary and types <= {int, float}:  # labels are 0 and 1, or probabilities
            return
        is_one_type = len(types) < 2 or types == {int, float}
        if not is_one_type or not types <= {str, bool, int, float}:
            raise TypeError(
                f"{column} must have strings, integers or booleans as classes, of one type. "
                f"Received: {sorted(each.__name__ for each in types)}"
            )
        found = {*values}
        classes = [False, True] if is_binary and types == {bool} else sorted(found)
        size = 2 if is_binary else getattr(kind, "units", max(2, len(classes)))
        if not is_binary and found <= {*range(size)}:
            classes = [*range(size)]
        if len(classes) != size:
            raise ValueError(f"{column} must have {size} classes. Received: {short_repr(classes)}")
        self.classes[column] = classes

    def heads(self, tower: LayerLike | None) -> list[Head]:
        """Return new heads."""
        heads = []
        for column, kind in self.tasks.items():
            if isinstance(kind, Head):
                heads.append(type(kind).from_config(kind.get_config()))
                continue
            count = len(self.classes.get(column, ()))
            name = self.names[column]
            heads.append(new_head(kind, name, tower, count))
        return heads

    def labels(self, frame: Rows) -> dict[str, np.ndarray]:
        """Return the labels of each task as numbers, with NaN for missing ones."""
        return {name: self._labels(frame, column) for column, name in self.names.items()}

    def different(self, labels: Mapping[str, np.ndarray]) -> dict[str, int]:
        """Return the number of different labels of each column.

        Args:
            labels: The result of `labels`.
        """
        columns = {column: labels[name] for column, name in self.names.items()}
        return {column: len({*x[~np.isnan(x)].tolist()}) for column, x in columns.items()}

    def warn_of_equal(self, labels: Mapping[str, np.ndarray]) -> None:
        """Warn of columns in which all labels of the training rows are equal."""
        equal = [column for column, count in self.different(labels).items() if count == 1]
        if equal:
            warn_user(
                f"All training rows have equal labels of {equal}, which the model will predict too "
                "often for other rows. Add older rows with other labels"
            )

    def check_differ(self, labels: Mapping[str, np.ndarray], kind: str) -> None:
        """Check that the labels of each task differ. A factor can have none.

        Args:
            labels: The result of `labels`.
            kind: "training" or "validation".
        """
        for column, count in self.different(labels).items():
            if count == 1 or (count == 0 and column not in self.factors):
                raise ValueError(
                    f"{column} must have labels with two different values in the {kind} rows. "
                    f"Received: {column} with {count} different labels"
                )

    def _labels(self, frame: Rows, column: str) -> np.ndarray:
        if column not in self.classes:
            return read_numbers(frame, column)
        places = {value: place for place, value in enumerate(self.classes[column])}
        values = column_values(frame, column)
        if new := {*values} - {*places, None}:
            warn_user(
                f"{column} has labels that are not among the classes {self.classes[column]}. They "
                f"count as missing: {short_repr(new)}"
            )
        return np.array([places.get(value, np.nan) for value in values])

    def read(self, rows: Rows, columns: Any, weights: Mapping[str, str]) -> Any:
        """Return the inputs, the labels and the checked weights of rows.

        Args:
            rows: The rows.
            columns: The Columns of the inputs.
            weights: The columns with weights of the tasks that have some.
        """
        x, labels = columns.transform(rows, packed=True), self.labels(rows)
        if not weights:
            return x, labels, None
        found = {self.names[task]: read_numbers(rows, name) for task, name in weights.items()}
        for task in found:
            labeled_weights(found, found, task, ~np.isnan(labels[task]))  # raises errors
        return x, labels, {name: np.ones(len(rows)) for name in self.names.values()} | found

    def predictions(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return predictions `{task: (B, units)}` by column, or by column and class."""
        found: dict[str, np.ndarray] = {}
        for column, name in self.names.items():
            found |= dict(zip(self._prediction_names(column), outputs[name].T))
        return found


def join_columns(frame: Rows, values: Any, names: Sequence[str]) -> Rows:
    """Return a frame with other columns, whose rows are aligned by position.

    Args:
        frame: A frame.
        values: A frame, a dict of arrays, an array, or None for no column.
        names: The names of the columns, in the order of those of an array.
    """
    if values is None:
        return frame
    if isinstance(values, Mapping) or hasattr(values, "columns"):
        check_keys(dict.fromkeys(getattr(values, "columns", values)), names, "y")
        columns = [values[name] for name in names]
    else:
        array = values if hasattr(values, "dtype") else np.array(values, object)
        columns = [array] if len(array.shape) < 2 else [*np.asarray(array).T]
    columns = [each if hasattr(each, "dtype") else np.array(each, object) for each in columns]
    shapes = [tuple(each.shape) for each in columns]
    if shapes != [(len(frame),)] * len(names):
        raise ValueError(
            f"y must have the columns {[*names]}, with the {len(frame)} rows of a frame. "
            f"Received: y with columns of the shapes {shapes}"
        )
    index: Any = getattr(frame, "index", None)
    if index is None:  # polars has none
        return frame.with_columns(*type(frame)(dict(zip(names, columns))))
    if not all(index.equals(each.index) for each in columns if hasattr(each, "iloc")):
        warn_user("y and the frame have different indices: rows are aligned by position")
    arrays = [getattr(each, "array", each) for each in columns]
    return frame.assign(**dict(zip(names, arrays)))

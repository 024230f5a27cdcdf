"""Paired gains of predictions over other predictions, with intervals and statements."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ple_keras._checks import check_keys, short_repr
from ple_keras._typing import ByName, TaskName, Tensor
from ple_keras.families.family import Family
from ple_keras.heads.head import Head
from ple_keras.heads.kinds import row_family
from ple_keras.inspection.report_text import Report, cells, table
from ple_keras.labels.sample_space import to_number_array
from ple_keras.metrics.array_metrics import group_indices

RowLoss = Family | Callable[[np.ndarray, np.ndarray], Any]
LEAST = 1e-7  # probability, or prediction of a count or an amount
MARGIN = 1.0  # percent by which predictions that are "not worse" may be worse
# More than 5% of the statements can be false with fewer (examples/benchmarks/false_statements.py):
MIN_GROUPS, MIN_EFFECTIVE = 150, 10  # 2% of all groups are missing from 150 with a chance of 5%
SHARE = 0.99  # share of the rows whose differences with other labels are smaller


@dataclass(frozen=True)
class Gain:
    """Gain of predictions over others in a task.

    Attributes:
        gain: The gain, in percent of the other loss.
        low: The lower end of its 95% interval; NaN if there are too few groups for an interval.
        high: The upper end.
        rows: The number of rows with a label and both predictions.
        loss: The mean loss.
        other_loss: The mean loss of the others.
        statement: "better" if the interval is above 0, "worse" if it is below 0, else "not worse"
            if it is above -1% (not worse by more than 1%), else "not decided".
    """

    gain: float
    low: float
    high: float
    rows: int
    loss: float
    other_loss: float
    statement: str

    @property
    def reason(self) -> str:
        """The reason for the statement."""
        if np.isnan(self.low):
            few = f"fewer than {MIN_GROUPS}, or fewer than {MIN_EFFECTIVE} that decide"
            return f"too few rows or groups for an interval: {few}"
        interval = {"better": "is above 0", "worse": "is below 0", "not worse": "is above -1"}
        other = f"contains 0 and reaches {self.low:.1f}"
        return f"the interval {interval.get(self.statement, other)}"

    def _cells(self) -> list[str]:
        """Return the gain, the interval and the statement as text."""
        interval = " to ".join(cells(self, low="+.1f", high="+.1f")).replace("- to -", "-")
        return [*cells(self, gain="+.1f"), interval, self.statement]


@dataclass(frozen=True)
class Comparison(Report):
    """Result of `compare_predictions`; prints as a table.

    Attributes:
        name: The name of the first predictions.
        gains: `{task: {name: Gain}}`: the gains of the first predictions over each other name.
    """

    name: str
    gains: dict[str, dict[str, Gain]]

    def __str__(self) -> str:
        rows = [["task", "other", "rows", "loss", "other loss", "gain", "interval", "statement"]]
        for task, by_name in self.gains.items():
            for name, each in by_name.items():
                numbers = cells(each, rows=",", loss=".4g", other_loss=".4g")
                rows.append([task, name, *numbers, *each._cells()])
        return f"Gains of {self.name} in percent, with 95% intervals\n\n{table(rows)}"


def compare_predictions(
    y: ByName, predictions: Mapping[str, ByName], losses: Mapping[str, Any], groups: Tensor = None
) -> Comparison:
    """Return how much better predictions are than others on the same rows, with intervals.

    The rows must be like those on which the models will be used. Nothing may have been chosen with
    them: no training, stop, mixture or settings of a model. In simulations with test sets of 200 to
    5,000 rows, at most 5% of them then had a false "better" or "not worse", even with rare
    positives and heavy-tailed amounts (see `docs/recipes/boosting.md`). Large counts and amounts
    that are rarer than about 3 / rows are not covered: a test set can lack all of them.

        g = 1 - sum_k a_k / sum_k b_k
        e_k = (1 - g) b_k - a_k
        h = (m + 2 sqrt(m^2 + sum_k e_k^2)) / sum_k b_k

    a_k and b_k are the sums of the losses of the first and of the other predictions in group k, or
    the losses of row k without groups. g is the gain, and its interval is from g - h to g + h. The
    interval allows for one more group whose difference is m, the largest of all abs(e_k).

    A test set can lack the rare labels for which the predictions differ most. Therefore, m is at
    least the 99% quantile over all rows of abs(e) with the worst label for the row: its own, 0 or 1
    for "binary", any class, and for counts and amounts with some labels of 0 also 0 or the mean of
    all others.

    There is no interval if few groups decide: if there are fewer than 150 groups, if fewer than ten
    have a label other than the most frequent one, or if the square of sum_k e_k^2 is below ten
    times sum_k e_k^4. More than 5% of test sets with fewer than 150 groups lack all groups of a
    kind that is 2% of all.

    Args:
        y: `{task: labels}`, each `(B,)` or `(B, 1)`, with NaN for missing ones: 0 and 1 for
            "binary", indices for "multiclass". Frames of pandas and polars are dicts of columns.
        predictions: `{name: {task: array}}` of at least two names. The first name is compared with
            each other one. Arrays are `(B,)` or `(B, 1)`; for classes, probabilities
            `(B, classes)`. Rows with NaN in one of two predictions are left out of their pair.
        losses: `{task: loss}`: "binary" (log loss), "regression" (squared error), "count" and
            "amount" (half of the deviance of a Poisson distribution, or of a Tweedie distribution
            with power 1.5), "multiclass" (log loss), an unbuilt head of the task, such as
            `TweedieHead("claim", power=1.7)`, or a function that returns the loss of each row,
            `(rows,)`, at least 0. It gets float64 arrays of the labels and predictions of the rows
            that count, `(rows,)` or `(rows, n)`.
        groups: The group of each row, integers or strings `(B,)`, such as a person or a day, if
            rows of a group are not independent.

    Returns:
        A Comparison: print it, or use `gains[task][name]` and `to_dict()`. A Gain has `gain`,
        `low`, `high`, `rows`, `loss`, `other_loss` and `statement`.

    Raises:
        TypeError: If an argument is not a dict as described, arrays are not numbers, or a group is
            missing.
        ValueError: If there are fewer than two names, a task is missing or unknown, a loss is
            unknown, a head of another task, or not a number of at least 0 for each row, an array
            has a wrong shape or value, or a pair has fewer than two rows or groups.

    Reference:

    - Cochran, "Sampling Techniques", 3rd edition, Wiley 1977, chapter 6, on ratios, without m.

    Example:

    >>> late = np.arange(400) % 4 == 0
    >>> model, rival = np.where(late, 0.6, 0.2), np.where(late, 0.5, 0.3)
    >>> predictions = {"model": {"late": model}, "rival": {"late": rival}}
    >>> print(compare_predictions({"late": late}, predictions, {"late": "binary"}))
    Gains of model in percent, with 95% intervals
    <BLANKLINE>
      task  other  rows    loss  other loss   gain        interval  statement
      late  rival   400  0.2951      0.4408  +33.1  +31.5 to +34.6  better
    """
    by_task = read_by_task(losses, predictions, y=y)
    known = {task: _row_loss(loss, task) for task, loss in losses.items()}
    return Comparison(next(iter(predictions)), paired_gains(by_task, [*predictions], known, groups))


def _row_loss(loss: Any, task: TaskName) -> Any:
    """Return the family of a kind, or the function that was passed."""
    is_function = callable(loss) and not isinstance(loss, Head)
    return loss if is_function else row_family(loss, task, f"losses[{task!r}]", ", a function")


def paired_gains(
    by_task: Mapping[TaskName, Sequence[np.ndarray]],
    names: Sequence[str],
    losses: Mapping[TaskName, RowLoss],
    groups: Tensor = None,
) -> dict[TaskName, dict[str, Gain]]:
    """Return the gains of the first predictions over the others (see `compare_predictions`).

    Args:
        by_task: The labels and the predictions of each name, from `read_by_task`.
        names: The names of the predictions.
        losses: The loss of each task.
        groups: As for `compare_predictions`.
    """
    first, *others = names
    gains: dict[str, dict[str, Gain]] = {task: {} for task in losses}
    for task, (labels, new, *arrays) in by_task.items():
        loss = losses[task]
        ids = np.arange(len(labels)) if groups is None else group_indices(groups, len(labels))
        for name, old in zip(others, arrays):
            is_known = ~np.isnan(np.column_stack([labels, new, old])).any(axis=1)
            y_known, members = labels[is_known], np.unique(ids[is_known], return_inverse=True)[1]
            if not members.any():  # all rows are in one group
                raise ValueError(
                    "y must have at least two rows, of two groups, with a label and predictions of "
                    f"{first!r} and {name!r} for {task!r}. Received: rows={len(y_known)}"
                )
            a, b = (_possible_losses(loss, y_known, each[is_known], task) for each in (new, old))
            gains[task][name] = _gain(y_known, a, b, members)
    return gains


def read_by_task(
    losses: Mapping[TaskName, Any], predictions: Mapping[str, ByName], **labels: ByName
) -> dict[TaskName, list[np.ndarray]]:
    """Return the labels, if any, and the predictions of each name as float64 arrays by task.

    Args:
        losses: A dict keyed by task.
        predictions: `{name: {task: array}}`. Columns of a frame that are not tasks are ignored.
        **labels: `{task: array}` by argument.

    Returns:
        `{task: [labels, predictions, ...]}`, each `(rows,)` or `(rows, n)`.
    """
    if not isinstance(predictions, Mapping) or len(predictions) < 2:
        error = ValueError if isinstance(predictions, Mapping) else TypeError
        rule = "predictions must be a dict of at least two names, {name: {task: array}}"
        raise error(f"{rule}. Received: predictions={short_repr(predictions)}")
    named = {f"predictions[{name!r}]": each for name, each in predictions.items()}
    check_keys(losses, ["task"], "losses", has_all=False, has_only=False)
    found: dict[TaskName, list[np.ndarray]] = {task: [] for task in losses}
    for argument, by_task in [*labels.items(), *named.items()]:
        if hasattr(by_task, "columns"):
            by_task = {task: by_task[task] for task in by_task.columns if task in found}
        check_keys(by_task, [*losses], argument)
        for task, arrays in found.items():
            where = f"{argument}[{task!r}]"
            array = np.atleast_1d(to_number_array(by_task[task], where).astype("float64"))
            arrays.append(array[:, 0] if array.shape[1:] == (1,) else array)
            if len(array) != len(arrays[0]):
                raise ValueError(
                    f"{where} must have {len(arrays[0])} rows, like the arrays before it. "
                    f"Received: {where}.shape={array.shape}"
                )
    return found


def row_losses(loss: RowLoss, y: np.ndarray, p: np.ndarray, task: TaskName) -> np.ndarray:
    """Return the loss of each row, `(rows,)`."""
    argument = f"losses[{task!r}]"
    if isinstance(loss, Family):
        has_axes = (y.ndim, p.ndim) == (1, loss.axes)
        values = loss.row_losses(y, p, LEAST) if has_axes else np.array(np.nan)
    else:
        values = loss(y, p)
    found: np.ndarray = to_number_array(values, argument).astype("float64")
    if found.shape != y.shape[:1] or not np.all((found >= 0) & (found < np.inf)):
        raise ValueError(
            f"{argument} must be a kind that allows the labels and predictions, or a function of "
            "both that returns a finite number of at least 0 for each row. Received: "
            f"{argument}={loss!r}, losses {found.shape} for labels {y.shape} from {y.min():g} to "
            f"{y.max():g} and predictions {p.shape} from {p.min():g} to {p.max():g}"
        )
    return found


def _possible_losses(loss: RowLoss, y: np.ndarray, p: np.ndarray, task: TaskName) -> np.ndarray:
    """Return the loss of each row, and then those with other labels, `(labels, rows)`."""
    losses = [row_losses(loss, y, p, task)]
    if isinstance(loss, Family):
        wide = p.reshape(len(p), -1)
        for label in loss.possible_labels(y, p):
            labels = np.full((len(y), 1), label)
            losses.append(loss.losses(labels, wide, LEAST)[:, 0])
    return np.stack(losses)


def _gain(labels: np.ndarray, losses: np.ndarray, others: np.ndarray, groups: np.ndarray) -> Gain:
    """Return the gain of losses `(labels, rows)` over others, whose first label is that of the row.

    Args:
        labels: The labels of the rows.
        losses: The losses with these labels, and with other ones.
        others: The other losses, in this form.
        groups: The groups of the rows, from 0.
    """
    a, b = np.bincount(groups, losses[0]), np.bincount(groups, others[0])
    _, kinds, counts = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
    unlike = len(np.unique(groups[kinds.ravel() != counts.argmax()]))
    with np.errstate(all="ignore"):  # if the other loss is 0
        gain = 1 - a.sum() / b.sum()
        e = (1 - gain) * b - a
        possible = np.abs((1 - gain) * others - losses).max(axis=0)
        largest = max(np.abs(e).max(), np.quantile(possible, SHARE, method="higher"))
        squares = (e**2).sum()
        half = (largest + 2 * np.sqrt(largest**2 + squares)) / b.sum()
        is_few = len(a) < MIN_GROUPS or unlike < MIN_EFFECTIVE
        if is_few or squares**2 < MIN_EFFECTIVE * (e**4).sum():
            half = np.nan
    gain, low, high = (100 * float(each) for each in (gain, gain - half, gain + half))
    statement = "not worse" if low > -MARGIN else "not decided"
    statement = "better" if low > 0 else "worse" if high < 0 else statement
    loss, other_loss = losses[0].mean().item(), others[0].mean().item()
    return Gain(gain, low, high, len(labels), loss, other_loss, statement)

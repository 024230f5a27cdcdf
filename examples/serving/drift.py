"""Counts of the values of columns, labels and predictions, and the changes between two counts."""

import json
from collections import Counter
from pathlib import Path

import numpy as np

MISSING, UNKNOWN = 0, 1  # codes of `Columns`
BUCKETS = 1000  # of codes: a code has its own if the table has fewer values
FREQUENT = 10  # codes of a column that are compared
MIN_SHARE = 0.01
MIN_SHIFT = 0.05  # of a mean or a deviation, in former deviations
ERRORS = 4  # standard errors


def count_values(x, labels=None, predictions=None):
    """Return counts of encoded columns and, if given, of labels and predictions by task.

    The counts of several batches can be added.

    - Rows with missing and unknown values, and with numbers above the mean. A list is missing if it
      is empty, and unknown if any of its entries is.
    - "codes": occurrences of each code of ids, lists and texts, modulo 1000.
    - "number", "label", "prediction": sums of the powers 0 to 4 of finite numbers.
    """
    counts = Counter()
    for name, values in x.items():
        counts["rows"] = len(values)
        values = values.reshape(len(values), -1)
        if values.dtype == "int32":
            counts[f"{name}, missing"] = int((values == MISSING).all(axis=1).sum())
            counts[f"{name}, unknown"] = int((values == UNKNOWN).any(axis=1).sum())
            codes = values[values > UNKNOWN]
            counts[f"{name}, codes"] = np.bincount(codes % BUCKETS, minlength=BUCKETS)
        else:
            counts[f"{name}, missing"] = int(np.isnan(values).sum())
            counts[f"{name}, above the mean"] = int((values > 0).sum())
            counts[f"{name}, number"] = sums_of_powers(values)
    for kind, by_task in {"label": labels or {}, "prediction": predictions or {}}.items():
        for task, values in by_task.items():
            columns = np.reshape(values, (len(values), -1)).T
            for place, column in enumerate(columns):  # of a multiclass task, by class
                name = f"{task}/{place}" if len(columns) > 1 else task
                counts[f"{name}, {kind}"] = sums_of_powers(column)
    return counts


def sums_of_powers(values):
    known = values[np.isfinite(values)].astype("float64")
    return np.vander(known, 5, increasing=True).sum(axis=0)


def to_json(counts):
    """Return counts as the text of a file for `drift`."""
    return json.dumps(counts, default=np.ndarray.tolist)


def drift(before, after, version=None):
    """Compare two JSON files of counts, and return a line for each change.

    A share has changed if it differs by more than 0.01, and a mean or a deviation if it differs by
    more than 0.05 former deviations, and each by more than four standard errors. Of the codes of a
    column, the ten most frequent ones are compared.

    Args:
        before: A file of counts, such as those of the validation rows.
        after: A file of later counts, or of the counts of a service by version.
        version: The version of these; None for the newest one.
    """
    before, after = (json.loads(Path(file).read_text()) for file in (before, after))
    if "rows" not in after:
        after = after.get(version or max(after, default=None), {"rows": 0})
    rows = [before["rows"], after["rows"]]
    if not all(rows):
        raise ValueError(f"Both files must have counts of rows. Received: {rows=}")
    lines = []
    for name in sorted(before.keys() & after.keys() - {"rows"}):
        old, new = np.array(before[name]), np.array(after[name])
        if name.endswith(", codes"):
            totals = np.maximum([old.sum(), new.sum()], 1)
            for code in np.argsort(-old / totals[0] - new / totals[1])[:FREQUENT]:
                pair = old[code], new[code]
                lines += share_changes(f"{name[:-1]} {code}", pair, totals, "entries")
        elif old.ndim:
            lines += moment_changes(name, old, new)
        else:
            lines += share_changes(name, (old, new), np.array(rows), "rows")
    return lines


def share_changes(name, counts, totals, unit):
    """Yield a line if a share has changed."""
    old, new = counts / totals
    mean = sum(counts) / totals.sum()
    error = np.sqrt(mean * (1 - mean) * (1 / totals).sum())
    if abs(new - old) > max(MIN_SHARE, ERRORS * error):
        yield f"{name}: {old:.1%} of the {unit} before, {new:.1%} after"


def moment_changes(name, old, new):
    """Yield a line if a mean has changed, and one if a deviation has."""
    if not (old[0] and new[0]):
        return
    old, new = (figures(*each) for each in (old, new))
    for kind in ("mean", "deviation"):
        (a, error), (b, other) = old[kind], new[kind]
        if abs(b - a) > max(MIN_SHIFT * old["deviation"][0], ERRORS * np.hypot(error, other)):
            yield f"{name}: a {kind} of {a:.3g} before, {b:.3g} after"


def figures(count, *sums):
    """Return a mean and a deviation, each with its standard error, from sums of powers."""
    mean, square, cube, fourth = np.array(sums) / count
    variance = max(square - mean**2, 0.0)
    fourth += 6 * mean**2 * square - 4 * mean * cube - 3 * mean**4
    excess = max(fourth - variance**2, 2 * variance**2)  # at least that of a normal distribution
    error = np.sqrt(excess / variance / count) / 2 if variance else 0.0
    deviation = np.sqrt(variance)
    return {"mean": (mean, deviation / np.sqrt(count)), "deviation": (deviation, error)}

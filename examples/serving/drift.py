"""Counts of missing, unknown and large values, and the changes of their shares."""

import json
from collections import Counter
from pathlib import Path

import numpy as np

MISSING, UNKNOWN = 0, 1  # codes of `Columns`


def count_values(x):
    """Count the rows, and for each column the missing, unknown and above-average values.

    A list is missing if it is empty, and unknown if any of its entries is.
    """
    counts = Counter()
    for name, values in x.items():
        counts["rows"] = len(values)
        values = values.reshape(len(values), -1)
        if values.dtype == "int32":
            counts[f"{name}, missing"] = int((values == MISSING).all(axis=1).sum())
            counts[f"{name}, unknown"] = int((values == UNKNOWN).any(axis=1).sum())
        else:
            counts[f"{name}, missing"] = int(np.isnan(values).sum())
            counts[f"{name}, above the mean"] = int((values > 0).sum())
    return counts


def drift(before, after):
    """Compare two JSON files of counts, and return a line for each share of rows that has changed.

    A share has changed if it differs by more than 0.01 and by more than four standard errors.
    """
    before, after = (json.loads(Path(file).read_text()) for file in (before, after))
    rows = np.array([before["rows"], after["rows"]])
    if not rows.all():
        raise ValueError(f"Both files must have counts of rows. Received: rows={rows.tolist()}")
    lines = []
    for name in sorted(before.keys() - {"rows"}):
        counts = np.array([before[name], after[name]])
        old, new = counts / rows
        mean = counts.sum() / rows.sum()
        error = np.sqrt(mean * (1 - mean) * (1 / rows).sum())
        if abs(new - old) > max(0.01, 4 * error):
            lines.append(f"{name}: {old:.1%} of the rows before, {new:.1%} after")
    return lines

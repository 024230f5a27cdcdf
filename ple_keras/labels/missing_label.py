"""The value of a missing label."""

import math

import numpy as np


def check_missing_label(value: float | None) -> float:
    """Return the value of a missing label, in addition to NaN; None means NaN only."""
    if value is None:
        return math.nan
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        raise TypeError(f"missing_label must be a number. Received: missing_label={value!r}")
    if not isinstance(value, int | np.integer):
        return float(value)
    if not -(2**31) <= value < 2**31:
        raise ValueError(
            "missing_label must fit into 32 bits if it is an integer, because JAX keeps 32 bits of "
            f"a label. Received: missing_label={value!r}"
        )
    return int(value)


def to_config(missing_label: float) -> float | None:
    """Return the config value: JSON has no NaN, and NaN is not equal to itself."""
    return None if math.isnan(missing_label) else missing_label


def can_represent(dtype: str, value: float) -> bool:
    """Return whether labels of the dtype can equal the value; uint8 labels can't equal -1."""
    if math.isnan(value):
        return False
    if dtype == "float16":  # Keras casts labels to float32, where a rounded value is not equal
        return float(np.float16(value)) == value
    if "float" in dtype:
        return True
    if not math.isfinite(value) or value != int(value):
        return False
    low, high = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return bool(low <= value <= high)

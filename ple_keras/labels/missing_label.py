"""The number that stands for a missing label."""

import math

import numpy as np


def check_missing_label(value: float | None) -> float:
    """The number that stands for "no label" beside NaN; None is NaN alone."""
    if value is None:
        return math.nan
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        raise TypeError(f"missing_label must be a number. Received: missing_label={value!r}")
    if not isinstance(value, int | np.integer):
        return float(value)
    if not -(2**31) <= value < 2**31:
        raise ValueError(
            "missing_label as an integer must fit into 32 bits, which is what JAX keeps of a "
            f"label. Received: missing_label={value!r}"
        )
    return int(value)


def config_of(missing_label: float) -> float | None:
    """As a config holds it: JSON has no NaN, and NaN is not equal to itself."""
    return None if math.isnan(missing_label) else missing_label


def holds(dtype: str, value: float) -> bool:
    """Whether labels of the dtype can be equal to the value: -1 is no uint8, although it casts."""
    if math.isnan(value):
        return False
    if dtype == "float16":  # Keras casts labels to float32, and a rounded one is another
        return float(np.float16(value)) == value
    if "float" in dtype:
        return True
    if not math.isfinite(value) or value != int(value):
        return False
    low, high = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return bool(low <= value <= high)

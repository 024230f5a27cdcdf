"""What is added up of gates' weights, and the statistics that come of it."""

import math
from typing import Any

import numpy as np
from keras import ops

from ple_keras.layers._level.gate_weights import largest


def tracked(weights: Any, axis: int = -1) -> Any:
    """What is added up of each example along the axis of the experts, in few operations.

    The weights, each times its logarithm, the largest, and 1.
    """
    weights = ops.cast(weights, "float32")
    surprises = weights * ops.log(weights + 1e-30)  # 0 where a weight is 0
    most = largest(weights, axis)
    return ops.concatenate([weights, surprises, most, ops.ones_like(most)], axis=axis)


def num_sums(num_experts: int) -> int:
    """How many numbers `tracked` has of an example."""
    return 2 * num_experts + 2


def statistics_of(sums: np.ndarray) -> dict[str, Any]:
    """What `Gate.statistics` has, of sums of what `tracked` has."""
    num_experts = len(sums) // 2 - 1
    means = sums / (sums[-1] or math.nan)
    surprise = means[num_experts:-2].sum()
    return {
        "mean": means[:num_experts],
        "entropy": float(-surprise / max(math.log(num_experts), 1e-30)),
        "max": float(means[-2]),
    }

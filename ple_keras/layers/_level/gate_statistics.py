"""Statistics of gate weights."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._keras.tensors import is_jax_trace_outside_keras
from ple_keras._typing import Tensor
from ple_keras.layers._level.gate_ops import largest, masked_sum
from ple_keras.layers._level.observer import is_observed


class GateStatistics:
    """Sums over the examples of a gate's weights, and statistics computed from them.

    Args:
        num_experts: The number of the gate's experts.

    Attributes:
        sums: A variable `(2 num_experts + 2,)`, tracked by the gate. It holds the sums of the
            weights, of each weight times its logarithm, and of the largest weight. The last entry
            is the number of examples.
    """

    def __init__(self, num_experts: int) -> None:
        # With tf.distribute, each replica has its own sums, which are added when they are read.
        # Synchronizing replicas within a call would mix up their losses.
        self.sums = keras.Variable(
            "zeros",
            shape=(2 * num_experts + 2,),
            dtype="float32",
            trainable=False,
            autocast=False,
            aggregation="sum",
            synchronization="on_read",
            name="sums",
        )

    def update(self, weights: Tensor, mask: Tensor | None) -> None:
        """Add the weights `(..., num_experts)` of a batch where a mask `(...)` is valid."""
        self._add(masked_sum(_summands(weights, axis=-1), mask))

    def result(self) -> dict[str, Any]:
        """Return the statistics, as described in `Gate.statistics`."""
        sums = np.array(ops.convert_to_numpy(self.sums))
        num_experts = len(sums) // 2 - 1
        means = sums / (sums[-1] or math.nan)
        negative_entropy = means[num_experts:-2].sum()
        return {
            "mean": means[:num_experts],
            "entropy": float(-negative_entropy / max(math.log(num_experts), 1e-30)),
            "max": float(means[-2]),
            "count": float(sums[-1]),
        }

    def reset(self) -> None:
        """Set all sums to 0."""
        self.sums.assign(ops.zeros(self.sums.shape, "float32"))

    def _add(self, totals: Tensor) -> None:
        if not is_jax_trace_outside_keras(totals):
            self.sums.assign_add(totals)


def update_gate_statistics(statistics: Sequence[GateStatistics], weights: Tensor) -> None:
    """Add the weights `(gates, num_experts, batch)` of several gates in few operations."""
    totals = ops.sum(_summands(weights, axis=1), axis=-1)
    for gate_statistics, gate_totals in zip(statistics, ops.unstack(totals, len(statistics))):
        gate_statistics._add(gate_totals)


def are_statistics_updated(training: bool | None) -> bool:
    """Return whether a call updates statistics: only in Keras's loops and if not observed."""
    return training is not None and not is_observed()


def _summands(weights: Tensor, axis: int) -> Tensor:
    """Return the contribution of each example to the sums, along the axis of the experts."""
    weights = ops.cast(ops.stop_gradient(weights), "float32")
    weighted_logs = weights * ops.log(weights + 1e-30)  # 0 where a weight is 0
    maxima = largest(weights, axis)
    return ops.concatenate([weights, weighted_logs, maxima, ops.ones_like(maxima)], axis=axis)

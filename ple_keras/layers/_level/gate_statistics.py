"""Statistics of the weights of a gate."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ple_keras._keras.tracing import is_foreign_jax_trace
from ple_keras._typing import Tensor
from ple_keras.layers._level.gate_ops import largest, masked_sum
from ple_keras.layers._level.observer import is_observed


class GateStatistics:
    """Sums over the examples of a gate's weights, and the statistics that follow from them.

    Args:
        num_experts: The number of the gate's experts.

    Attributes:
        sums: A variable `(2 num_experts + 2,)`, for the gate to track: the sums of the weights, of
            each weight times its logarithm, of the largest weight, and the number of examples.
    """

    def __init__(self, num_experts: int) -> None:
        # With tf.distribute each replica keeps sums of its own, which are added up when read:
        # replicas that wait for each other within a call mix up the losses of all.
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

    def count(self, weights: Tensor, mask: Tensor | None) -> None:
        """Count the weights `(..., num_experts)` of a batch, where a mask `(...)` is valid."""
        self._add(masked_sum(_summands(weights, axis=-1), mask))

    def read(self) -> dict[str, Any]:
        """Return the statistics, as `Gate.statistics` describes them."""
        sums = np.array(ops.convert_to_numpy(self.sums))
        num_experts = len(sums) // 2 - 1
        means = sums / (sums[-1] or math.nan)
        surprise = means[num_experts:-2].sum()
        return {
            "mean": means[:num_experts],
            "entropy": float(-surprise / max(math.log(num_experts), 1e-30)),
            "max": float(means[-2]),
            "count": float(sums[-1]),
        }

    def reset(self) -> None:
        """Set all sums to 0."""
        self.sums.assign(ops.zeros(self.sums.shape, "float32"))

    def _add(self, totals: Tensor) -> None:
        if not is_foreign_jax_trace(totals):
            self.sums.assign_add(totals)


def count_gates(statistics: Sequence[GateStatistics], weights: Tensor) -> None:
    """Count the weights `(gates, num_experts, batch)` of several gates in few operations."""
    totals = ops.sum(_summands(weights, axis=1), axis=-1)
    for each, of_gate in zip(statistics, ops.unstack(totals, len(statistics))):
        each._add(of_gate)


def are_counted(training: bool | None) -> bool:
    """Whether a call counts: in Keras's own loops, unless the model is observed."""
    return training is not None and not is_observed()


def _summands(weights: Tensor, axis: int) -> Tensor:
    """What each example adds to the sums, along the axis of the experts."""
    weights = ops.cast(ops.stop_gradient(weights), "float32")
    surprises = weights * ops.log(weights + 1e-30)  # 0 where a weight is 0
    most = largest(weights, axis)
    return ops.concatenate([weights, surprises, most, ops.ones_like(most)], axis=axis)

"""Sums over the processes of distributed training."""

import keras
import numpy as np


def sum_over_ranks(values: np.ndarray) -> np.ndarray:
    """Return the sum over all processes of PyTorch's process group; a copy without a group.

    Every process must call it at the same point with the same shape, since it waits for all.
    """
    total = np.array(values)
    if keras.backend.backend() != "torch":
        return total
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return total
    shared = keras.ops.convert_to_tensor(total)  # on the device of the group
    distributed.all_reduce(shared)
    return np.asarray(keras.ops.convert_to_numpy(shared))

"""What the processes that train one model together have counted, as one."""

import keras
import numpy as np


def sum_over_ranks(values: np.ndarray) -> np.ndarray:
    """The sum over all processes of PyTorch's process group; a copy where there is none.

    All of them must call it at the same point, with as many values: it waits for every one.
    """
    total = np.array(values)
    if keras.backend.backend() != "torch":
        return total
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return total
    shared = keras.ops.convert_to_tensor(total)  # on the device that the group talks over
    distributed.all_reduce(shared)
    return np.asarray(keras.ops.convert_to_numpy(shared))

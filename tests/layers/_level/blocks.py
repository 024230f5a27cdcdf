"""Built blocks whose levels support every computation on PyTorch."""

import ple_keras as pk
from tests.helpers import randomize

TASKS = ["click", "buy", "like"]


def built(x, tasks=TASKS, expert_block=(6, 4), context=None, **kwargs):
    """Return a PLE of two levels with random weights, built on `x`."""
    ple = pk.PLEBlock(2, tasks, expert_block, **kwargs)
    ple(x, gate_context=context)
    randomize(ple)
    return ple

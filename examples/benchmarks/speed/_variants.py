"""Variants that can be measured, by name."""

import keras
from _cases import Case
from _models import Variant, floor, keras_variant, loop, ours
from _peers import PEERS

NETWORKS = {
    "floor": (floor, "not a PLE: Dense layers with the multiply-adds of all experts"),
    "loop": (loop, "plain Dense layers, stacked to (B, E, H); same parameters as ours"),
    "ours": (ours, "ple_keras.PLEBlock"),
}
OURS, FLOOR = "ours", "floor"


def build(name: str, case: Case, xla: bool = False) -> Variant:
    """Return a variant that is ready for its first step.

    Args:
        name: A key of NETWORKS or of PEERS.
        case: The sizes.
        xla: Whether TensorFlow compiles with XLA. Otherwise Keras does so only on GPUs.
    """
    keras.utils.set_random_seed(0)
    jit_compile = True if xla and keras.backend.backend() == "tensorflow" else "auto"
    if name in PEERS:
        return PEERS[name][0](case, jit_compile)
    network, note = NETWORKS[name]
    return keras_variant(network(case), case, jit_compile, note)

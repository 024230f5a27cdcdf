"""Serializing layers without importing TensorFlow, which Keras does wherever it is installed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from keras.src.utils import module_utils


@contextmanager
def tensorflow_not_imported() -> Iterator[None]:
    """Let Keras serialize as if TensorFlow weren't installed, unless something has imported it.

    Keras asks of every object whether it is one of TensorFlow's. Before TensorFlow is imported none
    can be, and the import takes seconds and some 500 MB.
    """
    lazy = vars(module_utils.tensorflow)
    if "tensorflow" in sys.modules or lazy.get("_available", False) is not None:
        yield
        return
    lazy["_available"] = False
    try:
        yield
    finally:
        lazy["_available"] = None

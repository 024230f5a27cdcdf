"""Files that keep the state of random generators, so that a loaded model draws what comes next."""

import keras

from ple_keras._keras.arrays import to_numpy
from ple_keras._typing import Store

SEED_KEY = "seed"


class Dropout(keras.layers.Dropout):
    """Keras's Dropout, but its files contain the state of its seed.

    The class name, in snake case, is part of the file format.
    """

    def save_own_variables(self, store: Store) -> None:
        save_seed(store, self.seed_generator)

    def load_own_variables(self, store: Store) -> None:
        load_seed(store, self.seed_generator)


def save_seed(store: Store, generator: keras.random.SeedGenerator) -> None:
    """Write the state of a generator, which Keras leaves out of files."""
    store[SEED_KEY] = to_numpy(generator.state).astype("int64")  # its dtype depends on the backend


def load_seed(store: Store, generator: keras.random.SeedGenerator) -> None:
    """Set a generator to the state in a file. Files of 0.1.0 have none and change nothing."""
    if SEED_KEY in list(store.keys()):
        generator.state.assign(to_numpy(store[SEED_KEY]).astype(generator.state.dtype))

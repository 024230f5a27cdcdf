"""What the examples' networks have in common beside the blocks under comparison."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from _data import Dataset


@dataclass(frozen=True)
class Recipe:
    """How the networks for a data set are made and trained.

    Attributes:
        widths: The units of an expert (of PLE: of an expert of each level) or of a bottom, by
            model: what makes the models' parameters about equal.
        tower: The units of a task's tower.
        dropout: In experts, bottoms and towers.
        input_dropout: On the features.
        embedding_width: The width of each categorical column's embedding.
        learning_rate: Adam's highest; a short warm-up leads to it, a cosine from it to 0.
        epochs: By default.
        batch_size: By default.
    """

    widths: dict[str, tuple[int, ...]]
    tower: tuple[int, ...]
    dropout: float
    input_dropout: float
    embedding_width: int
    learning_rate: float
    epochs: int
    batch_size: int


def features(inputs: dict[str, Any], dataset: Dataset, recipe: Recipe) -> Any:
    """Embedded codes and numbers side by side.

    All integer columns share one embedding table, each with rows of its own: one look-up in
    place of one a column is faster on every backend.
    """
    parts = [x for name, x in inputs.items() if name not in dataset.cardinalities]
    if dataset.cardinalities:
        sizes = np.concatenate(list(dataset.cardinalities.values()))
        first_rows = np.cumsum(sizes) - sizes
        codes = keras.ops.concatenate([inputs[name] for name in dataset.cardinalities], axis=-1)
        table = keras.layers.Embedding(int(sizes.sum()), recipe.embedding_width)
        parts.append(keras.layers.Flatten()(table(codes + first_rows.astype("int32"))))
    joined = keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    return keras.layers.Dropout(recipe.input_dropout)(joined) if recipe.input_dropout else joined


def cosine(peak: float, steps: int) -> keras.optimizers.schedules.CosineDecay:
    """A learning rate: up to the peak in a twentieth of the steps, down to 0 in the others."""
    warmup = max(1, steps // 20)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(1, steps - warmup),
        warmup_target=peak,
        warmup_steps=warmup,
    )

"""Networks under comparison: features, a block and heads."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np
from _data import Dataset

import ple_keras as pk

MULTI_TASK = {
    "bottom": "shared bottom",
    "mmoe": "MMoE",
    "cgc": "CGC (PLE, 1 level)",
    "ple": "PLE (2 levels)",
}
MODELS = {"trees": "boosted trees", "single": "single-task", **MULTI_TASK}
# The widths of these are those of the kind before the first "-".
ISOLATED = {
    "ple-isolated": "PLE, isolated experts",
    "cgc-streams": "CGC, features by stream",
    "ple-streams": "PLE, isolated experts, features by stream",
}


@dataclass(frozen=True)
class Recipe:
    """Sizes and training arguments of the networks for a data set.

    Attributes:
        widths: By model, the units of an expert (for PLE, of an expert of each level) or of a
            bottom. Chosen so that the models have about the same number of parameters.
        tower: The units of a task's tower.
        dropout: Dropout rate in experts, bottoms and towers.
        input_dropout: Dropout rate of the features.
        embedding_width: The width of each categorical column's embedding.
        learning_rate: Adam's peak learning rate, with a short warm-up and a cosine decay to 0.
        epochs: Default number of epochs.
        batch_size: Default batch size.
    """

    widths: dict[str, tuple[int, ...]]
    tower: tuple[int, ...]
    dropout: float
    input_dropout: float
    embedding_width: int
    learning_rate: float
    epochs: int
    batch_size: int

    def with_overrides(self, epochs: int | None, batch_size: int | None) -> "Recipe":
        """Return a copy with the command line's values. None keeps the default."""
        return replace(self, epochs=epochs or self.epochs, batch_size=batch_size or self.batch_size)


def build_network(
    kind: str,
    tasks: list[str],
    dataset: Dataset,
    head: Callable[..., pk.Head],
    recipe: Recipe,
) -> keras.Model:
    """Return a compiled network for the tasks.

    Args:
        kind: A key of `MODELS` or of `ISOLATED`.
        tasks: The tasks, in order.
        dataset: The data to train on.
        head: `(task, tower=...) -> Head`.
        recipe: Sizes and training arguments.
    """
    tower = pk.ExpertBlock(recipe.tower, dropout=recipe.dropout)
    heads = pk.TaskHeads([head(task, tower=tower) for task in tasks])
    heads.check_labels({task: dataset.train.labels[task] for task in tasks})
    inputs = {
        name: keras.Input(x.shape[1:], dtype=x.dtype.name, name=name)
        for name, x in dataset.train.inputs.items()
    }
    features = build_features(inputs, dataset, recipe)
    if kind.endswith("-streams"):
        features = pk.StreamFeatures(tasks, keras.Model(inputs, features))(inputs)
    model = keras.Model(inputs, heads(build_block(kind, tasks, recipe)(features)))
    steps = -(-len(dataset.train) // recipe.batch_size) * recipe.epochs
    optimizer = keras.optimizers.Adam(cosine_schedule(recipe.learning_rate, steps))
    model.compile(optimizer, **heads.compile_kwargs())
    return model


def build_block(kind: str, tasks: list[str], recipe: Recipe) -> keras.Layer:
    """Return the block under comparison.

    It maps features to a representation for each task. With K tasks, PLE and CGC have one expert
    per task and one shared expert, so K + 1 experts per level. MMoE also has K + 1 experts. A
    single-task network is a shared bottom with one task.
    """
    base = kind.partition("-")[0]
    widths = recipe.widths[base]
    expert = partial(pk.ExpertBlock, dropout=recipe.dropout)
    if base == "mmoe":
        return pk.MMoEBlock(tasks, expert(widths), num_experts=len(tasks) + 1)
    if base == "cgc":
        return pk.PLEBlock(1, tasks, expert(widths))
    if base == "ple":
        levels = [expert(width) for width in widths]
        isolated = kind in ("ple-isolated", "ple-streams")
        return pk.PLEBlock(len(levels), tasks, levels, isolate_task_experts=isolated)
    return pk.SharedBottomBlock(tasks, expert(widths))


def build_features(inputs: dict[str, Any], dataset: Dataset, recipe: Recipe) -> Any:
    """Return embedded codes and numbers side by side.

    All integer columns share one embedding table, in which each has its own rows. One lookup for
    all columns is faster on every backend than one per column.
    """
    parts = [x for name, x in inputs.items() if name not in dataset.cardinalities]
    if dataset.cardinalities:
        sizes = np.concatenate(list(dataset.cardinalities.values()))
        first_rows = np.cumsum(sizes) - sizes
        codes = keras.ops.concatenate([inputs[name] for name in dataset.cardinalities], axis=-1)
        table = keras.layers.Embedding(int(sizes.sum()), recipe.embedding_width, name="codes")
        parts.append(keras.layers.Flatten()(table(codes + first_rows.astype("int32"))))
    joined = keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    return keras.layers.Dropout(recipe.input_dropout)(joined) if recipe.input_dropout else joined


def cosine_schedule(peak: float, steps: int) -> keras.optimizers.schedules.CosineDecay:
    """Return a schedule: warm-up for 1/20 of the steps, then cosine decay to 0."""
    warmup = max(1, steps // 20)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(1, steps - warmup),
        warmup_target=peak,
        warmup_steps=warmup,
    )

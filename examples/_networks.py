"""The networks under comparison: features, a block, heads."""

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

    def adapted(self, epochs: int | None, batch_size: int | None) -> "Recipe":
        """With what the command line gives in place of the defaults."""
        return replace(self, epochs=epochs or self.epochs, batch_size=batch_size or self.batch_size)


def build_network(
    kind: str,
    tasks: list[str],
    dataset: Dataset,
    head: Callable[..., pk.Head],
    recipe: Recipe,
) -> keras.Model:
    """A compiled network for the tasks.

    Args:
        kind: A key of `MODELS`.
        tasks: The tasks, in order.
        dataset: What it is to be trained on.
        head: From a task's name and tower to its head.
        recipe: How it is made.
    """
    return compiled(task_block(kind, tasks, recipe), tasks, dataset, head, recipe)


def compiled(
    block: keras.Layer,
    tasks: list[str],
    dataset: Dataset,
    head: Callable[..., pk.Head],
    recipe: Recipe,
) -> keras.Model:
    """A compiled network of features, the given block and heads; arguments as above."""
    tower = pk.ExpertBlock(recipe.tower, dropout=recipe.dropout)
    heads = pk.TaskHeads([head(task, tower=tower) for task in tasks])
    heads.check_labels({task: dataset.train.labels[task] for task in tasks})
    inputs = {
        name: keras.Input(x.shape[1:], dtype=x.dtype.name, name=name)
        for name, x in dataset.train.inputs.items()
    }
    model = keras.Model(inputs, heads(block(features(inputs, dataset, recipe))))
    steps = -(-len(dataset.train) // recipe.batch_size) * recipe.epochs
    optimizer = keras.optimizers.Adam(cosine(recipe.learning_rate, steps))
    model.compile(optimizer, **heads.compile_kwargs())
    return model


def task_block(kind: str, tasks: list[str], recipe: Recipe) -> keras.Layer:
    """The block under comparison: from features to a representation for each task.

    With one expert a task and a shared one, PLE and CGC have one expert a level more than there
    are tasks; MMoE has as many. A single-task network is a shared bottom that one task has to
    itself.
    """
    widths = recipe.widths[kind]
    expert = partial(pk.ExpertBlock, dropout=recipe.dropout)
    if kind == "mmoe":
        return pk.MMoEBlock(tasks, expert(widths), num_experts=len(tasks) + 1)
    if kind == "cgc":
        return pk.PLEBlock(1, tasks, expert(widths), num_task_experts=1, num_shared_experts=1)
    if kind == "ple":
        levels = [expert(width) for width in widths]
        return pk.PLEBlock(len(levels), tasks, levels, num_task_experts=1, num_shared_experts=1)
    return pk.SharedBottomBlock(tasks, expert(widths))


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
        table = keras.layers.Embedding(int(sizes.sum()), recipe.embedding_width, name="codes")
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

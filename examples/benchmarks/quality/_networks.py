"""Networks under comparison: features, a block and heads."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np
from _data import Dataset
from _gradient_surgery import SurgeryModel
from _literature_level import LiteratureLevel

import ple_keras as pk


@dataclass(frozen=True)
class Network:
    """A kind of network.

    Attributes:
        title: Its name in tables.
        block: Its block: "single", "bottom", "mmoe", "mmoe-levels", "cgc", "ple" or "hedged".
        isolated: Whether the task experts are isolated.
        streams: Whether every stream has its own copy of the features.
        uncertainty: Whether the weights of the losses are learned.
        base: For an option under test, the kind of network that it is compared with, or "".
        option: An option of `LiteratureLevel`, or "".
        task_experts: In each level, the numbers of experts of the first and of every other task.
        gate_dropout: The probability of dropping an expert from a gate.
        reduction: The `reduction` of all heads.
        branches: Of "hedged": "own" for a shared branch and one of its own for each task, "ple" for
            these and a PLE, "bottoms" for two shared branches of half the width, or "stopped" for
            own branches on the features of the shared one, which these do not train.
        is_alone: Whether each task has networks of its own, which are trained alone.
        mixture: Of "hedged": "" for weights that are fitted on validation rows, or "equal". With a
            `base`, it is a mixture of the branches of that network, see `other_mixtures`.
        share_exponent: Of "hedged", the exponent of a task's share of labels in its gradient.
        optimizer: A key of `OPTIMIZER_CLASSES`.
        surgery: Whether conflicting gradients of tasks are projected (PCGrad); PyTorch only.
    """

    title: str
    block: str
    isolated: bool = False
    streams: bool = False
    uncertainty: bool = False
    base: str = ""
    option: str = ""
    task_experts: tuple[int, int] = (1, 1)
    gate_dropout: float = 0.0
    reduction: str | None = None
    branches: str = "own"
    is_alone: bool = False
    mixture: str = ""
    share_exponent: float = 0.5
    optimizer: str = "adam"
    surgery: bool = False


STREAMS = Network("PLE, isolated, features by stream", "ple", isolated=True, streams=True)
NETWORKS = {
    "single": Network("single-task", "single", is_alone=True),
    "bottom": Network("shared bottom", "bottom"),
    "bottom-uncertainty": Network(
        "shared bottom, learned loss weights", "bottom", uncertainty=True
    ),
    "mmoe": Network("MMoE", "mmoe"),
    "mmoe-levels": Network("MMoE, 2 levels", "mmoe-levels"),
    "cgc": Network("CGC (PLE, 1 level)", "cgc"),
    "ple": Network("PLE (2 levels)", "ple"),
    "ple-isolated": Network("PLE, isolated", "ple", isolated=True),
    "cgc-streams": Network("CGC, features by stream", "cgc", streams=True),
    "ple-streams": STREAMS,
}
LITERATURE = {
    f"ple-streams-{option}": replace(
        STREAMS, title=f"{STREAMS.title}, {name}", base="ple-streams", option=option
    )
    for option, name in (("residual", "residual"), ("visible", "visible experts"))
}
# For data whose first task has few labels.
SCARCE = {
    "ple-visible": Network(
        "PLE, isolated, visible experts", "ple", True, base="ple-isolated", option="visible"
    ),
    "ple-no-expert": Network(
        "PLE, scarce task without expert", "ple", base="ple", task_experts=(0, 1)
    ),
    "ple-no-other": Network(
        "PLE, other task without expert", "ple", base="ple", task_experts=(1, 0)
    ),
    "ple-gate-dropout": Network("PLE, gate dropout 0.3", "ple", base="ple", gate_dropout=0.3),
}
# For data with missing labels. Without them, the reduction changes nothing.
ROOT = {
    f"{base}-root": replace(
        NETWORKS[base],
        title=f"{NETWORKS[base].title}, label_root",
        base=base,
        reduction="label_root",
    )
    for base in ("bottom", "mmoe", "cgc", "ple")
}
# Mixtures of branches, fitted on the validation rows.
HEDGED = {
    "hedged": Network("hedged branches", "hedged", streams=True),
    "hedged-bottoms": Network(
        "ensemble: two shared bottoms, fitted", "hedged", base="hedged", branches="bottoms"
    ),
    "hedged-stopped": Network(
        "hedged, common features", "hedged", base="hedged", branches="stopped"
    ),
    "hedged-ple": Network(
        "hedged, PLE as a third branch", "hedged", streams=True, base="hedged", branches="ple"
    ),
    "single-pair": Network(
        "ensemble: two single-task networks",
        "hedged",
        branches="bottoms",
        is_alone=True,
        mixture="equal",
    ),
}
# Mixtures of the branches of a trained network, which are scored with it.
MIXTURES = {
    f"{base}-{mixture}": replace(HEDGED[base], title=name, base=base, mixture=mixture)
    for base, mixture, name in (
        ("hedged", "equal", "hedged, equal weights"),
        ("hedged", "train", "hedged, fitted on training rows"),
        ("hedged", "shared", "hedged, shared branch only"),
        ("hedged", "own", "hedged, own branch only"),
        ("hedged-bottoms", "equal", "ensemble: two shared bottoms, equal weights"),
    )
}
EXPONENTS = {
    f"hedged-exponent-{exponent}": replace(
        HEDGED["hedged"],
        title=f"hedged, share of labels to the power {exponent}",
        base="hedged",
        share_exponent=exponent,
    )
    for exponent in (0, 1)
}
OPTIMIZER_CLASSES = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "adagrad": keras.optimizers.Adagrad,
    "sgd": keras.optimizers.SGD,
}
OPTIMIZERS = {
    f"{base}-{optimizer}": replace(network, title=f"{network.title}, {name}", optimizer=optimizer)
    for optimizer, name in (("adamw", "AdamW"), ("adagrad", "Adagrad"), ("sgd", "SGD"))
    for base, network in {**NETWORKS, **HEDGED}.items()
    if base in ("single", "bottom", "hedged")
}
# In no setting by default, since they need PyTorch.
SURGERY = {
    f"{base}-pcgrad": replace(
        NETWORKS[base], title=f"{NETWORKS[base].title}, PCGrad", base=base, surgery=True
    )
    for base in ("bottom", "ple")
}
ALL_NETWORKS = {
    **NETWORKS,
    **LITERATURE,
    **SCARCE,
    **ROOT,
    **HEDGED,
    **MIXTURES,
    **EXPONENTS,
    **OPTIMIZERS,
    **SURGERY,
}
# Without embedding tables there are no features to copy, and these networks are equal.
WITHOUT_TABLES = {
    "cgc-streams": "cgc",
    "ple-streams": "ple-isolated",
    "ple-streams-visible": "ple-visible",
    "hedged-stopped": "hedged",
}
TREES = "boosted trees"
TABLE = "codes"


@dataclass(frozen=True)
class Recipe:
    """Sizes and training arguments of the networks for a data set.

    Attributes:
        widths: By block, the units of an expert (with several levels, of an expert of each level)
            or of a bottom. Chosen so that the networks have about the same number of parameters.
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
        kind: A key of `ALL_NETWORKS`.
        tasks: The tasks, in order.
        dataset: The data to train on.
        head: `(task, tower=..., reduction=...) -> Head`.
        recipe: Sizes and training arguments.
    """
    network = ALL_NETWORKS[kind]
    tower = pk.ExpertBlock(recipe.tower, dropout=recipe.dropout)
    weighting = "uncertainty" if network.uncertainty else None
    reduction = {"reduction": network.reduction} if network.reduction else {}
    heads = pk.TaskHeads(
        [head(task, tower=tower, **reduction) for task in tasks], loss_weighting=weighting
    )
    heads.check_labels({task: dataset.train.labels[task] for task in tasks})
    inputs = {
        name: keras.Input(x.shape[1:], dtype=x.dtype.name, name=name)
        for name, x in dataset.train.inputs.items()
    }
    features = build_features(inputs, dataset, recipe)
    has_copies = network.streams or network.branches == "bottoms"
    if has_copies and dataset.cardinalities:  # numbers alone have no weights to copy
        streams = {"bottoms": ["first", "second"], "ple": [*tasks, "ple"]}
        features = pk.StreamFeatures(
            streams.get(network.branches, tasks),
            keras.Model(inputs, features),
            shared=network.branches != "bottoms",
        )(inputs)
    if network.block == "hedged":
        features = hedged_features(network, tasks, features, recipe)
        features = scale_shared_gradients(network, features, dataset)
    else:
        block = build_block(network, tasks, recipe.widths[network.block], recipe.dropout)
        features = block(features)
    model_class = SurgeryModel if network.surgery else pk.MultiTaskModel
    model = model_class(inputs, heads(features))
    steps = -(-len(dataset.train) // recipe.batch_size) * recipe.epochs
    optimizer = OPTIMIZER_CLASSES[network.optimizer](cosine_schedule(recipe.learning_rate, steps))
    model.compile(optimizer)
    return model


def build_block(
    network: Network, tasks: list[str], widths: tuple[int, ...], dropout: float
) -> keras.Layer:
    """Return the block under comparison.

    It maps features to a representation for each task. With K tasks, PLE and CGC have one expert
    per task and one shared expert, so K + 1 experts per level. MMoE also has K + 1 experts. A
    single-task network is a shared bottom with one task.
    """
    expert = partial(pk.ExpertBlock, dropout=dropout)
    levels = [expert(width) for width in widths]
    first, others = network.task_experts
    counts = dict.fromkeys(tasks, others) | {tasks[0]: first}
    if network.block in ("single", "bottom"):
        return pk.SharedBottomBlock(tasks, expert(widths))
    if network.block == "mmoe":
        return pk.MMoEBlock(tasks, expert(widths), num_experts=len(tasks) + 1)
    if network.block == "mmoe-levels":
        return pk.PLEBlock(len(levels), tasks, levels, 0, len(tasks) + 1)
    if network.block == "cgc":
        return pk.PLEBlock(1, tasks, expert(widths))
    if network.option:
        last = len(levels) - 1
        return pk.SequentialBlock(
            [LiteratureLevel(tasks, x, network.option, i < last) for i, x in enumerate(levels)]
        )
    return pk.PLEBlock(
        len(levels),
        tasks,
        levels,
        counts,
        gate_kwargs={"dropout": network.gate_dropout},
        isolate_task_experts=network.isolated,
    )


def hedged_features(network: Network, tasks: list[str], features: Any, recipe: Recipe) -> Any:
    """Return the features of each task by branch.

    There are K + 1 experts, as in CGC. Two bottoms have the same number of parameters.
    """
    own = pk.ExpertBlock(recipe.widths["hedged"], dropout=recipe.dropout)
    if network.branches == "bottoms":
        width, *others = recipe.widths["single" if network.is_alone else "bottom"]
        bottom = pk.ExpertBlock([width // 2, *others], dropout=recipe.dropout)
        streams = features if isinstance(features, dict) else {}
        by_branch = {
            name: pk.SharedBottomBlock(tasks, bottom, name=name)(streams.get(name, features))
            for name in ("first", "second")
        }
        return {task: {name: x[task] for name, x in by_branch.items()} for task in tasks}
    if network.branches == "stopped":
        stopped = keras.ops.stop_gradient(features)
        features = {**dict.fromkeys(tasks, stopped), "shared": features}
    if network.branches == "ple":
        levels = [pk.ExpertBlock(x, dropout=recipe.dropout) for x in recipe.widths["hedged-ple"]]
        own = pk.ExpertBlock(recipe.widths["hedged-ple"], dropout=recipe.dropout)
        of_ple = features
        if isinstance(features, dict):
            of_ple = features["ple"]
            features = {stream: x for stream, x in features.items() if stream != "ple"}
        ple = pk.PLEBlock(len(levels), tasks, levels)(of_ple)
        return {
            task: {**branches, "ple": ple[task]}
            for task, branches in pk.HedgedBlock(tasks, own)(features).items()
        }
    return pk.HedgedBlock(tasks, own)(features)


def scale_shared_gradients(network: Network, features: Any, dataset: Dataset) -> Any:
    """Return the features with other gradients of the shared branch.

    The library multiplies the mean gradient over the labeled rows of a task by the root of the
    share of its labels, and this by another power of the share.
    """
    power = network.share_exponent - 0.5
    if not power:
        return features
    scaled = {}
    for task, branches in features.items():
        share = float(np.mean(~np.isnan(dataset.train.labels[task])))
        x, factor = branches["shared"], share**power
        x = factor * x + (1 - factor) * keras.ops.stop_gradient(x)
        scaled[task] = {**branches, "shared": x}
    return scaled


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
        table = keras.layers.Embedding(int(sizes.sum()), recipe.embedding_width, name=TABLE)
        parts.append(keras.layers.Flatten()(table(codes + first_rows.astype("int32"))))
    joined = keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    return keras.layers.Dropout(recipe.input_dropout)(joined) if recipe.input_dropout else joined


def title(kind: str) -> str:
    """Return the name of a model in tables. `kind` is "trees" or a key of `ALL_NETWORKS`."""
    return TREES if kind == "trees" else ALL_NETWORKS[kind].title


def count_parameters(model: keras.Model) -> tuple[int, int]:
    """Return the numbers of trainable parameters outside and inside of embedding tables."""
    sizes = [(int(np.prod(w.shape)), TABLE in w.path) for w in model.trainable_weights]
    return sum(n for n, table in sizes if not table), sum(n for n, table in sizes if table)


def cosine_schedule(peak: float, steps: int) -> keras.optimizers.schedules.CosineDecay:
    """Return a schedule: warm-up for 1/20 of the steps, then cosine decay to 0."""
    warmup = max(1, steps // 20)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(1, steps - warmup),
        warmup_target=peak,
        warmup_steps=warmup,
    )

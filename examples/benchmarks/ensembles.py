"""Compare hedged branches with ensembles of equal size, and with the best epoch for each task.

    pip install -e ".[torch,tables,retail]"
    KERAS_BACKEND=torch python -m examples.benchmarks.ensembles        # from kept scores
    KERAS_BACKEND=torch python -m examples.benchmarks.ensembles --run  # adds what is missing

Hedged branches are an ensemble of two networks for each task, and cost more than one network. The
rows, parts, inputs and stopping rules are those of the first nine tables of against_boosting.py,
and of retail.py. `--run` keeps predictions in the folder `predictions`. Three seeds take 1.1 CPU
hours. These rules were written before the first fit:

    hedged              TabularModel with its defaults, which fits its mixtures on validation rows
    equal weights       the same fit, whose branches count one half each
    bottom              a shared bottom, of the epoch with the best mean over tasks
    epoch by task       the same fit, with the trunk and the head of the best epoch of each task. It
                        trains until no task has improved for as many epochs as `bottom` waits
    single              a network for each task
    bottom and single   the mean of their logits
    two bottoms         the mean of the logits of two shared bottoms with other seeds. Both together
                        have about as many parameters as hedged branches, tables included: all
                        widths are multiplied by one factor
    two singles         the same of two networks for each task

    logits      of a regression: predictions; of counts and amounts: their logarithms. Hedged
                branches mix these, too
    seconds     CPU seconds of one thread, until the predictions of the validation and test rows
    verdicts    as in against_boosting.py, on test rows of all seeds
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import product
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
from scipy import special

import ple_keras as pk
from ple_keras.heads.task_heads import hedged_heads

from . import against_boosting as boosting
from . import retail
from ._frames import ALL, NEW, ROOT, TABLES, compare, encode
from ._tables import align_columns, make_parser
from ._verdicts import GENERATED
from .against_boosting import NETWORK, PREDICTIONS
from .never_worse import write

KEPT = ROOT / "docs" / "results" / "ensembles.json"
PAGE = ROOT / "docs" / "results" / "ensembles.md"
RETAIL = "retail"
NAMES = [*(name for name in TABLES if ALL not in name and name not in NEW), RETAIL]
EQUAL, BY_TASK, JOINED = "equal weights", "epoch by task", "bottom and single"
FITS = ["hedged", "bottom", "single", "two bottoms", "two singles"]
RIVALS = ["single", "bottom", BY_TASK, JOINED, "two bottoms", "two singles", EQUAL]
PAIRS = [*(f"hedged over {rival}" for rival in RIVALS), f"{BY_TASK} over bottom"]
MEAN = "mean"  # of all tasks
LINKS = {"binary": (special.logit, special.expit), "regression": (np.positive, np.positive)}
OTHER_SEED = 100  # of the second network of a pair
OPTIONS = {"bottom": {"reduction": "label_root"}, "single": {}}  # as in against_boosting.py
PATIENCE = {RETAIL: 2}  # as in retail.py


class Job(NamedTuple):
    """The encoded parts of a table, the kinds of its tasks, and the labels of the test rows."""

    data: Any
    kinds: dict[str, str]
    test: pd.DataFrame
    groups: Any  # of the test rows
    alone: Callable  # `(data, task)` to the data of the network of one task


@lru_cache(maxsize=1)
def load(table: str, seed: int) -> Job:
    """Return a table."""
    compare.PATIENCE = PATIENCE.get(table, 5)
    if table == RETAIL:
        frame, rows = retail.load(retail.PARTS)
        data = encode(frame.drop(columns="week"), retail.IDS, rows, retail.TASKS)
        test = frame.loc[rows[2]]
        return Job(data, retail.TASKS, test, test["household_id"].to_numpy(), retail.labeled)
    found, data, labels = boosting.load(table, seed)
    test, kinds = found.rows[2], boosting.kinds_of(labels)
    return Job(data, kinds, labels.loc[test], found.groups[test], lambda data, task: data)


# The fits


class BestEpochs(compare.RelativeLoss):
    """Callback that keeps the loss, the epoch and the weights of the best epoch of all tasks.

    `by_task` keeps those of each task, too, and trains until no task has improved for a while.
    `stopped` is the CPU time when their mean had not.
    """

    def __init__(self, by_task: bool, *args: Any) -> None:
        super().__init__(*args)
        self.by_task, self.kept, self.stopped = by_task, {}, 0.0

    def on_epoch_end(self, epoch: int, logs: Any) -> None:
        super().on_epoch_end(epoch, logs)
        losses = {**self.losses} if self.by_task else {}
        if not self.stopped:
            losses[MEAN] = logs["relative_loss"]
        weights = self.model.get_weights()
        for key, loss in losses.items():
            if key not in self.kept or loss < self.kept[key][0]:
                self.kept[key] = loss, epoch, weights
        waited = {key: epoch - kept[1] for key, kept in self.kept.items()}
        if waited[MEAN] >= compare.PATIENCE and not self.stopped:
            self.stopped = time.process_time()
        self.model.stop_training = min(waited.values()) >= compare.PATIENCE


def predict(model: keras.Model, names: dict[str, str], data: Any) -> dict[str, np.ndarray]:
    """Return the predictions of the validation rows, followed by those of the test rows."""
    parts = [compare.predict(model, x) for x in data.x[1:]]
    return {task: np.concatenate([p[name] for p in parts]) for task, name in names.items()}


def count(model: keras.Model) -> int:
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def train_hedged(job: Job, seed: int, parameters: int, fit: str) -> dict[str, Any]:
    limits = {"epochs": compare.EPOCHS, "batch_size": compare.BATCH, "patience": compare.PATIENCE}
    frames, start = job.data.frames, time.process_time()
    model = pk.TabularModel(job.kinds, columns=job.data.columns, seed=seed)
    model.fit(frames[0], validation=frames[1], verbose=0, **limits)
    network = model.keras_model
    found = {"hedged": predict(network, model.task_names, job.data)}
    seconds = time.process_time() - start
    for head in hedged_heads(network).values():
        head.mixture.assign(np.full(2, 0.5, "float32"))
    found[EQUAL] = predict(network, model.task_names, job.data)
    return {"p": found, "seconds": dict.fromkeys(found, seconds), "parameters": count(network)}


def train_networks(job: Job, seed: int, parameters: int, fit: str) -> dict[str, Any]:
    """Train one or two networks for all tasks, or for each task."""
    block, seeds, setting, options = fit, [seed], NETWORK, {}
    if fit.startswith("two"):
        block, seeds = fit.split()[1].removesuffix("s"), [seed, seed + OTHER_SEED]
        setting, options = sizes(factor_of(job, block, parameters))
    options, callback = options | OPTIONS[block], partial(BestEpochs, fit == "bottom")
    trained: dict[str, Any] = {"p": {}, "seconds": {}, "parameters": 0}
    found, start, more = [], time.process_time(), 0.0
    for each, group in product(seeds, groups_of(job.kinds, block)):
        data = job.alone(job.data, *group) if block == "single" else job.data
        keras.utils.set_random_seed(each)
        model, names = compare.new_network(block, data, group, setting, **options)
        best = compare.train(model, names, data, group, callback)
        more += time.process_time() - (best.stopped or time.process_time())
        model.set_weights(best.kept[MEAN][2])
        found.append(predict(model, names, data))
        trained["parameters"] += count(model)
    trained["seconds"][fit] = time.process_time() - start - more
    p = {task: [each[task] for each in found if task in each] for task in job.kinds}
    trained["p"][fit] = average(job.kinds, p)
    if fit == "bottom":
        trained["p"][BY_TASK] = {}
        for task, name in names.items():
            model.set_weights(best.kept[name][2])
            trained["p"][BY_TASK] |= predict(model, {task: name}, data)
        trained["seconds"][BY_TASK] = time.process_time() - start
        trained["epochs"] = {t: best.kept[n][1] for t, n in (names | {MEAN: MEAN}).items()}
    return trained


def groups_of(kinds: dict[str, str], block: str) -> list[dict[str, str]]:
    """Return the tasks of each network of a block."""
    return [{task: kind} for task, kind in kinds.items()] if block == "single" else [kinds]


def sizes(factor: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a setting, and arguments of heads, with the default widths times a factor."""

    def scale(width: int) -> int:
        return max(round(factor * width), 1)

    setting = NETWORK | {
        name: scale(NETWORK[name]) for name in ("embedding_dim", "number_embedding_dim")
    }
    setting["units"] = [scale(each) for each in compare.DEFAULTS["units"]]
    return setting, {"tower": [scale(each) for each in compare.DEFAULTS["tower"]]}


def factor_of(job: Job, block: str, parameters: int) -> float:
    """Return the factor of widths with which two networks have about as many parameters."""
    first, *others = groups_of(job.kinds, block)  # networks of other tasks are as large
    low, high = 0.25, 6.0
    while high - low > 0.02:
        factor = (low + high) / 2
        setting, options = sizes(factor)
        model, _ = compare.new_network(block, job.data, first, setting, **options)
        is_large = 2 * (1 + len(others)) * count(model) > parameters
        low, high = (low, factor) if is_large else (factor, high)
    return low


def average(kinds: dict[str, str], found: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the predictions of the mean logits."""
    means = {}
    for task, kind in kinds.items():
        link, inverse = LINKS.get(kind, (np.log, np.exp))
        values = np.array(found[task], "float64")
        if kind != "regression":
            largest = 1 - compare.LEAST if kind == "binary" else None
            values = np.clip(values, compare.LEAST, largest)
        means[task] = inverse(link(values).mean(axis=0))
    return means


def run(tables: Sequence[str], seeds: Sequence[int]) -> None:
    """Train what is not kept, and compare. Results are written after each fit."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    PREDICTIONS.mkdir(exist_ok=True)
    rows = pd.DataFrame({"x": range(40), "y": np.arange(40) % 2})
    pk.TabularModel({"y": "binary"}).fit(rows, epochs=1, verbose=0)  # imports are not timed
    for seed, table, fit in product(seeds, tables, FITS):
        of_table = kept.setdefault(table, {"fits": {}, "gains": {}})
        fits, file = of_table["fits"].setdefault(fit, {}), file_of(table, seed, fit)
        if str(seed) in fits and file.exists():
            continue
        job = load(table, seed)
        of_table["rows"] = [len(each) for each in job.data.frames]
        parameters = of_table["fits"]["hedged"].get(str(seed), {}).get("parameters", 0)
        train = train_hedged if fit == "hedged" else train_networks
        trained = train(job, seed, parameters, fit)
        found = {f"{m}|{t}": each for m, p in trained.pop("p").items() for t, each in p.items()}
        np.savez_compressed(file, **{name: each.astype("float32") for name, each in found.items()})
        seconds = {model: round(each, 1) for model, each in trained["seconds"].items()}
        fits[str(seed)] = trained | {"seconds": seconds}
        KEPT.write_text(json.dumps(kept, indent=1))
        print(time.strftime("%H:%M"), table, seed, fit, fits[str(seed)], flush=True)
    for table in tables:
        compare_models(table, kept[table])
        KEPT.write_text(json.dumps(kept, indent=1))


def file_of(table: str, seed: int, fit: str) -> Any:
    return PREDICTIONS / f"ensembles-{table}-{seed}-{fit}.npz"


def read(table: str, seed: int, job: Job) -> dict[str, pd.DataFrame]:
    """Return the predictions of all models for the test rows."""
    found: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for fit in FITS:
        with np.load(file_of(table, seed, fit)) as arrays:
            for name, values in arrays.items():
                model, task = name.split("|")
                found[model][task] = values[-len(job.test) :].astype("float64")
    pair = {task: [found[model][task] for model in ("bottom", "single")] for task in job.kinds}
    found[JOINED] = average(job.kinds, pair)
    return {model: pd.DataFrame(p, job.test.index) for model, p in found.items()}


def compare_models(table: str, of_table: dict[str, Any]) -> None:
    """Add the scores, and the gains over the test rows of all kept seeds."""
    tests, of_table["scores"] = [], {}
    for seed in map(int, of_table["fits"]["single"]):
        job = load(table, seed)
        p = read(table, seed, job)
        labels = job.test[[*job.kinds]]
        tests.append((labels.assign(seed=seed, group=job.groups), p))
        of_table["scores"][str(seed)] = {model: boosting.scores_of(labels, p[model]) for model in p}
    of_table["gains"] = {pair: {} for pair in PAIRS}
    boosting.add_gains(of_table["gains"], tests, job.kinds)


# The results


def format_costs(kept: dict[str, Any]) -> str:
    """Return thousands of parameters and CPU seconds of each model, means over seeds."""
    table = [["", "seeds", *FITS, BY_TASK]]
    for name, of_table in kept.items():
        table.append([name, str(len(of_table["scores"]))])
        for model in table[0][2:]:
            found = of_table["fits"]["bottom" if model == BY_TASK else model].values()
            pairs = [(each["parameters"] / 1000, each["seconds"][model]) for each in found]
            table[-1].append("{:,.0f}k, {:,.0f} s".format(*np.mean(pairs, axis=0)))
    return align_columns(table)


def tables_of(kept: dict[str, Any]) -> dict[str, str]:
    """Return the tables of the page by name, and others."""
    gains = boosting.read_gains(kept, NAMES)
    of_real = gains[~gains["table"].isin(GENERATED)]
    found = {"verdicts": boosting.format_verdicts(gains, PAIRS)}
    found |= {"real tables": boosting.format_verdicts(of_real, PAIRS), "costs": format_costs(kept)}
    return found | {f"gains, {pair}": boosting.format_gains(gains, [pair]) for pair in PAIRS}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not kept, and print the tables."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--run", nargs="*", choices=NAMES, help="tables to measure; all without a name")
    add("--seeds", type=int, default=3, help="the number of seeds; 3 by default")
    add("--write", action="store_true", help="write the tables of the page")
    args = parser.parse_args(arguments)
    if args.run is not None:
        run(args.run or NAMES, range(args.seeds))
    tables = tables_of(json.loads(KEPT.read_text()))
    print(*(f"{name}\n{table}" for name, table in tables.items()), sep="\n\n")
    if args.write:
        write(tables, PAGE)


if __name__ == "__main__":
    main()

"""Compare rules for when to stop the training of several tasks.

    pip install -e ".[jax,census]"
    KERAS_BACKEND=jax python -m examples.benchmarks.stop_rules --ways regularized --seeds 2 7
    KERAS_BACKEND=jax python -m examples.benchmarks.stop_rules --json rules.json --run

Without `--run`, it prints the tables of the kept fits, which are regularized, with seeds 0 to 6.

A fit trains a network once and keeps the predictions of its branches for the validation and test
rows after each epoch. The rules are then applied to these predictions. Validation sets have a tenth
as many rows as training sets, and as small a share of labels. Networks train "plain" (no dropout,
and a constant rate, a quarter of the best peak rate) or "regularized" (a rate that decays to 0 as a
cosine, and the dropout of `never_worse`: 0.1 and 0.2 for the census, none for synthetic tasks, and
0.1 for films), for the same number of epochs.

A rule selects snapshots: branches after some epoch. A task mixes them with weights that are fitted
on the validation rows, as FitHedge does. l_k is the loss of task k on the validation rows divided
by the loss of a constant prediction, n_k its number of labels there, and w_k its loss weight:

    last epoch          no stop
    val_loss            the epoch with the lowest sum of w_k times the loss of task k
    equal scores        the epoch with the highest sum of AUCs, less the roots of squared errors
    relative losses     the epoch with the lowest sum of sqrt(n_k) l_k
    own best            for each task, each branch at the epoch of its lowest loss: the stop of
                        single-task networks. With hedged branches, the result is not one model: it
                        has a shared branch for each task
    best of branches    the own branch of each task at the epoch of its lowest loss, with the shared
                        branch at the epoch with the lowest sum of sqrt(n_k) l_k of the mixtures
    two snapshots       each branch as in the rule before, and at the last epoch
    constant branch     the last epoch, with a constant as one more branch
    averaged weights    the mean of the weights of the second half of the epochs

Seeds 0 and 1 choose the rule, and later seeds test it. The regret of hedged branches in a task
is how much worse they are than the better of a single-task network (own best) and a shared bottom
(the same rule if it selects one epoch, else the last epoch), both trained in the same way.
"""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ._regrets import Estimate, Regret, significant_after_holm
from ._stop_fits import AVERAGED, BINARY_TASKS, Run, cases, train
from ._tables import align_columns, make_parser

KEPT = Path(__file__).parents[2] / "docs" / "results" / "stop_rules.json"
KINDS = ("hedged", "bottom", "ple", "single")
WAYS = {"plain": False, "regularized": True}
CONSTANT = "constant"
Snapshot = tuple[int, str]  # an epoch and a branch
Chosen = dict[str, list[Snapshot]]  # by task


def losses(task: str, values: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the loss of each row, NaN without a label."""
    is_binary = task in BINARY_TASKS
    return np.logaddexp(0, values) - y * values if is_binary else (values - y) ** 2


def fit_mixture(task: str, values: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the weights of snapshots `(snapshots, rows)` that FitHedge would find."""
    from scipy.optimize import minimize
    from scipy.special import expit, softmax

    rows = np.isfinite(y)
    values, y = values[:, rows], np.float64(y[rows])

    def objective(free: np.ndarray) -> tuple[float, np.ndarray]:
        a = softmax(free)
        mixed = a @ values
        loss = losses(task, mixed, y)
        if task in BINARY_TASKS:
            total, slopes = loss.sum(), expit(mixed) - y
        else:
            total = len(y) / 2 * np.log(loss.mean())
            slopes = (mixed - y) / loss.mean()
        of_a = values @ slopes - 0.5 / a
        return total - 0.5 * np.log(a).sum(), a * (of_a - a @ of_a)

    return np.asarray(softmax(minimize(objective, np.zeros(len(values)), jac=True).x))


class Judge:
    """Mixtures of the snapshots of a run, and their losses on the validation rows."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.last = max(run.values)
        self.tasks = list(run.values[self.last])
        self.mixed = lru_cache(None)(self._mixed)

    def at(self, epoch: int) -> Chosen:
        """Return all branches after an epoch."""
        return {task: [(epoch, b) for b in x] for task, x in self.run.values[self.last].items()}

    def _mixed(self, task: str, snapshots: tuple[Snapshot, ...]) -> list[np.ndarray]:
        """Return the mixture of snapshots on validation and test rows."""
        data = self.run.data
        mean = float(np.nanmean(data.train.labels[task]))
        constant = np.log(mean / (1 - mean)) if task in BINARY_TASKS else mean
        sizes = [len(data.validation), len(data.test)]
        parts = [
            [np.full(size, constant) for size in sizes]
            if branch == CONSTANT
            else self.run.values[epoch][task][branch]
            for epoch, branch in dict.fromkeys(snapshots)
        ]
        weights = np.ones(1)
        if len(parts) > 1:
            weights = fit_mixture(
                task, np.stack([p[0] for p in parts]), data.validation.labels[task]
            )
        return [sum(a * part[i] for a, part in zip(weights, parts)) for i in (0, 1)]

    def loss(self, task: str, snapshots: list[Snapshot]) -> float:
        """Return the loss of a mixture on the validation rows."""
        y = self.run.data.validation.labels[task]
        return float(np.nanmean(losses(task, self.mixed(task, tuple(snapshots))[0], y)))

    def relative(self, task: str, snapshots: list[Snapshot]) -> float:
        """Return sqrt(n_k) l_k."""
        labels = np.isfinite(self.run.data.validation.labels[task]).sum()
        return float(labels**0.5 * self.loss(task, snapshots) / self.loss(task, [(0, CONSTANT)]))

    def error(self, task: str, snapshots: list[Snapshot]) -> float:
        """Return the root of the squared error, or the negative AUC."""
        if task not in BINARY_TASKS:
            return self.loss(task, snapshots) ** 0.5
        y = self.run.data.validation.labels[task]
        return -auc(y, self.mixed(task, tuple(snapshots))[0])

    def best_epoch(self, value: Callable[[int], float]) -> int:
        """Return the epoch with the lowest value."""
        return min(range(self.last + 1), key=value)

    def best_sum(self, value: Callable[[str, list[Snapshot]], float]) -> Chosen:
        """Return all branches after the epoch with the lowest sum of values over the tasks."""
        return self.at(
            self.best_epoch(lambda e: sum(value(task, x) for task, x in self.at(e).items()))
        )

    def own_best(self, task: str, branch: str) -> Snapshot:
        """Return a branch at the epoch of its lowest loss in a task."""
        return self.best_epoch(lambda e: self.loss(task, [(e, branch)])), branch


def auc(y: np.ndarray, values: np.ndarray) -> float:
    """Return the area under the ROC curve of the labeled rows."""
    from sklearn.metrics import roc_auc_score

    rows = np.isfinite(y)
    return float(roc_auc_score(y[rows], values[rows]))


def val_loss(judge: Judge) -> Chosen:
    """Return all branches after the epoch with the lowest sum of weighted losses."""
    weights = judge.run.weights
    return judge.best_sum(lambda task, x: weights.get(task, 1.0) * judge.loss(task, x))


def own_best(judge: Judge) -> Chosen:
    """Return each branch of each task at its own best epoch."""
    return {task: [judge.own_best(task, b) for _, b in x] for task, x in judge.at(0).items()}


def best_of_branches(judge: Judge) -> Chosen:
    """Return own branches at their best epochs, with the shared branch at one epoch."""
    own = {task: judge.own_best(task, "own") for task in judge.tasks}
    shared = judge.best_epoch(
        lambda e: sum(judge.relative(task, [x, (e, "shared")]) for task, x in own.items())
    )
    return {task: [x, (shared, "shared")] for task, x in own.items()}


def two_snapshots(judge: Judge) -> Chosen:
    """Return each branch at its best epoch and at the last one."""
    last = judge.at(judge.last)
    is_hedged = len(next(iter(last.values()))) > 1
    best = best_of_branches(judge) if is_hedged else own_best(judge)
    return {task: [*x, *last[task]] for task, x in best.items()}


RULES: dict[str, Callable[[Judge], Chosen]] = {
    "last epoch": lambda judge: judge.at(judge.last),
    "val_loss": val_loss,
    "equal scores": lambda judge: judge.best_sum(judge.error),
    "relative losses": lambda judge: judge.best_sum(judge.relative),
    "own best": own_best,
    "best of branches": best_of_branches,
    "two snapshots": two_snapshots,
    "constant branch": lambda j: {t: [*x, (0, CONSTANT)] for t, x in j.at(j.last).items()},
    "averaged weights": lambda judge: judge.at(AVERAGED),
}
OF_ONE_EPOCH = ["last epoch", "val_loss", "equal scores", "relative losses", "averaged weights"]
OF_KIND = {
    "hedged": [*RULES],
    "bottom": OF_ONE_EPOCH,
    "ple": OF_ONE_EPOCH,
    "single": ["last epoch", "own best", "two snapshots", "averaged weights"],
}
Record = dict[str, dict[str, float]]  # test metrics by rule and task
Records = dict[str, Record]


def key_of(case: str, kind: str, way: str, seed: int) -> str:
    """Return the name of a fit."""
    return f"{case} | {kind} | {way} | seed {seed}"


def fit(case: str, kind: str, way: str, seed: int) -> Record:
    """Return the test metrics of each rule."""
    record: Record = {rule: {} for rule in OF_KIND[kind]}
    for run in train(kind, cases()[case], WAYS[way], seed):
        judge = Judge(run)
        for rule, scores in record.items():
            for task, snapshots in RULES[rule](judge).items():
                y = run.data.test.labels[task]
                values = judge.mixed(task, tuple(snapshots))[1]
                is_binary = task in BINARY_TASKS
                error = float(np.mean((y - values) ** 2) / np.var(y))
                scores[task] = round(auc(y, values) if is_binary else error, 5)
    return record


def run_missing(kept: Path, records: Records, seeds: range, ways: Sequence[str]) -> None:
    """Run the fits that are missing, and write each to the file."""
    for seed in seeds:
        for case in cases():
            for way in ways:
                for kind in KINDS:
                    key = key_of(case, kind, way, seed)
                    if key not in records:
                        records[key] = fit(case, kind, way, seed)
                        lines = ",\n".join(
                            f" {json.dumps(k)}: {json.dumps(v)}" for k, v in records.items()
                        )
                        kept.write_text(f"{{\n{lines}\n}}\n")
                        print(key, records[key]["last epoch"], flush=True)


def regrets(
    records: Records, kind: str, rule: str, way: str, seeds: range
) -> dict[str, np.ndarray]:
    """Return the regrets of a network with a rule by case and task, for each seed."""
    found = {}
    other = rule if rule in OF_ONE_EPOCH else "last epoch"
    for case, described in cases().items():
        for task in described.tasks:
            sign = 1 if task in BINARY_TASKS else -1
            rows = [
                [records[key_of(case, k, way, seed)][r][task] for seed in seeds]
                for k, r in ((kind, rule), ("single", "own best"), ("bottom", other))
                if all(key_of(case, k, way, seed) in records for seed in seeds)
            ]
            if len(rows) == 3:
                ours, *rivals = sign * np.array(rows)
                found[f"{case}: {task}"] = max((rival - ours for rival in rivals), key=np.mean)
    return found


def table(records: Records, way: str, seeds: range) -> str:
    """Return a row for each network and rule: its worst mean regrets, and the significant ones."""
    rows = [[way, "rule", "AUC", "squared error", "significant", "by Holm"]]
    for kind in ("hedged", "ple", "bottom", "single"):
        for rule in OF_KIND[kind]:
            of_tasks = regrets(records, kind, rule, way, seeds)
            if not of_tasks:
                continue
            row = [kind, rule]
            for is_binary in (True, False):
                some = [
                    values
                    for name, values in of_tasks.items()
                    if (name.split(": ")[1] in BINARY_TASKS) == is_binary
                ]
                row.append(Estimate.of(max(some, key=np.mean)).format() if some else "-")
            found = [Regret("", name, "", [], values) for name, values in of_tasks.items()]
            above = sum(regret.is_significant for regret in found)
            holm = len(significant_after_holm(found))
            rows.append([*row, f"{above} of {len(found)}", f"{holm}"])
    return align_columns(rows, left=(0, 1))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the missing fits, and print the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("--json", type=Path, default=KEPT, help="the kept fits")
    parser.add_argument("--run", action="store_true", help="run the fits that are missing")
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 2), help="first, and end; 0 2")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    args = parser.parse_args(arguments)
    records: Records = json.loads(args.json.read_text()) if args.json.exists() else {}
    seeds = range(*args.seeds)
    if args.run:
        run_missing(args.json, records, seeds, args.ways)
    print("\n\n".join(table(records, way, seeds) for way in args.ways))


if __name__ == "__main__":
    main()

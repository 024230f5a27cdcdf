"""Compare rules for when to stop the training of several tasks.

    pip install -e ".[jax,census]"
    KERAS_BACKEND=jax python -m examples.benchmarks.stop_rules
    KERAS_BACKEND=jax python -m examples.benchmarks.stop_rules --json rules.json --run --seeds 7 9

Without `--run`, it prints the tables of the kept fits. With it, missing fits of `--kinds` and
`--cases` are run first: `--kinds single bottom mmoe ple hedged --cases films --seeds 7 12` has the
fits of the table of films.

A fit trains a network and keeps the predictions of its branches for the validation and test rows
after each epoch. The rules are then applied to these predictions. Validation sets have a tenth as
many rows as training sets, and as small a share of labels. Settings differ in the number of epochs
(1, 2 or 4 times the number of a case), the learning rate (constant, or decaying to 0 as a cosine),
and the dropout rate. With a constant rate, short trainings are the beginning of the longest one.
Decaying rates start at the peak of `never_worse`, 0.002 for films and generated data; constant
rates are a quarter of the peak, and 0.001.

A rule selects an epoch for each branch. A task mixes its branches with weights that are fitted on
the validation rows, as FitHedge does:

    own best      each own branch at the epoch of the lowest validation loss of its task, and the
                  shared branch at the epoch with the lowest sum over the tasks of loss / loss of a
                  constant prediction, both minus the least possible loss: FitHedge(keep_best=True)
                  without its epoch before the first one
    last epoch    no stop
    val_loss      the epoch with the lowest sum of weighted validation losses

Rivals are a single-task network for each task and a shared bottom, both at the best epoch of each
task. The regret in a task is how much worse a network is than the better rival, as a mean over the
seeds: in AUC, in squared error over the variance of the labels, or in the Poisson deviance over the
deviance of a constant. Tables show the regret of the worst task, first in AUC, then in error.

On films, all blocks are compared with 12 epochs, a decaying rate and dropout, each with the stop
that suits it best: "own stops" are scores with an epoch for each task, for which a network with one
branch for several tasks has to be trained once for each task. The RMSE of "rating" is divided by
the deviation in the test rows. Scores are means over the seeds ± the standard deviation, and gains
over single-task networks are means ± half of a 95% interval of Student's t, with a star if it
excludes 0.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np

from ._networks import FEWER_IDS, NETWORKS, SMALLER
from ._regrets import Estimate
from ._stop_cases import BINARY_TASKS, COUNTS, TABLES, cases
from ._stop_fits import LENGTHS, Run, train
from ._tables import align_columns, make_parser
from .never_worse import DOCS, write

KEPT = DOCS / "maintainers" / "stop_rules.json"
PAGE = KEPT.with_suffix(".md")
BEST, LAST, VAL_LOSS = "own best", "last epoch", "val_loss"
SHARED = "shared branch"
RULES = (BEST, LAST, VAL_LOSS, SHARED)
RIVALS = ("single", "bottom")
KINDS = ("hedged", *RIVALS)
BLOCKS = ("bottom", "mmoe", "ple")  # with one branch for several tasks
ALL = (*KINDS, "mmoe", "ple", *SMALLER, *FEWER_IDS, "bottom-root", "hedged-exponent-0")
COLUMNS = [*product(["hedged"], (BEST, LAST, VAL_LOSS)), ("bottom", BEST), ("bottom", LAST)]
GRADIENTS = {  # of a task with labels for a share s of the rows, in the shared features
    ("bottom", LAST): "shared bottom, 1",
    ("bottom-root", LAST): "shared bottom, s^0.5",
    ("hedged-exponent-0", SHARED): "shared branch, 1",
    ("hedged", SHARED): "shared branch, s^0.5",
    ("hedged-exponent-0", LAST): "mixture, 1",
    ("hedged", LAST): "mixture, s^0.5",
}
DROPOUTS = (0.0, 0.1)
Setting = tuple[bool, float, int]  # whether the rate decays, dropout, and times the epochs
SETTINGS = [(decays, d, n) for decays in (False, True) for d in DROPOUTS for n in LENGTHS]
Epochs = dict[str, int]  # by branch
Column = tuple[str, str]  # kind and rule
Regrets = dict[tuple[str, str], np.ndarray]  # by case and task, of each seed
Job = tuple[str, str, bool, float, Sequence[int], int]  # case, kind, setting with lengths, seed
Records = dict[str, dict[str, dict[str, float]]]  # test metrics by rule and task


def losses(task: str, values: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the loss of each row above the least possible loss."""
    from scipy.special import xlogy

    if task in BINARY_TASKS:
        return np.asarray(np.logaddexp(0, values) - y * values)
    if task in COUNTS:
        return np.asarray(np.exp(values) - y * values - y + xlogy(y, y))
    return (values - y) ** 2


def constant(task: str, y: np.ndarray) -> np.ndarray:
    """Return the constant prediction with the lowest loss."""
    mean = np.nanmean(y)
    if task in BINARY_TASKS:
        return np.log(mean / (1 - mean))
    return np.log(mean) if task in COUNTS else mean


def share_of_first(task: str, values: Sequence[np.ndarray], y: np.ndarray) -> float:
    """Return the weight of the first of two branches that FitHedge would find."""
    from scipy.optimize import minimize_scalar
    from scipy.special import expit, log_expit

    def objective(logit: float) -> float:
        a = expit(logit)
        loss = losses(task, a * values[0] + (1 - a) * values[1], y)
        is_likelihood = task in BINARY_TASKS or task in COUNTS
        total = loss.sum() if is_likelihood else len(y) / 2 * np.log(loss.mean())
        return float(total - 0.5 * (log_expit(logit) + log_expit(-logit)))

    return float(expit(minimize_scalar(objective, bounds=(-14, 14), method="bounded").x))


class Judge:
    """The losses of a run's branches on the validation rows, and mixtures of branches.

    `relative` are the losses over that of a constant, by task, branch and epoch.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.tasks = run, [*run.values[0]]
        self.relative = {
            task: {
                branch: np.array([self._loss(task, x[task][branch][0]) for x in run.values])
                / self._loss(task, constant(task, run.data.validation.labels[task]))
                for branch in run.values[0][task]
            }
            for task in self.tasks
        }

    def _loss(self, task: str, values: np.ndarray) -> float:
        return float(np.nanmean(losses(task, values, self.run.data.validation.labels[task])))

    @cached_property
    def weighted(self) -> np.ndarray:
        """The sum of the weighted losses of the mixtures, by epoch."""
        weights = self.run.weights
        return np.array(
            [
                sum(
                    weights.get(task, 1.0) * self._loss(task, self.mixed(task, epochs)[0])
                    for task, epochs in self.at(epoch).items()
                )
                for epoch in range(len(self.run.values))
            ]
        )

    def mixed(self, task: str, epochs: Epochs) -> list[np.ndarray]:
        """Return the mixture of branches on validation and test rows."""
        parts = [self.run.values[epoch][task][branch] for branch, epoch in epochs.items()]
        if len(parts) == 1:
            return parts[0]
        y = self.run.data.validation.labels[task]
        rows = np.isfinite(y)
        a = share_of_first(task, [part[0][rows] for part in parts], np.float64(y[rows]))
        return [a * first + (1 - a) * second for first, second in zip(*parts)]

    def choose(self, rule: str, end: int) -> dict[str, Epochs]:
        """Return the epoch of each branch of each task, among the epochs before `end`."""
        if rule == VAL_LOSS:
            return self.at(int(np.argmin(self.weighted[:end])))
        last = self.at(end - 1)
        if rule == SHARED:
            return {task: {[*branches][-1]: end - 1} for task, branches in last.items()}
        if rule == LAST:
            return last
        best = {
            task: {branch: int(np.argmin(x[:end])) for branch, x in branches.items()}
            for task, branches in self.relative.items()
        }
        if "shared" in best[self.tasks[0]]:
            of_tasks = [branches["shared"][:end] for branches in self.relative.values()]
            shared = int(np.argmin(np.sum(of_tasks, axis=0)))
            best = {task: {**branches, "shared": shared} for task, branches in best.items()}
        return best

    def at(self, epoch: int) -> dict[str, Epochs]:
        """Return all branches after an epoch."""
        return {task: dict.fromkeys(branches, epoch) for task, branches in self.relative.items()}

    def score(self, task: str, epochs: Epochs) -> float:
        """Return the AUC on the test rows, or the loss relative to that of a constant."""
        from sklearn.metrics import roc_auc_score

        y, values = self.run.data.test.labels[task], self.mixed(task, epochs)[1]
        if task in BINARY_TASKS:
            return round(float(roc_auc_score(y, values)), 5)
        of_constant = losses(task, constant(task, y), y).mean()
        return round(float(losses(task, values, y).mean() / of_constant), 5)


def key_of(case: str, kind: str, setting: Setting, seed: int) -> str:
    """Return the name of a record."""
    return f"{case} | {kind} | {title(setting)} | seed {seed}"


def title(setting: Setting) -> str:
    """Return the name of a setting."""
    decays, dropout, length = setting
    return f"{'decaying' if decays else 'constant'}, dropout {dropout:g}, x{length}"


def plan(seeds: range, kinds: Sequence[str], names: Sequence[str]) -> Iterator[Job]:
    """Yield the fits, seed by seed. Variants train with a decaying rate and dropout."""
    for seed, case, kind in product(seeds, names, kinds):
        data = cases()[case].data
        if (kind in SMALLER and data == "synthetic") or (kind in FEWER_IDS and data != TABLES):
            continue  # there are no tables
        for decays, dropout in product((False, True), DROPOUTS) if kind in KINDS else [(True, 0.1)]:
            for lengths in [(n,) for n in LENGTHS] if decays else [LENGTHS]:
                yield case, kind, decays, dropout, lengths, seed


def fit(job: Job) -> Records:
    """Return the records of a fit."""
    case, kind, decays, dropout, lengths, seed = job
    keys = {n: key_of(case, kind, (decays, dropout, n), seed) for n in lengths}
    records: Records = {key: {rule: {} for rule in RULES} for key in keys.values()}
    for run in train(kind, cases()[case], lengths[-1], decays, dropout, seed):
        judge = Judge(run)
        for length, key in keys.items():
            for rule in RULES:
                chosen = judge.choose(rule, len(run.values) * length // lengths[-1])
                records[key][rule] |= {task: judge.score(task, x) for task, x in chosen.items()}
    return records


def run_missing(kept: Path, records: Records, jobs: Iterable[Job]) -> None:
    """Run the fits that are missing, and write each to the file."""
    for job in jobs:
        case, kind, decays, dropout, lengths, seed = job
        last = key_of(case, kind, (decays, dropout, lengths[-1]), seed)
        if last not in records:
            records |= fit(job)
            lines = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in records.items())
            kept.write_text(f"{{\n{lines}\n}}\n")
            print(last, records[last][BEST], flush=True)


def compare(
    records: Records, case: str, columns: Iterable[Column], setting: Setting
) -> dict[str, np.ndarray]:
    """Return the metrics `(columns, seeds)` of each task, for the seeds that all columns have."""
    of_columns = [
        [records.get(key_of(case, kind, setting, seed), {}).get(rule) for seed in range(100)]
        for kind, rule in columns
    ]
    of_seeds = [each for each in zip(*of_columns) if all(each)]
    tasks = cases()[case].tasks if of_seeds else []
    return {task: np.array([[x[task] for x in each] for each in of_seeds]).T for task in tasks}


def regrets(
    records: Records, column: Column, setting: Setting, rivals: Sequence[str] = RIVALS
) -> Regrets:
    """Return how much worse a network is than the best of its rivals, by case, task and seed."""
    found = {}
    for case in cases():
        columns = [column, *((rival, BEST) for rival in rivals)]
        for task, (ours, *others) in compare(records, case, columns, setting).items():
            sign = 1 if task in BINARY_TASKS else -1
            found[case, task] = max((sign * (other - ours) for other in others), key=np.mean)
    return found


def worst(found: Regrets) -> list[float]:
    """Return the largest means, in AUC and in error."""
    means = {name: float(np.mean(values)) for name, values in found.items()}
    return [
        max((x for (_, t), x in means.items() if (t in BINARY_TASKS) == is_binary), default=np.nan)
        for is_binary in (True, False)
    ]


def pair(found: Regrets) -> str:
    """Return the cell of the largest means."""
    return " / ".join(f"{x:7.4f}" for x in worst(found))


def tables(records: Records) -> dict[str, str]:
    """Return the tables by name."""
    names = [(case, task) for case, described in cases().items() for task in described.tasks]
    rows = [["AUC / error", *map(", ".join, COLUMNS)]]
    for x in SETTINGS:
        rows.append([title(x), *(pair(regrets(records, column, x)) for column in COLUMNS)])
    of_tables = [case for case, described in cases().items() if described.data != "synthetic"]
    smaller = [["AUC / error", *of_tables]]
    for kind in (*SMALLER, *FEWER_IDS):
        parts = [regrets(records, (kind, BEST), x, ["hedged"]) for x in SETTINGS]
        of_kind = {name: np.concatenate([x.get(name, []) for x in parts]) for name in names}
        of_kind = {name: x for name, x in of_kind.items() if len(x)}
        cells = [pair({k: x for k, x in of_kind.items() if k[0] == case}) for case in of_tables]
        smaller.append([NETWORKS[kind].title, *(x.replace("nan /     nan", "") for x in cells)])
    gradients = [["decaying, dropout 0.1, x1", *GRADIENTS.values()]]
    for case in cases():
        for task, x in compare(records, case, GRADIENTS, (True, 0.1, 1)).items():
            gradients.append([f"{case}: {task}", *(f"{mean:.4f}" for mean in x.mean(axis=1))])
    found = {"worst regrets": rows, "smaller tables": smaller, "shared branches": gradients}
    return {k: align_columns(table) for k, table in found.items()} | {"films": films(records)}


def films(records: Records) -> str:
    """Return the scores of blocks on films, and their gains over single-task networks."""
    tasks = {"like": "auc", "rating": "rmse", "hate": "auc"}
    rows = {
        NETWORKS[kind].title: (kind, LAST if kind in BLOCKS else BEST)
        for kind in ("single", *BLOCKS, "hedged")
    }
    rows |= {f"{NETWORKS[kind].title}, own stops": (kind, BEST) for kind in BLOCKS}
    rows["hedged branches, no stop"] = ("hedged", LAST)
    scores = [["", "seeds", *map(", ".join, tasks.items())]]
    gains = [["gain", *tasks]]
    for name, column in rows.items():
        found = compare(records, "films", [column, ("single", BEST)], (True, 0.1, 2))
        found |= {"rating": -(found["rating"] ** 0.5)}
        means = [f"{abs(x[0].mean()):.4f} ± {x[0].std(ddof=1):.4f}" for x in map(found.get, tasks)]
        scores.append([name, f"{len(found['rating'][0])}", *means])
        of_gains = [Estimate.of(ours - alone) for ours, alone in map(found.get, tasks)]
        gains.append([name, *(gain.format("+") + gain.mark for gain in of_gains)])
    return f"{align_columns(scores)}\n\n{align_columns(gains[:1] + gains[2:])}"


def draw(records: Records, path: Path) -> None:
    """Draw the worst regrets over all settings by the number of epochs."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 3.6))
    for i, (panel, what) in enumerate(zip(panels, ("AUC", "error"))):
        for rule in (BEST, LAST, VAL_LOSS):
            found = {x: worst(regrets(records, ("hedged", rule), x))[i] for x in SETTINGS}
            values = [max(y for x, y in found.items() if x[-1] == n) for n in LENGTHS]
            panel.plot([f"x{n}" for n in LENGTHS], values, marker="o", label=rule)
        panel.set(title=f"worst regret in {what}", xlabel="number of epochs", ylim=(0, None))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110, facecolor="white")  # readable on a dark page too
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the missing fits, and print the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("--json", type=Path, default=KEPT, help="the kept fits")
    parser.add_argument("--run", action="store_true", help="run the fits that are missing")
    parser.add_argument("--seeds", type=int, nargs=2, default=(7, 9), help="first, and end; 7 9")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=ALL)
    parser.add_argument("--cases", nargs="+", default=[*cases()], choices=cases())
    parser.add_argument("--write", action="store_true", help="write them into the page")
    args = parser.parse_args(arguments)
    records: Records = json.loads(args.json.read_text()) if args.json.exists() else {}
    if args.run:
        run_missing(args.json, records, plan(range(*args.seeds), args.kinds, args.cases))
    found = tables(records)
    print("\n\n".join(f"{name}\n{text}" for name, text in found.items()))
    if args.write:
        write(found, PAGE)
        draw(records, KEPT.with_suffix(".png"))


if __name__ == "__main__":
    main()

"""Scores, regrets, tables and the chart of `never_worse`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ._cases import Case, all_cases
from ._fits import Fit, Store, metric_name
from ._networks import BINARY, MIXTURES, ROOT, title
from ._plan import (
    ABLATION_CASES,
    ABLATION_SEEDS,
    BASELINES,
    ENSEMBLES,
    EXPONENT_CASES,
    HEDGED,
    ONE_PASS,
    OTHER_BLOCKS,
    SMALL_CASES,
    SMALL_VALIDATION,
    SMALLER_TABLES,
    VARIANTS,
    fresh_seeds,
    with_small_validation,
)
from ._tables import align_columns
from ._verdicts import count_verdicts

ALL_ENSEMBLES = [*ENSEMBLES, *(kind for kind in MIXTURES if kind.startswith("hedged-bottoms"))]
OTHER_MIXTURES = [kind for kind in MIXTURES if kind not in ALL_ENSEMBLES]
MODELS = [HEDGED, *SMALLER_TABLES, *VARIANTS, *OTHER_MIXTURES, *ALL_ENSEMBLES]
MODELS += [*BASELINES, *OTHER_BLOCKS, *ROOT]
CHART = [HEDGED, *BASELINES, *OTHER_BLOCKS]
NOTE = (
    "How much worse than the better of single-task networks and a shared bottom, in the worst of "
    "23 problems: mean over fresh seeds and 95% interval. Lower is better."
)
MARGINS = {"AUC": 0.002, "squared error": 0.01}
VERDICTS = ("better", "equivalent or better", "not decided", "worse")


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds with the half-width of its 95% interval."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> "Estimate":
        """Return the mean of values and half of the interval of Student's t distribution."""
        from scipy.stats import t

        error = float(np.std(values, ddof=1)) / len(values) ** 0.5
        return cls(float(np.mean(values)), float(t.ppf(0.975, len(values) - 1)) * error)

    def format(self, sign: str = "") -> str:
        """Return text such as "0.9477 ± 0.0003"."""
        return f"{self.mean:{sign}.4f} ± {self.half:.4f}"


class Scores:
    """Test metrics by case and model, over seeds.

    Args:
        fits: The fits. Those that were not run are left out.
        store: Their results.
    """

    def __init__(self, fits: list[Fit], store: Store) -> None:
        self._records: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
        self.cases: dict[str, Case] = {}
        for fit in fits:
            key = fit.case.setting + fit.case.name
            self.cases[key] = fit.case
            if fit in store:
                self._records.setdefault((key, fit.kind), {})[fit.seed] = store[fit]["test"]

    def seeds(self, case: str, kinds: Iterable[str]) -> list[int]:
        """Return the seeds that all of the models have on a case, in order."""
        return sorted(set.intersection(*({*self._records.get((case, kind), ())} for kind in kinds)))

    def of(self, case: str, kind: str, tasks: list[str], seeds: Iterable[int]) -> np.ndarray:
        """Return the mean metric of some tasks, by seed."""
        records = self._records[case, kind]
        keys = [f"{task}_{metric_name(task)}" for task in tasks]
        return np.array([np.mean([records[seed][key] for key in keys]) for seed in seeds])

    def gain(
        self, case: str, kind: str, base: str, tasks: list[str], seeds: Iterable[int] = ()
    ) -> np.ndarray:
        """Return how much better a model is than another, for seeds that both have.

        The gain is positive if an AUC is higher, or a squared error lower. Seeds that share a draw
        of the data are averaged.
        """
        sign = 1 if tasks[0] in BINARY else -1
        seeds = list(seeds) or self.seeds(case, [kind, base])
        gains = sign * (self.of(case, kind, tasks, seeds) - self.of(case, base, tasks, seeds))
        _, draws = np.unique(
            [seed // (self.cases[case].seeds_per_draw or 1) for seed in seeds], return_inverse=True
        )
        return np.bincount(draws, gains) / np.bincount(draws)

    def regret(
        self, case: str, kind: str, tasks: list[str], baselines: Sequence[str]
    ) -> np.ndarray:
        """Return how much worse a model is than the best of the baselines, by draw or seed.

        The baseline with the best mean over the seeds is the best one. Only seeds that the model
        and all baselines have count.
        """
        seeds = self.seeds(case, [kind, *baselines])
        regrets = [-self.gain(case, kind, baseline, tasks, seeds) for baseline in baselines]
        return max(regrets, key=np.mean)


def all_scores(
    store: Store,
    kinds: Sequence[str],
    seeds: Callable[[Case], Iterable[int]] = lambda case: range(fresh_seeds(case).stop),
    **sizes: int,
) -> Scores:
    """Return the scores of all kept fits with some seeds."""
    cases = all_cases()
    return Scores(
        [Fit(c, kind, seed, **sizes) for c in cases for kind in kinds for seed in seeds(c)], store
    )


@dataclass(frozen=True)
class Regret:
    """Regret of a model in a problem, or for a task of it.

    Attributes:
        what: The case and task, for readers.
        metric: A key of MARGINS.
        problem: The name of the problem.
        values: The regret by draw of the data, or by seed.
    """

    what: str
    metric: str
    problem: str
    values: np.ndarray

    @property
    def estimate(self) -> Estimate:
        """Mean and interval."""
        return Estimate.of(self.values)

    @property
    def verdict(self) -> str:
        """One of VERDICTS (see the rules)."""
        mean, half = self.estimate.mean, self.estimate.half
        if mean + half < MARGINS[self.metric]:
            return VERDICTS[0 if mean + half < 0 else 1]
        return VERDICTS[3 if mean > half else 2]


def regrets(
    scores: Scores, kind: str, baselines: Sequence[str] = BASELINES, by_task: bool = False
) -> list[Regret]:
    """Return the regrets of a model in each problem, or for each task of the problems.

    The loss weights of a second task are one problem, with the weight of the largest mean regret.
    """
    found: dict[tuple[str, str], Regret] = {}
    for key, case in scores.cases.items():
        for metric, is_binary in zip(MARGINS, (True, False)):
            tasks = [task for task in case.tasks if (task in BINARY) == is_binary]
            for some in [[task] for task in tasks] if by_task else [tasks] if tasks else []:
                title_of_task = f": {_task_title(case, some[0])}" if by_task else ""
                values = scores.regret(key, kind, some, baselines)
                regret = Regret(case.title + title_of_task, metric, case.problem, values)
                of = case.problem, metric + title_of_task
                found[of] = max(regret, found.get(of, regret), key=_mean)
    return [*found.values()]


def _task_title(case: Case, task: str) -> str:
    scarce = {"task_1": "scarce task", "task_2": "other task"}
    return scarce.get(task, task) if case.setting == "scarce" else task.replace("_", " ")


def _mean(regret: Regret) -> float:
    return regret.estimate.mean


def counts(scores: Scores, same: Scores, small: Scores) -> str:
    """Return the number of problems and tasks with each verdict."""
    rows = [["hedged, against", "of", *VERDICTS]]
    for name, of, baselines in (
        ("both networks", scores, BASELINES),
        ("three ensembles", scores, ALL_ENSEMBLES),
        (f"both, {SMALL_VALIDATION} rows", small, BASELINES),
        ("both, all rows", same, BASELINES),
    ):
        for by_task in (False, True):
            worst: dict[str, int] = {}
            for regret in regrets(of, HEDGED, baselines, by_task):
                what = regret.what if by_task else regret.problem
                worst[what] = max(VERDICTS.index(regret.verdict), worst.get(what, 0))
            numbers = [str([*worst.values()].count(i)) for i in range(len(VERDICTS))]
            rows.append([name, f"{len(worst)} {'tasks' if by_task else 'problems'}", *numbers])
    return align_columns(rows)


def equivalence(columns: dict[str, list[Regret]]) -> str:
    """Return the regrets of hedged branches with verdicts, in columns of the same problems."""
    rows = [["hedged branches", "metric"]]
    rows[0] += [cell for name in columns for cell in (f"{name}, n", "regret", "verdict")]
    for of_problem in zip(*columns.values(), strict=True):
        rows.append([of_problem[0].what, of_problem[0].metric])
        for regret in of_problem:
            rows[-1] += [str(len(regret.values)), regret.estimate.format("+"), regret.verdict]
    return align_columns(rows, left=(0, 1, 4, 7))


def worst_of(scores: Scores, kind: str, metric: str) -> tuple[Regret, float]:
    """Return the worst regret of a model, and the mean over the problems."""
    found = [regret for regret in regrets(scores, kind) if regret.metric == metric]
    return max(found, key=_mean), float(np.mean([*map(_mean, found)]))


def worst_regrets(scores: Scores) -> str:
    """Return the worst and the mean regret of each model, by metric."""
    rows = [["model"]]
    rows[0] += [cell for metric in MARGINS for cell in (f"worst in {metric}", "problem", "mean")]
    for kind in MODELS:
        rows.append([title(kind)])
        for metric in MARGINS:
            worst, mean = worst_of(scores, kind, metric)
            rows[-1] += [worst.estimate.format(), worst.what, f"{mean:.4f}"]
    return align_columns(rows, left=(0, 2, 5))


def ablations(store: Store) -> str:
    """Return the tables of the ablations that have their own fits."""
    exponents = [HEDGED, "hedged-exponent-0", "hedged-exponent-1"]
    kinds = [*BASELINES, HEDGED]
    tables = [
        _ablation("gradient of a task", store, exponents, EXPONENT_CASES),
        _ablation("Adam", store, kinds, ABLATION_CASES),
    ]
    for optimizer in ("AdamW", "Adagrad", "SGD"):
        of_optimizer = [f"{kind}-{optimizer.lower()}" for kind in kinds]
        tables.append(_ablation(optimizer, store, of_optimizer, ABLATION_CASES))
    tables.append(_ablation("one pass", store, kinds, ABLATION_CASES, **ONE_PASS))
    return "\n\n".join(tables)


def _ablation(
    name: str, store: Store, kinds: Sequence[str], cases: Sequence[str], **sizes: int
) -> str:
    """Return the mean metric of each task of some cases, over the seeds of the ablations."""
    scores = all_scores(store, kinds, **sizes)
    keys = [key for name in cases for key, case in scores.cases.items() if case.name == name]
    rows = [[name, *cases]]
    for kind in kinds:
        cells = []
        for key in keys:
            seeds = [seed for seed in scores.seeds(key, [kind]) if seed < ABLATION_SEEDS]
            means = [
                f"{np.mean(scores.of(key, kind, [task], seeds)):.3f}"
                for task in scores.cases[key].tasks
            ]
            cells.append(", ".join(means))
        rows.append([title(kind), *cells])
    return align_columns(rows)


def report(store: Store) -> dict[str, str]:
    """Return all tables, by name. All fits of the plan must be there."""
    scores, small = all_scores(store, MODELS, fresh_seeds), Scores(with_small_validation(), store)
    same = all_scores(
        store, [*BASELINES, HEDGED], lambda c: fresh_seeds(c) if c.title in SMALL_CASES else ()
    )
    against = {"both networks": BASELINES, "best ensemble": ALL_ENSEMBLES}
    problems, tasks = (
        {name: regrets(scores, HEDGED, some, by_task) for name, some in against.items()}
        for by_task in (False, True)
    )
    few = f"{SMALL_VALIDATION} validation rows"
    return {
        "counts": counts(scores, same, small),
        "real tables": count_verdicts(),
        "problems": equivalence(problems),
        few: equivalence({few: regrets(small, HEDGED), "all": regrets(same, HEDGED)}),
        "tasks": equivalence(tasks),
        "models": worst_regrets(scores),
        "ablations": ablations(store),
    }


def draw(store: Store, path: Path) -> None:
    """Draw the worst regret of each model with its interval, and a panel for each metric."""
    import matplotlib.pyplot as plt

    scores = all_scores(store, CHART, fresh_seeds)
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.4), sharey=True)
    for panel, metric in zip(panels, MARGINS):
        worst = {title(k): worst_of(scores, k, metric)[0].estimate for k in CHART}
        colors = ["#0969da" if name == title(HEDGED) else "#8c959f" for name in worst]
        means, halves = ([getattr(x, name) for x in worst.values()] for name in ("mean", "half"))
        panel.barh([*worst], means, xerr=halves, color=colors, ecolor="#57606a")
        for height, (mean, half) in enumerate(zip(means, halves)):
            panel.text(mean + half, height, f" {max(mean, 0):.3f}", va="center", fontsize=9)
        panel.set_xlim(right=1.18 * max(map(sum, zip(means, halves))))
        panel.locator_params(axis="x", nbins=4)
        panel.set_title(f"worst regret in {metric}", fontsize=11)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.text(0.01, 0.01, NOTE, fontsize=8, color="#57606a")
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path, dpi=110, facecolor="white")  # readable on a dark page too
    plt.close(figure)

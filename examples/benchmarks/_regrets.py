"""Scores, regrets, tables and the chart of `never_worse`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ._cases import Case, all_cases
from ._fits import DEFAULT_ROWS, RATES, Fit, Store, metric_name
from ._networks import BINARY, MIXTURES, ROOT, SCARCE, title
from ._plan import (
    ABLATION_CASES,
    ABLATION_SEEDS,
    BASELINES,
    ENSEMBLES,
    EXPONENT_CASES,
    HEDGED,
    ONE_PASS,
    OTHER_BLOCKS,
    SMALLER_TABLES,
    VARIANTS,
    fresh_seeds,
)
from ._tables import align_columns

ALL_ENSEMBLES = [*ENSEMBLES, *(kind for kind in MIXTURES if kind.startswith("hedged-bottoms"))]
OTHER_MIXTURES = [kind for kind in MIXTURES if kind not in ALL_ENSEMBLES]
MODELS = [HEDGED, *SMALLER_TABLES, *VARIANTS, *OTHER_MIXTURES, *ALL_ENSEMBLES]
MODELS += [*BASELINES, *OTHER_BLOCKS, *ROOT]
CHART = [HEDGED, *BASELINES, *OTHER_BLOCKS]
GAINS = [HEDGED, "bottom", *OTHER_BLOCKS, "bottom-root", "ple-root", *SCARCE, "bottom-uncertainty"]
NOTE = (
    "How much worse than the better of single-task networks and a shared bottom, in the worst of "
    "all cases, as a mean over seeds. Lower is better."
)
GOALS = {"AUC": 0.002, "squared error": 0.01}


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

    @property
    def mark(self) -> str:
        """A star if the interval excludes 0."""
        return " " if abs(self.mean) <= self.half else "*"

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

        The gain is positive if an AUC is higher, or a squared error lower.
        """
        sign = 1 if tasks[0] in BINARY else -1
        seeds = seeds or self.seeds(case, [kind, base])
        return sign * (self.of(case, kind, tasks, seeds) - self.of(case, base, tasks, seeds))

    def regret(
        self, case: str, kind: str, tasks: list[str], baselines: Sequence[str]
    ) -> np.ndarray:
        """Return how much worse a model is than the best of the baselines, by seed.

        The baseline with the best mean over the seeds is the best one. Only seeds that the model
        and all baselines have count.
        """
        seeds = self.seeds(case, [kind, *baselines])
        regrets = [-self.gain(case, kind, baseline, tasks, seeds) for baseline in baselines]
        return max(regrets, key=np.mean)


def all_scores(store: Store, kinds: Sequence[str], **sizes: int) -> Scores:
    """Return the scores of all kept fits."""
    fits = [
        Fit(case, kind, seed, **sizes)
        for case in all_cases()
        for kind in kinds
        for seed in range(fresh_seeds(case).stop)
    ]
    return Scores(fits, store)


@dataclass(frozen=True)
class Regret:
    """Regret of a model in a case.

    Attributes:
        case: The case, a key of `Scores.cases`.
        what: The case and task, for readers.
        metric: A key of GOALS.
        tasks: The tasks with this metric, or one of them.
        values: The regret by seed.
    """

    case: str
    what: str
    metric: str
    tasks: list[str]
    values: np.ndarray

    @property
    def estimate(self) -> Estimate:
        """Mean and interval over the seeds."""
        return Estimate.of(self.values)

    @property
    def is_significant(self) -> bool:
        """Whether the interval lies above 0."""
        return self.estimate.mean > self.estimate.half

    @property
    def p_value(self) -> float:
        """The p-value of the test that the mean is 0."""
        from scipy.stats import ttest_1samp

        return float(ttest_1samp(self.values, 0).pvalue)


def regrets(
    scores: Scores, kind: str, baselines: Sequence[str] = BASELINES, by_task: bool = False
) -> list[Regret]:
    """Return the regrets of a model in each case, or for each task of the cases."""
    found = []
    for key, case in scores.cases.items():
        for metric, is_binary in zip(GOALS, (True, False)):
            tasks = [task for task in case.tasks if (task in BINARY) == is_binary]
            measured = {case.title: tasks} if tasks else {}
            if by_task:
                measured = {f"{case.title}: {_task_title(case, task)}": [task] for task in tasks}
            for what, of_what in measured.items():
                values = scores.regret(key, kind, of_what, baselines)
                found.append(Regret(key, what, metric, of_what, values))
    return found


def _task_title(case: Case, task: str) -> str:
    scarce = {"task_1": "scarce task", "task_2": "other task"}
    return scarce.get(task, task) if case.setting == "scarce" else task.replace("_", " ")


def _mean(regret: Regret) -> float:
    return regret.estimate.mean


def mean_over_cases(scores: Scores, found: list[Regret]) -> Estimate:
    """Return the mean regret. Its interval is an upper bound (see the rules)."""
    halves: dict[str, float] = {}
    for regret in found:
        setting = scores.cases[regret.case].setting
        halves[setting] = halves.get(setting, 0.0) + regret.estimate.half
    mean = float(np.mean([_mean(regret) for regret in found]))
    return Estimate(mean, float(np.sqrt(np.sum(np.square([*halves.values()])))) / len(found))


def significant_after_holm(found: list[Regret]) -> list[Regret]:
    """Return the regrets that are significantly above 0 after Holm's correction."""
    kept = []
    for i, regret in enumerate(sorted(found, key=lambda regret: regret.p_value)):
        if regret.p_value > 0.05 / (len(found) - i):
            break
        kept.append(regret)
    return [regret for regret in kept if regret.is_significant]


def goals(scores: Scores) -> str:
    """Return the table of goals, missed ones first."""
    rows = [*_goals_of(scores, "case"), *_goals_of(scores, "task")]
    table = [["goal", "verdict", "measured", "in"]]
    for is_met, goal, measured, where in sorted(rows, key=lambda row: row[0]):
        table.append([goal, "met" if is_met else "missed", measured, where])
    return align_columns(table, left=(0, 1, 2, 3))


def _goals_of(scores: Scores, by: str) -> Iterator[tuple[bool, str, str, str]]:
    """Yield for each goal whether it is met, its name, what was measured, and where."""
    found = regrets(scores, HEDGED, by_task=by == "task")
    above = [regret for regret in found if regret.is_significant]
    after = len(significant_after_holm(found))
    yield (
        not above,
        f"no regret significantly above 0, by {by}",
        f"{len(above)} of {len(found)}, {after} after Holm's correction",
        "; ".join(f"{regret.what} ({regret.estimate.format()})" for regret in above),
    )
    for metric, limit in GOALS.items():
        of_metric = [regret for regret in found if regret.metric == metric]
        if of_metric:
            worst = max(of_metric, key=_mean)
            goal = f"worst mean regret in {metric} at most {limit:g}, by {by}"
            yield _mean(worst) <= limit, goal, worst.estimate.format(), worst.what


def worst_regrets(scores: Scores, metric: str) -> str:
    """Return the worst and the mean regret of each model, by case and by task."""
    rows = [["model", "cases", "seeds", "worst", "in", "mean", "worst by task", "above 0"]]
    for kind in MODELS:
        found = [r for r in regrets(scores, kind) if r.metric == metric]
        of_tasks = [r for r in regrets(scores, kind, by_task=True) if r.metric == metric]
        worst = max(found, key=_mean)
        counts = sorted({len(regret.values) for regret in found})
        rows.append(
            [
                title(kind),
                f"{len(found)}",
                "-".join(dict.fromkeys([str(counts[0]), str(counts[-1])])),
                worst.estimate.format(),
                worst.what,
                mean_over_cases(scores, found).format(),
                max(of_tasks, key=_mean).estimate.format(),
                f"{sum(r.is_significant for r in found)}",
            ]
        )
    return align_columns(rows, left=(0, 4))


def worst_of_all(scores: Scores, kind: str, metric: str) -> Estimate:
    """Return the worst regret of a model."""
    return max((r for r in regrets(scores, kind) if r.metric == metric), key=_mean).estimate


def summary(scores: Scores) -> str:
    """Return the worst regrets of the models of the chart."""
    rows = [["model", *(f"regret in {metric}" for metric in GOALS)]]
    for kind in CHART:
        worst = [worst_of_all(scores, kind, metric).format() for metric in GOALS]
        rows.append([title(kind), *worst])
    return align_columns(rows)


def by_case(scores: Scores, by_task: bool) -> str:
    """Return the regrets of hedged branches in each case or for each task."""
    against = regrets(scores, HEDGED, ALL_ENSEMBLES, by_task)
    rows = [["case", "metric", "seeds", "regret", "against the best ensemble"]]
    for regret, other in zip(regrets(scores, HEDGED, by_task=by_task), against, strict=True):
        rows.append(
            [
                regret.what,
                regret.metric,
                f"{len(regret.values)}",
                regret.estimate.format() + ("  >0" if regret.is_significant else "    "),
                other.estimate.format(sign="+") + other.estimate.mark,
            ]
        )
    return align_columns(rows, left=(0, 1))


def gains(store: Store) -> str:
    """Return the gains of blocks over single-task networks, by case."""
    scores = all_scores(store, ["single", *GAINS])
    rows = [["case", "measure", *GAINS]]
    for key, case in scores.cases.items():
        for measure, tasks in case.measures.items():
            cells = []
            for kind in GAINS:
                cell = ""
                if len(scores.seeds(key, [kind, "single"])) > 1:
                    gain = Estimate.of(scores.gain(key, kind, "single", tasks))
                    cell = f"{gain.mean:+.4f}{gain.mark}"
                cells.append(cell)
            rows.append([case.title, measure, *cells])
    return align_columns(rows, left=(0, 1))


def ablations(store: Store) -> str:
    """Return the tables of the ablations that have their own fits."""
    exponents = [HEDGED, "hedged-exponent-0", "hedged-exponent-1"]
    kinds = [*BASELINES, HEDGED]
    parts = [
        _ablation("gradient of a task", store, exponents, EXPONENT_CASES),
        _ablation("Adam", store, kinds, ABLATION_CASES),
    ]
    for optimizer in ("AdamW", "Adagrad", "SGD"):
        of_optimizer = [f"{kind}-{optimizer.lower()}" for kind in kinds]
        parts.append(_ablation(optimizer, store, of_optimizer, ABLATION_CASES))
    parts.append(_ablation("one pass", store, kinds, ABLATION_CASES, **ONE_PASS))
    return "\n\n".join(parts)


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


def rates() -> str:
    """Return the learning rates of all networks."""
    rows = [["learning rate", *DEFAULT_ROWS]]
    for kind, by_data in RATES.items():
        rows.append([title(kind), *(str(by_data.get(data, "")) for data in DEFAULT_ROWS)])
    return align_columns(rows)


def report(store: Store) -> dict[str, str]:
    """Return all tables, by name. All fits of the plan must be there."""
    scores = all_scores(store, MODELS)
    return {
        "goals": goals(scores),
        "AUC": worst_regrets(scores, "AUC"),
        "squared error": worst_regrets(scores, "squared error"),
        "by case": by_case(scores, by_task=False),
        "by task": by_case(scores, by_task=True),
        "summary": summary(scores),
        "gains": gains(store),
        "ablations": ablations(store),
        "rates": rates(),
    }


def draw(store: Store, path: Path) -> None:
    """Draw the worst regret of each model over all cases, with a panel for each metric."""
    import matplotlib.pyplot as plt

    scores = all_scores(store, CHART)
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.4), sharey=True)
    for panel, metric in zip(panels, GOALS):
        worst = {title(k): max(worst_of_all(scores, k, metric).mean, 0.0) for k in CHART}
        colors = ["#0969da" if name == title(HEDGED) else "#8c959f" for name in worst]
        panel.barh([*worst], [*worst.values()], color=colors)
        for height, mean in enumerate(worst.values()):
            panel.text(mean, height, f" {mean:.3f}", va="center", fontsize=9)
        panel.set_xlim(0, 1.18 * max(worst.values()))
        panel.locator_params(axis="x", nbins=4)
        panel.set_title(f"worst regret in {metric}", fontsize=11)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.text(0.01, 0.01, NOTE, fontsize=8, color="#57606a")
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path, dpi=110, facecolor="white")  # readable on a dark page too
    plt.close(figure)

"""Tables and chart of the benchmark "never worse"."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _networks import ALL_NETWORKS, MIXTURES, ROOT, title
from _never_worse_plan import (
    ABLATION_CASES,
    ABLATION_SEEDS,
    BASELINES,
    BLOCKS,
    ENSEMBLES,
    EXPONENT_CASES,
    HEDGED,
    ONE_PASS,
    VARIANTS,
    Step,
    all_cases,
    fresh_seeds,
)
from _tables import align_columns
from _transfer_cases import BINARY, readable
from _transfer_fits import Fit, Sizes, Store
from _transfer_rates import RATES
from _transfer_summary import Estimate, Scores

ALL_ENSEMBLES = [*ENSEMBLES, *(kind for kind in MIXTURES if kind.startswith("hedged-bottoms"))]
OTHER_MIXTURES = [kind for kind in MIXTURES if kind not in ALL_ENSEMBLES]
MODELS = [HEDGED, *VARIANTS, *OTHER_MIXTURES, *ALL_ENSEMBLES, *BASELINES, *BLOCKS, *ROOT]
METRICS = ("AUC", "squared error")
CHART = [HEDGED, *BASELINES, "mmoe", "cgc", "ple", "ple-isolated", "cgc-streams", "ple-streams"]
NOTE = (
    "How much worse than the better of single-task networks and a shared bottom, in the worst of "
    "all cases, as a mean over seeds. Lower is better."
)
GOALS = {"AUC": 0.002, "squared error": 0.01}


@dataclass(frozen=True)
class Regret:
    """Regret of a model in a case.

    Attributes:
        case: The case, a key of `Scores.cases`.
        what: The case and task, for readers.
        metric: One of METRICS.
        task: The task, or "" for the mean of all tasks with this metric.
        values: The regret by seed.
    """

    case: str
    what: str
    metric: str
    task: str
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


def all_scores(store: Store, kinds: Sequence[str] = MODELS, sizes: Sizes | None = None) -> Scores:
    """Return the scores of all kept fits."""
    cases, sizes = all_cases(), sizes or Sizes()
    fits = [Fit(c, k, s, sizes) for c in cases for k in kinds for s in range(fresh_seeds(c).stop)]
    return Scores(fits, store)


def regrets(
    scores: Scores, kind: str, baselines: Sequence[str] = BASELINES, by_task: bool = False
) -> list[Regret]:
    """Return the regrets of a model, of all cases in which it and the baselines have two seeds."""
    found = []
    for case, what, metric, tasks in _measures(scores, by_task):
        values = scores.regret(case, kind, tasks, baselines)
        if len(values) > 1:
            found.append(Regret(case, what, metric, tasks[0] if by_task else "", values))
    return found


def _measures(scores: Scores, by_task: bool) -> Iterator[tuple[str, str, str, list[str]]]:
    for key, case in scores.cases.items():
        for metric, is_binary in zip(METRICS, (True, False)):
            tasks = [task for task in case.tasks if (task in BINARY) == is_binary]
            if by_task:
                for task in tasks:
                    yield key, f"{case.title}: {_task_title(key, task)}", metric, [task]
            elif tasks:
                yield key, case.title, metric, tasks


def _task_title(case: str, task: str) -> str:
    scarce = {"task_1": "scarce task", "task_2": "other task"}
    return scarce.get(task, task) if case.startswith("scarce") else task.replace("_", " ")


def mean_over_cases(scores: Scores, found: list[Regret]) -> Estimate:
    """Return the mean regret. Its interval is an upper bound, see the rules."""
    halves: dict[str, float] = {}
    for regret in found:
        setting = scores.cases[regret.case].setting
        halves[setting] = halves.get(setting, 0.0) + regret.estimate.half
    mean = float(np.mean([regret.estimate.mean for regret in found]))
    return Estimate(mean, float(np.sqrt(np.sum(np.square([*halves.values()])))) / len(found))


def significant_after_holm(found: list[Regret]) -> list[Regret]:
    """Return the regrets that are significantly above 0 after Holm's correction."""
    kept = []
    for i, regret in enumerate(sorted(found, key=lambda regret: regret.p_value)):
        if regret.p_value > 0.05 / (len(found) - i):
            break
        kept.append(regret)
    return [regret for regret in kept if regret.is_significant]


def goals(scores: Scores, steps: list[Step], store: Store) -> str:
    """Return the table of goals, missed ones first."""
    fits = [fit for step in (steps[0], steps[3]) for fit in step.fits]
    is_done = all(fit in store for fit in fits if fit.kind in (HEDGED, *BASELINES))
    so_far = "" if is_done else " so far"
    rows = [*_goals_of(scores, "case"), *_goals_of(scores, "task")]
    table = [["goal", "verdict", "measured", "in"]]
    for is_met, goal, measured, where in sorted(rows, key=lambda row: row[0]):
        table.append([goal, ("met" if is_met else "missed") + so_far, measured, where])
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
            worst = max(of_metric, key=lambda regret: regret.estimate.mean)
            goal = f"worst mean regret in {metric} at most {limit:g}, by {by}"
            yield worst.estimate.mean <= limit, goal, worst.estimate.format(), worst.what


def worst_task(scores: Scores, store: Store) -> str:
    """Return the metric of the task with the largest regret, relative to its goal, by seed."""
    found = regrets(scores, HEDGED, by_task=True)
    worst = max(found, key=lambda regret: regret.estimate.mean / GOALS[regret.metric])
    kinds = [HEDGED, *OTHER_MIXTURES, *BASELINES]
    seeds = scores.seeds(worst.case, kinds)
    columns = [scores.of(worst.case, kind, [worst.task], seeds) for kind in kinds]
    names = [title(kind).removeprefix("hedged, ") for kind in kinds]
    rows = [[f"seed, {worst.metric}", *names, "weight of shared branch"]]
    for i, seed in enumerate(seeds):
        record = store[Fit(scores.cases[worst.case], HEDGED, seed, Sizes())]
        weight = record["hedge"][worst.task]["shared"]
        rows.append([f"{seed}", *(f"{column[i]:.3f}" for column in columns), f"{weight:.2f}"])
    return f"{worst.what}\n{align_columns(rows)}"


def progress(steps: list[Step], store: Store) -> str:
    """Return the numbers of fits and their seconds, by step."""
    rows, seen = [["fits", "planned", "kept", "hours"]], set()
    for step in steps:
        new = {fit.key: fit for fit in step.fits if fit.key not in seen}
        seen |= {*new}
        kept = [store[fit] for fit in new.values() if fit in store]
        hours = sum(record["seconds"] for record in kept) / 3600
        rows.append([step.title, f"{len(new)}", f"{len(kept)}", f"{hours:.1f}"])
    totals = [sum(float(row[i]) for row in rows[1:]) for i in (1, 2, 3)]
    rows.append(["in all", f"{totals[0]:.0f}", f"{totals[1]:.0f}", f"{totals[2]:.1f}"])
    return align_columns(rows)


def worst_regrets(scores: Scores, metric: str) -> str:
    """Return the worst and the mean regret of each model, by case and by task."""
    rows = [["model", "cases", "seeds", "worst", "in", "mean", "worst by task", "above 0"]]
    for kind in MODELS:
        found = [r for r in regrets(scores, kind) if r.metric == metric]
        of_tasks = [r for r in regrets(scores, kind, by_task=True) if r.metric == metric]
        if not found:
            continue
        worst = max(found, key=lambda regret: regret.estimate.mean)
        worst_task = max(of_tasks, key=lambda regret: regret.estimate.mean)
        counts = sorted({len(regret.values) for regret in found})
        rows.append(
            [
                title(kind),
                f"{len(found)}",
                "-".join(dict.fromkeys([str(counts[0]), str(counts[-1])])),
                worst.estimate.format(),
                worst.what,
                mean_over_cases(scores, found).format(),
                worst_task.estimate.format(),
                f"{sum(r.is_significant for r in found)}",
            ]
        )
    return align_columns(rows, left=(0, 4))


def summary(scores: Scores) -> str:
    """Return the worst regrets of the models that have all cases."""
    rows = [["model", *(f"worst regret in {metric}" for metric in METRICS)]]
    for kind in CHART:
        worst = [worst_of_all(scores, kind, metric) for metric in METRICS]
        if all(worst):
            rows.append([title(kind), *(estimate.format() for estimate in worst)])
    return align_columns(rows)


def worst_of_all(scores: Scores, kind: str, metric: str) -> Estimate | None:
    """Return the worst regret of a model; None if it lacks cases."""
    found = [r.estimate for r in regrets(scores, kind) if r.metric == metric]
    expected = sum(of_case == metric for _, _, of_case, _ in _measures(scores, by_task=False))
    return max(found, key=lambda x: x.mean) if len(found) == expected else None


def by_case(scores: Scores, by_task: bool) -> str:
    """Return the regrets of hedged branches in each case or for each task."""
    against = {r.what + r.metric: r for r in regrets(scores, HEDGED, ALL_ENSEMBLES, by_task)}
    rows = [["case", "metric", "seeds", "regret", "against the best ensemble"]]
    for regret in regrets(scores, HEDGED, by_task=by_task):
        other = against.get(regret.what + regret.metric)
        rows.append(
            [
                regret.what,
                regret.metric,
                f"{len(regret.values)}",
                regret.estimate.format() + ("  >0" if regret.is_significant else "    "),
                _marked(other) if other else "",
            ]
        )
    return align_columns(rows, left=(0, 1))


def _marked(regret: Regret) -> str:
    """Return the regret, marked if its interval excludes 0."""
    estimate = regret.estimate
    mark = " " if abs(estimate.mean) <= estimate.half else "*"
    return f"{estimate.format(sign='+')}{mark}"


def ablations(store: Store) -> str:
    """Return the tables of the ablations that have fits of their own."""
    exponents = [HEDGED, *(kind for kind in ALL_NETWORKS if "exponent" in kind)]
    rows = [["gradient of a task", *(readable(name) for name in EXPONENT_CASES)]]
    scores = all_scores(store, [*exponents, *BASELINES])
    for kind in exponents:
        rows.append([title(kind), *(_metrics(scores, kind, name) for name in EXPONENT_CASES)])
    parts = [align_columns(rows)]
    for name, suffix, sizes in (
        ("Adam", "", Sizes()),
        ("AdamW", "-adamw", Sizes()),
        ("Adagrad", "-adagrad", Sizes()),
        ("SGD", "-sgd", Sizes()),
        ("one pass", "", ONE_PASS),
    ):
        kinds = [f"{kind}{suffix}" for kind in [*BASELINES, HEDGED]]
        scores = all_scores(store, kinds, sizes)
        rows = [[name, *(readable(case) for case in ABLATION_CASES)]]
        rows += [[title(k), *(_metrics(scores, k, case) for case in ABLATION_CASES)] for k in kinds]
        if any(any(row[1:]) for row in rows[1:]):
            parts.append(align_columns(rows))
    return "\n\n".join(parts)


def _metrics(scores: Scores, kind: str, name: str) -> str:
    """Return the mean metric of each task of a case, over the seeds of the ablations."""
    key = next(key for key, case in scores.cases.items() if case.name == name)
    seeds = [seed for seed in scores.seeds(key, [kind]) if seed < ABLATION_SEEDS]
    if not seeds:
        return ""
    tasks = scores.cases[key].tasks
    return ", ".join(f"{np.mean(scores.of(key, kind, [task], seeds)):.3f}" for task in tasks)


def rates() -> str:
    """Return the learning rates of all networks."""
    kinds = dict.fromkeys(kind for of_data in RATES.values() for kind in of_data)
    rows = [["learning rate", *RATES]]
    rows += [[title(kind), *(f"{of.get(kind, '')}" for of in RATES.values())] for kind in kinds]
    return align_columns(rows)


def report(steps: list[Step], store: Store) -> dict[str, str]:
    """Return all tables, by name."""
    scores = all_scores(store)
    return {
        "goals": goals(scores, steps, store),
        "worst task": worst_task(scores, store),
        "AUC": worst_regrets(scores, "AUC"),
        "squared error": worst_regrets(scores, "squared error"),
        "by case": by_case(scores, by_task=False),
        "by task": by_case(scores, by_task=True),
        "summary": summary(scores),
        "ablations": ablations(store),
        "rates": rates(),
        "progress": progress(steps, store),
    }


def draw(store: Store, path: Path) -> None:
    """Draw the worst regret of each model over all cases, a panel for each metric."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    scores = all_scores(store)
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.4), sharey=True)
    for panel, metric in zip(panels, METRICS):
        found = {title(kind): worst_of_all(scores, kind, metric) for kind in CHART}
        names = [name for name, estimate in found.items() if estimate]
        worst = [estimate for estimate in found.values() if estimate]
        colors = ["#0969da" if name == title(HEDGED) else "#8c959f" for name in names]
        means = [max(estimate.mean, 0.0) for estimate in worst]
        panel.barh(names, means, color=colors)
        for height, (mean, estimate) in enumerate(zip(means, worst)):
            panel.text(mean, height, f" {max(estimate.mean, 0):.3f}", va="center", fontsize=9)
        panel.set_xlim(0, 1.18 * max(means))
        panel.locator_params(axis="x", nbins=4)
        panel.set_title(f"worst regret in {metric}", fontsize=11)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.text(0.01, 0.01, NOTE, fontsize=8, color="#57606a")
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path, dpi=110, facecolor="white")  # readable on a dark page too
    plt.close(figure)

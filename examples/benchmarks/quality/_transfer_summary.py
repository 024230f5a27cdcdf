"""Tables and regrets of the benchmark of negative transfer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from _networks import ALL_NETWORKS, title
from _tables import align_columns
from _transfer_cases import BINARY, Case, readable
from _transfer_fits import Fit, Store

BASELINES = ("single", "bottom")


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds with the half-width of its 95 % interval, NaN for one seed."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> "Estimate":
        """Return the mean of values and half of the interval of Student's t distribution."""
        from scipy.stats import t

        count = len(values)
        if count < 2:
            return cls(float(np.mean(values)), float("nan"))
        quantile = float(t.ppf(0.975, count - 1))
        return cls(float(np.mean(values)), quantile * float(np.std(values, ddof=1)) / count**0.5)

    def format(self, digits: int = 4, sign: str = "") -> str:
        """Return text such as "0.9477 ± 0.0003"."""
        half = "" if np.isnan(self.half) else f" ± {self.half:.{digits}f}"
        return f"{self.mean:{sign}.{digits}f}{half}"


class Scores:
    """Test metrics by case and model, over seeds.

    Args:
        fits: The fits. Those that were not run are left out.
        store: Their results.
    """

    def __init__(self, fits: list[Fit], store: Store) -> None:
        self._records: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
        self.cases: dict[str, Case] = {}
        self.parameters: dict[tuple[str, str], tuple[int, int]] = {}
        for fit in fits:
            key = fit.case.setting + fit.case.name, fit.kind
            self.cases[key[0]] = fit.case
            if fit not in store:
                continue
            record = store[fit]
            self._records.setdefault(key, {})[fit.seed] = record["test"]
            if "parameters" in record:
                self.parameters[key] = record["parameters"], record["embeddings"]
        self.kinds = list(dict.fromkeys(fit.kind for fit in fits))

    def seeds(self, case: str, kinds: Iterable[str]) -> list[int]:
        """Return the seeds that all of the models have on a case, in order."""
        return sorted(set.intersection(*({*self._records.get((case, kind), ())} for kind in kinds)))

    def of(self, case: str, kind: str, tasks: list[str], seeds: Iterable[int] = ()) -> np.ndarray:
        """Return the mean metric of some tasks, for the given seeds or else all, in order."""
        records = self._records[case, kind]
        keys = [f"{task}_auc" if task in BINARY else f"{task}_mean_squared_error" for task in tasks]
        return np.array(
            [np.mean([records[seed][key] for key in keys]) for seed in seeds or sorted(records)]
        )

    def has(self, case: str, kind: str) -> bool:
        """Return whether a model was trained on a case."""
        return (case, kind) in self._records

    def groups(self, setting: str) -> dict[tuple[str, str], list[str]]:
        """Return the cases of a setting, by group and title of the measure."""
        found: dict[tuple[str, str], list[str]] = {}
        for key, case in self.cases.items():
            if case.setting == setting:
                for measure in case.measures:
                    found.setdefault((case.group, measure), []).append(key)
        return found

    def regret(
        self, case: str, kind: str, tasks: list[str], baselines: Sequence[str] = BASELINES
    ) -> np.ndarray:
        """Return how much worse a model is than the best of the baselines, by seed.

        The baseline with the best mean over the seeds is the best one. Only the seeds count that
        the model and all baselines have.
        """
        seeds = self.seeds(case, [kind, *baselines])
        if not seeds:
            return np.empty(0)
        regrets = [-self.gain(case, kind, baseline, tasks, seeds) for baseline in baselines]
        return max(regrets, key=np.mean)

    def gain(
        self, case: str, kind: str, base: str, tasks: list[str], seeds: Iterable[int] = ()
    ) -> np.ndarray:
        """Return how much better a model is than another, for seeds that both have.

        The gain is positive if an AUC is higher, or a squared error lower.
        """
        sign = 1 if tasks[0] in BINARY else -1
        seeds = seeds or self.seeds(case, [kind, base])
        return sign * (self.of(case, kind, tasks, seeds) - self.of(case, base, tasks, seeds))


def format_tables(setting: str, scores: Scores) -> str:
    """Return a table for each group of cases and measure.

    Each cell has the mean and, in brackets, the difference to the single-task networks.
    """
    parts = []
    for (group, measure), cases in scores.groups(setting).items():
        columns = [scores.cases[case].column for case in cases]
        rows = [["model", "parameters", "embeddings", *columns]]
        for kind in scores.kinds:
            trained = [case for case in cases if scores.has(case, kind)]
            if not trained:
                continue
            sizes = scores.parameters.get((trained[-1], kind))
            cells = [f"{size:,}" for size in sizes] if sizes else ["-", "-"]
            tasks = [scores.cases[case].measures[measure] for case in cases]
            cells += [_cell(scores, case, kind, of) for case, of in zip(cases, tasks)]
            rows.append([title(kind), *cells])
        parts.append(f"{measure}, {readable(group)}\n{align_columns(rows)}")
    return "\n\n".join(parts)


def _cell(scores: Scores, case: str, kind: str, tasks: list[str]) -> str:
    if not scores.has(case, kind):
        return ""
    values = scores.of(case, kind, tasks)
    if kind == "single" or not scores.has(case, "single"):
        return Estimate.of(values).format()
    difference = Estimate.of(values - scores.of(case, "single", tasks))
    return f"{np.mean(values):.4f} ({difference.format(sign='+')})"


def format_regrets(scores: Scores) -> str:
    """Return the worst and the mean regret of every model, for AUCs and for squared errors."""
    parts = []
    for name, binary in (("AUC", True), ("squared error over the variance", False)):
        cases = {
            key: [task for task in case.tasks if (task in BINARY) == binary]
            for key, case in scores.cases.items()
            if all(scores.has(key, baseline) for baseline in BASELINES)
        }
        cases = {key: tasks for key, tasks in cases.items() if tasks}
        if cases:
            table = align_columns(_regret_rows(scores, cases), left=(0, 2))
            parts.append(f"Regret in {name}\n{table}")
    return "\n\n".join(parts)


def _regret_rows(scores: Scores, cases: dict[str, list[str]]) -> list[list[str]]:
    settings = list(dict.fromkeys(scores.cases[key].setting for key in cases))
    rows = [["model", "worst", "in", "mean", *(f"worst, {setting}" for setting in settings)]]
    for kind in scores.kinds:
        regrets = {
            key: scores.regret(key, kind, tasks)
            for key, tasks in cases.items()
            if scores.has(key, kind)
        }
        if not regrets:
            continue
        worst = max(regrets, key=lambda key: np.mean(regrets[key]))
        cells = [_worst(scores, regrets, setting) for setting in settings]
        case, mean = scores.cases[worst], _mean_regret(scores, regrets).format()
        worst_cell = Estimate.of(regrets[worst]).format()
        rows.append([title(kind), worst_cell, case.title, mean, *cells])
    return rows


def _worst(scores: Scores, regrets: dict[str, np.ndarray], setting: str) -> str:
    inside = [value for key, value in regrets.items() if scores.cases[key].setting == setting]
    return Estimate.of(max(inside, key=np.mean)).format() if inside else ""


def format_options(scores: Scores) -> str:
    """Return in which cases each option is better or worse than the network without it."""
    parts = []
    for kind in scores.kinds:
        base = kind in ALL_NETWORKS and ALL_NETWORKS[kind].base
        if not base or base not in scores.kinds:
            continue
        gains = _option_gains(scores, kind, base)
        better = [row for row, gain in gains if gain.mean > gain.half]
        worse = [row for row, gain in gains if gain.mean < -gain.half]
        counts = f"better in {len(better)}, worse in {len(worse)} of {len(gains)} cases"
        lines = [f"{title(kind)}, over {title(base)}: {counts}"]
        if better or worse:
            lines.append(align_columns([["case", "measure", "gain"], *better, *worse], left=(0, 1)))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _option_gains(scores: Scores, kind: str, base: str) -> list[tuple[list[str], Estimate]]:
    """Return a row of text and the gain for each case and measure."""
    rows = []
    for key, case in scores.cases.items():
        if scores.has(key, kind) and scores.has(key, base):
            for measure, tasks in case.measures.items():
                gain = Estimate.of(scores.gain(key, kind, base, tasks))
                name = f"{case.setting}: {case.title}"
                rows.append(([name, measure, gain.format(sign="+")], gain))
    return rows


def _mean_regret(scores: Scores, regrets: dict[str, np.ndarray]) -> Estimate:
    """Return the mean over cases. Seeds are paired inside a setting, independent between them."""
    sums: dict[str, list[np.ndarray]] = {}
    for key, values in regrets.items():
        sums.setdefault(scores.cases[key].setting, []).append(values)
    of_settings = [Estimate.of(np.sum(values, axis=0)) for values in sums.values()]
    mean = sum(estimate.mean for estimate in of_settings) / len(regrets)
    half = np.sqrt(sum(estimate.half**2 for estimate in of_settings)) / len(regrets)
    return Estimate(mean, float(half))

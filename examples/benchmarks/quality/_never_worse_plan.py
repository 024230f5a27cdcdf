"""Fits of the benchmark "never worse", in the order of docs/maintainers/never_worse_rules.md."""

from collections.abc import Callable
from dataclasses import dataclass

from _networks import ALL_NETWORKS, EXPONENTS, OPTIMIZERS, ROOT, WITHOUT_TABLES
from _second_tasks import SECOND_TASKS
from _transfer_cases import Case, correlation_cases, scarce_cases, task_cases, weight_cases
from _transfer_fits import Fit, Sizes, Store
from _transfer_rates import RATES, SEARCH_CASES, SEARCH_SEED, candidates

PUBLISHED_SEEDS = {"weight": 10, "scarce": 5, "correlation": 6, "tasks": 5}
SEEDS_UNRELATED = 20  # with few labels, next to an unrelated task
HEDGED = "hedged"
BASELINES = ["single", "bottom"]
ENSEMBLES = ["hedged-bottoms", "single-pair"]
VARIANTS = ["hedged-ple", "hedged-stopped"]
BLOCKS = ["mmoe", "cgc", "ple", "ple-isolated", "cgc-streams", "ple-streams"]
ABLATION_SEEDS = 3
ABLATION_CASES = [
    "beside an equal task, 1% of labels",
    "beside an unrelated task, 1% of labels",
    "correlation, 0.5",
]
EXPONENT_CASES = [*ABLATION_CASES[:2], "income beside never_married, 1.0% of labels"]
ONE_PASS = Sizes(rows=360_000, epochs=1)  # as many steps as 15 epochs of 24,000 rows


@dataclass(frozen=True)
class Step:
    """Fits of the plan that have one purpose.

    Attributes:
        title: The purpose.
        fits: The fits, in order.
    """

    title: str
    fits: list[Fit]


def all_cases() -> list[Case]:
    """Return the 32 cases."""
    weights = [0.1, 1.0, 10.0, 100.0]
    income = [case for second in SECOND_TASKS for case in weight_cases(second, weights)]
    return [*income, *scarce_cases(), *correlation_cases(), *task_cases()]


def plan() -> list[Step]:
    """Return all steps, in order."""
    new = [*ENSEMBLES, *VARIANTS]
    hedged = [*BASELINES, HEDGED, *new]
    return [
        Step("hedged branches, published seeds", fits([HEDGED], published_seeds)),
        Step("learning rates", searches(new, ["census", "synthetic"])),
        Step("ensembles and variants, published seeds", fits(new, published_seeds)),
        Step("baselines, hedged branches and ensembles, fresh seeds", fits(hedged, fresh_seeds)),
        Step("label_root, published seeds", fits([*ROOT], published_seeds)),
        Step("label_root, fresh seeds", fits([*ROOT], fresh_seeds)),
        Step("other blocks, fresh seeds", fits(BLOCKS, fresh_seeds)),
        Step("learning rates of optimizers", searches([*OPTIMIZERS], ["synthetic"])),
        Step("ablations", ablations()),
    ]


def published_seeds(case: Case) -> range:
    """Return the seeds of the published fits."""
    return range(PUBLISHED_SEEDS[case.setting])


def fresh_seeds(case: Case) -> range:
    """Return as many seeds, or more, that no published fit has."""
    count = PUBLISHED_SEEDS[case.setting]
    is_long = case.group == "beside an unrelated task"
    return range(count, SEEDS_UNRELATED if is_long else 2 * count)


def fits(kinds: list[str], seeds: Callable[[Case], range]) -> list[Fit]:
    """Return fits on all cases, seed by seed."""
    cases = all_cases()
    return [
        Fit(case, kind, seed, Sizes())
        for seed in range(max(seeds(case).stop for case in cases))
        for case in cases
        if seed in seeds(case)
        for kind in kinds
        if case.has_missing_labels or kind not in ROOT
    ]


def searches(kinds: list[str], data: list[str]) -> list[Fit]:
    """Return fits with all learning rates."""
    return [
        Fit(case, kind, SEARCH_SEED, Sizes(), rate)
        for case in all_cases()
        if case.name in SEARCH_CASES and case.data in data
        for kind in kinds
        if case.data == "census" or kind not in WITHOUT_TABLES
        for rate in candidates(ALL_NETWORKS[kind].optimizer)
    ]


def ablations() -> list[Fit]:
    """Return the fits of the ablations that need fits of their own."""
    cases = {case.name: case for case in all_cases()}
    by_kind = [(kind, EXPONENT_CASES, Sizes()) for kind in EXPONENTS]
    by_kind += [(kind, ABLATION_CASES, ONE_PASS) for kind in [*BASELINES, HEDGED]]
    by_kind += [(kind, ABLATION_CASES, Sizes()) for kind in OPTIMIZERS]
    return [
        Fit(cases[name], kind, seed, sizes)
        for seed in range(ABLATION_SEEDS)
        for kind, names, sizes in by_kind
        for name in names
    ]


def set_searched_rates(searched: list[Fit], store: Store) -> None:
    """Give each network the best of its learning rates, once all of them are kept."""
    scores: dict[tuple[str, str], dict[float, float]] = {}
    for fit in searched:
        if fit in store and fit.rate:
            row = scores.setdefault((fit.case.data, fit.kind), {})
            row[fit.rate] = store[fit]["validation"]
    for (data, kind), row in scores.items():
        if len(row) == len(candidates(ALL_NETWORKS[kind].optimizer)):
            RATES[data][kind] = max(row, key=lambda rate: row[rate])

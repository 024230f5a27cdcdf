"""The fits of `never_worse`."""

from collections.abc import Callable

from ._cases import Case, all_cases
from ._fits import Fit, candidates
from ._networks import BLOCKS, EXPONENTS, OPTIMIZERS, ROOT, WITHOUT_TABLES

PUBLISHED_SEEDS = {"weight": 10, "scarce": 5, "correlation": 6, "tasks": 5}
SEEDS_UNRELATED = 20  # with few labels, next to an unrelated task
SEARCH_CASES = ("next to age, weight 1", "correlation, 0.5")
SEARCH_SEED = 100
HEDGED = "hedged"
BASELINES = ["single", "bottom"]
ENSEMBLES = ["hedged-bottoms", "single-pair"]
VARIANTS = ["hedged-ple", "hedged-stopped"]
SMALLER_TABLES = ["hedged-quarter"]
OTHER_BLOCKS = ["mmoe", "cgc", "ple", "ple-isolated", "cgc-streams", "ple-streams"]
ABLATION_SEEDS = 3
ABLATION_CASES = [
    "next to an equal task, 1% of labels",
    "next to an unrelated task, 1% of labels",
    "correlation, 0.5",
]
EXPONENT_CASES = [*ABLATION_CASES[:2], "income next to never_married, 1.0% of labels"]
SMALL_VALIDATION = 100  # rows
SMALL_SEEDS = range(200, 210)
SMALL_CASES = [
    "income next to age, weight 1",
    "income next to noise, weight 1",
    "income next to never_married, 0.3% of labels",
    "next to an equal task, 1% of labels",
    "next to an equal task, 10% of labels",
    "next to an unrelated task, 1% of labels",
    "next to an unrelated task, 10% of labels",
    "relation that depends on the example, flipped sign",
    "number of tasks, 4",
]
ONE_PASS = {"rows": 360_000, "epochs": 1}  # as many steps as 15 epochs of 24,000 rows


def plan() -> list[Fit]:
    """Return all fits."""
    both = [*BASELINES, HEDGED, *ENSEMBLES, *VARIANTS, *OTHER_BLOCKS, *ROOT]
    searched = [*BLOCKS, HEDGED, *ENSEMBLES, *VARIANTS]
    return [
        *searches(searched, ["census", "synthetic"]),
        *searches(SMALLER_TABLES, ["census"]),
        *searches([*OPTIMIZERS], ["synthetic"]),
        *fits(both, published_seeds),
        *fits([*both, *SMALLER_TABLES], fresh_seeds),
        *ablations(),
        *with_small_validation(),
    ]


def with_small_validation() -> list[Fit]:
    """Return the fits with few validation rows, on seeds that no other fit uses."""
    return [
        Fit(case, kind, seed, validation=SMALL_VALIDATION)
        for seed in SMALL_SEEDS
        for case in all_cases()
        if case.title in SMALL_CASES
        for kind in [*BASELINES, HEDGED]
    ]


def published_seeds(case: Case) -> range:
    """Return the seeds of the published fits."""
    return range(PUBLISHED_SEEDS[case.setting])


def fresh_seeds(case: Case) -> range:
    """Return at least as many seeds, which no published fit uses."""
    count = PUBLISHED_SEEDS[case.setting]
    is_long = case.group == "next to an unrelated task"
    return range(count, SEEDS_UNRELATED if is_long else 2 * count)


def fits(kinds: list[str], seeds: Callable[[Case], range]) -> list[Fit]:
    """Return fits on all cases, seed by seed."""
    cases = all_cases()
    return [
        Fit(case, kind, seed)
        for seed in range(max(seeds(case).stop for case in cases))
        for case in cases
        if seed in seeds(case)
        for kind in kinds
        if case.has_missing_labels or kind not in ROOT
    ]


def searches(kinds: list[str], data: list[str]) -> list[Fit]:
    """Return fits with all learning rates."""
    return [
        Fit(case, kind, SEARCH_SEED, rate=rate)
        for case in all_cases()
        if case.name in SEARCH_CASES and case.data in data
        for kind in kinds
        if case.data == "census" or kind not in WITHOUT_TABLES
        for rate in candidates(kind)
    ]


def ablations() -> list[Fit]:
    """Return the fits of the ablations that need their own fits."""
    cases = {case.name: case for case in all_cases()}
    by_kind = [(kind, EXPONENT_CASES, {}) for kind in EXPONENTS]
    by_kind += [(kind, ABLATION_CASES, ONE_PASS) for kind in [*BASELINES, HEDGED]]
    by_kind += [(kind, ABLATION_CASES, {}) for kind in OPTIMIZERS]
    return [
        Fit(cases[name], kind, seed, **sizes)
        for seed in range(ABLATION_SEEDS)
        for kind, names, sizes in by_kind
        for name in names
    ]

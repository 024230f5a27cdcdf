"""The fits of `never_worse`, in the order in which they are trained."""

from collections.abc import Callable
from dataclasses import dataclass

from ._cases import Case, all_cases
from ._fits import Fit, candidates
from ._networks import BLOCKS, EXPONENTS, OPTIMIZERS, ROOT, SCARCE, WITHOUT_TABLES

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
ONE_PASS = {"rows": 360_000, "epochs": 1}  # as many steps as 15 epochs of 24,000 rows


@dataclass(frozen=True)
class Step:
    """Fits of the plan with one purpose."""

    title: str
    fits: list[Fit]


def plan() -> list[Step]:
    """Return all steps, in order."""
    new = [*ENSEMBLES, *VARIANTS]
    hedged = [*BASELINES, HEDGED, *new]
    smaller = searches(SMALLER_TABLES, ["census"]) + fits(SMALLER_TABLES, fresh_seeds)
    return [
        Step("hedged branches, published seeds", fits([HEDGED], published_seeds)),
        Step("learning rates", searches(new, ["census", "synthetic"])),
        Step("ensembles and variants, published seeds", fits(new, published_seeds)),
        Step("baselines, hedged branches and ensembles, fresh seeds", fits(hedged, fresh_seeds)),
        Step("label_root, published seeds", fits([*ROOT], published_seeds)),
        Step("label_root, fresh seeds", fits([*ROOT], fresh_seeds)),
        Step("other blocks, fresh seeds", fits(OTHER_BLOCKS, fresh_seeds)),
        Step("smaller tables", smaller),
        Step("learning rates of optimizers", searches([*OPTIMIZERS], ["synthetic"])),
        Step("ablations", ablations()),
    ]


def published() -> Step:
    """Return the fits that were kept before the rules were written."""
    of_networks = [*BASELINES, *OTHER_BLOCKS, "bottom-uncertainty"]
    of_scarce = [fit for fit in fits([*SCARCE], published_seeds) if fit.case.setting == "scarce"]
    searched = searches([*BLOCKS, HEDGED], ["census", "synthetic"])
    return Step("published fits", searched + fits(of_networks, published_seeds) + of_scarce)


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

"""Kinds of tasks, and verdicts on the gains that `against_boosting` and `retail` keep."""

import json
from pathlib import Path

import numpy as np

from ._tables import align_columns

RESULTS = Path(__file__).parents[2] / "docs" / "results"
KEPT = ["against_boosting", "retail"]
NETWORKS = ["single", "bottom"]  # next to hedged branches
GENERATED = ["counts", "texts"]  # tables of `against_boosting`
KINDS = {  # of tasks
    **dict.fromkeys(["canceled", "departed_late", "income", "never_married", "like"], "binary"),
    **dict.fromkeys(["hate", "hate by rating", "like by rating", "bought", "flagged"], "binary"),
    **dict.fromkeys(["union", "verified", "buy", "discount", "coupon"], "binary"),
    **dict.fromkeys(["arrival_delay", "rating", "ln_wage", "hours", "lnmeddol"], "regression"),
    **dict.fromkeys(["log_price", "length", "height", "interest_rate"], "regression"),
    **dict.fromkeys(["log_amount", "log_lead", "room_price"], "regression"),
    **dict.fromkeys(["clicks", "votes", "mdvis", "totadm", "visits", "emergency"], "count"),
    **dict.fromkeys(["hospital", "requests", "units"], "count"),
    "spend": "amount",
}
RANKED = {"hate by rating": ("hate", -1), "like by rating": ("like", 1)}
VERDICTS = ["better", "equivalent", "not decided", "worse"]


def verdict(task: str, gain: float, low: float, high: float) -> str:
    """Return the verdict on a gain with its interval, which can be NaN."""
    if low > 0 or high < 0:
        return "better" if low > 0 else "worse"
    margin = 1 if KINDS[task] == "binary" else 2  # points of AUC, percents of errors
    return "equivalent" if max(-low, high) <= margin else "not decided"


def count_verdicts() -> str:
    """Return the numbers of tasks with each verdict on hedged branches, by real table."""
    kept = [json.loads((RESULTS / f"{name}.json").read_text()) for name in KEPT]
    tables = {name: table for name, table in kept[0].items() if name not in GENERATED}
    rows = [["", *(f"over {network}" for network in NETWORKS)]]
    totals = np.zeros((len(NETWORKS), len(VERDICTS)), int)
    for name, table in {**tables, "retail": kept[1]}.items():
        rows.append([name])
        for network, total in zip(NETWORKS, totals, strict=True):
            gains = table["gains"][f"hedged over {network}"]
            found = [verdict(t, *np.array(g, float)) for t, g in gains.items() if t not in RANKED]
            counts = [found.count(each) for each in VERDICTS]
            rows[-1].append("/".join(map(str, counts)))
            total += counts
    rows.append(["all", *("/".join(map(str, total)) for total in totals)])
    return align_columns(rows)

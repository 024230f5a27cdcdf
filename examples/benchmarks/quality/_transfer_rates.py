"""Learning rates of the benchmark of negative transfer.

Found with `negative_transfer.py --search-rates`, which trains every network with every rate of
`CANDIDATES` on one case of each data set, with a seed that no other fit has. An option takes the
rate of the network that it is compared with. `never_worse.py` searches those of other optimizers
when it runs.
"""

from _networks import ALL_NETWORKS, WITHOUT_TABLES

CANDIDATES = (0.0025, 0.005, 0.01, 0.02, 0.04)
STEEP_CANDIDATES = (0.01, 0.03, 0.1, 0.3, 1.0)  # of Adagrad and SGD
SEARCH_CASES = ("beside age, weight 1", "correlation, 0.5")
SEARCH_SEED = 100
RATES: dict[str, dict[str, float]] = {
    "census": {
        "single": 0.02,
        "bottom": 0.005,
        "bottom-uncertainty": 0.04,
        "mmoe": 0.01,
        "mmoe-levels": 0.02,
        "cgc": 0.01,
        "ple": 0.01,
        "ple-isolated": 0.01,
        "cgc-streams": 0.01,
        "ple-streams": 0.02,
        "hedged": 0.005,
        "hedged-bottoms": 0.02,
        "hedged-ple": 0.01,
        "hedged-stopped": 0.02,
        "single-pair": 0.04,
    },
    "synthetic": {
        "single": 0.04,
        "bottom": 0.02,
        "bottom-uncertainty": 0.02,
        "mmoe": 0.02,
        "mmoe-levels": 0.01,
        "cgc": 0.01,
        "ple": 0.02,
        "ple-isolated": 0.02,
        "hedged": 0.02,
        "hedged-bottoms": 0.04,
        "hedged-ple": 0.02,
        "single-pair": 0.04,
    },
}


def candidates(optimizer: str) -> tuple[float, ...]:
    """Return the learning rates to compare."""
    return STEEP_CANDIDATES if optimizer in ("adagrad", "sgd") else CANDIDATES


def learning_rate(data: str, kind: str) -> float:
    """Return the learning rate of a network on "census" or "synthetic" data."""
    rates = RATES[data]
    if data == "synthetic":
        kind = WITHOUT_TABLES.get(kind, kind)
    if kind in rates:
        return rates[kind]
    base = ALL_NETWORKS[kind].base
    return rates[WITHOUT_TABLES.get(base, base) if data == "synthetic" else base]

"""Learning rates of the benchmark of negative transfer.

Found with `negative_transfer.py --search-rates`, which trains every network with every rate of
`CANDIDATES` on one case of each data set, with a seed that no other fit has.
"""

from _networks import ALL_NETWORKS

CANDIDATES = (0.0025, 0.005, 0.01, 0.02)
RATES = {data: dict.fromkeys(ALL_NETWORKS, 0.005) for data in ("census", "synthetic")}

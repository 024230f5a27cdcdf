"""Count false statements of `compare_predictions` on test sets whose true gains are known.

    KERAS_BACKEND=torch python -m examples.benchmarks.false_statements        # from kept counts
    KERAS_BACKEND=torch python -m examples.benchmarks.false_statements --run  # 0.12 CPU hours

Test sets of 200 to 5,000 rows are drawn a thousand times from a population of 100,000 rows, whose
gain is the truth. "Better" is false if this gain is not above 0, "not worse" (and "better") if it
is -1% or less, and "worse" if it is at least 0.

    noise       predictions differ from the true means, on the scale of logits or logarithms, by
                noise, or by a constant below or above. The other predictions have a deviation of
                0.5, and the first ones one for which the gain is 0% or -1%, or 2% or 5% for the
                statements that are true.
    lacking     half of the rows have a rate of 0.2 and equal predictions, and the others 0.002, for
                which the first predictions are 1e-5: a third of the test sets with 1,000 rows have
                no positive label there. And groups of five rows, of which 2% have 200 rows instead
                and a gain of -20% instead of 5%; their test sets have as many groups as rows. And
                labels of which 0.3% have a mean of 60 and the others a mean of 1, with two constant
                predictions of equal loss. No rule can know labels that a test set lacks.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import ple_keras as pk

from ._tables import align_columns, make_parser
from .never_worse import write

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "maintainers" / "false_statements.md"
KEPT = DOCS / "results" / "false_statements.json"
SIZES, DRAWS, ROWS = [200, 500, 1000, 5000], 1000, 100_000
GAINS = {"false": [0.0, -1.0], "true": [2.0, 5.0]}  # percent
DEVIATIONS = {"noise": None, "low, high": (-1, 1), "high, low": (1, -1)}


def heavy(rng: np.random.Generator, mean: np.ndarray) -> np.ndarray:
    return mean * np.exp(1.5 * rng.normal(size=len(mean)) - 1.125)


def overdispersed(rng: np.random.Generator, mean: np.ndarray) -> np.ndarray:
    return rng.poisson(mean * rng.gamma(0.3, 1 / 0.3, len(mean)))


LABELS: dict[str, tuple[str, float, float, Callable]] = {  # kind, mean and deviation of the link
    "30% positives": ("binary", -1, 1, lambda r, m: r.random(ROWS) < m),
    "1% positives": ("binary", -5.1, 1, lambda r, m: r.random(ROWS) < m),
    "errors, t with 3 degrees": ("regression", 0, 1, lambda r, m: m + r.standard_t(3, ROWS)),
    "overdispersed counts": ("count", -0.7, 0.7, overdispersed),
    "amounts, gamma": ("amount", 0, 0.5, lambda r, m: m * r.gamma(0.5, 2, ROWS)),
    "amounts, lognormal": ("amount", 0, 0.5, heavy),
    "amounts, 5% above 0": ("amount", -3, 0.5, lambda r, m: heavy(r, np.ones(ROWS)) * r.poisson(m)),
    "persons of ten rows": ("regression", 0, 1, lambda r, m: m + r.normal(size=ROWS)),
}
LACKING: dict[str, tuple[str, Callable]] = {
    "binary, lacking positives": ("binary", lambda r, p: r.random(ROWS) < p),
    "counts, lacking positives": ("count", lambda r, p: r.poisson(p)),
    "amounts, lacking positives": ("amount", lambda r, p: r.poisson(p) * r.gamma(2, 1, ROWS)),
}


class Pair(NamedTuple):
    """The labels of a population, both predictions, and the sizes of the groups of rows."""

    kind: str
    y: np.ndarray
    first: np.ndarray
    other: np.ndarray
    sizes: np.ndarray | None = None

    def compare(self, rows: Any = slice(None), groups: np.ndarray | None = None) -> Any:
        """Return the Gain of some rows."""
        predictions = {"first": {"": self.first[rows]}, "other": {"": self.other[rows]}}
        compared = pk.compare_predictions({"": self.y[rows]}, predictions, {"": self.kind}, groups)
        return compared.gains[""]["other"]


def tuned(make: Callable[[float], Pair], gain: float) -> Iterator[Pair]:
    """Yield a pair with a gain, if there is one. A larger size makes the first one worse."""
    low, high = 0.0, 8.0
    if make(low).compare().gain > gain > make(high).compare().gain:
        for _ in range(25):
            middle = (low + high) / 2
            low, high = (middle, high) if make(middle).compare().gain > gain else (low, middle)
        yield make(high)


def populations(gains: Sequence[float]) -> Iterator[tuple[str, Pair]]:
    """Yield pairs with some gains, and their names."""
    for name, (kind, mean, scale, draw) in LABELS.items():
        rng, group = np.random.default_rng(0), 10 if "persons" in name else 1
        link = mean + scale * rng.normal(size=ROWS)
        common = np.repeat(rng.normal(size=(3, ROWS // group)), group, axis=1)
        links = {"binary": lambda x: 1 / (1 + np.exp(-x)), "regression": lambda x: x}
        activate = links.get(kind, np.exp)
        y = np.asarray(draw(rng, activate(link + common[2] * (group > 1))), "float64")
        sizes = np.full(ROWS // group, group) if group > 1 else None
        for deviations in DEVIATIONS.values():
            a, b = deviations or common[:2]

            def make(size, a=a, b=b, y=y, link=link, kind=kind, activate=activate, sizes=sizes):
                first, other = activate(link + size * a), activate(link + 0.5 * b)
                return Pair(kind, y, first, other, sizes)

            for gain in gains:
                yield from ((name, pair) for pair in tuned(make, gain))


def lacking() -> Iterator[tuple[str, Pair]]:
    rates, low = (np.tile([0.2, rare], ROWS // 2) for rare in (0.002, 1e-5))
    for name, (kind, draw) in LACKING.items():
        yield name, Pair(kind, 1.0 * draw(np.random.default_rng(0), rates), low, rates)
    rng = np.random.default_rng(0)
    sizes = np.where(rng.random(ROWS) < 0.02, 200, 5)
    y, b = rng.normal(size=(2, sizes.sum()))
    a = b * np.sqrt(np.repeat(np.where(sizes > 5, 1.2, 0.95), sizes))
    yield "groups, lacking huge ones", Pair("regression", y, y + a, y + b, sizes)
    bursts = 1.0 * rng.poisson(np.where(np.arange(ROWS) % 1000 < 3, 60, 1))
    for kind in ("count", "amount"):

        def make(size, kind=kind):
            constants = bursts.mean() * np.exp(-size), 1.5
            return Pair(kind, bursts, *(np.full(ROWS, each) for each in constants))

        for pair in tuned(make, 0.0):
            yield f"{kind}s, lacking large labels", pair


def count(pair: Pair, size: int, is_grouped: bool) -> list[float]:
    """Return the gain, and the percents of statements, false ones, and false ones of "worse"."""
    rng, found, gain, groups = np.random.default_rng(size), [], pair.compare().gain, None
    for _ in range(DRAWS):
        if pair.sizes is None:
            rows = rng.integers(0, len(pair.y), size)
        else:
            picks = rng.integers(0, len(pair.sizes), size // 10 if pair.sizes[0] == 10 else size)
            sizes, ends = pair.sizes[picks], np.cumsum(pair.sizes)[picks]
            rows = np.repeat(ends - np.cumsum(sizes), sizes) + np.arange(sizes.sum())
            groups = np.repeat(np.arange(len(picks)), sizes) if is_grouped else None
        found.append(pair.compare(rows, groups).statement)
    false = ["better"] * (gain <= 1e-4) + ["not worse"] * (gain <= -1 + 1e-4)
    made = [found.count("better") + found.count("not worse"), sum(map(found.count, false))]
    shares = [100 * each / DRAWS for each in (*made, found.count("worse") * (gain >= -1e-4))]
    return [round(each, 2) + 0.0 for each in (gain, *shares)]


def run() -> dict[str, dict[str, list[list[list[float]]]]]:
    """Return counts by table, population, pair and size."""
    kept: dict[str, Any] = {"false": {}, "true": {}}
    pairs = [("false", *each) for each in (*populations(GAINS["false"]), *lacking())]
    for table, name, pair in [*pairs, *(("true", *each) for each in populations(GAINS["true"]))]:
        for suffix in ["", ", as rows"][: 1 + ("persons" in name and table == "false")]:
            counts = [count(pair, size, not suffix) for size in SIZES]
            kept[table].setdefault(name + suffix, []).append(counts)
            print(table, name + suffix, *counts, flush=True)
    return kept


def tables_of(kept: dict[str, Any]) -> dict[str, str]:
    """Return the tables of the page by name."""
    sizes = [f"{size:,}" for size in SIZES]
    false, true = [["", "pairs", *sizes]], [["", "gain", *sizes]]
    for name, pairs in kept["false"].items():
        worst = np.array(pairs)[..., 2].max(axis=0)
        false.append([name, str(len(pairs)), *(f"{each:.1f}" for each in worst)])
    for name, pairs in kept["true"].items():
        for gain in GAINS["true"]:
            found = [pair for pair in np.array(pairs) if abs(pair[0, 0] - gain) < 0.1]
            mean = np.mean([pair[:, 1] for pair in found], axis=0) if found else []
            true += [[name, f"{gain:.0f}%", *(f"{each:.0f}" for each in mean)]] if found else []
    return {"false statements": align_columns(false), "true statements": align_columns(true)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Count if asked to, and print the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("--run", action="store_true", help="count again")
    parser.add_argument("--write", action="store_true", help="write the tables of the page")
    args = parser.parse_args(arguments)
    if args.run:
        KEPT.write_text(json.dumps(run()) + "\n")
    tables = tables_of(json.loads(KEPT.read_text()))
    print("\n\n".join(tables.values()))
    if args.write:
        write(tables, PAGE)


if __name__ == "__main__":
    main()

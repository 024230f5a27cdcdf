"""Count false statements of `compare_predictions` on test sets whose true gains are known.

    pip install -e ".[torch,tables]"
    KERAS_BACKEND=torch python -m examples.benchmarks.false_statements        # from kept counts
    KERAS_BACKEND=torch python -m examples.benchmarks.false_statements --run  # half an hour

Test sets of 200 to 5,000 rows are drawn a thousand times from a large population, whose gain is the
truth. "Better" is false if this gain is not above 0, "not worse" (and "better") if it is -1% or
less, and "worse" if it is at least 0.

    generated   100,000 labels of a known distribution. Predictions differ from the true means, on
                the scale of logits or logarithms, by noise, or by a constant below or above. The
                second predictions have a deviation of 0.5, and the first one so large that the gain
                is 0%, -0.5%, -1% or -1.5%.
    trained     models of two tables, with the settings of `against_boosting`: LightGBM, hedged
                branches and linear models, trained on 7,000 rows, with 1,500 for stops; the
                population is the rest, at most 40,000 rows. "Shuffled" is
                LightGBM that learned shuffled labels, and "noise" a constant with noise: they are
                compared with the constant, and in mixtures with LightGBM, whose gain over LightGBM
                is 0%, -0.5%, -1% or -1.5% if the mixture has one.
    months      the same models, trained on flights in January and February. A test set is of one
                later month, and the truth is that of the other later months.

`--run` keeps the predictions of trained models in a folder for temporary files.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import ple_keras as pk

from . import _frames
from . import against_boosting as fits
from ._tables import align_columns, make_parser
from .never_worse import write

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "maintainers" / "false_statements.md"
KEPT = DOCS / "results" / "false_statements.json"
SIZES, DRAWS, ROWS, GROUP = [200, 500, 1000, 2000, 5000], 1000, 100_000, 10
GAINS = [0.0, -0.5, -1.0, -1.5]  # percent
DEVIATIONS = {"noise, noise": "both", "low, high": (-1, 1), "high, low": (1, -1)}
MODELS = ["LightGBM", "hedged", "linear"]
OTHERS = ["constant", "noise", "shuffled"]
TABLES = ["flights", "diamonds"]
TRAINING, STOPS, REST = 7000, 1500, 40_000
EARLY = 2  # months


def binary(rng: np.random.Generator, mean: np.ndarray) -> np.ndarray:
    return rng.random(len(mean)) < mean


def heavy(rng: np.random.Generator, mean: np.ndarray) -> np.ndarray:
    return mean * np.exp(1.5 * rng.normal(size=len(mean)) - 1.125)


LABELS: dict[str, tuple[str, float, float, Callable]] = {  # kind, mean and deviation of the link
    "30% positives": ("binary", -1, 1, binary),
    "1% positives": ("binary", -5.1, 1, binary),
    "errors, t with 3 degrees": ("regression", 0, 1, lambda r, m: m + r.standard_t(3, len(m))),
    "overdispersed counts": (
        "count", -0.7, 0.7, lambda r, m: r.poisson(m * r.gamma(0.3, 1 / 0.3, len(m))),
    ),
    "amounts, gamma": ("amount", 0, 0.5, lambda r, m: m * r.gamma(0.5, 2, len(m))),
    "amounts, lognormal": ("amount", 0, 0.5, heavy),
    "amounts, 5% above 0": (
        "amount", -3, 0.5, lambda r, m: heavy(r, np.ones(len(m))) * r.poisson(m),
    ),
    "persons of ten rows": ("regression", 0, 1, lambda r, m: m + r.normal(size=len(m))),
}  # fmt: skip
MEANS = {"binary": lambda link: 1 / (1 + np.exp(-link)), "regression": lambda link: link}


class Pair(NamedTuple):
    """Labels of a population, and the losses of the first and the other predictions."""

    y: np.ndarray
    losses: np.ndarray
    others: np.ndarray
    group: int = 1  # rows

    def gain(self, rows: Any = slice(None)) -> float:
        """Return the true gain in percent."""
        return float(100 - 100 * self.losses[rows].mean() / self.others[rows].mean())


def losses_of(kind: str, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return the loss of each row."""
    q = np.maximum(np.where(y > 0, p, 1 - p) if kind == "binary" else p, 1e-7)
    if kind == "count":
        return np.where(y > 0, y * np.log(np.maximum(y, 1) / q), 0) - y + q
    if kind == "amount":
        return 2 * (np.sqrt(y) - np.sqrt(q)) ** 2 / np.sqrt(q)
    return -np.log(q) if kind == "binary" else (y - p) ** 2


def tuned(make: Callable[[float], Pair], gain: float) -> Iterator[Pair]:
    """Yield a pair with a gain, if there is one. A larger size makes the first one worse."""
    low, high = 0.0, 8.0
    if make(low).gain() > gain > make(high).gain():
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if make(middle).gain() > gain else (low, middle)
        yield make(high)


# The populations


def generated() -> Iterator[tuple[str, Pair]]:
    for name, (kind, mean, scale, draw) in LABELS.items():
        rng, group = np.random.default_rng(0), GROUP if "persons" in name else 1
        link = mean + scale * rng.normal(size=ROWS)
        common = np.repeat(rng.normal(size=(3, ROWS // group)), group, axis=1)
        activate = MEANS.get(kind, np.exp)
        y = np.asarray(draw(rng, activate(link + (common[2] if group > 1 else 0))), "float64")
        compute = partial(losses_of, kind, y)
        for signs in DEVIATIONS.values():
            a, b = common[:2] if signs == "both" else signs
            others = compute(activate(link + 0.5 * b))

            def make(
                size,
                a=a,
                link=link,
                activate=activate,
                compute=compute,
                others=others,
                y=y,
                group=group,
            ):
                return Pair(y, compute(activate(link + size * a)), others, group)

            for gain in GAINS:
                yield from ((name, pair) for pair in tuned(make, gain))


def parts_of(is_training: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return rows for training, stops, and the rest."""
    rng = np.random.default_rng(seed)
    early, late = (rng.permutation(np.flatnonzero(each)) for each in (is_training, ~is_training))
    cut = TRAINING + STOPS
    rest = late if len(late) else early[cut:]
    return [early[:TRAINING], early[TRAINING:cut], np.sort(rest[:REST])]


def predictions_of(table: str, by_month: bool, folder: Path) -> dict[str, Any]:
    """Return the labels and predictions of the rest of a table, by "task" and "task, model"."""
    file = folder / f"{table}{'_months' * by_month}.npz"
    if file.exists():
        return dict(np.load(file))

    def draw(frame: pd.DataFrame, groups: Any, ids: Sequence[str], seed: int, *_: Any) -> Any:
        is_early = frame["month"] <= EARLY if by_month else np.ones(len(frame), bool)
        rows = parts_of(np.asarray(is_early, bool), seed)
        found["month"] = frame["month"].to_numpy()[rows[2]] if by_month else np.zeros(len(rows[2]))
        return _frames.Table(frame.rename(columns={"table": "top"}), ids, rows, groups)

    found: dict[str, Any] = {}
    _frames.draw = draw
    fits.load.cache_clear()
    searches = json.loads(fits.KEPT.read_text())[table]["searches"]
    (of_table, (parts, columns, classes), labels) = fits.load(table, 0)
    for model in MODELS:
        for task, values in fits.fit(table, 0, model, searches).loc[of_table.rows[2]].items():
            found[f"{task}, {model}"] = values.to_numpy()
    for task, kind in [(task, fits.KINDS[task]) for task in labels]:
        x, y = parts[0]
        known = np.flatnonzero(~np.isnan(y[task]))
        shuffled = y[task].copy()
        shuffled[known] = np.random.default_rng(0).permutation(shuffled[known])
        data = [(x, {**y, task: shuffled}), *parts[1:]], columns, classes
        setting = searches["LightGBM"]["settings"][task]
        found[f"{task}, shuffled"] = fits.compare.boosting(task, kind, data, 0, setting)[1].ravel()
        mean = np.nanmean(y[task])
        found |= {task: parts[2][1][task], f"{task}, constant": np.full(len(found["month"]), mean)}
        noise = np.exp(0.1 * np.random.default_rng(1).normal(size=len(found["month"])))
        found[f"{task}, noise"] = np.clip(mean * noise, None, 0.99 if kind == "binary" else None)
    folder.mkdir(exist_ok=True)
    np.savez(file, **found)
    return found


def pairs_of(table: str, by_month: bool, folder: Path) -> Iterator[tuple[str, Pair, np.ndarray]]:
    """Yield names, pairs, and the months of rows."""
    found = predictions_of(table, by_month, folder)
    for task in [name for name in found if f"{name}, constant" in found]:
        kind, y = fits.KINDS[task], found[task].astype("float64")
        known = ~np.isnan(y)
        p = {m: found[f"{task}, {m}"].astype("float64")[known] for m in (*MODELS, *OTHERS)}
        y = y[known]
        if task == "log_price":
            kind, y, p = "amount", np.exp(y), {m: np.exp(each) for m, each in p.items()}
        compute = partial(losses_of, kind, y)
        losses = {model: compute(each) for model, each in p.items()}
        good, bad = p["LightGBM"], p["linear"]
        names = [(m, "LightGBM") for m in MODELS[1:]]
        names += [pair[::-1] for pair in names]
        names += [] if by_month else [("noise", "constant"), ("shuffled", "constant")]
        pairs = [Pair(y, losses[first], losses[other]) for first, other in names]

        def make(size, y=y, good=good, bad=bad, compute=compute, losses=losses):
            return Pair(y, compute(good + size / 8 * (bad - good)), losses["LightGBM"])

        for gain in () if by_month else GAINS:
            pairs += tuned(make, gain)
        name = f"{table}: {task.removeprefix('log_')}"
        yield from ((name, pair, found["month"][known]) for pair in pairs)


# The statements


def statements(pair: Pair, rows: np.ndarray, groups: np.ndarray | None) -> tuple[str, str]:
    """Return the statement, and that of the usual interval."""
    y, a, b = ({"": each[rows]} for each in (pair.y, pair.losses, pair.others))
    both = {"first": a, "other": b}
    gain = pk.compare_predictions(y, both, {"": lambda y, p: p}, groups).gains[""]["other"]
    ids = np.arange(len(rows)) if groups is None else groups
    e = np.bincount(ids, (1 - gain.gain / 100) * b[""] - a[""])
    half = 100 * (1.96 + 2.7 / len(e)) * np.sqrt((e**2).sum()) / b[""].sum()
    low, high = gain.gain - half, gain.gain + half
    usual = "better" if low > 0 else "worse" if high < 0 else "not worse" if low > -1 else ""
    return gain.statement, usual


def count(
    pair: Pair, size: int, population: np.ndarray, gain: float, by_group: bool = True
) -> list[float]:
    """Return the gain, and the percents of "better" and "not worse", and of false statements.

    The last two are those of the usual interval, and of "worse".
    """
    rng, found = np.random.default_rng(size), []
    for _ in range(DRAWS):
        picks = rng.choice(population[:: pair.group], size // pair.group)
        rows = (picks[:, None] + np.arange(pair.group)).ravel()
        groups = np.repeat(np.arange(len(picks)), pair.group) if pair.group > 1 else None
        found.append(statements(pair, rows, groups if by_group else None))
    ours, usual = zip(*found)
    false = ["better"] * (gain <= 1e-9) + ["not worse"] * (gain <= -1 + 1e-9)
    worse = ours.count("worse") * (gain >= -1e-9)
    made = ours.count("better") + ours.count("not worse")
    counts = made, *(sum(map(each.count, false)) for each in (ours, usual)), worse
    return [round(gain, 3) + 0.0, *(round(100 * each / DRAWS, 2) for each in counts)]


def run(folder: Path) -> dict[str, Any]:
    """Return counts by population, size and pair, and those of months."""
    kept: dict[str, Any] = {"sizes": {}, "months": {}}
    pairs = [*generated()]
    pairs += [each[:2] for table in TABLES for each in pairs_of(table, False, folder)]
    for name, pair in pairs:
        rows = np.arange(len(pair.y))
        for by_group in (True, False)[: 1 + (pair.group > 1)]:
            by_size = kept["sizes"].setdefault(name + ", as rows" * (not by_group), {})
            for size in SIZES:
                counts = count(pair, size, rows, pair.gain(), by_group)
                by_size.setdefault(str(size), []).append(counts)
            print(name, *(by_size[str(size)][-1] for size in SIZES), flush=True)
    for name, pair, month in pairs_of("flights", True, folder):
        by_month = kept["months"].setdefault(name, {})
        for each in np.unique(month):
            counts = count(pair, 2000, np.flatnonzero(month == each), pair.gain(month != each))
            by_month.setdefault(str(int(each)), []).append(counts)
    return kept


# The results


def tables_of(kept: dict[str, Any]) -> dict[str, str]:
    """Return the tables of the page by name."""
    sizes = [f"{size:,}" for size in SIZES]
    false, true = [["", "pairs", *sizes, "usual:", *sizes]], [["", "gains", *sizes]]
    for name, by_size in kept["sizes"].items():
        found = np.array([by_size[str(size)] for size in SIZES])  # (sizes, pairs, counts)
        ours, usual = (found[..., column].max(axis=1) for column in (2, 3))
        cells = ([f"{each:.1f}" for each in values] for values in (ours, usual))
        false.append([name, str(found.shape[1]), *next(cells), "", *next(cells)])
        gains = found[0, :, 0]
        for place in np.flatnonzero(gains > 0.5) if ":" in name else ():
            shares = [f"{each:.0f}" for each in found[:, place, 1]]
            true.append([name, f"{gains[place]:.1f}%", *shares])
    months = [["", *next(iter(kept["months"].values()))]]
    for name, by_month in kept["months"].items():
        worst = [max(each[2] for each in pairs) for pairs in by_month.values()]
        months.append([name.partition(": ")[2], *(f"{each:.0f}" for each in worst)])
    named = {"false statements": false, "true statements": true, "months": months}
    return {name: align_columns(rows) for name, rows in named.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Count if asked to, and print the tables."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--run", action="store_true", help="train models, and count again")
    add("--json", type=Path, default=KEPT, help="the kept counts; default: in docs/results")
    add("--write", action="store_true", help="write the tables of the page")
    args = parser.parse_args(arguments)
    if args.run:
        kept = run(Path(tempfile.gettempdir()) / "false_statements")
        args.json.write_text(json.dumps(kept) + "\n")
    tables = tables_of(json.loads(args.json.read_text()))
    print("\n\n".join(tables.values()))
    if args.write:
        write(tables, PAGE)


if __name__ == "__main__":
    main()

"""Cases of `stop_rules`: films, generated counts and texts, and cases of `never_worse`."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import ple_keras as pk

from ._cases import Case, all_cases
from ._data import Dataset, Split
from ._networks import BINARY, Recipe

sys.path.append(str(Path(__file__).parents[1]))  # for the recommender and its encoder

TABLES = "tables"  # the data of cases with the tables of the recommender
OF_TABLES = Recipe(
    dict.fromkeys(("hedged", "single", "bottom", "mmoe", "ple"), (64, 32)),
    tower=(16,),
    dropout=0.1,
    input_dropout=0.1,
    epochs=6,
    batch_size=1024,
)
BINARY_TASKS = (*BINARY, "like", "hate", "bought", "flagged")
COUNTS = ("clicks", "votes")
ROWS = {"census": 20_000, "synthetic": 16_000, TABLES: 40_000}  # films have 80,000
CASES = [
    "income next to never_married, 10.0% of labels",
    "income next to unrelated, weight 100",
    "next to an equal task, 3% of labels",
]
USERS, ITEMS = 500, 300
WORDS, BUCKETS, LENGTH = 2000, 1000, 16


def cases() -> dict[str, Case]:
    """Return the cases by name."""
    new = [
        ("films", ["like", "hate", "rating"], load_films),
        ("counts", ["bought", "clicks"], make_counts),
        ("texts", ["flagged", "rating", "votes"], make_texts),
    ]
    known = {case.title: case for case in all_cases()}
    return {
        name: Case("", "", name, {"": tasks}, load, TABLES, seeds_per_draw=1)
        for name, tasks, load in new
    } | {name: known[name] for name in CASES}


def recipe(case: Case) -> Recipe:
    """Return the sizes of the networks of a case."""
    return OF_TABLES if case.data == TABLES else case.recipe


def draw(case: Case, seed: int) -> Dataset:
    """Return data with a tenth as many rows for validation as for training.

    A task with few labels also has few in validation. All training batches are full.
    """
    data = case.draw(ROWS[case.data], seed)
    rows = len(data.train) // recipe(case).batch_size * recipe(case).batch_size
    validation = data.validation.take(np.arange(rows // 10))
    rng = np.random.default_rng([seed, 6])
    for task, y in data.train.labels.items():
        share = float(np.isfinite(y).mean())
        if share < 1 and np.isfinite(validation.labels[task]).all():
            validation = keep_labels(validation, task, share, rng)
    return replace(data, train=data.train.take(np.arange(rows)), validation=validation)


def keep_labels(split: Split, task: str, share: float, rng: np.random.Generator) -> Split:
    """Return a split with a share of the labels of a task."""
    labels = np.where(rng.random(len(split)) < share, split.labels[task], np.nan)
    return Split(split.inputs, {**split.labels, task: labels.astype("float32")})


def load_films(rows: int, seed: int) -> Dataset:
    """Return the ratings of MovieLens 100K, as the recommender reads and encodes them."""
    from recommender import IDS, LISTS, NUMBERS, download, load

    folder = Path("ml-100k")
    if not folder.exists():
        download(folder)
    frame = load(folder)
    place = frame["place"].to_numpy()  # in the ratings of a user, by time
    stars = frame["rating"].to_numpy("float32")
    labels = {
        "like": stars >= 4,
        "rating": (stars - stars.mean()) / stars.std(),
        "hate": stars <= 2,
    }
    columns = pk.Columns(IDS, NUMBERS, LISTS).fit(frame[place < 0.8])
    limits = ((0, 0.8), (0.8, 0.9), (0.9, 1))
    parts = [np.flatnonzero((place >= low) & (place < high)) for low, high in limits]
    sizes = {name: [len(values)] for name, values in columns.known.items()}
    return _split(columns.transform(frame), labels, parts, sizes, "hate", 0.025, [seed, 5])


def _split(
    inputs: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
    parts: list[np.ndarray],
    sizes: dict[str, list[int]],
    scarce: str,
    share: float,
    seed: list[int],
) -> Dataset:
    """Return the parts, with a share of the labels of a task in training and validation."""
    rng = np.random.default_rng(seed)
    everything = Split(inputs, {task: y.astype("float32") for task, y in labels.items()})
    splits = [everything.take(part) for part in parts]
    splits[:2] = (keep_labels(split, scarce, share, rng) for split in splits[:2])
    return Dataset(*splits, sizes)


def _parts(rows: int) -> list[np.ndarray]:
    """Return the places of training rows, and of a quarter as many validation and test rows."""
    return np.split(np.arange(rows + 2 * (rows // 4)), [rows, rows + rows // 4])


def _chance(logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.random(len(logits)) < 1 / (1 + np.exp(-logits))


def _counts(log_rates: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw counts with a variance of mean + mean^2."""
    return rng.poisson(rng.exponential(np.exp(np.minimum(log_rates, 4))))


def make_counts(rows: int, seed: int) -> Dataset:
    """Draw clicks of users on items, and whether they bought one, which has few labels."""
    rng, parts = np.random.default_rng([seed, 8]), _parts(rows)
    total = parts[-1][-1] + 1
    user, item = rng.integers(USERS, size=total), rng.integers(ITEMS, size=total)
    age = rng.standard_normal(total)
    users, items = rng.standard_normal((USERS, 6)), rng.standard_normal((ITEMS, 6))
    likes = users[user] * items[item]
    tastes = 0.5 * (users[user, 0] + items[item, 0])
    labels = {
        "clicks": _counts(tastes + 0.4 * likes[:, 1:4].sum(1) + 0.3 * np.sin(2 * age), rng),
        "bought": _chance(tastes + 0.8 * likes[:, 3:].sum(1) + 0.5 * age - 1.5, rng),
    }
    inputs = {
        "user": user.astype("int32"),
        "item": item.astype("int32"),
        "age": age.astype("float32"),
    }
    return _split(
        inputs, labels, parts, {"user": [USERS], "item": [ITEMS]}, "bought", 0.05, [seed, 9]
    )


def make_texts(rows: int, seed: int) -> Dataset:
    """Draw texts of hashed words with a rating, votes, and a flag, which has few labels."""
    rng, parts = np.random.default_rng([seed, 10]), _parts(rows)
    frequency = 1 / np.arange(10, WORDS + 10)
    words = rng.choice(WORDS, (parts[-1][-1] + 1, LENGTH), p=frequency / frequency.sum())
    common, *own = rng.standard_normal((4, WORDS))
    rating, flag, votes = ((0.6 * common + 0.8 * each)[words].sum(1) / LENGTH**0.5 for each in own)
    labels = {
        "rating": (rating + rng.standard_normal(len(words))) / 2**0.5,
        "votes": _counts(0.7 * votes, rng),
        "flagged": _chance(2 * flag - 2, rng),
    }
    hashed = rng.integers(2, BUCKETS + 2, WORDS)[words].astype("int32")
    return _split(
        {"words": hashed}, labels, parts, {"words": [BUCKETS]}, "flagged", 0.05, [seed, 11]
    )

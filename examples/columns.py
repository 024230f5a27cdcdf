"""Encode the columns of a Parquet file, train on them, and answer requests with the same encoding.

    pip install -e ".[torch,examples,serving]"
    KERAS_BACKEND=torch python examples/columns.py

Takes a minute on two cores. The rows are 30 days of a simulated film site: ids of users, items and
categories, numbers with gaps, several genres, a title, and the user's last items. `watch_time` has
a label only after a click. The script fits the encoding in batches on the first 24 days, trains a
PLE, and stops it on the next 3 days. It saves the model and the encoding in a folder, loads the
folder as a service does, and sends JSON requests. It prints:

- the last epoch, and the best epoch of each task
- the missing and unknown values of the last 3 days, for monitoring
- the answer to a request with an unknown id, a missing number and an empty history
- the refusals of bad requests
- the largest difference between the predictions of the service and those of `model.predict`
- the milliseconds of encoding a request, with 200,000 users and 200,000 items

To reuse: `Columns`, `build`, `Service`.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

try:
    import keras
    import numpy as np
    import pandas as pd
    import pyarrow.parquet as pq
    import pydantic
    from keras import ops
    from sklearn.feature_extraction.text import HashingVectorizer
    from typing_extensions import TypedDict

    import ple_keras as pk
except ModuleNotFoundError as error:
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    extras = f"{backend},examples,serving"
    sys.exit(f'{error.name} is not installed. Run: pip install -e ".[{extras}]"')

IDS = ["user", "item", "category"]
NUMBERS = ["age", "price"]
LISTS = {"genres": ["genres", 3], "history": ["item", 10]}
TEXTS = {"title": [4096, 8]}
TASKS = ["click", "watch_time"]
TRAINING, VALIDATION, TEST = range(24), range(24, 27), range(27, 30)  # days


# The encoding


class Columns:
    """The columns of a frame or of a request as the inputs of a model.

    A code is 0 for a missing value, 1 for an unknown value, and from 2 on for the known values.
    Lists become codes of one length with zeros at the end; the last entry comes first. Numbers stay
    as they are, and NaN if missing.

    Args:
        ids: Names of columns of integers or strings.
        numbers: Names of columns of numbers, or `{name: (mean, variance)}`.
        lists: `{name: (column, length)}` for columns of lists. They have the codes of `column`,
            which is another column or this one.
        texts: `{name: (buckets, length)}`. A word has one of `buckets` codes.
        known: The known values by column.
    """

    def __init__(self, ids=(), numbers=(), lists=None, texts=None, known=None):
        self.ids, self.numbers, self.lists, self.texts = ids, numbers, lists or {}, texts or {}
        self.known = {name: to_index(values) for name, values in (known or {}).items()}
        self.names = [*ids, *numbers, *self.lists, *self.texts]
        words = {"alternate_sign": False, "norm": None}
        self._hashes = {
            name: HashingVectorizer(n_features=buckets, **words)
            for name, (buckets, _) in self.texts.items()
        }

    def fit(self, frames, min_rows=5):
        """Find the values in at least `min_rows` rows, and the scale of numbers, in batches."""
        counts, sums = {}, dict.fromkeys(self.numbers, 0.0)
        for frame in frames:
            for name in dict.fromkeys([*self.ids, *(column for column, _ in self.lists.values())]):
                count = frame[name].explode().value_counts()
                counts[name] = count.add(counts[name], fill_value=0) if name in counts else count
            for name in self.numbers:
                x = frame[name].astype("float64")
                sums[name] += np.array([x.count(), x.sum(), (x**2).sum()])
        self.known = {n: to_index(sorted(c.index[c >= min_rows])) for n, c in counts.items()}
        for name, index in self.known.items():
            if index.dtype.kind not in "iuO":
                raise TypeError(f"{name} must hold integers or strings. Received: {index.dtype}")
        means = {name: (x / n, xx / n) for name, (n, x, xx) in sums.items()}
        self.numbers = {name: (mean, xx - mean**2) for name, (mean, xx) in means.items()}
        return self

    def transform(self, rows):
        """Return the inputs of a frame, or of a list of the rows of a request, by column."""
        if isinstance(rows, list):
            values = {name: [row[name] for row in rows] for name in self.names}
            rows = {name: pd.Series(each, dtype="object") for name, each in values.items()}
        x = {name: self._codes(name, rows[name]) for name in self.ids}
        x |= {name: rows[name].to_numpy("float32", na_value=np.nan) for name in self.numbers}
        for name, (column, length) in self.lists.items():
            values = rows[name].reset_index(drop=True).explode()
            codes = self._codes(column, values)
            x[name] = pad(values.index.to_numpy(), codes, len(rows[name]), length)
        for name, (_, length) in self.texts.items():
            words = self._hashes[name].transform(rows[name].fillna(""))
            x[name] = pad(words.nonzero()[0], words.indices + 2, len(rows[name]), length)
        return x

    def _codes(self, name, values):
        known, present = self.known[name], values.notna().to_numpy()
        codes = np.zeros(len(values), "int32")
        codes[present] = known.get_indexer(pd.Index(values[present], dtype=known.dtype)) + 2
        return codes

    def save(self, file):
        known = {name: index.tolist() for name, index in self.known.items()}
        parts = {name: getattr(self, name) for name in ("ids", "numbers", "lists", "texts")}
        file.write_text(json.dumps(parts | {"known": known}))

    @classmethod
    def load(cls, file):
        return cls(**json.loads(file.read_text()))


def to_index(values):
    """Return an index that threads may use, since it has looked up a value before."""
    index = pd.Index(values)
    index.get_indexer(index[:1])
    return index


def pad(rows, codes, count, length):
    """Return the last codes of each row, the last one first. `rows` has the row of each code."""
    padded = np.zeros((count, length), "int32")
    place = np.searchsorted(rows, rows, side="right") - 1 - np.arange(len(rows))
    kept = place < length
    padded[rows[kept], place[kept]] = codes[kept]
    return padded


def count_values(x):
    """Return the numbers of missing and unknown values by column. An empty list is missing."""
    counts = {}
    for name, values in x.items():
        is_code = values.dtype == "int32"
        missing = values == 0 if is_code else np.isnan(values)
        counts[f"{name}, missing"] = int(missing.reshape(len(values), -1).all(axis=1).sum())
        if is_code:
            counts[f"{name}, unknown"] = int((values == 1).sum())
    return counts


# The model


def build(columns):
    """Return a compiled PLE, whose inputs have the names of the columns, and its heads."""
    vocabularies = {name: len(known) + 2 for name, known in columns.known.items()}
    vocabularies |= {name: buckets + 2 for name, (buckets, _) in columns.texts.items()}
    tables = {
        name: pk.SparseEmbedding(size, 16, name=f"{name}_table")
        for name, size in vocabularies.items()
    }
    inputs = {name: keras.Input((), dtype="int32", name=name) for name in columns.ids}
    features = [tables[name](inputs[name]) for name in columns.ids]

    lists = columns.lists | {name: (name, length) for name, (_, length) in columns.texts.items()}
    for name, (column, length) in lists.items():
        inputs[name] = keras.Input((length,), dtype="int32", name=name)
        is_given = ops.expand_dims(ops.cast(ops.not_equal(inputs[name], 0), "float32"), -1)
        total = ops.sum(tables[column](inputs[name]) * is_given, axis=1)
        features.append(total / ops.maximum(ops.sum(is_given, axis=1), 1.0))

    numbers = {name: keras.Input((), name=name) for name in columns.numbers}
    together = ops.stack([*numbers.values()], axis=1)
    means, variances = zip(*columns.numbers.values())
    scaled = keras.layers.Normalization(mean=means, variance=variances)(together)
    features.append(ops.clip(ops.nan_to_num(scaled), -10.0, 10.0))  # against outliers of requests
    features.append(ops.cast(ops.isnan(together), "float32"))

    heads = pk.TaskHeads(
        [pk.BinaryHead("click"), pk.RegressionHead("watch_time", standardize=True)]
    )
    block = pk.PLEBlock(2, heads, [32], name="ple")
    model = pk.MultiTaskModel(inputs | numbers, heads(block(ops.concatenate(features, axis=-1))))
    model.compile(pk.table_optimizer("adam"))
    return model, heads


# The service


def request_type(columns):
    """Return the type of a request, which refuses missing, extra and wrong columns."""
    largest, limits = float(np.finfo("float32").max), np.iinfo("int64")
    number = Annotated[float, pydantic.Field(ge=-largest, le=largest, allow_inf_nan=False)]
    integer = Annotated[int, pydantic.Field(ge=limits.min, le=limits.max)]
    kinds = {n: str if known.dtype.kind == "O" else integer for n, known in columns.known.items()}
    types = {name: kinds[name] for name in columns.ids} | dict.fromkeys(columns.numbers, number)
    types |= {name: list[kinds[column]] for name, (column, _) in columns.lists.items()}
    types |= dict.fromkeys(columns.texts, str)
    row = TypedDict("Row", {name: kind | None for name, kind in types.items()})
    several = Annotated[list[row], pydantic.Field(min_length=1, max_length=1000)]

    class Request(TypedDict):
        rows: several

    strict = pydantic.ConfigDict(extra="forbid", strict=True)
    row.__pydantic_config__ = Request.__pydantic_config__ = strict
    return pydantic.TypeAdapter(Request)


def reason(error):
    """Return the place of an error, what is allowed, and the value."""
    place = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in error["loc"])[1:]
    message = f"{place or 'body'}: {error['msg']}"
    return message if error["type"] == "missing" else f"{message}. Received: {error['input']!r:.80}"


def save(folder, model, columns):
    """Save a model and its encoding."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "model.keras")
    columns.save(folder / "columns.json")


class Service:
    """A model and its encoding, which answer requests.

    Attributes:
        counts: The number of rows, and of missing and unknown values by column.
    """

    def __init__(self, folder):
        self._columns = Columns.load(folder / "columns.json")
        self._model = keras.models.load_model(folder / "model.keras", compile=False)
        self._request = request_type(self._columns)
        self.counts = Counter()

    def answer(self, body):
        """Return the status and the answer to a request in JSON."""
        try:
            rows = self._request.validate_json(body)["rows"]
        except pydantic.ValidationError as error:
            return 422, {"errors": [reason(each) for each in error.errors()[:10]]}
        x = self._columns.transform(rows)
        self.counts.update(count_values(x) | {"rows": len(rows)})
        predictions = self._model.predict_on_batch(x)
        return 200, {task: values[:, 0].tolist() for task, values in predictions.items()}


# The data


def simulate(rows, seed=0):
    """Return a frame of impressions over 30 days. New users and items come every day."""
    rng = np.random.default_rng(seed)
    users, items = rows // 20, rows // 100
    day = np.sort(rng.integers(0, 30, rows))
    share = 0.5 + day / 60  # of users and items that are there on a day
    user = (users * share * rng.random(rows)).astype(int)
    item = (items * share * rng.random(rows) ** 2).astype(int)
    taste, quality = rng.normal(size=(users, 3)), rng.normal(size=items)
    genre = rng.integers(0, 3, items)
    names = np.array(["comedy", "drama", "thriller"])
    also = rng.integers(0, 3, items)
    words = np.array(["the", "long", "road", "home", "night", "river", "storm", "letter"])
    titles = [" ".join(each) for each in words[rng.integers(0, len(words), (items, 3))]]
    age, price = rng.normal(40, 12, users).round(), rng.gamma(4, 2, items).round(2)

    logit = taste[user, genre[item]] + quality[item] - 0.1 * price[item] - 0.5
    click = rng.random(rows) < 1 / (1 + np.exp(-logit))
    minutes = 40 + 10 * quality[item] + 0.5 * age[user] + rng.normal(0, 10, rows)
    seen, history = [[] for _ in range(users)], []
    for u, i, clicked in zip(user, item, click):
        history.append([f"tt{each:07}" for each in seen[u][-10:]])
        seen[u] += [i] * int(clicked)
    return pd.DataFrame(
        {
            "day": day,
            "user": 10**15 + user,
            "item": [f"tt{each:07}" for each in item],
            "category": np.where(item % 3, "film", "series"),
            "age": np.where(user % 4 > 0, age[user], np.nan),
            "price": np.where(rng.random(rows) < 0.9, price[item], np.nan),
            "genres": [[*{names[genre[i]], names[also[i]]}] for i in item],
            "title": [titles[i] for i in item],
            "history": history,
            "click": click.astype("float32"),
            "watch_time": np.where(click, minutes, np.nan).astype("float32"),
        }
    )


def read_batches(file, days):
    """Yield frames with the rows of some days, of which one is in memory at a time."""
    for batch in pq.ParquetFile(file).iter_batches(10_000):
        frame = batch.to_pandas(integer_object_nulls=True)  # floats don't hold all integers
        yield frame[frame.day.isin(days)]


def read(file, days):
    return pd.concat(read_batches(file, days), ignore_index=True)


def labels(frame):
    return {task: frame[task].to_numpy() for task in TASKS}


def time_encoding(values=200_000):
    """Print the milliseconds of encoding a request."""
    rng = np.random.default_rng(0)
    users = np.sort(rng.choice(10**15, values, replace=False)).tolist()
    items = [f"tt{each:07}" for each in range(values)]
    known = {"user": users, "item": items, "category": ["film"], "genres": ["comedy", "drama"]}
    columns = Columns(IDS, NUMBERS, LISTS, TEXTS, known)
    for count in (1, 100):
        rows = [
            {"user": users[-i], "item": items[-i], "category": "film", "age": 30, "price": None}
            | {"genres": ["drama"], "title": "the long road", "history": items[i : i + 10]}
            for i in range(count)
        ]
        columns.transform(rows)
        start = time.process_time()
        for _ in range(100):
            columns.transform(rows)
        print(f"{count:4} rows: {10 * (time.process_time() - start):6.2f} ms")


# Training


def train(columns, file, epochs):
    """Return a trained model, stopped at the best epoch of a score of both tasks."""
    training, validation = read(file, TRAINING), read(file, VALIDATION)
    x, y = columns.transform(training), labels(training)
    model, heads = build(columns)
    heads.adapt(y)
    heads.check_labels(y)
    pk.check_inputs(model, x)

    # The RMSE in standard deviations has no unit, as the AUC.
    score = {"val_click_auc": 1.0, "val_watch_time_rmse": -1 / float(np.nanstd(y["watch_time"]))}
    stop = keras.callbacks.EarlyStopping(
        "val_mtl_score", mode="max", patience=2, restore_best_weights=True
    )
    options = {"batch_size": 256, "epochs": epochs, "verbose": 0}
    options["validation_data"] = columns.transform(validation), labels(validation)
    logs = model.fit(x, y, callbacks=[pk.MultiTaskScore(score), stop], **options).history
    stopped = np.argmax(logs["val_mtl_score"])
    print(f"trained for {len(logs['loss'])} epochs, stopped at epoch {stopped + 1}")
    for key, sign in score.items():
        best = np.argmax(sign * np.array(logs[key]))
        print(
            f"  {key}: {logs[key][stopped]:.4f}, at best {logs[key][best]:.4f} (epoch {best + 1})"
        )
    return model


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=60_000, help="60,000 by default")
    parser.add_argument("--epochs", type=int, default=10, help="at most; 10 by default")
    args = parser.parse_args()
    if args.rows < 1000 or args.epochs < 1:
        parser.error("--rows must be at least 1000, and --epochs at least 1")
    keras.utils.set_random_seed(0)

    file, folder = Path("films.parquet"), Path("ranker")
    simulate(args.rows).to_parquet(file, row_group_size=10_000)
    columns = Columns(IDS, NUMBERS, LISTS, TEXTS).fit(read_batches(file, TRAINING))
    print("known values:", {name: len(known) for name, known in columns.known.items()})
    model = train(columns, file, args.epochs)
    save(folder, model, columns)

    test = read(file, TEST)
    predictions = model.predict(columns.transform(test), batch_size=1024, verbose=0)

    service = Service(folder)

    def ask(rows):
        return service.answer(json.dumps({"rows": rows}))

    rows = json.loads(test[columns.names].to_json(orient="records", double_precision=15))
    answers = [ask(rows[i : i + 100]) for i in range(0, len(rows), 100)]
    print("relative differences of the service to model.predict:")
    for task in TASKS:
        served = np.concatenate([answer[task] for _, answer in answers])
        difference = np.abs(served / predictions[task][:, 0] - 1).max()
        print(f"  {task}: {difference:.1e}")
    print("missing and unknown values:")
    for name, count in service.counts.items():
        print(f"  {name}: {count:,}")

    new = {"user": 7, "age": None, "history": []}
    print("an unknown id, a missing number and an empty history:")
    print(f"  {ask([rows[0] | new])}")
    print("refusals:")
    for wrong in ({"user": "7"}, {"age": "forty"}, {"genres": "drama"}, {"agee": 40}):
        print(f"  {ask([rows[0] | wrong])}")
    print("encoding a request of 8 columns, with 200,000 users and items:")
    time_encoding()


if __name__ == "__main__":
    main()

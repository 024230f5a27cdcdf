"""Encode the columns of data frames, and the rows of requests, in the same way.

Copy this file: `Columns` needs only NumPy, and `keras_inputs` needs Keras and `ple_keras`. The page
docs/columns.md shows both. recommender.py, compare.py, streaming.py and the service in serving/
import this file.

    columns = Columns(ids=["user"], numbers=["age"], lists={"genres": ("genres", 6)}).fit(frame)
    columns.save("columns.json")
    x = columns.transform(frame)
    inputs, network = keras_inputs(columns)
"""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np

MISSING, UNKNOWN, FIRST = 0, 1, 2  # codes; FIRST is the first known value
LARGEST = 5.0  # limit of a scaled number


class Columns:
    """Encoder of the columns of a frame or a request as the inputs of a model.

    An id becomes a code: 0 if it is missing, 1 if it is unknown, and 2 or higher if it is known. A
    list becomes a fixed number of codes, with the last entry first and zeros at the end. A text
    becomes the codes of its first words. Numbers are scaled and clipped, and missing ones are NaN.

    Args:
        ids: Names of columns of strings, integers or booleans.
        numbers: Names of columns of numbers.
        lists: `{name: (table, length)}` for columns of lists of ids, such as histories and
            multi-hot categories. `table` is the column whose codes they use: one of `ids`, or the
            column itself.
        texts: `{name: (table, length)}` for columns of text. Words are runs of letters and digits,
            in lower case. Several columns can use one table.
        logs: Names of columns of numbers from 0 on, instead of which log(1 + number) is scaled.
        required: Names of columns of any kind whose values must not be missing in requests.

    Attributes:
        known: The known values of each table, after `fit`.
        scales: The mean, the standard deviation and the limits of each column of numbers, after
            `fit`. The limits are the range in training, widened by its width on both sides.
    """

    def __init__(self, ids=(), numbers=(), lists=None, texts=None, logs=(), required=()):
        self.ids, self.logs, self.required = [*ids], [*logs], [*required]
        self.numbers = [*numbers, *(name for name in logs if name not in numbers)]
        self.lists = {name: tuple(each) for name, each in (lists or {}).items()}
        self.texts = {name: tuple(each) for name, each in (texts or {}).items()}
        self.sequences = self.lists | self.texts
        self.names = [*self.ids, *self.numbers, *self.lists, *self.texts]
        check_names(self.names)
        if unknown := {*self.required} - {*self.names}:
            raise ValueError(f"required must name columns. Received: {sorted(unknown)}")
        self.known, self.scales, self._codes = {}, {}, {}

    def fit(self, frames, min_rows=5):
        """Find the known values, which occur at least `min_rows` times, and the scales of numbers.

        Args:
            frames: A frame, or an iterable of frames, which are read one at a time.
        """
        tables = [*dict.fromkeys([*self.ids, *(table for table, _ in self.sequences.values())])]
        check_names(tables)
        counts = {table: Counter() for table in tables}
        moments = dict.fromkeys(self.numbers, (0, 0.0, 0.0, np.inf, -np.inf))
        for frame in [frames] if hasattr(frames, "columns") else frames:
            for name in self.ids:
                counts[name].update(values_of(frame, name))
            for name, (table, _) in self.sequences.items():
                for entries in self._entries(frame, name):
                    counts[table].update(entries)
            for name in self.numbers:
                moments[name] = add_moments(*moments[name], self._numbers(frame, name))
        known = {name: check_known(name, count, min_rows) for name, count in counts.items()}
        scales = {name: scale_of(name, name in self.logs, *each) for name, each in moments.items()}
        return self._set(known, scales)

    def _set(self, known, scales):
        self.known = known
        self.scales = {name: [*scales[name], -np.inf, np.inf][:4] for name in self.numbers}
        self._codes = {
            name: {None: MISSING} | {value: code for code, value in enumerate(values, FIRST)}
            for name, values in known.items()
        }
        return self

    def transform(self, rows):
        """Return the inputs for a frame or a list of dicts, keyed by column."""
        x = {}
        for name in self.ids:
            x[name] = np.array(self._encode(name, values_of(rows, name)), "int32")
        for name, (mean, deviation, *_) in self.scales.items():
            scaled = (self._numbers(rows, name) - mean) / deviation
            x[name] = np.clip(scaled, -LARGEST, LARGEST).astype("float32")
        for name, (table, length) in self.sequences.items():
            x[name] = np.zeros((len(rows), length), "int32")
            for row, entries in enumerate(self._entries(rows, name)):
                codes = self._encode(table, entries[:length])
                x[name][row, : len(codes)] = codes
        return x

    def refusals(self, rows):
        """Return the reasons to refuse dicts of a request: missing values, and wrong numbers."""
        missing = [
            f"rows[{row}].{name}: a value is required. Received: None"
            for name in self.required
            for row, value in enumerate(values_of(rows, name))
            if value is None
        ]
        return missing + [
            f"rows[{row}].{name}: it must lie between {low:.9g} and {high:.9g}. Received: {value!r}"
            for name, (*_, low, high) in self.scales.items()
            for row, value in enumerate(values_of(rows, name))
            if value is not None and not low <= value <= high
        ]

    def _numbers(self, rows, name):
        """Return the numbers of a column, or their logarithms, with NaN for missing ones."""
        values = values_of(rows, name)
        try:
            x = np.array(values, "float64")
        except (TypeError, ValueError) as error:
            wrong = next(v for v in values if not isinstance(v, int | float | None))
            raise TypeError(f"{name} must contain numbers. Received: {name}={wrong!r}") from error
        if name in self.logs and (x < 0).any():
            raise ValueError(f"{name} must be at least 0. Received: {name}={np.nanmin(x)}")
        return np.log1p(x) if name in self.logs else x

    def _entries(self, rows, name):
        """Yield the entries of each list, the last one first, or the words of each text."""
        is_text = name in self.texts
        for value in values_of(rows, name):
            if value is not None and not isinstance(value, str if is_text else (list, tuple)):
                kind = "text" if is_text else "lists. Split a text, or name its column in `texts`"
                raise TypeError(f"{name} must contain {kind}. Received: {name}={value!r}")
            if is_text:
                yield re.findall(r"[^\W_]+", (value or "").lower())
            else:
                yield (value or ())[::-1]

    def _encode(self, table, values):
        codes = self._codes[table]
        return [codes.get(value, UNKNOWN) for value in values]

    def example(self):
        """Return a row of known values and mean numbers."""
        row = {name: self.known[name][-1] for name in self.ids}
        for name, (mean, *_) in self.scales.items():
            row[name] = float(np.expm1(mean)) if name in self.logs else mean
        row |= {name: self.known[table][-1:] for name, (table, _) in self.lists.items()}
        return row | {name: self.known[table][-1] for name, (table, _) in self.texts.items()}

    def save(self, file):
        """Write the encoding as JSON."""
        parts = ("ids", "numbers", "lists", "texts", "logs", "required", "known", "scales")
        Path(file).write_text(json.dumps({name: getattr(self, name) for name in parts}))

    @classmethod
    def load(cls, file):
        """Load an encoding from a file."""
        parts = json.loads(Path(file).read_text())
        if not isinstance(parts, dict) or not all(
            isinstance(values, list) for values in parts.get("known", {}).values()
        ):
            raise ValueError(f"{file} must have a list of known values for each table")
        known, scales = parts.pop("known"), parts.pop("scales")
        return cls(**parts)._set(known, scales)


def values_of(rows, name):
    """Return the values of a column as a list, with None for missing ones."""
    if isinstance(rows, list):
        return [plain(row[name]) for row in rows]
    column = rows[name]
    values, missing = column.tolist(), column.isna().to_numpy()
    if missing.any():
        values = [None if is_missing else v for is_missing, v in zip(missing, values)]
    return [*map(plain, values)] if column.dtype == "object" else values


def plain(value):
    """Return None for NaN, and Python's number, text or list for NumPy's."""
    if not isinstance(value, (float, np.generic, np.ndarray)):
        return value
    value = value if type(value) is float else value.tolist()
    return None if value != value else value


def check_names(names):
    """Check the names of columns, which become names of inputs and tables, also in ONNX files."""
    wrong = [name for name in names if not re.fullmatch(r"(?!\d+$)\w[\w-]*", str(name), re.ASCII)]
    if wrong:
        raise ValueError(
            "Names of columns must consist of letters without accents, digits, _ and -, and not of "
            f"digits alone. Received: {wrong}"
        )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"A column must be named once. Received: {twice}")


def check_known(name, counts, min_rows):
    """Return the frequent values of a column, which must have one type."""
    types = {str if isinstance(v, str) else type(v) for v in counts if v is not None}
    if len(types) > 1 or not types <= {str, int, bool}:
        names = sorted(kind.__name__ for kind in types)
        raise TypeError(
            f"{name} must contain values of one type: strings, integers or booleans. Integers with "
            'missing values are floats in pandas: read them with dtype_backend="numpy_nullable". '
            f"Received: {', '.join(names)}"
        )
    known = sorted(v for v, count in counts.items() if count >= min_rows and v is not None)
    if not known:
        raise ValueError(f"{name} must have a value in at least min_rows={min_rows} rows")
    return known


def add_moments(count, mean, squares, low, high, x):
    """Add numbers to a count, a mean, a sum of squared differences from the mean, and a range."""
    x = x[~np.isnan(x)]
    if not len(x):
        return count, mean, squares, low, high
    total, step = count + len(x), x.mean() - mean
    squares += len(x) * x.var() + step**2 * count * len(x) / total
    return total, mean + step * len(x) / total, squares, min(low, x.min()), max(high, x.max())


def scale_of(name, is_log, count, mean, squares, low, high):
    """Return the mean, the deviation, which is 1 for constants, and the limits of numbers."""
    if not count or not np.isfinite(squares):
        raise ValueError(f"{name} must contain finite numbers, and not only missing ones")
    deviation = float(np.sqrt(squares / count))
    deviation = deviation if deviation > 1e-12 * abs(mean) else 1.0
    low, high = np.expm1([low, high]).tolist() if is_log else (float(low), float(high))
    width = (high - low) or 1.0
    least = 0.0 if is_log else low - width
    return [float(mean), deviation, least, high + width]


# The model


def keras_inputs(columns, width=16, dropout=0.0, own=None):
    """Return the inputs of a model by column, and a network that maps them to a feature vector.

    An id becomes a row of a table, and a list or a text the mean of rows. A number becomes two
    features: the number, or 0 if it is missing, and 1 if it is missing.

    Args:
        columns: The fitted `Columns`.
        width: The width of the tables.
        dropout: The dropout rate of the rows of tables.
        own: For hedged branches, the width of each task's own tables, such as `{"like": 4}`. Then
            the result has no network, but the features `{stream: vector}` for a HedgedBlock, and
            the tables of the stream "shared" have `width`.
    """
    import keras

    inputs = {name: keras.Input((), dtype="int32", name=name) for name in columns.ids}
    for name, (_, length) in columns.sequences.items():
        inputs[name] = keras.Input((length,), dtype="int32", name=name)
    inputs |= {name: keras.Input((), name=name) for name in columns.numbers}
    shared = feature_network(columns, inputs, width, dropout)
    if own is None:
        return inputs, shared
    features = {
        task: feature_network(columns, inputs, each, dropout, f"-{task}")(inputs)
        for task, each in own.items()
    }
    return inputs, features | {"shared": shared(inputs)}


def feature_network(columns, inputs, width, dropout, suffix=""):
    """Return a network with tables of its own, whose names end with `suffix`."""
    import keras
    from keras import ops

    import ple_keras as pk

    tables = {
        name: pk.SparseEmbedding(FIRST + len(values), width, name=f"{name}_table{suffix}")
        for name, values in columns.known.items()
    }
    features, vectors = [], [tables[name](inputs[name]) for name in columns.ids]
    for name, (table, _) in columns.sequences.items():
        is_given = ops.expand_dims(ops.cast(ops.not_equal(inputs[name], MISSING), "float32"), -1)
        total = ops.sum(tables[table](inputs[name]) * is_given, axis=1)
        vectors.append(total / ops.maximum(ops.sum(is_given, axis=1), 1.0))
    if vectors:
        features.append(keras.layers.Dropout(dropout)(ops.concatenate(vectors, axis=-1)))
    if columns.numbers:
        values = ops.stack([inputs[name] for name in columns.numbers], axis=-1)
        features += [ops.nan_to_num(values), ops.cast(ops.isnan(values), "float32")]
    features = ops.concatenate(features, axis=-1)
    return keras.Model(inputs, features, name=f"features{suffix}")


def copy_rows(source, old, target, new):
    """Copy the rows of tables by value, after `transfer_weights`, which copies them by code.

    A code is a place among the sorted values, so columns that are fitted again have different
    codes. Values that are new get the row of unknown values.

    Args:
        source: The trained model.
        old: The `Columns` of the trained model.
        target: The new model, which is changed.
        new: The `Columns` of the new model.
    """
    import keras

    before = {
        path_of(w): keras.ops.convert_to_numpy(w) for w in source.weights if "_table" in w.path
    }
    for name in old.known.keys() & new.known.keys():
        codes = [MISSING, UNKNOWN, *old._encode(name, new.known[name])]
        for table in target.weights:
            path = path_of(table)
            if path in before and re.search(rf"(^|/){name}_table(-[^/]*)?/embeddings$", path):
                table.assign(before[path][codes])


def path_of(weight):
    """Return the path of a weight, without the automatic number of a StreamFeatures."""
    return re.sub(r"^(stream_features)_\d+/", r"\1/", weight.path)


# Monitoring


def count_values(x):
    """Count the rows, and for each column the missing, unknown and above-average values.

    A list is missing if it is empty, and unknown if any of its entries is.
    """
    counts = Counter()
    for name, values in x.items():
        counts["rows"] = len(values)
        values = values.reshape(len(values), -1)
        if values.dtype == "int32":
            counts[f"{name}, missing"] = int((values == MISSING).all(axis=1).sum())
            counts[f"{name}, unknown"] = int((values == UNKNOWN).any(axis=1).sum())
        else:
            counts[f"{name}, missing"] = int(np.isnan(values).sum())
            counts[f"{name}, above the mean"] = int((values > 0).sum())
    return counts


def drift(before, after):
    """Compare two JSON files of counts, and return a line for each share of rows that has changed.

    A share has changed if it differs by more than 0.01 and by more than four standard errors.
    """
    before, after = (json.loads(Path(file).read_text()) for file in (before, after))
    rows = np.array([before["rows"], after["rows"]])
    if not rows.all():
        raise ValueError(f"Both files must have counts of rows. Received: rows={rows.tolist()}")
    lines = []
    for name in sorted(before.keys() - {"rows"}):
        counts = np.array([before[name], after[name]])
        old, new = counts / rows
        mean = counts.sum() / rows.sum()
        error = np.sqrt(mean * (1 - mean) * (1 / rows).sum())
        if abs(new - old) > max(0.01, 4 * error):
            lines.append(f"{name}: {old:.1%} of the rows before, {new:.1%} after")
    return lines

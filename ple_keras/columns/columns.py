"""An encoder of data frames and requests. This file imports NumPy alone, so it can be copied."""

import hashlib
import json
import re
import unicodedata
import warnings
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from copy import copy
from decimal import Decimal
from itertools import chain
from math import ceil
from numbers import Real
from pathlib import Path
from reprlib import repr as short_repr
from types import NoneType
from typing import Any, Self, TypeAlias, cast

import numpy as np

Value: TypeAlias = Any  # a value of a column, such as a string, a list or None
Rows: TypeAlias = Any  # a frame of pandas or polars, or an iterable of dicts
Counts: TypeAlias = dict[str, Counter[Value]]  # keyed by table
Rare: TypeAlias = dict[str, list[tuple[Value, int]]]  # values and their counts, by table

ARGUMENTS = ("ids", "numbers", "lists", "texts", "logs", "required")
FITTED = ("known", "scales", "quantiles", "missing")
KEPT = ("inputs", "rows", "rare", "previous")
MISSING, UNKNOWN, FIRST = 0, 1, 2  # codes; FIRST is the first known value
LARGEST = 5.0  # limit of a scaled number
ROUNDING = 1e-14  # relative deviation of equal numbers, 45 units of the last digit
LARGEST_FLOAT = float(np.finfo("float32").max)
FINITE = "finite numbers, from -3.4e+38 to 3.4e+38"
BINS, MAX_ROWS = 16, 100_000  # quantiles of numbers, and rows of their sample
MAX_RARE = 100_000  # values of a table that are counted for `update`
MAX_OUTSIDE = 0.01  # the share of rows without a warning
BLOCKS = "ids", "numbers"  # the names of packed inputs
LIST_LENGTH, TEXT_LENGTH = 10, 32  # lengths of inferred lists and texts
SELDOM = 5  # occurrences, below which a string looks like a text
VALID_NAME = re.compile(r"(?!\d+$)\w[\w-]*", re.ASCII)  # a name of an input, also in ONNX files
WORD = re.compile(r"[^\W_]+")
NUMBERS, LISTS = {bool, int, float, Decimal, NoneType}, {list, tuple, NoneType}
PLAIN = {str, int, bool, list, tuple, NoneType}  # types that are not converted
NUMERIC = {"i", "u", "f", "b"}  # kinds of dtypes of NumPy and pandas
NAMES: dict[Any, str] = {str: "string", int: "whole number", bool: "boolean"}
REMEDY = (
    'Integers with missing values are floats in pandas: astype("Int64") converts them, and '
    'dtype_backend="pyarrow" reads lists of them'
)
ID_NAME = re.compile(r"(^|[^A-Za-z])(id|ID|Id)$|[a-z]I[dD]$")
MANY = 100  # different integers, from which they look like ids


class Columns:
    """An encoder of the columns of a data frame, and of the rows of requests, as inputs of a model.

    An id becomes a code: 0 if it is missing, 1 if it is unknown, and 2 or higher if it is known. A
    list becomes a fixed number of codes, with the last entry first and zeros at the end. A text
    becomes the codes of its first words. Numbers are scaled, and missing ones are NaN. The networks
    of `network` limit numbers to 5 deviations, or embed them.

    Frames of pandas (with types of NumPy, pandas and pyarrow) and polars are read. The model and
    its columns are two objects and two files, since a model reads arrays: save both, and load both.

    Args:
        ids: Names of columns of strings, integers or booleans.
        numbers: Names of columns of numbers.
        lists: `{name: (table, length)}` for columns of lists of ids, such as histories and
            multi-hot categories. `table` is the column whose codes they use: one of `ids`, or the
            column itself.
        texts: `{name: (table, length)}` for columns of text. Words are runs of letters and digits,
            in lower case. Several columns can use one table.
        logs: Names of columns of numbers that are not negative. log(1 + number) is scaled.
        required: Names of columns of any kind whose values must not be missing in requests.

    Attributes:
        known: The known values of each table, after `fit`.
        scales: The mean, the standard deviation and the limits of each column of numbers, after
            `fit`. The mean and the deviation are computed from at most 100,000 random rows, in
            which numbers are limited to the quantiles 0.001 and 0.999, unless only these vary. The
            limits are the range in training, widened by its width on both sides.
        quantiles: The quantiles 0, 1/16, ..., 1 of each column of numbers or their logarithms, of
            at most 100,000 random rows, after `fit`.
        missing: The share of missing values in each column, after `fit`.
        rows: The number of rows of each table, after `fit`.
        rare: `[(value, count), ...]` for each table, after `fit`: the at most 100,000 most frequent
            values that are not known yet. They are in the file of `save`, and `update` adds to
            their counts. `columns.rare.clear()` removes them.
        previous: The digest of the columns whose `update` returned these; "" after `fit`.
        inputs: The name of the input of each column whose own name an input can't have, such
            as "user id", which becomes "user_id".
        digest: A text that changes with the known values and scales. The networks of `network`
            contain it in their last layer.

    Raises:
        TypeError: If an argument of names is a string.
        ValueError: If a name is used twice or is not a string, `required` has other names, or a
            table or length is invalid.

    Example:

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"city": ["Rome", "Oslo", "Rome", "Oslo"], "age": [20, 30, 40, None]})
    >>> columns = Columns(ids=["city"], numbers=["age"]).fit(frame, min_rows=2)
    >>> print(columns)
    column  kind    known values or limits  missing
    city    id                           2     0.0%
    age     number                 0 to 60    25.0%
    >>> x = columns.transform([{"city": "Rome", "age": 30}, {"city": "Bonn", "age": None}])
    >>> x["city"].tolist(), x["age"].tolist()
    ([3, 1], [0.0, nan])
    >>> network = columns.network(embedding_dim=4)
    >>> network.output_shape
    (None, 6)
    """

    def __init__(
        self,
        ids: Iterable[str] = (),
        numbers: Iterable[str] = (),
        lists: Mapping[str, Sequence[str | int]] | None = None,
        texts: Mapping[str, Sequence[str | int]] | None = None,
        logs: Iterable[str] = (),
        required: Iterable[str] = (),
    ) -> None:
        self.ids, self.logs = _names(ids, "ids"), _names(logs, "logs")
        self.required = _names(required, "required")
        numbers = _names(numbers, "numbers")
        self.numbers = [*numbers, *(name for name in self.logs if name not in numbers)]
        self.lists, self.texts = _tables(lists, "lists"), _tables(texts, "texts")
        self.sequences = self.lists | self.texts
        self.names = [*self.ids, *self.numbers, *self.lists, *self.texts]
        self.inputs = _new_names(self.names)
        self._table = {name: name for name in self.ids}
        self._table |= {name: table for name, (table, _) in self.sequences.items()}
        wrong = sorted({*self.required} - {*self.names})
        if wrong:
            raise ValueError(f"required must be names of columns. Received: required={wrong}")
        self.known: dict[str, list[Value]] = {}
        self.scales: dict[str, list[float]] = {}
        self.quantiles: dict[str, list[float]] = {}
        self.missing: dict[str, float] = {}
        self.rows: dict[str, int] = {}
        self.rare: Rare = {}
        self.previous = ""
        self._kinds: dict[str | None, type] = {}
        self._types: dict[str, Set[type]] = {}  # types of plain values, except lists

    @classmethod
    def infer(cls, frame: Rows, tasks: Iterable[str] = (), ids: Iterable[str] = ()) -> Self:
        """Return columns whose kinds follow from the types and values of a frame.

        Booleans, categories and strings are ids, but strings are texts if most occur fewer than
        five times. Lists are lists with a table of their own, and other columns are numbers. The
        last 10 entries of a list and the first 32 words of a text are used.

        Args:
            frame: A frame with all columns that the model reads.
            tasks: Names of columns with labels, which are left out.
            ids: Names of other columns that are ids, such as integers.

        Raises:
            TypeError: If `frame` is not a frame, or a column has no value, values of an unsupported
                type, or values of several types.
            ValueError: If the frame has no row, or lacks a task or an id.

        Warns:
            UserWarning: Without `ids`, if integers look like ids: their name ends in id, or they
                have at least 100 different values, in five rows each on average.
        """
        check_frame(frame, "frame")
        tasks, ids = _names(tasks, "tasks"), _names(ids, "ids")
        for name in (*tasks, *ids):
            _column(frame, name)
        kinds: dict[str, list[str]] = {"id": [], "number": [], "list": [], "text": []}
        for name in frame.columns:
            if name not in tasks:
                kinds["id" if name in ids else _kind_of(frame, name)].append(name)
        like_ids = [] if ids else [name for name in kinds["number"] if _is_like_ids(frame, name)]
        if like_ids:
            warnings.warn(
                f"These integers are read as numbers, but look like ids by their names or values: "
                f"{like_ids}. List those that are ids in `ids`",
                stacklevel=2,
            )
        lists = {name: (name, LIST_LENGTH) for name in kinds["list"]}
        texts = {name: (name, TEXT_LENGTH) for name in kinds["text"]}
        return cls(kinds["id"], kinds["number"], lists, texts)

    def fit(self, frames: Rows, min_rows: int = 5, spare_rows: float = 0.0) -> Self:
        """Find the known values, which occur at least `min_rows` times, and the scales of numbers.

        Args:
            frames: A frame of training rows, or an iterable of frames, which are read one at a
                time.
            min_rows: The number of occurrences from which a value is known.
            spare_rows: The number of free rows of each table, relative to its known values, which
                `update` gives to new values.

        Returns:
            The columns themselves.

        Raises:
            TypeError: If a column contains values of a wrong type, or ids of several types.
            ValueError: If a column is missing, or has no known value, or no finite number, or
                `spare_rows` is negative.
        """
        if not isinstance(spare_rows, Real) or not 0 <= spare_rows < np.inf:
            raise ValueError(f"spare_rows must be a number of at least 0. Received: {spare_rows=}")
        counts: Counts = {table: Counter() for table in self._table.values()}
        samples, random = {name: _Sample() for name in self.numbers}, np.random.default_rng(0)
        self.known, self.scales, self._kinds, self._types = {}, {}, {}, {}
        missing, rows = Counter[str](), 0
        for frame in _frames(frames):
            rows += len(frame)
            self._count(frame, counts, missing)
            for name, sample in samples.items():
                x = self._numbers(frame, name)
                sample.add(x, random)
                missing[name] += int(np.isnan(x).sum())
        known, self.rare = _split_rare(counts, min_rows)
        for name in (name for name, values in known.items() if not values):
            raise ValueError(
                f"{name} must have a value that is in {min_rows=} rows. Remove the column, or fit "
                "Columns with a smaller min_rows. "
                f"Received: {self.rare[name][:1]} as the most frequent one"
            )
        self.rows = {name: FIRST + len(v) + ceil(len(v) * spare_rows) for name, v in known.items()}
        self.previous = ""
        scales = {name: each.scale(name, name in self.logs) for name, each in samples.items()}
        quantiles = {name: each.quantiles() for name, each in samples.items()}
        missing_shares = {name: missing[name] / rows for name in self.names}
        return self._set(known, scales, quantiles, missing_shares)

    def update(self, frames: Rows, min_rows: int = 5) -> Self:
        """Return columns that also know new values, and are otherwise equal.

        Known values keep their codes, and numbers their scales, quantiles and limits. New values
        get the next codes, and with them the free rows of tables, whose number `spare_rows` of
        `fit` sets. Occurrences in `fit` and in earlier updates count, up to the limit of `rare`.
        `fill_new_rows` adapts a trained model.

        Args:
            frames: As for `fit`: new rows, such as the rows of a day. Pass each row once.
            min_rows: The number of occurrences from which a value is known.

        Returns:
            New columns. `transform` of these columns still reads new values as unknown.

        Raises:
            TypeError: If a column of ids, lists or texts has values of another type than in `fit`.
            ValueError: If the columns are not fitted, such a column is missing, there is no row, or
                a table has fewer free rows than new values.

        Example:

        >>> import pandas as pd
        >>> frame = pd.DataFrame({"user": [*"aabb"]})
        >>> columns = Columns(ids=["user"]).fit(frame, 2, spare_rows=0.5)
        >>> updated = columns.update(pd.DataFrame({"user": [*"bccd"]}), min_rows=2)
        >>> updated.known, updated.rare, updated.rows
        ({'user': ['a', 'b', 'c']}, {'user': [('d', 1)]}, {'user': 5})
        """
        self._check_fitted()
        counts: Counts = {table: Counter() for table in self.known}
        rows = 0
        for frame in _frames(frames):
            rows += len(frame)
            self._count(frame, counts, Counter())
        if not rows:  # an iterator that was read before has none
            raise ValueError("frames must have at least one row. Received: no row")
        for name, count in counts.items():  # equal counts: `rare` has new rows first
            count.update(dict(self.rare.get(name, ())))
            for value in count.keys() & self._codes[name].keys():
                del count[value]
        new, rare = _split_rare(counts, min_rows)
        known = {name: [*values, *new[name]] for name, values in self.known.items()}
        excess = {name: FIRST + len(v) - self.rows[name] for name, v in known.items()}
        full = {name: n for name, n in excess.items() if n > 0}
        if full:
            raise ValueError(
                "Tables must have a free row for each new value. Train a new model with a larger "
                "`spare_rows` in `fit`, or increase min_rows. "
                f"Received: {min_rows=}, and too many values: {full}"
            )
        updated = copy(self)
        updated.rare, updated.previous = rare, self.digest
        return updated._set(known, self.scales, self.quantiles, self.missing)

    def _count(self, frame: Rows, counts: Counts, missing: Counter[str]) -> None:
        """Add the values of a frame to the counts of tables, and the missing ones of columns."""
        for name in self.ids:
            values = self._read(frame, name)
            counts[name].update(values)
            missing[name] += values.count(None)
        for name in self.sequences:
            for entries in self._entries(frame, name):
                counts[self._table[name]].update(entries)
                missing[name] += not entries

    def _set(self, known: Any, scales: Any, quantiles: Any, missing: Any) -> Self:
        self.known, self.quantiles, self.missing = known, quantiles, missing
        self.scales = {name: scales[name] for name in self.numbers}
        pairs = [self.scales[name][:2] for name in self.numbers]
        self._scale_arrays = np.array(pairs).reshape(-1, 2).T[..., None]  # means and deviations
        self._kinds = {name: _type(values[0]) for name, values in known.items()}
        self._types = dict.fromkeys(self.numbers, NUMBERS)
        for name in (*self.ids, *self.texts):
            self._types[name] = {self._kinds[self._table[name]], NoneType}
        self._codes: dict[str, dict[Value, int]] = {}
        for name, values in known.items():
            codes = {value: code for code, value in enumerate(values, FIRST)}
            self._codes[name] = {None: MISSING} | codes
        return self

    def transform(self, rows: Rows, packed: bool = False) -> dict[str, np.ndarray]:
        """Return the inputs of a model, keyed by column.

        Args:
            rows: A frame, or an iterable of dicts with a value or None for each column.
            packed: Whether all ids and all numbers are one array each, which a network with
                `packed=True` needs.

        Returns:
            `int32` codes of ids, `(B,)`, and of lists and texts, `(B, length)`, and `float32`
            numbers, `(B,)`. If packed, "ids", `(B, m)`, and "numbers", `(B, n)`, in the order of
            `ids` and `numbers`, instead of a key for each column. A list or text with such a name
            has the key "ids_2" or "numbers_2".

        Raises:
            TypeError: If a value has a different type than in training.
            ValueError: If a column is missing, or a number of `logs` is negative.

        Warns:
            UserWarning: If more than 1% of the rows of a frame have a number outside of the limits
                in `scales`.
        """
        self._check_fitted()
        rows = to_rows(rows)
        codes = np.empty((len(self.ids), len(rows)), "int32")
        for i, name in enumerate(self.ids):
            get = self._codes[name].get
            codes[i] = [get(value, UNKNOWN) for value in self._read(rows, name)]
        numbers = self._scaled(rows)
        x: dict[str, np.ndarray] = {}
        inputs = self._input_names(packed)
        for block, names, values in (("ids", self.ids, codes), ("numbers", self.numbers, numbers)):
            if packed and names:
                x[block] = np.ascontiguousarray(values.T)
            elif not packed:
                x |= {inputs[name]: row for name, row in zip(names, values)}
        for name, (table, length) in self.sequences.items():
            get, padding, found = self._codes[table].get, [MISSING] * length, array("i")
            used = slice(length) if name in self.texts else slice(None, -length - 1, -1)
            for entries in self._entries(rows, name):
                known = [get(entry, UNKNOWN) for entry in entries[used]]
                found.extend(known + padding[len(known) :])
            x[inputs[name]] = np.array(found, "int32").reshape(-1, length)
        return x

    def _scaled(self, rows: Rows) -> np.ndarray:
        """Return the scaled numbers, `(n, B)`."""
        x = np.empty((len(self.numbers), len(rows)))
        for i, name in enumerate(self.numbers):
            x[i] = self._numbers(rows, name)
        if not isinstance(rows, list):
            self._warn_of_outside(x)
        mean, deviation = self._scale_arrays
        x -= mean
        x /= deviation
        return np.clip(x, -LARGEST_FLOAT, LARGEST_FLOAT, out=x).astype("float32")

    def _warn_of_outside(self, numbers: np.ndarray) -> None:
        """Warn of the columns of a frame with numbers, `(n, B)`, outside of their limits."""
        outside, shares = np.zeros(numbers.shape[1], bool), []
        for name, x in zip(self.numbers, numbers):
            ends = self.scales[name][2:]
            low, high = np.log1p(np.maximum(ends, 0)) if name in self.logs else ends
            is_outside = (x < low) | (x > high)
            outside |= is_outside
            shares += [f"{name} ({is_outside.mean():.0%})"] if is_outside.any() else []
        if shares and outside.mean() > MAX_OUTSIDE:
            warnings.warn(
                f"More than {MAX_OUTSIDE:.0%} of the rows have numbers outside of the limits in "
                f"scales, which are wider than the range in training: {', '.join(shares)}",
                stacklevel=4,
            )

    def _input_names(self, packed: bool) -> dict[str, str]:
        """Return the name of the input of each column, among which packed ones have none."""
        names = {name: self.inputs.get(name, name) for name in self.names}
        if packed:
            taken = {*BLOCKS}
            for name in self.sequences:
                names[name] = free_name(names[name], taken)
                taken.add(names[name])
        return names

    def refusals(self, rows: Rows) -> list[str]:
        """Return the reasons to refuse the rows of a request.

        `transform` can read all rows without a reason.

        Args:
            rows: An iterable of dicts. Each must have a value for each column: None if it is
                missing, unless the column is `required`. Values must have the types of training,
                and numbers must lie within the limits in `scales`.

        Returns:
            A text for each wrong value, which begins with its place, such as "rows[0].age".
        """
        self._check_fitted()
        reasons, rows = [], to_rows(rows)
        for row, values in enumerate(rows):
            present = values.keys() if isinstance(values, Mapping) else ()
            missing = [f"rows[{row}].{name}" for name in self.names if name not in present]
            reasons += [f"{place}: a value, or null, is required" for place in missing]
        if reasons:
            return reasons
        for name in self.names:
            column = column_values(rows, name)
            if self._allows(name, column):
                continue
            for row, value in enumerate(column):
                if not self._allows(name, [value]):
                    text = f"{self._requirement(name, value)}. Received: {short_repr(value)}"
                    reasons.append(f"rows[{row}].{name}: {text}")
        return reasons

    def _allows(self, name: str, values: list[Value]) -> bool:
        """Return whether a request can have the values of a column."""
        try:
            self._check(name, values)
        except TypeError:
            return False
        if name in self.required and None in values:
            return False
        *_, low, high = self.scales.get(name, (0.0, 0.0))
        return name not in self.scales or all(v is None or low <= v <= high for v in values)

    def _requirement(self, name: str, value: Value) -> str:
        """Return the requirement of a request that a value does not meet."""
        if value is None:
            return "a value is required"
        if name in self.scales:
            return "it must be a number between {:.9g} and {:.9g}".format(*self.scales[name][2:])
        kind = NAMES[self._kinds[self._table[name]]]
        return f"it must be a list of {kind}s" if name in self.lists else f"it must be a {kind}"

    def network(
        self,
        embedding_dim: int | Mapping[str, int] = 16,
        dropout: float = 0.0,
        number_embedding_dim: int | Mapping[str, int | None] | None = None,
        packed: bool = False,
    ) -> Value:
        """Return a functional model that maps the inputs to a vector of features.

        An id becomes a row of a table, and a list or a text the mean of rows. A number becomes two
        features: the number, or 0 if it is missing, and 1 if it is missing. With
        `number_embedding_dim`, a number with more than two different quantiles is also read by a
        NumberEmbedding, whose boundaries are these. `network.input` has the inputs, keyed by
        column. `HedgedBlock` and `StreamFeatures` copy the network.

        A number outside of the range in training is read as the smallest or largest one, and a
        number more than 5 deviations from the mean as one at 5 deviations. Networks would continue
        a trend, such as one of years, without a bound.

        Args:
            embedding_dim: The width of the tables. Or a dict of widths keyed by stream, such as
                `{"shared": 16, "like": 4}`.
            dropout: The dropout rate of the rows of tables.
            number_embedding_dim: The width of the embedding next to each number; None for the
                number alone. Or a dict keyed by stream, such as `{"shared": None, "like": 8}`.
            packed: Whether the inputs are those of `transform(rows, packed=True)`, which is faster
                with many columns.

        Returns:
            A functional `keras.Model`, or with a dict, `{stream: model}`. These models have the
            same inputs.

        Raises:
            TypeError: If `embedding_dim` or `number_embedding_dim` is not an integer, or `dropout`
                not a number.
            ValueError: If the columns are not fitted, `embedding_dim` or `number_embedding_dim` is
                below 1, `dropout` is not at least 0 and below 1, or both are dicts of different
                streams.
        """
        from ple_keras.columns.network import NetworkSpec, build_network  # the module imports Keras

        self._check_fitted()
        names = self._input_names(packed)
        quantiles = {name: self._scaled_quantiles(name) for name in self.numbers}
        spec = NetworkSpec(
            self.ids, self.sequences, quantiles, names, self.rows, self.digest, packed
        )
        return build_network(spec, embedding_dim, dropout, number_embedding_dim)

    def _scaled_quantiles(self, name: str) -> list[float]:
        """Return the quantiles of a column as networks read its numbers: at most 5 deviations."""
        mean, deviation, *_ = self.scales[name]
        scaled = (np.array(self.quantiles[name]) - mean) / deviation
        return cast(list[float], np.clip(scaled, -LARGEST, LARGEST).tolist())

    def example(self) -> dict[str, Value]:
        """Return a row of known values and mean numbers, as a request can contain it."""
        self._check_fitted()
        row = {name: self.known[name][-1] for name in self.ids}
        for name, (mean, *_) in self.scales.items():
            row[name] = float(np.expm1(mean)) if name in self.logs else mean
        row |= {name: self.known[table][-1:] for name, (table, _) in self.lists.items()}
        return row | {name: self.known[table][-1] for name, (table, _) in self.texts.items()}

    @property
    def digest(self) -> str:
        scales = {name: (name in self.logs, *each[:2]) for name, each in self.scales.items()}
        text = json.dumps([self.known, scales, self.sequences], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def save(self, file: str | Path) -> None:
        """Write the columns to a JSON file.

        Args:
            file: The file, such as "columns.json".
        """
        self._check_fitted()
        state = {name: getattr(self, name) for name in (*ARGUMENTS, *FITTED, *KEPT)}
        Path(file).write_text(json.dumps(state))

    @classmethod
    def load(cls, file: str | Path) -> Self:
        """Return columns from a JSON file.

        Args:
            file: A file that `save` has written.

        Raises:
            ValueError: If it is another file, or one of an earlier version.
        """
        state = json.loads(Path(file).read_text())
        lacking = {*ARGUMENTS, *FITTED, *KEPT} - {*state}
        if lacking:
            raise ValueError(
                "file must come from Columns.save of ple_keras 0.8.0 or later. "
                f"Received: {file} without {sorted(lacking)}"
            )
        columns = cls(**{name: state[name] for name in ARGUMENTS})
        vars(columns).update({name: state[name] for name in KEPT})
        return columns._set(*(state[name] for name in FITTED))

    def _unfitted(self) -> Self:
        """Return columns with the same arguments."""
        return type(self)(**{name: getattr(self, name) for name in ARGUMENTS})

    def __str__(self) -> str:
        """Return a table of the columns."""
        lines = [("column", "kind", "known values or limits", "missing")]
        for name in self.names:
            kinds = {"id": self.ids, "log": self.logs, "list": self.lists, "text": self.texts}
            kind = next((kind for kind, names in kinds.items() if name in names), "number")
            text, share, table = "", self.missing.get(name), self._table.get(name)
            if name in self.scales:
                text = "{:.6g} to {:.6g}".format(*self.scales[name][2:])
            elif table in self.known:
                text = f"{len(self.known[table]):,}" + f" of {table}" * (table != name)
            lines.append((name, kind, text, "" if share is None else f"{share:.1%}"))
        widths = [max(map(len, cells)) for cells in zip(*lines)]
        form = "{:{}}  {:{}}  {:>{}}  {:>{}}"
        return "\n".join(form.format(*chain(*zip(line, widths))).rstrip() for line in lines)

    def _check_fitted(self) -> None:
        if not self.known and not self.scales:
            raise ValueError("Call fit first. Received: columns without known values")

    def _read(self, rows: Rows, name: str) -> list[Value]:
        """Return the checked values of a column."""
        values = _raw_values(rows, name)
        if {*map(type, values)} <= self._types.get(name, set()):
            return values
        values = _plain_values(values)
        self._check(name, values)
        return values

    def _check(self, name: str, values: list[Value]) -> None:
        """Check the types of the values of a column. The first ids of a table set its type."""
        table = self._table.get(name)
        if table is None:
            _check_types(name, values, NUMBERS, "numbers")
            return
        if name in self.texts:
            _check_types(name, values, {str}, "text")
        elif name in self.lists:
            _check_types(name, values, LISTS, "lists. Split a text, or list its column in `texts`")
            values = [*chain.from_iterable(filter(None, values))]
        first = next((value for value in values if value is not None), None)
        kind = self._kinds.get(table, _type(first))
        names = f"only {NAMES[kind]}s" if kind in NAMES else "strings, integers or booleans"
        _check_types(name, values, {kind} & NAMES.keys(), names, REMEDY)
        if first is not None:
            self._kinds[table] = kind

    def _numbers(self, rows: Rows, name: str) -> np.ndarray:
        """Return the numbers of a column, or their logarithms, with NaN for missing ones."""
        column: Any = None if isinstance(rows, list) else _column(rows, name)
        dtype: Any = getattr(column, "dtype", None)
        if getattr(dtype, "kind", None) in NUMERIC:
            x: np.ndarray = column.to_numpy("float64", na_value=np.nan)
        elif hasattr(dtype, "is_numeric") and dtype.is_numeric() and not dtype.is_decimal():
            x = column.to_numpy().astype("float64")  # a column of polars, with NaN for null
        else:
            x = np.array(self._read(rows, name), "float64")
        if name in self.logs and (x < 0).any():
            raise ValueError(f"{name} must be at least 0. Received: {name}={np.nanmin(x)}")
        return np.log1p(x) if name in self.logs else x

    def _check_finite(self, rows: Rows) -> None:
        """Check the numbers of rows as `fit` does."""
        for name in self.numbers:
            _finite(name, self._numbers(rows, name))

    def _entries(self, rows: Rows, name: str) -> Iterable[Sequence[Value]]:
        """Return the lists of a column, or the words of its texts."""
        values = self._read(rows, name)
        if name in self.texts:
            return (WORD.findall((value or "").lower()) for value in values)
        return (value or () for value in values)


def check_frame(frame: Rows, argument: str) -> None:
    """Check that rows are a frame with rows."""
    if not hasattr(frame, "columns") or not hasattr(frame, "__len__"):  # a LazyFrame has no length
        raise TypeError(
            f"{argument} must be a frame of pandas or polars. "
            f"Received: {argument}={short_repr(frame)}"
        )
    if not len(frame):
        raise ValueError(f"{argument} must have at least one row. Received: no row")


def to_rows(rows: Rows) -> Rows:
    """Return a frame or a list unchanged, and any other iterable as a list."""
    is_frame = hasattr(rows, "columns")
    if not (hasattr(rows, "__len__") if is_frame else isinstance(rows, Iterable)):
        raise TypeError(
            "rows must be a frame of pandas or polars, not a lazy one, or an iterable of dicts. "
            f"Received: rows={short_repr(rows)}"
        )
    return rows if isinstance(rows, list) or is_frame else [*rows]


def _column(frame: Rows, name: str) -> Rows:
    """Return a column of a frame."""
    names = [*getattr(frame, "columns", ())]
    if names.count(name) != 1:
        raise ValueError(
            f"The frame must have the column {name!r} once. Received: {short_repr(names or frame)}"
        )
    return frame[name]


def _raw_values(rows: Rows, name: str) -> list[Value]:
    """Return the values of a column as a list."""
    if not isinstance(rows, list):
        column = _column(rows, name)
        is_arrow = hasattr(column.dtype, "pyarrow_dtype")  # to_list of such columns is slow
        values = column.array.__arrow_array__().to_pylist() if is_arrow else column.to_list()
        return cast(list[Value], values)
    try:
        return [row[name] for row in rows]
    except (KeyError, TypeError, IndexError):
        wrong = [row for row in rows if not isinstance(row, Mapping) or name not in row]
        requirement = f"Each row must be a dict with a value, or None, for {name!r}"
        raise ValueError(f"{requirement}. Received: {short_repr(wrong[0])}") from None


def column_values(rows: Rows, name: str) -> list[Value]:
    """Return the values of a column as Python's, with None for missing ones."""
    return _plain_values(_raw_values(rows, name))


def read_numbers(rows: Rows, name: str) -> np.ndarray:
    """Return the values of a column as finite numbers, with NaN for missing ones."""
    values = column_values(rows, name)
    _check_types(name, values, NUMBERS, "numbers")
    return _finite(name, np.array(values, "float64"))


def _finite(name: str, x: np.ndarray) -> np.ndarray:
    """Return the numbers of a column if they are finite in float32, or missing."""
    wrong = x[np.abs(x) > LARGEST_FLOAT]
    if wrong.size:
        raise ValueError(f"{name} must contain {FINITE}. Received: {name}={wrong[0]}")
    return x


def _plain_values(values: list[Value]) -> list[Value]:
    """Return values as Python's, with None for missing ones."""
    return [value if type(value) in PLAIN else _plain(value) for value in values]


def _plain(value: Value) -> Value:
    """Return None for missing values, and Python's number, text or list for NumPy's."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    is_missing = type(value).__name__ in ("NAType", "NaTType")  # missing values of pandas
    return None if is_missing or (type(value) in NUMBERS and value != value) else value


def _type(value: Value) -> type:
    """Return the type of a value, which is `str` for text of a subclass."""
    return str if isinstance(value, str) else type(value)


def _check_types(
    name: str, values: list[Value], allowed: Set[Any], requirement: str, of_float: str = ""
) -> None:
    """Check the types of values, among which None is allowed."""
    if {*map(type, values)} <= {*allowed, NoneType}:
        return
    for value in values:
        if value is not None and _type(value) not in allowed:
            remedy = f". {of_float}" if of_float and isinstance(value, float) else ""
            received = f"Received: {name}={short_repr(value)}"
            raise TypeError(f"{name} must contain {requirement}{remedy}. {received}")


def _kind_of(frame: Rows, name: str) -> str:
    """Return the kind of a column, which follows from its type and values."""
    values = [value for value in column_values(frame, name) if value is not None]
    kinds = {*map(_type, values)}
    is_category = str(frame[name].dtype).lower().startswith(("categor", "enum"))
    if kinds == {str} and not is_category:
        counts = Counter(values).values()
        return "text" if 2 * sum(n for n in counts if n < SELDOM) > len(values) else "id"
    if kinds == {bool} or (is_category and kinds and kinds <= NAMES.keys()):
        return "id"
    if kinds and kinds <= NUMBERS - {bool} and not is_category:
        return "number"
    if kinds and kinds <= LISTS:
        return "list"
    found = ", ".join(sorted(kind.__name__ for kind in kinds)) or "no value"
    found = f"categories of {found}" if is_category and kinds else found
    remedy = "Remove it from the frame, or convert it"
    if re.search("date|time", found.lower()):
        days = f"(pd.to_datetime(frame[{name!r}]) - pd.Timestamp(2020, 1, 1)).dt.days"
        remedy += f", such as by {days}, with one day for all frames"
    raise TypeError(
        f"{name} must contain numbers, booleans, strings or lists. {remedy}. "
        f"Received: {name} with {found}"
    )


def _is_like_ids(frame: Rows, name: str) -> bool:
    """Return whether numbers are integers whose name or frequencies are like an id's."""
    values = [value for value in column_values(frame, name) if value is not None]
    if {*map(type, values)} != {int}:
        return False
    count = len({*values})
    return bool(ID_NAME.search(str(name))) or (count >= MANY and len(values) >= SELDOM * count)


def _names(names: Iterable[str], argument: str) -> list[str]:
    """Return a list of names. A string would become a list of letters."""
    if isinstance(names, str):
        raise TypeError(f"{argument} must be a list of names. Received: {argument}={names!r}")
    return [*names]


def _tables(tables: Value, argument: str) -> dict[str, tuple[str, int]]:
    """Return the tables and lengths of columns."""
    checked = {name: tuple(each) for name, each in (tables or {}).items()}
    for name, each in checked.items():
        if [*map(type, each)] != [str, int] or each[1] < 1:
            raise ValueError(
                f"{argument} must be {{name: (table, length)}} with lengths of at least 1. "
                f"Received: {argument}[{name!r}]={each!r}"
            )
    return checked


def _new_names(names: Sequence[str]) -> dict[str, str]:
    """Return names of inputs for the columns whose names inputs of ONNX files can't have."""
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise ValueError(f"Names of columns must be strings. Rename them. Received: {wrong}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"Columns must not be named twice. Received: {twice}")
    new: dict[str, str] = {}
    for name in names:
        if not VALID_NAME.fullmatch(name):
            new[name] = free_name(safe_name(name, "column"), {*names, *new.values()})
    return new


def safe_name(name: str, kind: str) -> str:
    """Return a name of letters without accents, digits, _ and -, which can begin with its kind."""
    letters = unicodedata.normalize("NFKD", str(name)).encode("ascii", "ignore").decode()
    text = re.sub(r"[^\w-]+", "_", letters).strip("_-")[:100]
    return text if VALID_NAME.fullmatch(text) else f"{kind}_{text}".strip("_")


def free_name(name: str, taken: Set[str]) -> str:
    """Return a name that is not taken, with a number at the end if needed."""
    free, number = name, 2
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def _frames(frames: Rows) -> Iterable[Rows]:
    """Return the frames of an argument that can be one frame."""
    return [frames] if hasattr(frames, "columns") else frames


def _split_rare(counts: Counts, min_rows: int) -> tuple[dict[str, list[Value]], Rare]:
    """Return the sorted frequent values of each table, and the other ones with their counts."""
    frequent, rare = {}, {}
    for name, count in counts.items():
        del count[None]
        frequent[name] = sorted(value for value, n in count.items() if n >= min_rows)
        for value in frequent[name]:
            del count[value]
        rare[name] = count.most_common(MAX_RARE)
    return frequent, rare


class _Sample:
    """A random sample of the numbers of a column, and the limits of all of them."""

    def __init__(self) -> None:
        self._rows = np.empty((2, 0))  # random numbers, and the numbers of the column
        self._low, self._high = np.inf, -np.inf

    def add(self, x: np.ndarray, random: np.random.Generator) -> None:
        """Add numbers, with NaN for missing ones. Those with the smallest random numbers stay."""
        x = x[~np.isnan(x)]
        self._low, self._high = x.min(initial=self._low), x.max(initial=self._high)
        self._rows = np.hstack([self._rows, [random.random(len(x)), x]])
        if self._rows.shape[1] > MAX_ROWS:
            self._rows = self._rows[:, np.argpartition(self._rows[0], MAX_ROWS)[:MAX_ROWS]]

    def quantiles(self) -> list[float]:
        shares = np.linspace(0, 1, BINS + 1)
        return cast(list[float], np.quantile(self._rows[1], shares, method="inverted_cdf").tolist())

    def scale(self, name: str, is_log: bool) -> list[float]:
        """Return the mean, the deviation, which is 1 for constants, and the limits of numbers.

        Outliers hardly change the mean and the deviation, which are computed from a sample that is
        limited to its quantiles 0.001 and 0.999. This limits at least one number at each end.
        """
        low, high, x = self._low, self._high, np.sort(self._rows[1])
        if not max(abs(low), abs(high)) <= LARGEST_FLOAT:
            found = f"numbers from {low} to {high}" if len(x) else "no number"
            raise ValueError(f"{name} must contain {FINITE}. Received: {found}")
        cut, last = max(len(x) // 1000, 1), len(x) - 1  # mostly zeros are not limited
        limited = np.clip(x, x[min(cut, last)], x[max(last - cut, 0)])
        x = limited if limited.std() > ROUNDING * abs(limited.mean()) else x
        mean, deviation = float(x.mean()), float(x.std())
        deviation = deviation if deviation > ROUNDING * abs(mean) else 1.0
        low, high = np.expm1([low, high]).tolist() if is_log else (float(low), float(high))
        width = (high - low) or 1.0
        return [mean, deviation, 0.0 if is_log else low - width, high + width]

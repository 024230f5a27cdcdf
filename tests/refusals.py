"""Checks that invalid input raises the expected error, whose message states the input."""

import re

import keras
import pytest

from tests.helpers import features, once
from tests.pairs import pairs

NAN, INF = float("nan"), float("inf")


def check_refused(call, error, message):
    """Assert that `call` raises exactly `error`. The message must match and state the input."""
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    text = str(caught.value)
    assert caught.type is error, text
    assert re.search(message, text, re.DOTALL), text
    assert re.search(r"Received: ([\w\[\]'.]|, )+=", text), text


def table(rows):
    """Return parameters from `{id: row}`."""
    return [pytest.param(*row, id=name) for name, row in rows.items()]


def all_refused(call, rows):
    """Return a test that `call` refuses each row of `{id: (*arguments, error, message)}`.

    A row without an error expects a ValueError.
    """

    @once
    @pytest.mark.parametrize("row", rows.values(), ids=rows)
    def test(row):
        *arguments, message = row
        error = arguments.pop() if isinstance(arguments[-1], type) else ValueError
        check_refused(lambda: call(*arguments), error, message)

    return test


def at(argument, *classes):
    """Return an argument of some classes, for `arguments_refused`."""
    return [(cls, argument) for cls in classes]


def arguments_refused(required, rows):
    """Return a test that classes refuse values of an argument.

    `required` has the other arguments of each class. `rows` are pairs of a list of
    `(class, argument)` and a list of `(value, error, message)`.
    """
    cases = []
    for places, values in rows:
        places = {f"{cls.__name__}-{argument}": (cls, argument) for cls, argument in places}
        cases += pairs(places, {str(i): row for i, row in enumerate(values)})

    @once
    @pytest.mark.parametrize(("cls", "argument", "value", "error", "message"), cases)
    def test(cls, argument, value, error, message):
        shown = ""
        if isinstance(value, str | int | float | None) and "Received" not in message:
            shown = f"={re.escape(repr(value))}$"
        check_refused(
            lambda: cls(**{**required[cls], argument: value}),
            error,
            rf"^(?=.*{message})(?=.*{argument}).*Received: {argument}.*{shown}",
        )

    return test


class Unlike:
    """Object of a type that no argument accepts."""

    def __repr__(self):
        return "<Unlike>"


RULE = "128 ASCII letters, digits, '_' and '-', starting with a letter or digit, and not 'shared'"

BAD_NAMES = {
    "space": ("a b", ValueError, r"='a b'"),
    "leading_space": (" a", ValueError, r"=' a'"),
    "trailing_newline": ("a\n", ValueError, r"='a\\n'"),
    "unicode_letter": ("käufe", ValueError, r"='käufe'"),
    "unicode_digit": ("\u0663", ValueError, "='\u0663'"),
    "leading_underscore": ("_a", ValueError, r"='_a'"),
    "leading_dash": ("-a", ValueError, r"='-a'"),
    "slash": ("a/b", ValueError, r"='a/b'"),
    "dot": ("a.b", ValueError, r"='a\.b'"),
    "colon": ("a:b", ValueError, r"='a:b'"),
    "shared": ("shared", ValueError, r"='shared'"),
    "length": ("a" * 129, ValueError, r"='a{129}'"),
    "empty": ("", ValueError, r"=''"),
    "number": (3, TypeError, r"=3"),
    "none": (None, TypeError, r"=None"),
    "bytes": (b"a", TypeError, r"=b'a'"),
}

BAD_INPUTS = {
    "rank_1": (lambda: features(5), r"\(batch, \.\.\., features\).*Received: in.*\.shape=\(5,\)"),
    "list": (lambda: [features(2, 5), features(2, 5)], r"Received: inputs"),
    "tuple": (lambda: (features(2, 5),), r"Received: inputs"),
    "unknown_width": (
        lambda: keras.Input((None,)),
        r"a known number of\s+features.*Received: inputs.*\.shape=\(None, None\)",
    ),
    "unknown_key": (lambda: {"b": features(2, 5)}, r"Received: inputs"),
}


def at_least(minimum):
    return [
        (minimum - 1, ValueError, f"must be at least {minimum}"),
        *((value, TypeError, "must be an integer") for value in (True, 2.0, "2", None)),
    ]


UNITS = [
    ([], ValueError, "must not be empty"),
    (0, ValueError, "must be at least 1"),
    ([4, -1], ValueError, r"\[1\] must be at least 1.*\[1\]=-1"),
    ([4.0], TypeError, r"\[0\] must be an integer.*\[0\]=4\.0"),
    ([True], TypeError, r"\[0\] must be an integer.*\[0\]=True"),
    *((value, TypeError, "must be an int") for value in (4.0, True, "4", {4}, Unlike())),
]
POSITIVE = [
    *((value, ValueError, "must be finite and above 0") for value in (0, -0.5, NAN, INF)),
    *((value, TypeError, "must be a number") for value in ("1", True, None)),
]
FRACTION = [
    (1.0, ValueError, "must be finite and at least 0 and below 1"),
    (-0.1, ValueError, "must be finite and at least 0"),
    (NAN, ValueError, "must be finite"),
    *((value, TypeError, "must be a number") for value in ("0.1", None)),
]
BOOLS = [(value, TypeError, "must be True or False") for value in ("yes", 1, None)]

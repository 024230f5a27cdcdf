"""Checks that invalid input raises the expected error, whose message states the input."""

import re

import keras
import pytest

from tests.helpers import features, once

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


class Unlike:
    """Object of a type that no argument accepts."""

    def __repr__(self):
        return "<Unlike>"


RULE = (
    "at most 128 ASCII letters, digits, '_' and '-', starting with a letter or digit, and not "
    "'shared'"
)

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
    "rank_1": (
        lambda: features(5),
        r"\(batch, \.\.\., features\).*Received: inputs.*\.shape=\(5,\)",
    ),
    "list": (lambda: [features(2, 5), features(2, 5)], r"Received: inputs"),
    "tuple": (lambda: (features(2, 5),), r"Received: inputs"),
    "unknown_width": (
        lambda: keras.Input((None,)),
        r"a known number of\s+features.*Received: inputs.*\.shape=\(None, None\)",
    ),
    "unknown_key": (lambda: {"b": features(2, 5)}, r"Received: inputs"),
}

"""A frame with columns of all kinds."""

import numpy as np
import pandas as pd
import pytest

LARGE = 2**60  # no float equals LARGE + 1
TITLES = "END (the)", "Élan: the end of 2nd", "2nd élan"


@pytest.fixture(scope="module")
def frame():
    return pd.DataFrame(
        {
            "user": pd.array([LARGE, LARGE + 1, None, LARGE, LARGE + 1, LARGE + 2], "Int64"),
            "item": ["a", "b", None, "a", "b", "rare"],
            "adult": pd.array([True, None, False, True, True, False], "boolean"),
            "age": [30.0, np.nan, 50.0, 40.0, 20.0, 10.0],
            "price": pd.array([1, None, 3, 4, 5, 6], "Int64"),
            "genres": [["new", "old"], [], None, ["old"], ["new"], ["new", "other"]],
            "history": [np.array(["a"]), [], None, [*"abx"], [*"aababba"], ["b", "b"]],
            "title": [*("The 2nd, the_End!", None, ""), *TITLES],
            "votes": pd.array([0, 9, None, 99, 999, 9], "Int64"),
        }
    )

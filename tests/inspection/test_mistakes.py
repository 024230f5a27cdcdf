"""Mistakes of users that `check_labels` or `check_inputs` finds before training."""

import re
import warnings
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
import pytest

import ple_keras as pk

ROWS = 64


def random_x(**columns):
    rng = np.random.default_rng(0)
    x = {
        "city": rng.integers(0, 10, ROWS),
        "tags": rng.integers(0, 7, (ROWS, 3)),
        "numbers": np.stack([rng.uniform(18, 80, ROWS), rng.normal(4e4, 9e3, ROWS)], axis=1),
    }
    return {**x, **columns}


def random_y(**labels):
    rng = np.random.default_rng(1)
    y = {
        "click": rng.integers(0, 2, ROWS).astype("float32"),
        "rating": rng.normal(size=ROWS),
        "kind": rng.integers(0, 3, ROWS),
    }
    return {**y, **labels}


def new_model(scale="adapted"):
    inputs = {
        "city": keras.Input((), dtype="int32", name="city"),
        "tags": keras.Input((3,), dtype="int32", name="tags"),
        "numbers": keras.Input((2,), name="numbers"),
    }
    numbers = inputs["numbers"]
    if scale:
        normalization = keras.layers.Normalization()
        if scale == "adapted":
            normalization.adapt(random_x()["numbers"])
        numbers = normalization(numbers)
    city = keras.layers.Embedding(10, 2)(inputs["city"])
    tags = keras.layers.Flatten()(keras.layers.Embedding(7, 2)(inputs["tags"]))
    heads = pk.TaskHeads(
        [
            pk.BinaryHead("click"),
            pk.RegressionHead("rating"),
            pk.MulticlassHead("kind", num_classes=3),
        ]
    )
    features = keras.layers.Concatenate()([city, tags, numbers])
    return pk.MultiTaskModel(inputs, heads(pk.PLEBlock(1, heads, [4])(features))), heads


class Mistake(NamedTuple):
    message: str  # of the check
    x: object = None
    y: object = None
    scale: str | None = "adapted"


def changed(array, index, value):
    array = np.array(array, "float64" if isinstance(value, float) else None)
    array[index] = value
    return array


class Nothing(keras.utils.PyDataset):
    """A dataset without a batch."""

    def __len__(self):
        return 0


X, Y = random_x(), random_y()
NUMBERS = X["numbers"]
OF_LABELS = {
    "y is a list": Mistake("Name the items of a list", y=list(Y.values())),
    "y is an array": Mistake("y must be a dict by task", y=Y["click"]),
    "y is a data frame": Mistake("Convert a data frame with dict", y=pd.DataFrame(Y)),
    "y is a generator": Mistake("read more than once", y=(batch for batch in [(X, Y)])),
    "a task is missing": Mistake(r"missing: \['rating'\]", y={k: Y[k] for k in ("click", "kind")}),
    "a task is misspelled": Mistake(
        r"unknown: \['clik'\]", y={"clik": Y["click"], "rating": Y["rating"], "kind": Y["kind"]}
    ),
    "a label of no task": Mistake(r"unknown: \['user'\]", y=random_y(user=np.arange(ROWS))),
    "rows differ": Mistake("same number of rows", y=random_y(kind=Y["kind"][:32])),
    "ratings in a BinaryHead": Mistake(
        r"y\['click'\] must lie in \[0, 1\]", y=random_y(click=np.arange(ROWS) % 5 + 1)
    ),
    "percent in a BinaryHead": Mistake(r"lie in \[0, 1\]", y=random_y(click=Y["click"] * 100)),
    "-1 for missing, binary": Mistake(
        "create the head with missing_label=-1", y=random_y(click=Y["click"] * 2 - 1)
    ),
    "-1 for missing, classes": Mistake(
        "create the head with missing_label=-1", y=random_y(kind=changed(Y["kind"], 3, -1))
    ),
    "classes from 1": Mistake("class indices from 0 to 2", y=random_y(kind=Y["kind"] + 1)),
    "one-hot classes": Mistake(
        r"shape \(batch, 1\) or \(batch,\)", y=random_y(kind=np.eye(3)[Y["kind"]])
    ),
    "class probabilities": Mistake("class indices from 0 to 2", y=random_y(kind=Y["kind"] / 2)),
    "two columns in a BinaryHead": Mistake(
        r"y\['click'\] must have a shape", y=random_y(click=np.zeros((ROWS, 2)))
    ),
    "labels are strings": Mistake(
        r"y\['kind'\] must hold numbers", y=random_y(kind=Y["kind"].astype(str))
    ),
    "labels with None": Mistake("None to NaN", y=random_y(click=np.array([None, *Y["click"][1:]]))),
    "an infinite label": Mistake(
        "finite or be missing", y=random_y(rating=changed(Y["rating"], 3, np.inf))
    ),
    "lists of other lengths": Mistake("must hold numbers", y=random_y(rating=[[1.0], [1.0, 2.0]])),
    "no label": Mistake(r"y\['click'\] has no labels", y=random_y(click=np.full(ROWS, np.nan))),
    "one class": Mistake(r"y\['click'\] is constant", y=random_y(click=np.zeros(ROWS))),
    "a constant regression": Mistake(
        r"y\['rating'\] is constant", y=random_y(rating=np.full(ROWS, 3.0))
    ),
    "a regression in seconds": Mistake("dominates", y=random_y(rating=Y["rating"] * 4000)),
    "a tiny regression": Mistake("vanishes", y=random_y(rating=Y["rating"] / 1000)),
    "a binary task in a RegressionHead": Mistake("Use a BinaryHead", y=random_y(rating=Y["click"])),
    "one batch without labels, which is right": Mistake(
        "", y=[(X, Y), (X, random_y(click=np.full(ROWS, np.nan)))]
    ),
    "a wrong label in a late batch": Mistake(
        r"y\['kind'\] must be class indices", y=[(X, Y), (X, random_y(kind=Y["kind"] + 1))]
    ),
    "batches without labels": Mistake("y must be a dict", y=[(X,), (X,)]),
    "no batch": Mistake("at least one batch", y=Nothing()),
}
OF_INPUTS = {
    "an id too large": Mistake(r"x\['city'\]\[5\]=10", x=random_x(city=changed(X["city"], 5, 10))),
    "a negative id": Mistake(r"x\['city'\]\[5\]=-1", x=random_x(city=changed(X["city"], 5, -1))),
    "an id too large, of several": Mistake(
        r"x\['tags'\]\[5, 2\]=7", x=random_x(tags=changed(X["tags"], (5, 2), 7))
    ),
    "a missing id": Mistake(
        r"x\['city'\]\[5\]=nan", x=random_x(city=changed(X["city"], 5, np.nan))
    ),
    "ids are strings": Mistake(
        r"x\['city'\] must hold numbers", x=random_x(city=X["city"].astype(str))
    ),
    "a NaN feature": Mistake(
        r"x\['numbers'\]\[5, 1\]=nan", x=random_x(numbers=changed(NUMBERS, (5, 1), np.nan))
    ),
    "an infinite feature": Mistake(
        r"x\['numbers'\]\[5, 1\]=inf", x=random_x(numbers=changed(NUMBERS, (5, 1), np.inf))
    ),
    "numbers with None": Mistake(
        r"None to NaN\. Received: x\['numbers'\]\.dtype=object",
        x=random_x(numbers=np.array([[None, 1.0], *NUMBERS[1:].tolist()], object)),
    ),
    "a column is missing": Mistake(
        r"missing: \['tags'\]", x={key: X[key] for key in ("city", "numbers")}
    ),
    "a column is misspelled": Mistake(
        r"unknown: \['cities'\]",
        x={"cities": X["city"], "tags": X["tags"], "numbers": NUMBERS},
    ),
    "a column too many": Mistake(r"unknown: \['age'\]", x=random_x(age=NUMBERS[:, 0])),
    "a column of another width": Mistake(
        r"x\['numbers'\] must have a shape", x=random_x(numbers=NUMBERS[:, :1])
    ),
    "columns swapped": Mistake("the output of 'norm", x=random_x(numbers=NUMBERS[:, ::-1].copy())),
    "ids swapped": Mistake(
        r"x\['tags'\]\[\d+, 0\]=\d",
        x=random_x(city=X["tags"][:, 0], tags=np.stack([X["city"]] * 3, 1)),
    ),
    "rows of columns differ": Mistake("same number of rows", x=random_x(city=X["city"][:32])),
    "no row": Mistake("at least 1", x={key: array[:0] for key, array in X.items()}),
    "x is a list": Mistake("x must be a dict with the inputs", x=list(X.values())),
    "x is an array": Mistake("x must be a dict with the inputs", x=NUMBERS),
    "numbers are not scaled": Mistake(r"x\['numbers'\]\[:, 1\] has a mean", x=X, scale=None),
    "Normalization is not adapted": Mistake(
        r"the output of 'norm.*\[:, 1\] has a mean", x=X, scale="as it is"
    ),
}


def said(check, *args):
    """Return the first error or warning of a check; "" if there is none."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check(*args)
        except (TypeError, ValueError) as error:
            return str(error)
    return " | ".join(str(each.message) for each in caught if each.category is UserWarning)


@pytest.fixture(scope="module")
def models():
    return {scale: new_model(scale) for scale in ("adapted", "as it is", None)}


@pytest.mark.parametrize("name", OF_LABELS)
def test_check_labels_finds_the_mistake(models, name):
    mistake = OF_LABELS[name]
    message = said(models["adapted"][1].check_labels, mistake.y)
    assert bool(message) == bool(mistake.message)
    assert re.search(mistake.message, message), message


@pytest.mark.parametrize("name", OF_INPUTS)
def test_check_inputs_finds_the_mistake(models, name):
    mistake = OF_INPUTS[name]
    message = said(pk.check_inputs, models[mistake.scale][0], mistake.x)
    assert re.search(mistake.message, message), message


def test_correct_data_causes_no_message(models):
    model, heads = models["adapted"]
    assert said(heads.check_labels, Y) == said(pk.check_inputs, model, X) == ""

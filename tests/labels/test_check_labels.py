"""`check_labels`: checks of labels before training."""

import re

import keras
import numpy as np
import pandas as pd
import pytest

import ple_keras as pk
from tests.helpers import Dataset, every_backend, once
from tests.refusals import all_refused, table

pytestmark = once


def all_heads(**kwargs):
    click, place = pk.BinaryHead("click", **kwargs), pk.RegressionHead("place", units=2, **kwargs)
    return pk.TaskHeads([click, place, pk.MulticlassHead("kind", num_classes=3, **kwargs)])


def valid_labels(**labels):
    return {
        "click": np.array([0, 1, 1]),
        "place": np.array([[1.0, 0.0], [0.0, 2.0], [2.0, 1.0]]),
        "kind": np.array([0, 1, 2]),
        **labels,
    }


VALID = {
    "integers": valid_labels(),
    "lists": valid_labels(click=[0, 1, 1], kind=[[0], [1], [2]]),
    "halves": valid_labels(click=np.float16([[0.5], [1], [np.nan]]), kind=[2, np.nan, 0]),
    "single_numbers": valid_labels(place=np.float32([[1, np.nan], [np.nan, 2], [2, 4]])),
    "series": valid_labels(click=pd.Series([0, None, 1]), kind=pd.Series([0, 1, 2])),
    "frame": valid_labels(click=pd.DataFrame([0.0, np.nan, 1.0])),
    "bfloat16": valid_labels(click=keras.ops.convert_to_tensor([0.0, np.nan, 1.0], "bfloat16")),
}


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("y", VALID.values(), ids=VALID)
def test_valid_labels_are_accepted(y):
    all_heads().check_labels(y)


@pytest.mark.parametrize("value", [-99.9, 0.1])
def test_a_missing_label_may_be_rounded_to_float32(value):
    heads = pk.TaskHeads([pk.RegressionHead("a", missing_label=value)])
    for y in (np.float64(np.float32([value, 1, 2])), np.array([value, 1, 2])):
        heads.adapt({"a": y})
        assert heads["a"].label_share == pytest.approx(2 / 3)


@every_backend
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="others store 64 bits")
def test_integers_that_jax_would_wrap_are_refused():
    heads = pk.TaskHeads([pk.RegressionHead("a", missing_label=-(2**40))])
    heads.check_labels({"a": np.array([2**31 - 1, 2**31 - 3])})
    for value in (2**31, -(2**40)):
        with pytest.raises(ValueError, match=r"between -2147483648 and 2147483647 on this.*: 1\."):
            heads.check_labels({"a": np.array([1, value, 3])})


def test_the_loss_determines_the_width_of_labels():
    kind = pk.MulticlassHead("kind", num_classes=3, loss="categorical_crossentropy")
    interval = pk.Head("interval", units=2, loss=lambda y, p: keras.ops.sum((y - p) ** 2, -1))
    heads = pk.TaskHeads([kind, interval, pk.Head("unused")])
    heads.check_labels({"kind": np.eye(3), "interval": np.eye(3, 1)})
    with pytest.raises(ValueError, match=r"y\['kind'\] must have a shape \(batch, 3\)"):
        heads.check_labels({"kind": [0, 1, 2], "interval": np.ones(3)})
    heads.adapt({"kind": np.eye(3), "interval": np.eye(3, 1)})
    for call in (heads.check_labels, heads.adapt):  # as `fit`
        with pytest.raises(ValueError, match=r"unknown: \['unused'\]"):
            call({"kind": np.eye(3), "interval": np.ones(3), "unused": np.ones(3)})


def test_labels_of_sequences_have_the_rank_that_the_heads_were_built_for():
    heads = pk.TaskHeads([pk.BinaryHead("a")])
    heads.build({"a": (None, 5, 3)})
    heads.check_labels({"a": np.eye(2, 5)})
    heads.check_labels({"a": np.eye(2, 5)[..., None]})
    with pytest.raises(ValueError, match=r"Received: y\['a'\]\.shape=\(2,\)"):
        heads.check_labels({"a": np.zeros(2)})


WARNINGS = {
    "no_labels": (valid_labels(click=np.full(3, np.nan)), r"y\['click'\] has no labels"),
    "constant": (
        valid_labels(click=[1, np.nan, 1]),
        r"y\['click'\] is constant.*all 2 labels are \[1\.0\]",
    ),
    "large": (
        valid_labels(place=[[0, 50], [1, np.nan], [np.nan, 0]]),
        r"y\['place'\] has a standard deviation of 25, so its loss, 'mean_squared_error', "
        r"dominates.*standardize=True\) and call `adapt`",
    ),
    "small": (valid_labels(place=np.arange(6).reshape(3, 2) / 100), "of 0.0163.*vanishes"),
    "binary": (valid_labels(place=np.eye(3, 2)), "Use a BinaryHead"),
    "targets": (
        valid_labels(place=[[0, np.nan], [0, np.nan], [np.nan, np.nan]]),
        r"y\['place'\] has 2 targets.*for 1 with no label: \['1'\]; 1 with equal labels: \['0'\]$",
    ),
}


@pytest.mark.parametrize(("y", "message"), table(WARNINGS))
def test_labels_that_teach_little_cause_a_warning(y, message):
    with pytest.warns(UserWarning, match=message) as caught:
        all_heads().check_labels(y)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.filterwarnings("error::UserWarning")
def test_the_scale_of_labels_does_not_matter_for_other_losses():
    seconds = pk.RegressionHead("seconds", standardize=True)
    heads = [pk.Head("visits", loss="poisson"), pk.BinaryHead("rare", loss="mse"), seconds]
    numbers = np.arange(999)
    y = {"visits": numbers, "rare": numbers == 0, "seconds": 1000 * numbers}
    pk.TaskHeads(heads).check_labels(y)


def test_only_the_first_steps_are_read():
    kinds = np.array([[0, 1, 2], [0, 1, 3]])
    data = Dataset([(np.ones((3, 1)), valid_labels(kind=kind)) for kind in kinds])
    all_heads().check_labels(data, steps=1)
    with pytest.raises(ValueError, match=r"y\['kind'\].*=\[\.\.\., 3\]"):
        all_heads().check_labels(data)


def test_a_warning_counts_the_labels_of_all_batches():
    data = [(np.ones((3, 1)), valid_labels(click=np.ones(3)))] * 3
    with pytest.warns(UserWarning, match=r"^y\['click'\].*all 9") as caught:
        all_heads().check_labels(data)
    assert [warning.filename for warning in caught] == [__file__]


@keras.saving.register_keras_serializable("test_check_labels")
class CountHead(pk.Head):
    """A subclass with its own check of labels."""

    def check_labels(self, labels):
        super().check_labels(labels)
        if np.nanmin(labels) < 0:
            raise ValueError("no counts")


def test_a_frame_is_read_by_the_names_of_targets():
    heads = pk.TaskHeads([pk.RegressionHead("a", targets=["x", "y"], standardize=True)])
    frame = pd.DataFrame({"y": [1.0, 3.0, np.nan], "id": list("abc"), "x": [10, 20, 30]})
    for labels in (frame, {"a": frame}):
        heads["a"]._set_scale(np.full(2, np.nan), np.full(2, np.nan))
        heads.check_labels(labels)
        heads.adapt(labels)
        assert heads["a"].mean == [20.0, 2.0]
        with pytest.raises(ValueError, match=r"y\['a'\] must have .*missing: \['x'\]"):
            heads.adapt({"a": frame.drop(columns="x")})
    with pytest.raises(ValueError, match=r"\(batch, 2\) for.*\.shape=\(3, 3\)"):
        heads.check_labels({"a": np.ones((3, 3))})


def test_a_subclass_may_have_its_own_checks():
    heads = pk.TaskHeads([CountHead("visits", loss="mse")])
    heads.check_labels({"visits": [0, 3]})
    with pytest.raises(ValueError, match="no counts"):
        heads.check_labels({"visits": [0, -3]})


CHECKS = r"y must be a dict with keys among"
REFUSED = {
    "no_dict": ([1, 2], TypeError, rf"{CHECKS}.*Received: y=\[1, 2\]"),
    "frame": (pd.DataFrame({"click": [0, 1]}), TypeError, rf"{CHECKS}.*a data frame with dict\(y"),
    "iterator": (iter([(1, valid_labels())]), "y must be finite and iterable .*<list_iterator"),
    "no_batch": (Dataset([]), r"y must not be empty\. Received: batches=0"),
    "keys": (
        {"click": [1], "klick": [1]},
        r"missing: \['place', 'kind'\], unknown: \['klick'\]\. Received: y=\{'click', 'klick'\}",
    ),
    "binary_shape": (valid_labels(click=np.zeros((3, 2))), r"a shape \(batch, 1\) or .*=\(3, 2\)"),
    "binary_range": (valid_labels(click=[0, 2, -1]), r"in \[0, 1\] or .*: 2\. .*=\[\.\.\., -1, 2"),
    "class_range": (valid_labels(kind=[0, 3, 4]), r"from 0 to 2 or .*: 2\. .*=\[\.\.\., 3, 4\]"),
    "infinite": (valid_labels(place=[[1, np.nan], [np.inf, np.nan], [2, 3]]), "be finite .*: 1"),
    "words": (valid_labels(click=["a", "b", "c"]), TypeError, r"y\['click'\] must .*dtype=<U1"),
    "objects": (
        valid_labels(click=np.array([0, None, 1])),
        TypeError,
        r"contain numbers\. astype\('float32'\) converts them, and None to NaN\. .*dtype=object",
    ),
}


test_invalid_labels_are_refused = all_refused(lambda y: all_heads().check_labels(y), REFUSED)


@pytest.mark.parametrize(("task", "dtype"), [("click", "int64"), ("kind", "float32")])
def test_one_repeated_invalid_value_may_mark_missing_labels(task, dtype):
    y = valid_labels(**{task: np.array([1, -1, -1], dtype)})
    with pytest.raises(ValueError, match=r"If -1.* marks missing labels, ") as caught:
        all_heads().check_labels(y)
    missing_label = re.search(r"create the head with missing_label=(\S+)\. ", str(caught.value))[1]
    all_heads(missing_label=float(missing_label)).check_labels(y)


@pytest.mark.parametrize("value", [1.5, 2, np.inf, -np.inf])
def test_a_message_suggests_only_values_that_may_mark_missing_labels(value):
    with pytest.raises(ValueError, match=r"invalid: 1\. Received: y\['click'\]="):
        all_heads().check_labels(valid_labels(click=np.array([0, value, 1])))


def test_labels_of_a_product_have_the_rank_of_its_factors_and_are_checked():
    tasks = [pk.BinaryHead("a"), pk.BinaryHead("b"), pk.ProductHead("p", of=("a", "b"))]
    heads = pk.TaskHeads(tasks)
    inputs = keras.Input((5, 4))
    heads({"a": inputs, "b": inputs})
    heads.check_labels({task: np.eye(6, 5) for task in "abp"})
    with pytest.raises(ValueError, match=r"y\['p'\] must lie in \[0, 1\]"):
        heads.check_labels({"a": np.eye(6, 5), "b": np.eye(6, 5), "p": 2 * np.eye(6, 5)})


OF_LOSSES = {
    "poisson": ("poisson", 1, [0, 2.5, 7], -1, r"be at least 0 for the loss 'poisson'"),
    "divergence": ("kl_divergence", 2, [[0.1, 0.9]], [-1, 2], r"lie in \[0, 1\]"),
    "sparse": ("sparse_categorical_crossentropy", 3, [0, 2], 3, r"be class indices from 0 to 2"),
    "generalized": (
        keras.losses.CategoricalGeneralizedCrossEntropy(),
        *(3, [0, 2], 3, r"be class indices from 0 to 2"),
    ),
}


@pytest.mark.parametrize(("loss", "units", "valid", "invalid", "rule"), table(OF_LOSSES))
def test_labels_that_a_loss_does_not_take_are_refused(loss, units, valid, invalid, rule):
    heads = pk.TaskHeads([pk.Head("a", units=units, loss=loss)])
    missing = [np.nan] * units if np.ndim(invalid) else np.nan
    heads.check_labels({"a": np.array([*valid, missing])})
    message = rf"y\['a'\] must {rule}.*missing.*Received: y\['a'\]=\["
    with pytest.raises(ValueError, match=message):
        heads.check_labels({"a": np.array([*valid, invalid])})


def test_an_ignored_class_is_accepted():
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    for head in (
        pk.MulticlassHead("a", num_classes=3, loss=loss),
        pk.Head("a", units=3, activation="softmax", loss=loss),
    ):
        head.check_labels(np.array([0, -1, 2]))
        with pytest.raises(ValueError, match=r"class indices from 0 to 2.*=\[\.\.\., -2\]"):
            head.check_labels(np.array([0, -1, -2]))

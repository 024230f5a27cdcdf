"""Labels that are looked at before they are trained on."""

import warnings

import keras
import numpy as np
import pytest

import ple_keras as pk


def all_heads(**kwargs):
    return pk.TaskHeads(
        [
            pk.BinaryHead("click", **kwargs),
            pk.RegressionHead("place", units=2, **kwargs),
            pk.MulticlassHead("kind", num_classes=3, **kwargs),
        ]
    )


def good(**labels):
    return {
        "click": np.array([0, 1, 1]),
        "place": np.ones((3, 2)),
        "kind": np.array([0, 1, 2]),
        **labels,
    }


@pytest.mark.parametrize(
    "y",
    [
        good(),
        good(click=[0, 1, 1], kind=[[0], [1], [2]]),
        good(click=np.array([True, False, True])),
        good(click=np.float32([0.5, 1, np.nan])),
        good(click=np.float16([[0.5], [1], [np.nan]]), kind=np.float64([2, np.nan, 0])),
        good(kind=np.uint8([0, 1, 2])),
        good(place=np.float32([[1, np.nan], [np.nan, np.nan], [1, 2]])),
    ],
)
def test_labels_that_are_right_pass(y):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        all_heads().check_labels(y)


def test_a_marker_may_be_any_number():
    all_heads(missing_label=-1).check_labels(good(kind=[0, -1, 2], click=[-1, -1, 1]))


def test_a_head_with_a_loss_of_its_own_takes_what_that_takes():
    heads = pk.TaskHeads(
        [
            pk.MulticlassHead("kind", num_classes=3, loss="categorical_crossentropy"),
            pk.Head("interval", units=2, loss=lambda y, p: keras.ops.sum((y - p) ** 2, -1)),
            pk.Head("unused", units=2),
        ]
    )
    heads.check_labels({"kind": np.eye(3), "interval": np.ones((3, 1)), "unused": np.ones((3, 2))})
    with pytest.raises(ValueError, match=r"y\['kind'\] must have a shape \(batch, 3\)"):
        heads.check_labels({"kind": [0, 1, 2], "interval": np.ones(3), "unused": np.ones(3)})


def test_labels_of_sequences_have_the_rank_that_the_heads_were_built_for():
    heads = pk.TaskHeads([pk.BinaryHead("a")])
    heads.build({"a": (None, 5, 3)})
    heads.check_labels({"a": np.zeros((2, 5))})
    heads.check_labels({"a": np.zeros((2, 5, 1))})
    with pytest.raises(ValueError, match=r"Received: y\['a'\]\.shape=\(2,\)"):
        heads.check_labels({"a": np.zeros(2)})


def test_products_are_looked_at_too():
    own = [pk.BinaryHead("a"), pk.BinaryHead("b")]
    heads = pk.TaskHeads([*own, pk.ProductHead("ab", of=("a", "b"))])
    heads.check_labels({"a": [0, 1], "b": [1, 1], "ab": [0, 1]})
    with pytest.raises(ValueError, match=r"y\['ab'\] must lie in \[0, 1\]"):
        heads.check_labels({"a": [0, 1], "b": [1, 1], "ab": [0, 2]})


def test_a_task_without_any_label_is_warned_of():
    with pytest.warns(UserWarning, match=r"y\['click'\] holds no label at all") as caught:
        all_heads().check_labels(good(click=np.full(3, np.nan)))
    assert caught[0].filename == __file__


@keras.saving.register_keras_serializable("test_check_labels")
class CountHead(pk.Head):
    """A subclass with a rule of its own."""

    def check_labels(self, labels):
        super().check_labels(labels)
        if np.nanmin(labels) < 0:
            raise ValueError("no counts")


def test_a_subclass_may_have_rules_of_its_own():
    heads = pk.TaskHeads([CountHead("visits", loss="poisson")])
    heads.check_labels({"visits": [0, 3]})
    with pytest.raises(ValueError, match="no counts"):
        heads.check_labels({"visits": [0, -3]})


REFUSED = {
    "no_dict": ([1, 2], TypeError, r"y must be a dict by task.*Received: y=\[1, 2\]"),
    "keys": (
        {"click": [1], "klick": [1]},
        ValueError,
        r"exactly the keys \['click', 'place', 'kind'\]; missing: \['place', 'kind'\], "
        r"not known: \['klick'\]\. Received: y=\{'click', 'klick'\}",
    ),
    "binary_shape": (
        good(click=np.zeros((3, 2))),
        ValueError,
        r"y\['click'\] must have a shape \(batch, 1\) or \(batch,\) for predictions \(batch, 1\)\. "
        r"Received: y\['click'\]\.shape=\(3, 2\)",
    ),
    "regression_shape": (
        good(place=np.zeros((3, 1))),
        ValueError,
        r"y\['place'\] must have a shape \(batch, 2\) for.*shape=\(3, 1\)",
    ),
    "one_hot": (good(kind=np.eye(3)), ValueError, r"y\['kind'\] must have a shape.*shape=\(3, 3\)"),
    "binary_range": (
        good(click=[0, 2, -1]),
        ValueError,
        r"y\['click'\] must lie in \[0, 1\] or be missing; 2 are not\. "
        r"Received: y\['click'\]=\[\.\.\., -1, 2\]",
    ),
    "class_range": (
        good(kind=[0, 3, 2]),
        ValueError,
        r"y\['kind'\] must be class indices from 0 to 2 or be missing; 1 are not\. "
        r"Received: y\['kind'\]=\[\.\.\., 3\]",
    ),
    "class_fraction": (good(kind=[0, 0.5, 2]), ValueError, r"class indices.*=\[\.\.\., 0\.5\]"),
    "class_negative": (good(kind=[0, -1, 2]), ValueError, r"class indices.*=\[\.\.\., -1\]"),
    "infinite": (good(place=np.full((3, 2), np.inf)), ValueError, r"finite or missing; 6 are not"),
    "words": (good(click=["a", "b", "c"]), TypeError, r"y\['click'\] must hold numbers.*dtype=<U1"),
    "objects": (good(click=np.array([0, None, 1])), TypeError, r"must hold numbers.*dtype=object"),
    "complex": (good(place=np.ones((3, 2), complex)), TypeError, r"y\['place'\].*dtype=complex"),
    "rows": (
        good(click=[0, 1]),
        ValueError,
        r"as many labels for each task\. Received: rows=\{'click': 2, 'place': 3, 'kind': 3\}",
    ),
    "scalar": (good(click=1), ValueError, r"Received: y\['click'\]\.shape=\(\)"),
}


@pytest.mark.parametrize(("y", "error", "message"), list(REFUSED.values()), ids=list(REFUSED))
def test_labels_that_cannot_be_are_refused(y, error, message):
    with pytest.raises(error, match=message):
        all_heads().check_labels(y)


def test_labels_of_a_product_have_the_rank_of_its_factors():
    tasks = [pk.BinaryHead("a"), pk.BinaryHead("b"), pk.ProductHead("p", of=("a", "b"))]
    heads = pk.TaskHeads(tasks)
    inputs = keras.Input((5, 4))
    heads({"a": inputs, "b": inputs})
    heads.check_labels({task: np.ones((6, 5)) for task in "abp"})


def test_a_dtype_that_cannot_hold_the_missing_label_is_refused():
    heads = pk.TaskHeads([pk.RegressionHead("r", missing_label=-999.9)])
    with pytest.raises(ValueError, match=r"hold the missing_label, -999.9.*dtype=float16"):
        heads.check_labels({"r": np.array([1, -999.9], "float16")})
    heads.check_labels({"r": np.array([1, -999.9], "float32")})


def test_classes_of_losses_that_are_sparse_without_the_word():
    loss = keras.losses.CategoricalGeneralizedCrossEntropy()
    heads = pk.TaskHeads([pk.MulticlassHead("k", num_classes=3, loss=loss)])
    heads.check_labels({"k": np.array([0, 1, 2])})

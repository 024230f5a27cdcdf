"""RankingHead: scores of lists, with losses and metrics of KerasRS."""

import operator

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.heads.one_head import logs_of_head, loss_of_head
from tests.helpers import features, numpy_of, once
from tests.layers.reference import ranking_loss
from tests.models import compiled, loaded
from tests.refusals import all_refused, check_refused

keras_rs = pytest.importorskip("keras_rs")

NAN = np.nan
# Lists with all labels, with a missing label, without a relevant item, and without a label.
LABELS = np.array([[2, 0, 1, 0], [0, NAN, 3, 1], [0, 0, 0, NAN], [NAN] * 4], "float32")
SCORES = features(4, 4, seed=3) * 3
LOSSES = {"list_mle": keras_rs.losses.ListMLELoss, "pairwise": keras_rs.losses.PairwiseLogisticLoss}


def expected_loss(name, labels, scores, weights=None):
    """Return the mean loss of lists with a label, each over its labeled items."""
    values = np.array([ranking_loss(name, *each) for each in zip(labels, np.float64(scores))])
    weights = np.ones(len(labels)) if weights is None else weights
    return np.nansum(weights * values) / np.isfinite(values).sum()


def ndcg(labels, scores):
    """Return the mean NDCG of the lists with a relevant item."""
    values = []
    for y, s in zip(labels, np.float64(scores)):
        y, s = y[~np.isnan(y)], s[~np.isnan(y)]
        if (y > 0).any():
            discounts = 1 / np.log2(np.arange(len(y)) + 2)
            gains = 2.0**y - 1
            ideal = (np.sort(gains)[::-1] * discounts).sum()
            values.append((gains[np.argsort(-s)] * discounts).sum() / ideal)
    return np.mean(values)


def head_of(loss="pairwise", **kwargs):
    return pk.RankingHead("rank", LOSSES[loss](), **kwargs)


def model_of(head, **kwargs):
    """Return a model of a ranking head next to a BinaryHead of every item."""
    heads = pk.TaskHeads([head, pk.BinaryHead("click", metrics=[])], **kwargs)
    inputs = keras.Input((None, 3))
    return pk.MultiTaskModel(inputs, heads(pk.PLEBlock(1, heads, [4])(inputs)))


@pytest.mark.parametrize(
    ("name", "missing_label"),
    [("list_mle", NAN), ("list_mle", -1), ("pairwise", -2.0), ("pairwise", 9)],
)
def test_the_loss_equals_numpy(name, missing_label):
    labels = np.where(np.isnan(LABELS), missing_label, LABELS)
    labels = labels if np.isnan(missing_label) else labels.astype("int32")
    weights = np.float32([0.5, 2, 1, 7])
    for sample_weight in (None, weights[:, None]):
        head = head_of(name, missing_label=missing_label)
        found = loss_of_head(head, labels[..., None], SCORES, sample_weight)
        expected = expected_loss(name, LABELS, SCORES, None if sample_weight is None else weights)
        assert found == pytest.approx(expected, rel=1e-5)


def test_items_without_a_label_and_padding_do_not_count():
    """Their scores, and the number of padded items, do not matter."""
    expected = expected_loss("pairwise", LABELS, SCORES)
    huge = np.where(np.isnan(LABELS), np.float32(1e30), SCORES)
    assert loss_of_head(head_of(), LABELS, huge) == pytest.approx(expected, rel=1e-5)
    wide = np.pad(LABELS, ((0, 0), (0, 3)))  # masked
    scores = keras.ops.convert_to_tensor(np.pad(SCORES, ((0, 0), (0, 3)), constant_values=50.0))
    scores._keras_mask = keras.ops.convert_to_tensor(np.arange(7)[None] < np.full((4, 1), 4))
    assert loss_of_head(head_of(), wide, scores) == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_labels_or_lists_has_the_loss_0():
    assert loss_of_head(head_of(), np.full((2, 3), NAN), SCORES[:2, :3]) == 0
    assert loss_of_head(head_of(), np.zeros((0, 3)), SCORES[:0, :3]) == 0


def test_negative_labels_make_the_loss_nan_without_a_gradient():
    labels = LABELS.copy()
    labels[0, 1] = -3
    assert np.isnan(loss_of_head(head_of(), labels, SCORES))
    check_refused(
        lambda: head_of().check_labels(labels),
        ValueError,
        r"y\['rank'\] must be at least 0 or be missing; invalid: 1\. If -3.*missing_label=-3",
    )
    head_of().check_labels(LABELS)


@once
def test_metrics_are_the_mean_of_the_loss_or_leave_out_lists_without_a_relevant_item():
    metrics = [keras_rs.metrics.NDCG(), keras_rs.metrics.NDCG(k=9)]
    head = head_of(metrics=metrics, extra_metrics=[keras_rs.metrics.MeanReciprocalRank()])
    scores = SCORES * 1e6  # differences of 1e-7 would be lost
    logs = logs_of_head(head, LABELS, scores[..., None])
    assert set(logs) == {"loss", "rank_loss", "ndcg", "ndcg_1", "mean_reciprocal_rank"}
    assert logs["ndcg"] == logs["ndcg_1"] == pytest.approx(ndcg(LABELS, scores), rel=1e-5)
    logs = logs_of_head(head_of("list_mle"), LABELS, SCORES[..., None])
    expected = expected_loss("list_mle", LABELS, SCORES)
    assert logs["list_mle_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss_weighting", [pytest.param(None, marks=once), "uncertainty"])
def test_fit_trains_it_next_to_another_head_and_files_keep_it(loss_weighting, tmp_path):
    head = head_of(metrics=[keras_rs.metrics.NDCG(seed=1)], loss_weight=0.5, tower=[3])
    model = compiled(model_of(head, loss_weighting=loss_weighting), keras.optimizers.SGD(0.1))
    x = features(4, 4, 3)
    y = {"rank": LABELS, "click": np.float32(LABELS > 0)}
    before = numpy_of(model(x)["rank"])
    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs["rank_loss"] == pytest.approx(expected_loss("pairwise", LABELS, before), rel=1e-4)
    assert logs["rank_ndcg"] == pytest.approx(ndcg(LABELS, before), rel=1e-4)
    copy = loaded(model, tmp_path)
    scores = model.predict_on_batch(x)["rank"]
    np.testing.assert_allclose(copy.predict_on_batch(x)["rank"], scores, rtol=1e-5)
    assert scores.shape == (4, 4)
    model.reset_metrics()
    again = [m.train_on_batch(x, y, return_dict=True) for m in (model, copy)]
    first, second = ({key: float(value) for key, value in of.items()} for of in again)
    assert second == pytest.approx(first, rel=1e-5)


def test_scores_are_float32_at_half_precision():
    head = head_of(dtype="mixed_float16")
    assert keras.backend.standardize_dtype(head(features(2, 3, 4)).dtype) == "float32"
    assert head.compute_output_shape((None, None, 4)) == (None, None)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="one exporter is enough here")
def test_an_onnx_file_takes_lists_of_any_length(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model = model_of(head_of())
    pk.export_onnx(model, tmp_path / "m.onnx")
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    for length in (1, 5, 9):
        x = features(2, length, 3)
        (scores,) = session.run(["rank"], {session.get_inputs()[0].name: x})
        np.testing.assert_allclose(scores, numpy_of(model(x)["rank"]), rtol=1e-4, atol=1e-6)


@once
def test_the_report_of_tasks_counts_lists_which_may_have_different_lengths():
    model = model_of(head_of())
    x, y = features(4, 4, 3), {"rank": LABELS, "click": LABELS > 0}
    use, known = pk.task_report(model, x, y).tasks["rank"], LABELS[~np.isnan(LABELS)]
    is_labeled = (~np.isnan(LABELS)).any(axis=-1)
    assert use.labels == is_labeled.sum()
    assert use.label_mean == pytest.approx(known.mean())
    scores = numpy_of(model(x))["rank"]
    assert use.prediction_deviation == pytest.approx(scores[is_labeled].std(), rel=1e-5)
    assert use.loss == pytest.approx(expected_loss("pairwise", LABELS, scores), rel=1e-5)
    shorter = x[:, :3], {task: labels[:, :3] for task, labels in y.items()}
    both = pk.task_report(model, iter([(x, y), shorter]))
    assert (both.examples, both.tasks["rank"].labels) == (8, 2 * use.labels)


UNREDUCED = LOSSES["pairwise"](reduction=None)
REFUSED = {
    "name": (lambda: pk.RankingHead("a", "mse"), TypeError, r"loss must be a loss of lists"),
    "keras": (lambda: pk.RankingHead("a", keras.losses.Huber()), TypeError, "a loss of lists"),
    "reduction": (lambda: pk.RankingHead("a", UNREDUCED), "loss must have the default reduction"),
    "inputs": (lambda: head_of()(features(2, 3)), r"\(batch, items, features\)\. .*=\(2, 3\)"),
    "labels": (lambda: loss_of_head(head_of(), LABELS[:, :3], SCORES), r"a shape \(4, 4, 1\) or"),
    "metric": (
        lambda: logs_of_head(head_of(metrics=["mse"]), LABELS, SCORES[..., None]),
        r"metrics must accept labels and predictions.*The update of 'mse' failed",
    ),
}


test_wrong_arguments_are_refused = all_refused(operator.call, REFUSED)

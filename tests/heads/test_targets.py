"""Heads of several targets, compared with a head for each target and with scikit-learn."""

from functools import partial

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, roc_auc_score

import ple_keras as pk
from tests.heads.one_head import loss_of_head
from tests.helpers import QUICK, assert_all_close, assert_same, features, numpy_of, once, randomize
from tests.models import chain, compiled, loaded
from tests.pairs import fewer
from tests.refusals import table

NAN = float("nan")
ROWS = 40
NAMES = ["NR-AR/ligand", "SR p53", "5", "Größe"]
K = len(NAMES)


def labels_with_holes(kind, rows=ROWS):
    """Return labels `(rows, K)`. 70% are missing, and the targets differ in their numbers."""
    rng = np.random.default_rng(1)
    y = rng.normal([0, 5, -3, 100], [1, 2, 0.5, 30], (rows, K)).astype("float32")
    y = (y > [0, 6, -3, 80]).astype("float32") if kind == "binary" else y
    y[rng.uniform(size=y.shape) < [0.8, 0.6, 0.7, 0.7]] = NAN
    return y


def bottom_and(*heads):
    heads = pk.TaskHeads(heads)
    return chain(pk.SharedBottomBlock(heads, [5]), heads), heads


HEADS = {
    "binary": (pk.BinaryHead, "binary", {"pos_weight": 2.0}),
    "regression": (pk.RegressionHead, "numbers", {"loss": "mae"}),
    "standardized": (pk.RegressionHead, "numbers", {"standardize": True}),
}


@pytest.mark.parametrize(("make", "kind", "options"), fewer(HEADS, "standardized"))
def test_a_head_of_targets_takes_the_steps_of_a_head_for_each(make, kind, options):
    y, x = labels_with_holes(kind), features(ROWS, 3)
    wide = make("all", targets=NAMES, reduction="by_target", loss_weight=K, **options)
    one, heads = bottom_and(wide)
    many, single = bottom_and(*(make(f"t{k}", **options) for k in range(K)))
    heads.adapt({"all": y})
    by_task = {f"t{k}": y[:, k] for k in range(K)}
    single.adapt(by_task)
    randomize(one)
    bottom = numpy_of(dict(enumerate(one.layers[1].weights)))
    many.layers[1].set_weights([*bottom.values()])
    for k, head in enumerate(single.values()):
        head.set_weights([array[..., k : k + 1] for array in wide.get_weights()])
    rate = 0.02 if "loss" in options else 0.05
    for model, labels in ((one, {"all": y}), (many, by_task)):
        compiled(model, keras.optimizers.SGD(rate), **QUICK)
        model.fit(x, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert np.abs(numpy_of(one.layers[1].weights[0]) - bottom[0]).max() > 1e-3
    assert_all_close(many.layers[1].get_weights(), one.layers[1].get_weights(), atol=1e-5)
    trained = [head.get_weights() for head in single.values()]
    joined = [np.concatenate(arrays, axis=-1) for arrays in zip(*trained)]
    assert_all_close(joined, wide.get_weights(), rtol=1e-5, atol=1e-5)
    found = one.evaluate(x, {"all": y}, verbose=0, return_dict=True)
    logs = many.evaluate(x, by_task, verbose=0, return_dict=True)
    if kind == "binary":
        mean = np.nanmean([logs[f"t{k}_auc"] for k in range(K)])
        assert found["auc"] == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_mean_over_targets_counts_targets_without_a_label(weighted):
    y, p = np.zeros((5, 2, 3), "float32"), features(5, 2, 3)
    y[0] = y[1, 0, 1] = y[:, :, 2] = NAN
    weights = np.linspace(0.5, 2, 5) if weighted else None
    errors = np.nan_to_num((y - p) ** 2) * (1 if weights is None else weights[:, None, None])
    means = errors.sum(axis=(0, 1)) / np.maximum(np.isfinite(y).sum(axis=(0, 1)), 1)
    head = pk.RegressionHead("a", units=3, reduction="by_target")
    assert loss_of_head(head, y, p, weights) == pytest.approx(means.sum() / 3, rel=1e-5)
    loss = pk.MaskedLoss("mse", reduction="by_target")
    assert float(loss(y, p, weights)) == pytest.approx(means.sum() / 3, rel=1e-5)


def test_areas_are_those_of_scikit_learn():
    """Of targets with holes or one class, positions of a sequence, and a single target."""
    rng = np.random.default_rng(2)
    y = {
        "wide": rng.integers(0, 2, (300, 6)).astype("float32"),
        "steps": rng.integers(0, 2, (300, 2, 1)).astype("float32"),
        "one": rng.integers(0, 2, 300).astype("float32"),
    }
    y["wide"][rng.uniform(size=(300, 6)) < 0.7] = y["steps"][::3, 0] = y["one"][::2] = NAN
    y["wide"][:, 1], y["wide"][:, 4] = np.where(y["wide"][:, 1] == 1, 1, NAN), NAN
    heads = pk.TaskHeads([pk.BinaryHead("wide", units=6), *map(pk.BinaryHead, ("steps", "one"))])
    inputs = {"wide": keras.Input((3,)), "steps": keras.Input((2, 3)), "one": keras.Input((3,))}
    model = compiled(pk.MultiTaskModel(inputs, heads(inputs)), keras.optimizers.SGD(0.0), **QUICK)
    randomize(model)
    x = {"wide": features(300, 3), "steps": features(300, 2, 3), "one": features(300, 3, seed=1)}
    logs = model.evaluate(x, y, batch_size=64, verbose=0, return_dict=True)
    assert [metric.name for metric in model.metrics] == ["loss", "task_means", "task_aucs"]

    def area(y, p):
        known = np.isfinite(y)
        is_mixed = len(np.unique(y[known])) == 2
        return roc_auc_score(y[known], p[known]) if is_mixed else NAN

    p = model.predict(x, verbose=0)
    areas = [area(*pair) for pair in zip(y["wide"].T, p["wide"].T)]
    assert np.isnan(areas).tolist() == [False, True, False, False, True, False]
    assert logs["wide_auc"] == pytest.approx(np.nanmean(areas), abs=1e-3)
    for task in ("steps", "one"):
        assert logs[f"{task}_auc"] == pytest.approx(
            area(*map(np.ravel, (y[task], p[task]))), abs=1e-3
        )
    p["wide"][3, 4] = NAN  # of a target without labels, which has no area
    y["wide"][:] = NAN
    logs = model.evaluate(x, y, batch_size=300, verbose=0, return_dict=True)
    assert np.isnan(logs["wide_auc"])


def linear_and_shared(heads):
    linear = pk.CGCBlock(heads, keras.layers.Identity(), 1, 0, add_shared_gate=False)
    return {"linear": linear, "shared": pk.SharedBottomBlock(heads, [5])}


MODELS = {
    "branches": (lambda heads: pk.HedgedBlock(heads, branches=linear_and_shared(heads)), "float32"),
    "mixed": (lambda heads: pk.SharedBottomBlock(heads, [5]), "mixed_float16"),
}


@pytest.mark.parametrize(("make_block", "policy"), fewer(MODELS, "branches"))
def test_models_of_targets_train_from_frames_and_continue_from_files(tmp_path, make_block, policy):
    """Columns of the frames are in another order. With branches, there is one mixture."""
    keras.config.set_dtype_policy(policy)
    try:
        assays = pk.BinaryHead("assays", targets=NAMES, reduction="by_target")
        doses = pk.RegressionHead("doses", targets=NAMES, standardize=True)
        heads = pk.TaskHeads([assays, doses, pk.BinaryHead("other")])
        model = compiled(chain(make_block(heads), heads), "adam", **QUICK)
    finally:
        keras.config.set_dtype_policy("float32")
    arrays = {"assays": labels_with_holes("binary"), "doses": labels_with_holes("numbers")}
    other = np.arange(ROWS) % 2
    frames = {name: pd.DataFrame(y, columns=NAMES)[NAMES[::-1]] for name, y in arrays.items()}
    x, y, read = features(ROWS, 3), {**frames, "other": other}, {**arrays, "other": other}
    model.fit(x, y, batch_size=8, epochs=2, validation_data=(x, y), verbose=0)
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    expected = model.evaluate(x, read, verbose=0, return_dict=True)
    assert logs == expected
    assert np.isfinite([*logs.values()]).all()
    copy = loaded(model, tmp_path)
    assert_same(copy.predict(x, verbose=0), model.predict(x, verbose=0))
    if policy != "float32":
        return
    assert [len(each) for each in heads.branch_weights().values()] == [2, 2, 2]
    for each in (model, copy):
        each.fit(x, read, batch_size=8, shuffle=False, verbose=0)
    assert_same(copy.predict(x, verbose=0), model.predict(x, verbose=0), 1e-4)
    if keras.backend.backend() == "torch":
        onnxruntime = pytest.importorskip("onnxruntime")
        pk.export_onnx(model, tmp_path / "model.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        outputs = session.run(None, {session.get_inputs()[0].name: x})
        p = model.predict(x, verbose=0)
        assert_all_close(outputs, [p[task] for task in sorted(p)], atol=1e-4)


@once
def test_a_report_has_a_table_of_targets(monkeypatch):
    heads = pk.TaskHeads([pk.BinaryHead("assays", targets=NAMES), pk.RegressionHead("d", units=2)])
    model = compiled(chain(pk.HedgedBlock(heads, [4]), heads), **QUICK)
    y = {"assays": labels_with_holes("binary"), "d": features(ROWS, 2, seed=3)}
    y["assays"][:, 1] = np.where(y["assays"][:, 1] == 1, 1, NAN)
    x, entropy = features(ROWS, 3), partial(log_loss, labels=[0, 1])
    frame = pd.DataFrame(y["assays"], columns=NAMES)[NAMES[::-1]]
    report = pk.task_report(model, x, {**y, "assays": frame}, new_rows=True)
    p = model.predict(x, verbose=0)
    assert [*report.targets["assays"]] == NAMES
    for k, each in enumerate(report.targets["assays"].values()):
        known = np.isfinite(y["assays"][:, k])
        mine, guess = y["assays"][known, k], p["assays"][known, k]
        assert (each.labels, each.label_share) == (known.sum(), known.mean())
        has_both = len(np.unique(mine)) == 2
        auc = roc_auc_score(mine, guess) if has_both else NAN
        assert each.auc == pytest.approx(auc, nan_ok=True)
        base = entropy(mine, np.full(len(mine), mine.mean())) if has_both else NAN
        assert each.relative_error == pytest.approx(
            entropy(mine, guess.astype("float64")) / base, rel=1e-4, nan_ok=True
        )
    whole, found = report.tasks["assays"], report.targets["assays"]
    known = [each for each in found.values() if np.isfinite(each.auc)]
    assert 1 < len(known) < K
    assert whole.auc == pytest.approx(np.mean([each.auc for each in known]))
    assert whole.relative_error == pytest.approx(np.mean([each.relative_error for each in known]))
    assert whole.label_share == pytest.approx(np.isfinite(y["assays"]).mean())
    assert report.tasks["d"].rmse == pytest.approx(
        np.sqrt(((p["d"] - y["d"]) ** 2).mean(axis=0)).mean(), rel=1e-5
    )
    assert [*report.gains] == ["d"]  # it has no holes
    assert "assays: it has no gains. Rows with some of several labels" in "".join(report.warnings)
    assert all(name in str(report) for name in NAMES)
    monkeypatch.setattr("ple_keras.inspection.target_figures.MAX_SHOWN", 1)
    assert "2 of 4; all in to_dict()" in str(report)
    assert [*report.to_dict()["targets"]["assays"]] == NAMES


def test_a_learned_weight_counts_the_targets_with_a_label():
    heads = pk.TaskHeads(
        [pk.RegressionHead("a", units=4, reduction="by_target")], loss_weighting="uncertainty"
    )
    heads.build({"a": (None, 3)})
    heads._log_variances.assign([2.0])
    y, p = np.zeros((5, 4), "float32"), features(5, 4)
    y[:, 1] = y[1:3, 0] = NAN
    errors = np.nanmean(np.where(np.isnan(y), NAN, p**2)[:, [0, 2, 3]], axis=0).sum() / 4
    loss = numpy_of(heads.compute_loss({"a": y}, {"a": keras.ops.convert_to_tensor(p)}))
    assert loss == pytest.approx(np.exp(-2) * errors / 2 + 2 / 2 * 3 / 4, rel=1e-5)


@once
@pytest.mark.parametrize("make", [pk.BinaryHead, pk.RegressionHead])
def test_the_config_has_units_and_targets(make):
    config = make("all", targets=tuple(NAMES)).get_config()
    assert config["units"], config["targets"] == (K, NAMES)
    assert make.from_config(config).get_config() == config
    assert make("all", units=2).get_config()["targets"] is None
    del config["units"]
    assert make.from_config(config).units == K
    assert make("all", units=K, targets=NAMES).targets == NAMES


REFUSED = {
    "names": ({"targets": "NR-AR"}, TypeError, "targets must be a list of strings.*'NR-AR'"),
    "a_number": ({"targets": 5}, TypeError, "targets must be a list of strings.*targets=5"),
    "no_names": ({"targets": []}, TypeError, "targets must be a list of strings"),
    "numbers": ({"targets": [1, 2]}, TypeError, r"targets must be a list of strings.*\[1, 2\]"),
    "repeated": ({"targets": ["a", "a"]}, ValueError, "targets must be distinct.*'a', 'a'"),
    "units": (
        {"targets": ["a", "b"], "units": 3},
        ValueError,
        "as many as units if both are given.*units=3, 2 targets",
    ),
    "custom_loss": (
        {"units": 2, "loss": keras.losses.CosineSimilarity(), "reduction": "by_target"},
        ValueError,
        "by_target' requires a Keras loss.*cosine_similarity",
    ),
}


@once
@pytest.mark.parametrize(("options", "error", "message"), table(REFUSED))
@pytest.mark.parametrize("make", [pk.BinaryHead, pk.RegressionHead])
def test_targets_are_refused(make, options, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        make("all", **options)

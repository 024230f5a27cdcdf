"""The benchmark on matrices of assays, on generated targets."""

import json

import keras
import numpy as np
import pandas as pd
import pytest
from scipy import stats

pytest.importorskip("lightgbm")
pytest.importorskip("rdkit")

import ple_keras as pk
from examples.benchmarks import assays
from examples.benchmarks.never_worse import TABLE
from tests.helpers import once

pytestmark = once


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Return a file of 120 molecules, with one that can't be read, and two targets."""
    rng = np.random.default_rng(0)
    ends = ["", "O", "N", "Cl", "c1ccccc1", "C1CCCCC1"]
    smiles = ["C" * (1 + i // 6) + ends[i % 6] for i in range(120)]
    frame = pd.DataFrame({"name": "x", "smiles": [*smiles, "not a molecule"]})
    for target in ("NR-AR", "a target, with a comma"):
        frame[target] = rng.integers(0, 2, 121)
        frame.loc[rng.random(121) < 0.3, target] = np.nan
    path = tmp_path_factory.mktemp("assays") / "small_table.csv.gz"
    frame.to_csv(path, index=False)
    return path


def test_molecules_are_read_and_split_by_groups(file):
    data = assays.read(file)
    assert (data.x.shape, data.unread) == ((120, 2048), 1)
    assert data.targets == ["NR-AR", "a target, with a comma"]
    frame = pd.read_csv(file).iloc[:120]
    np.testing.assert_array_equal(data.y, frame[data.targets].to_numpy("float32"))
    assert len(np.unique(data.groups["scaffold"])) == 3  # none, benzene and cyclohexane
    for groups in data.groups.values():
        parts = assays.split_rows(groups, 0)
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(120))
        known = [{*groups[rows]} for rows in parts]
        assert sum(map(len, known)) == len({*groups})  # a group is in one part
    assert [*map(len, assays.split_rows(np.arange(1000), 0))] == [800, 100, 100]


def test_scores_are_means_over_targets_with_both_labels():
    y = np.array([[0, 1, 1], [1, np.nan, 1], [np.nan, 0, 1], [1, 1, np.nan]])
    p = np.array([[0.1, 0.3, 0.5], [0.2, 0.9, 0.4], [0.9, 0.5, 0.3], [0.05, 0.6, 0.2]])
    np.testing.assert_array_equal(assays.areas(y, p), [0.5, 0.5, np.nan])
    values = np.random.default_rng(0).random((2, 9))
    values[:, 3] = values[1, 5] = np.nan
    mean, *ends = assays.interval(values)
    means = np.delete(np.where(np.isnan(values[1]), values[0], values.mean(axis=0)), 3)
    expected = stats.ttest_1samp(means, 0).confidence_interval()
    np.testing.assert_allclose([mean, *ends], [means.mean(), *expected], atol=1e-5)


def test_the_loss_by_hand_is_the_masked_loss():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, (6, 3)).astype("float32"), rng.random((6, 3)).astype("float32")
    y[rng.random(y.shape) < 0.5] = np.nan
    y, p = map(keras.ops.convert_to_tensor, (y, p))
    expected = pk.MaskedLoss("binary_crossentropy")(y, p)
    assert float(assays.masked_loss(y, p)) == pytest.approx(float(expected), rel=1e-5)


def test_the_page_has_the_kept_tables():
    page = (assays.ROOT / "docs" / "maintainers" / "assays.md").read_text()
    assert dict(TABLE.findall(page)) == assays.tables_of(json.loads(assays.KEPT.read_text()))


@pytest.mark.nightly
def test_a_small_run_is_kept_and_printed(file, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(assays, "KEPT", tmp_path / "kept.json")
    monkeypatch.setattr(assays, "PREDICTIONS", tmp_path / "predictions")
    monkeypatch.setattr(assays, "EPOCHS", 1)
    monkeypatch.setattr(assays, "SPLITS", ["random"])
    monkeypatch.setitem(assays.SETTINGS, "forest", {"n_estimators": 2})
    command = ["--run", str(file), "--seeds", "1"]
    assays.main(command)
    kept = json.loads(assays.KEPT.read_text())
    models = {*assays.CLASSIFIERS, *assays.NETWORKS}
    assert {*kept["small"]["fits"]["random"]} == models
    assert {*kept["small"]["means"]["random"]} == models | {*assays.MIXTURES}
    printed = capsys.readouterr().out
    for name in ("fit_targets", "fit_network"):
        monkeypatch.setattr(assays, name, None)  # trains nothing again
    assays.main(command)
    assert json.loads(assays.KEPT.read_text()) == kept
    assert printed.endswith(capsys.readouterr().out)

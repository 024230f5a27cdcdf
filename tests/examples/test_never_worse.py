"""The benchmark "never worse": its plan, fits, tables and pages."""

import re

import keras
import numpy as np
import pytest

from tests.helpers import once
from tests.processes import EXAMPLES

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module", autouse=True)
def _scripts():
    with pytest.MonkeyPatch.context() as patch:
        for folder in (EXAMPLES / "benchmarks", EXAMPLES / "benchmarks" / "quality"):
            patch.syspath_prepend(folder)
        yield


def small_fit(kind, case, seed=0):
    from _transfer_fits import Fit, Sizes

    return Fit(case, kind, seed, Sizes(rows=1000, epochs=2), rate=0.01)


@once
def test_the_plan_has_the_cases_measures_and_seeds_of_the_rules():
    from _never_worse_plan import all_cases, fresh_seeds, plan, published_seeds

    cases = all_cases()
    assert len(cases) == 32
    assert sum(len(case.measures) for case in cases) == 50
    for case in cases:
        assert published_seeds(case).stop == fresh_seeds(case).start
    longest = {case.group for case in cases if len(fresh_seeds(case)) > len(published_seeds(case))}
    assert longest == {"beside an unrelated task"}
    keys = [fit.key for step in plan() for fit in step.fits]
    published = [fit for fit in plan()[0].fits if fit.case.setting == "weight"]
    assert len({fit.key for fit in published}) == len(published) / 4  # for any loss weight
    assert len(set(keys)) > 3000


@once
def test_pages_show_the_tables_of_the_kept_fits():
    import never_worse

    tables = never_worse.kept_tables([])
    for page in never_worse.PAGES:
        blocks = re.findall(r"<!-- (.*?) -->\n\n```text\n(.*?)\n```\n", page.read_text(), re.S)
        assert blocks
        for name, shown in blocks:
            assert shown == tables[name]


@once
def test_goals_are_missed_by_a_significant_regret_of_one_case():
    import _never_worse_report as report
    from _transfer_cases import weight_cases
    from _transfer_summary import Scores

    noise = np.array([-0.001, 0.0, 0.001])
    aucs = {"single": 0.95 + noise, "bottom": 0.90 + noise}
    cases = weight_cases("noise", [1.0, 10.0])
    found = {}
    for case, loss in zip(cases, (0, 0.01 + 0.1 * noise[::-1])):
        hedged = aucs["single"] - loss
        for kind, values in {**aucs, "hedged": hedged}.items():
            for seed, value in enumerate(values):
                found[case.name, kind, seed] = {"test": {"income_auc": value}}

    class Kept(dict):
        def __getitem__(self, fit):
            return super().__getitem__((fit.case.name, fit.kind, fit.seed))

        def __contains__(self, fit):
            return super().__contains__((fit.case.name, fit.kind, fit.seed))

    kept = Kept(found)
    fits = [small_fit(k, c, s) for c in cases for k in ("hedged", *aucs) for s in range(3)]
    scores = Scores(fits, kept)
    regrets = report.regrets(scores, "hedged")
    assert [regret.is_significant for regret in regrets] == [False, True]
    assert regrets[1].estimate.mean == pytest.approx(0.01)
    assert [r.case for r in report.significant_after_holm(regrets)] == [regrets[1].case]
    step = report.Step("all", [])
    table = report.goals(scores, [step] * 4, kept).splitlines()
    verdicts = {line.split("  ")[0]: re.findall(r"met|missed", line)[0] for line in table[1:]}
    assert verdicts["no regret significantly above 0, by case"] == "missed"
    assert verdicts["worst mean regret in AUC at most 0.002, by task"] == "missed"
    assert "income next to noise, weight 10" in table[1]


@once
def test_loss_weights_do_not_change_hedged_branches():
    from _transfer_cases import weight_cases

    first, second = (small_fit("hedged", case) for case in weight_cases("noise", [1.0, 100.0]))
    assert first.key == second.key
    assert first.run()["test"] == second.run()["test"]


@once
def test_other_mixtures_of_the_branches_are_kept_with_a_fit(tmp_path):
    from _transfer_cases import correlation_cases
    from _transfer_fits import Store, run

    case = correlation_cases()[0]
    store = Store([tmp_path / "fits.json"])
    run([small_fit("hedged", case)], store)
    kinds = ("hedged-equal", "hedged-shared", "hedged-own", "hedged-train", "hedged")
    found = [store[small_fit(kind, case)]["test"] for kind in kinds]
    errors = [test["task_2_mean_squared_error"] for test in found]
    assert np.isfinite(errors).all()
    equal, shared, own, *_ = errors
    assert abs(shared - own) > 0.01
    assert equal < (shared + own) / 2  # the squared error is convex
    weights = store[small_fit("hedged", case)]["hedge"]["task_2"]
    assert sum(weights.values()) == pytest.approx(1, abs=0.02)


@once
@pytest.mark.parametrize("kind", ["single-pair", "hedged-ple", "hedged-bottoms", "hedged-stopped"])
def test_networks_with_branches_have_about_as_many_parameters_as_a_shared_bottom(kind):
    from _transfer_cases import scarce_cases, weight_cases

    for case in (weight_cases("age", [1.0])[0], scarce_cases()[-1]):
        record, bottom = small_fit(kind, case).run(), small_fit("bottom", case).run()
        assert 0.95 < record["parameters"] / bottom["parameters"] < 1.1
        assert np.isfinite(record["validation"])


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="other backends compile each network")
@pytest.mark.parametrize("kind", ["hedged", "bottom"])
def test_a_network_that_is_compiled_already_is_trained_like_a_new_one(kind):
    import _compiled_networks
    from _transfer_cases import scarce_cases

    equal, unrelated = scarce_cases()[5], scarce_cases()[8]
    new = small_fit(kind, equal, seed=1).run()
    _compiled_networks._compiled.clear()
    small_fit(kind, unrelated, seed=0).run()
    again = small_fit(kind, equal, seed=1).run()
    assert len(_compiled_networks._compiled) == 1
    assert {**again, "seconds": 0} == {**new, "seconds": 0}

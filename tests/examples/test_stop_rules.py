"""The benchmarks of stops: the rules, the networks with smaller tables, and the pages."""

import json

import keras
import numpy as np
import pytest

import ple_keras as pk
from examples.benchmarks import never_worse, stop_rules
from examples.benchmarks._data import Dataset, Split
from examples.benchmarks._stop_cases import OF_TABLES, make_counts
from examples.benchmarks._stop_fits import Run, Snapshots, build_columns
from tests.helpers import once

pytestmark = [pytest.mark.nightly, once]


def run_with(errors, units):
    """Return a run with errors by task, branch and epoch, relative to that of a constant."""
    sign = np.tile([1.0, -1.0], 4)
    labels = {task: unit * sign for task, unit in units.items()}
    part = Split({}, labels)
    values = [
        {
            task: {b: [units[task] * sign * (1 - each[epoch])] * 2 for b, each in branches.items()}
            for task, branches in errors.items()
        }
        for epoch in range(3)
    ]
    return Run(Dataset(part, part, part), {}, values)


@pytest.mark.parametrize("unit", [0.01, 1, 100])
def test_each_branch_stops_at_its_best_epoch_whatever_the_unit_of_the_labels(unit):
    errors = {
        "rating": {"own": [0.5, 0.3, 0.4], "shared": [0.2, 0.4, 0.6]},
        "time": {"own": [0.4, 0.5, 0.3], "shared": [0.5, 0.3, 0.1]},
    }
    judge = stop_rules.Judge(run_with(errors, {"rating": 1, "time": unit}))
    expected = {"rating": {"own": 1, "shared": 1}, "time": {"own": 2, "shared": 1}}
    assert judge.choose("own best", 3) == expected
    assert judge.choose("own best", 1) == judge.choose("last epoch", 1) == judge.at(0)
    assert judge.choose("last epoch", 3) == judge.at(2)
    assert judge.choose("shared branch", 3) == {"rating": {"shared": 2}, "time": {"shared": 2}}
    np.testing.assert_allclose(judge.relative["time"]["own"], [0.16, 0.25, 0.09])


def test_the_rule_is_that_of_the_library():
    # Each branch improves, since `Run` lacks the weights before the first epoch.
    data = make_counts(2400, 0)
    model = build_columns("hedged", data, OF_TABLES, keras.optimizers.Adam(0.004))
    run = Run(data, {})
    validation = data.validation.inputs, data.validation.labels
    hedge = pk.FitHedge(validation)  # its tables belong to no branch, so it can't restore them
    x, y = data.train.inputs, data.train.labels
    options = {"epochs": 5, "callbacks": [Snapshots(run), hedge], "verbose": 0}
    with pytest.warns(UserWarning, match="No branch alone"):
        model.fit(x, y, batch_size=100, **options)
    judge = stop_rules.Judge(run)
    chosen = judge.choose("own best", 5)
    assert len({epoch for epochs in chosen.values() for epoch in epochs.values()}) > 1
    for (branch, tasks), kept in hedge.kept.items():
        assert all(chosen[task][branch] == kept.epoch for task in tasks)
        losses = [judge.relative[task][branch][kept.epoch] for task in tasks]
        assert sum(losses) == pytest.approx(kept.loss, rel=1e-5)


def test_the_page_shows_the_tables_of_the_kept_fits():
    records = json.loads(stop_rules.KEPT.read_text())
    tables = stop_rules.tables(records)
    shown = dict(never_worse.TABLE.findall(stop_rules.PAGE.read_text()))
    assert {"worst regrets", "films"} <= shown.keys()
    assert all(tables[name] == shown[name] for name in tables.keys() & shown.keys())

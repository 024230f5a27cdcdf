"""The benchmark on the retail log."""

import json

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("lightgbm")
pytest.importorskip("pyarrow")

from examples.benchmarks import retail
from examples.benchmarks.against_boosting import PAGES
from examples.benchmarks.never_worse import TABLE
from tests.helpers import once

pytestmark = once


def draw_tables():
    """Return tables with the columns of the package."""
    rng = np.random.default_rng(0)
    names = ["household_id", "product_id", "store_id", "week", "quantity"]
    log = pd.DataFrame(rng.integers(1, [41, 7, 4, 53, 5], (2000, 5)), columns=names)
    log["sales_value"] = log["quantity"] * rng.random(2000)
    log[["retail_disc", "coupon_disc"]] = rng.random((2000, 2)) < (0.5, 0.2)
    log["transaction_timestamp"] = retail.MONDAY + pd.to_timedelta(log["week"] * 7, "D")
    products = pd.DataFrame({"product_id": range(1, 8), "product_category": [*"AABBC", None, None]})
    products[["manufacturer_id", "product_type", "package_size", "brand", "department"]] = "x"
    plan = log[["product_id", "store_id", "week"]].assign(display_location="1", mailer_location="0")
    days = {"start_date": [retail.MONDAY], "end_date": [retail.MONDAY + pd.Timedelta("99D")]}
    return {
        "transactions": log,
        "products": products,
        "promotions": plan,
        "demographics": pd.DataFrame({"household_id": [1, 2], "age": ["19-24", "65+"]}),
        "campaign_descriptions": pd.DataFrame({"campaign_id": [1], **days}),
        "campaigns": pd.DataFrame({"campaign_id": [1, 1], "household_id": [1, 2]}),
        "coupons": pd.DataFrame({"campaign_id": [1], "product_id": [1], "coupon_upc": [5]}),
    }


def test_inputs_are_of_earlier_weeks_and_labels_of_the_week(monkeypatch):
    tables, frames = draw_tables(), []
    monkeypatch.setattr(retail, "SHARES", [1.0, 1.0])
    monkeypatch.setattr(retail, "read", tables.__getitem__)
    log, keys = tables["transactions"], ["household_id", "product_category", "week"]
    for last in (52, 20, 19):
        tables["transactions"] = log[log["week"] <= last]
        frame, rows = retail.load([(9, 16), (17, 20)])
        assert frame["week"].iloc[rows[1]].between(17, 20).all()
        frames.append(frame.set_index(keys).sort_index())
    whole, until, before = frames
    pd.testing.assert_frame_equal(whole, until)  # nothing is read of later weeks
    week = until.index.get_level_values("week")
    now = until.loc[week == 20].drop(columns=[*retail.TASKS])
    is_last = before.index.get_level_values("week") == 20
    pd.testing.assert_frame_equal(now, before.loc[is_last, now.columns])
    bought = log.merge(tables["products"].dropna(), on="product_id").groupby(keys)
    spent = bought["sales_value"].sum().reindex(until.index)
    np.testing.assert_allclose(until["spend"], spent, rtol=1e-5)
    np.testing.assert_array_equal(until["buy"], spent.notna())
    assert until["campaigns"].loc[[1, 2]].groupby("week").max().loc[[15, 16]].tolist() == [1, 0]


def test_the_pages_have_the_kept_tables():
    shown = dict(TABLE.findall("".join(page.read_text() for page in PAGES)))
    tables = retail.tables_of(json.loads(retail.KEPT.read_text()))
    assert all(shown[name] == tables[name] for name in ("scores", "retail"))


@pytest.mark.nightly
def test_a_small_run_is_kept_and_printed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(retail, "KEPT", tmp_path / "kept.json")
    monkeypatch.setattr(retail, "PREDICTIONS", tmp_path / "predictions")
    monkeypatch.setattr(retail, "SHARES", [1.0, 1.0, 1.0])
    monkeypatch.setattr(retail, "read", draw_tables().__getitem__)
    monkeypatch.setattr(retail.compare, "EPOCHS", 1)
    monkeypatch.setattr(retail.compare, "PATIENCE", 2)  # and the value before `--run` at the end
    retail.main(["--run"])
    kept = json.loads(retail.KEPT.read_text())
    assert {*kept["fits"]} == {"boosting", *retail.NETWORKS, *retail.MIXTURES}
    assert 0 < kept["fits"]["hedged"]["scores"]["buy"] < 1
    printed = capsys.readouterr().out
    monkeypatch.setattr(retail, "fit", None)  # trains nothing again
    retail.main(["--run"])
    assert json.loads(retail.KEPT.read_text()) == kept
    assert capsys.readouterr().out == printed
    assert "boosting + ple over boosting" in printed

"""The logs and MLflow get the figures of the callbacks on the monitoring page."""

import re

import keras
import numpy as np
import pytest

from tests.helpers import once
from tests.processes import ROOT

pytestmark = once

PAGE = (ROOT / "docs" / "monitoring.md").read_text()
FIGURES = {
    "loss",
    "click_loss",
    "labeled/time",
    "calibration/click",
    "gate/ple/0/click/entropy",
    "gate/ple/1/time/max",
}


@pytest.fixture(scope="module")
def page():
    """Return the names that the page's code defines."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    names = {}
    exec(block, names)
    return names


def test_the_logs_have_the_figures(page):
    logs = page["history"].history
    assert set(logs) >= FIGURES
    share = np.isfinite(page["y"]["time"]).mean()
    assert logs["labeled/time"] == pytest.approx([share])


def test_mlflow_has_the_figures(page, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database needs more packages
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    (log,) = re.findall(r"^log = .*?^\)$", PAGE, re.DOTALL | re.MULTILINE)
    names, x, y = {"keras": keras, "mlflow": mlflow}, page["x"], page["y"]
    exec(log, names)
    with mlflow.start_run() as run:
        callbacks = [page["pk"].GateWeightsLogger(), page["LogHealth"](x, y), names["log"]]
        logs = page["model"].fit(x, y, verbose=0, callbacks=callbacks).history
    stored = mlflow.get_run(run.info.run_id).data.metrics
    assert set(stored) == set(logs)
    assert stored == pytest.approx({key: values[-1] for key, values in logs.items()})

"""The callbacks on the monitoring page log their figures, and MLflow gets them."""

import re

import keras
import numpy as np
import pytest

import ple_keras
from tests.helpers import once
from tests.processes import ROOT

PAGE = (ROOT / "docs" / "inspection.md").read_text().partition("### In training")[2]
FIGURES = {"loss", "click_loss", "labeled/time", "calibration/click"}
FIGURES |= {"gate/ple/0/click/entropy", "gate/ple/1/time/max"}


@once
@pytest.mark.nightly
def test_the_logs_and_mlflow_have_the_figures(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database needs more packages
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (log,) = re.findall(r"^log = .*?^\)$", PAGE, re.DOTALL | re.MULTILINE)
    page = {"keras": keras, "mlflow": mlflow, "np": np, "pk": ple_keras}
    exec(f"{block}\n{log}", page)
    x, y = page["x"], page["y"]
    callbacks = [page["pk"].GateWeightsLogger(), page["LogHealth"](x, y), page["log"]]
    with mlflow.start_run() as run:
        logs = page["model"].fit(x, y, verbose=0, callbacks=callbacks).history
    assert set(logs) >= FIGURES
    assert logs["labeled/time"] == pytest.approx([np.isfinite(y["time"]).mean()])
    stored = mlflow.get_run(run.info.run_id).data.metrics
    assert stored == pytest.approx({key: values[-1] for key, values in logs.items()})

"""The benchmarks run; what they measure is no test's business."""

import keras
import pytest

from tests.test_examples import EXAMPLES


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="others compile for long")
def test_the_cost_of_features_is_measured(monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES / "benchmarks")
    import feature_cost

    seconds = feature_cost.measure(feature_cost.Case(2, (4,), 1, 3, 8), rounds=2)
    assert set(seconds) == set(feature_cost.VARIANTS)
    assert all(len(of_variant) == 2 for of_variant in seconds.values())
    assert "compiling: masked losses" in capsys.readouterr().out

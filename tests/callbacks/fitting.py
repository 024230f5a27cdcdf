"""Training with callbacks."""

from tests.models import clicks_and_times


def fit_validated(model, *callbacks, **kwargs):
    x, y = clicks_and_times()
    kwargs = {"validation_data": (x, y), "verbose": 0, **kwargs}
    return model.fit(x, y, callbacks=list(callbacks), **kwargs)

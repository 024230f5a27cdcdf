"""Serve a PLE over HTTP, in batches, with limits and metrics, and without Keras.

    pip install -e ".[torch,examples,export,serving]"
    KERAS_BACKEND=torch python examples/serving/train.py  # once, and again for a newer model
    python examples/serving/serve.py

    curl localhost:8000/predict --json '{"rows": [{"age": 40, "weeks_worked": 52,
        "wage_per_hour": 0, "capital_gains": 0, "dividends": 0, "employer_size": 6,
        "class_of_worker": "Private", "occupation": "Sales", "industry": "Retail trade",
        "education": "High school graduate", "citizenship": "Native- Born in the United States"}]}'

    POST /predict    predictions by task for 1 to 1000 rows; null for one that is not finite
    GET /health      {"status": "ok", "model": its version}, or 503
    GET /metrics     for Prometheus, see _service_metrics.py and alerts.yml

Every refusal has the form {"errors": [reasons]}: 422 for rows that do not fit, 413 for a body over
500 KB, 408 for a request that takes over 10 seconds to arrive, and 503 if too many rows wait or no
batch is computed.

Requests that arrive within two milliseconds, or while a batch is computed, share one call of ONNX
Runtime. The manifest of the folder is read every two seconds. If it has changed, the new model is
loaded while the old one serves. If it does not fit, the old one stays, and `model_is_newest` is 0.
"""

import argparse
import asyncio
import logging
import reprlib
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

try:
    import fastapi
    import numpy as np
    import prometheus_client as prometheus
    import pydantic
    import uvicorn
    from _batches import MAX_ROWS, Batcher
    from _limits import MAX_SECONDS, Limits, Protocol, refusal
    from _model_folder import CATEGORIES, MANIFEST, NUMBERS, TASKS, Model, version_of
    from _service_metrics import Metrics
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from typing_extensions import TypedDict
except ModuleNotFoundError as error:
    sys.exit(f'{error.name} is not installed. Run: pip install -e ".[export,serving]"')

MAX_KEYS = 50  # of an object: each superfluous key costs the time of an error message
MAX_CONNECTIONS = 500  # then requests are refused by uvicorn
MANIFEST_SECONDS = 2.0  # between two looks at the manifest

log = logging.getLogger("uvicorn.error")


# Requests


def check_keys(value):
    """Refuse an object with many keys before each of them is checked."""
    if isinstance(value, dict) and len(value) > MAX_KEYS:
        raise ValueError(f"at most {MAX_KEYS} keys are allowed, not {len(value)}")
    return value


Number = Annotated[float, pydantic.Field(ge=0, le=1e9, allow_inf_nan=False, strict=True)]
Row = TypedDict("Row", dict.fromkeys(NUMBERS, Number) | dict.fromkeys(CATEGORIES, str))
Row.__pydantic_config__ = pydantic.ConfigDict(extra="forbid")
Row = Annotated[Row, pydantic.BeforeValidator(check_keys)]


class Rows(pydantic.BaseModel, extra="forbid"):
    """A request. Columns that are missing, superfluous or not finite are refused."""

    rows: Annotated[
        list[Row], pydantic.Field(min_length=1, max_length=MAX_ROWS), pydantic.FailFast()
    ]

    _check_keys = pydantic.model_validator(mode="before")(check_keys)


def reason(error):
    """Return the place of an error, what is allowed, and the start of the value."""
    text = f"{place(error['loc'])}: {error['msg']}"
    is_value = error["type"] not in ("missing", "json_invalid")
    return f"{text}. Received: {reprlib.repr(error['input'])}" if is_value else text


def place(loc):
    """Return the place of an error, such as "rows[0].age", or "body" if it is no JSON."""
    _, *keys = loc
    if not keys or isinstance(keys[0], int):
        return "body"
    names = (f"[{key}]" if isinstance(key, int) else f".{key:.50}" for key in keys)
    return "".join(names).removeprefix(".")


# New models


async def watch(folder, batcher, metrics):
    """Replace the model when the manifest changes. Keep it if the new one does not fit."""
    problem = None
    while True:
        metrics.is_newest.set(problem is None)
        await asyncio.sleep(MANIFEST_SECONDS)
        before, problem = problem, None
        version = batcher.model.version
        try:
            if version_of((folder / MANIFEST).read_bytes()) != version:
                batcher.model = await asyncio.to_thread(Model, folder)
                log.info("Model %s replaces %s", batcher.model.version, version)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            if problem != before:
                log.error("The new model is refused, and %s stays. %s", version, problem)


# The app


def create_app(folder):
    """Return the service of a folder. It fails if the model does not fit."""
    model, metrics = Model(folder), Metrics()

    @asynccontextmanager
    async def lifespan(app):
        app.state.batcher = Batcher(model, metrics)
        watcher = asyncio.create_task(watch(folder, app.state.batcher, metrics))
        yield
        watcher.cancel()
        app.state.batcher.task.cancel()

    app = fastapi.FastAPI(title="Census", lifespan=lifespan)

    @app.post("/predict")
    async def predict(request: Rows):
        start = time.perf_counter()
        outputs = await app.state.batcher.predict(request.rows)
        metrics.seconds.observe(time.perf_counter() - start)
        predictions = {task: outputs[task][:, 0] for task in TASKS}
        return {k: np.where(np.isfinite(p), p, None).tolist() for k, p in predictions.items()}

    @app.get("/health")
    async def health():
        if problem := app.state.batcher.problem:
            raise HTTPException(503, problem)
        return {"status": "ok", "model": app.state.batcher.model.version}

    @app.get("/metrics")
    async def read_metrics():
        text = prometheus.generate_latest(metrics.registry)
        return fastapi.Response(text, media_type=prometheus.CONTENT_TYPE_LATEST)

    @app.exception_handler(RequestValidationError)
    async def refuse(request, error):
        return refusal(422, *map(reason, error.errors()))

    @app.exception_handler(HTTPException)
    async def explain(request, error):
        return refusal(error.status_code, error.detail, **(error.headers or {}))

    @app.exception_handler(Exception)
    async def apologize(request, error):
        return refusal(500, "the service failed")

    app.state.limited = Limits(app, metrics)
    return app


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("census_service"))
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for other machines")
    parser.add_argument("--port", type=int, default=8000, help="8000 by default")
    args = parser.parse_args()
    try:
        app = create_app(args.folder)
    except (KeyError, OSError, ValueError) as error:
        sys.exit(f"{args.folder} has no model to serve: {error}. train.py writes one.")
    uvicorn.run(
        app.state.limited,
        host=args.host,
        port=args.port,
        loop="asyncio",  # Protocol limits the reads of its transports, and uvloop's have no limit
        http=Protocol,
        ws="none",
        access_log=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=MAX_SECONDS,
    )


if __name__ == "__main__":
    main()

"""Serve a model of `Columns` over HTTP, in batches, with limits and metrics.

    pip install -e ".[torch,examples,export,serving]"
    KERAS_BACKEND=torch python examples/recommender.py  # writes the folder recommender
    python examples/serving/serve.py --folder recommender

    curl localhost:8000/predict --json '{"rows": [{"user": 196, "film": 242, "age": 49,
        "gender": "M", "occupation": "writer", "genres": ["Comedy"], "year": null}]}'

The folder, which `publish` in model_folder.py writes, defines the columns and the tasks.

    POST /predict    predictions by task for 1 to 1000 rows, null where they are not finite
    GET /health      {"status": "ok", "model": its version}, or 503
    GET /counts      values of columns and predictions by version, for `drift` in drift.py
    GET /metrics     for Prometheus (see _metrics.py and alerts.yml)

Ids can be unknown, and any value null that is not `required` in `Columns`. Numbers must lie in the
limits that `Columns` found. Every refusal has the form {"errors": [reasons]}: 422 for invalid rows,
413 for a body over 500 KB, 411 for one in chunks, 408 for one that takes over 10 seconds to arrive,
and 503 if too many rows or bodies are waiting or no batch is computed.

Requests that arrive within two milliseconds, or while a batch is computed, share one batch. The
service starts with the newest version that works. Every two seconds, it looks for a new version in
the folder, or for the mark of `rollback`, and loads it while the old one serves. A version whose
files differ from its manifest, whose model belongs to other columns, that fails, or that has
different columns or tasks, is refused: it is not loaded again, the old one stays, and
`model_is_newest` is 0.
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

sys.path.append(str(Path(__file__).parents[1]))  # the folder of the folder serving

import fastapi
import numpy as np
import prometheus_client as prometheus
import pydantic
import uvicorn
from fastapi.exceptions import RequestValidationError
from serving._batches import MAX_ROWS, Batcher
from serving._limits import MAX_SECONDS, Limits, Protocol, refusal
from serving._metrics import Metrics
from serving.drift import to_json
from serving.model_folder import Model, versions
from starlette.exceptions import HTTPException
from typing_extensions import TypedDict

Number = Annotated[float, pydantic.Field(ge=-1e30, le=1e30, allow_inf_nan=False)]
MAX_REASONS = 10  # of a refusal
VERSION_SECONDS = 2.0  # between checks for a new version

log = logging.getLogger("uvicorn.error")


# Requests


def row_types(columns):
    """Return the type of each column in a request."""
    kinds = {table: type(values[0]) for table, values in columns.known.items()}
    types = {name: kinds[name] for name in columns.ids} | dict.fromkeys(columns.numbers, float)
    types |= {name: list[kinds[table]] for name, (table, _) in columns.lists.items()}
    return types | dict.fromkeys(columns.texts, str)


def request_type(columns):
    """Return the type of a request, which refuses missing and additional columns."""
    types = {k: Number if kind is float else kind for k, kind in row_types(columns).items()}
    row = TypedDict("Row", {name: kind | None for name, kind in types.items()})
    row.__pydantic_config__ = pydantic.ConfigDict(extra="forbid", strict=True)
    rows = Annotated[
        list[row], pydantic.Field(min_length=1, max_length=MAX_ROWS), pydantic.FailFast()
    ]
    return pydantic.create_model("Request", rows=(rows, ...), __config__={"extra": "forbid"})


def reason(error):
    """Return the place of an error, the requirement, and the start of the value."""
    text = f"{place(error['loc'])}: {error['msg']}"
    is_value = error["type"] not in ("missing", "json_invalid")
    return f"{text}. Received: {reprlib.repr(error['input'])}" if is_value else text


def place(loc):
    """Return the place of an error, such as "rows[0].age", or "body" if it is not JSON."""
    _, *keys = loc
    if not keys or isinstance(keys[0], int):
        return "body"
    names = (f"[{key}]" if isinstance(key, int) else f".{key:.50}" for key in keys)
    return "".join(names).removeprefix(".")


# New models


async def watch(folder, refused, batcher, metrics):
    """Replace the model if a new version works, or if its own was rolled back or deleted."""
    problem = None
    while True:
        metrics.is_newest.set(not problem and max(refused, default="") < batcher.model.version)
        await asyncio.sleep(VERSION_SECONDS)
        before, problem = problem, None
        try:
            model = await asyncio.to_thread(newest_model, folder, refused, batcher.model)
        except Exception as error:  # of the file system
            problem = f"{type(error).__name__}: {error}"
            if problem != before:
                log.error("The service keeps its model. %s", problem)
            continue
        if model is not batcher.model:
            batcher.model = model
            log.info("The model is now %s", model.version)


def newest_model(folder, refused, old=None):
    """Return the newest model that works, or the old one if none is newer.

    Args:
        refused: A set of names of versions that were refused. They are not loaded again. Names are
            added, and removed if the version was deleted.
        old: The model that serves. A new one must have its columns and tasks.
    """
    found = versions(folder)
    refused.intersection_update([version.name for version in found])
    for version in found:
        if old and version.name == old.version:
            return old
        if version.name in refused:
            continue
        try:
            new = Model(version)
            if old:
                check_replacement(new, old)
            return new
        except Exception as error:  # of the file system, JSON, ONNX Runtime or Keras
            refused.add(version.name)
            log.error("%s is refused. %s: %s", version, type(error).__name__, error)
    if old and found:
        return old
    raise ValueError(f"{folder} must contain a version of a model that works, written by publish")


def check_replacement(new, old):
    """Check that a new model has the columns and the tasks of the old one."""
    for name, of_old, of_new in (
        ("columns", row_types(old.columns), row_types(new.columns)),
        ("widths of the tasks", old.widths, new.widths),
    ):
        if of_new != of_old:
            raise ValueError(f"The {name} must be {of_old}. Received: {of_new}")


# The app


def create_app(folder):
    """Return the service of a folder, or raise an error if none of its models works."""
    refused = set()
    model = newest_model(folder, refused)
    metrics, request_model = Metrics(model), request_type(model.columns)

    @asynccontextmanager
    async def lifespan(app):
        app.state.batcher = Batcher(model, metrics)
        watcher = asyncio.create_task(watch(folder, refused, app.state.batcher, metrics))
        yield
        watcher.cancel()
        app.state.batcher.task.cancel()

    app = fastapi.FastAPI(title="Predictions", lifespan=lifespan)

    @app.post("/predict")
    async def predict(request: request_model):
        start = time.perf_counter()
        if reasons := app.state.batcher.model.columns.refusals(request.rows):
            return refusal(422, *reasons[:MAX_REASONS])
        outputs = await app.state.batcher.predict(request.rows)
        metrics.seconds.observe(time.perf_counter() - start)
        answer = {}
        for task, width in model.widths.items():
            values = outputs[task][:, 0] if width == 1 else outputs[task]
            answer[task] = np.where(np.isfinite(values), values, None).tolist()
        return answer

    @app.get("/health")
    async def health():
        if problem := app.state.batcher.problem:
            raise HTTPException(503, problem)
        return {"status": "ok", "model": app.state.batcher.model.version}

    @app.get("/counts")
    async def read_counts():
        counts = {version: each.copy() for version, each in [*metrics.counts.items()]}
        return fastapi.Response(to_json(counts), media_type="application/json")

    @app.get("/metrics")
    async def read_metrics():
        text = prometheus.generate_latest(metrics.registry)
        return fastapi.Response(text, media_type=prometheus.CONTENT_TYPE_LATEST)

    @app.exception_handler(RequestValidationError)
    async def refuse(request, error):
        return refusal(422, *map(reason, error.errors()[:MAX_REASONS]))

    @app.exception_handler(HTTPException)
    async def explain(request, error):
        return refusal(error.status_code, error.detail, **(error.headers or {}))

    @app.exception_handler(Exception)
    async def report_failure(request, error):
        return refusal(500, "the service failed")

    app.state.limited = Limits(app, metrics)
    return app


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="written by `publish`")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 accepts other machines")
    parser.add_argument("--port", type=int, default=8000, help="8000 by default")
    args = parser.parse_args()
    try:
        app = create_app(args.folder)
    except Exception as error:
        sys.exit(f"{args.folder} has no model to serve. {type(error).__name__}: {error}")
    uvicorn.run(
        app.state.limited,
        host=args.host,
        port=args.port,
        loop="asyncio",  # Protocol limits the reads of its transports, and uvloop's have no limit
        http=Protocol,
        ws="none",
        access_log=False,
        timeout_graceful_shutdown=MAX_SECONDS,
    )


if __name__ == "__main__":
    main()

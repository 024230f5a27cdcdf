"""The HTTP service of examples/serving: answers, refusals, limits, counts, and new models."""

import asyncio
import contextlib
import functools
import importlib
import json
import math
import os
import re
import shutil
import threading
import time

import keras
import numpy as np
import pandas as pd
import pytest

import ple_keras as pk
from ple_keras.heads.task_heads import hedged_heads
from tests.helpers import once
from tests.processes import EXAMPLES, run_example

pytestmark = once

for package in ("fastapi", "onnx", "onnxruntime", "prometheus_client", "uvicorn"):
    pytest.importorskip(package)
_batches, _limits, _metrics, model_folder, serve = (
    importlib.import_module(f"serving.{name}")
    for name in ("_batches", "_limits", "_metrics", "model_folder", "serve")
)

TASKS = "click", "minus_age"
FRAME = pd.DataFrame(  # ages are scaled by a mean and a deviation of 1
    {"job": ["Clerk", "Cook"], "town": ["Oslo", "Rome"], "age": [0, 2], "tags": [["x"], ["y"]]}
)
ROW = {"job": "Clerk", "town": "Oslo", "age": 2, "tags": ["x"]}
GATE = "gate/ple/0/click"


def columns_of(frame=FRAME, ids=("job", "town")):
    lists = {"tags": ("tags", 2)}
    return pk.Columns(ids, ["age"], lists, required=ids[-1:]).fit(frame, min_rows=1)


def onnx_model(predictions=(math.nan, 0.5, 0.25, 0.75), tasks=TASKS, batch="b", digest=""):
    """Return the bytes of a model whose first task depends on the job, by code.

    The other task is minus the scaled age. The last code of the jobs is 3.
    """
    from onnx import TensorProto, helper, numpy_helper

    float_ = TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("age", float_, [batch])]
    for name, shape in {"job": [batch], "town": [batch], "tags": [batch, 2]}.items():
        inputs.append(helper.make_tensor_value_info(name, TensorProto.INT32, shape))
    shapes = dict.fromkeys(tasks, 1) | {GATE: 2}
    outputs = [helper.make_tensor_value_info(n, float_, [batch, k]) for n, k in shapes.items()]
    tables = {
        "table": np.array(predictions, "float32")[:, None],
        "weights": np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]], "float32"),
    }
    constants = [numpy_helper.from_array(array, name) for name, array in tables.items()]
    constants.append(numpy_helper.from_array(np.array([1]), "axis"))
    nodes = [
        helper.make_node("Gather", ["table", "job"], [tasks[0]]),
        helper.make_node("Gather", ["weights", "job"], [GATE]),
        helper.make_node("Unsqueeze", ["age", "axis"], ["column"]),
        helper.make_node("Neg", ["column"], [tasks[1]]),
    ]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    model.metadata_props.add(key="columns_digest", value=digest)
    return model.SerializeToString()


def write(folder, number, model=None, columns=None):
    """Write a version, as `publish` does."""
    part = folder.parent / "part"
    part.mkdir()
    (part / "model.onnx").write_bytes(model or onnx_model())
    (columns or columns_of()).save(part / "columns.json")
    hashes = {path.name: model_folder.sha256(path) for path in part.iterdir()}
    manifest = {"number": number, "packed": False, "names": {}}
    manifest["sha256"] = hashes
    (part / "manifest.json").write_text(json.dumps(manifest))
    return part.rename(folder / f"{number:08}")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "service"
    folder.mkdir()
    write(folder, 1)
    return folder


@pytest.fixture
def app(folder):
    return serve.create_app(folder)


@contextlib.asynccontextmanager
async def serving(app):
    async with asyncio.timeout(20), app.router.lifespan_context(app):
        yield app


def while_serving(test):
    """Make a test of a coroutine function of `app`, which serves, and of other fixtures."""

    @functools.wraps(test)
    def run(app, **fixtures):
        async def serve_and_test():
            async with serving(app):
                await test(app, **fixtures)

        asyncio.run(serve_and_test())

    return run


async def send(app, method, path, chunks=(b"",), length=None, ends="complete"):
    """Send a request. Return the status, the headers and the text, or None without an answer."""
    parts = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if ends == "complete":
        parts[-1]["more_body"] = False
    elif ends == "gone":
        parts.append({"type": "http.disconnect"})
    waiting, sent = iter(parts), []

    async def receive():
        return next(waiting, None) or await asyncio.Event().wait()

    async def keep(message):
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    headers += [(b"content-length", str(length).encode())] if length is not None else []
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": ""}
    await app.state.limited(scope, receive, keep)
    if not sent:
        return None
    text = b"".join(message.get("body", b"") for message in sent[1:]).decode()
    return sent[0]["status"], dict(sent[0]["headers"]), text


async def predict(app, *rows):
    """Return the status and the answer of a request of rows."""
    status, _, text = await send(app, "POST", "/predict", [json.dumps({"rows": rows}).encode()])
    return status, json.loads(text)


async def metrics(app):
    """Return the values of /metrics, after the counts of all batches."""
    await asyncio.get_running_loop().run_in_executor(app.state.batcher._thread, int)
    _, _, text = await send(app, "GET", "/metrics")
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#"]
    return {name: float(value) for name, value in lines}


async def health(app):
    status, _, text = await send(app, "GET", "/health")
    return status, json.loads(text)


def with_column(name, value):
    return json.dumps({"rows": [ROW | {name: value}]})


@while_serving
async def test_requests_are_answered_and_counted(app):
    rows = [ROW | {"job": "Astronaut"}, ROW | {"age": 4, "tags": []}]
    answers = await asyncio.gather(predict(app, *rows), predict(app, ROW, ROW | {"job": None}))
    assert answers[0] == (200, {"click": [0.5, 0.25], "minus_age": [-1.0, -3.0]})
    assert answers[1] == (200, {"click": [0.25, None], "minus_age": [-1.0, -1.0]})
    found = await metrics(app)
    assert found['rows_total{model="00000001"}'] == 4
    assert found['requests_total{status="200"}'] == 2
    assert found['column_rows_total{column="job",model="00000001",values="unknown"}'] == 1
    assert found['column_rows_total{column="town",model="00000001",values="unknown"}'] == 0
    assert found['prediction_sum_total{model="00000001",sign="positive",task="click"}'] == 1
    assert found['prediction_sum_total{model="00000001",sign="negative",task="minus_age"}'] == 6
    assert found['predictions_not_finite_total{task="click"}'] == 1
    assert found['predictions_total{model="00000001",task="click"}'] == 3
    (gate,) = [v for k, v in found.items() if re.match(r'gate_weight_sum_total.*expert="0"', k)]
    assert gate == pytest.approx(0.9 + 0.2 + 0.2 + 0.5)
    _, _, text = await send(app, "GET", "/counts")
    counts = json.loads(text)["00000001"]
    assert (counts["rows"], counts["job, unknown"], counts["tags, missing"]) == (4, 1, 1)
    assert counts["click, prediction"][:2] == [3, 1.0]  # three predictions with a sum of 1


BODIES = {
    "no JSON": ("rows", 422, "body: JSON decode error"),
    "too deep": ('{"rows": ' + "[" * 10_000, 400, "error parsing the body"),
    "no rows": ('{"rows": []}', 422, "rows: List should have at least 1 item"),
    "too many rows": (json.dumps({"rows": [ROW] * 1001}), 422, "rows: .* at most 1000 items"),
    "an empty row": ('{"rows": [{}]}', 422, r"rows\[0\]\.job: Field required"),
    "a misspelt column": (with_column("größe", 1), 422, r"rows\[0\]\.größe: Extra inputs"),
    "a word": (with_column("age", "forty"), 422, r"\.age: .*valid number. Received: 'forty'"),
    "NaN": (with_column("age", math.nan), 422, r"\.age: .*finite number. Received: nan"),
    "a large number": (with_column("age", 1e39), 422, r"\.age: .*less than or equal to 10{30}"),
    "a far number": (with_column("age", 5), 422, r"\[0\]\.age: .* between -2 and 4. Received: 5"),
    "null": (with_column("town", None), 422, r"rows\[0\]\.town: a value is required"),
    "a number in a list": (with_column("tags", ["x", 3]), 422, r"\.tags\[1\]: .*valid string"),
}  # fmt: skip


@while_serving
async def test_refusals_have_one_form_and_the_reason(app):
    for name, (body, expected, reason) in BODIES.items():
        chunk = body if isinstance(body, bytes) else body.encode()
        status, _, text = await send(app, "POST", "/predict", [chunk])
        assert status == expected, name
        assert list(json.loads(text)) == ["errors"], name
        assert re.search(reason, text), (name, text)
    for method, path, expected in (
        ("GET", "/predict", 405),
        ("POST", "/health", 405),
        ("GET", "/nothing", 404),
    ):
        status, _, text = await send(app, method, path)
        assert (status, list(json.loads(text))) == (expected, ["errors"])
    status, answer = await predict(app, ROW | dict.fromkeys(map(str, range(10_000)), 1))
    assert (status, len(answer["errors"])) == (422, 10)  # few of many reasons
    assert (await predict(app, ROW))[0] == 200


@while_serving
async def test_large_bodies_are_refused_before_they_are_read(app):
    status, headers, text = await send(app, "POST", "/predict", length=10**8, ends="gone")
    assert (status, text) == (413, '{"errors":["body: at most 500000 bytes are allowed"]}')
    assert headers[b"connection"] == b"close"
    chunks = [bytes(100_000) for _ in range(500)]
    status, _, _ = await send(app, "POST", "/predict", chunks, length=5 * 10**7)
    assert status == 413
    assert (await metrics(app))['requests_total{status="413"}'] == 2


@while_serving
async def test_health_tells_that_no_batch_is_computed(app, monkeypatch):
    assert (await health(app))[1]["status"] == "ok"
    end = threading.Event()
    monkeypatch.setattr(app.state.batcher.model, "predict", lambda rows: end.wait())
    monkeypatch.setattr(_batches, "MAX_SECONDS", 0.01)
    late = {"errors": ["no prediction within 0.01 seconds"]}
    assert await predict(app, ROW) == (503, late)
    hangs = 503, {"errors": ["a batch takes over 0.01 seconds"]}
    while await health(app) != hangs:
        await asyncio.sleep(0)
    assert await predict(app, ROW) == hangs
    end.set()

    app.state.batcher.task.cancel()
    ended = 503, {"errors": ["the task that runs the batches has ended"]}
    while await health(app) != ended:
        await asyncio.sleep(0)
    assert await predict(app, ROW) == ended


# Models and columns of versions that are refused.
OTHER = columns_of(FRAME.assign(job=["Judge", "Nurse"]))  # as many values
DAMAGES = {
    "a model of other columns": ({"model": onnx_model(digest=OTHER.digest)}, "digests differ"),
    "a model of unknown columns": (
        {"model": onnx_model().replace(b"columns_digest", b"columns-digest")}, "None of model.onnx",
    ),
    "an encoding without a column": ({"columns": columns_of(ids=["job"])}, "town"),
    "an encoding of another model": (
        {"columns": columns_of(pd.concat([FRAME, FRAME.assign(job=["Judge", "Nurse"])]))},
        "out of data bounds",
    ),
    "predictions that are not finite": (
        {"model": onnx_model((0.5, 0.5, 0.5, math.inf))}, "click must be finite",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_model_that_does_not_fit_is_refused(folder, damage):
    parts, message = DAMAGES[damage]
    with pytest.raises(Exception, match=f"(?si){message}"):
        model_folder.Model(write(folder, 2, **parts))


QUARTER, HALF = (np.float32(x).tobytes() for x in (0.25, 0.5))
CHANGES = {  # of a version, after it was published
    "flipped bits": lambda v: (v / "model.onnx").write_bytes(onnx_model().replace(QUARTER, HALF)),
    "a model of another day": lambda v: (v / "model.onnx").write_bytes(onnx_model(digest="-")),
    "columns of another day": lambda v: OTHER.save(v / "columns.json"),
    "a lost file": lambda v: (v / "columns.json").unlink(),
    "another number": lambda v: v.rename(v.with_name("00000009")),
    "no manifest": lambda v: (v / "manifest.json").unlink(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_version_that_was_changed_is_refused(folder, caplog, name):
    CHANGES[name](write(folder, 2))
    assert serve.newest_model(folder, set()).version == "00000001"
    assert re.search("is refused. .*(files of its manifest|No such file)", caplog.text)


@while_serving
async def test_a_new_model_replaces_the_old_one_and_a_wrong_one_does_not(app, folder, monkeypatch):
    monkeypatch.setattr(serve, "VERSION_SECONDS", 0.001)
    (folder / "lost+found").mkdir()
    answers = []

    async def wait_for(number, newest=1):
        """Send requests until the service has the state."""
        while True:
            answers.append(await predict(app, ROW))
            version = (await health(app))[1]["model"]
            if (int(version), (await metrics(app))["model_is_newest"]) == (number, newest):
                return

    await wait_for(1)
    for tasks, ids in ((TASKS, ["town", "job"]), (("click", "other"), ["job", "town"])):
        frame = FRAME.assign(town=[7, 8]) if tasks == TASKS else FRAME
        wrong = write(folder, 2, onnx_model(tasks=tasks), columns_of(frame, ids))
        await wait_for(1, newest=0)
        shutil.rmtree(wrong)
        await wait_for(1)
    write(folder, 3, onnx_model((0.5, 0.5, 0.125, 0.5)))
    await wait_for(3)
    assert (await predict(app, ROW))[1]["click"] == [0.125]
    async with asyncio.timeout(10):  # a batch is counted after its answer
        while any('model="00000001"' in key for key in await metrics(app)):
            await predict(app, ROW)
    assert {*json.loads((await send(app, "GET", "/counts"))[2])} == {"00000001", "00000003"}
    model_folder.rollback(folder)
    await wait_for(1)
    assert (await predict(app, ROW))[1]["click"] == [0.25]
    shutil.copytree(folder / "00000003", folder / "20990101-000000")  # not a number
    write(folder, 4, onnx_model((0.5, 0.5, 0.5, 0.5)))
    await wait_for(4)
    assert {status for status, _ in answers} == {200}


def hedged_model(columns, heads, packed=False):
    network = columns.network(embedding_dim=4, packed=packed)
    features = pk.StreamFeatures(heads, network)(network.input)
    return pk.MultiTaskModel(network.input, heads(pk.HedgedBlock(heads, [8])(features)))


@pytest.mark.parametrize("packed", [False, True])
def test_a_published_model_answers_as_it_predicts(tmp_path, packed):
    """A hedged model with a history, whose request has an unknown id and missing values."""
    heads = pk.TaskHeads([pk.BinaryHead("click"), pk.MulticlassHead("kind", num_classes=3)])
    lists, texts = {"tags": ("tags", 2)}, {"town": ("words", 2)}
    columns = pk.Columns(["job"], lists=lists, texts=texts, logs=["age"]).fit(FRAME, min_rows=1)
    model = hedged_model(columns, heads, packed)
    hedged_heads(heads)["click"].mixture.assign([0.1, 0.9])
    rows = [ROW, ROW | {"job": "Astronaut", "town": "OSLO (Rome)", "age": None, "tags": None}]
    expected = model.predict(columns.transform(rows, packed), verbose=0)

    async def run():
        async with serving(serve.create_app(tmp_path / "service")) as app:
            status, answer = await predict(app, *rows)
            assert status == 200
            np.testing.assert_allclose(answer["click"], expected["click"][:, 0], atol=1e-6)
            np.testing.assert_allclose(answer["kind"], expected["kind"], atol=1e-6)

    version = model_folder.publish(tmp_path / "service", model, columns)
    x, _ = model_folder.Model(version).predict(rows)
    np.testing.assert_equal(x, columns.transform(rows))  # of which counts are by column
    asyncio.run(run())


def test_a_model_and_columns_of_different_trainings_are_refused(tmp_path):
    columns, other = (pk.Columns(["job"]).fit(FRAME.assign(job=j), 1) for j in ("ab", "cd"))
    model = hedged_model(columns, pk.TaskHeads([pk.BinaryHead("click")]))
    network = columns.network(embedding_dim=4)
    hour = keras.Input((), name="hour")
    features = keras.ops.concatenate([network.output, hour[:, None]], axis=-1)
    inputs, click = network.input | {"hour": hour}, keras.layers.Dense(1)(features)
    for each, of_day, reason in (
        (model, other, f"{other.digest}.*{columns.digest}"),
        (keras.Model(inputs, {"click": click}), columns, "hour"),
    ):
        with pytest.raises(ValueError, match=reason):
            model_folder.publish(tmp_path, each, of_day)
    assert not [*tmp_path.iterdir()]


def test_a_model_of_a_frame_answers_with_the_names_of_its_columns(tmp_path):
    frame = pd.concat([FRAME] * 20).rename(columns={"job": "the job"}).assign(tags="x")
    frame["next click"] = frame["age"] > 1
    model = pk.TabularModel({"next click": "binary"}, units=[2], seed=0)
    model.fit(frame, epochs=1, verbose=0)
    version = model_folder.publish(tmp_path, model)
    rows = [{"the job": "Cook", "town": None, "age": 1, "tags": "x"}]
    x, found = model_folder.Model(version).predict(rows)
    expected = model.predict(rows)[0]["next click"]
    np.testing.assert_allclose(found["next click"], [[expected]], atol=1e-6)
    assert {*x} == {"the job", "town", "age", "tags"}


def test_versions_have_increasing_numbers_and_can_be_rolled_back_and_removed(tmp_path):
    columns = pk.Columns(numbers=["age"]).fit(FRAME)
    network = columns.network()
    model = keras.Model(network.input, {"click": network.output})
    for _ in range(3):
        model_folder.publish(tmp_path, model, columns)
    assert model_folder.rollback(tmp_path).name == "00000002"
    assert model_folder.publish(tmp_path, model, columns).name == "00000004"
    assert [path.name[-1] for path in model_folder.versions(tmp_path)] == [*"421"]
    model_folder.prune(tmp_path, keep=2)
    assert {path.name[-1] for path in tmp_path.iterdir()} == {*"234"}
    model_folder.rollback(tmp_path)
    with pytest.raises(ValueError, match=r"a version to go back to. Received: \['00000002'\]"):
        model_folder.rollback(tmp_path)
    with pytest.raises(ValueError, match="keep must be at least 1"):
        model_folder.prune(tmp_path, keep=0)


@while_serving
async def test_alerts_use_the_names_of_metrics(app):
    rules = (EXAMPLES / "serving" / "alerts.yml").read_text()
    used = set(re.findall(r"\b(\w+_total|model_is_newest)\b", rules))
    await predict(app, ROW)
    exposed = {name.partition("{")[0] for name in await metrics(app)}
    assert len(used) > 5
    assert used <= exposed


@pytest.mark.nightly
def test_the_server_under_load_and_attacks(folder, tmp_path):
    options = ("--folder", str(folder), "--seconds", "1", "--clients", "2")
    out = run_example("serving/load_test.py", *options, cwd=tmp_path)
    for attack in ("50 MB +413", "one byte +411", "half-sent bodies +408"):
        assert re.search(rf"{attack} .* none$", out, re.M)


def test_a_model_that_fails_to_export_is_published_as_a_keras_file(tmp_path, capsys, monkeypatch):
    columns = pk.Columns(numbers=["age"]).fit(FRAME)
    model = hedged_model(columns, pk.TaskHeads([pk.BinaryHead("click")]))

    def fail(*args):
        raise RuntimeError("The exporter or ONNX Runtime failed")

    monkeypatch.setattr(pk, "export_onnx", fail)
    version = model_folder.publish(tmp_path, model, columns)
    message = "has no ONNX file, so the service needs Keras. The exporter or ONNX Runtime failed"
    assert message in capsys.readouterr().out
    assert not (version / "model.onnx").exists()
    rows = [{"age": 1}, {"age": None}]
    expected = model.predict_on_batch(columns.transform(rows))["click"]
    np.testing.assert_allclose(model_folder.Model(version).predict(rows)[1]["click"], expected)


def test_a_failed_publication_leaves_no_version_and_old_parts_are_removed(folder, monkeypatch):
    for name, age in ((".part-old", 25 * 3600), (".part-new", 0)):
        (folder / name).mkdir()
        os.utime(folder / name, (time.time() - age,) * 2)
    columns = columns_of()
    monkeypatch.setattr(pk, "export_onnx", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model_folder.publish(folder, columns.network(), columns)
    assert {path.name for path in folder.iterdir()} == {"00000001", ".part-new"}

"""Load serve.py, attack it, and replace its model under load.

    pip install -e ".[torch,examples,export,serving]"
    KERAS_BACKEND=torch python examples/serving/load_test.py

Takes four minutes on two cores. Trains a model with train.py, if the folder `census_service` has
none, starts serve.py, and prints:

- the answers to bad requests and to a good one
- requests per second, latencies and errors of four clients in a minute, and the server's memory
- the latencies of two clients with pauses, without an attack and during attacks: bodies of 50 MB,
  300 half-sent bodies, and clients that vanish
- the answers while the model is replaced every three seconds, and while a model that does not fit
  is offered
- some lines of /metrics

The replaced models differ in their encoding: each second one does not know the class of worker
"Private".
"""

import argparse
import http.client
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import numpy as np
    import psutil
    from _model_folder import COLUMNS, MANIFEST, MODEL, path_of, publish
except ModuleNotFoundError as error:
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    extras = f"{backend},examples,export,serving"
    sys.exit(f'{error.name} is not installed. Run: pip install -e ".[{extras}]"')

HERE = Path(__file__).parent
GOOD = {"age": 40, "weeks_worked": 52, "wage_per_hour": 0, "capital_gains": 0}
GOOD |= {"dividends": 0, "employer_size": 6, "class_of_worker": "Private", "occupation": "Sales"}
GOOD |= {"industry": "Retail trade", "education": "High school graduate"}
GOOD |= {"citizenship": "Native- Born in the United States"}
BODY = json.dumps({"rows": [GOOD]})
BAD = {
    "no JSON": "rows",
    "no rows": json.dumps({"rows": []}),
    "a missing column": json.dumps({"rows": [{k: v for k, v in GOOD.items() if k != "age"}]}),
    "a word for a number": json.dumps({"rows": [GOOD, GOOD | {"age": "forty"}]}),
    "NaN and a misspelt column": json.dumps({"rows": [GOOD | {"age": math.nan, "ages": 1}]}),
    "not UTF-8": b'{"rows": "\xff"}',
    "over 500 KB": " " * 600_000,
}
HEAD = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


# Clients


def post(connection, body=BODY):
    """Return the status and the answer of /predict."""
    connection.request("POST", "/predict", body, {"content-type": "application/json"})
    response = connection.getresponse()
    return response.status, response.read().decode()


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    return connection.getresponse().read().decode()


@contextmanager
def clients(port, count, pause=0.0):
    """Send requests of one row until the context ends.

    Yields:
        Lists that are complete then: milliseconds of good answers, and all answers.
    """
    end, times, answers = threading.Event(), [], []

    def send():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while not end.is_set():
            start = time.perf_counter()
            try:
                answers.append(post(connection))
                times.append(1000 * (time.perf_counter() - start))
            except OSError as error:
                answers.append((type(error).__name__, ""))
                connection.close()
            time.sleep(pause)

    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(send) for _ in range(count)]
        try:
            yield times, answers
        finally:
            end.set()
    for future in futures:
        future.result()


def errors(answers):
    """Return the errors among answers, by kind."""
    return dict(Counter(status for status, _ in answers if status != 200)) or "none"


# Attacks


def send_large(port, is_chunked):
    """Send a body of 50 MB, and return the status."""
    piece = b" " * 2**16
    length = b"transfer-encoding: chunked" if is_chunked else b"content-length: 50003968"
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(HEAD + length + b"\r\n\r\n")
        for _ in range(763):
            client.sendall(b"10000\r\n%b\r\n" % piece if is_chunked else piece)
        client.sendall(b"0\r\n\r\n" if is_chunked else b"")
        return client.recv(12).decode()[-3:]


def send_halves(port):
    """Send half of 300 bodies, and return the status of the first."""
    halves = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
    for client in halves:
        client.sendall(HEAD + b"content-length: 1000\r\n\r\n{")
    closed = [client.recv(1000).decode()[9:12] for client in halves]
    return closed[0]


def vanish(port):
    """Leave 300 times before the body is sent."""
    for _ in range(300):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(HEAD + b"content-length: 1000\r\n\r\n{")
    return "none"


ATTACKS = {
    "none": lambda port: time.sleep(3) or "none",
    "50 MB, length declared": lambda port: send_large(port, is_chunked=False),
    "50 MB in chunks": lambda port: send_large(port, is_chunked=True),
    "300 half-sent bodies": send_halves,
    "300 clients that vanish": vanish,
}


def show_attacks(port):
    print("attack                     answer  p50 ms  p99 ms  errors")
    for name, attack in ATTACKS.items():
        with clients(port, 2, pause=0.01) as (times, answers):
            time.sleep(0.5)
            times.clear()
            status = attack(port)
            time.sleep(0.5)
        p50, p99 = np.percentile(times, (50, 99))
        print(f"{name:26} {status:6} {p50:7.1f} {p99:7.1f}  {errors(answers)}")


# New models


def read_published(folder):
    """Return the model and the known categories of a folder."""
    hashes = json.loads((folder / MANIFEST).read_text())
    model, columns = (path_of(folder, name, hashes[name]) for name in (MODEL, COLUMNS))
    return model.read_bytes(), json.loads(columns.read_text())


def replace_model(folder, times):
    """Publish a model with another encoding, and the first one again, and so on."""
    model, known = read_published(folder)
    fewer = [value for value in known["class_of_worker"] if value != "Private"]
    for k in range(times):
        publish(folder, model, known | {"class_of_worker": fewer} if k % 2 == 0 else known)
        time.sleep(3)


def offer_wrong_model(folder):
    """Publish an encoding without a column, and the old manifest after a while."""
    manifest = (folder / MANIFEST).read_bytes()
    model, known = read_published(folder)
    publish(folder, model, {name: each for name, each in known.items() if name != "industry"})
    time.sleep(3)
    (folder / MANIFEST).write_bytes(manifest)


def show_replacement(port, folder, name, change, *args):
    before = json.loads(get(port, "/health"))["model"]
    with clients(port, 4) as (_, answers):
        change(folder, *args)
    after = json.loads(get(port, "/health"))["model"]
    distinct = len({answer for status, answer in answers if status == 200})
    same = "the same" if after == before else "another"
    print(f"{name}: {len(answers)} requests, errors {errors(answers)}, ", end="")
    print(f"{distinct} distinct answers, {same} model serves")


# The test


@contextmanager
def server(folder):
    """Start serve.py. Yields its port and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, HERE / "serve.py", "--folder", folder, "--port", str(port)]
    process = subprocess.Popen(command)
    try:
        for _ in range(600):
            if process.poll() is not None:
                sys.exit(f"The server ended with {process.returncode}")
            with suppress(OSError):
                get(port, "/health")
                break
            time.sleep(0.1)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def show_load(port, process, seconds, count):
    with clients(port, count) as (times, answers):
        time.sleep(seconds)
    p50, p99 = np.percentile(times, (50, 99))
    print(f"{count} clients, {seconds} s, one row per request")
    print(f"  {len(times) / seconds:.0f} requests per second")
    print(f"  p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    print(f"  errors: {errors(answers)}")
    print(f"  memory of the server: {process.memory_info().rss / 1e6:.0f} MB\n")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("census_service"))
    parser.add_argument("--rows", help="number of rows to train on; all")
    parser.add_argument("--epochs", default="2", help="2 by default")
    parser.add_argument("--seconds", type=int, default=60, help="of the load; 60 by default")
    parser.add_argument("--clients", type=int, default=4, help="4 by default")
    args = parser.parse_args()
    if not (args.folder / MANIFEST).exists():
        options = ["--folder", args.folder, "--epochs", args.epochs]
        options += ["--rows", args.rows] if args.rows else []
        subprocess.run([sys.executable, HERE / "train.py", *options], check=True)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(shutil.copytree(args.folder, Path(temporary, "served")))
        with server(folder) as (port, process):
            print("answers to bad requests:")
            for name, body in BAD.items():
                connection = http.client.HTTPConnection("127.0.0.1", port)
                print(f"  {name}: {' '.join(map(str, post(connection, body)))}")
            print(f"answer to a good request: {post(connection)[1]}\n")
            show_load(port, process, args.seconds, args.clients)
            show_attacks(port)
            print()
            show_replacement(port, folder, "model replaced 4 times", replace_model, 4)
            show_replacement(port, folder, "model without a column", offer_wrong_model)
            print("\nfrom /metrics:")
            shown = "rows_total", "requests_total", "prediction_sum_total", "batch_rows_count"
            for line in get(port, "/metrics").splitlines():
                if line.startswith(shown):
                    print(f"  {line}")


if __name__ == "__main__":
    main()

"""Test serve.py under load and attacks.

    pip install -e ".[torch,examples,export,serving]"
    KERAS_BACKEND=torch python examples/recommender.py  # writes the folder recommender
    python examples/serving/load_test.py --folder recommender

Takes two minutes on two cores. Starts serve.py, and prints:

- requests per second, latencies and errors of four clients over a minute, and the server's memory
- the latencies of two clients with pauses, without an attack and during attacks: a body of 50 MB,
  300 bodies in chunks of one byte, and 300 half-sent bodies
"""

import argparse
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # the folder of the folder serving

import numpy as np
import psutil
from serving.model_folder import Columns, versions

HEAD = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


# Clients


def ask(port, path, body=None):
    """Return the status and the answer of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    kind = {"content-type": "application/json"}
    connection.request("POST" if body else "GET", path, body, kind)
    response = connection.getresponse()
    return response.status, response.read().decode()


@contextmanager
def clients(port, body, count, pause=0.0):
    """Send requests of one row until the context ends.

    Yields:
        The milliseconds of answers, and all answers. The lists are complete after the context.
    """
    end, times, answers = threading.Event(), [], []

    def send():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while not end.is_set():
            start = time.perf_counter()
            connection.request("POST", "/predict", body, {"content-type": "application/json"})
            response = connection.getresponse()
            answers.append((response.status, response.read()))
            times.append(1000 * (time.perf_counter() - start))
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
    """Return the errors among answers, by status."""
    return dict(Counter(status for status, _ in answers if status != 200)) or "none"


# Attacks


def send_large(port):
    """Send a body of 50 MB, and return the status."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(HEAD + b"content-length: 50000000\r\n\r\n" + bytes(50_000_000))
        return client.recv(12).decode()[-3:]


def send_chunks(port):
    """Send 300 bodies in chunks of one byte, and return the status of the last."""
    for _ in range(300):
        with socket.create_connection(("127.0.0.1", port)) as client:
            with suppress(OSError):  # the server closes the connection
                client.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 9999)
            status = client.recv(12).decode()[-3:]
    return status


def send_halves(port):
    """Send half of each of 300 bodies, and return the status of the first."""
    halves = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
    for client in halves:
        client.sendall(HEAD + b"content-length: 1000\r\n\r\n{")
    return {client.recv(1000).decode()[9:12] for client in halves}.pop()


ATTACKS = {
    "none": lambda port: time.sleep(3) or "none",
    "50 MB": send_large,
    "chunks of one byte": send_chunks,
    "300 half-sent bodies": send_halves,
}


def show_attacks(port, body):
    print("attack                     answer  p50 ms  p99 ms  errors")
    for name, attack in ATTACKS.items():
        with clients(port, body, 2, pause=0.01) as (times, answers):
            time.sleep(0.5)
            times.clear()
            status = attack(port)
            time.sleep(0.5)
        p50, p99 = np.percentile(times, (50, 99))
        print(f"{name:26} {status:6} {p50:7.1f} {p99:7.1f}  {errors(answers)}")


# The test


@contextmanager
def server(folder):
    """Start serve.py. Yields its port and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name("serve.py")
    command = [sys.executable, script, "--folder", folder, "--port", str(port)]
    process = subprocess.Popen(command)
    try:
        for _ in range(600):
            if process.poll() is not None:
                sys.exit(f"The server ended with {process.returncode}")
            with suppress(OSError):
                ask(port, "/health")
                break
            time.sleep(0.1)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def show_load(port, body, process, seconds, count):
    with clients(port, body, count) as (times, answers):
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
    parser.add_argument("--folder", type=Path, required=True, help="written by `publish`")
    parser.add_argument("--seconds", type=int, default=60, help="length of the load; 60")
    parser.add_argument("--clients", type=int, default=4, help="4 by default")
    args = parser.parse_args()
    row = Columns.load(versions(args.folder)[0] / "columns.json").example()
    body = json.dumps({"rows": [row]})
    with server(args.folder) as (port, process):
        print(f"request: {body}\nanswer: {ask(port, '/predict', body)[1]}\n")
        show_load(port, body, process, args.seconds, args.clients)
        show_attacks(port, body)


if __name__ == "__main__":
    main()

"""Processes on this machine instead of a cluster, and their differences from one process."""

import multiprocessing
import signal
import socket
import sys
from multiprocessing import connection

import numpy as np


def free_addresses(count):
    """Return free addresses of this machine."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return [f"127.0.0.1:{port}" for port in ports]


def run_processes(function, arguments):
    """Call a function in new processes, with the arguments of each. If one fails, end the others.

    If this process gets SIGTERM, it ends all. Returns the exit codes, None for those that it ended.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended all processes after SIGTERM."))
    spawn = multiprocessing.get_context("spawn")
    children = [spawn.Process(target=function, args=own, daemon=True) for own in arguments]
    for child in children:
        child.start()
    try:
        running = {child.sentinel: child for child in children}
        while running and not any(child.exitcode for child in children):
            for sentinel in connection.wait(running):
                running.pop(sentinel).join()
        return [child.exitcode for child in children]
    finally:
        for child in children:
            child.kill()  # JAX ignores SIGTERM
            child.join()


def pair_logs(logs, alone):
    """Return the pairs of values of two logs, by kind."""
    pairs = {"losses": [], "metrics": [], "gate statistics": [], "loss weights": []}
    kinds = {"gate": "gate statistics", "loss_weight": "loss weights"}
    for key, values in alone.items():
        kind = "losses" if key.endswith("loss") else "metrics"
        pairs[kinds.get(key.split("/")[0], kind)].append((logs[key], values))
    return pairs


def print_differences(pairs):
    """Print the largest difference in the pairs of each kind."""
    print("largest differences:")
    for kind, of_kind in pairs.items():
        difference = max(np.abs(np.subtract(*pair)).max() for pair in of_kind)
        print(f"  {kind:20} {difference:.1e}")

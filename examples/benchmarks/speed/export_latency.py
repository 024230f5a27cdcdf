"""Measure the latency of ONNX files: a PLE, the same PLE as in other libraries, and a plain chain.

    pip install -e ".[torch,export]"
    KERAS_BACKEND=torch python examples/benchmarks/speed/export_latency.py

Takes two minutes on two cores. The backend of Keras exports three models, and ONNX Runtime runs the
files in turns. They have 8 columns of codes with embeddings of width 16, 4 tasks, 2 + 2 experts
[256, 128], 2 levels, and towers [64]:

    chain    plain Dense layers with the multiply-adds of all experts; not a PLE
    loop     one Dense layer after the other, with stacked outputs
    ours     ple_keras.PLEBlock
    int8     the file of ours, which ONNX Runtime quantized

The script prints the median and the 99th percentile of one call, in milliseconds, with one thread,
and the ratio of the medians to the chain. Then it prints the examples per second if four threads
share a session. On JAX, it needs jax2onnx.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.append(str(Path(__file__).parents[1]))  # folder of the modules that all benchmarks share

try:
    import keras
    import numpy as np
    import onnxruntime
    import onnxruntime.quantization as ort_quantization
    from _cases import Case
    from _models import floor, loop, ours
    from _options import at_least
    from _tables import align_columns
    from _timing import measure_interleaved
    from onnxruntime.quantization.shape_inference import quant_pre_process

    import ple_keras as pk
except ModuleNotFoundError as error:
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    sys.exit(f'{error.name} is not installed. Run: pip install -e ".[{backend},export]"')

CASE = Case(4, (256, 128), 2, 128, 1)
COLUMNS, CODES = 8, 1000
NETWORKS = {"chain": floor, "loop": loop, "ours": ours}
BATCHES = (1, 64, 512)
THREADS = 4
CALLS = {1: 1000, 64: 200, 512: 40}  # of each model, by batch, in every round

Call = Callable[[], Any]


def model_of(network: Callable[[Case], keras.Model], case: Case) -> keras.Model:
    """Return a network that reads the embeddings of columns."""
    keras.utils.set_random_seed(0)
    names = [f"column_{i}" for i in range(COLUMNS)]
    columns = {name: keras.Input((), dtype="int32", name=name) for name in names}
    width = case.features // COLUMNS
    embedded = [keras.layers.Embedding(CODES, width)(codes) for codes in columns.values()]
    return keras.Model(columns, network(case)(keras.layers.Concatenate()(embedded)))


def columns(batch: int) -> dict[str, np.ndarray]:
    """Return random codes of a batch."""
    codes = np.random.default_rng(0).integers(CODES, size=(COLUMNS, batch)).astype("int32")
    return {f"column_{i}": of_column for i, of_column in enumerate(codes)}


class OneBatch(ort_quantization.CalibrationDataReader):
    """The batch from which ONNX Runtime learns the ranges of all tensors."""

    def __init__(self) -> None:
        self.batches = [columns(256)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the batch, and then None."""
        return self.batches.pop() if self.batches else None


def export_files(folder: Path) -> dict[str, Path]:
    """Write the files, and return them by the name of the model."""
    files = {name: folder / f"{name}.onnx" for name in (*NETWORKS, "int8")}
    for name, network in NETWORKS.items():
        pk.export_onnx(model_of(network, CASE), files[name])
    quant_pre_process(files["ours"], files["int8"], skip_symbolic_shape=True)
    unsigned = ort_quantization.QuantType.QUInt8  # faster than signed
    ort_quantization.quantize_static(
        files["int8"], files["int8"], OneBatch(), per_channel=True, activation_type=unsigned
    )
    return files


def open_session(file: Path) -> onnxruntime.InferenceSession:
    """Return a session that computes each call in the caller's thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def time_calls(calls: Mapping[str, Call], count: int, rounds: int) -> dict[str, np.ndarray]:
    """Return the milliseconds of each call, by name, `(rounds, count)`. The names take turns."""
    taken: dict[str, list[list[float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()  # brings its weights to the processor's cache
            times = [time.perf_counter()]
            for _ in range(count):
                call()
                times.append(time.perf_counter())
            taken[name].append(1000 * np.diff(times))
    return {name: np.array(milliseconds) for name, milliseconds in taken.items()}


def share_session(call: Call, pool: ThreadPoolExecutor) -> None:
    """Call from four threads, ten times each, and wait for the answers."""
    for answer in [pool.submit(lambda: [call() for _ in range(10)]) for _ in range(THREADS)]:
        answer.result()


def main(argv: list[str] | None = None) -> None:
    """Export the models, measure the files and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=at_least(1), default=15, help="15 by default")
    rounds = parser.parse_args(argv).rounds
    backend = keras.backend.backend()
    with tempfile.TemporaryDirectory() as folder:
        files = export_files(Path(folder))
        sessions = {name: open_session(file) for name, file in files.items()}
        sizes = ", ".join(f"{name} {file.stat().st_size / 1e3:.0f}" for name, file in files.items())
    print(f"{CASE}, {COLUMNS} columns with embeddings, exported from {backend}")
    print(f"size in KB: {sizes}")
    rows = [
        ["batch", *(f"{name}, ms (99 %)" for name in files)]
        + [f"{name} / chain" for name in files if name != "chain"]
        + [f"{name}, examples/s" for name in files]
    ]
    for batch in BATCHES:
        calls = {
            name: partial(session.run, None, columns(batch)) for name, session in sessions.items()
        }
        rows.append([str(batch), *measure(calls, batch, rounds)])
    print(align_columns(rows))


def measure(calls: Mapping[str, Call], batch: int, rounds: int) -> list[str]:
    """Return the cells of a row of the table."""
    times = time_calls(calls, CALLS[batch], rounds)
    cells = [f"{np.median(ms):.3f} ({np.percentile(ms, 99):.3f})" for ms in times.values()]
    medians = {name: np.median(ms, axis=1) for name, ms in times.items()}
    chain = medians.pop("chain")
    cells += [f"{np.median(of_model / chain):.2f}" for of_model in medians.values()]
    with ThreadPoolExecutor(THREADS) as pool:
        shared = {name: partial(share_session, call, pool) for name, call in calls.items()}
        seconds = measure_interleaved(shared, rounds)
    return cells + [f"{10 * THREADS * batch / np.median(taken):,.0f}" for taken in seconds.values()]


if __name__ == "__main__":
    main()

"""Measure the latency of ONNX files: a PLE, the same PLE as in other libraries, and a plain chain.

    pip install -e ".[torch,export]"
    KERAS_BACKEND=torch python -m examples.benchmarks.export_latency

Keras's backend exports three models, and ONNX Runtime runs the files in turns. They have 8 columns
of codes with embeddings of width 16, 4 tasks, 2 + 2 experts [256, 128], 2 levels, and towers [64]:

    chain    plain Dense layers with the multiply-adds of all experts; not a PLE
    loop     one Dense layer after the other, with stacked outputs
    ours     ple_keras.PLEBlock
    int8     our file, quantized by ONNX Runtime

The script prints the median milliseconds of a call, with one thread, and the median of the ratios
to the chain in the same round. On JAX, it needs jax2onnx.
"""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import onnxruntime.quantization as ort_quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

import ple_keras as pk

from ._step_models import Case, floor, loop, ours
from ._tables import align_columns, make_parser
from ._timing import measure_interleaved, median_ms, median_ratio

CASE = Case(4, (256, 128), 2, 128, 1)
COLUMNS, CODES = 8, 1000
NETWORKS = {"chain": floor, "loop": loop, "ours": ours}
BATCHES = (1, 64, 512)


def model_of(network: Callable[[Case], keras.Model], case: Case) -> keras.Model:
    """Return a network that reads the embeddings of columns."""
    keras.utils.set_random_seed(0)
    names = [f"column_{i}" for i in range(COLUMNS)]
    columns = {name: keras.Input((), dtype="int32", name=name) for name in names}
    width = case.features // COLUMNS
    embedded = [keras.layers.Embedding(CODES, width)(codes) for codes in columns.values()]
    return keras.Model(columns, network(case)(keras.layers.Concatenate()(embedded)))


def columns(batch: int) -> dict[str, np.ndarray]:
    """Return random codes for a batch."""
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Export the models, measure the files and print a table."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="15 by default")
    rounds = parser.parse_args(arguments).rounds
    backend = keras.backend.backend()
    with tempfile.TemporaryDirectory() as folder:
        files = export_files(Path(folder))
        sessions = {name: open_session(file) for name, file in files.items()}
        sizes = ", ".join(f"{name} {file.stat().st_size / 1e3:.0f}" for name, file in files.items())
    print(f"{CASE}, {COLUMNS} columns with embeddings, exported from {backend}")
    print(f"size in KB: {sizes}")
    rows = [["batch", *(cell for name in files for cell in (f"{name}, ms", "of chain"))]]
    for batch in BATCHES:
        x = columns(batch)
        calls = {name: partial(session.run, None, x) for name, session in sessions.items()}
        row = [str(batch)]
        seconds = measure_interleaved(calls, rounds)
        for taken in seconds.values():
            row += [f"{median_ms(taken):.3f}", f"{median_ratio(taken, seconds['chain']):.2f}"]
        rows.append(row)
    print(align_columns(rows))


if __name__ == "__main__":
    main()

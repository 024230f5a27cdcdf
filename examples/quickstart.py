"""Train a PLE with four tasks on random data: a user id and 120 numbers.

    pip install -e ".[jax]"
    KERAS_BACKEND=jax python examples/quickstart.py

Takes half a minute on two cores.
"""

import keras
import numpy as np

import ple_keras as pk

keras.utils.set_random_seed(0)
heads = pk.TaskHeads(
    [
        pk.BinaryHead("click", tower=[64]),
        pk.BinaryHead("purchase", tower=[64], loss_weight=2.0),
        pk.RegressionHead("watch_time", tower=pk.ExpertBlock([64], activation="gelu")),
        pk.MulticlassHead("category", num_classes=12),
    ]
)
ple = pk.PLEBlock(
    num_layers=2,
    outputs=heads,
    expert_block=[256, 128],
    num_task_experts=2,
    num_shared_experts=2,
)
inputs = {
    "user": keras.Input((), dtype="int32", name="user"),
    "numbers": keras.Input((120,), name="numbers"),
}
table = pk.SparseEmbedding(200, 8)  # user ids from 0 to 199
features = keras.layers.Concatenate()([table(inputs["user"]), inputs["numbers"]])
model = pk.MultiTaskModel(inputs, heads(ple(features)))
model.compile(pk.table_optimizer("adam"))

rng = np.random.default_rng(0)
x = {
    "user": rng.integers(0, 200, 4096).astype("int32"),
    "numbers": rng.normal(size=(4096, 120)).astype("float32"),
}
first, second, third, *_ = x["numbers"].T
interest = rng.normal(size=200)[x["user"]]
y = {
    "click": first + interest > 0.5,
    "purchase": first + second > 1.5,
    "watch_time": first - third + 0.5 * interest,
    "category": rng.integers(0, 12, 4096),
}
heads.check_labels(y)
pk.check_inputs(model, x)
history = model.fit(x, y, batch_size=256, epochs=3, validation_split=0.2, verbose=0).history

print("Validation metrics after each epoch:")
for name in ("click_auc", "purchase_auc", "watch_time_rmse", "category_accuracy"):
    print(f"  {name:18}", *(f"{value:.3f}" for value in history[f"val_{name}"]))
print("Shapes of the predictions for three examples:")
three = {name: values[:3] for name, values in x.items()}
for task, prediction in model.predict(three, verbose=0).items():
    print(f"  {task}: {prediction.shape}")

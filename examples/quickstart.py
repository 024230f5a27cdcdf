"""Train a PLE with four tasks on random data: the model of the README.

    pip install -e ".[jax]"
    KERAS_BACKEND=jax python examples/quickstart.py

Takes half a minute on two cores.
"""

import argparse
import os
import sys

try:
    import keras
    import numpy as np

    import ple_keras as pk
except ModuleNotFoundError as error:
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    sys.exit(f'{error.name} is not installed. Run: pip install -e ".[{backend}]"')

argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
).parse_args()

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
inputs = keras.Input((128,))
model = keras.Model(inputs, heads(ple(inputs)))
model.compile("adam", **heads.compile_kwargs())

rng = np.random.default_rng(0)
x = rng.normal(size=(4096, 128)).astype("float32")
y = {
    "click": x[:, 0] > 0.5,
    "purchase": x[:, 0] + x[:, 1] > 1.5,
    "watch_time": x[:, 0] - x[:, 2],
    "category": rng.integers(0, 12, 4096),
}
heads.check_labels(y)
pk.check_inputs(model, x)
history = model.fit(x, y, batch_size=256, epochs=3, validation_split=0.2, verbose=0).history

print("Validation metrics after each epoch:")
for name in ("click_auc", "purchase_auc", "watch_time_rmse", "category_accuracy"):
    print(f"  {name:18}", *(f"{value:.3f}" for value in history[f"val_{name}"]))
print("Shapes of the predictions for three examples:")
for task, prediction in model.predict(x[:3], verbose=0).items():
    print(f"  {task}: {prediction.shape}")
